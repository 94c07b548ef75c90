"""Do the yardsticks tell the truth? Every metric held against what is known of drawn edits.

Two truths are known of a drawn case: whether an edit succeeded (`bench.score.success`), and how near it came to the
true edit (PSNR over the whole picture). A yardstick is any other column. Its rank correlation (Spearman, turned so that
1 means it is always right) with either truth is taken three ways:

* **choice**: over the methods on one case, averaged over cases: of several edits of a picture, does it name the better?
* **cases**: over the cases of one method, averaged over methods: does it say which edits went wrong?
* **methods**: over the methods' means: does it order the methods?

Intervals are percentile bootstraps over cases. A correlation where either side is the same everywhere says nothing, and
is left out.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reinvert.bench.records import TRIVIAL
from reinvert.bench.report.table import Bootstrap, heading
from reinvert.bench.score import success
from reinvert.bench.score.scoring import Board
from reinvert.errors import ReinvertError

Over = Literal["choice", "cases", "methods"]
Values = NDArray[np.float64]
DISTANCE: Final = "psnr_true_edit"
TRUTHS: Final = {success.SUCCESS: "success", DISTANCE: "nearness to the true edit"}


@dataclass(frozen=True)
class Correlation:
    """A yardstick's rank correlation with a truth; None where nothing can be said."""

    yardstick: str
    truth: str
    over: Over
    value: float | None
    low: float | None
    high: float | None

    @property
    def shown(self) -> str:
        """`0.42 (0.31 to 0.50)`."""
        if self.value is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Misled:
    """A case in which a yardstick prefers an edit that failed to one that succeeded."""

    yardstick: str
    case: str
    preferred: str
    """The row of the failure."""
    rejected: str
    """The row of the success."""
    values: tuple[float, float]
    """What the yardstick says of the two, as the metric gives it."""


@dataclass(frozen=True)
class Grid:
    """A board's values by column, `[row, case]`, NaN where there is none; turned so that more is better."""

    rows: tuple[str, ...]
    cases: tuple[str, ...]
    columns: Mapping[str, Values]


def grid(board: Board) -> Grid:
    """The values of a board's methods. Raises `ReinvertError` where no judge has looked at it."""
    if success.SUCCESS not in board.columns or DISTANCE not in board.columns:
        raise ReinvertError(
            "whether its edits are right is not known: run on picturebook:v1 and score it with all columns"
        )
    rows = tuple(row for row in board.rows if row not in TRIVIAL)
    cases = tuple(sorted({cell.case for cell in board.cells}))
    places = {(row, case): (i, j) for i, row in enumerate(rows) for j, case in enumerate(cases)}
    columns: dict[str, Values] = {}
    for name in board.columns:
        if name in success.COLUMNS and name != success.SUCCESS:
            continue
        turned = 1.0 if heading(name).direction == "higher" else -1.0
        values = np.full((len(rows), len(cases)), np.nan)
        for cell in board.cells:
            value = board.value(cell, name)
            if (cell.row, cell.case) in places and value is not None and math.isfinite(value):
                values[places[cell.row, cell.case]] = turned * value
        columns[name] = values
    return Grid(rows, cases, columns)


def yardsticks(found: Grid) -> tuple[str, ...]:
    """The columns that are no truth themselves, and say something."""
    made: list[str] = []
    for name, values in found.columns.items():
        known = values[~np.isnan(values)]
        if "true_edit" not in name and name != success.SUCCESS and "source_image" not in name and len(set(known)) > 1:
            made.append(name)
    return tuple(made)


def correlations(board: Board, how: Bootstrap | None = None) -> tuple[Correlation, ...]:
    """Every yardstick with every truth, three ways."""
    how, found = how or Bootstrap(resamples=500), grid(board)
    rng = np.random.default_rng(how.seed)
    draws = [rng.integers(0, len(found.cases), len(found.cases)) for _ in range(how.resamples)]
    made: list[Correlation] = []
    for name in yardsticks(found):
        for truth in TRUTHS:
            a, b = found.columns[name], found.columns[truth]
            single = _single(a, b)
            for over in get_args(Over):
                value = _mean(single[over]) if over != "methods" else _over_methods(a, b)
                again = (
                    [_over_methods(a[:, draw], b[:, draw]) for draw in draws]
                    if over == "methods"
                    else [_mean(single[over][draw]) for draw in draws]
                    if over == "choice"
                    else [_mean(_single_cases(a[:, draw], b[:, draw])) for draw in draws]
                )
                low, high = _interval([v for v in again if v is not None], how.level)
                made.append(Correlation(name, truth, over, value, low, high))
    return tuple(made)


def _single(a: Values, b: Values) -> dict[str, Values]:
    """The correlations that are averaged: one for each case, and one for each method."""
    choice = np.array([spearman(a[:, j], b[:, j]) for j in range(a.shape[1])])
    return {"choice": choice, "cases": _single_cases(a, b)}


def _single_cases(a: Values, b: Values) -> Values:
    return np.array([spearman(a[i], b[i]) for i in range(a.shape[0])])


def _over_methods(a: Values, b: Values) -> float | None:
    """The correlation of the methods' means, over the cases for which both are known."""
    known = ~(np.isnan(a) | np.isnan(b))
    counts = known.sum(1)
    if not counts.all():
        return None
    value = spearman(np.where(known, a, 0).sum(1) / counts, np.where(known, b, 0).sum(1) / counts)
    return None if math.isnan(value) else value


def spearman(a: Values, b: Values) -> float:
    """Spearman's rank correlation over the places `[n]` where both are known; NaN where one is constant there."""
    known = ~(np.isnan(a) | np.isnan(b))
    x, y = ranks(a[known]), ranks(b[known])
    if len(x) < 3:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else math.nan


def ranks(values: Values) -> Values:
    """The rank of each value `[n]`, from 0; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def _mean(values: Values) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _interval(values: Sequence[float], level: float) -> tuple[float | None, float | None]:
    if len(values) < 20:
        return None, None
    low, high = np.quantile(np.array(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def misled(board: Board, name: str) -> Misled | None:
    """The case in which a yardstick is most wrong: it ranks a failure highest above a success, among all values that it
    takes. None where it never does."""
    found = grid(board)
    values, right = found.columns[name], found.columns[success.SUCCESS]
    flat = values[~np.isnan(values)]
    turned = 1.0 if heading(name).direction == "higher" else -1.0
    best: tuple[float, Misled] | None = None
    for j, case in enumerate(found.cases):
        known = ~(np.isnan(values[:, j]) | np.isnan(right[:, j]))
        failures, successes = np.flatnonzero(known & (right[:, j] == 0)), np.flatnonzero(known & (right[:, j] == 1))
        if not len(failures) or not len(successes):
            continue
        bad = int(failures[values[failures, j].argmax()])
        good = int(successes[values[successes, j].argmin()])
        gap = float((flat <= values[bad, j]).mean() - (flat <= values[good, j]).mean())
        if gap > 0 and (best is None or gap > best[0]):
            said = (turned * float(values[bad, j]), turned * float(values[good, j]))
            best = gap, Misled(name, case, found.rows[bad], found.rows[good], said)
    return None if best is None else best[1]


# --- what shows them ---------------------------------------------------------------------------------------------


def table(made: Sequence[Correlation], truth: str) -> str:
    """A Markdown table of one truth: a yardstick a line, the best choosers first."""
    by = {(c.yardstick, c.over): c for c in made if c.truth == truth}
    names = sorted({c.yardstick for c in made}, key=lambda name: -(by[name, "choice"].value or -1))
    lines = ["| yardstick | choice | cases | methods |", "| --- | ---: | ---: | ---: |"]
    for name in names:
        cells = " | ".join(by[name, over].shown for over in get_args(Over))
        lines.append(f"| {_title(name)} | {cells} |")
    return "\n".join(lines)


def _title(name: str) -> str:
    return heading(name).full.replace("|", "/")


def figure(made: Sequence[Correlation]) -> str:
    """An SVG: for each yardstick, its choice among edits of one picture against both truths, with intervals."""
    by = {(c.yardstick, c.truth): c for c in made if c.over == "choice" and c.value is not None}
    names = sorted({name for name, _ in by}, key=lambda name: -_value(by, name))
    left, width, line = 370, 420, 24
    height = 70 + line * len(names)

    def x(value: float) -> float:
        return left + width * (value + 1) / 2

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 30} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>'
    ]
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        stroke = "#888888" if tick == 0.0 else "#dddddd"
        parts.append(f'<line x1="{x(tick)}" x2="{x(tick)}" y1="34" y2="{height - 28}" stroke="{stroke}"/>')
        parts.append(f'<text x="{x(tick)}" y="{height - 10}" text-anchor="middle" fill="#555555">{tick:g}</text>')
    colors = {success.SUCCESS: "#0b6e69", DISTANCE: "#b3541e"}
    for index, (truth, color) in enumerate(colors.items()):
        parts.append(f'<circle cx="{left + 200 * index}" cy="18" r="5" fill="{color}"/>')
        parts.append(f'<text x="{left + 10 + 200 * index}" y="22" fill="#222222">{TRUTHS[truth]}</text>')
    for row, name in enumerate(names):
        y = 52 + line * row
        parts.append(
            f'<text x="{left - 12}" y="{y + 4}" text-anchor="end" fill="#222222">'
            f"{html.escape(heading(name).full)}</text>"
        )
        for index, (truth, color) in enumerate(colors.items()):
            found = by.get((name, truth))
            if found is None or found.value is None:
                continue
            level = y - 3 + 6 * index
            if found.low is not None and found.high is not None:
                ends = f'x1="{x(found.low):.1f}" x2="{x(found.high):.1f}"'
                parts.append(f'<line {ends} y1="{level}" y2="{level}" stroke="{color}"/>')
            parts.append(f'<circle cx="{x(found.value):.1f}" cy="{level}" r="3.5" fill="{color}"/>')
    return "".join([*parts, "</svg>\n"])


def _value(by: Mapping[tuple[str, str], Correlation], name: str) -> float:
    found = by.get((name, success.SUCCESS))
    return -1.0 if found is None or found.value is None else found.value
