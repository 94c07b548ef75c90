"""Surfaces of picturebook's things in full detail: fur, wood, stone, scales, bricks, metal and more.

A texture is a map over a thing's own frame (see `figures`), so it moves, turns and grows with the thing. A relief says
how much lighter (> 0) or darker (< 0) than its paint a surface is; a pattern, which share of it has a second colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from reinvert.picturebook.palette import Number

Map = NDArray[np.float32]

REACH = 1.7
"""A map covers -REACH..REACH on both axes."""
CELLS = 160
"""Cells of a map per unit of the frame."""
SIDE = round(2 * REACH * CELLS)


def _axes() -> tuple[Map, Map]:
    line = (np.arange(SIDE, dtype=np.float32) + 0.5) / CELLS - REACH
    return np.ascontiguousarray(line[None, :], np.float32), np.ascontiguousarray(line[:, None], np.float32)


def _noise(cell: Number, seed: int) -> Map:
    """Smooth noise in 0..1 with details of `cell` units."""
    rng = Random(f"noise {cell} {seed}")
    count = max(2, round(2 * REACH / cell))
    small = Image.frombytes("L", (count, count), bytes(rng.randrange(256) for _ in range(count * count)))
    large = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32)
    return (large / 255).astype(np.float32)


def _drawn(paint: Callable[[ImageDraw.ImageDraw], None], ground: int = 128, blur: Number = 0.0) -> Map:
    """What `paint` draws in greys over the map's cells, as -1..1."""
    image = Image.new("L", (SIDE, SIDE), ground)
    paint(ImageDraw.Draw(image))
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    return ((np.asarray(image, dtype=np.float32) - 128) / 127).astype(np.float32)


def _fur(length: Number = 0.10, count: int = 9000, strength: int = 50) -> Map:
    """Many short hairs that follow the body from head to tail and down."""

    def paint(canvas: ImageDraw.ImageDraw) -> None:
        rng = Random("fur")
        for _ in range(count):
            x, y = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
            angle = math.radians(128 + 26 * math.sin(x / 90) + rng.uniform(-22, 22))
            r = CELLS * length * rng.uniform(0.6, 1.3)
            grey = 128 + round(rng.uniform(-1, 1) * strength)
            tip = (x + r * math.cos(angle), y + r * math.sin(angle))
            canvas.line((x, y, *tip), fill=grey, width=2)

    return _drawn(paint, blur=1.0)


def _wood(planks: int = 0) -> Map:
    """Grain along x with knots; with boards, the gaps between them."""
    x, y = _axes()
    warp = _noise(0.8, 1) + 0.5 * _noise(0.35, 2)
    knots = np.zeros((SIDE, SIDE), dtype=np.float32)
    for kx, ky in ((-0.55, 0.62), (0.45, -0.30), (0.72, 0.74), (-0.30, -0.62), (-0.95, 0.05), (0.02, 0.24)):
        knots += np.exp(-((x - kx) ** 2 / 0.022 + (y - ky) ** 2 / 0.007))
    rings = np.sin(2 * math.pi * (y * 7.5 + 0.9 * warp + 1.6 * knots + 0.35 * np.sin(2.1 * x)))
    grain = 0.30 * rings + 0.22 * (_noise(0.045, 3) - 0.5) - 0.42 * np.clip(knots - 0.55, 0, 1)
    if planks:
        place = (y * planks / 2 + 0.5) % 1.0
        gap = np.minimum(place, 1 - place)
        shift = np.floor(y * planks / 2 + 0.5)
        grain = grain + 0.10 * np.sin(shift * 2.4) - 0.85 * (gap < 0.055) + 0.28 * ((gap >= 0.055) & (place < 0.14))
    return np.broadcast_to(grain, (SIDE, SIDE)).astype(np.float32)


def _bark() -> Map:
    x, y = _axes()
    furrow = np.sin(2 * math.pi * (x * 7 + 0.9 * _noise(0.25, 5) + 0.15 * np.sin(5 * y)))
    return (0.34 * furrow + 0.3 * (_noise(0.06, 6) - 0.5)).astype(np.float32)


def _cells(size: Number, seed: int, flat: Number = 1.0) -> tuple[Map, Map]:
    """Distance to the border between a jittered grid's nearest two points, and a random number per cell."""
    rng = Random(f"cells {seed}")
    x, y = _axes()
    nearest = np.full((SIDE, SIDE), 9.0, dtype=np.float32)
    second, number = nearest.copy(), np.zeros((SIDE, SIDE), dtype=np.float32)
    rows, columns = math.ceil(REACH / size / flat) + 1, math.ceil(REACH / size) + 1
    for j in range(-rows, rows + 1):
        for i in range(-columns, columns + 1):
            px = (i + 0.5 * (j % 2) + rng.uniform(-0.30, 0.30)) * size
            py = (j + rng.uniform(-0.25, 0.25)) * size * flat
            mine = rng.random()
            # Only the neighbourhood of the point can have it nearest.
            reach = round(2.2 * size * CELLS)
            cx, cy = round((px + REACH) * CELLS), round((py + REACH) * CELLS)
            part = (slice(max(cy - reach, 0), max(cy + reach, 0)), slice(max(cx - reach, 0), max(cx + reach, 0)))
            d = np.hypot(x[:, part[1]] - px, (y[part[0]] - py) / flat)
            if d.size == 0:
                continue
            closer = d < nearest[part]
            second[part] = np.where(closer, nearest[part], np.minimum(second[part], d))
            number[part] = np.where(closer, mine, number[part])
            nearest[part] = np.minimum(nearest[part], d)
    return second - nearest, number


def _stone() -> Map:
    """Rounded field stones with dark mortar and grit."""
    border, number = _cells(0.34, 7, 0.72)
    dome = np.clip(border / 0.16, 0, 1)
    grit = _noise(0.035, 8) - 0.5
    speck = np.where(_noise(0.05, 9) > 0.80, -0.25, 0.0)
    return (0.62 * (number - 0.5) + 0.30 * dome - 0.20 + 0.34 * grit + speck - 0.95 * (border < 0.045)).astype(
        np.float32
    )


def _bricks() -> Map:
    x, y = _axes()
    row = np.floor(y / 0.13)
    u, v = (x / 0.30 + 0.5 * (row % 2)) % 1.0, (y / 0.13) % 1.0
    gap = (u < 0.055) | (v < 0.13)
    number = np.sin(12.9 * np.floor(x / 0.30 + 0.5 * (row % 2)) + 78.2 * row) * 43758.5453 % 1.0
    lit = (v >= 0.13) & (v < 0.26)
    relief = 0.26 * (number - 0.5) + 0.16 * (_noise(0.05, 10) - 0.5) + 0.14 * lit - 0.46 * gap
    return relief.astype(np.float32)


def _tiles() -> Map:
    x, y = _axes()
    row = np.floor(y / 0.155)
    u, v = (x / 0.20 + 0.5 * (row % 2)) % 1.0, (y / 0.155) % 1.0
    edge = v - 0.86 + 0.9 * np.abs(u - 0.5) ** 2
    relief = 0.24 * (1 - v) - 0.12 - 0.55 * (edge > 0) - 0.30 * ((np.abs(u - 0.5) > 0.46) & (v < 0.75))
    return relief.astype(np.float32)


def _scales() -> Map:
    x, y = _axes()
    size = 0.17
    column = np.floor(x / (0.62 * size))
    u, v = (x / (0.62 * size)) % 1.0, (y / size + 0.5 * (column % 2)) % 1.0
    # A scale is a disc that its neighbour in front overlaps; x grows to the head.
    rim = np.hypot((u - 1.05) * 0.62, v - 0.5)
    relief = 0.42 * np.clip(1 - rim / 0.62, 0, 1) - 0.50 * (np.abs(rim - 0.53) < 0.05) - 0.10
    return relief.astype(np.float32)


def _fin() -> Map:
    x, y = _axes()
    angle = np.arctan2(y - 0.15, x + 0.15)
    return (0.26 * np.sin(46 * angle)).astype(np.float32) * np.ones((SIDE, SIDE), dtype=np.float32)


def _leaves() -> Map:
    """Clumps of leaves, each lighter at its upper left."""

    def paint(canvas: ImageDraw.ImageDraw) -> None:
        rng = Random("leaves")
        for _ in range(1500):
            x, y = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
            r, angle = CELLS * rng.uniform(0.055, 0.085), rng.uniform(0, math.pi)
            c, s = math.cos(angle), math.sin(angle)
            leaf = [(r, 0.0), (0.2 * r, 0.5 * r), (-r, 0.0), (0.2 * r, -0.5 * r)]
            outline = [(x + a * c - b * s, y + a * s + b * c) for a, b in leaf]
            canvas.polygon([(a + 3, b + 4) for a, b in outline], fill=70)
            canvas.polygon(outline, fill=128 + round(rng.uniform(-0.35, 0.9) * 64))

    return _drawn(paint, blur=0.8)


def _velvet() -> Map:
    return (0.16 * (_noise(0.04, 11) - 0.5) + 0.10 * (_noise(0.3, 12) - 0.5)).astype(np.float32)


def _snow() -> Map:
    sparkle = np.where(_noise(0.035, 13) > 0.93, 0.5, 0.0)
    return (0.12 * (_noise(0.12, 14) - 0.5) + sparkle).astype(np.float32)


def _knit() -> Map:
    x, y = _axes()
    u, v = (x / 0.075) % 1.0, (y / 0.07 + np.abs((x / 0.075) % 1.0 - 0.5)) % 1.0
    return (0.34 * np.cos(2 * math.pi * v) - 0.3 * ((u < 0.08) | (u > 0.92))).astype(np.float32)


def _bands(across: Number, down: Number, strength: Number) -> Map:
    x, y = _axes()
    return (strength * np.sin(2 * math.pi * (x * across + y * down)) * np.ones((SIDE, SIDE))).astype(np.float32)


def _brushed() -> Map:
    """The fine scratches of brushed metal, with a few rivets."""
    rng = np.random.Generator(np.random.PCG64(15))
    rows = rng.random(SIDE, dtype=np.float32)[:, None] - 0.5
    streak = (_noise(0.5, 16) + 0.4) * rows * 0.34
    x, y = _axes()
    u, v = (x / 0.36 + 0.5) % 1.0 - 0.5, (y / 0.46 + 0.28) % 1.0 - 0.5
    far, above = np.hypot(u * 0.36, v * 0.46), np.hypot(u * 0.36 + 0.012, v * 0.46 + 0.014)
    rivets = np.where(above < 0.026, 0.9, np.where(far < 0.048, -0.75, 0.0))
    seam = np.where(np.abs(v * 0.46 - 0.105) < 0.008, -0.6, 0.0)
    return (streak + rivets + seam * np.ones_like(x)).astype(np.float32)


RELIEFS: dict[str, Callable[[], Map]] = {
    "smooth": lambda: np.zeros((SIDE, SIDE), dtype=np.float32),
    "gloss": lambda: np.zeros((SIDE, SIDE), dtype=np.float32),
    "blush": lambda: np.zeros((SIDE, SIDE), dtype=np.float32),
    "fur": _fur,
    "shaggy": lambda: _fur(0.24, 5000, 110),
    "wood": _wood,
    "planks": lambda: _wood(7),
    "boards": lambda: _wood(4),
    "bark": _bark,
    "stone": _stone,
    "bricks": _bricks,
    "tiles": _tiles,
    "scales": _scales,
    "fin": _fin,
    "leaves": _leaves,
    "velvet": _velvet,
    "snow": _snow,
    "knit": _knit,
    "canvas": lambda: _bands(0.0, 3.4, 0.10),
    "stem": lambda: _bands(9.0, 0.0, 0.10),
    "gills": lambda: _bands(17.0, 0.0, 0.30),
    "carrot": lambda: _bands(8.0, 2.0, 0.16),
    "brushed": _brushed,
}


def _stripes() -> Map:
    x, y = _axes()
    place = (x + 0.5 * y + 0.05 * np.sin(5 * y)) * 3.2 % 1.0
    return np.clip((0.25 - np.abs(place - 0.5)) * 26 + 0.5, 0, 1).astype(np.float32)


def _dots() -> Map:
    x, y = _axes()
    row = np.floor(y / 0.40 + 0.5)
    u, v = (x / 0.46 + 0.5 * (row % 2) + 0.5) % 1.0 - 0.5, (y / 0.40 + 0.5) % 1.0 - 0.5
    return np.clip((0.125 - np.hypot(u * 0.46, v * 0.40)) * 90 + 0.5, 0, 1).astype(np.float32)


PATTERNS: dict[str, Callable[[], Map]] = {"striped": _stripes, "dotted": _dots}


@lru_cache(maxsize=64)
def relief(name: str) -> Map:
    """A relief [row, column] over -REACH..REACH."""
    return RELIEFS[name]()


@lru_cache(maxsize=8)
def pattern(name: str) -> Map:
    """A pattern's share of the second colour, [row, column] over -REACH..REACH."""
    return PATTERNS[name]()


def sample(texture: Map, x: Map, y: Map) -> Map:
    """A map's cells at the coordinates x [column] and y [row]."""
    columns = np.clip(((x + REACH) * CELLS).astype(np.int32), 0, SIDE - 1)
    rows = np.clip(((y + REACH) * CELLS).astype(np.int32), 0, SIDE - 1)
    return texture[rows[:, None], columns[None, :]]
