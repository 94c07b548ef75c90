"""Blended latent diffusion: the recorded run, the corrected form against a textbook loop, masks of all and none."""

from __future__ import annotations

from dataclasses import replace

import naive
import numpy as np
import pytest
import torch
from conftest import SOURCE, TARGET, gap, relative_l2, watch_walk
from PIL import Image

import reinvert
from reinvert import recipes
from reinvert.editors.base import cells
from reinvert.editors.blended_latent import BlendedLatent
from reinvert.errors import ReinvertError
from reinvert.image import open_image, open_mask, to_tensor
from reinvert.inversions.base import Source
from reinvert.inversions.none import Nothing

STEPS = 5


@pytest.mark.slow
def test_the_published_form_reproduces_the_recorded_run(parity_model, recorded, recorded_json) -> None:
    from conftest import PARITY

    entry = recorded_json["entries"]["p1_bld"]
    clean = parity_model.encode(to_tensor([open_image(PARITY / "inputs" / "img1_512.png")]))
    path = Nothing().invert(Source(parity_model, clean, (SOURCE,), entry["N"]))
    mask = recorded["p1_bld.latent_mask"].float().view(1, 1, 64, 64)
    editor = BlendedLatent(compat="published", skip=0.25)
    walked = watch_walk(parity_model, path, [entry["prompt"]], [editor], mask=mask, seed=1234)
    assert len(walked) == 8
    assert relative_l2(walked[-1][1], recorded["p1_bld.final"]) < 1e-4  # recorded.json, tolerances


@pytest.mark.slow
def test_the_recipe_reproduces_the_recorded_run(parity_model, recorded, recorded_json) -> None:
    """With the picture and the mask as a benchmark hands them over: nothing of the run is told to the test."""
    from conftest import PARITY

    entry = recorded_json["entries"]["p1_bld"]
    recipe = replace(recipes.find("blended-latent-diffusion"), steps=entry["N"])
    path = recipe.invert(parity_model, [open_image(PARITY / "inputs" / "img1_512.png")], [SOURCE])
    mask = open_mask(PARITY / "inputs" / "mask1_512.png")
    (result,) = recipe.edit(parity_model, path, [entry["prompt"]], [None], [mask])
    assert relative_l2(result.latents[1:], recorded["p1_bld.final"]) < 1e-4  # recorded.json, tolerances


def test_the_published_cells_of_a_mask(recorded) -> None:
    """The pixel in the middle of a cell, as the recorded run took it; by any pixel of a cell there are more."""
    from conftest import PARITY

    pixels = torch.from_numpy(np.asarray(open_mask(PARITY / "inputs" / "mask1_512.png"), dtype=np.float32) / 255)
    published = recorded["p1_bld.latent_mask"].float().view(1, 1, 64, 64)
    assert torch.equal(cells(pixels[None, None].round(), (64, 64), "nearest"), published)
    touched = cells(pixels[None, None].round(), (64, 64))
    assert bool((touched >= published).all())
    assert touched.sum() > published.sum()


def test_the_rule_of_cells_decides_what_is_redrawn(tiny, picture) -> None:
    """Row 16 of the pixels is the first of its cell, the one that a cell of two pixels is not judged by."""
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 16, 32, 17))
    given = {"source": SOURCE, "target": TARGET, "editor": "blended_latent", "mask": mask, "steps": STEPS}
    clean = tiny.encode(to_tensor([picture]))[0]
    touched = reinvert.edit(tiny, picture, **given).latents[1]
    assert gap(touched[:, 8], clean[:, 8]) > 1e-2
    assert torch.equal(touched[:, 9:], clean[:, 9:])
    assert torch.equal(reinvert.edit(tiny, picture, mask_cells="nearest", **given).latents[1], clean)


def halves() -> Image.Image:
    mask = Image.new("L", (32, 32))
    mask.paste(255, (16, 0, 32, 32))
    return mask


def textbook(model, clean: torch.Tensor, mask: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)

    def noised(a: float) -> torch.Tensor:
        return a**0.5 * clean + (1 - a) ** 0.5 * torch.randn(clean.shape, generator=generator)

    times = naive.times(STEPS)[int(STEPS * 0.25) :]
    said, empty = naive.encode(model, [TARGET]), naive.encode(model, [""])
    x = noised(naive.abar(times[0]))
    for i, t in enumerate(times):
        x = naive.guided_step(model, x, t, empty, said, 7.5, STEPS)
        around = noised(naive.abar(times[i + 1])) if i + 1 < len(times) else clean
        x = mask * x + (1 - mask) * around
    return x


def test_the_corrected_form_is_the_textbook_loop(tiny, picture) -> None:
    result = reinvert.edit(
        tiny, picture, source=SOURCE, target=TARGET, editor="blended_latent", mask=halves(), steps=STEPS, seed=5
    )
    clean = tiny.encode(to_tensor([picture]))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    assert gap(result.latents[1], textbook(tiny, clean, mask, 5)[0]) < 2e-4  # float32, four guided steps
    # outside the mask the picture is itself, to the bit
    assert torch.equal(result.latents[1][:, :, :8], clean[0][:, :, :8])
    assert (result.forwards, result.backwards) == (2 * 4, 0)


def test_published_with_an_empty_mask_is_the_background_at_the_last_time(tiny, picture) -> None:
    result = reinvert.edit(
        tiny, picture, source=SOURCE, target=TARGET, editor="blended_latent", mask=Image.new("L", (32, 32)),
        steps=STEPS, seed=5, compat="published",
    )  # fmt: skip
    clean, generator = tiny.encode(to_tensor([picture]))[0], torch.Generator().manual_seed(5)
    drawn = [torch.randn(1, *clean.shape, generator=generator)[0] for _ in range(5)]
    a = naive.abar(0)  # time 0 on the published grid
    assert gap(result.latents[1], a**0.5 * clean + (1 - a) ** 0.5 * drawn[4]) < 1e-6


def test_without_a_mask_it_is_refused_before_anything_is_computed(tiny, picture) -> None:
    before = tiny.tally.copy()
    with pytest.raises(ReinvertError, match="needs a mask"):
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor="blended_latent", steps=STEPS)
    assert tiny.tally.since(before).forwards == 0
