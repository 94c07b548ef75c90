"""What a page shows of a method's field, made from the dataclass as the command line's flags are."""

from __future__ import annotations

import typing
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import Any, Literal

from reinvert import registry
from reinvert.errors import ReinvertError
from reinvert.registry import Argument, Group, Method
from reinvert.values import Kind, entered, kind_of, show

Look = Literal["toggle", "choice", "whole", "number", "share", "text"]


@dataclass(frozen=True)
class Field:
    """One field of a method, and how it looks on a page."""

    group: Group
    method: str
    argument: Argument

    @property
    def name(self) -> str:
        return self.argument.name

    @property
    def kind(self) -> Kind:
        return kind_of(self.argument.type)

    @property
    def label(self) -> str:
        return f"{self.name.replace('_', ' ')} ({self.method})"

    @property
    def default(self) -> Any:
        return self.argument.default

    @property
    def look(self) -> Look:
        kind, annotation = self.kind, self.argument.type
        if kind.toggle:
            return "toggle"
        if kind.choices:
            return "choice"
        if annotation is int:
            return "whole"
        if _is_share(annotation) and isinstance(self.default, int | float):
            return "share"
        if annotation is float:
            return "number"
        return "text"

    @property
    def is_main(self) -> bool:
        """Whether it is one of the few controls that are always in sight: how strongly, and how long."""
        return self.look == "share" or (self.name == "strength" and self.look == "number")

    @property
    def shown(self) -> Any:
        """The default as the page shows it."""
        return self.shows(self.default)

    def shows(self, value: Any) -> Any:
        """A value as the page shows it."""
        if self.look == "text":
            return "" if value in ({}, ()) else show(value)
        return str(value) if self.look == "choice" else value

    def read(self, given: Any) -> Any:
        """The value of what was entered; raises `ReinvertError` for one that the field does not take."""
        try:
            value = entered(self.argument.type, given, self.default)
        except ArgumentTypeError as error:
            raise ReinvertError(f"{self.label} {error}") from error
        return registry.checked(self.group, self.method, {self.name: value})[self.name]


def _is_share(annotation: Any) -> bool:
    """A share of the run: a number, or a pair of them (or that word by word)."""
    inner = typing.get_args(annotation)
    return any(typing.get_origin(each) is tuple for each in inner) and float in inner


def fields_of(group: Group, method: str) -> tuple[Field, ...]:
    """The fields of a method."""
    return tuple(Field(group, method, argument) for argument in registry.schema(group, method))


def about(method: Method) -> str:
    """A method in one sentence, with its papers, as Markdown."""
    papers = "; ".join(method.papers)
    when = f" {method.when}" if method.when else ""
    return f"**{method.name}** {method.sentence}{when}" + (f" *{papers}*" if papers else "")
