"""COCO captions, for reconstruction: `captions_*.json` in the folder or in `annotations`; of several captions of a
picture the first (of the smallest id) counts.

The pictures lie beside, in `images`, or in a folder named as the captions are (`captions_val2017.json`: `val2017`).
Microsoft COCO Captions: Data Collection and Evaluation Server, 2015, arXiv 1504.00325.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from reinvert.bench.case import Data, EditCase
from reinvert.bench.data.common import Collection, Draft, opener, size_of
from reinvert.errors import ReinvertError
from reinvert.files import check, inside, read_json, shown
from reinvert.files.data import LARGEST, CocoCaption, CocoFile, CocoImage, named, record

PREFIX: Final = "captions_"


def find(root: Path) -> Path | None:
    """The captions; of several files the first whose pictures' folder is there."""
    found = sorted([*root.glob(f"{PREFIX}*.json"), *root.glob(f"annotations/{PREFIX}*.json")])
    chosen = next((file for file in found if len(places(file)) > 1), found[0] if found else None)
    return None if chosen is None else named(root, chosen.relative_to(root).as_posix())


def folder_of(file: Path) -> Path:
    """The data's folder, which a captions file lies in, or in whose `annotations` it lies."""
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def places(file: Path) -> list[Path]:
    """The folders in which the pictures of a captions file may lie, as far as they exist; the data's own is last."""
    root, split = folder_of(file), file.stem.removeprefix(PREFIX)
    wanted = [root / split, root / "images" / split, root / "images", root]
    return [place for place in wanted if place.is_dir()]


def read(file: Path) -> Data:
    """All pictures of a captions file. Raises `ReinvertError` if it is not in COCO's format."""
    name = shown(file.name)
    told = check(CocoFile, read_json(file, LARGEST), name, advice="it is not in COCO's format")
    (captions, unread), found = _captions(told.annotations, f"a caption of {name}"), Collection()
    for number, image in enumerate(told.images, 1):
        key = str(image.get("id", number)) if isinstance(image, dict) else str(number)
        make = partial(_draft, folder_of(file), places(file), key, image, captions, unread, f"image {number} of {name}")
        found.take(key, make)
    return Data("COCO captions", tuple(found.cases), tuple(found.problems))


def _captions(annotations: Sequence[Any], name: str) -> tuple[dict[str, str], dict[str, str]]:
    """The first caption of each picture, by the picture's id; and why there is none."""
    captions: dict[str, tuple[int, str]] = {}
    unread: dict[str, str] = {}
    for told in annotations:
        try:
            note = record(CocoCaption, told, name)
        except ReinvertError as error:
            if isinstance(told, dict):
                unread.setdefault(str(told.get("image_id"))[:200], str(error))
            continue
        key, text = str(note.image_id), " ".join(note.caption.split())
        captions[key] = min(captions.get(key, (note.id, text)), (note.id, text), key=lambda found: found[0])
    return {key: text for key, (_, text) in captions.items()}, unread


def _draft(
    root: Path, roots: Sequence[Path], key: str, told: Any, captions: dict[str, str], unread: dict[str, str], name: str
) -> Draft:
    image = record(CocoImage, told, name)
    if key not in captions:
        raise ReinvertError(unread.get(key, "it has no caption"))
    place = next((place for place in roots[:-1] if (place / image.file_name).is_file()), roots[-1])
    path = inside(root, (place / image.file_name).relative_to(root).as_posix(), "picture")
    case = EditCase(
        id=key,
        source_prompt=captions[key],
        target_prompt="",
        open_picture=opener(path),
        open_bytes=path.read_bytes,
    )
    return Draft(case, size_of(path, image.file_name))
