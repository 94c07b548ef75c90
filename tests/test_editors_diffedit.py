"""DiffEdit: its mask against a naive one, its invariants, its cost."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk
from PIL import Image

import reinvert
from reinvert.editors.base import Case
from reinvert.editors.diffedit import DiffEdit, _DiffEditHooks
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM

STEPS = 10


def naive_mask(model, clean: torch.Tensor, source: str, target: str, seed: int, maps: int, guidance: float):
    """With guidance, as diffusers does it: the null side cancels, up to the scale that the threshold does not see."""
    generator = torch.Generator().manual_seed(seed)
    t = naive.times(STEPS)[STEPS - int(0.5 * STEPS)]
    said = [naive.encode(model, [p]) for p in (source, target, "")]
    total = torch.zeros(clean.shape[-2:])
    for _ in range(maps):
        drawn = torch.randn(clean.shape, generator=generator).to(clean)
        z = naive.abar(t) ** 0.5 * clean + (1 - naive.abar(t)) ** 0.5 * drawn
        one, two, null = (naive.ask(model, z, t, words) for words in said)
        total = total + ((null + guidance * (two - null)) - (null + guidance * (one - null))).abs().mean((0, 1))
    m = total / maps
    return m, m > 1.5 * m.mean()


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_the_mask_is_the_naive_one_whatever_the_guidance(tiny, picture, guidance: float) -> None:
    clean = tiny.encode(to_tensor([picture]))
    case = Case(tiny, (SOURCE,), ((TARGET,),), STEPS, clean[None], seed=3, grid_steps=STEPS)
    found = _DiffEditHooks(DiffEdit(maps=4), case).estimated_mask()
    m, wanted = naive_mask(tiny, clean, SOURCE, TARGET, 3, 4, guidance)
    assert 0 < wanted.float().mean() < 1
    # cells whose map lies on the threshold itself may fall on either side
    clear = (m / (1.5 * m.mean()) - 1).abs() > 1e-4
    assert torch.equal(found[0, 0, 0].bool()[clear], wanted[clear])


def test_the_edit_is_the_background_outside_and_plain_guidance_inside(tiny64, clean) -> None:
    path = DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    walked = watch_walk(tiny64, path, [TARGET], [DiffEdit(maps=4)], seed=3)
    assert len(walked) == 8
    case = Case(tiny64, (SOURCE,), ((TARGET,),), STEPS, path.path, seed=3, grid_steps=STEPS)
    mask = _DiffEditHooks(DiffEdit(maps=4), case).estimated_mask()[0]
    x = path.path[8].clone()
    said, empty = naive.encode(tiny64, [TARGET]), naive.encode(tiny64, [""])
    for i, t in enumerate(naive.times(STEPS)[2:]):
        x = naive.guided_step(tiny64, x, t, empty, said, 7.5, STEPS)
        x = mask * x + (1 - mask) * path.path[7 - i]
        assert gap(walked[i][1], x) < 1e-9
    published = watch_walk(tiny64, path, [TARGET], [DiffEdit(maps=4, compat="published")], seed=3)[-1]
    outside = (1 - mask).bool().expand_as(published[1])
    assert torch.equal(published[1][outside], path.path[1][outside])  # the first inverted latent, not the picture's


def test_equal_prompts_leave_the_picture_alone(tiny, picture) -> None:
    result = reinvert.edit(tiny, picture, source=SOURCE, target=SOURCE, editor="diffedit", steps=STEPS, maps=2)
    assert torch.equal(result.latents[1], tiny.encode(to_tensor([picture]))[0])


def test_what_is_needed_is_evaluated_and_no_more(tiny, picture) -> None:
    result = reinvert.edit(
        tiny, picture, source=SOURCE, target=TARGET, editor="diffedit", inversion="ddim", depth=0.8, steps=STEPS
    )
    assert result.forwards == 8 + 20 + 2 * 8  # inversion, two predictions of ten maps, both sides of the target
    masked = reinvert.edit(
        tiny, picture, source=SOURCE, target=TARGET, editor="diffedit", inversion="ddim", depth=0.8, steps=STEPS,
        mask=Image.new("L", (32, 32), 255),
    )  # fmt: skip
    assert masked.forwards == 8 + 2 * 8


def test_wrong_settings_are_said_in_a_sentence() -> None:
    with pytest.raises(ReinvertError, match="shares"):
        DiffEdit(strength=0.0)
    with pytest.raises(ReinvertError, match="maps"):
        DiffEdit(maps=0)
