"""What an edit gives: the pictures, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from reinvert.display import line, png, quoted
from reinvert.image import Fit, contact_sheet

Picture = Image.Image


@dataclass(frozen=True, repr=False)
class Result:
    """One edited picture.

    `images` has one picture per target prompt and `image` is the first. `reconstruction` is the source branch
    rendered again. `latents` is [branch, channel, h, w] with branch 0 the source. `forwards` and `backwards` count
    single-sample evaluations of the network, and `seconds` the wall clock, for the whole call that made it (all
    pictures of a batch together; inversion included unless a trajectory was given). `settings` says how it was made.
    """

    images: tuple[Picture, ...]
    reconstruction: Picture
    latents: Tensor
    forwards: int
    backwards: int
    seconds: float
    settings: Mapping[str, Any]
    fit: Fit | None = None

    @property
    def image(self) -> Picture:
        return self.images[0]

    def __repr__(self) -> str:
        how = [self.settings["inversion"]["name"], *(editor["name"] for editor in self.settings["editors"])]
        size, spent = "x".join(map(str, self.image.size)), f"{self.forwards} forwards, {self.seconds:g} s"
        return line(
            "Result", quoted(tuple(self.settings["target"]) or (self.settings["source"],)), size, " + ".join(how), spent
        )

    def _repr_png_(self) -> bytes:
        """The reconstruction and the edits side by side."""
        edits = (
            []
            if self.images == (self.reconstruction,)
            else list(zip(self.settings["target"], self.images, strict=True))
        )
        titles = ["reconstruction", *(target for target, _ in edits)]
        return png(contact_sheet([[self.reconstruction, *(image for _, image in edits)]], column_titles=titles))
