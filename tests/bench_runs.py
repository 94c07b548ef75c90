"""Run folders to score and report: drawn cases, and rows that copy, blur, darken or truly edit the source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageFilter

from reinvert.bench.case import EditCase, Mask
from reinvert.picturebook.edits import sample_edits

ROWS = {"copy": 0.0, "vae": 0.6, "true-edit": 0.0, "direct+p2p": 1.0, "ddim+p2p": 3.0}
"""How much a row blurs the source (or, half of it, the true edit)."""


@cache
def _drawn(index: int, side: int) -> tuple[Image.Image, Image.Image, Mask]:
    """Source, true edit and mask; drawn once for all tests."""
    edit = sample_edits(index + 1, seed=5)[-1]
    truth, mask = edit.truth(side)
    return edit.picture(side), truth, mask


def cases(count: int = 6, side: int = 32, suffix: str = "") -> dict[str, EditCase]:
    return {case.id: case for case in (_case(i, side, suffix) for i in range(count))}


def _case(index: int, side: int, suffix: str) -> EditCase:
    edit = sample_edits(index + 1, seed=5)[-1]
    return EditCase(
        id=f"{index:012d}",
        source_prompt=edit.source_prompt,
        target_prompt=f"{edit.target_prompt}{suffix}",
        open_picture=lambda: _drawn(index, side)[0],
        type_id=str(edit.type_id),
        open_mask=lambda: _drawn(index, side)[2],
        open_true_edit=lambda: _drawn(index, side)[1],
    )


def result(case: EditCase, row: str, blur: float) -> Image.Image:
    shown = case.true_edit() if row in ("true-edit", "direct+p2p") else case.picture()
    return shown.filter(ImageFilter.GaussianBlur(blur)) if blur else shown


def record(case: EditCase, row: str, image: str, **more: object) -> dict[str, object]:
    """A record as the runner writes one."""
    return {
        "key": f"{row}/{case.id}",
        "case": case.id,
        "type": case.type_id,
        "recipe": row,
        "task": "edit",
        "settings": {"seed": 0, "steps": 50, "model": "stable-diffusion-v1-4"},
        "image": image,
        "seconds": 1.5,
        "forwards": 200,
        "backwards": 0,
        "attempts": 1,
        "mask_used": row == "ddim+p2p",
        "blend_used": row == "direct+p2p",
        "environment": {"weights": "1a2b3c", "device": "cpu", "dtype": "float32", "versions": {"torch": "2.13"}},
        **more,
    }


def write_run(
    folder: Path,
    count: int = 6,
    side: int = 32,
    rows: Sequence[str] = tuple(ROWS),
    suffix: str = "",
    failing: str = "",
    data_name: str = "PIE-Bench",
) -> dict[str, EditCase]:
    """A finished run; the last case of the row `failing` failed."""
    made = cases(count, side, suffix)
    (folder / "images").mkdir(parents=True)
    told = []
    for index, case in enumerate(made.values()):
        for row in rows:
            name = f"images/{row}-{case.id}.png"
            if row == failing and index == count - 1:
                told.append(record(case, row, "", error="out of memory"))
                continue
            result(case, row, ROWS[row]).save(folder / name)
            told.append(record(case, row, name))
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    (folder / "run.json").write_text(json.dumps({"data": "picturebook", "name": data_name}))
    return made
