"""A folder of one's own: `cases.csv` or `cases.jsonl` beside the pictures, one case a line (`files.data.CaseLine`).

Words in [brackets] in source or target are marked as what differs, as in PIE-Bench.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from reinvert.bench.case import UNTYPED, Data, EditCase, Mask
from reinvert.bench.data.common import Collection, Draft, bracket_notes, marked, opener, size_of, type_of, unbracketed
from reinvert.errors import ReinvertError
from reinvert.files import inside, shown
from reinvert.files.data import CaseLine, named, read_cases, record
from reinvert.image import open_mask

FILES: Final = ("cases.csv", "cases.jsonl")


def find(root: Path) -> Path | None:
    return next(filter(None, (named(root, name) for name in FILES)), None)


def read(file: Path) -> Data:
    """All cases of a table or a file of JSON lines. Raises `ReinvertError` if it is not UTF-8."""
    found, root, unread = Collection(), file.parent, set[str]()
    line = "case" if file.suffix == ".csv" else "line"
    for number, told in read_cases(file):
        values: Any = told if isinstance(told, Mapping) else {}
        own: Any = values.get("id")
        key = f"{number:05d}" if own in (None, "") else str(own)
        unread |= {str(name) for name in values if name not in CaseLine.model_fields}
        found.take(key, partial(_draft, root, key, told, f"{line} {number} of {shown(file.name)}"))
    if unread:
        listed = ", ".join(map(shown, sorted(unread)[:20]))
        found.problem("", f"{file.name} has columns that nothing reads: {listed}", left_out=False)
    return Data(root.resolve().name, tuple(found.cases), tuple(found.problems))


def _draft(root: Path, key: str, told: Any, name: str) -> Draft:
    if isinstance(told, ReinvertError):
        raise told
    line = record(CaseLine, told, name)
    path = inside(root, line.image, "picture")
    mask = inside(root, line.mask, "mask") if line.mask else None
    source, target = line.source, line.target or ""
    blend = (line.blend_source or "").strip(), (line.blend_target or "").strip()
    case = EditCase(
        id=key,
        source_prompt=unbracketed(source),
        target_prompt=unbracketed(target),
        open_picture=opener(path),
        type_id=type_of(line.type, own=True) or UNTYPED,
        instruction=line.instruction,
        blend=blend if all(blend) else None,
        source_marked=marked(source),
        target_marked=marked(target),
        open_mask=None if mask is None else partial(_mask, mask),
        open_bytes=path.read_bytes,
    )
    notes = bracket_notes(source, target)
    if any(blend) and not all(blend):
        notes.append("it has one blend word, and two are needed; it is used without blend words")
    mask_size = None if mask is None else size_of(mask, line.mask or "")
    return Draft(case, size_of(path, line.image), mask_size, notes)


def _mask(path: Path) -> Mask:
    return np.asarray(open_mask(path)) > 0
