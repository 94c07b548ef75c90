"""A list of edits: `NAME.csv` for `reinvert edit --list`, one edit a line.

The first line names the columns; the paths in it are relative to the file's own folder and stay inside of it. The
columns are those of a benchmark's `cases.csv`, so that a file can serve as both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from annotated_types import Len, MaxLen

from reinvert.errors import ReinvertError
from reinvert.files.door import MIB, Entry, Inside, Line, Prompt, Prose, Word, check, inside, read_table, refusal, shown

SUFFIX: Final = ".csv"
LARGEST: Final = 4 * MIB
"""Bytes of a list."""
MOST: Final = 100_000
"""Lines of a list."""


class EditLine(Entry):
    """One edit. An empty cell is as good as none."""

    image: Inside
    """The picture."""
    target: Prompt
    """What it is to show."""
    source: Annotated[Prose, MaxLen(2000)] | None = None
    """What it shows; without it, `--source`, or the caption of a drawn picture."""
    mask: Inside | None = None
    """A picture of the same size: only what is white in it changes."""
    region: Annotated[Line, MaxLen(200)] | None = None
    """Words for what changes, "the cat", in place of a mask."""
    blend_source: Word | None = None
    """The word of the source prompt whose region changes; only together with `blend_target`."""
    blend_target: Word | None = None
    """The word of the target prompt."""
    output: Annotated[Line, Len(1, 200)] | None = None
    """The result's file name in the folder of `-o`; without it, it is made from the picture's."""
    id: Line | None = None
    """For `reinvert bench` only."""
    type: Line | None = None
    """For `reinvert bench` only."""
    instruction: Prose | None = None
    """For `reinvert bench` only."""


def read_edits(path: str | os.PathLike[str]) -> list[tuple[str, EditLine | ReinvertError]]:
    """Every line with its name ("edits.csv line 3"), or what is wrong with it. The paths of a line exist."""
    name, folder = shown(path), Path(path).parent
    found: list[tuple[str, EditLine | ReinvertError]] = []
    for number, row in read_table(path, LARGEST, needed=("image", "target"), missing="name a CSV file with --list"):
        if len(found) == MOST:
            raise refusal(f"{name} has more than {MOST:,} lines; split it")
        line = f"{name} line {number}"
        found.append((line, row if isinstance(row, ReinvertError) else _checked(row, line, folder)))
    if not found:
        raise refusal(f"{name} has no line below its columns")
    return found


def _checked(row: Mapping[str, str], line: str, folder: Path) -> EditLine | ReinvertError:
    try:
        entry = check(EditLine, row, line)
        for which, file in (("image", entry.image), ("mask", entry.mask)):
            if file is not None:
                inside(folder, file, which)
        if entry.region is not None and entry.mask is not None:
            raise refusal(f"{line} has a mask and a region; give one of them")
        if (entry.blend_source is None) != (entry.blend_target is None):
            raise refusal(f"{line} has one blend word; give both blend_source and blend_target, or none")
    except ReinvertError as error:
        return error
    return entry
