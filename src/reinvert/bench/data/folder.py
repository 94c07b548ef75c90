"""A folder of one's own: `cases.csv` or `cases.jsonl` beside the pictures.

Columns: image and source are needed; target, id, type (0..9), instruction, mask (a picture, white = edit), blend_source
and blend_target are not. Paths are relative to the folder.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reinvert.bench.case import Data, EditCase, Mask, Problem
from reinvert.bench.data.common import inside, opened, sound
from reinvert.errors import ReinvertError
from reinvert.image import open_mask

COLUMNS = ("image", "source", "target", "id", "type", "instruction", "mask", "blend_source", "blend_target")


def fits(root: Path) -> bool:
    return any((root / name).is_file() for name in ("cases.csv", "cases.jsonl"))


def read(root: Path) -> Data:
    problems, cases = list[Problem](), list[EditCase]()
    for number, record in _records(root, problems):
        key = str(record.get("id") or f"{number:05d}")
        try:
            cases.append(_case(root, key, record))
        except ReinvertError as error:
            problems.append(Problem(key, str(error)))
    return Data(root.resolve().name, sound(cases, problems), tuple(problems))


def _records(root: Path, problems: list[Problem]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    table, lines = root / "cases.csv", root / "cases.jsonl"
    if table.is_file():
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            for name in reader.fieldnames or ():
                if name not in COLUMNS:
                    problems.append(Problem("", f"cases.csv has a column {name!r} that nothing reads"))
            yield from enumerate(reader, 1)
        return
    for number, line in enumerate(lines.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record: Any = json.loads(line)
        except ValueError as error:
            problems.append(Problem(f"{number:05d}", f"line {number} of cases.jsonl is not valid JSON: {error}"))
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            problems.append(Problem(f"{number:05d}", f"line {number} of cases.jsonl is no record"))


def _case(root: Path, key: str, record: Mapping[str, Any]) -> EditCase:
    for name in ("image", "source"):
        if not record.get(name):
            raise ReinvertError(f"it has no {name}")
    path = inside(root, str(record["image"]))
    mask = inside(root, str(record["mask"])) if record.get("mask") else None
    blend = (str(record.get("blend_source") or ""), str(record.get("blend_target") or ""))

    def region() -> Mask:
        assert mask is not None
        return np.asarray(open_mask(mask)) > 127

    return EditCase(
        id=key,
        source_prompt=str(record["source"]),
        target_prompt=str(record.get("target") or ""),
        open_picture=lambda: opened(path),
        type_id=str(record.get("type") or "0"),
        instruction=str(record["instruction"]) if record.get("instruction") else None,
        blend=blend if any(blend) else None,
        open_mask=None if mask is None else region,
    )
