"""Every method runs on a network in half precision; the walk's own arithmetic stays in float32 or wider."""

from __future__ import annotations

import pytest
import torch
from conftest import SOURCE, TARGET, load_tiny, make_picture
from test_matrix import half_mask
from test_method_laws import CHEAP, EDITORS, GIVEN, WITH_NOISE

import reinvert
from reinvert import registry, verbs

COMBINATIONS = [
    *((name, "p2p") for name in WITH_NOISE),
    *((verbs.usual_inversion([registry.find("editors", name)]), name) for name in EDITORS),
]


@pytest.fixture(scope="module", params=[torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)], ids=str)
def half(request, tiny_folder):
    return load_tiny(tiny_folder, request.param)


@pytest.mark.parametrize(("inversion", "editor"), COMBINATIONS)
def test_every_method_runs_in_half_precision(half, inversion: str, editor: str) -> None:
    method = registry.make("editors", editor, GIVEN.get(editor))
    result = reinvert.edit(
        half, make_picture(0), source=SOURCE, target=TARGET, steps=2, guidance=3.0,
        inversion=registry.make("inversions", inversion, CHEAP.get(inversion)), editor=[method],
        mask=half_mask() if method.needs_mask else None,
    )  # fmt: skip
    assert result.latents.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(result.latents).all()
