"""Every method runs on a network in half precision; the walk's own arithmetic stays in float32 or wider."""

from __future__ import annotations

import pytest
import torch
from conftest import SOURCE, TARGET, load_tiny, make_picture
from test_matrix import half_mask
from test_method_laws import CHEAP, EDITORS, GIVEN, WITH_NOISE

import reinvert
from reinvert import registry, verbs
from reinvert.backbones.loading import pick_dtype
from reinvert.cli import main
from reinvert.errors import ReinvertWarning
from reinvert.request import Request

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


def test_methods_that_take_gradients_say_so() -> None:
    """Every method whose inversion or edit walks backwards, and no other: `load` asks it for a precision."""
    said = {
        (group, name)
        for group in ("inversions", "editors")
        for name in registry.names(group)
        if registry.find(group, name).takes_gradients
    }
    learning = {("inversions", name) for name in ("null_text", "style_diffusion", "text_embedding")}
    assert said == {*learning, ("editors", "pix2pix_zero")}


@pytest.mark.parametrize(
    ("device", "half", "gradients", "taken"),
    [
        ("cuda", torch.float16, False, torch.float16),
        ("cuda", torch.float16, True, torch.float32),
        ("cuda", torch.bfloat16, True, torch.bfloat16),
        ("cpu", torch.float16, True, torch.float32),
    ],
)
def test_no_gradient_is_taken_in_float16_unasked(device, half, gradients, taken) -> None:
    assert pick_dtype("auto", torch.device(device), half, gradients) == taken
    assert pick_dtype("float16", torch.device(device), half, gradients) == torch.float16


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["edit", "--target", TARGET], False),
        (["edit", "--target", TARGET, "--inversion", "null_text"], True),
        (["edit", "--target", TARGET, "--inversion", "ddim", "--editor", "pix2pix_zero"], True),
        (["edit", "--target", TARGET, "--compare", "direct", "null_text"], True),
        (["invert", "--inversion", "style_diffusion"], True),
        (["reconstruct", "--inversion", "text_embedding"], True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_command_line_loads_a_model_for_its_methods(tiny_folder, tmp_path, monkeypatch, words, wanted) -> None:
    class Stop(Exception):
        pass

    def load(*args: object, gradients: bool, **more: object) -> None:
        assert gradients == wanted
        raise Stop

    make_picture(0).save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reinvert.backbones.load", load)
    verb, *rest = words
    with pytest.raises(Stop):
        main([verb, "in.png", "--source", SOURCE, "--model", str(tiny_folder), *rest])


def test_a_network_in_float16_is_no_place_to_learn(tiny_folder, picture) -> None:
    model = load_tiny(tiny_folder, torch.float16)
    with pytest.warns(ReinvertWarning, match="null_text takes gradients"):
        Request.of(model, picture, SOURCE, inversion="null_text", arguments={}, steps=2)
