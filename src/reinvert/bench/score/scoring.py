"""Scores a run: the columns of `bench.score.columns` for every record, appended to a file of its own for each mode.

A run folder holds the runner's records and pictures; what is added here is `scores-compat.jsonl` and
`scores-strict.jsonl`, one line per record. A line tells its set-up (mode, networks with their digests, JPEG, versions
of the evaluator's libraries, reinvert's version): lines of different set-ups never meet in a table. A line is written
once its batch is computed, so that a killed scoring goes on where it was; a torn last line is ignored and computed
again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Final, cast, get_args

from filelock import FileLock, Timeout
from PIL import Image

import reinvert
from reinvert.bench.case import TYPES, EditCase, content_hash
from reinvert.bench.records import ROUND_TRIP, TRIVIAL, Records, Task, append_lines, read_about
from reinvert.bench.score.columns import COLUMNS, CURRENT, Comparison, Libraries, Networks, Scores, column, score_all
from reinvert.bench.score.success import Judge, Question, question_of
from reinvert.bench.verdict import Standing, standing
from reinvert.errors import ReinvertError
from reinvert.files import shown
from reinvert.files.run import ScoreLine, inside_run, own_file, read_line
from reinvert.image import Picture, fit_mask, open_image, plan_fit
from reinvert.metrics.base import Mode

MODES: Final[tuple[Mode, ...]] = get_args(Mode)

BESIDE_ROUND_TRIP: Final = "_round_trip"
"""What the name of a column ends in that compares with the VAE's round trip instead of the picture."""
RECONSTRUCTION = ("mse", "psnr", "ssim", "lpips", "structure_distance")
"""The columns of the reconstruction task, each against the picture and against the VAE's round trip."""


# --- records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A record of the run as scores and reports read it: one recipe on one case."""

    key: str
    case: str
    kind: str
    """The type of the edit."""
    row: str
    """The recipe's name; in the reconstruction task with what is told and the guidance."""
    task: Task = "edit"
    picture: Path | None = None
    """The result; None where the cell failed."""
    failure: str = ""
    seconds: float | None = None
    forwards: float | None = None
    backwards: float | None = None
    memory: float | None = None
    """Peak memory in bytes."""
    masked: bool = False
    """Whether the method was given the true mask."""
    blended: bool = False
    """Whether it was given the blend words."""
    attempts: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprint: str = ""
    """Of the case as it was edited; empty where the record tells none."""


@dataclass(frozen=True)
class Run:
    """A run folder: its cells by key, and what it says of its data."""

    folder: Path
    cells: Mapping[str, Cell]
    data: str = ""
    superseded: int = 0
    """How many records are left out because a newer one of the same row and case is there."""
    name: str = ""
    """What its data is called, wherever it lies."""
    hash: str = ""
    """A hash of its cases, as they were when they were asked (`bench.case.content_hash`)."""

    def of(self, task: Task) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.task == task]

    @cached_property
    def by_case(self) -> Mapping[str, list[Cell]]:
        """The cells of each case."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells.values():
            found.setdefault(cell.case, []).append(cell)
        return found

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(task for task in get_args(Task) if self.of(task))


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Read a run folder. Raises `ReinvertError` where there are no records."""
    place = Path(folder)
    if not place.is_dir():
        raise ReinvertError(f"{place} is no folder; name the --out of a `reinvert bench run`")
    records = Records(place).refresh()
    cells: dict[tuple[str, str, str], Cell] = {}
    for told in records.values():
        cell = _cell(place, told)
        same = (cell.task, cell.row, cell.case)
        if same not in cells or cell.picture is not None or cells[same].picture is None:
            cells[same] = cell  # a newer run of the row on the case: other weights, settings or code
    if not cells:
        raise ReinvertError(f"{place} holds no records; fill it with `reinvert bench run --out {place}`")
    order = sorted(cells.values(), key=lambda cell: (cell.case, cell.row))
    about = read_about(place)
    data = str(about.get("data", ""))
    name = str(about.get("name") or data)
    prints = {str(told["case"]): str(told.get("fingerprint", "")) for told in records.values()}
    return Run(place, {cell.key: cell for cell in order}, data, len(records) - len(cells), name, content_hash(prints))


def _cell(folder: Path, told: Mapping[str, Any]) -> Cell:
    """A record as reports read it: the only place that knows how the runner writes one."""
    image, failure, kind = told.get("image"), str(told.get("error") or ""), str(told.get("type", ""))
    environment: dict[str, Any] = dict(told.get("environment") or {})
    if told.get("overrides"):
        environment["overrides"] = told["overrides"]
    return Cell(
        key=str(told["key"]),
        case=str(told.get("case", "")),
        kind=TYPES.get(kind, kind),
        row=str(told.get("recipe", "")),
        task="reconstruct" if told.get("task") == "reconstruct" else "edit",
        picture=inside_run(folder, str(image)) if image and not failure else None,
        failure=failure or ("" if image else "the record names no image"),
        seconds=_number(told.get("seconds")),
        forwards=_number(told.get("forwards")),
        backwards=_number(told.get("backwards")),
        memory=_number(told.get("memory")),
        masked=bool(told.get("mask_used")),
        blended=bool(told.get("blend_used")),
        attempts=int(told.get("attempts") or 1),
        settings=told.get("settings") or {},
        environment=environment,
        fingerprint=str(told.get("fingerprint") or ""),
    )


def _number(value: Any) -> float | None:
    return None if value is None or isinstance(value, bool | str) else float(value)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines. A line that is not whole was torn by a kill, and is skipped."""
    if not own_file(path):
        return
    with path.open("rb") as lines:
        for line in lines:
            told = read_line(ScoreLine, line, f"a line of {shown(path)}")
            if told is not None:
                yield told


# --- scores ------------------------------------------------------------------------------------------------------


_DRAWING: Final = (
    "scene", "palette", "shapes", "draw", "fine", "figures", "textures", "places", "edits", "reader",
)  # fmt: skip
MEASURES: Final = (
    "metrics", "networks", "bench/score", "bench/case.py", "bench/data",
    "image.py", *(f"picturebook/{name}.py" for name in _DRAWING),
)  # fmt: skip
"""The code that decides a score: what measures, and what gives the picture, its mask and its true edit."""


@cache
def scoring_version() -> str:
    """reinvert's version with a hash of the code that scores pictures."""
    root, told = Path(reinvert.__file__).parent, hashlib.sha256()
    files = [
        path for part in MEASURES for path in ((root / part).glob("*.py") if (root / part).is_dir() else [root / part])
    ]
    for path in sorted(files):
        told.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{reinvert.__version__}+{told.hexdigest()[:12]}"


SIZE: Final = 512
"""The side in pixels of PIE-Bench's pictures, at which every paper scores, whatever size its model works at."""


@dataclass(frozen=True)
class Setup:
    """How scores are made. Lines of two set-ups are never averaged."""

    mode: Mode
    jpeg75: bool = False
    libraries: Libraries = CURRENT
    networks: Mapping[str, str] = field(default_factory=dict[str, str])
    """`Networks.describe()`: names and digests, or why there is none."""
    columns: tuple[str, ...] = tuple(COLUMNS)
    version: str = field(default_factory=scoring_version)
    """Of the code that scores."""
    size: int = SIZE
    """Larger results are brought down to this side in pixels (bicubic), so that models of any size meet at one."""

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 65_536:
            raise ReinvertError(f"scores are made at a size between 16 and 65,536 pixels, not {self.size}")
        if str(self.mode) not in get_args(Mode):
            raise ReinvertError(f"there is no mode {self.mode!r}: use strict or compat")
        if self.mode == "strict" and self.libraries != CURRENT:
            raise ReinvertError(
                "versions of the published evaluator's libraries are a matter of compat: leave them out"
            )
        for name in self.columns:
            column(name)

    @property
    def told(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def key(self) -> str:
        """A short name of everything above."""
        return hashlib.sha256(json.dumps(self.told, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Line:
    """One record's values by column name, and the reasons for those that are None; or why it could not be scored."""

    key: str
    values: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])
    failure: str = ""


def scores_path(folder: Path, mode: str) -> Path:
    return folder / f"scores-{mode}.jsonl"


def score_run(
    run: Run,
    cases: Mapping[str, EditCase],
    setup: Setup,
    networks: Networks,
    judge: Judge | None = None,
    *,
    batch: int = 16,
) -> Iterator[Line]:
    """Score what has no score of this set-up yet, `batch` records at a time; each line is on the disk when it comes.
    With a `judge`, edits of cases whose attributes are known have the columns of `bench.score.success` too.

    A record whose picture or case cannot be read comes with its reason and is tried again by the next scoring.
    Raises `ReinvertError` while another process scores this run in the same mode.
    """
    path = scores_path(run.folder, setup.mode)
    with _alone(path):
        found = list(read_lines(path))
        done = {told["key"] for told in found if told.get("setup") == setup.key and told.get("values") is not None}
        newest = next((told["setup"] for told in reversed(found) if told.get("about") is not None), "")
        trips = _round_trips(run)
        todo = [cell for cell in run.cells.values() if cell.picture is not None and cell.key not in done]
        if newest != setup.key:  # reports show the set-up that was asked for last
            _append(path, [{"key": "", "setup": setup.key, "about": setup.told}])
        for lines in _batches(todo, trips, cases, setup, networks, judge, batch):
            _append(path, [_written(line, setup) for line in lines if not line.failure])
            yield from lines


def computed(
    run: Run,
    cells: Sequence[Cell],
    cases: Mapping[str, EditCase],
    setup: Setup,
    networks: Networks,
    judge: Judge | None = None,
    *,
    batch: int = 16,
) -> Iterator[Line]:
    """The scores of these cells as `score_run` computes them; nothing is written."""
    for lines in _batches(cells, _round_trips(run), cases, setup, networks, judge, batch):
        yield from lines


def _round_trips(run: Run) -> dict[str, Cell]:
    return {cell.case: cell for cell in run.cells.values() if cell.row == ROUND_TRIP and cell.picture}


def _batches(
    todo: Sequence[Cell],
    trips: Mapping[str, Cell],
    cases: Mapping[str, EditCase],
    setup: Setup,
    networks: Networks,
    judge: Judge | None,
    batch: int,
) -> Iterator[list[Line]]:
    open_case = lru_cache(maxsize=batch)(partial(_opened, cases))  # a case's rows follow each other
    for start in range(0, len(todo), batch):
        yield _scored(todo[start : start + batch], open_case, trips, setup, networks, judge)


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """Hold the lock on a score file; the kernel lets go of it when a process dies."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ReinvertError(f"another process is writing {path.name}; wait until it is done") from error
    try:
        yield
    finally:
        lock.release()


def _append(path: Path, told: Sequence[Mapping[str, Any]]) -> None:
    """Append lines and see them on the disk. A torn last line is ended first."""
    text = "".join(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n" for line in told)
    append_lines(path, text.encode())


def _written(line: Line, setup: Setup) -> dict[str, Any]:
    """JSON has no infinity: it is written as a word."""
    values = {name: str(v) if v is not None and not math.isfinite(v) else v for name, v in line.values.items()}
    return {"key": line.key, "setup": setup.key, "mode": setup.mode, "values": values, "reasons": dict(line.reasons)}


def _scored(
    cells: Sequence[Cell],
    open_case: Callable[[str], _Case],
    trips: Mapping[str, Cell],
    setup: Setup,
    networks: Networks,
    judge: Judge | None,
) -> list[Line]:
    """One line per cell, in order; a batch that holds an unreadable picture loses only that picture."""
    lines: dict[str, Line] = {}
    shown: dict[Task, list[tuple[Cell, Comparison]]] = {task: [] for task in get_args(Task)}
    beside: list[tuple[Cell, Comparison]] = []
    for cell in cells:
        try:
            item = _comparison(cell, _same(cell, open_case(cell.case)), setup.size)
            shown[cell.task].append((cell, item))
            if cell.task == "reconstruct" and cell.case in trips:
                trip = _at_most(open_image(cast(Path, trips[cell.case].picture)), setup.size)
                beside.append((cell, Comparison(trip, item.edited)))
        except (ReinvertError, OSError) as error:
            lines[cell.key] = Line(cell.key, failure=str(error))
    wanted: dict[Task, Collection[str]] = {
        "edit": setup.columns,
        "reconstruct": [name for name in RECONSTRUCTION if name in setup.columns],
    }
    for task, pairs in shown.items():
        for cell, scores in _all(pairs, wanted[task], setup, networks):
            lines[cell.key] = Line(cell.key, scores.values, scores.reasons)
    if judge is not None:
        asked = [(cell, item.edited, open_case(cell.case).question) for cell, item in shown["edit"]]
        judged = [(cell, (edited, question)) for cell, edited, question in asked if question is not None]
        for (cell, _), values in zip(judged, judge.read([item for _, item in judged]), strict=True):
            lines[cell.key] = replace(lines[cell.key], values={**lines[cell.key].values, **values})
    for cell, scores in _all(beside, wanted["reconstruct"], setup, networks):
        if cell.key in lines and not lines[cell.key].failure:
            lines[cell.key] = _joined(lines[cell.key], scores)
    return [lines[cell.key] for cell in cells]


def _all(
    pairs: Sequence[tuple[Cell, Comparison]], columns: Collection[str], setup: Setup, networks: Networks
) -> Iterable[tuple[Cell, Scores]]:
    items = [item for _, item in pairs]
    if not items or not columns:
        return ()
    more: dict[str, Any] = {"jpeg75": setup.jpeg75, "libraries": setup.libraries, "columns": columns}
    made = score_all(items, setup.mode, networks, **more)
    return zip([cell for cell, _ in pairs], made, strict=True)


def _joined(line: Line, beside: Scores) -> Line:
    """A reconstruction's line with the columns against the round trip."""

    def named(told: Mapping[str, Any]) -> dict[str, Any]:
        return {_beside(name): value for name, value in told.items()}

    return Line(line.key, {**line.values, **named(beside.values)}, {**line.reasons, **named(beside.reasons)})


def _beside(name: str) -> str:
    """`lpips[alex]` becomes `lpips_round_trip[alex]`."""
    base, bracket, model = name.partition("[")
    return f"{base}{BESIDE_ROUND_TRIP}{bracket}{model}"


@dataclass(frozen=True)
class _Case:
    """What a case shows, drawn or decoded once for all rows."""

    told: EditCase
    picture: Picture
    mask: Picture | None
    true_edit: Picture | None
    question: Question | None = None


def _opened(cases: Mapping[str, EditCase], name: str) -> _Case:
    if name not in cases:
        raise ReinvertError(f"case {name} is not in the data; name the data of the run with --data")
    case = cases[name]
    mask = case.mask()
    masked = None if mask is None else Image.fromarray(mask)
    return _Case(case, case.picture(), masked, case.true_edit(), question_of(case.attributes()))


def _same(cell: Cell, case: _Case) -> _Case:
    """The case, if it is still the one that was edited; scores of other prompts, masks or pictures would mix."""
    if cell.fingerprint and cell.fingerprint != case.told.fingerprint:
        raise ReinvertError(
            f"case {cell.case} was edited with another picture, prompt, mask or word than the data has now; name the "
            "data of the run with --data, or run it again in another folder"
        )
    return case


def _comparison(cell: Cell, case: _Case, size: int) -> Comparison:
    """The case beside the result, at the result's size, but at most `size`; as the model saw it (the centre square)."""
    edited = _at_most(open_image(cast(Path, cell.picture)), size)
    source = _fitted(case.picture, edited)
    if cell.task == "reconstruct":
        return Comparison(source, edited)
    return Comparison(
        source,
        edited,
        None if case.mask is None else _fitted_mask(case.mask, edited),
        case.told.source_prompt or None,
        case.told.target_prompt or None,
        None if case.true_edit is None else _fitted(case.true_edit, edited),
    )


def _at_most(picture: Picture, size: int) -> Picture:
    """A larger square brought down to `size`; Pillow's bicubic filter widens with the factor, so nothing aliases."""
    if picture.width != picture.height or picture.width <= size:
        return picture
    return picture.resize((size, size), Image.Resampling.BICUBIC)


def _fitted(picture: Picture, like: Picture) -> Picture:
    if picture.size == like.size:
        return picture
    fit = plan_fit(picture.size, min(like.size), 1)
    if fit.size != like.size:
        raise ReinvertError(f"the result is {like.width}x{like.height}: only square results can be scored")
    return picture.crop(fit.box).resize(fit.size, Image.Resampling.BICUBIC)


def _fitted_mask(mask: Picture, like: Picture) -> Picture:
    return mask if mask.size == like.size else fit_mask(mask, plan_fit(mask.size, min(like.size), 1))


# --- what a report reads -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Board:
    """All scores of one task in one mode and one set-up."""

    task: Task
    mode: Mode
    setup: Mapping[str, Any]
    cells: tuple[Cell, ...]
    """Every cell of the task, failed ones too, in the order of cases and rows."""
    lines: Mapping[str, Line]
    """By the cell's key; a cell that is not scored has none."""
    others: int = 0
    """How many lines of other set-ups the file holds; they are not shown."""
    superseded: int = 0
    """How many records of the run are left out because a newer one is there."""
    data: str = ""
    """What the run's data is called."""
    hash: str = ""
    """Of the run's cases: all that was asked."""
    standing: Standing = field(default_factory=lambda: Standing(False, ""))
    """Whether the run is verified."""

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows: the trivial ones first, the others sorted."""
        names = {cell.row for cell in self.cells}
        first = [name for name in TRIVIAL if name in names]
        return (*first, *sorted(names - set(first)))

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({cell.kind for cell in self.cells}))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that some line names, by name."""
        return tuple(sorted({name for line in self.lines.values() for name in line.values}))

    def reason(self, name: str) -> str:
        """Why a column has no values, where that is said."""
        told = {line.reasons[name] for line in self.lines.values() if name in line.reasons}
        return "; ".join(sorted(told))

    def value(self, cell: Cell, name: str) -> float | None:
        """A cell's value in a column, its costs among them; None where there is none."""
        if name in ("seconds", "forwards", "backwards", "memory"):
            return getattr(cell, name) if cell.picture is not None else None
        line = self.lines.get(cell.key)
        return None if line is None else line.values.get(name)


def read_board(run: Run, mode: str, task: Task = "edit") -> Board:
    """The newest set-up's scores of a mode. Raises `ReinvertError` where the mode has none."""
    lines: dict[str, dict[str, Line]] = {}
    abouts: dict[str, Mapping[str, Any]] = {}
    newest = ""
    for told in read_lines(scores_path(run.folder, mode)):
        key = str(told.get("setup", ""))
        if told.get("about") is not None:
            abouts[key], newest = told["about"], key
        elif told.get("values") is not None:
            values = {name: None if value is None else float(value) for name, value in told["values"].items()}
            lines.setdefault(key, {})[told["key"]] = Line(told["key"], values, told.get("reasons") or {})
    if not lines or newest not in abouts:
        raise ReinvertError(
            f"{run.folder} has no scores in {mode}; make them with `reinvert bench score {run.folder} --mode {mode}`"
        )
    cells = tuple(run.of(task))
    keys = {cell.key for cell in cells}
    shown = {key: line for key, line in lines.get(newest, {}).items() if key in keys}
    others = sum(len(set(found) & keys) for setup, found in lines.items() if setup != newest)
    about = abouts[newest]
    return Board(
        task, cast(Mode, mode), about, cells, shown, others, run.superseded, run.name, run.hash, standing(run.folder)
    )


def setup_of(about: Mapping[str, Any]) -> Setup:
    """The set-up that a board's line tells."""
    libraries = Libraries(**about.get("libraries", {}))
    told: dict[str, Any] = {name: about[name] for name in ("mode", "jpeg75", "networks", "version")}
    told |= {name: about[name] for name in ("size",) if name in about}
    return Setup(**told, libraries=libraries, columns=tuple(about["columns"]))
