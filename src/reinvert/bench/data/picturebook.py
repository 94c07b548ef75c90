"""picturebook as a benchmark: drawn on the fly, with the true edit and the exact mask of every case."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from reinvert.bench.case import Data, EditCase
from reinvert.errors import ReinvertError
from reinvert.picturebook.draw import SIZE
from reinvert.picturebook.edits import Edit, sample_edits


def read(spec: str) -> Data:
    """`picturebook`, `picturebook:100`, `picturebook:100?seed=3`: so many held-out edits, the ten types in turn."""
    told = re.fullmatch(r"picturebook(?::(\d+))?(?:\?seed=(\d+))?", spec)
    if told is None or told[1] == "0":
        raise ReinvertError(f"{spec} is no data; write picturebook:100 or picturebook:100?seed=3")
    count, seed = int(told[1] or 100), int(told[2] or 0)
    edits = sample_edits(count, seed=seed, unseen=True)
    cases = tuple(case_of(edit, f"{edit.type_id}{index:05d}") for index, edit in enumerate(edits))
    return Data(f"picturebook:{count}?seed={seed}", cases)


def case_of(edit: Edit, name: str, size: int = SIZE) -> EditCase:
    """One edit as a case."""

    @cache
    def truth() -> Any:
        return edit.truth(size)

    words = (" ".join(edit.source_words[:1]), " ".join(edit.target_words[:1]))
    return EditCase(
        id=name,
        source_prompt=edit.source_prompt,
        target_prompt=edit.target_prompt,
        open_picture=lambda: edit.picture(size),
        type_id=str(edit.type_id),
        instruction=edit.instruction,
        blend=words if any(words) else None,
        open_mask=lambda: truth()[1],
        open_true_edit=lambda: truth()[0],
    )
