"""PIE-Bench++: a local copy of the Hub data set's parquet files, one folder or file per edit type.

ParallelEdits: Efficient Multi-Aspect Text-Driven Image Editing with Attention Grouping, 2024, arXiv 2406.00985. What a
row holds is described in `files.data.PlusRow`; its texts have inner forms that vary: they are read as JSON, else as a
Python literal, else as numbers with spaces. Of several pairs of blend words the first is used; edit_action and
aspect_mapping serve no method here and are not read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

from PIL import Image

from reinvert.bench.case import UNTYPED, Data, EditCase
from reinvert.bench.data.common import Collection, Draft, bracket_notes, marked, size_of, unbracketed
from reinvert.bench.data.masks import check_runs, decode_mask
from reinvert.errors import ReinvertError
from reinvert.files import linked_inside, parse_json, refusal, shown
from reinvert.files.data import LARGEST_GROUP, PlusRow, record
from reinvert.image import open_image

SIDE: Final = 512
TYPED: Final = re.compile(r"([0-9])_[a-z]")
"""How the names of the configs begin: `1_change_object_80`."""
LITERALS: Final = 100_000
"""Longest text that is read as a Python literal; the parser's memory grows with it."""
COLUMNS: Final = tuple(PlusRow.model_fields)
AT_ONCE: Final = 16
"""Rows that are unpacked together: a small file can hold the same long text a million times."""


def find(root: Path) -> Path | None:
    return root if next(root.rglob("*.parquet"), None) else None


def read(root: Path) -> Data:
    """All cases of one parquet file, or of all below a folder, file by file. Raises `ReinvertError` without pyarrow."""
    _parquet()  # without it no file can be read, which is no matter of single files
    found = Collection()
    for file in [root] if root.is_file() else sorted(root.rglob("*.parquet")):
        name = file.name if root.is_file() else file.relative_to(root).as_posix()
        type_id = _type(root, name)
        try:
            if not root.is_file() and not linked_inside(root, file):
                raise refusal(
                    "it is a link to outside of the folder", "name the file itself, or copy it into the folder"
                )
            for number, (cell, told) in enumerate(_rows(file)):
                key = str(told.get("id") or f"{Path(name).stem}-{number}")
                found.take(key, partial(_draft, key, type_id, cell, told, f"row {number} of {shown(file.name)}"))
        except ReinvertError as error:
            found.problem("", f"{shown(name)}: {error}")
    return Data("PIE-Bench++", tuple(found.cases), tuple(found.problems))


def _type(root: Path, name: str) -> str:
    """The type in the name of the config: that of the file's folders below the root, or of the root itself."""
    names = [*reversed(Path(name).parts), root.resolve().name, root.resolve().parent.name]
    return next((told[1] for name in names if (told := TYPED.match(name))), UNTYPED)


# --- parquet -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """Where a picture lies. It is read with its group of rows when it is asked for."""

    file: Path
    group: int
    row: int

    def read(self) -> bytes:
        found = _pictures(self.file, self.group)
        data = _unpacked(found[self.row]) if self.row < len(found) else None
        if not isinstance(data, bytes) or not data:  # the file was changed meanwhile
            raise refusal(f"row {self.row} of {shown(self.file.name)} has no picture")
        return data

    def open(self) -> Image.Image:
        data = self.read()
        try:
            return open_image(data)
        except ReinvertError as error:
            raise refusal(f"row {self.row} of {shown(self.file.name)} holds no picture: {error}") from error


def _parquet() -> Any:
    try:
        return import_module("pyarrow.parquet")
    except ImportError as error:
        raise ReinvertError("parquet files need pyarrow: pip install 'reinvert[bench]'") from error


def _rows(file: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each row with its picture's bytes, a few at a time."""
    try:
        table, columns = _opened(file)
        for group in range(table.num_row_groups):
            _bounded(table, group)
            row = 0
            for batch in table.iter_batches(batch_size=AT_ONCE, row_groups=[group], columns=columns):
                for told in batch.to_pylist():
                    yield Cell(file, group, row), {**told, "image": _unpacked(told.get("image"))}
                    row += 1
    except ReinvertError:
        raise
    except Exception as error:  # pyarrow has many exceptions for broken files
        raise refusal(f"the file cannot be read as parquet: {error}") from error


def _opened(file: Path) -> tuple[Any, list[str]]:
    """An ordinary file, and which of the columns that are read it has."""
    if not file.is_file():  # a pipe would be waited for
        raise refusal("it is not a file")
    table = _parquet().ParquetFile(file)
    return table, [name for name in COLUMNS if name in table.schema_arrow.names]


def _bounded(table: Any, group: int) -> None:
    size = int(table.metadata.row_group(group).total_byte_size)
    if not 0 <= size <= LARGEST_GROUP:
        raise refusal(
            f"a group of its rows has {size:,} bytes; at most {LARGEST_GROUP:,} are read",
            "write it with smaller groups of rows",
        )


@lru_cache(maxsize=1)
def _pictures(file: Path, group: int) -> list[Any]:
    """The pictures of one group of rows, still compressed; the last group stays in memory."""
    try:
        table, _ = _opened(file)
        _bounded(table, group)
        return table.read_row_group(group, columns=["image"]).column("image").to_pylist()
    except ReinvertError:
        raise
    except Exception as error:
        raise refusal(f"{shown(file.name)} cannot be read as parquet: {error}") from error


def _unpacked(stored: Any) -> Any:
    """The file in an image cell: bytes, or the Hub's {"bytes", "path"}."""
    return cast(Any, stored).get("bytes") if isinstance(stored, Mapping) else stored


# --- rows --------------------------------------------------------------------------------------------------------


def _draft(key: str, type_id: str, cell: Cell, told: Any, name: str) -> Draft:
    found = record(PlusRow, told, name)
    size = size_of(found.image, key)
    source, target = found.source_prompt, found.target_prompt
    mask: Any = literal(found.mask)
    runs = None if mask in (None, []) else check_runs(mask)
    blend, note = _blend(literal(found.blended_words))
    case = EditCase(
        id=key,
        source_prompt=unbracketed(source),
        target_prompt=unbracketed(target),
        open_picture=cell.open,
        type_id=type_id,
        instruction=found.editing_instruction,
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
    try:
        return parse_json(told, "the cell")
    except ReinvertError:
        pass
    if len(told) <= LITERALS:
        try:
            return ast.literal_eval(told)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
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
