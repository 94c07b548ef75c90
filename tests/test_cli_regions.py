"""`--region` and `--source auto` on the command line: the edit that `--mask` with the same region makes, and what the
sidecar tells of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import reinvert
from reinvert.cli import main
from reinvert.image import save_image

CAPTION, TARGET = "a red cat on grass", "a blue cat on grass"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_image(reinvert.draw(CAPTION, seed=1), tmp_path / "cat.png")
    return tmp_path


def edit(*more: str, source: str = CAPTION) -> int:
    return main(["edit", "cat.png", "--source", source, "--target", TARGET, "--steps", "2", "--quiet", *more])


def test_a_region_is_a_mask_that_words_give_and_the_caption_is_told(here: Path, capsys: pytest.CaptureFixture[str]):
    assert edit("--region", "the cat", "-o", "a.png", source="auto") == 0
    said = capsys.readouterr()
    caption = reinvert.caption("cat.png")
    assert caption.startswith("a red cat facing ")
    assert f"cat.png shows: {caption}" in said.err
    assert said.out == "a.png\n"
    told = json.loads(Path("a.png.json").read_text())
    assert told["input"]["captioned_by"] == "picturebook"
    assert told["settings"]["source"] == caption
    assert told["mask"]["region"] == "the cat"
    assert told["mask"]["model"] == "picturebook"
    assert 0.05 < told["mask"]["share"] < 0.5
    save_image(reinvert.region("cat.png", "the cat").convert("RGB"), "mask.png")
    assert edit("--mask", "mask.png", "-o", "b.png", source=caption) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert "captioned_by" not in json.loads(Path("b.png.json").read_text())["input"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--region", "the boat"), "nothing in this picture is called 'the boat'; it shows a red cat"),
        (("--region", "the cat", "--mask", "cat.png"), "leave --region or --mask out"),
        (("--region", "the cat", "--region-model", "nowhere/at/all"), "there is no nowhere/at/all"),
        (
            ("--list", "some.csv", "--region", "the cat"),
            "--list says target, blend words, mask and region line by line",
        ),
    ],
)
def test_wrong_regions_write_nothing(here: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str):
    assert edit(*more, "-o", "out.png") == 2
    assert said in capsys.readouterr().err
    assert not Path("out.png").exists()
    assert not list(here.glob("*.json"))


def test_a_preset_wants_the_source_in_words(here: Path, capsys: pytest.CaptureFixture[str]):
    assert edit("--preset", "auto", source="auto") == 2
    assert "write --source" in capsys.readouterr().err
