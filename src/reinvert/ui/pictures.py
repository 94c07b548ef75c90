"""Pictures that explain an edit: differences and attention as heat, a region laid over a picture."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEAT: Final = np.array(
    [(13, 8, 60), (84, 15, 109), (155, 42, 100), (212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)],
    dtype=np.float64,
)
"""Colours from none to most: dark blue, purple, red, orange, yellow; ever brighter, so that they read in grey too."""
EDGE: Final = (255, 214, 10)
"""The line around a region."""
DIM: Final = 0.35
"""How bright the picture is outside its region."""
AT_LEAST: Final = 512
"""Pixels of the longer side of what is shown: small pictures are enlarged pixel by pixel, so that they stay sharp."""


def heat(values: NDArray[np.floating]) -> Image.Image:
    """Values [height, width] in 0..1 as colours."""
    place = np.clip(values, 0, 1) * (len(HEAT) - 1)
    below = np.minimum(place.astype(int), len(HEAT) - 2)
    share = (place - below)[..., None]
    return Image.fromarray(((1 - share) * HEAT[below] + share * HEAT[below + 1]).round().astype(np.uint8))


def difference(a: Image.Image, b: Image.Image) -> tuple[Image.Image, int]:
    """The largest difference of a channel at every pixel as heat, and the level of 255 that the brightest has."""
    levels = np.abs(np.asarray(a.convert("RGB"), np.int16) - np.asarray(b.convert("RGB"), np.int16)).max(-1)
    most = int(levels.max())
    return heat(levels / max(most, 1)), most


def overlay(picture: Image.Image, region: NDArray[np.bool_]) -> Image.Image:
    """The picture, dimmed outside a region [height, width] and with a line around it."""
    mask = Image.fromarray(region.astype(np.uint8) * np.uint8(255)).resize(picture.size, Image.Resampling.NEAREST)
    inside = np.asarray(mask) > 0
    framed = np.pad(inside, 1, mode="edge")
    core = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    shown = np.asarray(picture.convert("RGB")).astype(np.float64)
    shown[~inside] *= DIM
    shown[inside & ~core] = EDGE
    return Image.fromarray(shown.round().astype(np.uint8))


def paint(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A mask as it is painted: white where it is, transparent elsewhere, of the size of what lies below."""
    painted = Image.new("RGBA", size, "white")
    painted.putalpha(mask.resize(size, Image.Resampling.NEAREST))
    return painted


def over(picture: Image.Image, values: NDArray[np.floating]) -> Image.Image:
    """Values [h, w] as heat over a grey picture; the largest value is the brightest."""
    most = float(values.max())
    scaled = Image.fromarray((values / most if most > 0 else values).astype(np.float32))
    large = np.asarray(scaled.resize(picture.size, Image.Resampling.BICUBIC))
    grey = np.asarray(picture.convert("L").convert("RGB")).astype(np.float64)
    return Image.fromarray((0.4 * grey + 0.6 * np.asarray(heat(large))).round().astype(np.uint8))


def enlarged(picture: Image.Image) -> Image.Image:
    """A small picture by a whole factor, pixel by pixel; a large one as it is."""
    factor = max(1, AT_LEAST // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
