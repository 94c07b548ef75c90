"""InfEdit against its paper's algorithm written out, its invariants and its cost."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

import reinvert
from reinvert.editors.infedit import InfEdit
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor
from reinvert.inversions.base import Source
from reinvert.inversions.none import Nothing

STEPS, SEED = 6, 4
EXACT = 1e-8
"""float64; a consistency step forgets the latent's own rounding but not that of the prediction."""


@pytest.fixture(scope="module")
def picture_only(tiny64, clean) -> reinvert.Trajectory:
    return Nothing().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))


def virtual_inversion(
    model, z0: torch.Tensor, *, walked: int = STEPS, prompts=(SOURCE, TARGET), scales=(1.0, 7.5), attention=None
) -> list[torch.Tensor]:
    """Algorithm 2 of the paper: the target's clean prediction after every step. z0 is [1, channel, h, w]."""
    generator = torch.Generator().manual_seed(SEED)
    noises = [torch.randn(z0.shape, generator=generator).to(z0) for _ in range(walked)][::-1]
    said, empty = naive.encode(model, list(prompts)), naive.encode(model, [""]).expand(len(prompts), -1, -1)
    w = torch.tensor(scales, dtype=z0.dtype).view(-1, 1, 1, 1)
    clean, out = None, []
    processors = dict(model.unet.attn_processors)
    if attention is not None:
        model.unet.set_attn_processor({name: naive.FullMaps(name, attention) for name in processors})
    try:
        for i, t in enumerate(naive.times(STEPS)[STEPS - walked :]):
            a, n = naive.abar(t), noises[i]
            source = math.sqrt(a) * z0 + math.sqrt(1 - a) * n
            target = source if clean is None else math.sqrt(a) * clean + math.sqrt(1 - a) * n
            x = torch.cat([source, target])
            if attention is not None:
                attention.step = i
            null, text = naive.ask(model, torch.cat([x, x]), t, torch.cat([empty, said])).chunk(2)
            e_source, e_target = (null + w * (text - null)).split(1)
            consistent = (source - math.sqrt(a) * z0) / math.sqrt(1 - a)
            e = e_target - e_source + consistent
            clean = (target - math.sqrt(1 - a) * e) / math.sqrt(a)
            out.append(clean)
    finally:
        model.unet.set_attn_processor(processors)
    return out


@pytest.mark.parametrize(
    ("editor", "slow"),
    [
        (InfEdit(), {}),
        (InfEdit(strength=0.5), {"walked": 3}),
        (InfEdit(source_guidance=3.0), {"scales": (3.0, 7.5)}),
    ],
)
def test_it_is_the_algorithm_of_the_paper(tiny64, clean, picture_only, editor, slow) -> None:
    walked = watch_walk(tiny64, picture_only, [TARGET], [editor], seed=SEED)
    expected = virtual_inversion(tiny64, clean[:1], **slow)
    assert len(walked) == len(expected)
    assert gap(walked[-1][1], expected[-1]) < EXACT
    # on the way the latents are the clean prediction, noised to the level that the step has reached
    times = naive.times(STEPS)[STEPS - len(walked) :]
    for x, y, s in zip(walked, expected, times[1:], strict=False):
        a = naive.abar(s)
        noise = (x[0] - math.sqrt(a) * clean[:1]) / math.sqrt(1 - a)
        assert gap(x[1], math.sqrt(a) * y + math.sqrt(1 - a) * noise) < EXACT


def test_unified_control_is_a_composition(tiny64, clean, picture_only) -> None:
    walked = watch_walk(tiny64, picture_only, [TARGET], [P2P(), InfEdit()], seed=SEED)
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], STEPS)
    assert gap(walked[-1][1], virtual_inversion(tiny64, clean[:1], attention=attention)[-1]) < EXACT
    plain = watch_walk(tiny64, picture_only, [TARGET], [InfEdit()], seed=SEED)
    assert gap(walked[-1][1], plain[-1][1]) > 1e-2


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_the_source_prompt_is_no_edit(tiny64, clean, picture_only, guidance: float) -> None:
    editor = InfEdit(source_guidance=guidance)
    for x in watch_walk(tiny64, picture_only, [SOURCE], [editor], guidance, seed=SEED):
        assert gap(x[1], x[0]) < 1e-12
    assert torch.equal(x[0], clean[:1])
    assert gap(x[1], clean[:1]) < 1e-12


def test_the_source_row_ends_at_the_picture(tiny, picture) -> None:
    for editor in ("infedit", "p2p+infedit"):
        result = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor=editor, steps=STEPS)
        assert torch.equal(result.latents[0], tiny.encode(to_tensor([picture]))[0])


def test_levels_are_noised_afresh(tiny64, clean, picture_only) -> None:
    walked = watch_walk(tiny64, picture_only, [TARGET], [InfEdit()], seed=SEED)
    noises = []
    for x, t in zip(walked[:-1], naive.times(STEPS)[1:], strict=True):
        a = naive.abar(t)
        noises.append(((x[0] - math.sqrt(a) * clean[:1]) / math.sqrt(1 - a)).flatten())
    correlated = torch.corrcoef(torch.stack(noises)) - torch.eye(STEPS - 1).double()
    assert correlated.abs().max() < 5 / math.sqrt(noises[0].numel())  # five standard deviations of independent draws


def test_the_seed_decides(tiny64, picture_only) -> None:
    one, again, other = (watch_walk(tiny64, picture_only, [TARGET], [InfEdit()], seed=s)[-1] for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert gap(one[1], other[1]) > 1e-3


def test_cases_and_targets_together_are_those_alone(tiny64, clean) -> None:
    prompts, targets = (SOURCE, "a big cat on the table"), (TARGET, "a big dog on the table")
    both = Nothing().invert(Source(tiny64, clean, prompts, 3))
    together = watch_walk(tiny64, both, [targets, prompts], [P2P(), InfEdit()], seed=SEED)[-1]
    for i in range(2):
        one = watch_walk(tiny64, both.case(i), [targets[i]], [P2P(), InfEdit()], seed=SEED)[-1]
        assert gap(together[:2, i], one[:, 0]) < EXACT


@pytest.mark.parametrize(
    ("arguments", "a_step"),
    [({}, 3), ({"source_guidance": 7.5}, 4), ({"guidance": 1.0}, 2), ({"editor": "p2p+infedit"}, 3)],
)
def test_forwards(tiny, picture, arguments: dict, a_step: int) -> None:
    """The source's text row and both sides of the target, nothing before the edit; strength 0.5 walks 3 of 6 steps."""
    common = {"source": SOURCE, "target": TARGET, "editor": "infedit", "steps": STEPS, "strength": 0.5}
    result = reinvert.edit(tiny, picture, **(common | arguments))
    assert (result.forwards, result.backwards) == (3 * a_step, 0)


def test_it_wants_no_inversion(tiny, picture) -> None:
    before = tiny.tally.copy()
    for wrong in ("ddim", "edit_friendly"):
        with pytest.raises(ReinvertError, match="noise of its own"):
            reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor="infedit", inversion=wrong, steps=STEPS)
    assert tiny.tally == before
    with pytest.raises(ReinvertError, match="strength is a share"):
        InfEdit(strength=0.0)
