"""What a run has to do: rows, cells and the batches they are made in.

A plan follows from data and recipes alone, not from who works at it or what is already there. So one process, several,
and one that was killed and started again make the same batches, and their results agree bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import reinvert
from reinvert import recipes, registry
from reinvert.backbones import loading
from reinvert.bench.case import Data, EditCase
from reinvert.bench.check import before_a_run
from reinvert.bench.data import open_data
from reinvert.bench.records import IMAGES, TRIVIAL, Records, Task, read_about, write_about
from reinvert.errors import ReinvertError
from reinvert.files import refusal, shown
from reinvert.models import BUNDLED
from reinvert.recipes import Recipe, Use

Kind = Literal["copy", "vae", "true-edit", "edit", "reconstruct", "trained"]
DEFAULT_BATCH: Final = 4
RECONSTRUCT: Final = "reconstruct"
ENGINE: Final = ("backbones", "editors", "inversions", "picturebook", "trained")
"""The packages whose code decides a result, with the modules of `reinvert` itself."""


@dataclass(frozen=True)
class Asked:
    """What the user asks for. None leaves a recipe's own setting; `limit` takes the first cases only."""

    recipes: tuple[str, ...] = ()
    """Names or TOML files; for reconstruction none stands for every inversion."""
    task: Task = "edit"
    model: str | None = None
    """In place of the recipes' models, but for trained editors, whose networks are their own."""
    steps: int | None = None
    guidance: float | None = None
    limit: int | None = None
    batch: int = DEFAULT_BATCH

    @property
    def overrides(self) -> dict[str, Any]:
        told = {"model": self.model, "steps": self.steps, "guidance": self.guidance}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class Row:
    """One row of a table. `model` is what it is made with; the trivial rows see pictures as that model does."""

    name: str
    kind: Kind
    task: Task
    model: str
    weights: str
    recipe: Recipe | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the row's results but the weights. Of a model's folder only the name is told."""
        told: dict[str, Any] = {"name": self.name} if self.recipe is None else self.recipe.settings
        return {**told, "model": Path(self.model).name if Path(self.model).is_dir() else self.model}

    @property
    def share(self) -> str:
        """Rows of one share are made together: they have the model and the inversion in common."""
        if self.kind == "trained":
            return f"trained {self.name}"
        return "trivial" if self.recipe is None else self.recipe.inversion_key

    def key(self, case: str, dtype: str, code: str) -> str:
        """The cell's key, for the fingerprint of a case. Words about a row and the place of its model are left out."""
        return cell_key(case, self.task, self.kind, self.settings, self.weights, dtype, code)

    def image(self, case: str) -> str:
        """Where the picture of a case goes, in the run's folder: each row has a folder of its own."""
        return "/".join(
            (IMAGES, *([RECONSTRUCT] if self.task == "reconstruct" else []), folder_of(self.name), f"{case}.png")
        )


def cell_key(
    case: str, task: Task, kind: Kind, settings: Mapping[str, Any], weights: str, dtype: str, code: str
) -> str:
    """The key of a cell: a hash of all that decides its result, from the fingerprint of its case on."""
    told = {name: value for name, value in settings.items() if name not in ("about", "published", "model")}
    said = json.dumps([case, task, kind, told, weights, dtype, code], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:24]


def folder_of(row: str) -> str:
    """A folder's name for a row. Rows of different names have different folders, on every file system: a name that
    cannot be a folder's as it is, or that differs from another one's by capitals only, ends in a hash of itself."""
    plain = re.sub(r"[^a-z0-9_.+-]+", "_", row.lower()).strip(".")
    if plain == row and row not in (RECONSTRUCT, ""):
        return row
    return f"{plain[:80] or 'row'}-{hashlib.sha256(row.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Cell:
    """One row on one case."""

    row: Row
    case: EditCase
    key: str


@dataclass(frozen=True)
class Unit:
    """What is made together: a batch of cases, and the rows that share their inversion."""

    cases: tuple[EditCase, ...]
    rows: tuple[Row, ...]
    cells: tuple[Cell, ...]

    @property
    def keys(self) -> list[str]:
        return [cell.key for cell in self.cells]


@dataclass(frozen=True)
class Plan:
    """All units in the order in which one process does them, and what every record tells."""

    data: str
    """As `open_data` takes it."""
    asked: Asked
    dtype: str
    code: str
    units: tuple[Unit, ...]
    fingerprints: Mapping[str, str] = field(default_factory=dict[str, str])
    """By the case's id."""
    name: str = ""
    """What the data is called, wherever it lies."""
    warnings: tuple[str, ...] = ()
    """What is to be known before it is begun."""

    @property
    def cells(self) -> list[Cell]:
        return [cell for unit in self.units for cell in unit.cells]

    @property
    def about(self) -> dict[str, Any]:
        """What `run.json` says: what the run is made of (`plain`: the trivial rows' model), and every row's cells."""
        counts: dict[str, dict[str, int]] = {}
        for cell in self.cells:
            rows = counts.setdefault(cell.row.task, {})
            rows[cell.row.name] = rows.get(cell.row.name, 0) + 1
        models = {cell.row.model: cell.row.weights for cell in self.cells}
        plain = next(cell.row.model for cell in self.cells if cell.row.recipe is None)
        told = {"data": self.data, "name": self.name, "dtype": self.dtype, "code": self.code, "plain": plain}
        return {**told, "models": models, "cells": counts}


def make_plan(data: Data, spec: str, asked: Asked, dtype: str, code: str = "", plain: str = "") -> Plan:
    """Plan a run of `data`, which `open_data(spec)` gave. Nothing is computed, no model is loaded.

    `dtype` is the name of the network's type, "float16". `code` is the version that the keys are made with, by default
    that of this code; `plain` the model of the trivial rows, by default that of the first recipe. Raises
    `ReinvertError` for recipes, models or numbers that cannot be.
    """
    code = code or code_version()
    _check(asked)
    cases = _cases(data, asked)
    rows = _rows(asked, plain)
    fingerprints = {case.id: fingerprint(case) for case in cases}

    def units() -> Iterator[Unit]:
        shares: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            shares.setdefault((row.model, row.share), []).append(row)
        models = list(dict.fromkeys(row.model for row in rows))
        batches = batches_of(cases, asked.batch)
        for model in models:  # outermost, for only one model is in memory
            for batch in batches:
                for (of, _), shared in shares.items():
                    if of == model:
                        yield _unit(batch, shared)

    def _unit(batch: Sequence[EditCase], shared: Sequence[Row]) -> Unit:
        cells = [
            Cell(row, case, row.key(fingerprints[case.id], dtype, code))
            for row in shared
            for case in batch
            if row.kind != "true-edit" or case.open_true_edit is not None
        ]
        return Unit(tuple(batch), tuple(shared), tuple(cells))

    return Plan(
        spec,
        asked,
        dtype,
        code,
        tuple(unit for unit in units() if unit.cells),
        fingerprints,
        data.name,
        before_a_run(data),
    )


def open_plan(
    folder: str | os.PathLike[str],
    spec: str | os.PathLike[str],
    asked: Asked,
    *,
    device: str = "auto",
    dtype: str = "auto",
    any_version: bool = False,
) -> Plan:
    """Plan a run into a folder, and say so in its `run.json`; what is there already is gone on with.

    `device` and `dtype` are those of `reinvert.load`. Raises `ReinvertError` where the folder holds another run: other
    data, settings or weights, or (without `any_version`) results of another version of the code.
    """
    place, told = Path(folder), read_about(folder)
    named = os.fspath(Path(spec).resolve()) if Path(spec).exists() else os.fspath(spec)
    before = Path(str(told.get("data")))
    moved = before.is_absolute() and not before.exists() and Path(named).exists()  # its cases are compared below
    if told and told.get("data") != named and not moved:
        raise ReinvertError(f"{place} is a run on {told.get('data')}, not on {named}; choose another folder (--out)")
    kind = str(loading.pick_dtype(dtype, loading.pick_device(device))).removeprefix("torch.")
    if told and told.get("dtype") != kind:
        raise ReinvertError(f"{place} is a run in {told.get('dtype')}; go on with --dtype {told.get('dtype')}")
    code = str(told.get("code", code_version()))
    if code != code_version() and not any_version:
        raise ReinvertError(
            f"{place} was begun with reinvert {code}, and this is {code_version()}: choose another folder (--out), or "
            "add --any-version to go on all the same (every record says what it was made with)"
        )
    plain = str(told.get("plain", ""))
    if plain and not (plain in BUNDLED or Path(plain).is_dir() or plain in _models(asked)):
        raise refusal(
            f"{shown(place)} says that its trivial rows are made with {shown(plain)}, which none of these recipes "
            "names, and a file has nothing looked up: name a recipe of that model too, or choose another folder (--out)"
        )
    plan = make_plan(open_data(spec), named, asked, kind, code, plain)
    place.mkdir(parents=True, exist_ok=True)
    check_folder(plan, Records(place))
    write_about(place, _joined(told, plan.about))
    return plan


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder says after a further plan: the rows and models of both."""
    cells: dict[str, dict[str, int]] = {task: dict(rows) for task, rows in old.get("cells", {}).items()}
    for task, rows in new["cells"].items():
        counts = cells.setdefault(task, {})
        counts |= {row: max(count, counts.get(row, 0)) for row, count in rows.items()}
    return {**new, "models": {**old.get("models", {}), **new["models"]}, "cells": cells}


def check_folder(plan: Plan, records: Records) -> None:
    """Refuse to mix: a cell that was recorded with something else than what is asked for now."""
    found = {(told["task"], told["recipe"], told["case"]): told for told in records.refresh().values()}
    for cell in plan.cells:
        told = found.get((cell.row.task, cell.row.name, cell.case.id))
        if told is None or told["key"] == cell.key:
            continue
        what = "settings of the recipe"
        if told.get("fingerprint") != plan.fingerprints[cell.case.id]:
            what = "data"
        elif told.get("environment", {}).get("weights") != cell.row.weights:
            what = "weights"
        raise ReinvertError(
            f"{records.folder} has results of {cell.row.name} on case {cell.case.id} that were made with other {what}; "
            "results of two kinds are not mixed: choose another folder (--out)"
        )


def fingerprint(case: EditCase) -> str:
    """The case's own; of a case whose picture cannot be read, one of what it asks, so that it can be recorded."""
    try:
        return case.fingerprint
    except (ReinvertError, OSError):
        said = repr((case.id, case.source_prompt, case.target_prompt))
        return "unread-" + hashlib.sha256(said.encode()).hexdigest()[:9]


@cache
def code_version() -> str:
    """reinvert's version with a hash of the code that makes pictures (not of benchmark, reports and commands)."""
    root = Path(reinvert.__file__).parent
    files = [*root.glob("*.py"), *(path for part in ENGINE for path in (root / part).glob("*.py"))]
    told = hashlib.sha256()
    for path in sorted(files):
        told.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return f"{reinvert.__version__}+{told.hexdigest()[:12]}"


@cache
def weights_of(model: str) -> str:
    """A hash of a model's weights and configuration, of its files: the same for any device and dtype.

    Reads the whole weights once (seconds for gigabytes; they are read into memory anyway)."""
    place = loading._place(model, None)  # pyright: ignore[reportPrivateUsage]  # finds bundled, local and Hub models
    parts = [place / part for part in loading.component_folders()]
    found = [file for part in parts for file in part.glob("*") if file.suffix in (".safetensors", ".json")]
    told = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(found):
        with path.open("rb") as file:
            told.update(f"{path.parent.name}/{path.name}".encode() + hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()[:16]


# --- the parts ---------------------------------------------------------------------------------------------------


def _check(asked: Asked) -> None:
    for name, value, least in (("batch", asked.batch, 1), ("limit", asked.limit, 1), ("steps", asked.steps, 1)):
        if value is not None and value < least:
            raise ReinvertError(f"--{name} {value} is too small: use {least} or more")
    if asked.task == "edit" and not asked.recipes:
        raise ReinvertError("name at least one recipe (--recipes); `reinvert methods --recipes` lists them")


def _cases(data: Data, asked: Asked) -> list[EditCase]:
    """The cases that the task can be done on, in the data's order."""
    usable = [case for case in data if case.has_target or asked.task == "reconstruct"]
    if not usable:
        raise ReinvertError(
            f"{data.name} has no case with a target prompt: `--task reconstruct` is what can be done with it"
            if data.cases
            else f"{data.name} has no case that can be used; `reinvert bench check` says why"
        )
    return usable[: asked.limit]


def batches_of(cases: Sequence[EditCase], size: int) -> list[list[EditCase]]:
    """Cases in batches: those with and without blend words, and with and without a mask, go in batches of their own."""
    groups: dict[tuple[bool, bool], list[EditCase]] = {}
    for case in cases:
        groups.setdefault((case.blend is not None, case.open_mask is not None), []).append(case)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def _rows(asked: Asked, plain: str) -> list[Row]:
    """The trivial rows, and those of the recipes in their order."""
    found = _inversions(asked) if asked.task == "reconstruct" else _recipes(asked)
    names = [recipe.name for recipe in found]
    for name in names:
        if names.count(name) > 1 or name in TRIVIAL:
            raise ReinvertError(f"two rows would be called {name!r}; name a recipe once, and a file otherwise")
    made: list[Row] = []
    for recipe in found:
        kind: Kind = "trained" if recipe.trained else asked.task
        made.append(Row(recipe.name, kind, asked.task, recipe.model, weights_of(recipe.model), recipe))
    plain = plain or next((row for row in made if row.kind != "trained"), made[0]).model
    trivial: tuple[Kind, ...] = ("copy", "vae", *(("true-edit",) if asked.task == "edit" else ()))
    return [*(Row(kind, kind, asked.task, plain, weights_of(plain)) for kind in trivial), *made]


def _models(asked: Asked) -> set[str]:
    """The models that the recipes name, which are asked for by whoever runs them."""
    _check(asked)
    found = _inversions(asked) if asked.task == "reconstruct" else _recipes(asked)
    return {recipe.model for recipe in found}


def _recipes(asked: Asked) -> list[Recipe]:
    return [_overridden(recipes.find(name), asked) for name in asked.recipes]


def _overridden(recipe: Recipe, asked: Asked) -> Recipe:
    """The recipe with what was asked for in its place; it has been checked."""
    more = {**asked.overrides}
    if recipe.trained:
        more.pop("model", None)
        more.pop("guidance", None)
    if Path(more.get("model", recipe.model)).is_dir():
        more["model"] = os.fspath(Path(more.get("model", recipe.model)).resolve())  # workers may stand elsewhere
    changed = replace(recipe, **more)
    if more:
        changed.check()
    return changed


def _inversions(asked: Asked) -> list[Recipe]:
    """Every inversion, with and without text, at the editing guidance and at 1, as recipes of their own."""
    given = [_overridden(recipes.find(name), asked) for name in asked.recipes]
    trained = next((recipe.name for recipe in given if recipe.trained), None)
    if trained is not None:
        raise ReinvertError(f"{trained} inverts nothing; leave it out of `--task reconstruct`")
    found: dict[str, Recipe] = {}
    for recipe in given or _every_inversion(asked):
        if recipe.inversion_method().finds_noise:
            found.setdefault(replace(recipe, case=Use()).inversion_key, recipe)
    if not found:
        raise ReinvertError("none of these recipes inverts; name others for `--task reconstruct`")
    names = [str(recipe.inversion["name"]) for recipe in found.values()]
    made: list[Recipe] = []
    for recipe, name in zip(found.values(), names, strict=True):
        label = name if names.count(name) == 1 else recipe.name
        masked = recipe.inversion_method().takes_mask
        for source in ("prompt", "empty"):
            for guidance in dict.fromkeys((recipe.guidance, 1.0)):
                row = f"{label}, {source}, guidance {guidance:g}"
                use = Use(source=source, mask=masked)
                plain = replace(recipe, name=row, editors={}, guidance=guidance, case=use)
                made.append(plain)
    return made


def _every_inversion(asked: Asked) -> list[Recipe]:
    """All registered inversions with their defaults."""
    base = replace(recipes.find("ddim+p2p"), about="", published="", editors={})
    methods = [name for name in registry.names("inversions") if registry.find("inversions", name).finds_noise]
    model = base.model if asked.model is None else asked.model
    if Path(model).is_dir():
        model = os.fspath(Path(model).resolve())
    steps, guidance = asked.steps or base.steps, base.guidance if asked.guidance is None else asked.guidance
    return [
        replace(base, name=name, inversion={"name": name}, model=model, steps=steps, guidance=guidance)
        for name in methods
    ]
