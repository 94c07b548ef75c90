"""Drawn scenes: edits to begin with, and captions from chosen parts."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from reinvert.picturebook.caption import read_caption
from reinvert.picturebook.draw import draw
from reinvert.picturebook.scene import FACING_KINDS, WEARER_KINDS, Scene, Thing
from reinvert.words import changed_words


@dataclass(frozen=True)
class Example:
    """A scene (drawn from its caption and seed), what it is to show, and the words whose region may change."""

    source: str
    target: str
    blend: tuple[str, str] | None = None
    seed: int = 0

    @property
    def title(self) -> str:
        """What changes."""
        lost, new = changed_words(self.source, self.target)
        return f"{' '.join(lost)} → {' '.join(new)}"


EXAMPLES = (
    Example("a red cat on grass", "a red dog on grass", ("cat", "dog")),
    Example("a yellow fish in the sea", "a blue fish in the sea", ("fish", "fish")),
    Example("a green car on sand", "a green boat on sand", ("car", "boat")),
    Example("a white snowman wearing a hat in snow", "a white snowman wearing a crown in snow", ("hat", "crown"), 1),
)


def drawn(example: Example) -> Image.Image:
    """The picture of an example."""
    return draw(read_caption(example.source, example.seed))


def caption(
    color: str, material: str, kind: str, wearing: str | None, facing: str | None, background: str, style: str
) -> str:
    """What a scene of these parts is called. A part that the kind cannot have is left out."""
    wears = wearing if kind in WEARER_KINDS else None
    faces = facing if kind in FACING_KINDS else None
    thing = Thing(kind, color, material, faces or "right", wears, says_facing=faces is not None)
    return Scene((thing,), background, style).caption
