"""SDEdit against textbook guided sampling, its invariants and its cost."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap

import reinvert
from reinvert.editors.sdedit import SDEdit
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor

STEPS = 5


def textbook(model, clean: torch.Tensor, prompt: str, strength: float, seed: int, guidance: float) -> torch.Tensor:
    """Noise, then guided DDIM, written out; clean is [1, channel, h, w]."""
    times = naive.times(STEPS)[STEPS - int(STEPS * strength) :]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
    a = naive.abar(times[0])
    x = a**0.5 * clean + (1 - a) ** 0.5 * noise
    said, empty = naive.encode(model, [prompt]), naive.encode(model, [""])
    for t in times:
        x = naive.guided_step(model, x, t, empty, said, guidance, STEPS)
    return x


@pytest.mark.parametrize("strength", [0.4, 0.8, 1.0])
def test_it_is_guided_sampling_from_the_noised_picture(tiny, picture, strength: float) -> None:
    result = reinvert.edit(
        tiny, picture, source=SOURCE, target=TARGET, editor="sdedit", steps=STEPS, seed=7, strength=strength
    )
    clean = tiny.encode(to_tensor([picture]))
    wanted = textbook(tiny, clean, TARGET, strength, 7, 7.5)
    # float32: five guided steps multiply a rounding error of 1e-7 by some hundreds
    assert gap(result.latents[1], wanted[0]) < 2e-4
    assert torch.equal(result.latents[0], clean[0])
    assert (result.forwards, result.backwards) == (2 * int(STEPS * strength), 0)


def test_strength_zero_is_the_vae_round_trip(tiny, picture) -> None:
    result = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor="sdedit", steps=STEPS, strength=0.0)
    assert torch.equal(result.latents[1], tiny.encode(to_tensor([picture]))[0])
    assert result.forwards == 0


def test_another_seed_is_another_picture_and_the_same_is_the_same(tiny, picture) -> None:
    def made(seed: int) -> torch.Tensor:
        return reinvert.edit(
            tiny, picture, source=SOURCE, target=TARGET, editor="sdedit", steps=STEPS, seed=seed
        ).latents

    assert torch.equal(made(1), made(1))
    assert gap(made(1)[1], made(2)[1]) > 1e-2


def test_it_wants_no_inversion(tiny, picture) -> None:
    before = tiny.tally.copy()
    with pytest.raises(ReinvertError, match="noise of its own"):
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor="sdedit", inversion="ddim", steps=STEPS)
    assert tiny.tally.since(before).forwards == 0
    with pytest.raises(ReinvertError, match="between 0 and 1"):
        SDEdit(strength=1.5)
