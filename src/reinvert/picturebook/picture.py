"""A drawing from a caption, in one call."""

from __future__ import annotations

from typing import Final

from PIL import Image

from reinvert.errors import ReinvertError
from reinvert.files import check_value
from reinvert.files.door import Seed
from reinvert.picturebook.caption import read_caption
from reinvert.picturebook.draw import SIZE, detail_of
from reinvert.picturebook.draw import draw as draw_scene

SMALLEST: Final = 16
LARGEST: Final = 4096
"""Pixels a side of a drawing."""


def draw(caption: str, *, seed: int = 0, size: int = SIZE, detail: str | None = None) -> Image.Image:
    """Draw a picturebook scene, to have a picture to edit: `draw("a red cat wearing a hat on grass")`.

    `seed` decides what the words leave open (places, sizes, shades); `size` is the side in pixels, 16 to 4096. From 128
    pixels on a drawing is "fine", with all the detail that a picture book has; below it is "simple", as the bundled
    model was trained on at 64 pixels. `detail` asks for one or the other at any size.

    Raises `ReinvertError` for words that picturebook does not know, naming the nearest.
    """
    text, seed = check_value(str, caption, "caption"), check_value(Seed, seed, "seed")
    check_size(check_value(int, size, "size"), "size")
    if detail is not None:
        check_value(str, detail, "detail")
    return draw_scene(read_caption(text, seed), size, detail_of(size, detail))


def check_size(size: int, name: str) -> None:
    """Refuse a side that is no size of a drawing."""
    if not SMALLEST <= size <= LARGEST:
        raise ReinvertError(f"{name} is a number of pixels from {SMALLEST} to {LARGEST}, not {size}")
