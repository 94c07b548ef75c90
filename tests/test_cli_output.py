"""What the command line writes: names of sidecars, what they must not replace, and all of a call's files or none."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from test_cli import SOURCE, Say, edit, here, say  # noqa: F401  # fixtures

from reinvert.errors import ReinvertError
from reinvert.image import write_together
from reinvert.outputs import check_outputs, read_sidecar, sidecar_of, write_picture

SUFFIXES = (".png", ".jpg")


def test_pictures_of_one_stem_have_sidecars_of_their_own(tmp_path: Path):
    picture = Image.new("RGB", (4, 4))
    for name in ("a.png", "a.jpg"):
        write_picture(picture, tmp_path / name, {"of": name, "versions": {}})
    for name in ("a.png", "a.jpg"):
        told = read_sidecar(tmp_path / name)
        assert told is not None
        assert told["of"] == name
    assert sidecar_of(Path("x/notes.png")) == Path("x/notes.png.json")


def test_a_users_own_json_is_never_replaced(here: Path, say: Say):  # noqa: F811
    owned = {"package.json": '{"name": "mine"}', "cat.json": '{"caption": "a cat"}', "cat.png.json": "[1, 2]"}
    for name, text in owned.items():
        Path(name).write_text(text)
    assert say("draw", "a cat on grass", "-o", "package.png", "--size", 32)[0] == 0
    status, out, err = say("draw", "a cat on grass", "-o", "cat.png", "--size", 32)
    assert (status, out) == (2, "")
    assert "cat.png.json was not written by reinvert" in err
    assert {name: Path(name).read_text() for name in owned} == owned
    assert say("draw", "a dog on grass", "-o", "package.png", "--size", 32)[0] == 0  # its own sidecar is
    assert json.loads(Path("package.png.json").read_text())["caption"] == "a dog on grass"


@pytest.mark.parametrize("name", ["caf\udce9.png", "two\nlines.png", "\x1b[2J.png", "x" * 251 + ".png"])
def test_names_that_no_sidecar_can_tell_are_refused_before_anything_is_computed(
    here: Path,  # noqa: F811
    say: Say,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
):
    from reinvert import verbs

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was computed")

    monkeypatch.setattr(verbs, "edit", fail)
    status, out, err = say(*edit("-o", name))
    assert (status, out) == (2, "")
    assert "choose another" in err
    assert err.count("\n") == 1
    assert err[:-1].isprintable()


def test_a_picture_whose_name_is_not_utf8_can_be_edited(here: Path, say: Say):  # noqa: F811
    name = os.fsdecode(b"caf\xe9.png")
    try:
        Path("cat.png").rename(name)
    except OSError:
        pytest.skip("this file system takes no such name")
    argv = ("edit", name, "--source", SOURCE, "--target", "a dog", "--steps", 1)
    assert "choose another name with -o" in say(*argv)[2]
    assert say(*argv, "-o", "dog.png")[:2] == (0, "dog.png\n")
    told = json.loads(Path("dog.png.json").read_text())
    assert told["input"]["file"] == "caf\\udce9.png"


def full(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_all_of_a_call_or_nothing(
    here: Path,  # noqa: F811
    say: Say,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    Path("out-1.png").write_bytes(b"older")
    Path("out-1.png.json").write_text('{"output": "out-1.png", "versions": {}}')
    before = {p.name: p.read_bytes() for p in here.iterdir()}
    kept = Image.Image.save
    saved = list[Path]()

    def second_fails(self: Image.Image, path: Path, **more: object) -> None:
        saved.append(path)
        kept(self, path, **more)
        if len(saved) == 2:
            full()

    monkeypatch.setattr(Image.Image, "save", second_fails)
    status, out, err = say(*edit("--target", "a bird sitting on a table", "-o", "out.png"))
    assert len(saved) == 2
    assert (status, out) == (2, "")
    assert "out-2.png cannot be written (No space left on device)" in err
    assert err.count("reinvert: ") == 1 + ("drawn world" in err)
    assert {p.name: p.read_bytes() for p in here.iterdir()} == before


@pytest.mark.parametrize("which", ["trajectory", "sidecar"])
def test_a_trajectory_on_a_full_disk(
    here: Path,  # noqa: F811
    say: Say,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    which: str,
):
    from safetensors import SafetensorError

    from reinvert import trajectory

    def no_room(*args: object, **kwargs: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    if which == "trajectory":
        monkeypatch.setattr(trajectory, "save_file", no_room)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    status, out, err = say("invert", "cat.png", "--source", SOURCE, "--steps", 1)
    assert (status, out) == (2, "")
    assert "No space left" in err
    assert "Traceback" not in err
    assert [p.name for p in here.iterdir()] == ["cat.png"]


def test_files_appear_together(tmp_path: Path):
    def text(words: str) -> Callable[[Path], None]:
        return lambda draft: [draft.write_text(words), None][1]

    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    write_together({one: text("1"), two: text("2")})
    assert (one.read_text(), two.read_text()) == ("1", "2")
    with pytest.raises(ReinvertError, match=r"three\.txt cannot be written"):
        write_together({one: text("changed"), tmp_path / "three.txt": full})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.txt", "two.txt"]
    assert one.read_text() == "1"


def test_check_outputs_takes_an_older_result(tmp_path: Path):
    write_picture(Image.new("RGB", (4, 4)), tmp_path / "a.png", {"versions": {}})
    check_outputs([tmp_path / "a.png"], [], SUFFIXES)
    (tmp_path / "a.png.json").write_text("{")
    with pytest.raises(ReinvertError, match="not written by reinvert"):
        check_outputs([tmp_path / "a.png"], [], SUFFIXES)
