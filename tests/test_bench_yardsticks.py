"""Whether yardsticks tell the truth: rank correlations, three ways, and where each misleads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_runs import write_run
from scipy import stats

from reinvert.bench.report import yardsticks
from reinvert.bench.report.table import Bootstrap
from reinvert.bench.report.yardsticks import correlations, figure, misled, spearman, table
from reinvert.bench.score.columns import Networks
from reinvert.bench.score.scoring import Board, Cell, Line, Setup, open_run, read_board, score_run
from reinvert.errors import ReinvertError

HOW = Bootstrap(resamples=60)


def board(values: dict[str, list[list[float]]]) -> Board:
    """A board of made-up values by column, `[row][case]`."""
    shape = np.array(next(iter(values.values()))).shape
    names = [(f"row{i}", f"case{j}", i, j) for i in range(shape[0]) for j in range(shape[1])]
    cells = tuple(Cell(f"{row} {case}", case, "random", row, picture=Path("x.png")) for row, case, _, _ in names)
    lines = {f"{r} {c}": Line(f"{r} {c}", {n: float(v[i][j]) for n, v in values.items()}) for r, c, i, j in names}
    return Board("edit", "strict", {}, cells, lines)


RIGHT = [[1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 1], [0, 1, 0, 0, 1, 0]]
NEAR = [[30, 20, 31, 21, 32, 19], [18, 17, 30, 16, 33, 31], [15, 29, 14, 13, 30, 12]]
VALUES = {
    "success": RIGHT,
    "psnr_true_edit": NEAR,
    "psnr_unedit_part": NEAR,  # always right
    "mse": [[v / 100 for v in row] for row in NEAR],  # lower is better: always wrong
    "ssim": [[0.5] * 6] * 3,  # says nothing
    "lpips[a]": np.random.default_rng(0).random((3, 6)).tolist(),
}


def test_ranks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        a, b = rng.integers(0, 5, 12).astype(float), rng.random(12)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    a[3] = np.nan
    assert spearman(a, b) == pytest.approx(stats.spearmanr(np.delete(a, 3), np.delete(b, 3)).statistic, abs=1e-12)
    assert np.isnan(spearman(np.ones(5), rng.random(5)))


def test_a_yardstick_that_is_the_truth_and_one_that_lies() -> None:
    found = {(c.yardstick, c.truth, c.over): c for c in correlations(board(VALUES), HOW)}
    for over in ("choice", "cases", "methods"):
        assert found["psnr_unedit_part", "psnr_true_edit", over].value == pytest.approx(1)
        assert found["mse", "psnr_true_edit", over].value == pytest.approx(-1)
    random = found["lpips[a]", "psnr_true_edit", "choice"]
    assert random.low is not None
    assert random.high is not None
    assert random.value is not None
    assert random.low < random.value < random.high
    assert {name for name, _, _ in found} == {"psnr_unedit_part", "mse", "lpips[a]"}


def test_where_a_yardstick_misleads() -> None:
    made = board(VALUES)
    assert misled(made, "psnr_unedit_part") is None
    worst = misled(made, "mse")
    assert worst is not None
    assert (worst.case, worst.rejected) == ("case4", "row1") or RIGHT[int(worst.preferred[3:])][
        int(worst.case[4:])
    ] == 0
    assert RIGHT[int(worst.rejected[3:])][int(worst.case[4:])] == 1
    assert worst.values[0] < worst.values[1]  # an error that is less looks better


def test_table_and_figure() -> None:
    made = correlations(board(VALUES), HOW)
    lines = table(made, "psnr_true_edit").splitlines()
    assert lines[2].startswith("| PSNR, background (dB) ↑ | 1.00")
    assert "-1.00" in lines[-1]
    text = figure(made)
    assert text.startswith("<svg")
    assert text.count("<circle") == 2 + 2 * 3
    assert "script" not in text


def test_without_a_judge_it_is_refused(tmp_path: Path) -> None:
    cases = write_run(tmp_path / "run", count=2)
    list(score_run(open_run(tmp_path / "run"), cases, Setup("strict", columns=("psnr",)), Networks()))
    with pytest.raises(ReinvertError, match="is not known"):
        yardsticks.grid(read_board(open_run(tmp_path / "run"), "strict"))


def test_trivial_rows_are_no_methods() -> None:
    made = board(VALUES)
    renamed = replace(made, cells=tuple(replace(c, row="copy") if c.row == "row0" else c for c in made.cells))
    assert yardsticks.grid(renamed).rows == ("row1", "row2")
