"""A recipe: `NAME.toml`, one row of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Le, Len, MaxLen
from pydantic import ConfigDict, Field

from reinvert.files.door import (
    Entry,
    Line,
    Name,
    Prose,
    Says,
    Seed,
    inside,
    is_printable,
    read_text,
    refusal,
    shown,
)

SUFFIX: Final = ".toml"
BANK: Final = 2**20
"""Bytes of a file of sentences."""

Value = Annotated[
    bool | int | float | str | list[Any] | dict[str, Any], Says("text, a number, true or false, a list or a table")
]


class Method(Entry):
    """A method with its arguments: every further entry is one of them (`reinvert methods NAME` lists them)."""

    model_config = ConfigDict(extra="allow")

    name: Name
    """The method's name."""


class CaseUse(Entry):
    """What is used of a benchmark's case."""

    blend: bool = False
    """Its blend words, where it has them: local_blend acts only on such cases."""
    boost: Annotated[float, Ge(0), Le(1000)] | None = None
    """Factor of the target's blend word."""
    mask: bool = False
    """Its true mask; a report says so."""
    source: Literal["prompt", "empty"] = "prompt"
    """Whether the source branch has its prompt or the empty one."""


class RecipeFile(Entry):
    """What a recipe's file may hold. It names a model, and an inversion with editors or a trained editor; what it
    leaves out is its base's."""

    about: Annotated[Prose, MaxLen(2000)] = ""
    """One sentence."""
    base: Name | None = None
    """Another recipe (a name, or a file beside this one), of which this one changes a part."""
    published: Line = ""
    """The name of this row in the published comparison."""
    model: Annotated[Line, MaxLen(500)] | None = None
    """picturebook, a folder in diffusers format, or a Hub id."""
    steps: Annotated[int, Ge(1), Le(10_000)] = 50
    """Sampling steps."""
    guidance: Annotated[float, Ge(-1000), Le(1000)] = 7.5
    """Guidance scale of the edit."""
    seed: Seed = 0
    """For methods that draw noise."""
    inversion: Method | None = None
    """The inversion and its arguments."""
    editors: Annotated[dict[Name, dict[Name, Value]], Len(0, 20)] = Field(default_factory=dict)
    """[editors.NAME] with the arguments of each; they are composed in this order."""
    trained: Method | None = None
    """A trained editor and its arguments, in place of inversion and editors."""
    case: CaseUse = CaseUse()
    """What is used of a benchmark's case."""


class RecipePart(RecipeFile):
    """A recipe's own entries, before those of its base are put below them: methods may lack their name."""

    inversion: dict[str, Any] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """The inversion and its arguments."""
    trained: dict[str, Any] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """A trained editor and its arguments."""


def check_name(name: str) -> None:
    """Refuse a recipe's name that would break a table or a path: it becomes a row's name and a folder's."""
    if not name.strip(" .") or len(name) > 150 or not is_printable(name):
        raise refusal(
            f"the recipe's name '{shown(name)}' is no name of a row: use letters, digits, '-', '_', '+' and '.'"
        )


def read_bank(path: Path, folder: Path | None = None) -> list[str]:
    """The sentences of a file, one a line. With a `folder`, whose recipe names the file, it must lie inside."""
    if folder is not None:
        path = inside(folder, str(path), "sentence bank")
    text = read_text(path, BANK, missing="a sentence bank has one sentence a line")
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise refusal(f"the sentence bank {shown(path)} is empty; write one sentence a line into it")
    if not all(is_printable(line, " \t\u200d") for line in found):
        raise refusal(f"the sentence bank {shown(path)} has control characters; write one sentence a line into it")
    if any(line.startswith("@") for line in found):
        raise refusal(f"the sentence bank {shown(path)} names another file; write the sentences themselves into it")
    return found


__all__ = ["SUFFIX", "CaseUse", "Method", "RecipeFile", "RecipePart", "check_name", "read_bank"]
