"""`reinvert methods`: what exists, what it needs, and its papers; read from the methods' own pages."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Final

from reinvert import recipes, registry
from reinvert.cli.flags import GROUPS
from reinvert.cli.terminal import say
from reinvert.errors import ReinvertError, meant
from reinvert.files import shown
from reinvert.models import BUNDLED, USUAL, usual_of
from reinvert.recipes import Recipe
from reinvert.registry import Group, Method
from reinvert.values import flag_of, kind_of, show

WIDEST = 100
LISTED: Final[tuple[Group, ...]] = (*GROUPS, "trained")
TITLES: Final[Mapping[Group, str]] = {"inversions": "inversions", "editors": "editors", "trained": "trained editors"}


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert methods`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one method, with all its arguments")
    parser.add_argument("--matrix", action="store_true", help="which inversion goes with which editor, or why not")
    parser.add_argument("--model", metavar="MODEL", help="with --matrix: what this model can run, or what it lacks")
    parser.add_argument("--recipes", action="store_true", help="the rows of the published comparison, and others")
    parser.add_argument("--json", action="store_true", help="everything, for programs")


def run(args: argparse.Namespace) -> int:
    if args.matrix:
        from reinvert import pairs

        model = None
        if args.model is not None:
            from reinvert.backbones import load

            model = load(args.model)
        table = pairs.matrix(model)
        say(json.dumps(table, indent=2) if args.json else _matrix(table))
        return 0
    if args.recipes:
        rows = [recipes.find(name) for name in recipes.names()]
        say(json.dumps([row.settings for row in rows], indent=2) if args.json else _recipes(rows))
        return 0
    found = described(args.name)
    if args.json:
        told = [_values(method) for method in found]
        say(json.dumps(told[0] if args.name and len(told) == 1 else told, indent=2, ensure_ascii=False))
    elif args.name:
        say("\n\n".join(_page(method) for method in found))
    else:
        say("\n\n".join(_list(group, [m for m in found if m.group == group]) for group in LISTED))
        say(f"\n{_usual()}")
        say("\nreinvert methods NAME shows a method's arguments; editors join with +, as in p2p+proximal.")
    return 0


def described(name: str | None = None) -> list[Method]:
    """All methods, or those called `name`."""
    known = [known for group in LISTED for known in registry.names(group)]
    if name is not None and name not in known:
        hint = meant(name, known, "`reinvert methods` lists them", 2)
        raise ReinvertError(f"there is no method '{shown(name)}'; {hint}")
    return [
        registry.describe(group, known) for group in LISTED for known in registry.names(group) if name in (None, known)
    ]


def _usual() -> str:
    """Steps, guidance and editor that are usual for each kind of model."""
    bundled = {name: usual_of(name) for name in BUNDLED}
    rows = {name: usual for name, usual in bundled.items() if usual is not None} | dict(USUAL)
    width = max(map(len, rows)) + 2
    lines = [
        f"  {name:{width}}{usual.steps:3} steps, guidance {usual.guidance:3g}, {usual.editor}"
        for name, usual in rows.items()
    ]
    return "\n".join(["usual for a model", "", *lines])


def _values(method: Method) -> dict[str, Any]:
    """As plain values; a default as it is, its type as it is typed."""
    arguments = [
        {
            "name": a.name,
            "flag": flag_of(a.name),
            "type": "yes|no" if kind_of(a.type).toggle else kind_of(a.type).metavar,
            "default": a.default,
            "help": a.help,
        }
        for a in method.arguments
    ]
    return {
        "group": method.group,
        "name": method.name,
        "sentence": method.sentence,
        "needs": method.needs,
        "when": method.when,
        "papers": list(method.papers),
        "arguments": arguments,
    }


def _list(group: Group, methods: Iterable[Method]) -> str:
    shown = list(methods)
    width = max(len(method.name) for method in shown) + 2
    lines = [TITLES[group]]
    for method in shown:
        told = [method.sentence, f"needs {method.needs}; {'; '.join(method.papers)}".rstrip("; ")]
        block = [line for text in told for line in _wrapped(text, width + 2)]
        lines += ["", f"  {method.name:{width}}{block[0].strip()}", *block[1:]]
    return "\n".join(lines)


def _page(method: Method) -> str:
    lines = [f"{method.name}, one of the {TITLES[method.group]}", *_wrapped(method.sentence, 2)]
    lines += _wrapped(f"needs {method.needs}", 2)
    lines += _wrapped(method.when, 2) if method.when else []
    lines += [line for paper in method.papers for line in _wrapped(paper, 2)]
    for a in method.arguments:
        kind = kind_of(a.type)
        typed = (
            f"{flag_of(a.name)} / --no-{flag_of(a.name)[2:]}" if kind.toggle else f"{flag_of(a.name)} {kind.metavar}"
        )
        lines += ["", f"  {typed}  [{show(a.default)}]", *_wrapped(a.help, 6)]
    return "\n".join(lines)


def _matrix(table: Mapping[str, Mapping[str, str | None]]) -> str:
    """A grid of marks, and below it each reason once; the editors are the columns, named slantwise below each other."""
    reasons = list(dict.fromkeys(why for row in table.values() for why in row.values() if why is not None))
    editors = list(next(iter(table.values())))
    width = max(len(name) for name in table) + 2
    lines = [f"{'':{width}}" + "|  " * i + name for i, name in enumerate(editors)]
    for name, row in table.items():
        marks = ["*" if why is None else str(reasons.index(why) + 1) for why in row.values()]
        lines.append(f"{name:{width}}" + "".join(f"{mark:3}" for mark in marks).rstrip())
    told = ["", "* runs; the others do not, because:"]
    for number, why in enumerate(reasons, 1):
        told += textwrap.wrap(f"{number:2}  {why}", WIDEST, subsequent_indent="    ")
    told += ["", "editors are joined with +, as in p2p+proximal; a mask counts as given"]
    return "\n".join(lines + told)


def _recipes(found: Iterable[Recipe]) -> str:
    lines: list[str] = []
    for recipe in found:
        made = [recipe.trained["name"]] if recipe.trained else [recipe.inversion["name"], *recipe.editors]
        lines += [recipe.name, *_wrapped(f"{recipe.about} [{' + '.join(made)}]", 2)]
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    columns = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    room = max(columns, indent + 40)
    return textwrap.wrap(text, room, initial_indent=" " * indent, subsequent_indent=" " * indent)
