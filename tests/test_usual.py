"""What is usual for a model where the user names nothing: told by its files without torch, by the model itself, and
done by verbs and command line alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import parity_flow
import pytest
from PIL import Image

import reinvert
from reinvert import cli, models
from reinvert.backbones import families
from reinvert.cli import common
from reinvert.errors import ReinvertError
from reinvert.legal import usual_inversion
from reinvert.models import Usual, usual_of

SOURCE, TARGET = "a cat sitting on a table", "a dog sitting on a table"
FLUX = "tiny-random-flux-dev"


@pytest.mark.parametrize("name", [*families.families()])
def test_the_usual_methods_of_each_family_run_on_it(name: str) -> None:
    model = families.families()[name].tiny()
    usual = model.usual
    assert (usual.editor, usual.inversion) == (("flowedit" if model.flow else "p2p"), "direct")
    picture = Image.new("RGB", (model.image_size, model.image_size), "red")
    result = reinvert.edit(model, picture, source=SOURCE, target=TARGET, steps=2)
    assert [editor["name"] for editor in result.settings["editors"]] == [usual.editor]
    assert result.settings["inversion"]["name"] == usual_inversion([usual.editor], usual.inversion)
    again = reinvert.reconstruct(model, picture, SOURCE, steps=2)
    assert again.settings["inversion"]["name"] == usual.inversion


def test_what_a_model_states_is_what_is_done(tiny, picture) -> None:
    model = tiny
    usual = model.usual
    try:
        model.usual = replace(usual, editor="prompt", inversion="ddim")
        settings = reinvert.edit(model, picture, source=SOURCE, target=TARGET, steps=2).settings
        assert (settings["inversion"]["name"], settings["editors"][0]["name"]) == ("ddim", "prompt")
        assert reinvert.invert(model, picture, SOURCE, steps=2).inversion == "ddim"
        own = reinvert.edit(model, picture, source=SOURCE, target=TARGET, steps=2, editor="sdedit").settings
        assert own["inversion"]["name"] == "none"  # the editor's own comes first
    finally:
        model.usual = usual
    with pytest.raises(ReinvertError, match="target prompt"):
        reinvert.edit(model, picture, source=SOURCE, target=())


def test_a_model_of_few_steps_is_edited_in_few() -> None:
    """Prompt-to-Prompt shares attention for shares of many steps, and DDIM's inversion drifts in four."""
    turbo = models.stable_diffusion_xl(
        {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    )
    model = families.families()["stable_diffusion_xl"].tiny()
    model.usual = turbo
    picture = Image.new("RGB", (model.image_size, model.image_size), "red")
    result = reinvert.edit(model, picture, source=SOURCE, target=TARGET)
    assert [editor["name"] for editor in result.settings["editors"]] == ["turbo_edit"]
    assert result.settings["inversion"]["name"] == "none"
    assert result.forwards == 3 * 4


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "sd35", "flux-dev", "flux-schnell"])
def test_files_tell_what_the_loaded_model_does(kind: str) -> None:
    name = f"tiny-random-{kind}"
    assert usual_of(str(parity_flow.folder(name))) == parity_flow.load(name).usual


def test_notes_change_numbers_and_leave_the_methods(tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    folder.mkdir()
    for part in parity_flow.folder(FLUX).iterdir():
        (folder / part.name).symlink_to(part)
    (folder / "reinvert.json").write_text(json.dumps({"usual": {"steps": 9, "guidance": 2.0}}))
    assert usual_of(str(folder)) == reinvert.load(str(folder), "cpu").usual == Usual(9, 2.0, "flowedit")
    (folder / "reinvert.json").write_text("[")
    assert usual_of(str(folder)) is None
    assert usual_of("org/never-loaded") is None


def test_a_model_of_the_hub_that_is_here_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    index = parity_flow.folder(FLUX) / "model_index.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: str(index))
    assert usual_of("org/flux") == models.USUAL["FLUX.1 dev"]


@pytest.mark.parametrize("known", [True, False])
def test_a_plain_command_takes_the_usual_editor(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no file tells it: the model is then loaded first."""
    folder, output = str(parity_flow.folder("tiny-random-sd3")), tmp_path / "dog.png"
    if not known:
        monkeypatch.setattr("reinvert.cli.job.usual_of", lambda name: None)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "cat.png")
    given = ["edit", str(tmp_path / "cat.png"), "--source", SOURCE, "--target", TARGET, "--model", folder]
    assert cli.main([*given, "--device", "cpu", "--steps", "2", "-o", str(output), "--quiet"]) == 0
    settings = json.loads((tmp_path / "dog.png.json").read_text())["settings"]
    assert settings["editors"][0]["name"] == "flowedit"
    assert settings["inversion"]["name"] == "none"


def test_help_says_what_is_usual(capsys: pytest.CaptureFixture[str]) -> None:
    told = [("picturebook's usual: p2p", "picturebook's usual: direct"), ("the model's usual: flowedit", "usual: 28")]
    for model, words in zip(("picturebook", str(parity_flow.folder(FLUX))), told, strict=True):
        assert cli.main(["edit", "--model", model, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert all(word in text for word in words), text
    assert cli.main(["methods"]) == 0
    assert "guidance 3.5, flowedit" in capsys.readouterr().out
    assert common.DEFAULT_MODEL == "picturebook"
