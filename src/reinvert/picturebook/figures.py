"""picturebook's things in full detail: silhouettes and details as data, for drawings of 128 pixels and more.

The frame is that of `shapes`: x points to where the thing looks, y down, the feet stand on y = +1. A figure is a list
of parts from back to front; every part is one or more filled outlines with one contour around their union.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reinvert.picturebook.palette import INK, PAPER, RGB, Number, Point

Outline = tuple[Point, ...]
Paint = RGB | str
"""A colour, or "body" (the thing's colour and material), "pale", "dark" or "deep" (shades of its colour)."""


@dataclass(frozen=True)
class Part:
    """Outlines of one paint. `line` is the weight of its contour, `form` how round it looks, `shade` how much darker
    it is than its paint, `relief` the texture of its surface."""

    outlines: tuple[Outline, ...]
    paint: Paint = "body"
    line: Number = 1.0
    form: Number = 1.0
    shade: Number = 0.0
    relief: str = ""


@dataclass(frozen=True)
class Figure:
    """`hat` is where something worn sits (its lower centre), `foot` half the width of the shadow, `relief` the texture
    of its body where the material is plain."""

    parts: tuple[Part, ...]
    hat: Point = (0.0, -1.0)
    foot: float = 0.8
    relief: str = "smooth"


# --- outlines ----------------------------------------------------------------------------------------------------


def smooth(*points: Point, closed: bool = True, steps: int = 7) -> Outline:
    """The Catmull-Rom curve through the points."""
    n = len(points)
    made: list[Point] = []
    for i in range(n if closed else n - 1):
        if closed:
            a, b, c, d = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        else:
            a, b, c, d = (points[min(max(i + k, 0), n - 1)] for k in (-1, 0, 1, 2))
        for step in range(steps):
            t = step / steps
            made.append((_spline(a[0], b[0], c[0], d[0], t), _spline(a[1], b[1], c[1], d[1], t)))
    return tuple(made) if closed else (*made, points[-1])


def _spline(a: Number, b: Number, c: Number, d: Number, t: Number) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def oval(x: Number, y: Number, rx: Number, ry: Number | None = None, turn: Number = 0.0, corners: int = 36) -> Outline:
    """An ellipse, turned by `turn` degrees."""
    ry = rx if ry is None else ry
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    angles = [2 * math.pi * i / corners for i in range(corners)]
    return tuple(
        (x + rx * math.cos(a) * c - ry * math.sin(a) * s, y + rx * math.cos(a) * s + ry * math.sin(a) * c)
        for a in angles
    )


def tube(points: Sequence[Point], *widths: Number) -> Outline:
    """A smooth band along the points with round ends, its half-width going through `widths` from end to end."""
    path = smooth(*points, closed=False) if len(points) > 2 else tuple(points)
    n = len(path)
    left, right = list[Point](), list[Point]()
    ends = list[tuple[Point, float, float]]()
    for i, (x, y) in enumerate(path):
        (ax, ay), (bx, by) = path[max(i - 1, 0)], path[min(i + 1, n - 1)]
        angle = math.atan2(by - ay, bx - ax)
        place = i / (n - 1) * (len(widths) - 1)
        low = min(int(place), max(len(widths) - 2, 0))
        r = widths[low] + (widths[min(low + 1, len(widths) - 1)] - widths[low]) * (place - low)
        left.append((x + r * math.sin(angle), y - r * math.cos(angle)))
        right.append((x - r * math.sin(angle), y + r * math.cos(angle)))
        if i in (0, n - 1):
            ends.append(((x, y), angle, r))

    def cap(end: tuple[Point, Number, Number], first: Number) -> list[Point]:
        (x, y), angle, r = end
        turns = [angle + first + math.pi * k / 6 for k in range(1, 6)]
        return [(x + r * math.cos(a), y + r * math.sin(a)) for a in turns]

    return (*left, *cap(ends[1], -math.pi / 2), *reversed(right), *cap(ends[0], math.pi / 2))


def poly(*points: Point) -> Outline:
    """Straight edges."""
    return points


def box(left: Number, top: Number, right: Number, bottom: Number) -> Outline:
    """An upright rectangle."""
    return (left, top), (right, top), (right, bottom), (left, bottom)


def rounded(left: Number, top: Number, right: Number, bottom: Number, r: Number) -> Outline:
    """An upright rectangle with round corners."""
    corners = (
        (right - r, top + r, -90),
        (right - r, bottom - r, 0),
        (left + r, bottom - r, 90),
        (left + r, top + r, 180),
    )
    return tuple(
        (x + r * math.cos(math.radians(a + 90 * k / 5)), y + r * math.sin(math.radians(a + 90 * k / 5)))
        for x, y, a in corners
        for k in range(6)
    )


def flat(*outlines: Outline, paint: Paint = INK, line: Number = 0.0, form: Number = 0.0, relief: str = "") -> Part:
    """A part without contour and without form."""
    return Part(outlines, paint, line, form, relief=relief)


def eye(x: Number, y: Number, r: Number, iris: RGB, *, slit: bool = False, lid: Paint = "dark") -> tuple[Part, ...]:
    """Rim, white, iris, pupil, glint, and the lid over them, looking a little ahead."""
    px, py, ir = x + 0.16 * r, y + 0.10 * r, 0.70 * r
    lid_points = [(x + 1.08 * r * math.cos(a), y + 1.2 * r * math.sin(a)) for a in _turns(212, 328)]
    return (
        flat(oval(x, y, 1.12 * r, 1.24 * r)),
        flat(oval(x, y, r, 1.12 * r), paint=PAPER),
        flat(oval(px, py, ir, 1.08 * ir), paint=iris),
        flat(oval(px, py, (0.36 if slit else 0.56) * ir, (0.95 if slit else 0.62) * ir)),
        flat(tuple(lid_points), paint=lid),
        flat(tube(lid_points[::3], 0.09 * r)),
        flat(
            oval(px - 0.30 * ir, py - 0.34 * ir, 0.30 * ir),
            oval(px + 0.30 * ir, py + 0.36 * ir, 0.14 * ir),
            paint=PAPER,
        ),
    )


def _turns(first: Number, last: Number, count: int = 13) -> list[float]:
    return [math.radians(first + (last - first) * k / (count - 1)) for k in range(count)]


def dot_eye(x: Number, y: Number, rx: Number, ry: Number) -> tuple[Part, ...]:
    """A button eye with glints."""
    return (
        flat(oval(x, y, rx, ry)),
        flat(
            oval(x - 0.28 * rx, y - 0.36 * ry, 0.36 * rx, 0.28 * ry),
            oval(x + 0.3 * rx, y + 0.4 * ry, 0.18 * rx),
            paint=PAPER,
        ),
    )


# --- the things --------------------------------------------------------------------------------------------------

NOSE: RGB = (232, 96, 124)
BARK: RGB = (126, 82, 50)
CREAM: RGB = (250, 240, 218)
GLASS: RGB = (176, 220, 244)
STEEL: RGB = (196, 200, 210)
RUBBER: RGB = (44, 44, 52)
BLUSH: RGB = (246, 132, 140)


def _leg(x: Number, top: Number, width: Number, foot: Number) -> tuple[Outline, ...]:
    return (
        tube([(x, top), (x, 0.90)], width, 0.86 * width),
        oval(x + foot, 0.915, width + 0.055, 0.095),
    )


def _toes(x: Number) -> Part:
    return flat(*(tube([(x + d, 0.90), (x + d, 0.985)], 0.014) for d in (-0.02, 0.075)), paint="deep")


_CAT_HEAD = smooth(
    (0.45, -0.66), (0.72, -0.60), (0.93, -0.36), (0.985, -0.10), (0.84, 0.10), (0.62, 0.20), (0.45, 0.215),
    (0.28, 0.20), (0.06, 0.10), (-0.085, -0.10), (-0.03, -0.36), (0.18, -0.60),
)  # fmt: skip
_CAT_EARS = (
    smooth((-0.03, -0.30), (-0.045, -0.72), (0.02, -0.99), (0.20, -0.86), (0.40, -0.56), (0.2, -0.3)),
    smooth((0.93, -0.30), (0.945, -0.72), (0.88, -0.99), (0.70, -0.86), (0.50, -0.56), (0.7, -0.3)),
)
CAT = Figure(
    parts=(
        Part((tube([(-0.56, 0.70), (-0.90, 0.62), (-1.06, 0.28), (-0.98, -0.06),
            (-0.82, -0.26)], 0.10, 0.105, 0.085, 0.06),),
             shade=0.06),
        Part((*_leg(-0.26, 0.55, 0.095, 0.03), *_leg(0.36, 0.55, 0.095, 0.03)), shade=0.30),
        Part((
            smooth((-0.70, 0.58), (-0.60, 0.24), (-0.28, 0.10), (0.10, 0.06), (0.44, 0.10), (0.56, 0.42), (0.40, 0.72),
                   (0.0, 0.80), (-0.48, 0.82)),
            *_leg(-0.48, 0.55, 0.115, 0.03), *_leg(0.16, 0.55, 0.105, 0.04),
        )),
        flat(smooth((0.28, 0.22), (0.46, 0.18), (0.545, 0.36), (0.46, 0.56), (0.36, 0.44)), paint="pale", form=0.4),
        _toes(-0.46), _toes(0.19),
        Part((*_CAT_EARS, _CAT_HEAD)),
        flat(smooth((0.035, -0.50), (0.04, -0.84), (0.20, -0.66), (0.14, -0.52)),
             smooth((0.865, -0.50), (0.86, -0.84), (0.70, -0.66), (0.76, -0.52)), paint=(244, 150, 168), form=0.4),
        flat(oval(0.13, 0.0, 0.10, 0.06), oval(0.79, 0.0, 0.10, 0.06), paint=BLUSH, form=0.0, relief="blush"),
        flat(oval(0.365, 0.035, 0.135, 0.105, 8), oval(0.565, 0.035, 0.135, 0.105, -8), oval(0.465, 0.10, 0.12, 0.08),
            paint="pale", form=0.6),
        *eye(0.23, -0.20, 0.135, (96, 176, 84), slit=True),
        *eye(0.68, -0.20, 0.135, (96, 176, 84), slit=True),
        Part((smooth((0.39, -0.055), (0.465, -0.075), (0.54, -0.055), (0.465, 0.02), steps=5),), NOSE, 0.5, 0.6),
        flat(tube([(0.465, 0.015), (0.465, 0.06)], 0.012), tube([(0.36, 0.07), (0.41, 0.105), (0.465, 0.06)], 0.014),
             tube([(0.465, 0.06), (0.52, 0.105), (0.57, 0.07)], 0.014)),
        flat(*(tube([(x, y), (x + s * 0.20, y + d * 0.5), (x + s * 0.40, y + d)], 0.013, 0.006)
               for x, s in ((0.28, -1), (0.65, 1)) for y, d in ((0.02, -0.07), (0.055, 0.02), (0.09, 0.10))),
                   paint="whisker"),
    ),
    hat=(0.46, -0.60),
    foot=0.82,
    relief="fur",
)  # fmt: skip

DOG = Figure(
    parts=(
        Part((tube([(-0.62, 0.22), (-0.86, 0.06), (-1.0, -0.18), (-0.98, -0.38)], 0.105, 0.09, 0.06),), shade=0.06),
        Part((*_leg(-0.40, 0.40, 0.10, 0.035), *_leg(0.40, 0.40, 0.10, 0.035)), shade=0.30),
        Part((
            smooth((-0.78, 0.34), (-0.66, 0.06), (-0.30, -0.02), (0.10, -0.02), (0.50, -0.10), (0.62, 0.14),
                (0.54, 0.46),
                   (0.24, 0.56), (-0.20, 0.54), (-0.66, 0.62)),
            smooth((0.06, 0.10), (0.14, -0.40), (0.60, -0.34), (0.62, 0.12), (0.36, 0.36)),
            *_leg(-0.60, 0.36, 0.125, 0.035), *_leg(0.24, 0.36, 0.115, 0.04),
        )),
        flat(smooth((0.44, 0.0), (0.585, 0.06), (0.575, 0.30), (0.47, 0.40), (0.40, 0.22)), paint="pale", form=0.4),
        _toes(-0.58), _toes(0.27),
        Part((tube([(0.12, -0.04), (0.34, 0.09), (0.62, 0.02)], 0.058),), (206, 44, 62), 0.8, 0.8),
        Part((oval(0.44, 0.155, 0.075),), (250, 206, 66), 0.7, 1.0),
        Part((
            smooth((0.40, -0.86), (0.66, -0.80), (0.80, -0.58), (1.04, -0.50), (1.16, -0.34), (1.12, -0.16),
                (0.86, -0.10),
                   (0.58, -0.10), (0.26, -0.16), (0.06, -0.36), (0.10, -0.68)),
        )),
        flat(smooth((0.80, -0.42), (1.02, -0.44), (1.12, -0.30), (1.07, -0.17), (0.86, -0.125), (0.68, -0.20)),
            paint="pale", form=0.6),
        flat(tube([(1.08, -0.28), (0.98, -0.19), (0.80, -0.185), (0.70, -0.25)], 0.016)),
        Part((smooth((0.86, -0.165), (0.98, -0.17), (0.99, -0.05), (0.93, 0.0), (0.87, -0.05)),), (238, 110, 130),
            0.6, 0.6),
        Part((oval(1.10, -0.42, 0.105, 0.085, 15),), (42, 38, 46), 0.3, 0.8),
        flat(oval(1.075, -0.45, 0.030, 0.020), paint=(190, 190, 200)),
        *eye(0.66, -0.52, 0.118, (112, 68, 36)),
        flat(tube([(0.56, -0.735), (0.68, -0.765), (0.78, -0.70)], 0.022), paint="deep"),
        flat(oval(0.62, -0.32, 0.08, 0.05), paint=BLUSH, relief="blush"),
        Part((smooth((0.22, -0.80), (0.05, -0.66), (-0.10, -0.36), (-0.13, -0.06), (0.0, 0.06), (0.16, -0.06),
            (0.27, -0.34),
                     (0.37, -0.62)),), "dark", 1.0, 1.0, relief="fur"),
    ),
    hat=(0.40, -0.80),
    foot=0.84,
    relief="fur",
)  # fmt: skip

FISH = Figure(
    parts=(
        Part((smooth((-0.44, 0.18), (-0.74, -0.06), (-1.12, -0.44), (-1.10, -0.10), (-0.98, 0.16), (-1.10, 0.42),
            (-1.12, 0.76),
                     (-0.74, 0.40)),), relief="fin"),
        Part((smooth((-0.34, -0.20), (-0.30, -0.46), (-0.08, -0.74), (0.16, -0.66), (0.46, -0.30), (0.1, -0.1)),),
            relief="fin"),
        Part((smooth((-0.16, 0.56), (-0.30, 0.90), (-0.06, 0.86), (0.20, 0.62), (0.0, 0.5)),),
            relief="fin", shade=0.12),
        Part((smooth((0.97, 0.16), (0.86, -0.16), (0.56, -0.36), (0.14, -0.42), (-0.30, -0.24), (-0.62, 0.06),
            (-0.66, 0.22),
                     (-0.36, 0.50), (0.10, 0.70), (0.56, 0.66), (0.86, 0.46)),)),
        flat(smooth((0.86, 0.42), (0.56, 0.52), (0.10, 0.55), (-0.30, 0.42), (0.08, 0.655), (0.54, 0.62)),
            paint="pale", form=0.3),
        flat(tube([(0.33, -0.28), (0.22, 0.0), (0.25, 0.30), (0.36, 0.50)], 0.018, 0.026, 0.014), paint="deep"),
        Part((smooth((0.10, 0.14), (-0.14, 0.22), (-0.36, 0.46), (-0.14, 0.50), (0.12, 0.38)),),
            "dark", 0.8, 0.8, relief="fin"),
        *eye(0.60, -0.04, 0.150, (60, 120, 176)),
        flat(oval(0.66, 0.24, 0.09, 0.055), paint=BLUSH, relief="blush"),
        flat(tube([(0.945, 0.26), (0.85, 0.33), (0.76, 0.30)], 0.018)),
    ),
    hat=(0.30, -0.36),
    foot=0.62,
    relief="scales",
)  # fmt: skip


def _wheel(x: Number) -> tuple[Part, ...]:
    y = 0.69
    spokes = tuple(tube([(x, y), (x + 0.125 * math.cos(a), y + 0.125 * math.sin(a))], 0.018) for a in _turns(0, 300, 6))
    return (
        Part((oval(x, y, 0.305),), RUBBER, 0.6, 0.7),
        Part((oval(x, y, 0.185),), STEEL, 0.5, 0.8),
        flat(oval(x, y, 0.14), paint=(120, 124, 136)),
        flat(*spokes, oval(x, y, 0.055), paint=(226, 228, 234)),
    )


CAR = Figure(
    parts=(
        Part((smooth((-0.74, 0.08), (-0.62, -0.34), (-0.44, -0.56), (0.0, -0.60), (0.34, -0.56), (0.54, -0.34),
            (0.76, 0.08), (0.0, 0.2)),)),
        Part((smooth((-0.52, -0.02), (-0.48, -0.28), (-0.36, -0.44), (-0.20, -0.47), (-0.055, -0.475),
            (-0.055, -0.02), steps=5),
              smooth((0.055, -0.02), (0.055, -0.475), (0.18, -0.465), (0.33, -0.44), (0.43, -0.28), (0.54, -0.02),
                  steps=5)), GLASS, 0.8, 0.0),
        flat(poly((-0.40, -0.06), (-0.28, -0.40), (-0.20, -0.40), (-0.32, -0.06)),
             poly((0.16, -0.06), (0.28, -0.40), (0.32, -0.40), (0.22, -0.06)), paint=(232, 246, 254)),
        Part((smooth((-1.14, 0.62), (-1.16, 0.26), (-1.04, 0.06), (-0.80, -0.02), (0.0, -0.03), (0.72, -0.01),
            (1.02, 0.10), (1.16, 0.30),
                     (1.15, 0.62), (0.9, 0.72), (0.0, 0.73), (-0.9, 0.72)),), relief="gloss"),
        flat(tube([(-0.02, 0.02), (0.0, 0.34), (-0.02, 0.66)], 0.014), tube([(-0.62, 0.03), (-0.60, 0.30)], 0.014),
            tube([(0.60, 0.03), (0.60, 0.28)], 0.014), paint="deep"),
        flat(rounded(-0.22, 0.16, -0.07, 0.205, 0.02), rounded(0.38, 0.16, 0.53, 0.205, 0.02), paint="deep"),
        flat(tube([(-1.08, 0.50), (-0.9, 0.505)], 0.03), tube([(-0.24, 0.55), (0.24, 0.55)], 0.03),
            tube([(0.90, 0.505), (1.10, 0.50)], 0.03), paint=STEEL),
        Part((oval(-0.57, 0.66, 0.37, 0.33), oval(0.57, 0.66, 0.37, 0.33)), "deep", 0.0, 0.0),
        *_wheel(-0.57), *_wheel(0.57),
        Part((oval(1.035, 0.28, 0.085, 0.125, 6),), (255, 244, 170), 0.7, 0.8),
        flat(oval(1.05, 0.25, 0.03, 0.045), paint=PAPER),
        Part((rounded(-1.16, 0.20, -1.06, 0.38, 0.04),), (226, 60, 56), 0.6, 0.6),
    ),
    hat=(0.0, -0.58),
    foot=1.05,
    relief="gloss",
)  # fmt: skip

SAIL: RGB = (250, 248, 240)
BOAT = Figure(
    parts=(
        Part((tube([(-0.05, 0.40), (-0.05, -1.0)], 0.062, 0.045),), BARK, 0.8, 0.9, relief="wood"),
        Part((smooth((-0.04, -1.02), (0.18, -1.0), (0.36, -0.93), (0.18, -0.87), (-0.04, -0.86), steps=4),),
            (226, 62, 60), 0.7, 0.5),
        Part((smooth((0.06, -0.80), (0.30, -0.56), (0.62, -0.20), (0.90, 0.14), (0.50, 0.20), (0.06, 0.16),
            (0.10, -0.30)),), SAIL, 0.9, 1.0, relief="canvas"),
        Part((smooth((-0.17, -0.66), (-0.36, -0.40), (-0.60, -0.10), (-0.78, 0.14), (-0.46, 0.19), (-0.17, 0.16),
            (-0.20, -0.24)),), SAIL, 0.9, 1.0, relief="canvas"),
        flat(tube([(0.13, -0.10), (0.50, -0.08), (0.72, -0.02)], 0.020), tube([(0.11, -0.40), (0.40, -0.38)], 0.020),
            paint=(214, 206, 190)),
        Part((smooth((-1.12, 0.30), (-0.6, 0.345), (0.0, 0.36), (0.6, 0.345), (1.14, 0.26), (1.02, 0.62),
            (0.74, 0.94), (0.40, 1.0), (-0.40, 1.0), (-0.76, 0.94),
                     (-0.98, 0.64)),)),
        Part((tube([(-1.10, 0.325), (-0.6, 0.37), (0.0, 0.385), (0.6, 0.37), (1.11, 0.30)], 0.05),),
            BARK, 0.7, 0.8, relief="wood"),
        *(p for x in (-0.46, 0.0, 0.46) for p in (
            Part((oval(x, 0.60, 0.105),), (238, 206, 110), 0.6, 0.6),
            flat(oval(x, 0.60, 0.068), paint=(96, 150, 190)),
            flat(oval(x - 0.02, 0.58, 0.026), paint=(210, 234, 246)),
        )),
    ),
    foot=0.95,
    relief="planks",
)  # fmt: skip


def _window(left: Number, top: Number, right: Number, bottom: Number) -> tuple[Part, ...]:
    x, y, w = (left + right) / 2, (top + bottom) / 2, 0.022
    return (
        Part((box(left - 0.05, top - 0.05, right + 0.05, bottom + 0.05),), CREAM, 0.7, 0.3),
        flat(box(left, top, right, bottom), paint=(255, 226, 128)),
        flat(poly((left, top), (left + 0.16, top), (left, top + 0.16)), paint=(255, 244, 196)),
        flat(box(x - w, top, x + w, bottom), box(left, y - w, right, y + w), paint=(150, 104, 66)),
        Part((rounded(left - 0.09, bottom + 0.03, right + 0.09, bottom + 0.10, 0.02),), CREAM, 0.6, 0.4),
    )


HOUSE = Figure(
    parts=(
        Part((poly((0.40, -0.95), (0.62, -0.95), (0.62, -0.40), (0.40, -0.45)),), (176, 96, 78),
            0.9, 0.6, relief="bricks"),
        Part((box(0.36, -1.0, 0.66, -0.90),), (150, 80, 66), 0.8, 0.4),
        Part((box(-0.76, -0.20, 0.76, 1.0),), relief="bricks", form=0.5),
        Part((box(-0.80, 0.86, 0.80, 1.0),), (150, 150, 156), 0.8, 0.5, relief="stone"),
        Part((poly((-1.08, -0.08), (-0.10, -0.98), (0.10, -0.98), (1.08, -0.08), (0.98, 0.0), (-0.98, 0.0)),),
            "dark", 1.0, 0.7, relief="tiles"),
        flat(poly((-0.76, 0.0), (0.76, 0.0), (0.76, 0.07), (-0.76, 0.07)), paint="shade"),
        *_window(-0.58, 0.20, -0.26, 0.52),
        *_window(0.30, 0.20, 0.62, 0.52),
        Part((oval(0.0, -0.40, 0.15),), CREAM, 0.7, 0.3),
        flat(oval(0.0, -0.40, 0.11), paint=(255, 226, 128)),
        flat(box(-0.015, -0.51, 0.015, -0.29), box(-0.11, -0.415, 0.11, -0.385), paint=(150, 104, 66)),
        Part((smooth((-0.20, 1.0), (-0.20, 0.52), (-0.13, 0.36), (0.02, 0.30), (0.17, 0.36), (0.24, 0.52),
            (0.24, 1.0), steps=5),), CREAM, 0.7, 0.3),
        Part((smooth((-0.15, 1.0), (-0.15, 0.54), (-0.09, 0.41), (0.02, 0.36), (0.13, 0.41), (0.19, 0.54),
            (0.19, 1.0), steps=5),), (138, 88, 52), 0.6, 0.5, relief="planks"),
        Part((oval(0.125, 0.70, 0.035),), (250, 208, 84), 0.4, 0.8),
    ),
    foot=0.92,
    relief="bricks",
)  # fmt: skip

_APPLES = ((-0.46, -0.26), (0.10, -0.66), (0.52, 0.02), (-0.10, 0.06), (0.30, -0.24))
TREE = Figure(
    parts=(
        Part((smooth((-0.13, 0.20), (-0.13, 0.62), (-0.20, 0.86), (-0.36, 1.0), (-0.10, 0.98), (0.0, 1.01),
            (0.12, 0.98), (0.36, 1.0), (0.20, 0.86),
                     (0.13, 0.62), (0.13, 0.20)),), BARK, 1.0, 1.0, relief="bark"),
        Part((tube([(-0.05, 0.50), (-0.20, 0.36), (-0.34, 0.20)], 0.05, 0.03), tube([(0.05, 0.46), (0.20, 0.34),
            (0.32, 0.20)], 0.05, 0.03)), BARK, 0.8, 0.8, relief="bark"),
        Part((oval(-0.46, -0.06, 0.48, 0.42), oval(0.46, -0.06, 0.48, 0.42), oval(0.0, 0.08, 0.44, 0.34)), shade=0.22),
        Part((
            smooth((0.0, -1.04), (0.28, -0.98), (0.46, -0.76), (0.62, -0.58), (0.84, -0.44), (0.92, -0.16),
                (0.80, 0.06), (0.56, 0.16),
                   (0.34, 0.10), (0.10, 0.22), (-0.14, 0.16), (-0.36, 0.22), (-0.62, 0.14), (-0.86, 0.0),
                       (-0.92, -0.26), (-0.74, -0.50),
                   (-0.54, -0.62), (-0.44, -0.84), (-0.24, -1.0)),
        )),
    ),
    hat=(0.0, -0.95),
    foot=0.55,
    relief="leaves",
)  # fmt: skip


def _star(outer: Number, inner: Number, y: Number = 0.08) -> Outline:
    points = list[Point]()
    for i in range(10):
        r, a = (inner if i % 2 else outer), i * math.pi / 5
        x0, y0 = r * math.sin(a), y - r * math.cos(a)
        points.append((x0, y0))
    made = list[Point]()
    for i, (x0, y0) in enumerate(points):  # the tips are rounded by cutting each in three steps
        (ax, ay), (bx, by) = points[i - 1], points[(i + 1) % 10]
        cut = 0.0 if i % 2 else 0.16
        for t in [0.0] if not cut else [-1.0, -0.5, 0.0, 0.5, 1.0]:
            ox, oy = (ax, ay) if t < 0 else (bx, by)
            s = abs(t) * cut
            pull = cut * 0.42 * (1 - abs(t)) ** 2
            px, py = x0 + (ox - x0) * s, y0 + (oy - y0) * s
            made.append((px + (0 - x0) * pull, py + (y - y0) * pull))
    return tuple(made)


STAR = Figure(
    parts=(
        Part((_star(1.14, 0.56),), form=1.3),
        flat(oval(-0.30, 0.16, 0.085, 0.055), oval(0.30, 0.16, 0.085, 0.055), paint=BLUSH, relief="blush"),
        *dot_eye(-0.185, -0.02, 0.085, 0.125),
        *dot_eye(0.185, -0.02, 0.085, 0.125),
        Part((smooth((-0.15, 0.20), (0.0, 0.235), (0.15, 0.20), (0.09, 0.32), (0.0, 0.355), (-0.09, 0.32), steps=5),),
            (150, 40, 56), 0.5, 0.0),
        flat(oval(0.0, 0.315, 0.06, 0.03), paint=(240, 120, 130)),
    ),
    hat=(0.0, -0.68),
    foot=0.72,
    relief="velvet",
)  # fmt: skip

MUSHROOM = Figure(
    parts=(
        Part((smooth((-0.30, 0.10), (-0.30, 0.46), (-0.40, 0.78), (-0.46, 0.94), (-0.26, 1.0), (0.0, 1.01),
            (0.26, 1.0), (0.46, 0.94), (0.40, 0.78),
                     (0.30, 0.46), (0.30, 0.10)),), (248, 238, 216), 1.0, 1.0, relief="stem"),
        Part((smooth((-0.94, 0.14), (-0.5, 0.02), (0.0, -0.02), (0.5, 0.02), (0.94, 0.14), (0.55, 0.27), (0.0, 0.31),
            (-0.55, 0.27)),), (236, 214, 186), 0.9, 0.5, relief="gills"),
        Part((smooth((-1.02, 0.14), (-1.0, -0.14), (-0.82, -0.48), (-0.46, -0.76), (0.0, -0.86), (0.46, -0.76),
            (0.82, -0.48), (1.0, -0.14), (1.02, 0.14),
                     (0.76, 0.20), (0.40, 0.155), (0.0, 0.14), (-0.40, 0.155), (-0.76, 0.20)),), form=1.2),
        flat(oval(-0.24, 0.66, 0.07, 0.045), oval(0.24, 0.66, 0.07, 0.045), paint=BLUSH, relief="blush"),
        *dot_eye(-0.145, 0.53, 0.062, 0.095),
        *dot_eye(0.145, 0.53, 0.062, 0.095),
        flat(tube([(-0.10, 0.68), (0.0, 0.735), (0.10, 0.68)], 0.020)),
    ),
    hat=(0.0, -0.78),
    foot=0.62,
    relief="gloss",
)  # fmt: skip

SNOWMAN = Figure(
    parts=(
        Part((tube([(-0.42, 0.34), (-0.66, 0.16), (-0.92, 0.02)], 0.036, 0.026), tube([(-0.74, 0.11),
            (-0.78, -0.06)], 0.022),
              tube([(0.42, 0.34), (0.66, 0.16), (0.92, 0.02)], 0.036, 0.026), tube([(0.74, 0.11),
                  (0.78, -0.06)], 0.022)), BARK, 0.7, 0.4),
        Part((oval(0.0, 0.48, 0.57, 0.53),)),
        Part((oval(0.0, -0.40, 0.43, 0.41),)),
        flat(*(oval(0.0, y, 0.062) for y in (0.28, 0.50, 0.72)), paint=(40, 40, 48)),
        flat(*(oval(-0.02, y - 0.02, 0.020) for y in (0.28, 0.50, 0.72)), paint=(150, 150, 164)),
        Part((smooth((0.18, 0.02), (0.36, 0.02), (0.40, 0.30), (0.36, 0.44), (0.20, 0.42), (0.16, 0.2)),),
            (40, 150, 160), 0.8, 0.8, relief="knit"),
        Part((tube([(-0.36, -0.10), (-0.15, 0.0), (0.15, 0.0), (0.36, -0.10)], 0.085),), (48, 164, 172),
            0.9, 0.9, relief="knit"),
        flat(oval(-0.26, -0.28, 0.08, 0.05), oval(0.26, -0.28, 0.08, 0.05), paint=BLUSH, relief="blush"),
        *dot_eye(-0.15, -0.49, 0.062, 0.082),
        *dot_eye(0.16, -0.49, 0.062, 0.082),
        flat(*(oval(0.21 * math.cos(a), -0.375 + 0.19 * math.sin(a), 0.024) for a in _turns(30, 150, 5))),
        Part((smooth((-0.04, -0.44), (0.06, -0.46), (0.52, -0.33), (0.06, -0.28), (-0.04, -0.30), steps=4),),
            (246, 138, 40), 0.7, 0.9, relief="carrot"),
    ),
    hat=(0.0, -0.74),
    foot=0.62,
    relief="snow",
)  # fmt: skip

FIGURES: dict[str, Figure] = {
    "cat": CAT, "dog": DOG, "fish": FISH, "car": CAR, "boat": BOAT, "house": HOUSE, "tree": TREE, "star": STAR,
    "mushroom": MUSHROOM, "snowman": SNOWMAN,
}  # fmt: skip

GOLD: RGB = (250, 196, 48)
VIOLET: RGB = (120, 60, 190)
HAT = (
    Part((smooth((-0.40, 0.05), (-0.20, 0.115), (0.0, 0.13), (0.20, 0.115), (0.40, 0.05), (0.22, -0.26),
        (0.05, -0.60), (-0.05, -0.60), (-0.22, -0.26), steps=5),),
         VIOLET, 1.0, 1.1),
    flat(poly((-0.27, -0.16), (0.20, -0.30), (0.145, -0.42), (-0.21, -0.30)), poly((-0.12, -0.46), (0.085, -0.525),
        (0.05, -0.60), (-0.06, -0.59)), paint=(250, 222, 80), form=0.0),
    flat(oval(-0.13, 0.0, 0.045), oval(0.14, -0.06, 0.045), oval(0.02, -0.13, 0.035), paint=(250, 222, 80)),
    Part((tube([(-0.39, 0.05), (-0.20, 0.11), (0.0, 0.125), (0.20, 0.11), (0.39, 0.05)], 0.062),), (250, 222, 80),
        0.8, 0.9),
    Part((smooth(*((0.145 * (1.0 if i % 2 else 0.80) * math.cos(a),
        -0.66 + 0.145 * (1.0 if i % 2 else 0.80) * math.sin(a)) for i, a in enumerate(_turns(0, 337.5, 16))),
        steps=3),),
         (250, 222, 80), 0.8, 1.0),
)  # fmt: skip
CROWN = (
    Part((poly((-0.42, 0.08), (-0.50, -0.42), (-0.25, -0.17), (0.0, -0.54), (0.25, -0.17), (0.50, -0.42),
        (0.42, 0.08), (0.22, 0.13), (0.0, 0.15), (-0.22, 0.13)),),
         GOLD, 1.0, 1.2, relief="gloss"),
    Part((oval(-0.50, -0.44, 0.065), oval(0.0, -0.56, 0.075), oval(0.50, -0.44, 0.065)), (255, 232, 140), 0.8, 1.0),
    Part((tube([(-0.41, 0.035), (-0.20, 0.085), (0.0, 0.10), (0.20, 0.085), (0.41, 0.035)], 0.055),), (236, 160, 36),
        0.6, 0.8),
    Part((oval(0.0, -0.12, 0.105, 0.125),), (218, 40, 72), 0.7, 1.0),
    Part((oval(-0.27, -0.02, 0.065), oval(0.27, -0.02, 0.065)), (48, 150, 214), 0.6, 1.0),
    flat(oval(-0.03, -0.16, 0.03), oval(-0.285, -0.04, 0.018), oval(0.255, -0.04, 0.018), paint=PAPER),
)  # fmt: skip
WORN = {"hat": HAT, "crown": CROWN}
