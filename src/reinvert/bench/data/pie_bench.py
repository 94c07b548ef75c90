"""PIE-Bench and TI2I: `mapping_file*.json` beside a folder `annotation_images`.

PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, 2024, arXiv 2310.01506. A record has image_path,
original_prompt and editing_prompt with brackets, editing_instruction, editing_type_id, blended_word ("source target" or
empty) and mask (run lengths over 512 x 512). TI2I's records have no mask, and need only picture and target.

A folder that `bench.make` wrote says in `picturebook.json` how large its pictures are, and has beside it the true edits
and, in `attributes.json`, what a judge should read in both pictures.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from reinvert.bench.case import UNTYPED, Attributes, Data, EditCase
from reinvert.bench.data.common import (
    Collection,
    Draft,
    Record,
    as_record,
    bracket_notes,
    inside,
    marked,
    maybe_text,
    opener,
    read_json,
    size_of,
    text,
    type_of,
    unbracketed,
)
from reinvert.bench.data.masks import check_runs, decode_mask
from reinvert.errors import ReinvertError

PIE, TI2I = "mapping_file.json", "mapping_file_ti2i_benchmark.json"
NAMES = {PIE: "PIE-Bench", TI2I: "TI2I"}
PICTURES, TRUE_EDITS, MADE = "annotation_images", "true_edits", "picturebook.json"
ATTRIBUTES: Final = "attributes.json"
SIDE: Final = 512
"""Of the pictures that the published masks are for."""
LONGEST: Final = 40
"""Characters of an attribute."""


def find(root: Path) -> Path | None:
    return next((root / name for name in NAMES if (root / name).is_file()), None)


def read(file: Path) -> Data:
    """All cases of a mapping file. Raises `ReinvertError` if it is no JSON object."""
    root, strict = file.parent, file.name != TI2I
    records = read_json(file)
    if not isinstance(records, dict):
        raise ReinvertError(f"{file.name} holds no object of records by their id")
    about = _about(root) if strict else {}
    shown = _attributes(root) if strict else {}
    found, side = Collection(), int(about.get("size", SIDE))
    for key, record in as_record(records).items():
        found.take(key, partial(draft, root, key, record, side, strict, shown.get(key)))
    name = f"{about['data']} in the format of PIE-Bench" if "data" in about else NAMES.get(file.name, file.stem)
    return Data(name, tuple(found.cases), tuple(found.problems), about)


def _about(root: Path) -> Record:
    """What `make` says of the folder; nothing for the published one."""
    file = root / MADE
    if not file.is_file():
        return {}
    told = read_json(file)
    if not isinstance(told, dict) or not isinstance(as_record(told).get("size"), int):
        raise ReinvertError(f"{file} does not tell the size of the pictures; make the folder again")
    return as_record(told)


def _attributes(root: Path) -> Record:
    """What `make` says that every picture and its true edit show; nothing for the published one."""
    file = root / ATTRIBUTES
    if not file.is_file():
        return {}
    told = read_json(file)
    if not isinstance(told, dict):
        raise ReinvertError(f"{file} holds no object of records by their id; make the folder again")
    return as_record(told)


def attributes_of(told: Any) -> tuple[Attributes, Attributes]:
    """A record of `attributes.json`. Raises `ReinvertError` unless it holds two tables of short texts."""
    record = as_record(told)
    before, after = ({**as_record(record.get(name, {}))} for name in ("before", "after"))
    for table in (before, after):
        if not table or not all(isinstance(text, str) and len(text) <= LONGEST for text in (*table, *table.values())):
            raise ReinvertError(f"its attributes in {ATTRIBUTES} are not two tables of short texts")
    return before, after


def draft(root: Path, key: str, told: Any, side: int = SIDE, strict: bool = True, attributes: Any = None) -> Draft:
    """One record. `strict`: the fields of PIE-Bench are needed. Raises `ReinvertError` for what is wrong with it."""
    record = as_record(told)
    name = text(record, "image_path")
    path = inside(root / PICTURES, name)
    needed = text if strict else maybe_text
    source, target = needed(record, "original_prompt"), text(record, "editing_prompt")
    runs = None if not strict and record.get("mask") is None else check_runs(record.get("mask"))
    blend, note = blended(maybe_text(record, "blended_word"))
    truth = (root / TRUE_EDITS / name).with_suffix(".png")
    shows = None if attributes is None else attributes_of(attributes)
    case = EditCase(
        id=key,
        source_prompt=unbracketed(source),
        target_prompt=unbracketed(target),
        open_picture=opener(path),
        type_id=type_of(record.get("editing_type_id")) or UNTYPED,
        instruction=maybe_text(record, "editing_instruction") or None,
        blend=blend,
        source_marked=marked(source),
        target_marked=marked(target),
        open_mask=None if runs is None else partial(decode_mask, runs, side, side),
        open_true_edit=opener(truth) if _lies_in(truth, root) else None,
        open_attributes=None if shows is None else partial(tuple, shows),
        open_bytes=path.read_bytes,
    )
    notes = [*bracket_notes(source, target), *([note] if note else [])]
    return Draft(case, size_of(path, name), None if runs is None else (side, side), notes)


def _lies_in(path: Path, root: Path) -> bool:
    """Whether a file is there, and no link that leads out of the data's folder."""
    try:
        return path.is_file() and path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def blended(words: str) -> tuple[tuple[str, str] | None, str | None]:
    """The blend words of "source target", and what is wrong with them. The published code ignores a third word and
    fails at a single one."""
    found = unbracketed(words).split()
    if len(found) == 1:
        return None, f"its blended_word is the single word {found[0]!r}; it is used without blend words"
    return ((found[0], found[1]) if found else None), None
