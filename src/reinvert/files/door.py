"""Opening, decoding, parsing, checking and the words of a refusal, for all formats alike.

    read_json / read_toml -> plain values, at most `MAX_NESTING` deep
    read_table            -> the lines of a CSV file
    check(Entry, values)  -> the typed entry, or one sentence: file, field, what was found, what is taken
    inside(folder, name)  -> a path that cannot lead out of the folder

Whatever a file holds, the only exception that comes out of here is `ReinvertError`, with at most 300 characters and no
control characters among them.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import re
import stat
import tomllib
import types
import typing
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, cast

import annotated_types
from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from reinvert.errors import ReinvertError, one_line

MAX_NESTING: Final = 32
"""How deep lists and tables may lie in each other; the deepest file that reinvert writes has 8."""
LONGEST: Final = 300
"""Characters of a refusal."""
MIB: Final = 2**20

Pathlike = str | os.PathLike[str]
T = TypeVar("T", bound="Entry")


class Entry(BaseModel):
    """Base of every description: no field that is not described, no value that is bent into another type."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class OpenEntry(Entry):
    """A description of what is read of a file that other programs write too: further fields are left alone."""

    model_config = ConfigDict(extra="ignore")


# --- types of fields ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Says:
    """What a type takes, in words, where they do not follow from its bounds."""

    words: str


def is_printable(text: str, spaces: str = " ") -> bool:
    """Whether a text holds no control characters, surrogates or invisible signs (`spaces` are let through)."""
    return all(sign.isprintable() or sign in spaces for sign in text)


def _line(text: str) -> str:
    if not is_printable(text):
        raise ValueError("it has a line break, a control character or an invisible one")
    return text


def _prose(text: str) -> str:
    # Emoji are joined by invisible signs, which is no harm in a prompt; what moves a cursor is.
    if any((sign < " " and sign not in "\t\n\r") or "\x7f" <= sign < "\xa0" for sign in text):
        raise ValueError("it has a control character")
    return text


def _relative(name: str) -> str:
    parts = re.split(r"[/\\]", name)
    if not name or name.startswith(("/", "\\", "~")) or ".." in parts or re.match(r"^[A-Za-z]:", name):
        raise ValueError("it leads out of the folder")
    return _line(name)


def whole_text(text: str) -> str:
    """Refuses half characters (lone surrogates), which no tokenizer takes and no file can hold."""
    if not _is_whole(text):
        raise ValueError("it has half a character")
    return text


Line = Annotated[str, annotated_types.MaxLen(2000), AfterValidator(_line), Says("one line of text")]
Word = Annotated[Line, annotated_types.MaxLen(200)]
Name = Annotated[str, annotated_types.Len(1, 200), AfterValidator(_line), Says("a name on one line")]
Prose = Annotated[str, annotated_types.MaxLen(20_000), AfterValidator(_prose), Says("text without control characters")]
Prompt = Annotated[Prose, annotated_types.Len(1, 2000)]
Inside = Annotated[
    str, annotated_types.Len(1, 500), AfterValidator(_relative), Says("a path that stays inside of the folder")
]
Seed = Annotated[int, annotated_types.Ge(0), annotated_types.Le(2**63 - 1)]
Share = Annotated[float, annotated_types.Ge(0), annotated_types.Le(1)]


# --- opening ------------------------------------------------------------------------------------------------------


def read_bytes(path: Pathlike, limit: int = 16 * MIB, *, missing: str = "check the path") -> bytes:
    """The content of an ordinary file of at most `limit` bytes; `missing` says what to do where there is none.

    A pipe or a device is refused unread: it could wait for ever, or never end.
    """
    name = shown(path)
    try:
        status = os.stat(path)  # noqa: PTH116  # Path refuses some of what is given here with exceptions of its own
        if not stat.S_ISREG(status.st_mode):
            raise refusal(f"{name} is not a file; {missing}")
        if status.st_size > limit:
            raise refusal(f"{name} has {status.st_size:,} bytes; at most {limit:,} are read")
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read(limit + 1)
    except FileNotFoundError as error:
        raise refusal(f"{name} does not exist; {missing}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a file"
        raise refusal(f"{name} cannot be read ({reason}); {missing}") from error
    if len(data) > limit:  # it grew
        raise refusal(f"{name} has more than the {limit:,} bytes that are read")
    return data


def read_text(path: Pathlike, limit: int = 16 * MIB, *, missing: str = "check the path") -> str:
    """The same as text, which must be UTF-8 (with or without a byte order mark)."""
    return decode(read_bytes(path, limit, missing=missing), shown(path))


def decode(data: bytes, name: str) -> str:
    """UTF-8 as text."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refusal(f"{name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def expanded(path: Pathlike) -> Path:
    """A path that a user typed, with `~` and `~name` as home folders."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise refusal(f"{shown(path)} is in the home of a user that there is not; write the path out") from error


def real(path: Pathlike) -> Path:
    """Where a path leads once links are followed. (`Path.resolve` raises RuntimeError where links form a ring.)"""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a zero byte
        raise refusal(f"{shown(path)} is no name of a file; check the path") from error


def inside(folder: Pathlike, name: str, what: str = "file") -> Path:
    """The path of an existing file that a file in `folder` names.

    Refused unless it lies inside of the folder, also after links are followed.
    """
    told = f"its {what} {shown(name)}"
    try:
        root = Path(folder).resolve()
        path = (root / name).resolve()
        if not _within(root, path):
            raise refusal(f"{told} lies outside of the folder {shown(folder)}")
        if not path.is_file():
            raise refusal(f"{told} does not exist")
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte, too long a name, links in a ring
        if isinstance(error, ReinvertError):
            raise
        raise refusal(f"{told} is no name of a file") from error
    return path


def linked_inside(folder: Pathlike, path: Path) -> bool:
    """Whether a path lies inside of a folder after links are followed."""
    try:
        return _within(Path(folder).resolve(), path.resolve())
    except (OSError, ValueError, RuntimeError):  # links in a ring
        return False


def _within(root: Path, path: Path) -> bool:
    """Whether one resolved path lies below another. A snapshot in the Hub's cache is made of links to the blobs beside
    it, which are as good as inside."""
    if path.is_relative_to(root):
        return True
    snapshots = next((parent for parent in root.parents if parent.name == "snapshots"), None)
    if snapshots is None or "--" not in snapshots.parent.name:
        return False
    blobs = snapshots.parent / "blobs"
    return not blobs.is_symlink() and path.is_relative_to(blobs)


@contextmanager
def writing(path: Pathlike, advice: str) -> Generator[None]:
    """Tells which file could not be written, on a full disk for one, and what to do."""
    try:
        yield
    except OSError as error:
        raise refusal(f"{shown(path)} cannot be written ({error.strerror or error})", advice) from error


# --- parsing ------------------------------------------------------------------------------------------------------


def read_json(path: Pathlike, limit: int = 16 * MIB, *, missing: str = "check the path") -> Any:
    """The plain values of a JSON file."""
    return parse_json(read_text(path, limit, missing=missing), shown(path))


def read_toml(path: Pathlike, limit: int = MIB // 4, *, missing: str = "check the path") -> dict[str, Any]:
    """The plain values of a TOML file."""
    return parse_toml(read_text(path, limit, missing=missing), shown(path))


def read_table(
    path: Pathlike, limit: int = 16 * MIB, *, needed: Sequence[str] = (), missing: str = "check the path"
) -> Iterator[tuple[int, dict[str, str] | ReinvertError]]:
    """The lines of a CSV file by their number, as what the columns of its first line hold; empty cells are left out.

    A line that cannot be read is the error that it is, and the others are read. `needed` are columns that there must
    be.
    """
    name = shown(path)
    rows = csv.reader(io.StringIO(read_text(path, limit, missing=missing), newline=""), strict=True)
    try:
        columns = next(rows, [])
    except csv.Error as error:
        raise refusal(f"{name} is not a CSV file that can be read (line {rows.line_num}): {error}") from error
    for column in needed:
        if column not in columns:
            advice = f"its first line names the columns: {','.join(needed)}"
            raise refusal(f"{name} has no column {column}", advice)
    twice = next((column for column, count in Counter(filter(None, columns)).items() if count > 1), None)
    if twice is not None:
        raise refusal(f"{name} has two columns '{shown(twice)}'; name each of them once")
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield rows.line_num, refusal(f"{name} is not a CSV file that can be read (line {rows.line_num}): {error}")
            continue
        if len(row) > len(columns):
            line = f"{name} line {rows.line_num} has more cells than there are columns"
            yield rows.line_num, refusal(line, "put a text with commas in quotes")
        elif row:
            yield rows.line_num, {key: cell for key, cell in zip(columns, row, strict=False) if cell}


def parse_json(text: str | bytes, name: str) -> Any:
    """Plain values, no deeper than `MAX_NESTING`; `name` is what the sentence calls the text."""
    return _parsed(json.loads, text if isinstance(text, str) else decode(text, name), name, "JSON")


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The same for TOML."""
    return _parsed(tomllib.loads, text, name, "TOML")


def _parsed(parse: Callable[[str], Any], text: str, name: str, kind: str) -> Any:
    try:
        value = parse(text)
    except RecursionError as error:
        raise refusal(f"{name} is {kind} nested more than {MAX_NESTING} deep, which no file of this kind is") from error
    except ValueError as error:  # also a number of thousands of digits
        raise refusal(f"{name} is not valid {kind}: {error}") from error
    except MemoryError as error:
        raise refusal(f"{name} does not fit into memory") from error
    _bound(value, name, kind, surrogates=kind == "JSON" and re.search(r"\\u[dD][89a-fA-F]", text) is not None)
    return value


def _bound(value: Any, name: str, kind: str, *, surrogates: bool) -> None:
    """Refuse nesting that would break whoever walks through it, and half characters that nobody can write."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        if surrogates and any(isinstance(item, str) and not _is_whole(item) for item in level):
            raise refusal(f"{name} has half a character (a lone surrogate) in a text; write it again")
        level = [child for item in level for child in _children(item, surrogates)]
        if not level:
            return
    raise refusal(f"{name} is {kind} nested more than {MAX_NESTING} deep, which no file of this kind is")


def _children(item: Any, texts: bool) -> list[Any]:
    if isinstance(item, dict):
        pairs = cast("dict[str, Any]", item)
        found = [*pairs.values(), *(pairs if texts else ())]
    elif isinstance(item, list):
        found = cast("list[Any]", item)
    else:
        return []
    return [child for child in found if isinstance(child, dict | list) or (texts and isinstance(child, str))]


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- checking -----------------------------------------------------------------------------------------------------


def check(kind: type[T], value: Any, name: str, *, advice: str = "") -> T:
    """The entry that `value` is; `name` is what the sentence calls it, `advice` what it ends in."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise refusal(_wrong(kind, value, error, name), advice) from error
    except RecursionError as error:  # a list that holds itself, from a caller in Python
        raise refusal(f"{name} is nested too deep", advice) from error


def check_value(annotation: Any, value: Any, name: str) -> Any:
    """The value, if it is of a type (a whole number may stand for a float); `name` is what the sentence calls it."""
    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        raise refusal(f"{name} is {_kind_of(value)}; it takes {taken_of(annotation)}") from error


@cache
def _adapter(annotation: Any) -> Any:
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True))


def _wrong(kind: type[Entry], value: Any, error: ValidationError, name: str) -> str:
    """The first thing that is wrong, the shallowest first: a missing table matters more than a number in another."""
    found = min(error.errors(include_url=False), key=lambda each: len(each["loc"]))
    path, item = _walk(value, found["loc"])
    field = _field(kind, path)
    label = _label(path)
    because = f" ({found.get('ctx', {}).get('error')})" if found["type"] == "value_error" else ""
    if found["type"] == "missing":
        wanted = _field(kind, (*path, str(found["loc"][-1])))
        label = _label((*path, str(found["loc"][-1])))
        return f"{name} has no {label}: it takes {taken_of(wanted)}" if wanted else f"{name} has no {label}"
    if found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _names(kind, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return f"{name} has an unknown entry '{shown(label)}'; {hint}"
    if "[key]" in found["loc"]:
        return f"{name}: {shown(label)} is no key that can be used{because}"
    if not path and because:
        return f"{name}: {because.strip(' ()')}"
    if not path:
        return f"{name} is {_kind_of(item)}, not {taken_by(kind)}"
    wanted = taken_of(field) if field is not None else str(found["msg"])
    return f"{name}: {shown(label)} is {_kind_of(item)}{because}; it takes {wanted}"


def _walk(value: Any, loc: Sequence[int | str]) -> tuple[tuple[int | str, ...], Any]:
    """As much of a place as leads somewhere in the value (pydantic adds the members of unions), and what lies there."""
    path: list[int | str] = []
    for step in loc:
        if isinstance(value, Mapping) and step in value:
            value = cast("Mapping[Any, Any]", value)[step]
        elif isinstance(value, list | tuple) and isinstance(step, int) and step < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[step]
        else:
            continue
        path.append(step)
    return tuple(path), value


def _label(path: Sequence[int | str]) -> str:
    """inversion.name, things[0].kind"""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _field(kind: type[Entry], path: Sequence[int | str]) -> Any:
    """The annotation of the field at a path, as far as descriptions go; None where they say nothing."""
    at: Any = kind
    for step in path:
        at = _below(at, step)
    return None if at is kind else at


def _below(at: Any, step: int | str) -> Any:
    """The annotation one step further in."""
    for option in _options(_bare(at)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            found = next((f for n, f in option.model_fields.items() if step in (n, f.alias)), None)
            if found is not None:
                return _annotated(found)
        inner = typing.get_args(option)
        origin = typing.get_origin(option)
        if origin in (list, tuple) and isinstance(step, int) and inner:
            return inner[0]
        if isinstance(origin, type) and issubclass(origin, Mapping) and len(inner) == 2:
            return inner[1]
    return None


def _annotated(field: FieldInfo) -> Any:
    """A field's type with its bounds, which pydantic keeps apart."""
    if not field.metadata:
        return field.annotation
    return Annotated[(field.annotation, *field.metadata)]


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, bare; or the one type that it is."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(_bare(option) for option in typing.get_args(annotation))
    return (annotation,)


def _names(kind: type[Entry], path: Sequence[int | str]) -> list[str]:
    at: Any = _field(kind, path) if path else kind
    for option in _options(_bare(at)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return [field.alias or name for name, field in option.model_fields.items()]
    return []


# --- words --------------------------------------------------------------------------------------------------------


def taken_of(annotation: Any) -> str:
    """What a type takes, in words that follow from it: "a whole number from 1 to 1,000"."""
    bounds: tuple[Any, ...] = ()
    if typing.get_origin(annotation) is Annotated:
        annotation, *more = typing.get_args(annotation)
        bounds = tuple(more)
    said = next((bound.words for bound in bounds if isinstance(bound, Says)), None)
    if said is not None:
        least, most = _lengths(bounds) if annotation is str else (None, None)
        return said if most is None else f"{said} ({f'{least:,} to' if least else 'at most'} {most:,} characters)"
    origin: Any = typing.get_origin(annotation)
    inner: tuple[Any, ...] = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in inner if option is not type(None) and not (option is int and float in inner)]
        if len(options) == 1 and bounds:
            options = [Annotated[(options[0], *bounds)]]
        return " or ".join(dict.fromkeys(taken_of(option) for option in options))
    if origin is Literal:
        if inner == ("",):
            return "nothing"
        return f"{'one of ' if len(inner) > 1 else ''}{', '.join(map(str, inner))}"
    if origin is list or annotation is list:
        least, most = _lengths(bounds)
        many = {(None, None): "a list", (least, least): f"a list of {least}"}.get((least, most))
        many = many or (f"a list of {least or 0:,} to {most:,}" if most else f"a list of {least} or more")
        return f"{many}, each {taken_of(item)}" if (item := next(iter(inner), Any)) is not Any else many
    if origin is tuple and len(set(inner)) == 1:
        return f"a list of {len(inner)}, each {taken_of(inner[0])}"
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return f"a list, each {taken_of(inner[0])}"
    if origin is tuple:
        return f"a list of {', '.join(taken_of(item) for item in inner if item is not Ellipsis)}"
    if isinstance(origin or annotation, type) and issubclass(cast(type, origin or annotation), Mapping):
        return "a table"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return taken_by(annotation)
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return f"a {'whole ' if annotation is int else ''}number{_range(bounds)}"
    if annotation is str:
        least, most = _lengths(bounds)
        return f"text of {least or 0:,} to {most:,} characters" if most else "text"
    return "any value" if annotation is Any else str(getattr(annotation, "__name__", annotation))


@dataclass(frozen=True)
class Described:
    """A field of a description, in words."""

    name: str
    takes: str
    needed: bool
    default: Any
    """None where there is none, and for a field that is needed."""
    about: str


def described(kind: type[Entry]) -> tuple[Described, ...]:
    """The fields of a description in order, as its page shows them."""
    return tuple(
        Described(
            field.alias or name,
            taken_of(_annotated(field)),
            field.is_required(),
            None if field.is_required() or field.default_factory is not None else field.default,
            field.description or "",
        )
        for name, field in kind.model_fields.items()
    )


def taken_by(kind: type[Any]) -> str:
    return f"a table of {', '.join(field.alias or name for name, field in kind.model_fields.items())}"


def _range(bounds: Sequence[Any]) -> str:
    least = next((bound.ge for bound in bounds if isinstance(bound, annotated_types.Ge)), None)
    most = next((bound.le for bound in bounds if isinstance(bound, annotated_types.Le)), None)
    above = next((bound.gt for bound in bounds if isinstance(bound, annotated_types.Gt)), None)
    if above is not None:
        return f" above {_figure(above)}" + (f" and at most {_figure(most)}" if most is not None else "")
    if least is not None and most is not None:
        return f" from {_figure(least)} to {_figure(most)}"
    return f" of at least {_figure(least)}" if least is not None else "" if most is None else f" up to {_figure(most)}"


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _lengths(bounds: Sequence[Any]) -> tuple[int | None, int | None]:
    """The narrowest of several."""
    least = [b.min_length for b in bounds if isinstance(b, annotated_types.MinLen | annotated_types.Len)]
    most = [b.max_length for b in bounds if isinstance(b, annotated_types.MaxLen | annotated_types.Len)]
    return max(filter(None, least), default=None), min(filter(None, most), default=None)


def _kind_of(value: Any) -> str:
    """What was found, short: 'x', 5, true, an empty list, a list of 3, a table."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f"'{shown(value)}'"
        case int() | float():
            try:
                return shown(value, 24)
            except ValueError:  # thousands of digits
                return "a number of thousands of digits"
        case list() | tuple():
            count = len(cast("list[Any]", value))
            return f"a list of {count:,}" if count else "an empty list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def shown(value: object, most: int = 60) -> str:
    """A name or value from outside as a sentence may hold it: on one line, printable, a long one without its middle."""
    text = clean(str(os.fspath(value) if isinstance(value, os.PathLike) else value))
    if len(text) <= most:
        return text
    tail = most // 2
    return f"{text[: most - tail - 3]}...{text[-tail:]}"


def clean(text: str) -> str:
    """A text on one line, what cannot be printed spelt out."""
    return one_line(text)


def refusal(sentence: str, advice: str = "") -> ReinvertError:
    """A `ReinvertError` of at most `LONGEST` characters; the advice stays whole."""
    end = f"; {advice}" if advice else ""
    text = one_line(sentence)
    room = LONGEST - len(end)
    return ReinvertError((text if len(text) <= room else f"{text[: room - 3]}...") + end)
