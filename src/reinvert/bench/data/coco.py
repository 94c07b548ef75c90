"""COCO captions, for reconstruction: `captions_*.json` beside the pictures, or in `annotations`.

The first caption of a picture is its source prompt; there is no target.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reinvert.bench.case import Data, EditCase, Problem
from reinvert.bench.data.common import opened, sound
from reinvert.errors import ReinvertError


def _file(root: Path) -> Path | None:
    found = sorted([*root.glob("captions_*.json"), *root.glob("annotations/captions_*.json")])
    return found[0] if found else None


def fits(root: Path) -> bool:
    return _file(root) is not None


def read(root: Path) -> Data:
    file = _file(root)
    assert file is not None
    try:
        told: Any = json.loads(file.read_text(encoding="utf-8"))
        captions: dict[int, str] = {}
        for note in sorted(told["annotations"], key=lambda note: note["id"]):
            captions.setdefault(note["image_id"], str(note["caption"]).strip())
        pictures: list[tuple[int, str]] = [(p["id"], str(p["file_name"])) for p in told["images"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ReinvertError(f"{file.name} is not in COCO's format: {error}") from error
    places = [root, root / file.stem.removeprefix("captions_"), root / "images"]
    problems, cases = list[Problem](), list[EditCase]()
    for number, name in pictures:
        found = [place / name for place in places if (place / name).is_file()]
        if not found or ".." in Path(name).parts:
            problems.append(Problem(str(number), f"its picture {name} does not exist"))
        elif number not in captions:
            problems.append(Problem(str(number), "it has no caption"))
        else:
            cases.append(_case(str(number), found[0], captions[number]))
    return Data("COCO captions", sound(cases, problems), tuple(problems))


def _case(key: str, path: Path, caption: str) -> EditCase:
    return EditCase(id=key, source_prompt=caption, target_prompt="", open_picture=lambda: opened(path))
