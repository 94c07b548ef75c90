"""Command lines, names and links as an attacker or an accident makes them: one sentence, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_picture

from reinvert import cli


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_picture(0).save("cat.png")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence by which a command line is refused."""
    assert cli.main(list(words)) == 2, words
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("reinvert: "), err
    assert err.endswith("\n")
    assert err[:-1].isprintable(), err
    return err[10:-1]


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "check", "~no-such-user/x"),
        ("bench", "make", "~no-such-user/x"),
        ("bench", "run", "--data", "~no-such-user/x", "--out", "out"),
    ],
)
def test_a_home_of_nobody(here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    sentence = refused(capsys, *words)
    assert sentence == "~no-such-user/x is in the home of a user that there is not; write the path out"


def test_links_in_a_ring(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result replaces such a link, as any other; a folder cannot be made there."""
    for name in ("ring", "ring.png"):
        (here / name).symlink_to(name)
    assert "ring.png" in refused(capsys, "edit", "ring.png", "--source", "a cat", "--target", "a dog")
    assert "ring" in refused(capsys, "bench", "make", "ring")
    assert "ring" in refused(capsys, "bench", "status", "ring")
    assert "ring" in refused(capsys, "bench", "check", "ring")
    assert cli.main(["draw", "a red cat", "-o", "ring.png"]) == 0
    assert not (here / "ring.png").is_symlink()
