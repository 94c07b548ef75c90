"""How a value of each field type is typed, on the command line or into a page, and shown.

--strength 0.4 | --every 2 | --single-branch | --kind replace | --source-without hat,sky | --cross 0.4 dog=0.2:0.9
"""

from __future__ import annotations

import json
import math
import shlex
import types
import typing
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from reinvert.fields import DEFAULT
from reinvert.files import shown


@dataclass(frozen=True)
class Kind:
    """How one type is read. `gather` makes one value of a flag's several, given the field's default."""

    metavar: str
    read: Callable[[str], Any]
    gather: Callable[[list[Any], Any], Any] | None = None
    choices: tuple[Any, ...] | None = None
    toggle: bool = False


def flag_of(name: str) -> str:
    """The option of a field, or of a method's field (`direct.strength`)."""
    return f"--{name.replace('_', '-')}"


def kind_of(annotation: Any) -> Kind:
    """The kind of a field's type. Types that none of the rules below knows are read as JSON."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is bool:
        return Kind("", str, toggle=True)
    if annotation is int:
        return Kind("N", whole)
    if annotation is float or (_is_union(origin) and set(inner) <= {int, float}):
        return Kind("X", number)
    if annotation is str:
        return Kind("TEXT", text)
    if origin is Literal:
        return Kind("|".join(map(str, inner)), _choice(inner), choices=inner)
    if origin is tuple and inner == (str, ...):
        return Kind("WORD,WORD", words)
    if _is_mapping(annotation):
        return Kind("WORD=X", _pair(number), lambda pairs, default: dict(pairs))
    if _is_union(origin):
        return _union(inner)
    return Kind("JSON", _json)


def _union(inner: tuple[Any, ...]) -> Kind:
    """An optional value, a share of the run, or a share that may be told word by word."""
    without_none = tuple(t for t in inner if t is not type(None))
    if len(without_none) < len(inner):
        kind = kind_of(typing.Union[without_none])  # noqa: UP007
        return Kind(kind.metavar, _or_none(kind.read), kind.gather, kind.choices)
    if any(_is_mapping(t) for t in inner):
        return Kind("SHARE|WORD=SHARE", _share_or_pair, _by_word)
    if any(typing.get_origin(t) is tuple for t in inner):
        return Kind("SHARE", share)
    return Kind("JSON", _json)


def _is_union(origin: Any) -> bool:
    return origin is typing.Union or origin is types.UnionType


def _is_mapping(annotation: object) -> bool:
    origin = typing.get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)


# --- readers: each raises ArgumentTypeError with the rest of a sentence that begins with the flag ---------------------


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArgumentTypeError(f"takes a number, not '{shown(text)}'")
    return value


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError as error:
        raise ArgumentTypeError(f"takes a whole number, not '{shown(text)}'") from error


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = whole(text)
    if value < 1:
        raise ArgumentTypeError(f"takes a whole number of at least 1, not '{shown(text)}'")
    return value


def steps(text: str) -> int:
    """A number of sampling steps; the most depends on the model."""
    value = whole(text)
    if value < 1:
        raise ArgumentTypeError(f"{value} steps cannot be taken; choose at least 1")
    return value


def seed(text: str) -> int:
    """A seed as torch and the files take it."""
    value = whole(text)
    if not 0 <= value < 2**63:
        raise ArgumentTypeError(f"takes a whole number from 0 to 2^63 - 1, not '{shown(text)}'")
    return value


def share(text: str) -> float | tuple[float, float]:
    """A share of the run: "0.4" is its first 40 %, "0.2:0.9" what lies between."""
    try:
        parts = [number(part) for part in text.split(":")]
    except ArgumentTypeError:
        parts = []
    match parts:
        case [end] if 0 <= end <= 1:
            return end
        case [start, end] if 0 <= start <= end <= 1:
            return start, end
        case _:
            raise ArgumentTypeError(f"takes a share of the run such as 0.4 or 0.2:0.9, not '{shown(text)}'")


def text(given: str) -> str:
    """Words for a model: UTF-8, without half characters."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        told = f"has half a character or a byte that is not UTF-8 at place {error.start + 1}; type it again"
        raise ArgumentTypeError(told) from error
    return given


def words(given: str) -> tuple[str, ...]:
    """ "hat,sky" -> ("hat", "sky")."""
    return tuple(word.strip() for word in text(given).split(",") if word.strip())


def _pair(read: Callable[[str], Any]) -> Callable[[str], tuple[str, Any]]:
    def pair(text: str) -> tuple[str, Any]:
        word, sign, value = text.rpartition("=")
        if not sign or not word.strip():
            raise ArgumentTypeError(f"takes WORD=VALUE such as dog=2, not '{shown(text)}'")
        return word.strip(), read(value)

    return pair


def _share_or_pair(text: str) -> tuple[str, Any]:
    return _pair(share)(text) if "=" in text else (DEFAULT, share(text))


def _by_word(pairs: list[tuple[str, Any]], default: Any) -> Any:
    """One share for all, or one per word; words that are not named keep the field's default share."""
    if len(pairs) == 1 and pairs[0][0] == DEFAULT:
        return pairs[0][1]
    return ({} if isinstance(default, Mapping) else {DEFAULT: default}) | dict(pairs)


def _choice(values: tuple[Any, ...]) -> Callable[[str], Any]:
    """The literal that is written so; anything else is left for argparse to refuse."""
    return lambda text: next((v for v in values if str(v) == text), text)


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == "none" else read(text)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentTypeError(f"takes JSON, not '{shown(text)}'") from error


# --- pages: what a control gives ----------------------------------------------------------------------------------


def entered(annotation: Any, given: Any, default: Any) -> Any:
    """The value of a field of what a control of a page gives: a switch or a number as it is, a text as it is typed on
    the command line (several values with spaces between them). Where nothing was entered it is the default; only
    a field of text may be emptied. Raises `ArgumentTypeError`."""
    kind = kind_of(annotation)
    if kind.toggle:
        return bool(given)
    if annotation is int and isinstance(given, float):
        if not given.is_integer():
            raise ArgumentTypeError(f"takes a whole number, not {given:g}")
        return int(given)
    if isinstance(given, int | float):
        return given
    text = "" if given is None else str(given).strip()
    if not text:
        return default if given is None or annotation is not str else ""
    if kind.gather is None:
        return kind.read(text)
    try:
        parts = shlex.split(text)
    except ValueError as error:  # a quotation mark without its other half
        raise ArgumentTypeError(f"has {str(error).lower()} in '{shown(text)}'") from error
    return kind.gather([kind.read(part) for part in parts], default)


# --- showing ---------------------------------------------------------------------------------------------------


def show(value: object) -> str:
    """A value as it would be typed."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case Mapping():
            pairs = cast(Mapping[str, object], value).items()
            return " ".join(show(v) if k == DEFAULT else f"{k}={show(v)}" for k, v in pairs) or "none"
        case tuple() | list():
            items = cast(Sequence[object], value)
            numbers = all(isinstance(i, int | float) for i in items)
            return (":" if numbers else ",").join(map(show, items)) or "none"
        case _:
            return str(value)
