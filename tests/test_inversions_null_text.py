"""Null-text inversion against an independent loop, and what section 3 of the methods page promises of it."""

from __future__ import annotations

from itertools import pairwise

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

from reinvert.editors.p2p import P2P
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.null_text import NullText

STEPS = 3
ALIKE = 1e-8
"""Of float64: Adam turns a rounding error of a gradient near 0 into one of the step."""


@pytest.fixture(scope="module")
def source(tiny64, clean) -> Source:
    return Source(tiny64, clean[:1], (SOURCE,), STEPS)


@pytest.fixture(scope="module")
def path(tiny64, clean) -> list[torch.Tensor]:
    return naive.invert(tiny64, clean[:1], SOURCE, STEPS)


@pytest.fixture(scope="module")
def slow(tiny64, path):
    """(phi_s, latents from z*_N on, inner steps taken) of the naive loop."""
    return naive.null_text(tiny64, path, SOURCE, inner=4)


def spent(source: Source, method: NullText):
    before = source.model.tally.copy()
    made = method.invert(source)
    return made, source.model.tally.since(before)


def test_the_learned_embeddings_are_those_of_the_naive_loop(tiny64, source, path, slow) -> None:
    learned, followed, taken = slow
    made, cost = spent(source, NullText(inner=4))
    assert made.null is not None
    assert made.null.tokens.shape == (STEPS, 1, 16, 12)
    assert gap(made.null.tokens[:, 0], torch.stack(learned)) < ALIKE
    assert cost.backwards == sum(taken)
    assert cost.forwards == STEPS + sum(1 + n + 1 for n in taken)
    assert gap(made.path[:, 0], torch.cat(path)) < 1e-9  # the path is the inversion's own
    reconstruction = watch_walk(tiny64, made)
    for s, x in enumerate(reconstruction):
        assert gap(x[0], followed[s + 1]) < ALIKE


@pytest.mark.parametrize("single", [False, True])
def test_the_edit_is_that_of_the_naive_loop(tiny64, source, path, slow, single: bool) -> None:
    learned, *_ = slow
    empty = naive.encode(tiny64, [""])[0]
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], STEPS)
    nulls = [[phi, empty if single else phi] for phi in learned]
    expected = naive.edit(tiny64, path, attention, nulls=nulls)
    made = NullText(inner=4, single_branch=single).invert(source)
    run = watch_walk(tiny64, made, [TARGET], [P2P()])
    assert max(gap(x[:, 0], y) for x, y in zip(run, expected, strict=True)) < ALIKE


def test_shared_and_single_branch_differ_in_the_target_alone(tiny64, source) -> None:
    shared, single = (
        watch_walk(tiny64, NullText(inner=2, single_branch=one).invert(source), [TARGET], [P2P()])[-1]
        for one in (False, True)
    )
    assert gap(shared[0], single[0]) < 1e-9
    assert gap(shared[1], single[1]) > 1e-4


def test_without_attention_rules_the_single_branch_target_is_ddim_s(tiny64, source) -> None:
    nti = watch_walk(tiny64, NullText(inner=2, single_branch=True).invert(source), [TARGET])[-1]
    ddim = watch_walk(tiny64, DDIM().invert(source), [TARGET])[-1]
    assert gap(nti[1], ddim[1]) < 1e-9
    assert gap(nti[0], ddim[0]) > 1e-4


def test_no_inner_steps_are_ddim(tiny64, source) -> None:
    made, cost = spent(source, NullText(inner=0))
    empty = tiny64.encode_text([""]).tokens
    assert made.null is not None
    assert torch.equal(made.null.tokens, empty.expand(STEPS, 1, -1, -1))
    assert cost.backwards == 0
    a = watch_walk(tiny64, made, [TARGET], [P2P()])[-1]
    assert gap(a, watch_walk(tiny64, DDIM().invert(source), [TARGET], [P2P()])[-1]) < 1e-12


def test_the_first_adam_step_moves_every_element_by_the_rate(tiny64, source) -> None:
    made, _ = spent(source, NullText(inner=1))
    assert made.null is not None
    phi = [tiny64.encode_text([""]).tokens, *made.null.tokens]
    for s in range(STEPS):
        rate = 0.01 * (1 - s / 100)
        moved = (phi[s + 1] - phi[s]).abs()
        # |g| / (|g| + 1e-8) of the rate: all of it unless the gradient is tiny
        assert moved.max() <= rate + 1e-12
        assert moved.median() > 0.9 * rate


def test_ten_steps_stay_within_adam_s_worst_case(tiny64, source) -> None:
    made, _ = spent(source, NullText())
    assert made.null is not None
    phi = [tiny64.encode_text([""]).tokens, *made.null.tokens]
    for s in range(STEPS):
        assert (phi[s + 1] - phi[s]).abs().max() <= 10 * 3.2 * 0.01 * (1 - s / 100)


def test_it_stops_early_after_at_least_one_step(source) -> None:
    for threshold, inner in ((1e9, 1), (0.0, 10)):
        _, cost = spent(source, NullText(early_stop=threshold, early_stop_slope=0.0))
        assert cost.backwards == STEPS * inner


def test_the_threshold_grows_with_the_step(source) -> None:
    """With a slope so steep that only step 0 is above it, step 0 alone takes all its steps."""
    _, cost = spent(source, NullText(inner=5, early_stop=0.0, early_stop_slope=1e9))
    assert cost.backwards == 5 + (STEPS - 1)


@pytest.mark.slow
def test_learning_brings_the_source_nearer_to_the_path(tiny64, source) -> None:
    goal = DDIM().invert(source).path
    errors = []
    for inner in (0, 2, 10):
        walked = watch_walk(tiny64, NullText(inner=inner).invert(source))
        errors.append([(x[0] - goal[STEPS - 1 - s]).square().mean().item() for s, x in enumerate(walked)])
    for fewer, more in pairwise(errors):
        assert all(b < a for a, b in zip(fewer, more, strict=True))


def test_nothing_but_the_embedding_gets_a_gradient(tiny64, source) -> None:
    NullText(inner=1).invert(source)
    for network in (tiny64.unet, tiny64.vae, tiny64.text_encoder):
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_cases_of_a_batch_stop_each_on_their_own(tiny64, clean) -> None:
    alone = [
        spent(Source(tiny64, clean[i : i + 1], (prompt,), 2), NullText(inner=4))
        for i, prompt in enumerate((SOURCE, TARGET))
    ]
    together, cost = spent(Source(tiny64, clean, (SOURCE, TARGET), 2), NullText(inner=4))
    assert together.null is not None
    for i, (one, _) in enumerate(alone):
        assert one.null is not None
        assert gap(together.null.tokens[:, i], one.null.tokens[:, 0]) < ALIKE
    assert cost.backwards == sum(c.backwards for _, c in alone)
    assert cost.forwards == sum(c.forwards for _, c in alone)


def test_at_guidance_one_there_is_nothing_to_learn(tiny64, clean) -> None:
    source = Source(tiny64, clean[:1], (SOURCE,), 2, guidance=1.0)
    made, cost = spent(source, NullText())
    assert cost.backwards == 0
    assert cost.forwards == 2 + 2
    ddim = watch_walk(tiny64, DDIM().invert(source), guidance=1.0)
    assert gap(watch_walk(tiny64, made, guidance=1.0)[-1], ddim[-1]) < 1e-9
