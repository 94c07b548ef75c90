"""The colours of picturebook, at every level of detail."""

from __future__ import annotations

from typing import Final, TypeAlias

RGB = tuple[int, int, int]
Number: TypeAlias = float | int
Point = tuple[Number, Number]

INK: Final[RGB] = (28, 28, 36)
PAPER: Final[RGB] = (255, 255, 255)
HORIZON: Final = 0.58
"""The height of the horizon in every place, from the top, as a share of the side."""

PALETTE: Final[dict[str, RGB]] = {
    "red": (222, 46, 46),
    "orange": (246, 142, 30),
    "yellow": (252, 220, 62),
    "green": (56, 166, 76),
    "blue": (48, 104, 222),
    "purple": (138, 72, 196),
    "pink": (250, 150, 194),
    "white": (246, 246, 244),
}

SKY_AND_GROUND: Final[dict[str, tuple[RGB, RGB, RGB, RGB]]] = {
    "grass": ((146, 204, 246), (214, 238, 252), (116, 194, 84), (70, 150, 60)),
    "sand": ((252, 190, 140), (255, 234, 196), (238, 210, 146), (214, 174, 104)),
    "sea": ((186, 222, 246), (226, 242, 250), (40, 140, 196), (18, 84, 158)),
    "night": ((10, 14, 52), (44, 46, 110), (44, 54, 78), (22, 28, 48)),
    "snow": ((144, 164, 188), (204, 214, 226), (250, 252, 255), (222, 232, 244)),
    "room": ((246, 226, 196), (240, 216, 182), (176, 118, 72), (148, 94, 54)),
}
"""For every place the colour of its sky at the top and at the horizon, and of its ground there and at the bottom."""


def mix(a: RGB, b: RGB, t: float) -> RGB:
    """The colour a share `t` of the way from a to b."""
    return (
        round(a[0] + (b[0] - a[0]) * t),
        round(a[1] + (b[1] - a[1]) * t),
        round(a[2] + (b[2] - a[2]) * t),
    )
