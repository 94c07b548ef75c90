"""Presets: the kind of an edit, read off its two prompts, chooses a recipe (`presets.toml`).

Nothing is understood: the words that differ are looked up in lists, and where they stand decides the rest. So an edit
of an unknown word for an unknown word is an edit of the object.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any, Final

from reinvert.errors import ReinvertError, meant

FILE: Final = Path(__file__).parent / "presets.toml"
LISTS: Final = ("style", "pose", "color", "material")
"""Kinds whose words are listed, in the order in which they are tried."""
KINDS: Final = (*LISTS, "background", "add", "delete", "object")


@dataclass(frozen=True)
class Preset:
    """What is taken for an edit."""

    name: str
    kind: str
    recipe: str
    steps: int
    guidance: float


def names() -> tuple[str, ...]:
    """Every preset."""
    return tuple(name for name in _told() if name != "words")


def choose(name: str, source: str, target: str) -> Preset:
    """The preset's choice for an edit. Raises `ReinvertError` for a name that there is not."""
    if name not in names():
        hint = meant(name, names(), f"choose from {', '.join(names())}")
        raise ReinvertError(f"there is no preset '{name}'; {hint}")
    kind, table = kind_of(source, target), _told()[name]
    found = table.get(kind, table["default"])
    return Preset(name, kind, str(found["recipe"]), int(found["steps"]), float(found["guidance"]))


def kind_of(source: str, target: str) -> str:
    """One of `KINDS`."""
    words = _told()["words"]
    before, after = _words(source), _words(target)
    removed, added = set[int](), set[int]()
    for what, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if what != "equal":
            removed |= {n for n in range(i, j) if before[n] not in words["filler"]}
            added |= {n for n in range(k, m) if after[n] not in words["filler"]}
    changed = {before[n] for n in removed} | {after[n] for n in added}
    for kind in LISTS:
        if changed and changed <= set(words[kind]):
            return kind
    if changed and removed and added and _in_place(before, removed) and _in_place(after, added):
        return "background"
    if removed and added:
        return "object"
    return "add" if added else "delete" if removed else "object"


def _in_place(words: list[str], changed: set[int]) -> bool:
    """Whether all that changed is a phrase of place, from its first word on: "in a room"."""
    place = _told()["words"]["place"]
    start = max((n for n, word in enumerate(words) if word in place), default=len(words))
    return min(changed) >= start


def _words(prompt: str) -> list[str]:
    return re.findall(r"[\w'-]+", prompt.lower())


@cache
def _told() -> Mapping[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


__all__ = ["KINDS", "Preset", "choose", "kind_of", "names"]
