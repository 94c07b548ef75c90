"""`reinvert instruct` and `reinvert edit --recipe`, run as the program is, on tiny models and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import SOURCE, TARGET, make_picture
from PIL import Image
from test_trained import build

from reinvert import cli


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_picture(0).save("cat.png")
    return tmp_path


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return build(tmp_path_factory.mktemp("trained") / "eight", tiny_folder, 8)


def test_an_instruction_is_followed(here: Path, eight: Path, capsys) -> None:
    said = ["instruct", "cat.png", "make it a dog", "--model", str(eight), "--steps", "3", "-o", "dog.png"]
    assert cli.main([*said, "--recipe", "instruct-pix2pix"]) == 0
    about = json.loads(Path("dog.png.json").read_text())
    assert about["forwards"] == 9
    assert about["settings"]["trained"]["text_guidance"] == 7.5
    assert capsys.readouterr().out.strip() == "dog.png"
    first = Path("dog.png").read_bytes()
    assert cli.main([*said, "--recipe", "instruct-pix2pix"]) == 0
    assert Path("dog.png").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["instruct", "cat.png", "a dog", "--editor", "inpainting"], "needs a mask"),
        (["instruct", "cat.png", "a dog", "--editor", "instruct_diffusion"], "no model to fall back on"),
        (["instruct", "cat.png", "a dog", "--model", "picturebook"], "8"),
        (["instruct", "cat.png", "a dog", "--recipe", "ddim+p2p"], "reinvert edit"),
        (["instruct", "cat.png", "a dog", "--recipe", "instruct-pix2pix", "--editor", "inpainting"], "leave"),
        (["edit", "cat.png", "--target", "a dog", "--recipe", "instruct-pix2pix"], "reinvert instruct"),
        (["edit", "cat.png", "--target", "a dog", "--recipe", "directinversion"], "did you mean"),
        (["edit", "cat.png", "--target", "a dog", "--recipe", "ddim+p2p", "--editor", "p2p"], "leave --editor"),
        (["edit", "cat.png", "--target", "a dog", "--recipe", "mine.toml"], "does not exist"),
    ],
)
def test_wrong_input_is_one_sentence(here: Path, capsys, arguments: list[str], sentence: str) -> None:
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_a_recipe_settles_what_is_not_typed(here: Path, tiny_folder: Path) -> None:
    edit = ["edit", "cat.png", "--source", SOURCE, "--target", TARGET, "--model", str(tiny_folder), "-o", "out.png"]
    recipe = ["--recipe", "ablation_directinversion_04+p2p", "--steps", "4"]
    assert cli.main([*edit, *recipe, "--blend", "cat", "dog", "--cross", "0.6"]) == 0
    settings = json.loads(Path("out.png.json").read_text())["settings"]
    assert settings["inversion"]["strength"] == 0.4
    assert (settings["steps"], settings["guidance"], settings["seed"]) == (4, 7.5, 1234)
    p2p, blend = settings["editors"]
    assert p2p["cross"] == 0.6  # typed
    assert p2p["boost"] == {"dog": 2.0}  # the recipe's, on the blend word
    assert blend["source_words"] == ["cat"]


def test_a_recipe_of_ones_own(here: Path, tiny_folder: Path) -> None:
    Path("mine.toml").write_text('base = "ddim+p2p"\nabout = "mine"\nsteps = 3\n[inversion]\nname = "direct"\n')
    edit = ["edit", "cat.png", "--source", SOURCE, "--target", TARGET, "--model", str(tiny_folder), "-o", "out.png"]
    assert cli.main([*edit, "--recipe", "mine.toml"]) == 0
    settings = json.loads(Path("out.png.json").read_text())["settings"]
    assert (settings["inversion"]["name"], settings["steps"]) == ("direct", 3)
    for text, sentence in (
        ("base = 3 =", "TOML"), ('model = "x"', "inversion"), ('base = "ddim+p2p"\nguidence = 3.0', "guidance"),
        ('base = "mine.toml"', "built on itself"), ('base = "ddim+p2p"\n[editors.sdedit]\n', "noise of"),
    ):  # fmt: skip
        Path("mine.toml").write_text(text)
        assert cli.main([*edit, "--recipe", "mine.toml"]) == 2, (text, sentence)


def test_the_matrix_and_the_recipes_are_listed(capsys) -> None:
    assert cli.main(["methods", "--matrix"]) == 0
    told = capsys.readouterr().out
    assert "direct " in told
    assert "begins from noise of its own" in told
    assert cli.main(["methods", "--matrix", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["direct"]["p2p"] is None
    assert table["none"]["sdedit"] is None
    assert "noise" in table["ddim"]["sdedit"]
    assert cli.main(["methods", "--recipes"]) == 0
    assert "directinversion+p2p" in capsys.readouterr().out


def test_a_small_gallery(here: Path) -> None:
    assert cli.main(["gallery", "sdedit", "--steps", "2", "--cell", "64", "-o", "sheet.png", "--quiet"]) == 0
    assert Image.open("sheet.png").size[0] > 640
    assert [row["method"] for row in json.loads(Path("sheet.png.json").read_text())["rows"]] == ["sdedit"]
