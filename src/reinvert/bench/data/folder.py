"""A folder of one's own: `cases.csv` or `cases.jsonl` beside the pictures, one case a line.

| column | |
|---|---|
| image | path of the picture, relative to the folder; needed |
| source | what the picture shows; needed |
| target | what it should show; without it, the case is for reconstruction only |
| id | a name for results; else the number of the line, counted from 1 |
| type | 0 to 9 or a name of PIE-Bench's, or a name of your own to group by |
| instruction | for editors that follow instructions |
| mask | path of a picture of the same size, white where the edit may change it |
| blend_source, blend_target | the word of either prompt whose region changes; both or none |

Words in [brackets] in source or target are marked as what differs, as in PIE-Bench.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from reinvert.bench.case import UNTYPED, Data, EditCase, Mask
from reinvert.bench.data.common import (
    Collection,
    Draft,
    as_record,
    bracket_notes,
    inside,
    marked,
    maybe_text,
    opener,
    size_of,
    text,
    type_of,
    unbracketed,
)
from reinvert.errors import ReinvertError
from reinvert.image import open_mask

FILES: Final = ("cases.csv", "cases.jsonl")
COLUMNS: Final = ("image", "source", "target", "id", "type", "instruction", "mask", "blend_source", "blend_target")


def find(root: Path) -> Path | None:
    return next((root / name for name in FILES if (root / name).is_file()), None)


def read(file: Path) -> Data:
    """All cases of a table or a file of JSON lines. Raises `ReinvertError` if it is not UTF-8."""
    found, root, unread = Collection(), file.parent, set[str]()
    try:
        for number, told in _table(file) if file.suffix == ".csv" else _lines(file):
            record: Any = {} if isinstance(told, ReinvertError) or not isinstance(told, Mapping) else told
            named: Any = record.get("id")
            key = f"{number:05d}" if named in (None, "") else str(named)
            unread |= {str(name) for name in record if name not in COLUMNS}
            found.take(key, partial(_draft, root, key, told))
    except (OSError, UnicodeError, csv.Error) as error:
        raise ReinvertError(f"{file} cannot be read: {error}; save it as UTF-8") from error
    if unread:
        found.problem("", f"{file.name} has columns that nothing reads: {', '.join(sorted(unread))}", left_out=False)
    return Data(root.resolve().name, tuple(found.cases), tuple(found.problems))


def _table(file: Path) -> Iterator[tuple[int, Any]]:
    """Each line as a record, or as the error that it is."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        for number, record in enumerate(csv.DictReader(lines), 1):
            more: Any = None in record
            yield number, ReinvertError("its line has more cells than there are columns") if more else record


def _lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Each line that is not empty as the value that it holds, or as the error that it is."""
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, ReinvertError(f"its line is not valid JSON: {error}")


def _draft(root: Path, key: str, told: Any) -> Draft:
    if isinstance(told, ReinvertError):
        raise told
    record = as_record(told)
    name, source, target = text(record, "image"), text(record, "source"), maybe_text(record, "target")
    path = inside(root, name)
    mask_name = maybe_text(record, "mask")
    mask = inside(root, mask_name, "mask") if mask_name else None
    blend = maybe_text(record, "blend_source").strip(), maybe_text(record, "blend_target").strip()
    case = EditCase(
        id=key,
        source_prompt=unbracketed(source),
        target_prompt=unbracketed(target),
        open_picture=opener(path),
        type_id=type_of(record.get("type"), own=True) or UNTYPED,
        instruction=maybe_text(record, "instruction") or None,
        blend=blend if all(blend) else None,
        source_marked=marked(source),
        target_marked=marked(target),
        open_mask=None if mask is None else partial(_mask, mask),
        open_bytes=path.read_bytes,
    )
    notes = bracket_notes(source, target)
    if any(blend) and not all(blend):
        notes.append("it has one blend word, and two are needed; it is used without blend words")
    return Draft(case, size_of(path, name), None if mask is None else size_of(mask, mask_name), notes)


def _mask(path: Path) -> Mask:
    return np.asarray(open_mask(path)) > 0
