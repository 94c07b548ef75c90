"""Runs a plan: claims a unit, makes its pictures, records them, and goes on until nothing is left.

A cell's record is written after its picture is in place, and all of a batch's records with one write. A process that is
killed leaves no record of what it had not finished; the batch is then made again, whole, so that its results do not
depend on the kill. A cell that fails (out of memory, not finite, a damaged picture) is tried again with half the batch,
down to one case, and then in float32; what still fails is recorded with its reason, and the run goes on.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from reinvert import registry, verbs
from reinvert.backbones import Backbone, load
from reinvert.backbones.base import Tally
from reinvert.backbones.loading import pick_device
from reinvert.backbones.meter import Meter
from reinvert.bench.case import EditCase
from reinvert.bench.records import Claims, Record, Records, running, write_image
from reinvert.bench.run.plan import Cell, Plan, Row, Unit, code_version
from reinvert.errors import ReinvertError
from reinvert.image import as_rgb, fit_image, fit_mask, to_image
from reinvert.recipes import Recipe
from reinvert.trained.base import Trained
from reinvert.trajectory import Trajectory

SAFE_DTYPE: Final = "float32"
WAIT: Final = 0.5
"""Seconds between two looks at what other processes have claimed."""
PACKAGES: Final = ("torch", "diffusers", "transformers", "numpy", "pillow")


@dataclass(frozen=True)
class Cost:
    """What something took, of the device and of the clock."""

    seconds: float = 0.0
    forwards: int = 0
    backwards: int = 0
    memory: int | None = None

    def __add__(self, other: Cost) -> Cost:
        peaks = [peak for peak in (self.memory, other.memory) if peak is not None]
        return Cost(
            self.seconds + other.seconds,
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            max(peaks, default=None),
        )


@dataclass(frozen=True)
class Given:
    """A case that has been opened."""

    case: EditCase
    picture: Image.Image
    mask: Image.Image | None


@dataclass(frozen=True)
class Made:
    """The pictures of one row on a batch, in the order of its cases; `inversion` is a part of `cost`."""

    pictures: tuple[Image.Image, ...]
    cost: Cost
    inversion: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Outcome:
    """What became of one case of a row: a picture, or a reason."""

    case: EditCase
    picture: Image.Image | None = None
    error: str = ""
    cost: Cost = field(default_factory=Cost)
    inversion: Cost = field(default_factory=Cost)
    attempts: int = 1
    together: tuple[str, ...] = ()
    """The ids of the cases that were made with it, itself among them."""
    dtype: str = ""

    @property
    def batch(self) -> int:
        return max(1, len(self.together))


@dataclass(frozen=True)
class Share:
    """Which part of a plan a worker begins with; in the end, each does what is left."""

    index: int = 0
    count: int = 1

    def of(self, units: Sequence[Unit]) -> list[Unit]:
        start = self.index * len(units) // self.count
        return [*units[start:], *units[:start]]


@dataclass(frozen=True)
class Job:
    """A plan, the folder that it fills and the device that it runs on. `again`: do failed cells once more."""

    plan: Plan
    folder: Path
    device: str = "auto"
    again: bool = False


def work(job: Job, share: Share | None = None) -> Iterator[Record]:
    """Do what is left of a plan, until nothing is; yields the record of every cell that this process has done.

    Other processes may do the same on the same folder: units that they have claimed are waited for, and done if they
    die.
    """
    plan, folder = job.plan, job.folder
    folder.mkdir(parents=True, exist_ok=True)
    records, claims = Records(folder), Claims(folder)
    todo = (share or Share()).of(plan.units)
    found = records.refresh()
    failures = {key: told for key, told in found.items() if job.again and told.get("error")}
    maker = Maker(plan, pick_device(job.device))

    def is_left(key: str) -> bool:
        return key not in found or found[key] == failures.get(key)

    try:
        with running(folder):
            while todo:
                waiting: list[Unit] = []
                records.refresh()
                for unit in todo:
                    keys = list(filter(is_left, unit.keys))
                    if not keys:
                        continue
                    if not claims.take(keys):
                        waiting.append(unit)
                        continue
                    try:
                        records.refresh()  # what another process finished between our look and our claim
                        for batch in maker.make(unit, list(filter(is_left, keys))):
                            for record, picture in batch:
                                if picture is not None and record.image is not None:
                                    write_image(folder, record.image, record.key, picture)
                            told = [record for record, _ in batch]
                            records.append(told)
                            yield from told
                    finally:
                        claims.drop(keys)
                if len(waiting) == len(todo):
                    time.sleep(WAIT)
                todo = waiting
    finally:
        claims.close()


Finished = tuple[Record, Image.Image | None]


class Maker:
    """Makes the pictures of units. Holds one model at a time, and the inversions of the unit that it is at."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self._loaded: tuple[tuple[str, str, str], Any] | None = None
        self._inverted: dict[tuple[str, ...], tuple[Trajectory, Cost] | str] = {}

    def holding(self, other: Maker) -> Maker:
        """Take over the model that another maker on the same device holds."""
        self._loaded = other._loaded
        return self

    def make(self, unit: Unit, keys: Collection[str]) -> Iterator[list[Finished]]:
        """The records of these cells of a unit with their pictures, a row at a time.

        A row that has a cell to be done is made on the unit's whole batch, so that its results are the same however
        many of them were there.
        """
        given, unread = self._open(unit.cases)
        try:
            for row in unit.rows:
                mine = {cell.case.id: cell for cell in unit.cells if cell.row.name == row.name}
                if not any(cell.key in keys for cell in mine.values()):
                    continue
                batch = [item for item in given if item.case.id in mine]
                bad = [out for out in unread if out.case.id in mine]
                outcomes = [*bad, *(self._all(row, batch) if batch else ())]
                found = [(mine[out.case.id], out) for out in outcomes if mine[out.case.id].key in keys]
                yield [(self._record(cell, out), out.picture) for cell, out in found]
        finally:
            self._inverted.clear()

    def _open(self, cases: Sequence[EditCase]) -> tuple[list[Given], list[Outcome]]:
        """The cases that can be read, and the failures of the others."""
        given: list[Given] = []
        unread: list[Outcome] = []
        for case in cases:
            try:
                mask = case.mask()
                given.append(Given(case, as_rgb(case.picture()), None if mask is None else Image.fromarray(mask)))
            except Exception as error:  # whatever a damaged file makes a decoder raise
                unread.append(Outcome(case, error=_reason(error), dtype=self.plan.dtype))
        return given, unread

    def _all(self, row: Row, batch: Sequence[Given]) -> Iterator[Outcome]:
        self._ready(row, self.plan.dtype)  # a model that cannot be loaded is no failure of a case: it stops the run
        for part in [[item] for item in batch] if row.kind == "trained" else [batch]:
            yield from self._tried(row, part, self.plan.dtype)

    def _tried(self, row: Row, batch: Sequence[Given], dtype: str, attempt: int = 1) -> Iterator[Outcome]:
        """Make a row on a batch; where that fails, on its halves, and on a single case in float32."""
        try:
            made = self._made(row, batch, dtype)
        except Exception as error:
            self._check_device(error)
            made = _reason(error)
        # Outside of the handler: the error holds on to the frames, and these to the memory that ran out.
        if isinstance(made, Made):
            yield from _outcomes(batch, made, attempt, dtype)
            return
        self._clear()
        if len(batch) > 1:
            half = len(batch) // 2
            yield from self._tried(row, batch[:half], dtype, attempt + 1)
            yield from self._tried(row, batch[half:], dtype, attempt + 1)
        elif dtype != SAFE_DTYPE:
            yield from self._tried(row, batch, SAFE_DTYPE, attempt + 1)
        else:
            yield Outcome(batch[0].case, error=made, attempts=attempt, dtype=dtype)

    # --- one row on one batch ------------------------------------------------------------------------------------

    def _made(self, row: Row, batch: Sequence[Given], dtype: str) -> Made:
        if row.kind == "trained":
            return self._trained(row, batch, dtype)
        if row.kind in ("copy", "true-edit"):
            return self._shown(row, batch, dtype)
        model = self._model(row.model, dtype)
        if row.kind == "vae":
            return self._round_trip(model, batch)
        return self._edited(row, model, batch, dtype) if row.kind == "edit" else self._again(row, model, batch, dtype)

    def _shown(self, row: Row, batch: Sequence[Given], dtype: str) -> Made:
        """The pictures as the model sees them, or their true edits; made of nothing."""
        model = self._model(row.model, dtype)
        pictures = [item.picture if row.kind == "copy" else _truth(item.case) for item in batch]
        # Not enlarged to a model of larger pictures: a copy is to be one.
        return Made(tuple(fit_image(p, min(model.image_size, *p.size), 1)[0] for p in pictures), Cost())

    def _round_trip(self, model: Backbone, batch: Sequence[Given]) -> Made:
        with torch.no_grad():
            decoded, cost = self._measured(
                model.tally, lambda: model.decode(verbs.prepare(model, [item.picture for item in batch]).latents)
            )
        return Made(tuple(map(to_image, decoded)), cost)

    def _edited(self, row: Row, model: Backbone, batch: Sequence[Given], dtype: str) -> Made:
        recipe = row.recipe
        assert recipe is not None
        masks = _masks(recipe, batch)
        trajectory, inversion = self._inversion(row, model, batch, dtype)
        results, cost = self._measured(
            model.tally,
            lambda: recipe.edit(
                model,
                trajectory,
                [item.case.target_prompt for item in batch],
                [item.case.blend for item in batch],
                masks,
            ),
        )
        return Made(tuple(result.image for result in results), inversion + cost, inversion)

    def _again(self, row: Row, model: Backbone, batch: Sequence[Given], dtype: str) -> Made:
        """The reconstruction: the source rendered again, with no edit."""
        recipe = row.recipe
        assert recipe is not None
        trajectory, inversion = self._inversion(row, model, batch, dtype)
        told: dict[str, Any] = {"guidance": recipe.guidance, "batch_size": len(batch)}
        results, cost = self._measured(model.tally, lambda: verbs.reconstruct(model, trajectory, **told))
        results = results if isinstance(results, list) else [results]
        return Made(tuple(result.image for result in results), inversion + cost, inversion)

    def _inversion(self, row: Row, model: Backbone, batch: Sequence[Given], dtype: str) -> tuple[Trajectory, Cost]:
        """The batch's inversion, which all rows of a unit share. Where it failed, it fails the same way again."""
        recipe = row.recipe
        assert recipe is not None
        key = (recipe.inversion_key, dtype, *(item.case.id for item in batch))
        if key not in self._inverted:
            pictures, sources = [item.picture for item in batch], [item.case.source_prompt for item in batch]
            masks = _masks(recipe, batch)
            try:
                self._inverted[key] = self._measured(
                    model.tally, lambda: recipe.invert(model, pictures, sources, masks)
                )
            except Exception as error:
                self._inverted[key] = _reason(error)
                raise
        found = self._inverted[key]
        if isinstance(found, str):
            raise ReinvertError(found)
        return found

    def _trained(self, row: Row, batch: Sequence[Given], dtype: str) -> Made:
        """Trained editors take one picture at a time; here the square that other rows have."""
        recipe = row.recipe
        assert recipe is not None
        assert len(batch) == 1
        case, editor, pipe = batch[0].case, _trained_editor(row), self._ready(row, dtype)
        text = case.instruction if editor.reads == "instruction" else case.target_prompt
        if not text:
            raise ReinvertError(f"case {case.id} has no instruction, which {editor.name} needs")
        picture, fit = fit_image(batch[0].picture, *editor.grid(pipe))
        mask = batch[0].mask if editor.needs_mask else None
        mask = None if mask is None else fit_mask(mask, fit)
        result, cost = self._measured(Tally(), lambda: editor.edit(pipe, picture, text, mask=mask, seed=recipe.seed))
        return Made((result.image,), replace(cost, forwards=result.forwards))

    # --- models and the device -----------------------------------------------------------------------------------

    def _ready(self, row: Row, dtype: str) -> Any:
        """What the row is made with: a backbone, or a trained editor's pipeline."""
        if row.kind != "trained":
            return self._model(row.model, dtype)
        return self._cached(row.model, dtype, row.name, lambda: _trained_editor(row).load(self.device, dtype))

    def _model(self, name: str, dtype: str) -> Backbone:
        return self._cached(name, dtype, "", lambda: load(name, self.device, dtype))

    def _cached(self, name: str, dtype: str, what: str, make: Callable[[], Any]) -> Any:
        """The model that is held; another one only after that is gone."""
        if self._loaded is None or self._loaded[0] != (name, dtype, what):
            self._loaded = None
            self._clear()
            self._loaded = ((name, dtype, what), make())
        return self._loaded[1]

    def _measured(self, tally: Tally, make: Callable[[], Any]) -> tuple[Any, Cost]:
        """What `make` gives, and what it took."""
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        meter = Meter(tally)
        made = make()
        if on_cuda:
            torch.cuda.synchronize(self.device)
        spent = vars(meter.spent())
        memory = torch.cuda.max_memory_allocated(self.device) if on_cuda else None
        return made, Cost(**spent, memory=memory)

    def _clear(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _check_device(self, error: BaseException) -> None:
        """Raise the error again if the device is lost: every cell after it would fail, and none of them by itself."""
        if self.device.type != "cuda" or isinstance(error, torch.cuda.OutOfMemoryError):
            return
        try:
            torch.cuda.synchronize(self.device)
        except RuntimeError as lost:
            raise error from lost

    def _record(self, cell: Cell, out: Outcome) -> Record:
        row, case = cell.row, cell.case
        recipe = row.recipe
        made, computed = out.picture is not None, out.picture is not None and recipe is not None
        cost, inversion = out.cost, out.inversion
        return Record(
            key=cell.key,
            case=case.id,
            type=case.type_id,
            recipe=row.name,
            task=row.task,
            settings=row.settings,
            fingerprint=self.plan.fingerprints[case.id],
            image=row.image(case.id) if made else None,
            error=out.error,
            seconds=round(cost.seconds / out.batch, 4) if made else None,
            inversion_seconds=round(inversion.seconds / out.batch, 4) if computed else None,
            forwards=_each(cost.forwards, out.batch) if made else None,
            backwards=_each(cost.backwards, out.batch) if made else None,
            memory=cost.memory,
            attempts=out.attempts,
            batch=out.batch,
            together=out.together,
            mask_used=computed and uses_mask(row, case),
            blend_used=computed and uses_blend(row, case),
            overrides=self.plan.asked.overrides if recipe is not None else {},
            environment={
                "weights": row.weights,
                "code": code_version(),
                "device": _device_name(self.device),
                **({"machine": _machine()} if self.device.type == "cpu" else {}),
                "dtype": out.dtype,
                "seed": None if recipe is None else recipe.seed,
                "versions": _versions(),
            },
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _outcomes(batch: Sequence[Given], made: Made, attempt: int, dtype: str) -> Iterator[Outcome]:
    together = tuple(item.case.id for item in batch)
    for item, picture in zip(batch, made.pictures, strict=True):
        yield Outcome(item.case, picture, "", made.cost, made.inversion, attempt, together, dtype)


def _reason(error: BaseException) -> str:
    """One line. Of what is not meant for users, the kind too."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, ReinvertError) and text else f"{type(error).__name__}: {text}"


def _trained_editor(row: Row) -> Trained:
    assert row.recipe is not None
    editor: Trained = registry.make("trained", row.recipe.trained["name"], row.recipe.trained_arguments)
    return editor


def _truth(case: EditCase) -> Image.Image:
    found = case.true_edit()
    assert found is not None
    return as_rgb(found)


def uses_blend(row: Row, case: EditCase) -> bool:
    """Whether a row is given the case's blend words."""
    return row.recipe is not None and row.recipe.case.blend and case.blend is not None


def _masks(recipe: Recipe, batch: Sequence[Given]) -> list[Image.Image] | None:
    """The true masks of a batch's cases, for a row that is given them.

    Raises `ReinvertError` where a case has none: a row is a mean of edits that were told where to change, or of others,
    never of both.
    """
    if not recipe.case.mask:
        return None
    masks: list[Image.Image] = []
    for item in batch:
        if item.mask is None:
            raise ReinvertError(
                f"{recipe.name} is given the true mask, so it needs a mask of every case, and {item.case.id} has none: "
                "edits with a region and without do not compare"
            )
        masks.append(item.mask)
    return masks


def uses_mask(row: Row, case: EditCase) -> bool:
    """Whether a row is given the case's true mask."""
    recipe = row.recipe
    if recipe is None or case.open_mask is None:
        return False
    return recipe.case.mask if row.kind != "trained" else _trained_editor(row).needs_mask


def _each(count: int, cases: int) -> int | float:
    """A batch's count per case: whole, where it is the same for all."""
    return count // cases if count % cases == 0 else round(count / cases, 2)


@cache
def _versions() -> Mapping[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine_of(device: torch.device) -> str:
    """What a device is, in a line: `cpu (Intel(R) Xeon(R) ..., 2 threads)`."""
    return f"cpu ({_machine()})" if device.type == "cpu" else _device_name(device)


def _machine() -> str:
    """The processor's name and torch's threads: on a CPU both decide the last digits."""
    return f"{_processor()}, {torch.get_num_threads()} threads"


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _device_name(device: torch.device) -> str:
    """ "cuda (NVIDIA H200)": the kind of device, not its number, which decides nothing."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


__all__ = ["Job", "Maker", "Share", "work"]
