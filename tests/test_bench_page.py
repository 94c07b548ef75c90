"""The HTML page of a run: what it holds, that it needs nothing from outside, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_runs import write_run
from PIL import Image

from reinvert.bench.report.page import page, page_data, thumbnails, write_page
from reinvert.bench.report.table import make_table, paired, values_of
from reinvert.bench.score.columns import Networks
from reinvert.bench.score.scoring import Run, Setup, open_run, read_board, score_run
from reinvert.errors import ReinvertError

BAD = " </script><script>document.title='broken'</script><img src=x onerror=alert(1)> {{script}} &amp;"
COLUMNS = ("psnr_unedit_part", "mse_unedit_part", "psnr_true_edit", "lpips_unedit_part")
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A scored run with a prompt that tries to break out, its tables, and its cases."""
    folder = tmp_path_factory.mktemp("run")
    cases = write_run(folder, count=4, suffix=BAD, failing="ddim+p2p")
    for mode in ("compat", "strict"):
        list(score_run(open_run(folder), cases, Setup(mode, columns=COLUMNS), Networks()))
    run = open_run(folder)
    boards = [read_board(run, mode) for mode in ("compat", "strict")]
    return run, [(make_table(board), board) for board in boards], cases


@pytest.fixture(scope="module")
def text(scored) -> str:
    run, tables, cases = scored
    return page(run, tables, cases, title="A <b>title", against=True)


def test_the_head_says_what_was_asked_and_whether_it_is_verified(scored, text: str) -> None:
    board = scored[1][0][1]
    assert f"hash {board.hash}. Not verified: `reinvert bench verify` has not been run." in text


class Reader(HTMLParser):
    """The tags of a page with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
            self.inside = True

    def handle_data(self, data) -> None:
        if self.inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag) -> None:
        self.inside = self.inside and tag != "script"


def embedded(text: str) -> dict:
    return json.loads(Reader(text).scripts[0])


def test_two_rows_are_compared_as_the_tables_do(scored, text) -> None:
    """One truth: what the page shows was computed here, not again in the browser."""
    for (table, board), shown in zip(scored[1], embedded(text)["boards"], strict=True):
        assert set(shown["pairs"]) == set(table.kinds)
        rows = sorted(shown["values"])
        assert len(shown["pairs"]["all"]["psnr_unedit_part"]) == len(rows) * (len(rows) - 1) // 2
        first, second = "ddim+p2p", next(row for row in rows if row > "ddim+p2p")
        values = [values_of(board, row, "psnr_unedit_part") for row in (first, second)]
        wanted = paired(*values, "higher", table.how)
        mean, low, high, wins, n = shown["pairs"]["all"]["psnr_unedit_part"][f"{first}\n{second}"]
        told = wanted.difference
        assert (wins, n) == (round(wanted.wins, 4), told.n)
        assert (mean, low, high) == tuple(float(f"{v:.6g}") for v in (told.mean, told.low, told.high))


# --- what it holds -----------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_outside(text) -> None:
    read = Reader(text)
    for tag, attributes in read.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")  # pictures are made by the script
        for name in ("src", "href", "action"):
            assert not (attributes.get(name) or "").startswith(("http", "/", "file"))
    addresses = re.findall(r"https?://[^\s\"']+", text)
    assert set(addresses) == {"http://www.w3.org/2000/svg;"[:-1]}  # a name, never fetched
    policy = next(a["content"] for t, a in read.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_what_comes_from_data_is_text_only(text) -> None:
    assert "<b>title" not in text
    read = Reader(text)
    assert len(read.scripts) == 2  # the data and the page's own
    assert "document.title='broken'" in embedded(text)["cases"][0]["target"]  # it is there, as a string
    assert embedded(text)["cases"][0]["target"].endswith("{{script}} &amp;")
    assert "<" not in read.scripts[0]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", read.scripts[1])


def test_the_data_are_those_of_the_tables(scored, text) -> None:
    _, tables, cases = scored
    data = embedded(text)
    assert [board["mode"] for board in data["boards"]] == ["compat", "strict"]
    assert [case["id"] for case in data["cases"]] == sorted(cases)
    for told, (table, board) in zip(data["boards"], tables, strict=True):
        assert list(told["rows"]) == list(table.kinds)
        for row, found in zip(table.of(), told["rows"]["all"], strict=True):
            assert (found["name"], found["cells"], found["failed"]) == (row.name, row.cells, row.failed)
            cell = found["figures"]["mse_unedit_part"]
            made = row.figures["mse_unedit_part"]
            assert cell["mean"] == pytest.approx(made.mean, rel=1e-5)
            assert cell["n"] == made.n
            assert "dtype float32" in found["environment"]
        there = values_of(board, "vae", "psnr_unedit_part")
        values = dict(zip(sorted(cases), told["values"]["vae"]["psnr_unedit_part"], strict=True))
        assert values == pytest.approx(there, rel=1e-5)
        assert told["values"]["copy"]["psnr_unedit_part"].count("inf") == sum(
            v == math.inf for v in values_of(board, "copy", "psnr_unedit_part").values()
        )
        assert f"Mode {table.mode}" in told["notes"][0]
    assert data["failures"] == {"edit": {"3 ddim+p2p": "out of memory"}}


def test_the_published_table_stands_beside_its_own_mode_only(text) -> None:
    compat, strict = embedded(text)["boards"]
    assert [row["name"] for row in compat["published"]["rows"]] == ["ddim+p2p"]
    assert "2310.01506" in compat["published"]["source"]
    assert strict["published"] is None


def test_the_table_can_be_read_without_scripts(text, scored) -> None:
    static = text[text.index("<noscript>") : text.index("</noscript>")]
    for row in scored[1][0][0].of():
        assert f"<td>{row.name}</td>" in static
    assert "∞" in static


def test_a_page_without_tables_is_refused(scored) -> None:
    with pytest.raises(ReinvertError, match="score the run"):
        page(scored[0], [], scored[2])


# --- pictures ----------------------------------------------------------------------------------------------------


def decoded(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


def test_every_case_has_source_mask_and_every_row(scored) -> None:
    run, tables, cases = scored
    pictures = page_data(run, tables, cases)["pictures"]
    assert set(pictures["0"]) == {"source", "mask", "copy", "vae", "true-edit", "ddim+p2p", "direct+p2p"}
    assert "ddim+p2p" not in pictures["3"]  # it failed
    mask = decoded(pictures["1"]["mask"]).convert("L")
    assert mask.tobytes() == Image.fromarray(cases["000000000001"].mask()).convert("L").tobytes()


def test_without_the_data_results_are_shown_all_the_same(scored) -> None:
    run, tables, _ = scored
    data = page_data(run, tables, {})
    assert "source" not in data["pictures"]["0"]
    assert "copy" in data["pictures"]["0"]


def test_pictures_are_held_below_the_limit(tmp_path) -> None:
    (tmp_path / "images").mkdir()
    noise = Image.effect_noise((330, 330), 100).convert("RGB")
    names = [f"{i}" for i in range(20)]
    lines = []
    for name in names:
        noise.save(tmp_path / "images" / f"{name}.png")
        lines.append(
            json.dumps({"key": name, "case": name, "recipe": "a", "task": "edit", "image": f"images/{name}.png"})
        )
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    run: Run = open_run(tmp_path)
    order = sorted(names)
    large, told = thumbnails(run, order, {}, 40)
    assert decoded(large["0"]["a"]).size == (320, 320)
    assert "320 pixels" in told
    small, told = thumbnails(run, order, {}, 1)  # 320 pixels of noise are about 100 kB each
    assert sum(len(uri) for shots in small.values() for uri in shots.values()) <= 2**20
    assert decoded(small["0"]["a"]).width < 320
    assert len(small) == 20
    none, told = thumbnails(run, order, {}, 0)
    assert none == {}
    assert told.startswith("Pictures of 0 of 20 cases")


# --- in a browser ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_draws_all_of_it(scored, tmp_path) -> None:
    run, tables, cases = scored
    write_page(run, tables, cases, tmp_path / "report.html", against=True)
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
    quiet = ("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=4000")
    where = f"file://{tmp_path / 'report.html'}#case=000000000001"
    done = subprocess.run(
        [str(CHROMIUM), *flags, *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", where],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    dom = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert "<title>Benchmark of edits</title>" in dom  # the prompt's script has not run
    assert "onerror=alert" in dom.replace("&lt;", "<")  # its text is shown
    assert "<img src=x" not in dom
    means = dom[dom.index('id="means"') : dom.index("</table>", dom.index('id="means"'))]
    assert means.count("<tr") == 2 + 5
    assert "… " in means
    assert dom.count("<circle") >= 2
    pair = dom[dom.index('id="pair"') : dom.index("</table>", dom.index('id="pair"'))]
    assert pair.count("<tr") == 1 + 3 + 2  # three columns with values, two of cost
    dialog = dom[dom.index("<dialog") : dom.index("</dialog>")]
    assert "open" in dialog[:60]
    assert dialog.count("<img") == 7
    assert "Case 000000000001" in dialog


def test_the_page_is_written_whole_or_not_at_all(scored, tmp_path) -> None:
    run, tables, cases = scored
    with pytest.raises(ReinvertError):
        write_page(run, tables, cases, tmp_path / "none" / "report.html")
    path = Path(tmp_path / "report.html")
    write_page(run, tables, cases, path)
    assert path.read_text(encoding="utf-8") == page(run, tables, cases)
