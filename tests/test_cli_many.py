"""`reinvert edit` of several pictures: named, in a folder, or in a list."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import make_picture
from test_cli import SOURCE, TARGET, Say, here, say  # noqa: F401  # fixtures

from reinvert.backbones import loading
from reinvert.errors import ReinvertError
from reinvert.files.edits import EditLine, read_edits

COMMON = ("--source", SOURCE, "--target", TARGET, "--steps", 1)


@pytest.fixture
def loads(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:  # noqa: F811
    """Three pictures, and what is loaded while they are edited."""
    for index, name in enumerate(("a.png", "b.jpg", "c.webp")):
        make_picture(index).save(name)
    from reinvert import backbones

    loaded = list[object]()

    def load(*args: object, **more: object) -> object:
        loaded.append(args[0])
        return loading.load(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(backbones, "load", load)
    return loaded


def test_several_pictures_load_one_model(loads: list[object], say: Say):  # noqa: F811
    status, out, err = say("edit", "a.png", "b.jpg", "c.webp", *COMMON, "-o", "new/out")
    assert status == 0
    assert loads == ["picturebook"]
    assert out == "".join(f"{Path('new/out') / name}.edit.png\n" for name in "abc")
    told = [line for line in err.splitlines() if "drawn world" not in line]
    assert told == [f"[{i}/3] {name}: edited" for i, name in enumerate(("a.png", "b.jpg", "c.webp"), 1)]
    assert say("edit", "b.jpg", *COMMON, "-o", "one.png")[0] == 0
    assert Path("new/out/b.edit.png").read_bytes() == Path("one.png").read_bytes()


def test_options_may_stand_before_the_pictures(loads: list[object], say: Say):  # noqa: F811
    assert say("edit", *COMMON, "-o", "out", "a.png", "b.jpg")[1].count("\n") == 2


def test_a_run_goes_on_where_it_stopped(loads: list[object], say: Say):  # noqa: F811
    argv = ("edit", "a.png", "b.jpg", *COMMON, "-o", "out")
    assert say(*argv)[0] == 0
    before = {p.name: p.stat().st_mtime_ns for p in Path("out").iterdir()}
    loads.clear()
    status, out, err = say(*argv, "--quiet")
    assert (status, out, err) == (0, "out/a.edit.png\nout/b.edit.png\n", "")
    assert loads == []  # nothing was left to do
    assert {p.name: p.stat().st_mtime_ns for p in Path("out").iterdir()} == before

    Path("out/a.edit.png").unlink()
    make_picture(7).save("b.jpg")  # another picture of the same name
    assert re.findall(r"\] (\S+): (.*)", say(*argv)[2]) == [("a.png", "edited"), ("b.jpg", "edited")]
    assert re.findall(r"\] (\S+): (.*)", say(*argv)[2]) == [("a.png", "there already"), ("b.jpg", "there already")]
    assert "there already" not in say(*argv, "--strength", "0.5")[2]  # other settings


def test_a_folder_and_what_lies_in_it(loads: list[object], say: Say):  # noqa: F811
    Path("in").mkdir()
    for name in ("a.png", "b.jpg"):
        Path(name).rename(Path("in") / name)
    for name in (".hidden.png", "notes.txt", "a.png.json"):
        (Path("in") / name).write_text("{}")
    (Path("in") / "deeper").mkdir()
    for _ in range(2):  # the second time its own results lie there too
        status, out, _ = say("edit", "in", *COMMON, "-o", "in")
        assert (status, out) == (0, "in/a.edit.png\nin/b.edit.png\n")
    Path("empty").mkdir()
    status, out, err = say("edit", "empty", *COMMON, "-o", "out")
    assert (status, out) == (2, "")
    assert "no picture in empty" in err


def test_failures_are_told_and_passed_over(loads: list[object], say: Say):  # noqa: F811
    Path("bad.png").write_text("no picture")
    status, out, err = say("edit", "bad.png", "missing.png", "a.png", *COMMON, "-o", "out")
    assert status == 2
    assert out == "out/a.edit.png\n"
    lines = [line for line in err.splitlines() if "drawn world" not in line]
    assert re.match(r"\[1/3\] bad\.png: .*not an image", lines[0])
    assert re.match(r"\[2/3\] missing\.png: .*does not exist|\[2/3\] missing\.png: No such file", lines[1])
    assert lines[2] == "[3/3] a.png: edited"
    assert lines[3] == "reinvert: 2 of 3 pictures failed; the others are in out"
    assert sorted(p.name for p in Path("out").iterdir()) == ["a.edit.png", "a.edit.png.json"]


def test_a_bug_ends_the_run(loads: list[object], say: Say, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    from reinvert import verbs

    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(verbs, "edit", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        say("edit", "a.png", "b.jpg", *COMMON, "-o", "out")


def test_pictures_of_one_name_have_results_of_their_own(loads: list[object], say: Say):  # noqa: F811
    for folder in ("x", "y"):
        Path(folder).mkdir()
        make_picture(ord(folder)).save(f"{folder}/cat.png")
    argv = ("edit", "x/cat.png", "y/cat.png", *COMMON, "-o", "out")
    status, out, _ = say(*argv)
    assert status == 0
    names = out.splitlines()
    assert len(set(names)) == 2
    assert Path(names[0]).read_bytes() != Path(names[1]).read_bytes()
    assert say(*argv)[1] == out


def test_several_targets_of_several_pictures(loads: list[object], say: Say):  # noqa: F811
    status, out, _ = say("edit", "a.png", "b.jpg", *COMMON, "--target", "a bird on a table", "-o", "out")
    assert status == 0
    assert [Path(p).name for p in out.split()] == [f"{n}.edit-{i}.png" for n in "ab" for i in (1, 2)]


LIST = """image,source,target,blend_source,blend_target,mask,output
a.png,a cat sitting on a table,a dog sitting on a table,cat,dog,,first.png
b.jpg,"a cat, on a table","a dog, on a table",,,white.png,
b.jpg,"a cat, on a table",a bird on a table,,,,
missing.png,a cat,a dog,,,,
../outside.png,a cat,a dog,,,,
a.png,a cat,,,,,
a.png,a cat,a dog,cat,,,
"""


def test_a_list(loads: list[object], say: Say):  # noqa: F811
    Path("data").mkdir()
    for name in ("a.png", "b.jpg"):
        Path(name).rename(Path("data") / name)
    make_picture(5).save("outside.png")
    from PIL import Image

    Image.new("L", Image.open("data/b.jpg").size, 255).save("data/white.png")
    Path("data/edits.csv").write_text(LIST)
    status, out, err = say("edit", "--list", "data/edits.csv", "--steps", 1, "-o", "out")
    assert status == 2
    made = [Path(p).name for p in out.split()]
    assert made[0] == "first.png"
    assert len(set(made)) == 3
    assert all(re.fullmatch(r"b-[0-9a-f]{8}\.edit\.png", name) for name in made[1:])
    told = json.loads(Path("out/first.png.json").read_text())
    assert told["settings"]["editors"][1]["source_words"] == ["cat"]
    assert json.loads((Path("out") / f"{made[1]}.json").read_text())["mask"]["file"] == "data/white.png"
    for line, said in (
        (5, "its image missing.png does not exist"),
        (6, "it leads out of the folder"),
        (7, "has no target"),
        (8, "one blend word"),
    ):
        assert re.search(rf"data/edits\.csv line {line}.*{said}", err), (line, err)
    assert "4 of 7 pictures failed" in err
    assert len(loads) == 1
    assert "there already" in say("edit", "--list", "data/edits.csv", "--steps", 1, "-o", "out")[2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no column image"),
        (b"image,target\n", "no line below"),
        (b"picture,target\na,b\n", "no column image"),
        (b"image,target\n\xff,b\n", "not UTF-8"),
        (b'image,target\n"a,b\n', "not a CSV file"),
        (b"image,target\n\x00,b\n", "line 2"),
    ],
)
def test_a_file_that_is_no_list(tmp_path: Path, text: bytes, said: str):
    (tmp_path / "edits.csv").write_bytes(text)
    try:
        ((_, found),) = read_edits(tmp_path / "edits.csv")
    except ReinvertError as error:
        found = error
    assert isinstance(found, ReinvertError)
    assert said in str(found)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.png,a,b,c", "more cells"),
        ("/etc/passwd,a,b", "leads out"),
        ("link.png,a,b", "outside of the folder"),
        ("a.png,a,b\x1b[2J", "control character"),
        (f"a.png,{'x' * 3000},b", "characters"),
    ],
)
def test_a_line_that_cannot_be_used(tmp_path: Path, row: str, said: str):
    make_picture(0).save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    (tmp_path / "edits.csv").write_text(f"image,source,target\n{row}\na.png,a cat,a dog\n")
    (_, bad), (name, good) = read_edits(tmp_path / "edits.csv")
    assert isinstance(bad, ReinvertError)
    assert said in str(bad)
    assert str(bad).isprintable()
    assert name.endswith("edits.csv line 3")
    assert good == EditLine(image="a.png", source="a cat", target="a dog")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("a.png", "b.jpg", *COMMON), "with -o"),
        (("a.png", "b.jpg", "--source", SOURCE, "-o", "out"), "--target"),
        (("a.png", "b.jpg", *COMMON, "-o", "cat.png"), "is a file"),
        (("a.png", "b.jpg", *COMMON, "-o", "out", "--compare", "direct"), "one picture at a time"),
        (("a.png", "b.jpg", *COMMON, "-o", "out", "--explain"), "one picture at a time"),
        (("--list", "missing.csv", "-o", "out"), "does not exist"),
        (("--list", "a.png", "-o", "out"), "not UTF-8"),
        (("--list", "a.csv", "--target", "b", "-o", "out"), "line by line"),
        (("a.png", "b.jpg", *COMMON, "-o", "out", "--inversion", "dirct"), "did you mean direct"),
        (("a.png", "b.jpg", *COMMON, "-o", "out", "--device", "xla"), "no device"),
    ],
)
def test_wrong_calls_compute_nothing(loads: list[object], say: Say, argv: tuple[object, ...], said: str):  # noqa: F811
    Path("a.csv").write_text("image,target\na.png,b\n")
    status, out, err = say("edit", *argv)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert loads == []
    assert not Path("out").exists()


def test_the_page_of_the_format_names_every_column():
    page = (Path(__file__).parents[1] / "docs" / "files.md").read_text()
    section = page.split("## A list of edits")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.M)
    assert rows == [name for name in EditLine.model_fields]
