"""Benchmark data: what the files of a data set hold. All paths in them stay inside of the data's folder.

`cases.csv` or `cases.jsonl` is what a user writes for pictures of their own. PIE-Bench's `mapping_file.json`, TI2I's,
COCO's `captions_*.json` and PIE-Bench++'s parquet files are read as they are published: of these only what is used is
described, and further fields are left alone. An empty field is as good as none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, cast

from annotated_types import Ge, Le, Len, MaxLen
from pydantic import AfterValidator

from reinvert.errors import ReinvertError
from reinvert.files.door import (
    MIB,
    Inside,
    Line,
    OpenEntry,
    Prompt,
    Says,
    Seed,
    Word,
    check,
    linked_inside,
    parse_json,
    read_table,
    read_text,
    refusal,
    shown,
)

LARGEST: Final = 512 * MIB
"""Bytes of a JSON file: COCO's captions have a hundred million."""
LARGEST_TABLE: Final = 64 * MIB
"""Bytes of `cases.csv` or `cases.jsonl`."""
LARGEST_GROUP: Final = 2048 * MIB
"""Bytes of a group of rows of a parquet file, unpacked."""
SIDES: Final = (16, 1024)
"""Of the pictures in a folder that `reinvert bench make` wrote."""


Described = TypeVar("Described", bound=OpenEntry)


def _paired(runs: list[int]) -> list[int]:
    if len(runs) % 2:
        raise ValueError("a start has no length")
    return runs


Runs = Annotated[
    list[Annotated[int, Ge(0), Le(2**31 - 1)]],
    MaxLen(2_000_000),
    AfterValidator(_paired),
    Says("a flat list of (start, length) pairs of whole numbers"),
]
Identity = Annotated[
    Annotated[int, Ge(0), Le(10**18)] | Annotated[str, Len(1, 200)],
    Says("a whole number, or text of 1 to 200 characters"),
]
Type = Annotated[
    Annotated[int, Ge(0), Le(9)] | Annotated[Line, MaxLen(100)], Says("0 to 9, or the name of one of PIE-Bench's types")
]
OwnType = Annotated[
    Annotated[int, Ge(0), Le(10**9)] | Annotated[Line, MaxLen(100)],
    Says("0 to 9, a name of PIE-Bench's, or a name of your own to group by"),
]
Attribute = Annotated[Line, Len(1, 40)]
Shown = Annotated[dict[Attribute, Attribute], Len(1, 1000), Says("a table of texts of 1 to 40 characters")]


class CaseLine(OpenEntry):
    """A line of `cases.csv`, or an object of `cases.jsonl`."""

    image: Inside
    """The picture."""
    source: Prompt
    """What it shows."""
    target: Prompt | None = None
    """What it should show; without it, the case is for reconstruction only."""
    id: Identity | None = None
    """A name for results; else the number of the line, counted from 1."""
    type: OwnType | None = None
    """The type of the edit."""
    instruction: Prompt | None = None
    """For editors that follow instructions."""
    mask: Inside | None = None
    """A picture of the same size, white where the edit may change it."""
    blend_source: Word | None = None
    """The word of the source prompt whose region changes; only together with `blend_target`."""
    blend_target: Word | None = None
    """The word of the target prompt."""


class TextRecord(OpenEntry):
    """A record of TI2I's mapping file, by its id: pictures lie in `annotation_images`."""

    image_path: Inside
    """The picture, in `annotation_images`."""
    original_prompt: Prompt | None = None
    """What it shows, what differs in [brackets]."""
    editing_prompt: Prompt
    """What it should show, what differs in [brackets]."""
    editing_instruction: Prompt | None = None
    """The same as an instruction."""
    editing_type_id: Type | None = None
    """The type of the edit."""
    blended_word: Annotated[Line, MaxLen(1000)] | None = None
    """The word of either prompt whose region changes, "cat dog"."""
    mask: Runs | None = None
    """The region that changes: pixels in rows from the upper left corner, counted from 0."""


class PieRecord(TextRecord):
    """A record of PIE-Bench's mapping file, by its id: pictures lie in `annotation_images`."""

    original_prompt: Prompt  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    """What it shows, what differs in [brackets]."""
    mask: Runs  # pyright: ignore[reportGeneralTypeIssues, reportIncompatibleVariableOverride]
    """The region that changes: pixels of 512 x 512 in rows from the upper left corner, counted from 0."""


class MadeFile(OpenEntry):
    """`picturebook.json`, which `reinvert bench make` writes beside a mapping file."""

    size: Annotated[int, Ge(SIDES[0]), Le(SIDES[1])]
    """Side of the pictures and of the masks in pixels."""
    data: Line | None = None
    """What it is called."""
    count: Annotated[int, Ge(1), Le(99_999)] | None = None
    """How many cases there are."""
    seed: Seed | None = None
    """Which scenes were drawn."""
    way: Literal["drawn", "enlarged"] | None = None
    """Whether they were drawn at that size, or at the model's."""
    pictures: Literal["jpg", "png"] | None = None
    """How they are stored."""
    reinvert: Annotated[Line, MaxLen(100)] | None = None
    """The version that wrote it."""


class AttributesRecord(OpenEntry):
    """A record of `attributes.json`, which `reinvert bench make` writes beside a mapping file, by the case's id."""

    before: Shown
    """What a perfect judge reads in the picture."""
    after: Shown
    """What it reads in the true edit."""


class CocoFile(OpenEntry):
    """COCO's `captions_*.json`, in the data's folder or in `annotations`."""

    images: Annotated[list[Any], MaxLen(5_000_000)]
    """The pictures."""
    annotations: Annotated[list[Any], MaxLen(20_000_000)]
    """Their captions."""


class CocoImage(OpenEntry):
    """One of its `images`."""

    id: Identity
    """What its captions call it."""
    file_name: Inside
    """The picture, beside, in `images`, or in a folder named as the captions are."""


class CocoCaption(OpenEntry):
    """One of its `annotations`; of several captions of a picture that of the smallest id counts."""

    id: Annotated[int, Ge(0), Le(10**18)]
    """A number."""
    image_id: Identity
    """The picture's."""
    caption: Prompt
    """What it shows."""


class PlusRow(OpenEntry):
    """A row of PIE-Bench++'s parquet files. Cells of text hold lists in several spellings: as JSON, as Python writes
    them, or as numbers with spaces."""

    image: Annotated[bytes, Len(1, 256 * MIB), Says("the bytes of a picture")]
    """The picture's file, alone or as the Hub stores it ({bytes, path})."""
    source_prompt: Prompt
    """What it shows, what differs in [brackets]."""
    target_prompt: Prompt
    """What it should show, what differs in [brackets]."""
    id: Identity | None = None
    """A name for results; else the file's name and the number of the row."""
    editing_instruction: Prompt | None = None
    """For editors that follow instructions."""
    mask: Annotated[str, MaxLen(20_000_000), Says("text")] | None = None
    """The region that changes, as in PIE-Bench."""
    blended_words: Annotated[str, MaxLen(10_000), Says("text")] | None = None
    """Pairs of words whose regions change; the first is used."""


def given(value: Any) -> Any:
    """A record without its empty fields."""
    if not isinstance(value, Mapping):
        return value
    pairs = cast("Mapping[Any, Any]", value).items()
    return {k: v for k, v in pairs if v is not None and not (isinstance(v, str) and not v.strip())}


def record(kind: type[Described], value: Any, name: str) -> Described:
    """A record as it is described; `name` is what the sentence calls it."""
    if not isinstance(value, Mapping):
        raise refusal(f"{name} is no record of fields and values")
    return check(kind, given(value), name)


def read_cases(path: Path) -> Iterator[tuple[int, Any]]:
    """Each line of `cases.csv` or `cases.jsonl` with its number from 1 and its values, or the error that it is.

    Lines of the table are counted below the one that names the columns; the others as they stand in the file.
    """
    name = shown(path.name)
    if path.suffix == ".csv":
        for number, (_, row) in enumerate(read_table(path, LARGEST_TABLE, needed=("image", "source")), 1):
            yield number, row
        return
    for number, line in enumerate(read_text(path, LARGEST_TABLE).split("\n"), 1):
        if line.strip():
            try:
                yield number, parse_json(line, f"line {number} of {name}")
            except ReinvertError as error:
                yield number, error


def named(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder of data, where there is one.

    Raises `ReinvertError` for a link that leads out of it: a folder from elsewhere must not choose what is read.
    """
    path = folder / name
    try:
        if not path.is_file():
            return None
    except (OSError, ValueError, RuntimeError):
        return None
    if not linked_inside(folder, path):
        raise refusal(
            f"{shown(name)} in {shown(folder)} is a link to outside of the folder",
            "name the file itself, or copy it into the folder",
        )
    return path


__all__ = [
    "AttributesRecord",
    "CaseLine",
    "CocoCaption",
    "CocoFile",
    "CocoImage",
    "MadeFile",
    "PieRecord",
    "PlusRow",
    "TextRecord",
    "given",
    "named",
    "read_cases",
    "record",
]
