"""PIE-Bench++: a local copy of the Hub data set's parquet files, one folder or file per edit type.

ParallelEdits: Efficient Multi-Aspect Text-Driven Image Editing with Attention Grouping, 2024, arXiv 2406.00985. Columns
are image, id, source_prompt, target_prompt, edit_action, aspect_mapping, blended_words and mask, all but the picture
strings, whose inner form varies: they are read as JSON, else as a Python literal, else as numbers with spaces.
"""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from reinvert.bench.case import Data, EditCase, Mask, Problem
from reinvert.bench.data.common import decode_mask, sound, unbracketed
from reinvert.errors import ReinvertError
from reinvert.image import as_rgb

LARGEST = 16_000_000
"""Pixels; a picture in a table is opened without the checks that files get."""


def fits(root: Path) -> bool:
    return any(root.rglob("*.parquet"))


def read(root: Path) -> Data:
    problems, cases = list[Problem](), list[EditCase]()
    for file in sorted(root.rglob("*.parquet")):
        type_id = next((part[0] for part in (file.stem, *reversed(file.parts[:-1])) if part[:1].isdigit()), "0")
        for number, record in enumerate(_rows(file)):
            key = str(record.get("id") or f"{file.stem}-{number}")
            try:
                cases.append(_case(key, type_id, record))
            except (ReinvertError, KeyError, TypeError, ValueError, OSError) as error:
                problems.append(Problem(key, f"it cannot be read: {error}"))
    return Data("PIE-Bench++", sound(cases, problems), tuple(problems))


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ReinvertError("parquet files need pyarrow: pip install 'reinvert[bench]'") from error
    try:
        yield from parquet.read_table(file).to_pylist()
    except Exception as error:  # whatever a broken file makes the library raise
        raise ReinvertError(f"{file.name} is not a readable parquet file: {error}") from error


def literal(text: Any) -> Any:
    """What a cell says: JSON, a Python literal, numbers with spaces, or the text itself."""
    if not isinstance(text, str):
        return text
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    parts = text.replace(",", " ").split()
    return [int(part) for part in parts] if parts and all(part.isdigit() for part in parts) else text


def _case(key: str, type_id: str, record: Mapping[str, Any]) -> EditCase:
    stored: Any = record["image"]
    data: bytes = stored["bytes"] if isinstance(stored, Mapping) else stored
    with Image.open(io.BytesIO(data)) as picture:
        if picture.width * picture.height > LARGEST:
            raise ReinvertError(f"its picture is {picture.width}x{picture.height}, more than {LARGEST} pixels")
        width, height = picture.size
    runs = literal(record.get("mask") or "")

    def region() -> Mask:
        return decode_mask([int(n) for n in runs], height, width)

    return EditCase(
        id=key,
        source_prompt=unbracketed(str(record["source_prompt"])),
        target_prompt=unbracketed(str(record["target_prompt"])),
        open_picture=lambda: as_rgb(Image.open(io.BytesIO(data))),
        type_id=type_id,
        blend=_blend(literal(record.get("blended_words"))),
        open_mask=region if isinstance(runs, list) and runs else None,
    )


def _blend(told: Any) -> tuple[str, str] | None:
    """The first pair of "source,target"."""
    first: Any = told[0] if isinstance(told, list) and told else told
    pair: Any = first.split(",") if isinstance(first, str) else first
    if isinstance(pair, list | tuple) and len(pair) == 2 and any(pair):  # pyright: ignore[reportUnknownArgumentType]
        return str(pair[0]).strip(), str(pair[1]).strip()  # pyright: ignore[reportUnknownArgumentType]
    return None
