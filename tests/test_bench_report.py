"""Reports of a run: terminal, CSV, parquet, LaTeX, the published table beside ours, and the commands."""

from __future__ import annotations

import argparse
import ast
import csv
import io
import json
import math
import sys
import tomllib
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from bench_runs import write_run
from rich.console import Console

import reinvert
from reinvert import recipes
from reinvert.bench.report import formats as report
from reinvert.bench.report import published as printed
from reinvert.bench.report.published import against_published, elsewhere, published
from reinvert.bench.report.table import Bootstrap, Figure, Table, heading, make_table
from reinvert.bench.score.columns import Networks
from reinvert.bench.score.scoring import MEASURES, Board, Setup, open_run, read_board, score_run
from reinvert.cli import bench_report
from reinvert.errors import ReinvertError

COLUMNS = ("psnr_unedit_part", "mse_unedit_part", "lpips_unedit_part", "psnr_true_edit")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of five rows, scored in both modes."""
    folder = tmp_path_factory.mktemp("run")
    made = write_run(folder, count=5, failing="direct+p2p")
    for mode in ("compat", "strict"):
        list(score_run(open_run(folder), made, Setup(mode, columns=COLUMNS), Networks()))
    return folder


@pytest.fixture(scope="module")
def board(run) -> Board:
    return read_board(open_run(run), "compat")


@pytest.fixture(scope="module")
def table(board) -> Table:
    return make_table(board)


def shown(what, *arguments, **more) -> str:
    console = Console(file=io.StringIO(), width=180, color_system=None)
    what(*arguments, console, **more)
    return console.file.getvalue()


def with_means(table: Table, row: str, means: dict[str, Figure]) -> Table:
    """The table with one row more, which has the figures given."""
    first = table.of()[0]
    return replace(table, rows=(*table.rows, replace(first, name=row, figures={**first.figures, **means})))


# --- terminal and files ------------------------------------------------------------------------------------------


def test_the_terminal_says_mode_means_cases_and_environment(table) -> None:
    text = shown(report.show, table)
    for told in ("mode compat", "∞", "n=4", "weights 1a2b3c", "p2p * ", "true mask", "LPIPS ×10³ ↓ is empty"):
        assert told in text, told
    assert "strict" not in text
    assert "change object" in shown(report.show, table, kinds=True)


def test_the_best_method_is_told_and_no_trivial_row_is(table) -> None:
    head = heading("psnr_unedit_part")
    assert report.best(table.of(), head) == {"direct+p2p"}  # the copy is better, and no edit
    assert report.best(table.of()[:3], head) == set()


def test_csv_holds_every_figure(table, tmp_path) -> None:
    report.write_csv(report.table_rows(table), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table.rows)
    for line, row in zip(lines, table.rows, strict=True):
        assert (line["row"], line["kind"], line["mode"], int(line["cases"])) == (
            row.name,
            row.kind,
            "compat",
            row.cells,
        )
        cell = row.figures["mse_unedit_part"]
        assert line["lpips_unedit_part"] == ""
        assert int(line["mse_unedit_part n"]) == cell.n
        if cell.mean is not None:
            assert float(line["mse_unedit_part"]) == pytest.approx(cell.mean * 1e4)  # scaled as the paper's table
        assert "dtype float32" in line["environment"] or row.failed == row.cells


def test_no_text_of_a_csv_file_is_a_formula(tmp_path) -> None:
    report.write_csv([{"a": "=1+1", "b": -2.0, "c": "@x"}], tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n'=1+1,-2.0,'@x\n"


def test_the_values_of_cases_are_written_unscaled(board) -> None:
    lines = report.case_rows(board)
    assert len(lines) == 25
    [failed] = [line for line in lines if line["failure"]]
    assert (failed["row"], failed["psnr_unedit_part"], failed["seconds"]) == ("direct+p2p", None, None)
    for line, cell in zip(lines, board.cells, strict=True):
        assert line["mse_unedit_part"] == board.value(cell, "mse_unedit_part")


def test_parquet_is_read_back(table, tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    rows = report.table_rows(table)
    report.write_parquet(rows, tmp_path / "t.parquet")
    assert parquet.read_table(tmp_path / "t.parquet").to_pylist() == rows


def test_without_pyarrow_parquet_is_refused_in_one_sentence(table, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ReinvertError, match="pip install"):
        report.write_parquet(report.table_rows(table), tmp_path / "t.parquet")
    assert not list(tmp_path.iterdir())


def test_latex_has_as_many_cells_in_every_line_and_escapes_names(table) -> None:
    odd = with_means(table, r"50%_of & \all{}", {})
    text = report.latex(odd)
    assert r"50\%\_of \& \textbackslash{}all\{\}" in text
    heads = report.filled_headings(odd)
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert len(body) == len(odd.of())
    for line in body:
        assert line.replace(r"\&", "").count("&") == 1 + len(heads) - 1
    assert text.startswith("% Mode compat")
    assert r"$\infty$" in text
    assert text.count(r"\textbf") >= 2


def test_markdown_has_as_many_cells_in_every_line(table) -> None:
    odd = with_means(table, "a|b", {})
    text = report.markdown(odd)
    heads = report.filled_headings(odd)
    lines = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(odd.of())
    assert {line.count("|") for line in lines} == {2 + 1 + len(heads)}
    assert "**" in text
    assert "\n* Mode compat" in text


# --- the published table -----------------------------------------------------------------------------------------


def test_the_printed_figures_are_those_of_the_methods_reference() -> None:
    told = tomllib.loads((Path(printed.__file__).parent / "published.toml").read_text())
    assert told["rows"]["directinversion+p2p"] == [11.65, 27.22, 54.55, 32.86, 84.76, 25.02, 22.10]
    assert len(told["rows"]) == 11
    assert "2310.01506" in told["title"]
    assert sum(values[1] for values in told["rows"].values()) == pytest.approx(255.9)  # the printed PSNR column
    assert sum(values[3] for values in told["rows"].values()) == pytest.approx(970.55)  # and MSE
    row = published().rows["ddim+p2p"]
    assert row["structure_distance"] == pytest.approx(0.06943)
    assert row["clip_similarity_target_image"] == 25.01


def test_every_published_row_has_its_recipe() -> None:
    for name in published().rows:
        assert recipes.find(name).published == name


def test_cells_are_judged_by_interval_or_tolerance(table) -> None:
    exact = published().rows["directinversion+p2p"]
    near = {name: Figure(value * 1.015, value * 1.01, value * 1.02, 700) for name, value in exact.items()}
    made = {cell.head.name: cell for cell in against_published(with_means(table, "directinversion+p2p", near)).cells
            if cell.row == "directinversion+p2p"}  # fmt: skip
    assert all(cell.within and not cell.in_interval for cell in made.values())  # 1.5 % of at least 2 %
    far = near | {
        "psnr_unedit_part": Figure(exact["psnr_unedit_part"] * 1.03, 27.5, 28.5, 700),
        "ssim_unedit_part": Figure(exact["ssim_unedit_part"] * 1.2, 0.1, 2.0, 4),
        "mse_unedit_part": Figure(None, None, None, 0),
    }
    compared = against_published(with_means(table, "directinversion+p2p", far))
    cells = {cell.head.name: cell for cell in compared.cells if cell.row == "directinversion+p2p"}
    assert cells["psnr_unedit_part"].within is False
    assert cells["psnr_unedit_part"].difference == pytest.approx(0.03 * 27.22)
    assert cells["ssim_unedit_part"].within is True
    assert cells["mse_unedit_part"].within is None
    text = shown(report.show_published, compared)
    assert "+0.82 (outside)" in text
    assert "without a value" in text
    assert any("jpeg75" in warning for warning in compared.warnings)
    assert any("700 cases" in warning for warning in compared.warnings)


def test_the_modes_and_runs_that_cannot_be_compared_are_refused(run, table) -> None:
    assert against_published(table).rows == ("ddim+p2p",)  # the one row in common
    with pytest.raises(ReinvertError, match="--mode compat"):
        against_published(make_table(read_board(open_run(run), "strict")))
    changed = [replace(row, environment="overrides (steps 5)") for row in table.rows]
    assert any("ddim+p2p" in warning for warning in against_published(replace(table, rows=tuple(changed))).warnings)
    with pytest.raises(ReinvertError, match="over PIE-Bench, 700 cases, and this run is on picturebook"):
        against_published(replace(table, data="picturebook"))
    cartoons = tuple(replace(row, models=("picturebook",)) for row in table.rows)
    with pytest.raises(ReinvertError, match="ddim\\+p2p was made with picturebook, and the published row with CompVis"):
        against_published(replace(table, rows=cartoons))
    with pytest.raises(ReinvertError, match="no row"):
        against_published(replace(table, rows=table.of()[:3]))


# --- commands ----------------------------------------------------------------------------------------------------


def command(configure, run, *typed: str) -> int:
    parser = argparse.ArgumentParser()
    configure(parser)
    return run(parser.parse_args(list(typed)))


def reported(*typed: str) -> int:
    return command(bench_report.configure_report, bench_report.run_report, *typed)


def test_the_report_command_prints_both_modes_and_writes_files(run, tmp_path, capsys) -> None:
    typed = ("--against", "published", "--write", "csv", "latex", "-o", str(tmp_path / "out"), "--resamples", "100")
    assert reported(str(run), *typed, "--width", "150") == 0
    text = capsys.readouterr().out
    assert text.count("mode compat, all types") == 2  # the paper's columns, and those to the true edit
    assert text.count("Against PnP Inversion") == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"table-edit-compat.csv", "cases-edit-strict.csv", "table-edit-strict.tex"} <= names
    assert "published-edit-compat.csv" in names
    assert "published-edit-strict.csv" not in names


def test_the_report_command_refuses_what_is_not_there(tmp_path, run) -> None:
    write_run(tmp_path / "new", count=1, rows=["copy"])
    with pytest.raises(ReinvertError, match="bench score"):
        reported(str(tmp_path / "new"))
    with pytest.raises(ReinvertError, match="resamples"):
        reported(str(run), "--resamples", "3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReinvertError, match="no records"):
        reported(str(tmp_path / "empty"))
    with pytest.raises(ReinvertError, match="--mode compat"):
        reported(str(run), "--mode", "strict", "--against", "published", "--width", "150")


def test_the_score_command_scores_once_and_says_what_is_missing(tmp_path, capsys, monkeypatch) -> None:
    made = write_run(tmp_path / "run", count=2, rows=["copy", "ddim+p2p"])
    data = argparse.Namespace(cases=tuple(made.values()))
    monkeypatch.setattr("reinvert.bench.data.open_data", lambda spec: data)
    typed = (str(tmp_path / "run"), "--networks", "none", "--mode", "compat", "--jpeg75", "--quiet", "--device", "cpu")
    for _ in range(2):
        assert command(bench_report.configure_score, bench_report.run_score, *typed) == 0
    told = capsys.readouterr()
    assert "scores-compat.jsonl" in told.out
    assert "no networks were asked for" in told.err
    board = read_board(open_run(tmp_path / "run"), "compat")
    assert board.setup["jpeg75"]
    assert not (tmp_path / "run" / "scores-strict.jsonl").exists()
    assert len((tmp_path / "run" / "scores-compat.jsonl").read_text().splitlines()) == 1 + 4
    values = [board.value(cell, "psnr") for cell in board.cells if cell.row == "copy"]
    assert all(math.isfinite(value) for value in values)  # JPEG leaves its marks


def test_the_score_command_refuses_bad_input(tmp_path) -> None:
    write_run(tmp_path / "run", count=1, rows=["copy"])
    (tmp_path / "run" / "run.json").unlink()
    for typed, match in (((), "--data"), (("--of-the-paper",), "compat")):
        with pytest.raises(ReinvertError, match=match):
            command(bench_report.configure_score, bench_report.run_score, str(tmp_path / "run"), *typed)
    with pytest.raises(SystemExit):
        command(bench_report.configure_score, bench_report.run_score, str(tmp_path / "run"), "--batch", "0")


def test_cells_of_another_model_are_not_judged(table) -> None:
    """One row of two: its cells have no difference, no verdict and no colour, and say why."""
    exact = {name: Figure(value, value, value, 700) for name, value in published().rows["directinversion+p2p"].items()}
    wide = with_means(table, "directinversion+p2p", exact)
    rows = tuple(replace(row, models=("picturebook",)) if row.name == "ddim+p2p" else row for row in wide.rows)
    compared = against_published(replace(wide, rows=rows))
    verdicts = {row: {cell.within for cell in compared.cells if cell.row == row} for row in compared.rows}
    assert verdicts == {"ddim+p2p": {None}, "directinversion+p2p": {True}}
    assert "7 of 7 cells are within tolerance, 7 not compared" in compared.summary
    text = shown(report.show_published, compared)
    assert text.count("not compared") >= 7
    assert "ddim+p2p was made with picturebook" in " ".join(text.split())
    assert {line["refused"] == "" for line in report.published_rows(compared) if line["row"] == "ddim+p2p"} == {False}


def test_scores_of_another_version_of_the_metrics_are_another_set_up() -> None:
    before = Setup("compat")
    assert before.version.startswith(reinvert.__version__ + "+")
    assert replace(before, version="0.2.0+abc").key != before.key


DECIDES_NO_SCORE = (
    "bench.records", "bench.verdict", "collection", "errors", "fields", "files", "hooks", "level", "models", "text",
    "words", "backbones",
)  # fmt: skip
"""What scoring imports for its sentences, its files, the names of devices and its start."""


def imported(name: str, found: dict[str, Path]) -> dict[str, Path]:
    """The modules of reinvert that a module needs, by their paths in the package, itself among them."""
    root = Path(reinvert.__file__).parent
    file = next((f for f in (root / f"{name}.py", root / name / "__init__.py") if f.is_file()), None)
    if file is None or name in found:
        return found
    found[name] = file
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "reinvert":
            inner = str(node.module).removeprefix("reinvert").strip(".").replace(".", "/")
            for alias in node.names:
                imported(f"{inner}/{alias.name}".strip("/"), found)
            imported(inner, found) if inner else None
    return found


@pytest.mark.parametrize("start", ["bench/score/scoring", "bench/data"])
def test_all_code_that_decides_a_score_is_in_its_version(start: str) -> None:
    """What scoring imports is in the version's hash, or named here as what decides no score."""
    root = Path(reinvert.__file__).parent
    covered = [root / part for part in MEASURES] + [root / name.replace(".", "/") for name in DECIDES_NO_SCORE]
    covered += [root / f"{name.replace('.', '/')}.py" for name in DECIDES_NO_SCORE]
    found = imported(start, {})
    assert len(found) > 5
    missing = {
        name for name, file in found.items() if not any(file == part or file.is_relative_to(part) for part in covered)
    }
    assert missing <= {"bench", "picturebook"}, missing  # their __init__s are empty
    assert all((root / part).exists() for part in MEASURES)


def test_scores_of_two_versions_meet_in_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored by one version, then some of it by another: a report has the newest alone, and going on with either
    computes what that version has not."""
    made, run = write_run(tmp_path / "run", 3, rows=("copy", "vae")), tmp_path / "run"
    networks = Networks()

    def scored(version: str, most: int = 99) -> list[str]:
        found, setup = open_run(run), Setup("strict", networks=networks.describe(), version=version)
        lines = score_run(found, made, setup, networks, batch=1)
        return [line.key for line in islice(lines, most)]

    assert len(scored("1")) == 6
    assert len(scored("2", 2)) == 2  # stopped there
    board = read_board(open_run(run), "strict")
    assert board.setup["version"] == "2"
    assert len(board.lines) == 2
    assert board.others == 6
    table = make_table(board, None, Bootstrap(100, 0.95, 0))
    assert "2" in {str(value) for value in table.setup.values()}
    assert len(scored("2")) == 4
    assert scored("2") == []
    assert len(read_board(open_run(run), "strict").lines) == 6
    assert scored("1") == []  # its own are still there, and are shown once it is asked for again
    assert read_board(open_run(run), "strict").setup["version"] == "1"


def test_a_case_that_was_changed_since_it_was_edited_is_not_scored(tmp_path: Path) -> None:
    made, run = write_run(tmp_path / "run", 2, rows=("copy",)), tmp_path / "run"
    lines = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    for line in lines:
        line["fingerprint"] = made[line["case"]].fingerprint
    (run / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = made
    changed = {**made, second: replace(made[second], target_prompt="something else")}
    setup = Setup("strict", networks=Networks().describe())
    found = {line.key: line.failure for line in score_run(open_run(run), changed, setup, Networks())}
    assert found[f"copy/{first}"] == ""
    assert "was edited with another picture, prompt, mask or word" in found[f"copy/{second}"]
    assert [line.failure for line in score_run(open_run(run), made, setup, Networks())] == [""]


def test_figures_of_other_papers_are_all_shown_beside_a_flow_row(table) -> None:
    """Three tables print FlowEdit on FLUX: no two alike, and none is judged."""
    rows = [row for row in elsewhere() if row.recipe == "flowedit_flux"]
    assert [row.table for row in rows] == ["LayerVerse", "DirectEdit", "OAVC"]
    assert rows[0].values["structure_distance"] == pytest.approx(0.02796)
    text = " ".join(shown(report.show_elsewhere, with_means(table, "flowedit_flux", {})).split())
    for told in ("LayerVerse (620 pictures", "21.92", "DirectEdit (700 pictures", "21.96", "not judged"):
        assert told in text
    assert shown(report.show_elsewhere, table) == ""
    for row in elsewhere():
        assert row.recipe == "" or row.recipe in recipes.names()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_figure_is_cut_in_a_narrow_terminal(table, width: int) -> None:
    """Columns go into as many tables as there must be; together they show what one wide table shows."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    report.show(table, console)
    text = console.file.getvalue()
    tables = text.split("\n- ")[0]
    assert "…" not in tables
    assert max(map(len, tables.splitlines())) <= width
    for head in report.filled_headings(table):
        for row in table.of():
            assert head.shown(row.figures[head.name].mean) in tables
