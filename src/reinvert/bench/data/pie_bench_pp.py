"""PIE-Bench++: a local copy of the Hub data set's parquet files, one folder or file per edit type.

ParallelEdits: Efficient Multi-Aspect Text-Driven Image Editing with Attention Grouping, 2024, arXiv 2406.00985. Columns
are image, id, source_prompt, target_prompt, edit_action, aspect_mapping, blended_words and mask, all but the picture
strings, whose inner form varies: they are read as JSON, else as a Python literal, else as numbers with spaces. Of
several pairs of blend words the first is used; edit_action and aspect_mapping serve no method here and are not read.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

from PIL import Image

from reinvert.bench.case import UNTYPED, Data, EditCase
from reinvert.bench.data.common import (
    Collection,
    Draft,
    Record,
    bracket_notes,
    marked,
    maybe_text,
    size_of,
    text,
    unbracketed,
)
from reinvert.bench.data.masks import check_runs, decode_mask
from reinvert.errors import ReinvertError
from reinvert.image import open_image

SIDE: Final = 512
TYPED: Final = re.compile(r"([0-9])_[a-z]")
"""How the names of the configs begin: `1_change_object_80`."""
LITERALS: Final = 1_000_000
"""Longest text that is read as a Python literal; the parser's memory grows with it."""


def find(root: Path) -> Path | None:
    return root if next(root.rglob("*.parquet"), None) else None


def read(root: Path) -> Data:
    """All cases of one parquet file, or of all below a folder, file by file. Raises `ReinvertError` without pyarrow."""
    _parquet()  # without it no file can be read, which is no matter of single files
    found = Collection()
    for file in [root] if root.is_file() else sorted(root.rglob("*.parquet")):
        shown = file.name if root.is_file() else file.relative_to(root).as_posix()
        type_id = _type(root, shown)
        try:
            for number, (cell, record) in enumerate(_rows(file)):
                key = str(record.get("id") or f"{Path(shown).stem}-{number}")
                found.take(key, partial(_draft, key, type_id, cell, record))
        except ReinvertError as error:
            found.problem("", f"{shown}: {error}")
    return Data("PIE-Bench++", tuple(found.cases), tuple(found.problems))


def _type(root: Path, shown: str) -> str:
    """The type in the name of the config: that of the file's folders below the root, or of the root itself."""
    names = [*reversed(Path(shown).parts), root.resolve().name, root.resolve().parent.name]
    return next((told[1] for name in names if (told := TYPED.match(name))), UNTYPED)


# --- parquet -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """Where a picture lies. It is read with its group of rows when it is asked for."""

    file: Path
    group: int
    row: int

    def read(self) -> bytes:
        return _bytes(_pictures(self.file, self.group)[self.row])

    def open(self) -> Image.Image:
        data = self.read()
        try:
            return open_image(data)
        except ReinvertError as error:
            raise ReinvertError(f"row {self.row} of {self.file.name} holds no picture: {error}") from error


def _parquet() -> Any:
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise ReinvertError("parquet files need pyarrow: pip install 'reinvert[bench]'") from error


def _rows(file: Path) -> Iterator[tuple[Cell, Record]]:
    """Each row with its picture's bytes, a group of rows at a time."""
    parquet = _parquet()
    try:
        table = parquet.ParquetFile(file)
        for group in range(table.num_row_groups):
            for row, record in enumerate(table.read_row_group(group).to_pylist()):
                yield Cell(file, group, row), record
    except Exception as error:  # pyarrow has many exceptions for broken files
        raise ReinvertError(f"the file cannot be read as parquet: {error}") from error


@lru_cache(maxsize=1)
def _pictures(file: Path, group: int) -> list[Any]:
    """The pictures of one group of rows, still compressed; the last group stays in memory."""
    try:
        return _parquet().ParquetFile(file).read_row_group(group, columns=["image"]).column("image").to_pylist()
    except ReinvertError:
        raise
    except Exception as error:
        raise ReinvertError(f"{file.name} cannot be read as parquet: {error}") from error


def _bytes(stored: Any) -> bytes:
    """The file in an image cell: bytes, or the Hub's {"bytes", "path"}."""
    data: Any = cast(Any, stored).get("bytes") if isinstance(stored, Mapping) else stored
    if not isinstance(data, bytes) or not data:
        raise ReinvertError("it has no picture")
    return data


# --- rows --------------------------------------------------------------------------------------------------------


def _draft(key: str, type_id: str, cell: Cell, record: Record) -> Draft:
    size = size_of(_bytes(record.get("image")), key)
    source, target = text(record, "source_prompt"), text(record, "target_prompt")
    told: Any = literal(record.get("mask"))
    runs = None if told in (None, "", []) else check_runs(told)
    blend, note = _blend(literal(record.get("blended_words")))
    case = EditCase(
        id=key,
        source_prompt=unbracketed(source),
        target_prompt=unbracketed(target),
        open_picture=cell.open,
        type_id=type_id,
        instruction=maybe_text(record, "editing_instruction") or None,
        blend=blend,
        source_marked=marked(source),
        target_marked=marked(target),
        open_mask=None if runs is None else partial(decode_mask, runs, SIDE, SIDE),
        open_bytes=cell.read,
    )
    notes = [*bracket_notes(source, target), *([note] if note else [])]
    return Draft(case, size, None if runs is None else (SIDE, SIDE), notes)


def literal(told: Any) -> Any:
    """What a cell says: JSON, a Python literal, numbers with spaces or commas, or else the text itself."""
    if not isinstance(told, str):
        return told
    for parse in (json.loads, ast.literal_eval):
        if parse is json.loads or len(told) <= LITERALS:
            try:
                return parse(told)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
    parts = told.replace(",", " ").split()
    return [int(part) for part in parts] if parts and all(re.fullmatch("[0-9]{1,18}", part) for part in parts) else told


def _blend(told: Any) -> tuple[tuple[str, str] | None, str | None]:
    """The first pair of ["source,target", ...] or [["source", "target"], ...], and what is wrong with it."""
    first: Any = (told[0] if told else None) if isinstance(told, list | tuple) else told
    if first in (None, ""):
        return None, None
    if isinstance(first, str) and isinstance(told, list | tuple) and "," not in first and len(cast(Any, told)) == 2:
        first = told  # ["source", "target"]
    parts: Any = first.split(",") if isinstance(first, str) else first
    if isinstance(parts, list | tuple):
        words = [str(part).strip() for part in cast("list[Any]", parts)]
        if len(words) == 2 and all(words):
            return (words[0], words[1]), None
    return None, f"its blended_words {str(told)[:40]!r} are no pair; it is used without blend words"
