"""The silhouettes and details of picturebook's things, as data in a local frame.

x points to where the thing looks, y down; the feet stand on y = +1 and most things are about 2 high and wide.
`body` parts are filled with the thing's own colour and material and outlined; `details` keep their own paint:
an RGB triple, or "dark" / "light" shades of the thing's colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from reinvert.picturebook.palette import INK, PAPER, RGB

Point = tuple[float, float]
Paint = RGB | str


@dataclass(frozen=True)
class Ellipse:
    x: float
    y: float
    rx: float
    ry: float


@dataclass(frozen=True)
class Polygon:
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Stroke:
    points: tuple[Point, ...]
    width: float


Primitive = Ellipse | Polygon | Stroke
Detail = tuple[Primitive, Paint]


@dataclass(frozen=True)
class Shape:
    """`hat` is where something worn sits (its lower centre)."""

    body: tuple[Primitive, ...]
    details: tuple[Detail, ...] = ()
    hat: Point = (0.0, -1.0)


def poly(*points: Point) -> Polygon:
    return Polygon(points)


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    return poly((left, top), (right, top), (right, bottom), (left, bottom))


def line(width: float, *points: Point) -> Stroke:
    return Stroke(points, width)


def disc(x: float, y: float, r: float) -> Ellipse:
    return Ellipse(x, y, r, r)


def _star_points(tips: int = 5, outer: float = 1.08, inner: float = 0.5, y: float = 0.08) -> tuple[Point, ...]:
    radii = (outer, inner)
    return tuple(
        (radii[i % 2] * math.sin(i * math.pi / tips), y - radii[i % 2] * math.cos(i * math.pi / tips))
        for i in range(2 * tips)
    )


def _eye(x: float, y: float, r: float = 0.13) -> tuple[Detail, ...]:
    return (disc(x, y, r), PAPER), (disc(x + 0.03, y, 0.6 * r), INK)


SHAPES: dict[str, Shape] = {
    "cat": Shape(
        body=(
            line(0.20, (-0.62, 0.55), (-0.98, 0.20), (-0.92, -0.42)),
            Ellipse(-0.10, 0.50, 0.60, 0.50),
            box(-0.60, 0.60, -0.34, 1.0),
            box(0.16, 0.60, 0.42, 1.0),
            poly((0.02, -0.25), (0.04, -0.98), (0.42, -0.58)),
            poly((0.50, -0.58), (0.88, -0.98), (0.92, -0.25)),
            Ellipse(0.47, -0.22, 0.50, 0.44),
        ),
        details=(
            *_eye(0.30, -0.28),
            *_eye(0.66, -0.28),
            (poly((0.38, -0.06), (0.58, -0.06), (0.48, 0.06)), (235, 95, 125)),
        ),
        hat=(0.46, -0.56),
    ),
    "dog": Shape(
        body=(
            line(0.20, (-0.70, 0.20), (-1.04, -0.30)),
            Ellipse(-0.12, 0.28, 0.70, 0.36),
            box(-0.74, 0.30, -0.46, 1.0),
            box(0.20, 0.30, 0.48, 1.0),
            poly((0.12, 0.35), (0.16, -0.40), (0.70, -0.30), (0.56, 0.40)),
            Ellipse(0.42, -0.48, 0.40, 0.36),
            poly((0.45, -0.62), (1.10, -0.46), (1.10, -0.14), (0.45, -0.14)),
        ),
        details=(
            (Ellipse(0.14, -0.34, 0.18, 0.42), "dark"),
            (disc(1.06, -0.42, 0.13), INK),
            *_eye(0.58, -0.54, 0.12),
            (line(0.13, (0.14, 0.10), (0.62, 0.06)), (200, 40, 60)),
        ),
        hat=(0.42, -0.78),
    ),
    "fish": Shape(
        body=(
            poly((-0.40, 0.15), (-1.10, -0.45), (-0.90, 0.15), (-1.10, 0.75)),
            poly((-0.25, -0.20), (0.10, -0.75), (0.40, -0.20)),
            Ellipse(0.15, 0.15, 0.82, 0.56),
        ),
        details=(
            *_eye(0.58, 0.0, 0.15),
            (poly((0.05, 0.10), (-0.34, 0.42), (0.12, 0.46)), "dark"),
            (line(0.06, (0.70, 0.34), (0.90, 0.26)), INK),
        ),
        hat=(0.34, -0.36),
    ),
    "car": Shape(
        body=(
            poly((-0.66, 0.05), (-0.42, -0.55), (0.36, -0.55), (0.66, 0.05)),
            poly((-1.12, 0.68), (-1.12, 0.10), (-0.90, 0.0), (0.75, 0.0), (1.12, 0.16), (1.12, 0.68)),
        ),
        details=(
            (poly((-0.48, 0.0), (-0.31, -0.41), (-0.07, -0.41), (-0.07, 0.0)), (190, 226, 246)),
            (poly((0.07, 0.0), (0.07, -0.41), (0.27, -0.41), (0.46, 0.0)), (190, 226, 246)),
            (disc(-0.58, 0.70, 0.31), INK),
            (disc(0.58, 0.70, 0.31), INK),
            (disc(-0.58, 0.70, 0.14), (200, 200, 205)),
            (disc(0.58, 0.70, 0.14), (200, 200, 205)),
            (disc(1.02, 0.30, 0.13), (255, 240, 150)),
        ),
        hat=(0.0, -0.55),
    ),
    "boat": Shape(
        body=(poly((-1.10, 0.30), (1.10, 0.30), (0.72, 1.0), (-0.72, 1.0)),),
        details=(
            (line(0.11, (-0.05, 0.30), (-0.05, -1.0)), (110, 70, 40)),
            (poly((0.06, -0.95), (0.06, 0.16), (0.86, 0.16)), (250, 248, 240)),
            (poly((-0.18, -0.65), (-0.18, 0.16), (-0.74, 0.16)), (250, 248, 240)),
        ),
    ),
    "house": Shape(
        body=(box(-0.76, -0.15, 0.76, 1.0),),
        details=(
            (poly((-1.05, -0.12), (0.0, -1.05), (1.05, -0.12)), "dark"),
            (box(-0.16, 0.42, 0.18, 1.0), (104, 66, 40)),
            (box(-0.60, 0.10, -0.24, 0.44), (255, 238, 150)),
            (box(0.30, 0.10, 0.62, 0.44), (255, 238, 150)),
        ),
    ),
    "tree": Shape(
        body=(
            disc(0.0, -0.55, 0.50),
            disc(-0.44, -0.08, 0.46),
            disc(0.44, -0.08, 0.46),
            Ellipse(0.0, -0.05, 0.50, 0.42),
        ),
        details=((box(-0.16, 0.34, 0.16, 1.0), (112, 72, 44)),),
    ),
    "star": Shape(
        body=(Polygon(_star_points()),),
        details=(
            (Ellipse(-0.17, -0.02, 0.08, 0.13), INK),
            (Ellipse(0.17, -0.02, 0.08, 0.13), INK),
            (line(0.07, (-0.18, 0.24), (0.0, 0.34), (0.18, 0.24)), INK),
        ),
        hat=(0.0, -0.70),
    ),
    "mushroom": Shape(
        body=(
            poly((-1.0, 0.16), (-0.88, -0.34), (-0.48, -0.72), (0.0, -0.84), (0.48, -0.72), (0.88, -0.34), (1.0, 0.16)),
        ),
        details=(
            (poly((-0.34, 0.20), (0.34, 0.20), (0.44, 1.0), (-0.44, 1.0)), (246, 236, 214)),
            (Ellipse(-0.15, 0.50, 0.07, 0.11), INK),
            (Ellipse(0.15, 0.50, 0.07, 0.11), INK),
        ),
        hat=(0.0, -0.72),
    ),
    "snowman": Shape(
        body=(disc(0.0, 0.48, 0.54), disc(0.0, -0.42, 0.40)),
        details=(
            (disc(-0.14, -0.50, 0.08), INK),
            (disc(0.16, -0.50, 0.08), INK),
            (poly((0.0, -0.40), (0.0, -0.24), (0.50, -0.30)), (245, 130, 30)),
            (disc(0.0, 0.32, 0.08), INK),
            (disc(0.0, 0.62, 0.08), INK),
            (line(0.14, (-0.34, -0.06), (0.34, -0.06)), (40, 150, 160)),
        ),
        hat=(0.0, -0.72),
    ),
}

HAT: tuple[Detail, ...] = (
    (poly((-0.38, 0.06), (0.0, -0.62), (0.38, 0.06)), (120, 60, 190)),
    (line(0.15, (-0.36, 0.04), (0.36, 0.04)), (250, 222, 80)),
    (disc(0.0, -0.62, 0.14), (250, 222, 80)),
)
CROWN: tuple[Detail, ...] = (
    (
        poly((-0.42, 0.08), (-0.48, -0.44), (-0.22, -0.18), (0.0, -0.54), (0.22, -0.18), (0.48, -0.44), (0.42, 0.08)),
        (252, 200, 40),
    ),
    (disc(0.0, -0.10, 0.12), (215, 40, 70)),
)
WORN = {"hat": HAT, "crown": CROWN}
