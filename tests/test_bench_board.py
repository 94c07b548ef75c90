"""The board of several runs: one static page that needs nothing, and says of every row whether it is verified."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_runs import write_run

from reinvert.bench.report.side_by_side import entries, page, write_board
from reinvert.bench.score.columns import Networks
from reinvert.bench.score.scoring import Setup, open_run, score_run
from reinvert.bench.verdict import Verdict, contents, write_verdict
from reinvert.cli import main
from reinvert.errors import ReinvertError

BAD = "a</td><script>alert(1)</script><img src=x onerror=alert(1)>"
COLUMNS = ("psnr_unedit_part", "psnr_true_edit")
ROWS = ("copy", "vae", "ddim+p2p", "direct+p2p")


class Tags(HTMLParser):
    """The tags of a page with their attributes, and the cells of its rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on the same cases, the first one verified, and one on others."""
    made: list[Path] = []
    for name, count in (("first", 3), ("second", 3), ("third", 2)):
        folder = tmp_path_factory.mktemp("runs") / name
        cases = write_run(folder, count=count, rows=ROWS, data_name=BAD if name == "third" else "PIE-Bench")
        lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        told = [json.dumps(line | {"fingerprint": cases[line["case"]].fingerprint}) + "\n" for line in lines]
        (folder / "records.jsonl").write_text("".join(told))
        list(score_run(open_run(folder), cases, Setup("strict", columns=COLUMNS), Networks()))
        made.append(folder)
    seen = contents(made[0])
    write_verdict(
        made[0], Verdict("2026-11-27T02:00:00+00:00", "1+a", "cpu (x, 1 threads)", 7, 12, 2, 2, contents=seen)
    )
    return made


@pytest.fixture(scope="module")
def text(runs: list[Path]) -> str:
    return page(entries(runs), "A <b>title")


def test_nothing_comes_from_outside_and_nothing_breaks_out(text: str) -> None:
    tags = Tags(text).tags
    assert not {tag for tag, _ in tags} & {"script", "img", "link", "iframe", "object", "b"}
    assert not [
        name for _, attributes in tags for name in attributes if name in ("src", "href") or name.startswith("on")
    ]
    assert (
        "meta",
        {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"},
    ) in tags
    assert "alert(1)&lt;/script&gt;" in text
    assert "<title>A &lt;b&gt;title</title>" in text


def test_rows_of_the_same_cases_share_a_table(runs: list[Path], text: str) -> None:
    found = entries(runs)
    hashes = [entry.board.hash for entry in found]
    assert hashes[0] == hashes[1] != hashes[2]
    assert text.count(f"hash <code>{hashes[0]}</code>") == text.count(f"hash <code>{hashes[2]}</code>") == 1
    assert text.count("<section>") > 3  # the two tables, and what papers printed


def test_every_row_says_whether_it_is_verified(text: str) -> None:
    rows = Tags(text).rows
    ours = {(row[1], row[0]): row for row in rows if row[1:2] and row[1] in ("first", "second", "third")}
    assert len(ours) == 3 * len(ROWS)
    assert ours["first", "direct+p2p"][2].startswith("yes")
    assert "2026-11-27 on cpu (x, 1 threads)" in ours["first", "direct+p2p"][2]
    assert ours["second", "direct+p2p"][2].startswith("no")
    assert ours["second", "direct+p2p"][4] == "blend words"
    assert ours["second", "ddim+p2p"][4] == "true mask"
    assert ours["third", "copy"][3] == "2"
    printed = [row for row in rows if "not verifiable" in row]
    assert {"ddim+p2p", "FireFlow"} <= {row[0] for row in printed}


def test_a_run_that_changed_since_is_not_verified(runs: list[Path]) -> None:
    with (runs[0] / "records.jsonl").open("a") as file:
        file.write("\n")
    assert not any(entry.board.standing.verified for entry in entries(runs[:1]))


def test_the_command(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "board", *map(str, runs[1:]), "-o", str(tmp_path / "board.html")]) == 0
    assert (tmp_path / "board.html").read_text().startswith("<!doctype html>")
    assert main(["bench", "board", str(tmp_path), "-o", str(tmp_path / "other.html")]) == 2
    assert "no records" in capsys.readouterr().err
    assert not (tmp_path / "other.html").exists()


def test_a_run_without_scores_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", count=2)
    with pytest.raises(ReinvertError, match="not scored"):
        write_board([tmp_path / "run"], tmp_path / "board.html")
