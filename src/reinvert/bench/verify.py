"""Verifies a run on this machine: renders a sample of its cells again, and scores everything again.

Three things are held against what the folder says:

* **records**, all of them: the case is in the data and asks what it asked then; the key is that of the settings,
  weights, type and code that the record tells; what it tells of masks, words and paths is what its recipe does;
* **pictures**, a random sample: rendered again in the very batch that they were made in. In the same environment
  (weights, code, device, machine, threads, versions) they must be the same bits; elsewhere they must agree to `NEAR`
  dB, and no pixel may differ by more than `FARTHEST` of 255 levels. Forwards and backwards must be the same everywhere;
* **scores**, all lines of the newest set-up of each mode: computed again from the pictures, and equal to `CLOSE`.

Seconds and memory are told by who ran it and cannot be verified.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final, cast

import numpy as np
from PIL import Image

from reinvert.backbones.loading import pick_device
from reinvert.bench.case import Data, EditCase
from reinvert.bench.records import TRIVIAL, Records, read_about
from reinvert.bench.run.plan import (
    Asked,
    Cell,
    Kind,
    Plan,
    Row,
    Unit,
    cell_key,
    code_version,
    fingerprint,
    weights_of,
)
from reinvert.bench.run.runner import Maker, machine_of, uses_blend, uses_mask
from reinvert.bench.score.columns import Networks
from reinvert.bench.score.scoring import (
    MODES,
    Board,
    Run,
    computed,
    open_run,
    read_board,
    scores_path,
    scoring_version,
    setup_of,
)
from reinvert.bench.score.success import Judge
from reinvert.bench.verdict import Finding, Verdict, contents, write_verdict
from reinvert.errors import ReinvertError
from reinvert.files import shown
from reinvert.files.run import inside_run
from reinvert.image import open_image
from reinvert.models import BUNDLED
from reinvert.recipes import Recipe, Use

NEAR: Final = 35.0
"""Least PSNR in dB of two renderings in different environments."""
FARTHEST: Final = 48
"""Most levels of 255 between two pixels of such."""
CLOSE: Final = 1e-3
"""Largest relative difference of a score that is computed again."""
SAMPLE: Final = 12

SAME: Final = ("weights", "code", "device", "machine", "dtype", "versions")
"""What of a record's environment decides the bits."""

Told = Mapping[str, Any]


@dataclass
class Verification:
    """One verification of a run's folder. `model`: where the weights of a record are, if it names a folder that is
    elsewhere now; records never decide what is looked up."""

    folder: Path
    data: Data
    sample: int = SAMPLE
    seed: int = 0
    device: str = "auto"
    model: str = ""
    networks: Networks | None = None
    judge: Judge | None = None
    findings: list[Finding] = field(default_factory=list[Finding])
    skipped: dict[str, int] = field(default_factory=dict[str, int])

    def run(self) -> Generator[str, None, Verdict]:
        """Verify, write the verdict into the folder and return it; yields what is done next. Raises `ReinvertError`
        where there is no run, or it is on other data."""
        run = open_run(self.folder)
        self.about = read_about(self.folder)
        self.cases = {case.id: case for case in self.data}
        yield "records"
        records = Records(self.folder).refresh()
        rows = {key: row for key, told in records.items() if (row := self._record(told)) is not None}
        rendered = same = near = 0
        worst = math.inf
        for told, finding, decibels in self._pictures(records, rows):
            rendered += 1
            if finding:
                self._find("picture", told, finding)
            same += decibels == math.inf
            if decibels < math.inf and not finding:
                near, worst = near + 1, min(worst, decibels)
            yield "pictures"
        scored = 0
        for mode in MODES:
            for count in self._scores(run, mode):
                scored += count
                yield f"scores, {mode}"
        skipped = tuple(f"{why} ({count})" if count > 1 else why for why, count in self.skipped.items())
        verdict = Verdict(
            datetime.now(UTC).isoformat(timespec="seconds"),
            code_version(),
            machine_of(pick_device(self.device)),
            self.seed,
            len(records),
            rendered,
            same,
            near,
            worst if near else None,
            scored,
            tuple(self.findings),
            skipped,
            contents(self.folder),
        )
        write_verdict(self.folder, verdict)
        return verdict

    def _find(self, what: Any, told: Told, why: str) -> None:
        self.findings.append(Finding(what, str(told["recipe"]), str(told["case"]), why))

    def _skip(self, why: str) -> None:
        self.skipped[why] = self.skipped.get(why, 0) + 1

    # --- records -----------------------------------------------------------------------------------------------------

    def _record(self, told: Told) -> Row | None:
        """Hold a record against its case and itself; its row, None where it cannot be rendered again."""
        case = self.cases.get(str(told["case"]))
        if case is None:
            self._find("record", told, "the data has no such case")
            return None
        asked = fingerprint(case)
        if told.get("fingerprint") != asked:
            self._find("record", told, f"its fingerprint is {told.get('fingerprint')}, the case's {asked}")
            return None
        environment, settings = told.get("environment") or {}, dict(told.get("settings") or {})
        weights, dtype = str(environment.get("weights")), str(self.about.get("dtype"))
        task, kind = told["task"], _kind(told)
        key = cell_key(asked, task, kind, settings, weights, dtype, str(self.about.get("code")))
        if told["key"] != key:
            self._find("record", told, f"its key is {told['key']}, but what it tells makes {key}")
        try:
            row = Row(str(told["recipe"]), kind, task, str(settings.get("model", "")), weights, _recipe(settings, kind))
            self._told(told, row, case)
        except (ReinvertError, TypeError, KeyError) as error:
            self._find("record", told, f"its settings are no recipe: {error}")
            return None
        return row

    def _told(self, told: Told, row: Row, case: EditCase) -> None:
        """What a record says beside its key."""
        made = not told.get("error")
        expected = {
            "recipe": row.recipe.name if row.recipe is not None else row.name,
            "type": case.type_id,
            "image": row.image(case.id) if made else None,
            "mask_used": made and uses_mask(row, case),
            "blend_used": made and uses_blend(row, case),
        }
        for name, value in expected.items():
            if (told.get(name) or None) != (value or None):
                self._find("record", told, f"its {name} is {told.get(name)!r}, not {value!r}")

    # --- pictures ----------------------------------------------------------------------------------------------------

    def _pictures(self, records: Mapping[str, Told], rows: Mapping[str, Row]) -> Generator[tuple[Told, str, float]]:
        """Render a sample again: each record with what is wrong (or nothing) and its PSNR to the picture there."""
        known = [key for key in sorted(rows) if not records[key].get("error")]
        models = {key: place for key in known if (place := self._model(records[key])) is not None}
        sample = Random(self.seed).sample(sorted(models), min(self.sample, len(models)))
        batches: dict[tuple[Any, ...], list[str]] = {}
        for key in sample:
            told = records[key]
            together = tuple(told.get("together") or [told["case"]])
            batches.setdefault((told["task"], told["recipe"], models[key], _dtype(told), together), []).append(key)
        maker: Maker | None = None
        for (_, _, model, dtype, together), keys in sorted(batches.items(), key=lambda item: item[0][2:4]):
            row = _placed(rows[keys[0]], model)
            if any(name not in self.cases for name in together):
                yield records[keys[0]], "it was made together with cases that the data has not", 0.0
                continue
            plan = self._plan(row, [self.cases[name] for name in together], dtype)
            maker = _maker(maker, plan, self.device)
            wanted = {records[key]["case"]: records[key] for key in keys}
            [unit] = plan.units
            cells = [cell.key for cell in unit.cells if cell.case.id in wanted]
            for made in maker.make(unit, cells):
                for record, picture in made:
                    told = wanted[record.case]
                    yield (told, *self._compared(told, record.told, record.error, picture))

    def _model(self, told: Told) -> str | None:
        """Where the weights of a record are: bundled, a folder that the run or the caller names; None where nowhere."""
        name = str((told.get("settings") or {}).get("model", ""))
        weights = (told.get("environment") or {}).get("weights")
        folders = [place for place in self.about.get("models", {}) if Path(place).name == name and Path(place).is_dir()]
        found = [self.model] if self.model else [name] if name in BUNDLED else folders
        for place in found:
            if weights_of(place) == weights:
                return place
        why = "its weights are others here" if found else "it is not here; name it with --model"
        self._skip(f"cells of model {shown(name)} are not rendered again: {why}")
        return None

    def _plan(self, row: Row, cases: Sequence[EditCase], dtype: str) -> Plan:
        prints = {case.id: fingerprint(case) for case in cases}
        code = str(self.about.get("code"))
        cells = tuple(Cell(row, case, row.key(prints[case.id], dtype, code)) for case in cases)
        unit = Unit(tuple(cases), (row,), cells)
        return Plan("", Asked(batch=len(cases)), dtype, code, (unit,), prints)

    def _compared(self, told: Told, made: Told, error: str, picture: Image.Image | None) -> tuple[str, float]:
        """What is wrong with a picture that was rendered again, and its PSNR to the one that is there."""
        if picture is None:
            return f"it cannot be rendered again: {error}", 0.0
        for cost in ("forwards", "backwards"):
            if told.get(cost) != made[cost]:
                self._find("record", told, f"its {cost} are {told.get(cost)}, and {made[cost]} here")
        try:
            there = np.asarray(open_image(inside_run(self.folder, str(told["image"]))), np.float64)
        except (ReinvertError, OSError) as unread:
            return f"it cannot be read: {unread}", 0.0
        here = np.asarray(picture.convert("RGB"), np.float64)
        if there.shape != here.shape:
            return f"it is {there.shape[1]}x{there.shape[0]}, and {here.shape[1]}x{here.shape[0]} here", 0.0
        gap = np.abs(there - here)
        mse, most = float(np.square(gap).mean()), int(gap.max())
        decibels = math.inf if mse == 0 else 10 * math.log10(255**2 / mse)
        then, now = told.get("environment") or {}, made["environment"]
        other = [name for name in SAME if then.get(name) != now.get(name)]
        if decibels == math.inf or (other and decibels >= NEAR and most <= FARTHEST):
            return "", decibels
        far = f"farther than {NEAR:g} dB or {FARTHEST} levels, with other {', '.join(other)}"
        where = far if other else "in the same environment"
        return f"it differs from what is rendered here, {where} ({decibels:.1f} dB, at most {most} of 255)", decibels

    # --- scores ------------------------------------------------------------------------------------------------------

    def _scores(self, run: Run, mode: str) -> Generator[int]:
        """Compute every line of a mode again; yields how many."""
        if not scores_path(self.folder, mode).is_file():
            return
        for task in run.tasks:
            board = read_board(run, mode, task)
            setup = setup_of(board.setup)
            networks = self.networks or Networks()
            here = networks.describe() | ({} if self.judge is None else self.judge.describe())
            if setup.version != scoring_version():
                self._skip(f"scores in {mode} were computed by another version ({setup.version}); score the run again")
                continue
            if dict(setup.networks) != here:
                self._skip(f"scores in {mode} were computed with other networks than are here")
                continue
            told = [cell for cell in board.cells if cell.key in board.lines]
            for line in computed(run, told, self.cases, setup, networks, self.judge):
                self._line(board, line.key, line.values, line.failure)
                yield 1

    def _line(self, board: Board, key: str, values: Mapping[str, float | None], failure: str) -> None:
        cell, there = next(cell for cell in board.cells if cell.key == key), board.lines[key].values
        told = {"recipe": cell.row, "case": cell.case}
        if failure:
            return self._find("score", told, f"it cannot be computed again: {failure}")
        for name in sorted(there.keys() | values.keys()):
            a, b = there.get(name), values.get(name)
            if not _close(a, b):
                self._find("score", told, f"its {name} in {board.mode} is {a}, and {b} here")


def _kind(told: Told) -> Kind:
    settings = told.get("settings") or {}
    if told["recipe"] in TRIVIAL and not settings.get("inversion") and not settings.get("trained"):
        return cast(Kind, told["recipe"])
    return "trained" if settings.get("trained") else told["task"]


def _recipe(settings: Mapping[str, Any], kind: Kind) -> Recipe | None:
    """The recipe that a record's settings are of; None for a trivial row."""
    if kind in TRIVIAL:
        return None
    given: dict[str, Any] = {**settings, "case": Use(**settings["case"])}
    recipe = Recipe(**given)
    recipe.check()
    return recipe


def _placed(row: Row, model: str) -> Row:
    recipe = None if row.recipe is None else replace(row.recipe, model=model)
    return replace(row, model=model, recipe=recipe)


def _dtype(told: Told) -> str:
    return str((told.get("environment") or {}).get("dtype") or "float32")


def _maker(before: Maker | None, plan: Plan, device: str) -> Maker:
    """A maker for a plan, which goes on with the model that is held already."""
    made = Maker(plan, pick_device(device))
    return made if before is None else made.holding(before)


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
        return a == b
    return abs(a - b) <= CLOSE * max(abs(a), abs(b)) + 1e-6
