"""The shapes and types in reinvert's signatures are checked as the tests pass through them.

As jaxtyping's own import hook does, but a function's check is built when it is first called, and in a test only its
first calls and then every call at a power of two are checked: half of the tests' time went into checking the same lines
of a loop again and again. `REINVERT_SHAPES=all` checks every call. To be imported before reinvert.
"""

from __future__ import annotations

import ast
import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from beartype import beartype
from jaxtyping import jaxtyped

FIRST = 4
"""Calls of a function in a test that are all checked."""
ALL = os.environ.get("REINVERT_SHAPES") == "all"
_calls: dict[CodeType, int] = {}
_checks: dict[CodeType, Callable[..., Any]] = {}


class _Called(threading.local):
    """The functions whose arguments are being checked, in this thread."""

    def __init__(self) -> None:
        self.stack: list[Callable[..., Any]] = []


_called = _Called()


def begin_test() -> None:
    _calls.clear()


def checked(thing: Any) -> Any:
    """A function with the checks of its signature; a dataclass with those of its fields."""
    if not isinstance(thing, type):
        return _sampled(thing)
    if is_dataclass(thing) and "__init__" in vars(thing):
        thing.__init__ = _sampled(thing.__init__)
    return thing


def _sampled(plain: Callable[..., Any]) -> Callable[..., Any]:
    code = plain.__code__

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if torch.compiler.is_compiling():  # a graph has no part in counting
            return plain(*args, **kwargs)
        n = _calls[code] = _calls.get(code, 0) + 1
        if n > FIRST and n & (n - 1) and not ALL:
            return plain(*args, **kwargs)
        if code not in _checks:
            _checks[code] = _check(plain)
        stack, depth = _called.stack, len(_called.stack)
        stack.append(plain)
        try:
            return _checks[code](*args, **kwargs)
        finally:
            del stack[depth:]  # still there if the arguments were refused

    return call


def _check(plain: Callable[..., Any]) -> Callable[..., Any]:
    """The checks of a signature around whichever function stands last in `_called`: one that is defined within another
    is a new function each time, and building its checks takes milliseconds."""
    called = _called

    def last(*args: Any, **kwargs: Any) -> Any:
        return called.stack.pop()(*args, **kwargs)

    # with the globals in which its annotations are to be read
    stand_in = FunctionType(last.__code__, plain.__globals__, plain.__name__, None, last.__closure__)
    return jaxtyped(functools.update_wrapper(stand_in, plain), typechecker=beartype)


class _Decorate(ast.NodeTransformer):
    """`@shapes.checked` next to every function, so that other decorators see what it makes; outermost on a class."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list.append(_name(node))
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list.insert(0, _name(node))
        return self.generic_visit(node)


def _name(at: ast.AST) -> ast.expr:
    return ast.copy_location(ast.Attribute(ast.Name("_shapes", ast.Load()), "checked", ast.Load()), at)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        """Compiled anew: what is cached on disk is the module without its checks."""
        path = self.get_filename(fullname)
        tree = _Decorate().visit(ast.parse(self.get_data(path), path))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_shapes"] = sys.modules[__name__]
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package and not fullname.startswith(self.package + "."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


assert "reinvert" not in sys.modules
sys.meta_path.insert(0, _Finder("reinvert"))
