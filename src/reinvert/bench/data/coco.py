"""COCO captions, for reconstruction: `captions_*.json` in the folder or in `annotations`; of several captions of a
picture the first (of the smallest id) counts.

The pictures lie beside, in `images`, or in a folder named as the captions are (`captions_val2017.json`: `val2017`).
Microsoft COCO Captions: Data Collection and Evaluation Server, 2015, arXiv 1504.00325.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from reinvert.bench.case import Data, EditCase
from reinvert.bench.data.common import (
    Collection,
    Draft,
    as_record,
    inside,
    opener,
    read_json,
    size_of,
    text,
)
from reinvert.errors import ReinvertError

PREFIX: Final = "captions_"


def find(root: Path) -> Path | None:
    """The captions; of several files the first whose pictures' folder is there."""
    found = sorted([*root.glob(f"{PREFIX}*.json"), *root.glob(f"annotations/{PREFIX}*.json")])
    return next((file for file in found if len(places(file)) > 1), found[0] if found else None)


def places(file: Path) -> list[Path]:
    """The folders in which the pictures of a captions file may lie, as far as they exist; the data's own is last."""
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    split = file.stem.removeprefix(PREFIX)
    wanted = [root / split, root / "images" / split, root / "images", root]
    return [place for place in wanted if place.is_dir()]


def read(file: Path) -> Data:
    """All pictures of a captions file. Raises `ReinvertError` if it is not in COCO's format."""
    told = read_json(file)
    listed: Any = [told.get(name) for name in ("images", "annotations")] if isinstance(told, dict) else [None]
    if not all(isinstance(part, list) for part in listed):
        raise ReinvertError(f"{file.name} is not in COCO's format: it needs lists of images and of annotations")
    captions, found = _captions(listed[1]), Collection()
    for number, record in enumerate(cast("list[Any]", listed[0]), 1):
        key = str(record.get("id", number)) if isinstance(record, dict) else str(number)
        found.take(key, partial(_draft, places(file), key, record, captions))
    return Data("COCO captions", tuple(found.cases), tuple(found.problems))


def _captions(annotations: Sequence[Any]) -> dict[str, str]:
    """The first caption of each picture, by the picture's id."""
    whole = [note for note in annotations if isinstance(note, dict) and isinstance(cast(Any, note).get("id"), int)]
    captions: dict[str, str] = {}
    for note in sorted(cast("list[dict[str, Any]]", whole), key=lambda note: note["id"]):
        caption: Any = note.get("caption")
        if isinstance(caption, str) and caption.strip():
            captions.setdefault(str(note.get("image_id")), " ".join(caption.split()))
    return captions


def _draft(roots: Sequence[Path], key: str, told: Any, captions: dict[str, str]) -> Draft:
    record = as_record(told)
    name = text(record, "file_name")
    if key not in captions:
        raise ReinvertError("it has no caption")
    root = next((root for root in roots[:-1] if (root / name).is_file()), roots[-1])
    path = inside(root, name)
    case = EditCase(
        id=key,
        source_prompt=captions[key],
        target_prompt="",
        open_picture=opener(path),
        open_bytes=path.read_bytes,
    )
    return Draft(case, size_of(path, name))
