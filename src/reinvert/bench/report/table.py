"""Tables of a run: a mean per row and column, with its bootstrap interval and the number of cases behind it.

The published rule of averaging: the mean over cases, without those that have no value (a mask over the whole picture
leaves no background to compare). An infinite PSNR (the very same picture) is left out of mean and interval and counted;
where every value is infinite, so is the mean.

Intervals are percentile bootstraps over cases, seeded. Two rows are compared on the cases that both have: the interval
is that of the mean of the cases' differences.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reinvert.bench.records import TRIVIAL, Task
from reinvert.bench.score import success
from reinvert.bench.score.columns import Column, column
from reinvert.bench.score.scoring import BESIDE_ROUND_TRIP, RECONSTRUCTION, Board, Cell
from reinvert.metrics.base import Direction, Mode

PAPER_TABLE = (
    "structure_distance",
    "psnr_unedit_part",
    "lpips_unedit_part",
    "mse_unedit_part",
    "ssim_unedit_part",
    "clip_similarity_target_image",
    "clip_similarity_target_image_edit_part",
)
"""The seven columns of the paper's table, in its order."""
TO_TRUE_EDIT = tuple(f"{metric}_true_edit{part}" for metric in ("psnr", "ssim", "lpips") for part in ("", "_inside"))
BESIDE_SUCCESS = (
    "psnr_true_edit_inside", "psnr_true_edit_outside",
    *(name for name in TO_TRUE_EDIT if name != "psnr_true_edit_inside"),
)  # fmt: skip
"""The nearness to the true edit where a judge has looked at the edits too: both stand first then."""
COSTS = ("seconds", "forwards")

ALL: Final = "all"
"""The kind that stands for every type of edit."""


# --- one figure --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made."""

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Figure:
    """The mean of n cases with its interval (None for fewer than two cases); unscaled, as the metric gives it."""

    mean: float | None
    low: float | None
    high: float | None
    n: int
    """Cases behind the mean."""
    missing: int = 0
    """Cases that are scored but have no value here."""
    infinite: int = 0
    """Cases left out because their value is infinite."""


NOTHING = Figure(None, None, None, 0)


def figure(values: Sequence[float | None], how: Bootstrap | None = None) -> Figure:
    """The mean of the values, by the rules above."""
    how = how or Bootstrap()
    told = [value for value in values if value is not None and value == value]
    finite = np.array([value for value in told if math.isfinite(value)], dtype=np.float64)
    missing, infinite = len(values) - len(told), len(told) - len(finite)
    if not len(finite):
        return Figure(math.inf if told else None, None, None, len(told), missing, infinite if told else 0)
    low, high = interval(finite, how)
    return Figure(float(finite.mean()), low, high, len(finite), missing, infinite)


def interval(values: NDArray[np.float64], how: Bootstrap) -> tuple[float | None, float | None]:
    """The percentile bootstrap interval of the mean of `values` `[n]`."""
    if len(values) < 2:
        return None, None
    # around the mean, so that rounding cannot give equal values an interval
    centre = values.mean()
    means = _weights(len(values), how.resamples, how.seed) @ (values - centre)
    tail = (1 - how.level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(centre + low), float(centre + high)


@lru_cache(maxsize=16)
def _weights(n: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How much each of n cases weighs in each resample, `[resample, n]`; rows sum to 1."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n


@dataclass(frozen=True)
class Paired:
    """The mean of first minus second over the cases that both have, and how often the first is better."""

    difference: Figure
    wins: float | None
    """Share of the cases in which the first is better; a tie is half a win."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)


def paired(
    first: Mapping[str, float | None],
    second: Mapping[str, float | None],
    direction: Direction,
    how: Bootstrap | None = None,
) -> Paired:
    """Compare two rows, each given by its values by case."""
    gaps: list[float | None] = []
    for case in sorted(first.keys() & second.keys()):
        a, b = first[case], second[case]
        gaps.append(None if a is None or b is None or not math.isfinite(a - b) else a - b)
    told = np.array([gap for gap in gaps if gap is not None], dtype=np.float64)
    better = told > 0 if direction == "higher" else told < 0
    wins = float(np.mean(better + (told == 0) / 2)) if len(told) else None
    return Paired(figure(gaps, how), wins)


# --- columns -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heading:
    """A column of a table: its name, what heads it, and how its values are shown."""

    name: str
    title: str
    group: str
    """What a header over several columns says: structure, background preservation ..."""
    direction: Direction
    """Which way is better."""
    factor: str = ""
    """`×10³` or a unit, or nothing."""
    scale: float = 1.0
    digits: int = 2
    reason: str = ""
    """Why it has no values, where it has none."""
    said: str = ""
    """The title where no group stands above it: `PSNR, unedited part`."""

    @property
    def full(self) -> str:
        """As `text`, where no group stands above it."""
        return " ".join(part for part in (self.said or self.title, self.factor, self.arrow) if part)

    @property
    def arrow(self) -> str:
        """An arrow to where better is."""
        return "↑" if self.direction == "higher" else "↓"

    @property
    def text(self) -> str:
        """Title, factor or unit, arrow."""
        return " ".join(part for part in (self.title, self.factor, self.arrow) if part)

    def shown(self, value: float | None) -> str:
        """A value as tables show it: scaled, two digits behind the point."""
        if value is None:
            return "-"
        return ("∞" if value > 0 else "-∞") if math.isinf(value) else f"{value * self.scale:.{self.digits}f}"


_COST = {
    "seconds": Heading("seconds", "Time", "cost", "lower", "(s)"),
    "forwards": Heading("forwards", "Forwards", "cost", "lower", digits=0),
    "backwards": Heading("backwards", "Backwards", "cost", "lower", digits=0),
    "memory": Heading("memory", "Peak memory", "cost", "lower", "(MiB)", 2.0**-20, 0),
}


def heading(name: str, reason: str = "") -> Heading:
    """The heading of a column: of a metric's, of one against the VAE's round trip, or of a cost."""
    if name in _COST:
        return _COST[name]
    if name in success.COLUMNS:
        return Heading(name, success.title_of(name).capitalize(), "is the edit right", "higher", "(%)", 100.0, 1)
    told = column(name.replace(BESIDE_ROUND_TRIP, ""))
    metric = told.about
    factor = metric.heading.removeprefix(metric.title).removesuffix(metric.arrow).strip()
    title, beside = _short(told.title, told.base), BESIDE_ROUND_TRIP in name
    group = "against the VAE's round trip" if beside else _group(told)
    said = f"CLIP, {title}" if told.metric == "clip_similarity" else told.title
    said = f"{said} to the round trip" if beside else said.replace("unedited part", "background")
    return Heading(name, title, group, metric.direction, factor, metric.scale, 2, reason, said)


def _group(told: Column) -> str:
    if told.metric == "clip_similarity":
        return "CLIP similarity"
    if told.beside == "true edit":
        return "nearness to the true edit"
    if told.metric == "structure_distance" and told.part == "whole":
        return "structure"
    return {"whole": "whole picture", "unedit": "background preservation", "edit": "edited part"}[told.part]


def _short(title: str, base: str) -> str:
    """A title without what its group says already."""
    for said in (", unedited part", ", edited part", " to the true edit", "CLIP similarity"):
        title = title.replace(said, "")
    title = title.strip() + (" inside" if base.endswith("_inside") else " outside" if base.endswith("_outside") else "")
    names = {
        "clip_similarity_source_image": "source",
        "clip_similarity_target_image": "whole",
        "clip_similarity_target_image_edit_part": "edited",
    }
    return f"{names[base]} {title}".strip() if base in names else title


def headings(board: Board, bases: Sequence[str] | None = None, *, costs: bool = True) -> tuple[Heading, ...]:
    """The columns of a board's table: for each base the columns that are there, one per network.

    Without `bases` they are the paper's (or the reconstruction task's), then those to a true edit where there are any.
    Where a judge has looked at the edits, its columns and those to the true edit come first.
    A column whose network is missing stays, with the reason.
    """
    if bases is None:
        judged = success.SUCCESS in board.columns
        first = (success.SUCCESS, success.CHANGED, success.KEPT, *BESIDE_SUCCESS) if judged else ()
        edit = (*first, *PAPER_TABLE, *(() if judged else TO_TRUE_EDIT))
        bases = reconstruction_bases() if board.task == "reconstruct" else edit
    made: list[Heading] = []
    for base in bases:
        wanted = [name for name in board.columns if name == base or name.startswith(f"{base}[")]
        made += [heading(name, board.reason(name)) for name in wanted]
        if not wanted and base in PAPER_TABLE:
            made.append(heading(base, "it was not asked for when the run was scored"))
    return (*made, *(heading(name) for name in (COSTS if costs else ())))


def reconstruction_bases() -> tuple[str, ...]:
    """The reconstruction task's columns: against the picture, then against the VAE's round trip."""
    return (*RECONSTRUCTION, *(f"{name}{BESIDE_ROUND_TRIP}" for name in RECONSTRUCTION))


# --- tables ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row of a table, over the cases of one type of edit (or all)."""

    name: str
    kind: str
    figures: Mapping[str, Figure]
    cells: int
    """How many cases the run has for it."""
    failed: int
    """How many of them failed."""
    unscored: int
    """How many of them have a picture but no score yet."""
    environment: str
    """Weights, device, versions, dtype and seeds it was made with."""
    uses: str
    """What of a case the method was given beyond picture and prompts."""
    models: tuple[str, ...] = ()
    """The models it was made with, by the names that its records give."""

    @property
    def trivial(self) -> bool:
        """Whether it is no method: the source's copy, the VAE's round trip, the true edit."""
        return self.name in TRIVIAL


@dataclass(frozen=True)
class Table:
    """The table of one task in one mode."""

    task: Task
    mode: Mode
    setup: Mapping[str, Any]
    headings: tuple[Heading, ...]
    rows: tuple[Row, ...]
    """Of all types first, then type by type."""
    how: Bootstrap
    notes: tuple[str, ...] = ()
    data: str = ""
    """What the data is called."""
    hash: str = ""
    """Of its cases (`bench.case.content_hash`)."""

    def of(self, kind: str = ALL) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == kind)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.kind for row in self.rows))


def make_table(
    board: Board, bases: Sequence[str] | None = None, how: Bootstrap | None = None, *, kinds: bool = True
) -> Table:
    """Average a board; with `kinds` also over each type of edit."""
    how = how or Bootstrap()
    heads = headings(board, bases)
    wanted = (ALL, *(board.kinds if kinds and len(board.kinds) > 1 else ()))
    rows = tuple(row for kind in wanted for row in _rows(board, kind, heads, how))
    return Table(
        board.task, board.mode, board.setup, heads, rows, how, tuple(_notes(board, heads, rows)), board.data, board.hash
    )


def _rows(board: Board, kind: str, heads: Sequence[Heading], how: Bootstrap) -> Iterator[Row]:
    for name in board.rows:
        cells = [cell for cell in board.cells if cell.row == name and kind in (ALL, cell.kind)]
        if not cells:
            continue
        made = [cell for cell in cells if cell.picture is not None]
        scored = [cell for cell in made if cell.key in board.lines]
        figures = {head.name: figure([board.value(cell, head.name) for cell in scored], how) for head in heads}
        counts = (len(cells), len(cells) - len(made), len(made) - len(scored))
        models = tuple(sorted({str(cell.settings["model"]) for cell in cells if "model" in cell.settings}))
        yield Row(name, kind, figures, *counts, environment(made), uses(made), models)


def values_of(board: Board, row: str, name: str, kind: str = ALL) -> dict[str, float | None]:
    """A row's values by case."""
    cells = [cell for cell in board.cells if cell.row == row and kind in (ALL, cell.kind) and cell.key in board.lines]
    return {cell.case: board.value(cell, name) for cell in cells}


def environment(cells: Sequence[Cell]) -> str:
    """What the cells were made with; where they do not agree, every way with its number of cases."""
    several = len({_settings(cell) for cell in cells}) > 1
    told: dict[str, int] = {}
    for cell in cells:
        text = _environment(cell) + (f", settings {_settings(cell)}" if several else "")
        told[text] = told.get(text, 0) + 1
    if len(told) == 1:
        return next(iter(told))
    return " | ".join(f"{count} cases: {text}" for text, count in sorted(told.items(), key=lambda item: -item[1]))


def _settings(cell: Cell) -> str:
    """A short name of the settings, to tell mixed ones apart."""
    return hashlib.sha256(json.dumps(cell.settings, sort_keys=True, default=str).encode()).hexdigest()[:6]


def _environment(cell: Cell) -> str:
    """All of an environment in one line: `weights 1a2b3c, device cpu, dtype float32, seed 0, torch 2.13 ...`."""
    told = {**cell.environment}
    if "seed" in cell.settings:
        told.setdefault("seed", cell.settings["seed"])
    if cell.attempts > 1:
        told["attempts"] = cell.attempts
    skipped = ("mask_used", "blend_used")
    return ", ".join(f"{key} {_flat(value)}" for key, value in told.items() if key not in skipped)


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items()) + ")"  # pyright: ignore
    return str(value)


def uses(cells: Sequence[Cell]) -> str:
    """The disclosure of a row: in how many cases the true mask and the blend words were used."""
    masked, blended = sum(cell.masked for cell in cells), sum(cell.blended for cell in cells)
    counts = {"true mask": masked, "blend words": blended}
    told = [what if n == len(cells) else f"{what} in {n} of {len(cells)}" for what, n in counts.items() if n]
    return ", ".join(told)


def _notes(board: Board, heads: Sequence[Heading], rows: Sequence[Row]) -> Iterator[str]:
    """What a reader of the table has to know."""
    arithmetic = {
        "compat": "the published evaluator's arithmetic to the letter (masked-out pixels are black in both pictures, "
        "the border counts as edited, DINO sees 0..255)",
        "strict": "means over the region's own pixels, networks fed the range they were trained on",
    }
    yield f"Mode {board.mode}: {arithmetic[board.mode]}. Values of the two modes must not be compared."
    asked = {cell.case for cell in board.cells}
    yield f"Data: {board.data or 'not told'}, {len(asked)} cases, hash {board.hash}."
    if board.standing.said:
        yield board.standing.said
    jpeg = "compressed as JPEG of quality 75 first" if board.setup.get("jpeg75") else "scored as lossless PNG"
    size = board.setup.get("size")
    down = f" Larger results were brought down to {size} x {size} pixels first (bicubic)." if size else ""
    yield f"Results were {jpeg}.{down} Scored by reinvert {board.setup.get('version', '')}."
    networks = board.setup.get("networks") or {}
    if networks:
        yield "Networks: " + "; ".join(f"{need}: {told}" for need, told in sorted(networks.items())) + "."
    for head in heads:
        if head.reason and not any(row.figures[head.name].n for row in rows):
            yield f"{head.text} is empty: {head.reason}."
    overall = [row for row in rows if row.kind == ALL]
    for text, counts in (
        ("failed", {row.name: row.failed for row in overall}),
        ("have no score yet", {row.name: row.unscored for row in overall}),
        (
            "have an infinite PSNR (the very same picture), left out of the mean unless all have",
            {row.name: max((f.infinite for f in row.figures.values()), default=0) for row in overall},
        ),
    ):
        found = [f"{count} of {name}" for name, count in counts.items() if count]
        if found:
            yield f"Cases that {text}: {', '.join(found)}."
    numbers = {row.cells for row in overall}
    if len(numbers) > 1:
        yield f"Rows have different numbers of cases ({min(numbers)} to {max(numbers)}): compare them in pairs."
    if board.others:
        yield f"{board.others} scores of other set-ups are in this folder and are not shown."
    if board.superseded:
        yield f"{board.superseded} records are left out: newer ones of the same rows and cases are there."
