"""A case of a benchmark: a picture, what is asked of it, and what is known about the answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TYPES = {
    "0": "random", "1": "change object", "2": "add object", "3": "delete object", "4": "change content",
    "5": "change pose", "6": "change color", "7": "change material", "8": "change background", "9": "change style",
}  # fmt: skip
"""PIE-Bench's numbers of edit types and their names."""

Mask = NDArray[np.bool_]
Opener = Callable[[], Image.Image]


@dataclass(frozen=True)
class EditCase:
    """One edit to be made. Pictures and masks are opened when they are asked for, and not kept.

    Prompts are without brackets; an empty target is a case for reconstruction only. `blend` names the word of the
    source and the word of the target whose region changes. The mask is 1 where the edit may change the picture,
    without the published border rule.
    """

    id: str
    source_prompt: str
    target_prompt: str
    open_picture: Opener = field(repr=False)
    type_id: str = "0"
    instruction: str | None = None
    blend: tuple[str, str] | None = None
    open_mask: Callable[[], Mask] | None = field(default=None, repr=False)
    open_true_edit: Opener | None = field(default=None, repr=False)

    @property
    def type_name(self) -> str:
        return TYPES.get(self.type_id, self.type_id)

    def picture(self) -> Image.Image:
        """The source picture, RGB."""
        return self.open_picture()

    def mask(self) -> Mask | None:
        """[height, width], at the picture's size."""
        return None if self.open_mask is None else self.open_mask()

    def true_edit(self) -> Image.Image | None:
        """The picture that the edit should give, where that is known."""
        return None if self.open_true_edit is None else self.open_true_edit()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that is asked: pixels, prompts, words and mask."""
        told = hashlib.sha256()
        picture, mask = self.picture(), self.mask()
        said = (self.id, self.source_prompt, self.target_prompt, self.type_id, self.instruction, self.blend)
        told.update(repr(picture.size).encode())
        told.update(repr(said).encode())
        told.update(picture.tobytes())
        if mask is not None:
            told.update(np.packbits(mask).tobytes())
        return told.hexdigest()[:16]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one case, or with the data as a whole (an empty id)."""

    id: str
    what: str


@dataclass(frozen=True)
class Data:
    """A benchmark's cases in order, and what could not be read."""

    name: str
    cases: tuple[EditCase, ...]
    problems: tuple[Problem, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def has_true_edits(self) -> bool:
        return any(case.open_true_edit is not None for case in self.cases)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all cases."""
        return hashlib.sha256("".join(case.fingerprint for case in self.cases).encode()).hexdigest()[:16]
