"""PIE-Bench and TI2I: `mapping_file*.json` beside a folder `annotation_images`.

PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, 2024, arXiv 2310.01506. A record has image_path,
original_prompt and editing_prompt with brackets, editing_instruction, editing_type_id, blended_word ("source target" or
empty) and mask (run lengths over 512 x 512). TI2I's records have no mask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from reinvert.bench.case import Data, EditCase, Mask, Problem
from reinvert.bench.data.common import decode_mask, inside, opened, sound, unbracketed
from reinvert.errors import ReinvertError

FILES = {"mapping_file.json": "PIE-Bench", "mapping_file_ti2i_benchmark.json": "TI2I"}
PICTURES, TRUE_EDITS = "annotation_images", "true_edits"


def fits(root: Path) -> bool:
    return any((root / name).is_file() for name in FILES)


def read(root: Path) -> Data:
    """All cases of the mapping file. Raises `ReinvertError` if it is no JSON object."""
    file = next(root / name for name in FILES if (root / name).is_file())
    try:
        records: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReinvertError(f"{file.name} is not valid JSON: {error}") from error
    if not isinstance(records, dict):
        raise ReinvertError(f"{file.name} should be an object of records by their id")
    problems, cases = list[Problem](), list[EditCase]()
    for key, record in records.items():  # pyright: ignore[reportUnknownVariableType]
        try:
            cases.append(case_of(root, str(key), record))
        except (ReinvertError, KeyError, TypeError, ValueError) as error:
            what = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
            problems.append(Problem(str(key), what))
    return Data(FILES[file.name], sound(cases, problems), tuple(problems))


def case_of(root: Path, key: str, record: Mapping[str, Any]) -> EditCase:
    """One record. Raises `ReinvertError` or `KeyError` for what is wrong with it."""
    if not isinstance(record, dict):
        raise ReinvertError("it is no record")
    path = inside(root / PICTURES, str(record["image_path"]))
    truth = root / TRUE_EDITS / str(record["image_path"])
    runs = record.get("mask")
    if runs is not None and not isinstance(runs, list):
        raise ReinvertError("its mask is no list of (start, length) pairs")
    blend = str(record.get("blended_word") or "").split(" ")
    return EditCase(
        id=key,
        source_prompt=unbracketed(str(record["original_prompt"])),
        target_prompt=unbracketed(str(record["editing_prompt"])),
        open_picture=lambda: opened(path),
        type_id=str(record.get("editing_type_id", "0")),
        instruction=str(record["editing_instruction"]) if record.get("editing_instruction") else None,
        blend=(blend[0], blend[1]) if len(blend) > 1 else None,
        open_mask=None if runs is None else _mask(path, runs),
        open_true_edit=_true_edit(truth),
    )


def _mask(path: Path, runs: list[int]) -> Callable[[], Mask]:
    def made() -> Mask:
        with Image.open(path) as picture:
            width, height = picture.size
        return decode_mask(runs, height, width)

    return made


def _true_edit(path: Path) -> Callable[[], Image.Image] | None:
    """Beside a folder that `make` wrote; lossless, whatever the pictures are."""
    lossless = path.with_suffix(".png")
    return (lambda: opened(lossless)) if lossless.is_file() else None
