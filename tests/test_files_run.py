"""A run's folder comes through the door: one sentence for whatever its files hold, and nothing outside is opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_runs import write_run

from reinvert.bench.records import Records, read_about
from reinvert.bench.run.plan import Asked, open_plan
from reinvert.bench.score.scoring import open_run, read_lines
from reinvert.cli import main
from reinvert.errors import ReinvertError

GOOD: dict[str, Any] = {
    "key": "k", "case": "1", "type": "1", "recipe": "p2p", "task": "edit", "image": "images/a.png", "attempts": 1,
}  # fmt: skip
DEEP = '{"key": ' + "[" * 1000 + "]" * 1000 + "}"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"task": None}, "task"),
    ({"task": "draw"}, "task"),
    ({"recipe": ["p2p"]}, "recipe"),
    ({"recipe": "\x1b[2J"}, "recipe"),
    ({"key": [1]}, "key"),
    ({"case": 5}, "case"),
    ({"image": "../secret/s.png"}, "image"),
    ({"image": "/etc/passwd"}, "image"),
    ({"attempts": "x"}, "attempts"),
    ({"seconds": [1]}, "seconds"),
    ({"settings": 5}, "settings"),
    ({"environment": [1]}, "environment"),
]


def write(folder: Path, line: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "records.jsonl").write_text(line + "\n")
    return folder


@pytest.mark.parametrize(("change", "field"), WRONG)
def test_a_wrong_record_is_one_sentence_with_its_field(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    write(tmp_path, json.dumps(GOOD | change))
    with pytest.raises(ReinvertError, match=field) as caught:
        open_run(tmp_path)
    assert "\x1b" not in str(caught.value)
    assert "records.jsonl" in str(caught.value)


@pytest.mark.parametrize("field", ["task", "recipe", "case"])
def test_a_record_without_a_field_is_one_sentence(tmp_path: Path, field: str) -> None:
    write(tmp_path, json.dumps({name: value for name, value in GOOD.items() if name != field}))
    with pytest.raises(ReinvertError, match=f"has no {field}"):
        Records(tmp_path).refresh()


def test_nesting_is_refused_and_torn_lines_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ReinvertError, match="nested"):
        Records(write(tmp_path, DEEP)).refresh()
    whole = json.dumps(GOOD).encode()
    (tmp_path / "records.jsonl").write_bytes(whole[:40] + b"\n" + whole[:-1] + b"\xff\n" + whole + b"\n")
    assert list(Records(tmp_path).refresh()) == ["k"]


def test_a_picture_that_is_a_link_to_elsewhere_is_not_opened(tmp_path: Path) -> None:
    run = write(tmp_path / "run", json.dumps(GOOD))
    (run / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (run / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ReinvertError, match="outside"):
        open_run(run)


@pytest.mark.parametrize(
    "text", ["5", "[1]", DEEP, '{"cells": 5}', '{"cells": {"edit": {"a": "x"}}}', '{"data": ["x"]}', '{"plain": 5}']
)
def test_a_wrong_run_json_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ReinvertError, match=r"run\.json"):
        read_about(tmp_path)


def test_a_run_json_decides_no_look_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(("ddim+p2p",), model="picturebook", limit=1)
    about = open_plan(tmp_path, "picturebook:10", asked, device="cpu").about
    (tmp_path / "run.json").write_text(json.dumps({**about, "plain": "someone/model"}))
    monkeypatch.setattr("reinvert.bench.run.plan.weights_of", lambda model: pytest.fail(f"looked up {model}"))
    with pytest.raises(ReinvertError, match="someone/model"):
        open_plan(tmp_path, "picturebook:10", asked, device="cpu")


@pytest.mark.parametrize(
    "line",
    [
        {"key": "k", "setup": "s", "values": {"psnr": "x"}},
        {"key": "k", "setup": "s", "values": 5},
        {"key": ["k"], "setup": "s", "values": {}},
        {"key": "", "setup": "s", "about": 5},
        {"key": "", "setup": "s", "about": {"mode": "loud"}},
    ],
)
def test_a_wrong_line_of_scores_is_one_sentence(tmp_path: Path, line: dict[str, Any]) -> None:
    (tmp_path / "scores-strict.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ReinvertError, match=r"scores-strict\.jsonl"):
        list(read_lines(tmp_path / "scores-strict.jsonl"))


@pytest.mark.parametrize("part", ["status", "score", "report"])
def test_the_commands_answer_in_one_sentence(tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, 1)
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write(json.dumps({name: value for name, value in GOOD.items() if name != "task"}) + "\n")
    assert main(["bench", part, str(tmp_path)]) != 0
    shown = capsys.readouterr().err
    assert "has no task" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("name", ["records.jsonl", "run.json", "scores-strict.jsonl"])
def test_a_run_s_own_file_is_no_link_to_elsewhere(tmp_path: Path, name: str, capsys) -> None:
    """A folder from elsewhere must not choose what is read."""
    run = tmp_path / "run"
    write_run(run, 1)
    (run / "scores-strict.jsonl").write_text("")
    (run / name).rename(tmp_path / name)
    (run / name).symlink_to(tmp_path / name)
    commands = [part for part in ("status", "report") if (part, name) != ("status", "scores-strict.jsonl")]
    for part in commands:
        assert main(["bench", part, str(run)]) == 2
        assert f"{name} is a link to outside of the folder; copy the file into it" in capsys.readouterr().err
