"""The fixed sets of picturebook: `picturebook:v1`, 700 public cases in PIE-Bench's proportions, and as many held-out
ones (`picturebook:v1-heldout`), drawn by this program from their names alone.

A set never changes once it is published: where the world is drawn or told otherwise, its hash is another one, and so
must be its name. Cases follow each other so that any first part of a set has about its proportions.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from random import Random
from typing import Final

from reinvert.errors import ReinvertError
from reinvert.picturebook.edits import Edit, sample_edit, sample_pair_edit

SHARES: Final = (140, 80, 80, 80, 40, 40, 40, 40, 80, 80)
"""PIE-Bench's cases of each of its ten types."""
SETS: Final = ("v1", "v1-heldout")
HELD_OUT: Final = "-heldout"
PAIRS: Final = 4
"""Every so many-th case of a type shows two things (of those that add or delete one, about as many)."""

FOLDERS: Final = (
    "0_random_140", "1_change_object_80", "2_add_object_80", "3_delete_object_80", "4_change_attribute_content_40",
    "5_change_attribute_pose_40", "6_change_attribute_color_40", "7_change_attribute_material_40",
    "8_change_background_80", "9_change_style_80",
)  # fmt: skip
LOOKS: Final = {1: "1_artificial", 2: "2_natural"}
SUBJECTS: Final = {1: "1_animal", 2: "2_human", 3: "3_indoor", 4: "4_outdoor"}


@cache
def edits_of(name: str) -> tuple[tuple[str, Edit], ...]:
    """The edits of a set with their ids, in order. Raises `ReinvertError` where there is no such set."""
    if name not in SETS:
        raise ReinvertError(f"picturebook has no set {name!r}; there are {', '.join(SETS)}")
    seen = set[tuple[str, str]]()
    if name.endswith(HELD_OUT):
        seen |= {(edit.source_prompt, edit.target_prompt) for _, edit in edits_of(name.removesuffix(HELD_OUT))}
    sampled = [edit for type_id, count in enumerate(SHARES) for edit in _of_type(name, type_id, count, seen)]
    named = list(with_ids(sampled))
    places = {key: (index + 0.5) / count for key, index, count in _places(named)}
    return tuple(sorted(named, key=lambda item: (places[item[0]], item[0])))


def content(name: str) -> str:
    """The hash of what a set asks: scenes before and after, prompts, words and instructions, at no size in pixels."""
    told = hashlib.sha256()
    for key, edit in edits_of(name):
        told.update(json.dumps([key, asdict(edit)], sort_keys=True).encode())
    return told.hexdigest()[:16]


def with_ids(edits: Sequence[Edit]) -> list[tuple[str, Edit]]:
    """Each edit with an id as the original's are: digits for type, look and subject, then a number."""
    numbers, named = Counter[str](), list[tuple[str, Edit]]()
    for edit in edits:
        prefix, _ = place_of(edit)
        named.append((f"{prefix}{numbers[prefix]:0{12 - len(prefix)}d}", edit))
        numbers[prefix] += 1
    return named


def place_of(edit: Edit) -> tuple[str, str]:
    """The first digits of an edit's id (type, look, subject) and its folder.

    Patterned things stand for the artificial pictures, plain ones for the natural; a snowman for a human. The
    original's random type has no such folders, and only zeros for digits.
    """
    thing, folder = edit.source.things[0], FOLDERS[edit.type_id]
    if edit.type_id == 0:
        return "0", folder
    look = 2 if thing.material == "plain" else 1
    by_kind = {"cat": 1, "dog": 1, "fish": 1, "snowman": 2}
    subject = by_kind.get(thing.kind, 3 if edit.source.background == "room" else 4)
    return f"{edit.type_id}{look}{subject}", f"{folder}/{LOOKS[look]}/{SUBJECTS[subject]}"


def _of_type(name: str, type_id: int, count: int, seen: set[tuple[str, str]]) -> list[Edit]:
    """Edits of one type. What was `seen` is not asked again: nothing twice in a set, nor in both sets."""
    found: list[Edit] = []
    rng = Random(f"picturebook {name} {type_id}")
    while len(found) < count:
        sample = sample_pair_edit if len(found) % PAIRS == PAIRS - 1 else sample_edit
        edit = sample(rng, type_id, unseen=True)
        asked = edit.source_prompt, edit.target_prompt
        if asked not in seen:
            seen.add(asked)
            found.append(edit)
    return found


def _places(named: Sequence[tuple[str, Edit]]) -> list[tuple[str, int, int]]:
    """Of each id: its number within its type, and how many the type has."""
    counts, numbers = Counter(edit.type_id for _, edit in named), Counter[int]()
    places: list[tuple[str, int, int]] = []
    for key, edit in named:
        places.append((key, numbers[edit.type_id], counts[edit.type_id]))
        numbers[edit.type_id] += 1
    return places
