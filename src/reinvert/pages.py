"""A method's page read as text: its fields, their types and defaults, its docstrings, and what it checks of its fields,
without importing it.

Methods import torch, which takes seconds; whoever only wants the help, or mistyped a flag, does not wait for it. The
source stays the one truth: what is read here equals what the dataclass itself says (tests/test_registry.py).
"""

from __future__ import annotations

import ast
import builtins
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from reinvert.errors import ReinvertError

OURS = "reinvert"
PARSING = threading.RLock()
"""Held by who turns source into syntax trees, or these into code: in CPython 3.11 two threads at it disturb each other
("AST constructor recursion depth mismatch")."""


@dataclass(frozen=True)
class PageField:
    """One field: its type, its default (`MISSING` if it must be given) and the string below it."""

    type: Any
    default: Any
    help: str


@dataclass(frozen=True)
class Page:
    """What a class says of itself: module and class docstring, class variables, and fields, those that every method has
    last."""

    module_doc: str
    class_doc: str
    variables: Mapping[str, Any]
    fields: Mapping[str, PageField] = field(default_factory=dict[str, PageField])
    post_init: Callable[[], Callable[[Any], None]] | None = None
    """Its `__post_init__`, once it is asked for; None if it has none."""

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise the `ReinvertError` that the class would raise for these values of its fields, if it can be known."""
        if self.post_init is None:
            return
        told = {name: values.get(name, each.default) for name, each in self.fields.items()}
        try:
            with PARSING:
                check = self.post_init()
            check(SimpleNamespace(**told))
        except ReinvertError:
            raise
        except Exception:  # it asks for more than the fields: then the class itself will tell
            return


def read_page(module: str, base_module: str, base: str) -> Page:
    """The page of the class in `module` (its name ends in the method's) that descends from `base`."""
    with PARSING:
        return _read_page(module, base_module, base)


@cache
def _read_page(module: str, base_module: str, base: str) -> Page:
    source = _source(module)
    lineages = [list(_lineage(module, name)) for name in sorted(source.classes)]
    lineage = next(found for found in lineages if found[-1] == (base_module, base))
    variables: dict[str, Any] = {}
    fields: dict[str, PageField] = {}
    for owner, name in reversed(lineage):
        _read_class(_source(owner), name, variables, fields)
    common = dict[str, PageField]()
    _read_class(_source(lineage[-1][0]), lineage[-1][1], {}, common)
    fields = {name: fields[name] for name in sorted(fields, key=lambda name: name in common)}
    node = source.classes[lineage[0][1]]
    post_init = next(filter(None, (_post_init(_source(owner), name) for owner, name in lineage)), None)
    return Page(ast.get_docstring(source.tree) or "", ast.get_docstring(node) or "", variables, fields, post_init)


def _post_init(source: _Source, name: str) -> Callable[[], Callable[[Any], None]] | None:
    for node in source.classes[name].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            return cache(partial(source.function, node))
    return None


class _Source(Mapping[str, Any]):
    """A module's names, each read when it is asked for: assigned here, or imported from where it says."""

    def __init__(self, name: str) -> None:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise ReinvertError(f"the module {name} has no source")
        self.name = name
        self.tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        self.classes: dict[str, ast.ClassDef] = {}
        self.assigned: dict[str, ast.expr] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.functions: dict[str, ast.FunctionDef] = {}
        for node in self.tree.body:
            match node:
                case ast.ClassDef():
                    self.classes[node.name] = node
                case ast.FunctionDef():
                    self.functions[node.name] = node
                case ast.Assign(targets=[ast.Name(id=target)], value=value):
                    self.assigned[target] = value
                case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value):
                    self.assigned[target] = value
                case ast.ImportFrom(module=str(origin), names=names):
                    self.imported |= {alias.asname or alias.name: (origin, alias.name) for alias in names}
                case _:
                    pass

    def __getitem__(self, name: str) -> Any:
        if name in self.assigned:
            return self.value(self.assigned[name])
        if name in self.functions:
            return self.function(self.functions[name])
        if name not in self.imported:
            raise KeyError(name)
        origin, original = self.imported[name]
        if origin.split(".")[0] == OURS and original in (source := _source(origin)):
            return source[original]
        return getattr(import_module(origin), original)

    def __contains__(self, name: object) -> bool:
        return name in self.assigned or name in self.functions or name in self.imported

    def __iter__(self) -> Iterator[str]:
        return iter({**self.assigned, **self.functions, **self.imported})

    def __len__(self) -> int:
        return len({**self.assigned, **self.functions, **self.imported})

    def value(self, node: ast.expr) -> Any:
        """What an expression of this module is. (It is our own source: it runs as well when it is imported.)"""
        code = compile(ast.Expression(node), self.name, "eval")
        return eval(code, {"__builtins__": builtins}, self)

    def function(self, node: ast.FunctionDef) -> Any:
        """A function of this module, with the names that it uses; what it is annotated with is not looked at."""
        inner = (child for line in node.body for child in ast.walk(line))
        used = {child.id for child in inner if isinstance(child, ast.Name)} - {node.name}
        scope: dict[str, Any] = {"__builtins__": builtins} | {name: self[name] for name in used if name in self}
        bare = ast.Module([node], [])
        exec(compile(bare, self.name, "exec", annotations.compiler_flag), scope)
        return scope[node.name]


@cache
def _source(name: str) -> _Source:
    return _Source(name)


def _lineage(module: str, name: str) -> Iterator[tuple[str, str]]:
    """A class and its bases, as far as they are ours: the first base of each."""
    source = _source(module)
    yield module, name
    for base in source.classes[name].bases:
        if isinstance(base, ast.Name) and base.id in source.classes:
            yield from _lineage(module, base.id)
            return
        if isinstance(base, ast.Name) and source.imported.get(base.id, ("",))[0].split(".")[0] == OURS:
            yield from _lineage(*source.imported[base.id])
            return


def _read_class(source: _Source, name: str, variables: dict[str, Any], fields: dict[str, PageField]) -> None:
    """Add what one class declares to what its bases did."""
    for node, below in pairwise([*source.classes[name].body, ast.Pass()]):
        if isinstance(node, ast.FunctionDef):
            variables.pop(node.name, None)  # a property in its place: it depends on the fields
        match node:
            case ast.AnnAssign(target=ast.Name(id=target), annotation=annotation, value=value):
                pass
            case _:
                continue
        if ast.unparse(annotation).startswith("ClassVar"):
            variables |= {} if value is None else {target: source.value(value)}
            continue
        default: Any = MISSING if value is None else source.value(value)
        if isinstance(default, Field):
            made: Any = default
            default = made.default if made.default_factory is MISSING else made.default_factory()
        told = ""
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            told = " ".join(str(below.value.value).split())
        fields[target] = PageField(source.value(annotation), default, told)
