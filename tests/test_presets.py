"""Presets: the kind of an edit is read off its prompts, and the recipe is found that the data file names."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_picture

from reinvert import presets, recipes
from reinvert.bench.data import fixed
from reinvert.cli import main
from reinvert.cli.job import open_job
from reinvert.cli.program import build_parser
from reinvert.errors import ReinvertError

TYPES = {
    1: "object", 2: "add", 3: "delete", 4: "object", 5: "pose", 6: "color", 7: "material", 8: "background", 9: "style",
}  # fmt: skip


@pytest.mark.parametrize("name", fixed.SETS)
def test_kinds_of_the_fixed_sets(name: str) -> None:
    typed = [edit for _, edit in fixed.edits_of(name) if edit.type_id]
    wrong = [e for e in typed if presets.kind_of(e.source_prompt, e.target_prompt) != TYPES[e.type_id]]
    assert not wrong


@pytest.mark.parametrize(
    ("source", "target", "kind"),
    [
        ("a cat on a bench", "a dog on a bench", "object"),
        ("a cat sitting on a bench", "a cat standing on a bench", "pose"),
        ("a cat on a bench", "a cat on a beach", "background"),
        ("a cat on a bench", "a watercolor painting of a cat on a bench", "style"),
        ("a cat", "a black cat", "color"),
        ("a cat on a bench", "a cat wearing a hat on a bench", "add"),
        ("a cat and a dog", "a cat", "delete"),
        ("a cat", "a cat", "object"),
        ("", "a cat", "add"),
    ],
)
def test_kinds_of_what_people_write(source: str, target: str, kind: str) -> None:
    assert presets.kind_of(source, target) == kind


def test_every_preset_names_recipes_that_there_are() -> None:
    assert presets.names() == ("auto", "fast")
    for name in presets.names():
        for source, target in (("a cat facing left", "a cat facing right"), ("a cat", "a dog")):
            chosen = presets.choose(name, source, target)
            assert not recipes.find(chosen.recipe).trained
            assert chosen.steps > 0
    assert presets.choose("auto", "a cat facing left", "a cat facing right").kind == "pose"
    with pytest.raises(ReinvertError, match="did you mean"):
        presets.choose("fats", "a cat", "a dog")


def job(tmp_path: Path, *more: str):
    make_picture(0).save(tmp_path / "cat.png")
    argv = ["edit", str(tmp_path / "cat.png"), "--source", "a cat facing left", *more, "--preset", "auto"]
    args = build_parser("edit").parse_args(argv)
    args.image = args.images[0]
    return open_job(args, lambda *_: pytest.fail("picturebook's usual methods are known without loading it"))


def test_the_command_takes_its_settings(tmp_path: Path) -> None:
    made = job(tmp_path, "--target", "a cat facing right")
    chosen = presets.choose("auto", "a cat facing left", "a cat facing right")
    assert made.recipe is not None
    assert made.recipe.name == chosen.recipe
    assert (made.args.steps, made.args.guidance, made.args.model) == (chosen.steps, chosen.guidance, "picturebook")
    typed = job(tmp_path, "--target", "a cat facing right", "--steps", "7")
    assert (typed.args.steps, typed.args.guidance) == (7, chosen.guidance)


def test_what_does_not_go_together_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_picture(0).save(tmp_path / "cat.png")
    start = ["edit", str(tmp_path / "cat.png"), "--source", "a cat facing left", "--preset", "auto"]
    for more, said in (
        (["--target", "a dog", "--editor", "p2p"], "leave --editor or --preset out"),
        (["--target", "a dog facing left", "--target", "a cat facing right"], "edit them one by one"),
        (["--target", "a dog", "--recipe", "sdedit"], "leave --recipe or --preset out"),
    ):
        assert main([*start, *more]) == 2
        assert said in capsys.readouterr().err
