"""Finds methods by name: the file name is the name. Nothing is imported until it is asked for; what a method says of
itself (`describe`, `schema`) is read from its page without importing it.

Methods of other packages join through the entry-point groups `reinvert.inversions`, `reinvert.editors` and
`reinvert.trained`. A method's dataclass fields are its schema: CLI flags, UI widgets and report columns are made from
it.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import pkgutil
import re
import textwrap
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any, Literal, cast

from reinvert.display import line
from reinvert.errors import ReinvertError
from reinvert.files import check_value, shown
from reinvert.pages import PARSING, Page, read_page

Group = Literal["inversions", "editors", "trained"]
_BASES: dict[Group, tuple[str, str]] = {
    "inversions": ("reinvert.inversions.base", "Inversion"),
    "editors": ("reinvert.editors.base", "Editor"),
    "trained": ("reinvert.trained.base", "Trained"),
}

# "Title, year, arXiv id" at the start of a sentence.
_PAPER = re.compile(r"(?:^|\. )(?P<title>(?:(?!\. ).)*?), (?P<year>\d{4}), arXiv (?P<id>\d{4}\.\d{4,5})")


@dataclass(frozen=True)
class Argument:
    """One field of a method: its name, type, default and one-paragraph help."""

    name: str
    type: Any
    default: Any
    help: str


@dataclass(frozen=True, repr=False)
class Method:
    """What `reinvert methods` shows: one sentence, the papers (title, year, arXiv id), needs and arguments.

    `title` is the first line of the class's own docstring.
    """

    name: str
    group: Group
    sentence: str
    papers: tuple[str, ...]
    needs: str
    arguments: tuple[Argument, ...]
    when: str = ""
    title: str = ""

    def __repr__(self) -> str:
        return line("Method", self.name, self.group, f"'{self.title}'")


def methods(group: str | None = None) -> tuple[Method, ...]:
    """Every registered method, or those of a group ("inversions", "editors", "trained"); none is imported for it."""
    groups: list[Group] = [each for each in _BASES if group is None or group == each]
    if not groups:
        raise ReinvertError(f"there is no group '{shown(group)}'; the groups are {', '.join(_BASES)}")
    return tuple(describe(each, name) for each in groups for name in names(each))


def names(group: Group) -> tuple[str, ...]:
    """Every registered name, sorted."""
    return tuple(sorted({*_own(group), *_points(group)}))


def find(group: Group, name: str) -> type[Any]:
    """The class behind a name; an unknown name is answered with the nearest ones."""
    points = _points(group)
    if name in points:
        return cast(type[Any], points[name].load())
    check_known(group, name)
    module = import_module(f"reinvert.{group}.{name}")
    where, called = _BASES[group]
    base: type[Any] = getattr(import_module(where), called)
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    return next(c for c in found if issubclass(c, base))


def check_known(group: Group, name: str) -> None:
    """Raise `ReinvertError`, naming the nearest methods, unless there is one of that name."""
    known = names(group)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.4) or list(known)
        kind = "trained editor" if group == "trained" else group.removesuffix("s")
        raise ReinvertError(f"there is no {kind} '{shown(name)}'; did you mean {' or '.join(near)}?")


@cache
def _own(group: Group) -> frozenset[str]:
    package = import_module(f"reinvert.{group}")
    return frozenset(m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in ("base", "attention"))


def _points(group: Group) -> dict[str, Any]:
    return _read_points(entry_points, f"reinvert.{group}")


@cache
def _read_points(read: Callable[..., Any], group: str) -> dict[str, Any]:
    """Once per process: it means reading the metadata of every installed package."""
    return {point.name: point for point in read(group=group)}


def make(group: Group, name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """An instance; unknown, missing and mistyped arguments are named in one sentence. A list is taken for a tuple."""
    values = checked(group, name, arguments)  # before it is imported: what is wrong with them is told at once
    cls = find(group, name)
    needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    missing = [field for field in needed if field not in values]
    if missing:
        raise ReinvertError(f"{name} needs the argument {missing[0]}")
    return cls(**values)


def checked(group: Group, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments as the method takes them: their names, types and bounds are checked, without importing it."""
    known = {argument.name: argument.type for argument in schema(group, name)}
    values = {given: _tupled(value) for given, value in (arguments or {}).items()}
    for given, value in values.items():
        if given not in known:
            raise ReinvertError(f"{name} has no argument '{shown(given)}'; it has {', '.join(known) or 'none'}")
        values[given] = check_value(known[given], value, f"{given} of {name}")
    if name not in _points(group):
        _page(group, name).check(values)
    return values


def _tupled(value: Any) -> Any:
    """Files have lists where the methods' fields are tuples."""
    if isinstance(value, Mapping):
        return {key: _tupled(inner) for key, inner in cast("Mapping[Any, Any]", value).items()}
    return tuple(map(_tupled, cast("list[Any]", value))) if isinstance(value, list) else value


def arguments(cls: type[Any]) -> tuple[Argument, ...]:
    """The schema of a method, with the string below each field as its help; what every method has comes last."""
    types, lineage = typing.get_type_hints(cls), [owner for owner in reversed(cls.__mro__) if is_dataclass(owner)]
    help_of = {name: told for owner in lineage for name, told in _field_docs(owner).items()}
    common = {f.name for f in fields(lineage[0])}
    made: list[Argument] = []
    for f in sorted(fields(cls), key=lambda f: f.name in common):
        default = f.default if f.default is not MISSING else None
        if f.default_factory is not MISSING:
            default = f.default_factory()
        made.append(Argument(f.name, types[f.name], default, help_of.get(f.name, "")))
    return tuple(made)


def schema(group: Group, name: str) -> tuple[Argument, ...]:
    """The arguments of a registered method, read from its page: the same as `arguments(find(group, name))`."""
    if name in _points(group):
        return arguments(find(group, name))
    fields_of = _page(group, name).fields
    return tuple(Argument(n, f.type, None if f.default is MISSING else f.default, f.help) for n, f in fields_of.items())


def variable(group: Group, name: str, which: str) -> Any:
    """A class variable of a registered method, such as `draws_start`, read from its page."""
    variables = {} if name in _points(group) else _page(group, name).variables
    return variables[which] if which in variables else getattr(find(group, name), which)


def describe(group: Group, name: str) -> Method:
    """What is told about a method, read from its page: the module docstring and the dataclass."""
    if name in _points(group):
        cls = find(group, name)
        texts = inspect.getdoc(inspect.getmodule(cls)) or "", inspect.getdoc(cls) or ""
        needs, when = cls.needs, cls.when
    else:
        page = _page(group, name)
        texts, needs, when = (page.module_doc, page.class_doc), page.variables["needs"], page.variables["when"]
    text = texts[0] or texts[1]
    prose = [" ".join(part.split()) for part in text.split("\n\n") if not part.startswith(" ")]
    papers = tuple(f"{m['title']} ({m['year']}, arXiv {m['id']})" for part in prose for m in _PAPER.finditer(part))
    sentence, title = text.split("\n\n")[0].replace("\n", " "), texts[1].split("\n")[0]
    return Method(name, group, sentence, papers, needs, schema(group, name), when, title)


def _page(group: Group, name: str) -> Page:
    check_known(group, name)
    return read_page(f"reinvert.{group}.{name}", *_BASES[group])


@cache
def _field_docs(cls: type[Any]) -> dict[str, str]:
    with PARSING:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = cast(ast.ClassDef, tree.body[0]).body
    docs: dict[str, str] = {}
    for field_node, doc in pairwise(body):
        if isinstance(field_node, ast.AnnAssign) and isinstance(field_node.target, ast.Name):
            if isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                docs[field_node.target.id] = " ".join(str(doc.value.value).split())
    return docs
