"""PIE-Bench and TI2I: `mapping_file*.json` beside a folder `annotation_images`.

PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, 2024, arXiv 2310.01506. What a record holds is
described in `files.data`. TI2I's records have no mask, and need only picture and target.

A folder that `bench.make` wrote says in `picturebook.json` how large its pictures are, and has beside it the true edits
and, in `attributes.json`, what a judge should read in both pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from reinvert.bench.case import UNTYPED, Data, EditCase
from reinvert.bench.data.common import Collection, Draft, bracket_notes, marked, opener, size_of, type_of, unbracketed
from reinvert.bench.data.masks import decode_mask
from reinvert.files import check, inside, linked_inside, read_json, refusal, shown
from reinvert.files.data import LARGEST, AttributesRecord, MadeFile, PieRecord, TextRecord, named, record

PIE, TI2I = "mapping_file.json", "mapping_file_ti2i_benchmark.json"
NAMES = {PIE: "PIE-Bench", TI2I: "TI2I"}
PICTURES, TRUE_EDITS, MADE = "annotation_images", "true_edits", "picturebook.json"
ATTRIBUTES: Final = "attributes.json"
SIDE: Final = 512
"""Of the pictures that the published masks are for."""


def find(root: Path) -> Path | None:
    return next(filter(None, (named(root, name) for name in NAMES)), None)


def read(file: Path) -> Data:
    """All cases of a mapping file. Raises `ReinvertError` if it is no JSON object."""
    root, strict = file.parent, file.name != TI2I
    records = read_json(file, LARGEST)
    if not isinstance(records, dict):
        raise refusal(f"{shown(file.name)} holds no object of records by their id")
    about = _about(root) if strict else None
    shows = _attributes(root) if strict else {}
    found, side = Collection(), SIDE if about is None else about.size
    for key, told in cast("dict[str, Any]", records).items():
        name = f"its record in {shown(file.name)}"
        found.take(key, partial(draft, root, key, told, side, strict, name, shows.get(key)))
    made = about and about.data
    name = f"{made} in the format of PIE-Bench" if made else NAMES.get(file.name, file.stem)
    return Data(
        name, tuple(found.cases), tuple(found.problems), {} if about is None else about.model_dump(exclude_none=True)
    )


def _about(root: Path) -> MadeFile | None:
    """What `make` says of the folder; nothing for the published one."""
    file = named(root, MADE)
    return None if file is None else check(MadeFile, read_json(file), shown(file), advice="make the folder again")


def _attributes(root: Path) -> Mapping[str, Any]:
    """What `make` says that every picture and its true edit show; nothing for the published one."""
    file = named(root, ATTRIBUTES)
    if file is None:
        return {}
    told = read_json(file, LARGEST)
    if not isinstance(told, dict):
        raise refusal(f"{shown(file)} holds no object of records by their id", "make the folder again")
    return cast("dict[str, Any]", told)


def draft(root: Path, key: str, told: Any, side: int, strict: bool, name: str, attributes: Any = None) -> Draft:
    """One record. `strict`: the fields of PIE-Bench are needed. Raises `ReinvertError` for what is wrong with it."""
    found = record(PieRecord if strict else TextRecord, told, name)
    path = inside(root, f"{PICTURES}/{found.image_path}", "picture")
    source, target = found.original_prompt or "", found.editing_prompt
    runs = None if found.mask is None else np.asarray(found.mask, dtype=np.int64)
    blend, note = blended(found.blended_word or "")
    truth = (root / TRUE_EDITS / found.image_path).with_suffix(".png")
    shows = None if attributes is None else record(AttributesRecord, attributes, f"its record in {ATTRIBUTES}")
    case = EditCase(
        id=key,
        source_prompt=unbracketed(source),
        target_prompt=unbracketed(target),
        open_picture=opener(path),
        type_id=type_of(found.editing_type_id) or UNTYPED,
        instruction=found.editing_instruction,
        blend=blend,
        source_marked=marked(source),
        target_marked=marked(target),
        open_mask=None if runs is None else partial(decode_mask, runs, side, side),
        open_true_edit=opener(truth) if _there(root, truth) else None,
        open_attributes=None if shows is None else partial(tuple, (shows.before, shows.after)),
        open_bytes=path.read_bytes,
    )
    notes = [*bracket_notes(source, target), *([note] if note else [])]
    return Draft(case, size_of(path, found.image_path), None if runs is None else (side, side), notes)


def _there(root: Path, path: Path) -> bool:
    """Whether a file is there, and no link that leads out of the data's folder."""
    try:
        return path.is_file() and linked_inside(root, path)
    except (OSError, ValueError, RuntimeError):
        return False


def blended(words: str) -> tuple[tuple[str, str] | None, str | None]:
    """The blend words of "source target", and what is wrong with them. The published code ignores a third word and
    fails at a single one."""
    found = unbracketed(words).split()
    if len(found) == 1:
        return None, f"its blended_word is the single word {found[0]!r}; it is used without blend words"
    return ((found[0], found[1]) if found else None), None
