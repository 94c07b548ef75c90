"""What reaches the terminal: no control characters, no walls of repeated text, and a time left in every stage."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from test_cli import SOURCE, Say, edit, here, say  # noqa: F401  # fixtures

from reinvert.cli import progress, terminal
from reinvert.inversions.base import Progress

CLI = Path(terminal.__file__).parent
EVIL = "\x1b[2Jgone\x07\r\x9b31m\u202etxt"


def test_everything_is_printed_in_one_place():
    for path in sorted(CLI.glob("*.py")):
        if path.name != "terminal.py":
            text = path.read_text()
            assert not re.search(r"(?<![\w.])print\(|(?<!\w)Console\(|std(out|err)\.write", text), path.name


def test_control_characters_are_spelt_out(capsys: pytest.CaptureFixture[str]):
    terminal.say(f"a picture\n{EVIL} café 猫 👩‍🚀")
    out = capsys.readouterr().out
    assert out == "a picture\n\\x1b[2Jgone\\x07\\r\\x9b31m\\u202etxt café 猫 👩‍🚀\n"
    terminal.say("caf\udce9", error=True)
    assert capsys.readouterr().err == "caf\\udce9\n"


def test_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.say("café")
    stream.flush()
    assert stream.buffer.getvalue() == b"caf\\xe9\n"  # type: ignore[attr-defined]


def test_a_table_is_clean_too(capsys: pytest.CaptureFixture[str]):
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(EVIL))
    table.add_column(EVIL)
    table.add_row(Text(EVIL))
    terminal.console(width=120).print(table)
    out = capsys.readouterr().out
    assert "gone" in out
    assert all(sign.isprintable() or sign == "\n" for sign in out)


def test_names_and_prompts_do_not_steer_the_terminal(here: Path, say: Say):  # noqa: F811
    name = "\x1b[2Jcat.png"
    try:
        Path("cat.png").rename(name)
    except OSError:
        pytest.skip("this file system takes no such name")
    Path("mask.png").write_bytes(Path(name).read_bytes()[:50])
    for argv in (
        ("edit", name, "--source", SOURCE, "--target", "a dog"),  # its default output has the name as well
        ("edit", name),
        ("edit", "\x1b[2Jmissing.png", "--source", SOURCE, "--target", "a dog"),
        ("edit", "\x1b[2Jmissing.trajectory.safetensors", "--target", "a dog"),
        ("invert", name, "--source", SOURCE),
        ("reconstruct", name),
        ("draw", "a \x1b[2J on grass"),
        ("\x1b[2J",),
        ("edit", "--\x1b[2J"),
        ("edit", name, "--source", SOURCE, "--target", "a", "--recipe", "\x1b[2J.toml"),
        ("edit", name, "--source", SOURCE, "--target", "a \x1b[2J dog", "--blend", "cat", "\x1b[2Jx", "-o", "x.png"),
    ):
        status, out, err = say(*argv)
        assert (status, out) == (2, ""), argv
        assert err.endswith("\n")
        assert err[:-1].isprintable(), argv
    status, out, _ = say("edit", name, "--source", SOURCE, "--target", "a \x1b[2J dog", "--explain")
    assert status == 0
    assert "\x1b" not in out


LONG = "x" * 5000


@pytest.mark.parametrize(
    "argv",
    [
        (LONG,),
        ("edit", LONG),
        ("edit", f"--{LONG}"),
        ("edit", "cat.png", LONG),
        ("edit", "cat.png", "--fit", LONG),
        ("edit", "cat.png", "--steps", LONG),
        ("edit", "cat.png", "--guidance", LONG),
        edit("--inversion", LONG),
        edit("--editor", LONG),
        edit("--model", LONG),
        edit("--device", LONG),
        edit("--dtype", LONG),
        edit("--recipe", LONG),
        edit("--compare", LONG),
        edit("--blend", LONG, "dog"),
        edit("--boost", LONG),
        edit("--boost", f"{LONG}=2"),
        edit("--mask", LONG),
        edit("-o", LONG),
        edit("-o", f"{LONG}.png"),
        ("methods", LONG),
        ("draw", LONG),
        ("draw", "--scene", LONG),
        ("draw", "--scene", '{"' + LONG + '": 1}'),
        ("draw", "--scene", "[" * 100_000),
        ("draw", "--scene", '{"things": ' * 5000),
        ("demo", "-o", f"{LONG}/x"),
        ("gallery", LONG),
        ("bench", LONG),
        ("instruct", "cat.png", "text", "--editor", LONG),
    ],
    ids=lambda argv: " ".join(str(a)[:20] for a in argv)[-60:],
)
def test_no_refusal_repeats_a_screenful(here: Path, say: Say, argv: tuple[object, ...]):  # noqa: F811
    status, out, err = say(*argv)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert len(err) <= len("reinvert: \n") + 300
    assert not re.search("x{300}", err)


@pytest.mark.parametrize(
    "argv",
    [
        ("edit", "cat.png", "--source", "a \ud800 cat", "--target", "b"),
        ("edit", "cat.png", "--source", SOURCE, "--target", "a \udcff dog"),
        edit("--blend", "cat", "d\ud83dg"),
        edit("--source-without", "\ud800"),
        ("instruct", "cat.png", "turn \udfff"),
        ("draw", "a \ud800 cat"),
    ],
    ids=range(6),
)
def test_half_a_character_is_one_sentence(here: Path, say: Say, argv: tuple[object, ...]):  # noqa: F811
    status, out, err = say(*argv)
    assert (status, out) == (2, "")
    assert "half a character" in err
    assert err[:-1].isprintable()


@pytest.mark.parametrize("device", ["xla", "meta", "hpu", "cuda:x", "cpu:1", "CPU"])
def test_devices_that_there_cannot_be(here: Path, say: Say, device: str):  # noqa: F811
    status, _, err = say(*edit("--device", device))
    assert (status, err) == (2, f"reinvert: there is no device '{device}'; use auto, cpu, cuda, cuda:0 or mps\n")


def test_every_stage_shows_its_own_time_left(monkeypatch: pytest.MonkeyPatch):
    """A clock that a step moves by ten seconds: after half of a stage its other half is left."""
    from rich.progress import Progress as Bars

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = [0.0]
    made = list[Bars]()
    init = Bars.__init__

    def on_a_clock(self: Bars, *columns: object, **more: object) -> None:
        init(self, *columns, get_time=lambda: now[0], auto_refresh=False, **more)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setattr(Bars, "__init__", on_a_clock)
    seen: dict[str, list[float | None]] = {}
    with progress.progress_bar(False) as watch:
        for stage, total, seconds in (("inverting", 4, 10), ("fitting", 8, 5), ("editing", 4, 20), ("editing", 6, 10)):
            for done in range(1, total + 1):
                now[0] += seconds
                watch(Progress(stage, done, total))
                (task,) = made[0].tasks
                assert (task.description, task.completed, task.total) == (stage, done, total)
                left = task.time_remaining
                assert left == (0 if done == total else None if done == 1 else (total - done) * seconds)
                seen.setdefault(stage, []).append(left)
    assert seen["fitting"] == [None, 30, 25, 20, 15, 10, 5, 0]
