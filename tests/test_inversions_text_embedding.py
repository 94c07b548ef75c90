"""Text-embedding inversion against an independent loop: the learned prompt is the source's alone."""

from __future__ import annotations

import naive
import pytest
import torch
import torch.nn.functional as F
from conftest import SOURCE, TARGET, gap, watch_walk

import reinvert
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.text_embedding import TextEmbedding
from reinvert.trajectory import Trajectory

STEPS = 3
ALIKE = 1e-8
"""Of float64: Adam turns a rounding error of a gradient near 0 into one of the step."""


@pytest.fixture(scope="module")
def source(tiny64, clean) -> Source:
    return Source(tiny64, clean[:1], (SOURCE,), STEPS)


def slow(model, path: list[torch.Tensor], w: float, inner: int):
    """(c_s, latents from z*_N on, inner steps taken), written from the formula."""
    steps, null = len(path) - 1, naive.encode(model, [""])
    c = naive.encode(model, [SOURCE])
    z, learned, followed, taken = path[-1], [], [], []
    for s, t in enumerate(naive.times(steps)):
        a, b = naive.coefficients(t, steps)
        c = c.detach().clone().requires_grad_(True)
        adam = torch.optim.Adam([c], lr=0.01 * (1 - s / 100))
        e_u = naive.ask(model, z, t, null)
        count = 0
        for _ in range(inner):
            e_c = naive.noise(model, z, t, c.to(z))
            loss = F.mse_loss(a * z + b * (e_u + w * (e_c - e_u)), path[steps - s - 1])
            adam.zero_grad()
            loss.backward()
            adam.step()
            count += 1
            if loss.item() < 1e-5 + 2e-5 * s:
                break
        c = c.detach()
        z = a * z + b * (e_u + w * (naive.ask(model, z, t, c.to(z)) - e_u))
        learned.append(c[0])
        followed.append(z)
        taken.append(count)
    return learned, followed, taken


@pytest.fixture(scope="module")
def made(source) -> tuple[Trajectory, reinvert.backbones.base.Tally]:
    before = source.model.tally.copy()
    trajectory = TextEmbedding(inner=4).invert(source)
    return trajectory, source.model.tally.since(before)


def test_it_is_the_naive_loop(tiny64, clean, made) -> None:
    path = naive.invert(tiny64, clean[:1], SOURCE, STEPS)
    learned, followed, taken = slow(tiny64, path, 7.5, 4)
    trajectory, cost = made
    assert trajectory.kept["text"].shape == (STEPS, 1, 16, 12)
    assert gap(trajectory.kept["text"][:, 0], torch.stack(learned)) < ALIKE
    assert gap(trajectory.kept["text"][0], tiny64.encode_text([SOURCE]).tokens) > 1e-2  # it did learn
    assert cost.backwards == sum(taken)
    assert cost.forwards == STEPS + sum(1 + n + 1 for n in taken)
    for s, x in enumerate(watch_walk(tiny64, trajectory)):
        assert gap(x[0], followed[s]) < ALIKE


def test_only_the_source_hears_it(tiny64, source, made) -> None:
    trajectory, _ = made
    ddim = watch_walk(tiny64, DDIM().invert(source), [TARGET])[-1]
    learned = watch_walk(tiny64, trajectory, [TARGET])[-1]
    assert gap(learned[1], ddim[1]) < 1e-9  # no rule: the target knows nothing of it
    assert gap(learned[0], ddim[0]) > 1e-4
    followed = watch_walk(tiny64, trajectory, [TARGET], [P2P()])[-1]
    assert gap(followed[0], learned[0]) < 1e-9
    assert gap(followed[1], watch_walk(tiny64, DDIM().invert(source), [TARGET], [P2P()])[-1][1]) > 1e-4


@pytest.mark.slow
def test_learning_brings_the_source_nearer_to_the_path(tiny64, source) -> None:
    goal, errors = DDIM().invert(source).path, []
    for inner in (0, 3, 10):
        walked = watch_walk(tiny64, TextEmbedding(inner=inner).invert(source))
        errors.append(sum((x[0] - goal[STEPS - 1 - s]).square().mean().item() for s, x in enumerate(walked)))
    assert errors[2] < errors[1] < errors[0]


def test_no_inner_steps_are_ddim(tiny64, source) -> None:
    a, b = (watch_walk(tiny64, m.invert(source), [TARGET], [P2P()])[-1] for m in (TextEmbedding(inner=0), DDIM()))
    assert gap(a, b) < 1e-12


@pytest.mark.parametrize(("guidance", "backwards", "forwards"), [(1.0, 4, 2 + 2 * 3), (0.0, 0, 2 + 2)])
def test_rows_that_a_scale_makes_superfluous(tiny64, clean, guidance: float, backwards: int, forwards: int) -> None:
    """At 1 the null side is not heard and not evaluated; at 0 there is nothing to learn."""
    before = tiny64.tally.copy()
    source = Source(tiny64, clean[:1], (SOURCE,), 2, guidance=guidance)
    trajectory = TextEmbedding(inner=2, early_stop=0.0, early_stop_slope=0.0).invert(source)
    spent = tiny64.tally.since(before)
    assert (spent.backwards, spent.forwards) == (backwards, forwards)
    assert bool(watch_walk(tiny64, trajectory, guidance=guidance)[-1].isfinite().all())


def test_cases_of_a_batch_learn_each_on_their_own(tiny64, clean) -> None:
    both = TextEmbedding(inner=3).invert(Source(tiny64, clean, (SOURCE, TARGET), 2))
    for i, prompt in enumerate((SOURCE, TARGET)):
        alone = TextEmbedding(inner=3).invert(Source(tiny64, clean[i : i + 1], (prompt,), 2))
        assert gap(both.kept["text"][:, i], alone.kept["text"][:, 0]) < ALIKE
        assert torch.equal(both.case(i).kept["text"][:, 0], both.kept["text"][:, i])


def test_a_saved_file_gives_the_same_edit(tiny, picture, tmp_path) -> None:
    inverted = reinvert.invert(tiny, picture, SOURCE, inversion="text_embedding", steps=2, inner=2)
    inverted.save(tmp_path / "a.trajectory.safetensors")
    loaded = Trajectory.load(tmp_path / "a.trajectory.safetensors")
    assert loaded.guidance == 7.5
    a, b = (reinvert.edit(tiny, t, target=TARGET).latents for t in (inverted, loaded))
    assert torch.equal(a, b)
    with pytest.raises(ReinvertError, match=r"fitted to guidance 7\.5"):
        reinvert.edit(tiny, loaded, target=TARGET, guidance=3.0)
    with pytest.raises(ReinvertError, match="cannot be begun later"):
        loaded.later(1, tiny)
