"""Records, pictures and claims of a run: what a kill may tear, and what two processes may want at once."""

from __future__ import annotations

import ast
import errno
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_picture
from PIL import Image

from reinvert.bench import records as records_module
from reinvert.bench.records import (
    Claims,
    Record,
    Records,
    is_running,
    read_about,
    running,
    write_about,
    write_image,
)
from reinvert.errors import ReinvertError


def record(key: str, error: str = "", **more: object) -> Record:
    return Record(key, f"case {key}", "1", "p2p", "edit", {"seed": 1}, "f", None if error else "a.png", error, **more)


def forked(body: Callable[[], None]) -> int:
    """Run `body` in a child of this process; its id."""
    child = os.fork()
    if child == 0:
        try:
            body()
        finally:
            os._exit(0)
    return child


def ended(child: int) -> int:
    """The exit status of a child, once it has one."""
    return os.waitpid(child, 0)[1]


def lines(folder: Path) -> list[str]:
    return (folder / "records.jsonl").read_text().splitlines()


# --- records -----------------------------------------------------------------------------------------------------


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.refresh() == {}
    records.append([record("a", seconds=1.5, memory=3), record("b", "out of memory")])
    records.append([])
    found = Records(tmp_path).refresh()
    assert list(found) == ["a", "b"]
    assert len(lines(tmp_path)) == 2
    assert found["a"] == json.loads(json.dumps(record("a", seconds=1.5, memory=3).told))
    assert found["b"]["error"] == "out of memory"
    assert found["b"]["image"] is None


def test_another_process_s_records_are_seen(tmp_path: Path) -> None:
    mine, other = Records(tmp_path), Records(tmp_path)
    mine.append([record("a")])
    assert set(other.refresh()) == {"a"}
    mine.append([record("b")])
    assert set(other.refresh()) == {"a", "b"} == set(mine.refresh())


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_line_torn_anywhere_is_ignored_and_ended(tmp_path: Path, end: str) -> None:
    """Cut the last of two lines at every byte: what is before and after it is read, and it alone is lost."""
    whole = json.dumps(record("b", note := "é").told, ensure_ascii=False).encode()
    assert note.encode() in whole  # cuts within a character too
    for cut in range(1, len(whole)):
        folder = tmp_path / f"{cut}"
        folder.mkdir()
        Records(folder).append([record("a")])
        with (folder / "records.jsonl").open("ab") as file:
            file.write(whole[:cut] + end.encode())
        reader = Records(folder)
        assert set(reader.refresh()) == {"a"}
        Records(folder).append([record("c")])
        assert set(reader.refresh()) == {"a", "c"} == set(Records(folder).refresh())


def test_a_line_without_its_end_counts_if_it_is_whole(tmp_path: Path) -> None:
    Records(tmp_path).append([record("a")])
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    reader = Records(tmp_path)
    assert set(reader.refresh()) == {"a"}
    reader.append([record("b")])
    assert set(reader.refresh()) == {"a", "b"}
    assert len(lines(tmp_path)) == 2


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    text = (json.dumps(record("a").told) + "\n").encode()
    reader, path = Records(tmp_path), tmp_path / "records.jsonl"
    path.write_bytes(text[:20])
    assert reader.refresh() == {}
    path.write_bytes(text)
    assert set(reader.refresh()) == {"a"}


def test_a_failure_does_not_replace_a_success(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.append([record("a", "no"), record("b")])
    records.append([record("a"), record("b", "no")])
    assert [told["error"] for told in records.refresh().values()] == ["", ""]


def full_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A disk that takes `count` more bytes of a file that is appended to."""
    real = Path.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, count

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")
            wrote = self.file.write(data[: self.left])
            self.left -= wrote
            return wrote

    def opened(path: Path, mode: str = "r", **more: Any) -> Any:
        file = real(path, mode, **more)
        return Full(file) if path.suffix == ".jsonl" and "a" in mode else file

    monkeypatch.setattr(Path, "open", opened)


def test_a_full_disk_is_told_by_file_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path)
    records.append([record("1")])
    before = (tmp_path / "records.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        full_after(patch, 100)
        with pytest.raises(
            ReinvertError, match=r"records\.jsonl cannot be written \(No space left on device\); make room"
        ):
            records.append([record("2"), record("3")])
    assert (tmp_path / "records.jsonl").read_bytes() == before
    records.append([record("2")])
    assert set(records.refresh()) == {"1", "2"}


def test_a_picture_that_a_full_disk_does_not_hold_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ReinvertError, match=r"images/a/b\.png cannot be written \(File too large\)"):
            write_image(tmp_path, "images/a/b.png", "key", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    write_image(tmp_path, "images/a/b.png", "key", noise)


def test_an_infinite_number_is_written_as_a_word(tmp_path: Path) -> None:
    Records(tmp_path).append([record("a", seconds=float("inf"))])
    assert Records(tmp_path).refresh()["a"]["seconds"] == "inf"


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    def write(who: int) -> Callable[[], None]:
        return lambda: [Records(tmp_path).append([record(f"{who}-{i}")]) for i in range(20)] and None

    for child in [forked(write(who)) for who in range(4)]:
        assert ended(child) == 0
    assert set(Records(tmp_path).refresh()) == {f"{who}-{i}" for who in range(4) for i in range(20)}
    assert len(lines(tmp_path)) == 80


# --- pictures ----------------------------------------------------------------------------------------------------


def test_a_picture_is_lossless_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    picture = make_picture(3)
    picture.info["comment"] = "not to be kept"
    write_image(tmp_path, "images/p2p/one.png", "k", picture)
    first = (tmp_path / "images/p2p/one.png").read_bytes()
    assert Image.open(tmp_path / "images/p2p/one.png").tobytes() == picture.tobytes()
    write_image(tmp_path, "images/p2p/one.png", "k", make_picture(3))
    assert (tmp_path / "images/p2p/one.png").read_bytes() == first
    assert not list((tmp_path / "drafts").iterdir())


def test_a_draft_that_a_kill_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "drafts").mkdir()
    (tmp_path / "drafts" / "k.png").write_bytes(b"half a picture")
    write_image(tmp_path, "images/a/one.png", "k", make_picture(0))
    assert Image.open(tmp_path / "images/a/one.png").tobytes() == make_picture(0).tobytes()
    assert not list((tmp_path / "drafts").iterdir())


# --- claims ------------------------------------------------------------------------------------------------------


def test_a_claim_keeps_others_out_until_it_is_dropped(tmp_path: Path) -> None:
    def tries(keys: list[str], expected: bool) -> int:
        return forked(lambda: os._exit(0 if Claims(tmp_path).take(keys) is expected else 1))

    mine = Claims(tmp_path)
    assert mine.take(["a", "b"])
    assert ended(tries(["b"], False)) == 0
    assert ended(tries(["c", "a"], False)) == 0
    assert ended(tries(["c"], True)) == 0
    mine.drop(["a"])
    assert ended(tries(["a"], True)) == 0
    assert ended(tries(["a", "b"], False)) == 0
    mine.close()
    assert ended(tries(["a", "b"], True)) == 0


def test_a_claim_that_fails_holds_nothing(tmp_path: Path) -> None:
    def body() -> None:
        other = Claims(tmp_path)
        first = other.take(["a", "b", "c"])  # b is taken
        os.write(write, b"1" if first else b"0")
        time.sleep(60)

    mine, (read, write) = Claims(tmp_path), os.pipe()
    assert mine.take(["b"])
    child = forked(body)
    try:
        assert os.read(read, 1) == b"0"
        assert mine.take(["a", "c"])  # while the other lives
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)


def test_a_dead_process_s_claims_are_gone(tmp_path: Path) -> None:
    def body() -> None:
        claims = Claims(tmp_path)
        os.write(write, b"1" if claims.take(["a"]) else b"0")
        time.sleep(60)

    read, write = os.pipe()
    child, mine = forked(body), Claims(tmp_path)
    assert os.read(read, 1) == b"1"
    assert not mine.take(["a"])
    os.kill(child, signal.SIGSTOP)  # a process that merely stands still keeps its claims
    assert not mine.take(["a"])
    os.kill(child, signal.SIGKILL)
    ended(child)
    assert mine.take(["a"])


def test_a_run_is_running_while_someone_works_at_it(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with running(tmp_path), running(tmp_path):
        assert is_running(tmp_path)
    assert not is_running(tmp_path)


# --- run.json ----------------------------------------------------------------------------------------------------


def test_what_a_run_says_of_itself(tmp_path: Path) -> None:
    assert read_about(tmp_path) == {}
    write_about(tmp_path, {"data": "picturebook:3", "cells": {"edit": {"copy": 3}}})
    assert read_about(tmp_path)["cells"]["edit"]["copy"] == 3


@pytest.mark.parametrize("text", ["{", "[1]", '"x"'])
def test_a_file_of_another_program_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ReinvertError, match="choose another folder"):
        read_about(tmp_path)


# --- every system ------------------------------------------------------------------------------------------------


OF_ONE_SYSTEM = {"fcntl", "resource", "pwd", "grp", "termios", "msvcrt", "winreg"}


def test_no_module_of_one_system_is_imported_for_granted() -> None:
    """Such an import stands where an `except ImportError` catches it, or nowhere."""
    for path in Path(records_module.__file__).parent.parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        caught = {
            inner
            for outer in ast.walk(tree)
            if isinstance(outer, ast.Try) and any("ImportError" in ast.dump(h.type or h) for h in outer.handlers)
            for statement in outer.body
            for inner in ast.walk(statement)
        }
        for node in ast.walk(tree):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert node in caught or not OF_ONE_SYSTEM & set(named), path


def test_what_a_killed_process_left_is_not_running(tmp_path: Path) -> None:
    def body() -> None:
        with running(tmp_path):
            os.write(write, b"1")
            time.sleep(60)

    read, write = os.pipe()
    child = forked(body)
    assert os.read(read, 1) == b"1"
    assert is_running(tmp_path)
    os.kill(child, signal.SIGKILL)
    ended(child)
    assert list((tmp_path / "running").iterdir())
    assert not is_running(tmp_path)
    assert not list((tmp_path / "running").iterdir())


def test_claims_that_are_dropped_leave_no_files(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    assert claims.take(["a", "b"])
    claims.drop(["a", "b"])
    assert not list((tmp_path / "claims").iterdir())


def test_many_processes_take_a_cell_one_at_a_time(tmp_path: Path) -> None:
    """Also while the files of claims come and go: whoever has it finds nobody else in it."""

    def body() -> None:
        claims, done = Claims(tmp_path), 0
        while done < 30:
            if claims.take(["a"]):
                try:
                    (tmp_path / "inside").touch(exist_ok=False)
                    (tmp_path / "inside").unlink()
                except OSError:
                    os._exit(1)
                claims.drop(["a"])
                done += 1

    for child in [forked(body) for _ in range(4)]:
        assert ended(child) == 0
