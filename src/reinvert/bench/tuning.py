"""Searches a recipe's arguments for success on drawn cases, under a budget of forwards (Optuna, `reinvert[tune]`).

A trial is the recipe with other arguments, made on the same cases; its value is the share of edits that succeed
(`bench.score.success`). One that needs more forwards per picture than the budget, or that its methods refuse, is
cut off.
The study lies in the output's folder and is gone on with: trial n follows from those before it and from the seed, so
that a search that was stopped and one that was not find the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from reinvert import registry
from reinvert.backbones.loading import pick_device, pick_dtype
from reinvert.bench.case import Data, EditCase, content_hash
from reinvert.bench.run.plan import Asked, Cell, Plan, Row, Unit, batches_of, code_version, fingerprint, weights_of
from reinvert.bench.run.runner import Maker
from reinvert.bench.score.success import CHANGED, KEPT, SUCCESS, Judge, question_of
from reinvert.errors import ReinvertError
from reinvert.recipes import Recipe

STUDY: Final = "study.log"
NAME: Final = "reinvert"
STEPS, GUIDANCE = "steps", "guidance"
NO_OPTUNA: Final = "tune needs Optuna: pip install 'reinvert[tune]'"


@dataclass(frozen=True)
class Range:
    """What an argument may be: a number between two ends (whole, if both are), or one of some choices."""

    name: str
    """`steps`, `guidance`, or METHOD.ARGUMENT of the recipe's inversion or of one of its editors."""
    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    choices: tuple[str, ...] = ()

    @property
    def said(self) -> str:
        return f"{self.name}={'|'.join(self.choices)}" if self.choices else f"{self.name}={self.low:g}:{self.high:g}"


def read_range(text: str) -> Range:
    """`guidance=1:8`, `steps=10:50`, `p2p.cross=0:1`, `p2p.kind=refine|replace`. Raises `ReinvertError` otherwise."""
    number = r"-?\d+(?:\.\d+)?"
    found = re.fullmatch(rf"([a-z_0-9]+(?:\.[a-z_0-9]+)?)=(?:({number}):({number})|([^:|]+(?:\|[^:|]+)+))", text)
    if found is None:
        raise ReinvertError(f"'{text}' is no range; write guidance=1:8, p2p.cross=0:1 or p2p.kind=refine|replace")
    name, low, high, choices = found.groups()
    if choices:
        return Range(name, choices=tuple(choices.split("|")))
    if float(low) >= float(high):
        raise ReinvertError(f"the range {text} is empty; write the smaller number first")
    return Range(name, float(low), float(high), "." not in low + high and name not in (GUIDANCE,))


def usual_ranges(recipe: Recipe) -> tuple[Range, ...]:
    """What is searched where nothing is named: steps, guidance, and every share of the run that the methods take."""
    made = [Range(STEPS, 5.0, float(max(10, recipe.steps)), True), Range(GUIDANCE, 1.0, 8.0)]
    for group, names in (("inversions", [recipe.inversion["name"]]), ("editors", list(recipe.editors))):
        for method in names:
            for argument in registry.schema(group, method):  # pyright: ignore[reportArgumentType]
                if argument.default is not None and "tuple[" in str(argument.type) and _is_share(argument.default):
                    made.append(Range(f"{method}.{argument.name}", 0.0, 1.0))
    return tuple(made)


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


def check_ranges(recipe: Recipe, ranges: Sequence[Range]) -> None:
    """Raise `ReinvertError` for an argument that the recipe's methods do not have."""
    for one in ranges:
        if one.name not in (STEPS, GUIDANCE):
            method, _, argument = one.name.partition(".")
            group = "inversions" if method == recipe.inversion.get("name") else "editors"
            if group == "editors" and method not in recipe.editors:
                raise ReinvertError(f"{recipe.name} has no method {method!r}; it has {', '.join(_methods(recipe))}")
            known = [entry.name for entry in registry.schema(group, method)]
            if argument not in known:
                raise ReinvertError(f"{method} has no argument {argument!r}; it has {', '.join(known) or 'none'}")


def _methods(recipe: Recipe) -> list[str]:
    return [str(recipe.inversion["name"]), *recipe.editors]


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of its arguments; it has been checked."""
    inversion, editors = dict(recipe.inversion), {name: dict(given) for name, given in recipe.editors.items()}
    plain: dict[str, Any] = {}
    for name, value in values.items():
        method, _, argument = name.partition(".")
        if not argument:
            plain[name] = value
        elif method == inversion.get("name"):
            inversion[argument] = value
        else:
            editors[method][argument] = value
    made = replace(recipe, inversion=inversion, editors=editors, **plain)
    made.check()
    return made


def value_of(recipe: Recipe, name: str) -> Any:
    """What the recipe itself has for an argument."""
    method, _, argument = name.partition(".")
    if not argument:
        return getattr(recipe, name)
    is_inversion = method == recipe.inversion.get("name")
    given = recipe.inversion if is_inversion else recipe.editors[method]
    schema = registry.schema("inversions" if is_inversion else "editors", method)
    known = {entry.name: entry.default for entry in schema}
    return given.get(argument, known[argument])


def _as_its_argument(recipe: Recipe, one: Range) -> Range:
    """A range of whole numbers is one of any, where the argument is no whole number: a share is 0 to 1."""
    value = value_of(recipe, one.name)
    return replace(one, whole=one.whole and isinstance(value, int) and not isinstance(value, bool))


@dataclass(frozen=True)
class Trial:
    """One trial. `values` are the arguments; `cut` says why it has no value of its own."""

    number: int
    values: Mapping[str, Any]
    success: float | None = None
    changed: float | None = None
    kept: float | None = None
    forwards: float | None = None
    """Per picture."""
    cut: str = ""


@dataclass(frozen=True)
class Search:
    """What is searched, on what, and for how much."""

    recipe: Recipe
    data: Data
    folder: Path
    ranges: tuple[Range, ...]
    trials: int = 20
    """In all, those of an earlier call among them."""
    forwards: int | None = None
    """The budget per picture; None for any."""
    limit: int = 20
    """How many cases: the first ones."""
    batch: int = 4
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    judge: Judge | None = None
    cases: tuple[EditCase, ...] = field(init=False)

    def __post_init__(self) -> None:
        usable = [case for case in self.data if case.has_target and case.open_attributes is not None]
        if not usable:
            raise ReinvertError(f"{self.data.name} does not say what its edits should show; use picturebook:v1")
        if self.recipe.trained:
            raise ReinvertError(f"{self.recipe.name} is a trained editor: it has nothing to be searched")
        check_ranges(self.recipe, self.ranges)
        object.__setattr__(self, "ranges", tuple(_as_its_argument(self.recipe, one) for one in self.ranges))
        object.__setattr__(self, "cases", tuple(usable[: self.limit]))

    @property
    def about(self) -> dict[str, Any]:
        """What a study must agree in to be gone on with."""
        prints = {case.id: fingerprint(case) for case in self.cases}
        told = {"recipe": self.recipe.settings, "weights": weights_of(self.recipe.model), "code": code_version()}
        told |= {"cases": content_hash(prints), "ranges": [one.said for one in self.ranges], "seed": self.seed}
        return json.loads(json.dumps({**told, "forwards": self.forwards, "batch": self.batch}))

    def run(self) -> Iterator[Trial]:
        """Do what is left of the trials; yields each when it is done and kept. Raises `ReinvertError` where Optuna is
        missing, or the folder holds another search."""
        optuna, study = self._study()
        done = [trial for trial in study.trials if trial.state.is_finished()]
        maker: Maker | None = None
        judge = self.judge or Judge.bundled()
        for number in range(len(done), self.trials):
            study.sampler = optuna.samplers.TPESampler(seed=self.seed + number, n_startup_trials=8)
            trial = study.ask()
            values = {one.name: self._suggested(trial, one) for one in self.ranges}
            try:
                recipe = with_values(self.recipe, values)
                found, maker = self._tried(recipe, judge, maker)
            except ReinvertError as error:  # the methods do not go together with these values
                found = {"cut": str(error)}
            for name, value in found.items():
                trial.set_user_attr(name, value)
            cut = "cut" in found
            study.tell(trial, None if cut else found[SUCCESS], optuna.trial.TrialState.PRUNED if cut else None)
            yield _trial(number, values, found)

    def found(self) -> tuple[Trial, ...]:
        """Every trial that is done."""
        _, study = self._study()
        finished = [trial for trial in study.trials if trial.state.is_finished()]
        return tuple(_trial(i, trial.params, trial.user_attrs) for i, trial in enumerate(finished))

    def _study(self) -> tuple[Any, Any]:
        optuna = load_optuna()
        self.folder.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(str(self.folder / STUDY))
        storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize", load_if_exists=True)
        about = self.about
        before = study.user_attrs.get("about")
        if before is not None and before != about:
            other = [name for name in about if before.get(name) != about[name]]
            raise ReinvertError(
                f"{self.folder} holds another search (other {', '.join(other)}); choose another folder (--out)"
            )
        if before is None:
            study.set_user_attr("about", about)
            own = {one.name: value for one in self.ranges if (value := self._own(one)) is not None}
            study.enqueue_trial(own)  # the recipe itself is tried first, as far as it lies in the ranges
        return optuna, study

    def _own(self, one: Range) -> Any:
        """The recipe's own value of an argument, if it lies in the range."""
        value = value_of(self.recipe, one.name)
        if one.choices:
            return str(value) if str(value) in one.choices else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and one.low <= value <= one.high else None

    def _suggested(self, trial: Any, one: Range) -> Any:
        if one.choices:
            return trial.suggest_categorical(one.name, one.choices)
        if one.whole:
            return trial.suggest_int(one.name, int(one.low), int(one.high))
        return trial.suggest_float(one.name, one.low, one.high)

    def _tried(self, recipe: Recipe, judge: Judge, before: Maker | None) -> tuple[dict[str, Any], Maker]:
        """A recipe's success on the cases, or why it was cut off; and what holds the model."""
        device = pick_device(self.device)
        dtype = str(pick_dtype(self.dtype, device)).removeprefix("torch.")
        row = Row(recipe.name, "edit", "edit", recipe.model, weights_of(recipe.model), recipe)
        prints = {case.id: fingerprint(case) for case in self.cases}
        code = code_version()
        units = tuple(
            Unit(tuple(part), (row,), tuple(Cell(row, case, row.key(prints[case.id], dtype, code)) for case in part))
            for part in batches_of(self.cases, self.batch)
        )
        maker = Maker(Plan("", Asked((recipe.name,), batch=self.batch), dtype, code, units, prints), device)
        if before is not None:
            maker.holding(before)
        values: list[dict[str, float]] = []
        forwards = 0.0
        questions = {case.id: question_of(case.attributes()) for case in self.cases}
        for unit in units:
            for batch in maker.make(unit, unit.keys):
                shown = [(picture, questions[record.case], record) for record, picture in batch]
                values += [{SUCCESS: 0.0, CHANGED: 0.0, KEPT: 0.0} for picture, _, _ in shown if picture is None]
                values += judge.read([(p, q) for p, q, _ in shown if p is not None and q is not None])
                forwards += sum(float(record.forwards or 0) for _, _, record in shown)
            each = forwards / len(values)
            if self.forwards is not None and each > self.forwards:
                return {"cut": f"{each:.0f} forwards a picture", "forwards": each}, maker
        means = {name: sum(value[name] for value in values) / len(values) for name in (SUCCESS, CHANGED, KEPT)}
        return {**means, "forwards": forwards / len(values)}, maker


def _trial(number: int, values: Mapping[str, Any], found: Mapping[str, Any]) -> Trial:
    return Trial(number, values, **found)


def load_optuna() -> Any:
    """The library; raises `ReinvertError` where it is not installed."""
    try:
        optuna: Any = import_module("optuna")
        import_module("optuna.storages.journal")
    except ImportError as error:
        raise ReinvertError(NO_OPTUNA) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with suppress(AttributeError):
        optuna.logging.disable_propagation()
    return optuna


def front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The trials that no other one betters: none succeeds as often with fewer forwards, or more often with as many.
    The cheapest first."""
    made: list[Trial] = []
    known = [trial for trial in trials if trial.success is not None and trial.forwards is not None]
    for trial in sorted(known, key=lambda t: (t.forwards or 0, -(t.success or 0), t.number)):
        if not made or (trial.success or 0) > (made[-1].success or 0):
            made.append(trial)
    return tuple(made)


def as_toml(recipe: Recipe, about: str) -> str:
    """A recipe's file."""
    lines = [f"about = {_toml(about)}", f"model = {_toml(recipe.model)}", f"steps = {recipe.steps}"]
    lines += [f"guidance = {_toml(float(recipe.guidance))}", f"seed = {recipe.seed}", "", "[inversion]"]
    lines += [f"{key} = {_toml(value)}" for key, value in recipe.inversion.items()]
    for name, given in recipe.editors.items():
        lines += ["", f"[editors.{name}]", *(f"{key} = {_toml(value)}" for key, value in given.items())]
    use = {key: value for key, value in asdict(recipe.case).items() if value is not None}
    return "\n".join([*lines, "", "[case]", *(f"{key} = {_toml(value)}" for key, value in use.items()), ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{json.dumps(str(key))} = {_toml(inner)}" for key, inner in value.items())  # pyright: ignore
        return f"{{ {pairs} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"  # pyright: ignore
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)


def report(search: Search, trials: Sequence[Trial]) -> str:
    """The report in Markdown: what was searched, the front of success against cost, and every trial."""
    budget = "any number of forwards" if search.forwards is None else f"at most {search.forwards} forwards a picture"
    about = search.about
    lines = [
        f"# {search.recipe.name}, tuned",
        "",
        f"{len(trials)} trials on {len(search.cases)} cases of {search.data.name} (hash {about['cases']}), {budget}; "
        f"searched: {', '.join(one.said for one in search.ranges)}; seed {search.seed}, weights {about['weights']}, "
        f"code {about['code']}. Success is the share of edits in which everything that was asked has changed and all "
        "else is kept. The best of many trials on few cases looks better than it is: run it on "
        "picturebook:v1-heldout.",
        "",
        "The front: more success only for more forwards.",
        "",
        *_table(search, front(trials)),
        "",
        "Every trial; the first has the recipe's own values where they lie in the ranges:",
        "",
        *_table(search, trials),
        "",
    ]
    return "\n".join(lines)


def _table(search: Search, trials: Sequence[Trial]) -> list[str]:
    names = [one.name for one in search.ranges]
    lines = [
        f"| trial | success | changed | kept | forwards | {' | '.join(names)} | |",
        f"|{' ---: |' * (5 + len(names))} --- |",
    ]
    for trial in trials:
        shares = [_percent(share) for share in (trial.success, trial.changed, trial.kept)]
        cost = "" if trial.forwards is None else f"{trial.forwards:.0f}"
        values = [_shown(trial.values.get(name)) for name in names]
        cut = trial.cut.replace("|", "/")
        lines.append(f"| {' | '.join([str(trial.number), *shares, cost, *values, cut])} |")
    return lines


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def figure(trials: Sequence[Trial]) -> str:
    """An SVG: success against forwards, the front as a line."""
    known = [trial for trial in trials if trial.success is not None and trial.forwards is not None]
    most = max([trial.forwards or 0 for trial in known], default=1) * 1.05 or 1.0

    def x(trial: Trial) -> float:
        return 60.0 + 520.0 * (trial.forwards or 0.0) / most

    def y(trial: Trial) -> float:
        return 300.0 - 270.0 * (trial.success or 0.0)

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 350" font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#ffffff"/>'
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        level = 300 - 270 * share
        parts.append(f'<line x1="60" x2="580" y1="{level}" y2="{level}" stroke="#dddddd"/>')
        parts.append(f'<text x="52" y="{level + 4}" text-anchor="end" fill="#555555">{100 * share:.0f} %</text>')
    for part in (0.0, 0.5, 1.0):
        place = 60 + 520 * part
        parts.append(f'<text x="{place}" y="318" text-anchor="middle" fill="#555555">{most * part:.0f}</text>')
    parts.append('<text x="320" y="340" text-anchor="middle" fill="#222222">forwards a picture</text>')
    points = " ".join(f"{x(trial):.1f},{y(trial):.1f}" for trial in front(trials))
    parts.append(f'<polyline points="{points}" fill="none" stroke="#0b6e69" stroke-width="1.5"/>')
    parts += [f'<circle cx="{x(t):.1f}" cy="{y(t):.1f}" r="4" fill="#0b6e69" opacity="0.7"/>' for t in known]
    return "".join([*parts, "</svg>\n"])


__all__ = ["Range", "Search", "Trial", "as_toml", "figure", "front", "read_range", "report", "usual_ranges"]
