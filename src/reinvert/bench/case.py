"""A case of a benchmark: a picture, what is asked of it, and what is known about the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TYPES = {
    "0": "random", "1": "change object", "2": "add object", "3": "delete object", "4": "change content",
    "5": "change pose", "6": "change color", "7": "change material", "8": "change background", "9": "change style",
}  # fmt: skip
"""PIE-Bench's numbers of edit types and their names."""

UNTYPED: Final = "other"
"""The type of cases whose data set tells none."""

Mask = NDArray[np.bool_]
Opener = Callable[[], Image.Image]
Attributes = Mapping[str, str]
"""What a picture shows, by the head of the judge that reads it (`picturebook.reader.HEADS`)."""


@dataclass(frozen=True)
class EditCase:
    """One edit to be made. Pictures and masks are opened when they are asked for, and not kept.

    Prompts are without brackets; `source_marked` and `target_marked` are what stood in them. An empty target is a case
    for reconstruction only. `blend` names the word of the source and the word of the target whose region changes; both
    occur in their prompts. The mask is 1 where the edit may change the picture, as it was annotated: the border that
    the published evaluator adds belongs to the metrics (`data.masks.with_border`).
    """

    id: str
    source_prompt: str
    target_prompt: str
    open_picture: Opener = field(repr=False)
    type_id: str = UNTYPED
    """A key of `TYPES`, or the data set's own name."""
    instruction: str | None = None
    blend: tuple[str, str] | None = None
    source_marked: tuple[str, ...] = ()
    target_marked: tuple[str, ...] = ()
    open_mask: Callable[[], Mask] | None = field(default=None, repr=False)
    open_true_edit: Opener | None = field(default=None, repr=False)
    open_attributes: Callable[[], tuple[Attributes, Attributes]] | None = field(default=None, repr=False)
    """What the picture and its true edit show, where that is known: a judge can then say whether an edit is right."""
    open_bytes: Callable[[], bytes] | None = field(default=None, repr=False)
    """The picture's file, which the fingerprint is made of; without it, its pixels."""

    @property
    def type_name(self) -> str:
        return TYPES.get(self.type_id, self.type_id)

    @property
    def has_target(self) -> bool:
        """Whether there is an edit to be made; else the case is for reconstruction only."""
        return bool(self.target_prompt.strip())

    def picture(self) -> Image.Image:
        """The source picture, RGB."""
        return self.open_picture()

    def mask(self) -> Mask | None:
        """Bool [height, width] at the picture's size, or None."""
        return None if self.open_mask is None else self.open_mask()

    def true_edit(self) -> Image.Image | None:
        """The picture that the edit should give, RGB at the picture's size, where that is known."""
        return None if self.open_true_edit is None else self.open_true_edit()

    def attributes(self) -> tuple[Attributes, Attributes] | None:
        """What the picture shows, and what its true edit shows."""
        return None if self.open_attributes is None else self.open_attributes()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that is asked: the picture's bytes, prompts, words, type, mask and attributes.

        It stays the same for the same files on another machine and with other versions of the libraries.
        """
        told = hashlib.sha256()
        said = (self.id, self.source_prompt, self.target_prompt, self.type_id, self.instruction, self.blend)
        told.update(repr(said).encode())
        if self.open_bytes is not None:
            told.update(self.open_bytes())
        else:
            picture = self.picture()
            told.update(repr(picture.size).encode() + picture.tobytes())
        mask = self.mask()
        if mask is not None:
            told.update(repr(mask.shape).encode() + np.packbits(mask).tobytes())
        attributes = self.attributes()
        if attributes is not None:
            told.update(repr([sorted(shown.items()) for shown in attributes]).encode())
        return told.hexdigest()[:16]


def content_hash(fingerprints: Mapping[str, str]) -> str:
    """A hash of a set of cases, given by their ids and fingerprints in any order: two runs with the same hash were
    asked the same."""
    told = "\n".join(f"{name} {found}" for name, found in sorted(fingerprints.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one case, or with the data as a whole (an empty id)."""

    id: str
    what: str
    left_out: bool = True
    """Whether the case cannot be used; otherwise it is used as `what` says."""


@dataclass(frozen=True)
class Data:
    """A benchmark's cases in order, and what is wrong with the others."""

    name: str
    cases: tuple[EditCase, ...]
    problems: tuple[Problem, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the data says of itself: of a folder that `make` wrote, how."""

    def __iter__(self) -> Iterator[EditCase]:
        return iter(self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def has_true_edits(self) -> bool:
        return any(case.open_true_edit is not None for case in self.cases)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all cases; see `content_hash`."""
        return content_hash({case.id: case.fingerprint for case in self.cases})
