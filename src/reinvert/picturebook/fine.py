"""Drawing a scene in full detail, for pictures of 128 pixels and more.

Things are painted part by part: a contour, then a surface whose light follows the part's form and whose texture is the
material's. Every picture is drawn `SUPERSAMPLE` times as large and box-filtered; the same scene gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from reinvert.picturebook import textures
from reinvert.picturebook.figures import FIGURES, WORN, Figure, Part
from reinvert.picturebook.palette import PALETTE, PAPER, RGB, mix
from reinvert.picturebook.places import draw_place
from reinvert.picturebook.scene import Scene, Thing

SUPERSAMPLE = 4
CONTOUR = 0.0092
"""Width of a contour outside of a single thing, as a share of the side."""
LIGHT = (0.50, 0.86)
"""Where the light comes from: left and above."""
SHADOW_INK: RGB = (40, 26, 52)
WALL: RGB = (18, 13, 42)
"""What a neon sign hangs on."""
SHEET: RGB = (252, 249, 241)
"""The paper of a sketch."""
STEEL: RGB = (150, 158, 178)
"""What the colour of a metal thing tends to."""
GRAPHITE: RGB = (66, 64, 74)

Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

_CHROME = (
    (-1.2, 0.72), (-0.80, 0.96), (-0.50, 0.50), (-0.20, 0.14), (-0.06, 0.20), (-0.01, -0.78), (0.12, -0.70),
        (0.36, -0.26),
    (0.60, 0.34), (0.74, 0.84), (0.86, 0.10), (1.2, -0.55),
)  # fmt: skip
"""What polished metal reflects, from what faces up (-1) to what faces down: light by direction."""


@dataclass(frozen=True)
class Drawn:
    """A finished picture [size, size, 3], and for each thing how much of every pixel it covers (0..255)."""

    picture: Pixels
    covers: tuple[Pixels, ...]


def paint(scene: Scene, size: int) -> Drawn:
    """Draw a scene."""
    side = size * SUPERSAMPLE
    pixels = np.array(_backdrop(scene, side))
    for thing in scene.things:
        _cast_shadow(pixels, thing, scene)
    covers: list[Pixels] = []
    glow = np.zeros((size, size, 3), np.float32)
    for thing in scene.things:
        easel = Easel(pixels, thing, scene.style)
        easel.figure(FIGURES[thing.kind])
        covers.append(_smaller(easel.cover, size))
        if scene.style == "neon":
            glow += _glow(easel.tubes, size)
    picture = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BOX))
    if scene.style == "neon":
        # Light on light: a bright tube keeps its colour, and the wall beside it takes it.
        picture = np.clip(picture + glow * (1 - picture / 255.0) ** 1.5 + 0.5, 0, 255).astype(np.uint8)
    return Drawn(picture, tuple(covers))


def cover_thing(canvas: Pixels, thing: Thing, style: str) -> tuple[Pixels, Mask]:
    """A canvas [side, side, 3] with one thing painted on it, without shadow and glow, and which pixels it covers."""
    pixels = canvas.copy()
    easel = Easel(pixels, thing, style)
    easel.figure(FIGURES[thing.kind])
    return pixels, easel.cover


def cover_worn(scene: Scene, size: int) -> tuple[Pixels, ...]:
    """For each thing how much of every pixel [size, size] is covered by what it wears (0..255)."""
    side = size * SUPERSAMPLE
    covers: list[Pixels] = []
    for thing in scene.things:
        easel = Easel(np.zeros((side, side, 3), np.uint8), thing, scene.style)
        easel.worn(FIGURES[thing.kind])
        covers.append(_smaller(easel.cover, size))
    return tuple(covers)


def _smaller(mask: Mask, size: int) -> Pixels:
    """How much of every pixel of the picture a mask of the canvas covers; 0 only where nothing, 255 only where all."""
    counts = mask.reshape(size, SUPERSAMPLE, size, SUPERSAMPLE).sum((1, 3), dtype=np.uint16)
    return (counts * 255 // SUPERSAMPLE**2).astype(np.uint8)


# --- what lies behind --------------------------------------------------------------------------------------------


def _backdrop(scene: Scene, side: int) -> Image.Image:
    image = draw_place(scene.background, scene.seed, side)
    if scene.style == "sketch":
        pixels = np.asarray(image)
        share = 0.16 + 0.40 * _hatching(side, 0)
        return Image.fromarray((np.array(SHEET) + (pixels - np.array(SHEET)) * share[..., None]).astype(np.uint8))
    if scene.style == "neon":
        wall = np.array(WALL) * (1 + 0.8 * _bricks(side)[..., None])
        return Image.fromarray((wall + (np.asarray(image) - wall) * 0.30).clip(0, 255).astype(np.uint8))
    return image


@lru_cache(maxsize=8)
def _hatching(side: int, kind: int) -> Field:
    """Pencil strokes over the whole sheet, 0..1: slanted, uneven, the same in every picture."""
    small = min(side, 1024)
    image = Image.new("L", (small, small), 40)
    canvas, unit = ImageDraw.Draw(image), small / 64
    rng = np.random.Generator(np.random.PCG64(kind))
    step = 0.62 if kind else 0.80
    for k in range(round(132 / step)):
        start = -66 + k * step
        slope = 1.0 if kind == 0 else 0.72
        t = np.linspace(0, 64, 25)
        wobble = 0.18 * np.cumsum(rng.normal(size=25)) * 0.5
        grey = int(rng.integers(150, 255))
        points = [(float(x * unit), float((start + x * slope + w) * unit)) for x, w in zip(t, wobble, strict=True)]
        canvas.line(points, fill=grey, width=max(1, round(unit * (0.30 + 0.14 * float(rng.random())))))
    image = image.filter(ImageFilter.GaussianBlur(0.10 * unit)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    image = image if small == side else image.resize((side, side), Image.Resampling.BILINEAR)
    return (np.asarray(image, np.float32) / 255).astype(np.float32)


@lru_cache(maxsize=4)
def _bricks(side: int) -> Field:
    """A wall's bricks over the whole picture, darker in the gaps."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) * (64 / side)
    row = np.floor(y / 4)
    u, v = (x / 9 + 0.5 * (row % 2)) % 1.0, (y / 4) % 1.0
    gap = (u < 0.045) | (v < 0.10)
    tone = np.sin(12.9 * np.floor(x / 9 + 0.5 * (row % 2)) + 78.2 * row) * 43758.5453 % 1.0
    return (0.30 * (tone - 0.5) - 0.45 * gap).astype(np.float32)


def _cast_shadow(pixels: Pixels, thing: Thing, scene: Scene) -> None:
    """The soft shadow at a thing's feet: on water a darker patch with rings."""
    side = len(pixels)
    foot = FIGURES[thing.kind].foot * thing.size * 64
    x, y = thing.x * 64, thing.ground * 64 - 0.05 * thing.size * 64
    rx, ry = 1.12 * foot, max(1.0, 0.19 * foot)
    q = max(1, side // 256)  # soft: drawn small, enlarged
    small = side // q
    unit = small / 64
    image = Image.new("L", (small, small), 0)
    canvas = ImageDraw.Draw(image)
    canvas.ellipse(((x - rx) * unit, (y - ry) * unit, (x + rx) * unit, (y + ry) * unit), fill=255)
    image = image.filter(ImageFilter.GaussianBlur(0.055 * foot * unit + 0.3 * unit))
    share = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    rows = np.flatnonzero(share.any(1))
    if not len(rows):
        return
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    strength = {"sea": 0.42, "night": 0.55, "snow": 0.40}.get(scene.background, 0.46)
    strength *= {"sketch": 0.5, "neon": 0.8}.get(scene.style, 1.0)
    ink = {"sea": (8, 52, 110), "snow": (96, 120, 168)}.get(scene.background, SHADOW_INK)
    region = pixels[part].astype(np.float32)
    region += (np.array(ink, np.float32) - region) * (strength * share[part])[..., None]
    pixels[part] = region.astype(np.uint8)
    if scene.background == "sea":
        _rings(pixels, x, y, rx, ry, 0.30 if scene.style != "drawn" else 0.85)


def _rings(pixels: Pixels, x: float, y: float, rx: float, ry: float, strength: float) -> None:
    """The rings that something standing in water makes."""
    side = len(pixels)
    unit, mask = side / 64, Image.new("L", (side, side), 0)
    canvas = ImageDraw.Draw(mask)
    for grow, grey, breaks in (
        (1.0, 255, ((200, 340), (20, 160))),
        (1.24, 150, ((150, 215), (250, 300), (330, 385), (60, 120))),
    ):
        a, b = rx * grow * unit, ry * grow * 1.15 * unit
        for first, last in breaks:
            canvas.arc(
                (x * unit - a, y * unit - b, x * unit + a, y * unit + b),
                first,
                last,
                fill=grey,
                width=max(1, round(0.42 * unit)),
            )
    share = np.asarray(mask, np.float32)[..., None] / 255 * strength
    rows = np.flatnonzero(share.any((1, 2)))
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    region = pixels[part].astype(np.float32)
    region += (np.array((228, 244, 252), np.float32) - region) * share[part]
    pixels[part] = region.astype(np.uint8)


def _glow(tubes: Pixels, size: int) -> Field:
    """The light around the tubes of a neon sign, at the size of the picture."""
    near, far = size / 100, size / 28
    total = np.zeros((size, size, 3), np.float32)
    for channel in range(3):
        small = Image.fromarray(tubes[..., channel]).resize((size, size), Image.Resampling.BOX)
        for radius, strength in ((near, 0.55), (far, 0.85)):
            total[..., channel] += strength * np.asarray(small.filter(ImageFilter.GaussianBlur(radius)), np.float32)
    return total


# --- a thing -----------------------------------------------------------------------------------------------------


class Easel:
    """Paints one thing into `pixels` [side, side, 3]; `cover` [side, side] tells where, `tubes` what shines."""

    def __init__(self, pixels: Pixels, thing: Thing, style: str) -> None:
        self.pixels, self.thing, self.style, self.side = pixels, thing, style, len(pixels)
        self.scale = thing.size * self.side
        self.origin = np.array((thing.x * self.side, thing.ground * self.side - self.scale))
        self.stretch = np.array((-self.scale if thing.facing == "left" else self.scale, self.scale))
        self.cover = np.zeros((self.side, self.side), bool)
        self.tubes = np.zeros((self.side, self.side, 3) if style == "neon" else (0, 0, 3), np.uint8)
        self.base = PALETTE[thing.color]
        self.bright = _luma(self.base) > 175
        self.contour = CONTOUR * self.side * math.sqrt(thing.size / 0.29)

    def figure(self, figure: Figure) -> None:
        """The thing, and what it wears."""
        for part in figure.parts:
            self.part(part, figure.relief)
        self.worn(figure)

    def worn(self, figure: Figure) -> None:
        """What the thing wears, if anything."""
        if self.thing.wearing:
            self.origin = self.origin + self.stretch * np.array(figure.hat)
            for part in WORN[self.thing.wearing]:
                self.part(part, "smooth")

    def part(self, part: Part, relief: str) -> None:
        """Contour, then surface."""
        outlines = [np.array(outline) * self.stretch + self.origin for outline in part.outlines]
        line = part.line * self.contour * (1.25 if self.style == "neon" else 1.0)
        margin = line + 2
        low = np.floor(np.min([o.min(0) for o in outlines], axis=0) - margin).astype(int)
        high = np.ceil(np.max([o.max(0) for o in outlines], axis=0) + margin).astype(int)
        low, high = np.clip(low, 0, self.side), np.clip(high, 0, self.side)
        (left, top), (right, bottom) = low.tolist(), high.tolist()
        if left >= right or top >= bottom:
            return
        inside, whole = _filled([o - low for o in outlines], (right - left, bottom - top), line)
        window = (slice(top, bottom), slice(left, right))
        region = self.pixels[window]
        paint = self._paint(part)
        self.cover[window] |= whole
        if line:
            rim = whole & ~inside
            edge = self._edge(part, paint)
            region[rim] = edge
            if self.style == "neon":
                self.tubes[window][inside] = 0
                self.tubes[window][rim] = edge
        elif self.style == "neon" and paint == PAPER:
            self.tubes[window][inside] = (70, 70, 80)
        colors = self._surface(part, paint, relief, inside, window)
        if part.relief == "blush":
            colors = region[inside] + (colors - region[inside]) * 0.42
        region[inside] = colors.clip(0, 255).astype(np.uint8)

    def _paint(self, part: Part) -> RGB:
        base = self.base
        if not isinstance(part.paint, str):
            return part.paint
        shades: dict[str, RGB] = {
            "body": base,
            "pale": mix(base, (255, 250, 240), 0.62),
            "dark": mix(base, (44, 24, 60), 0.40),
            "deep": mix(base, (36, 20, 48), 0.66),
            "shade": mix(base, (44, 24, 60), 0.42),
            "whisker": mix(base, (36, 20, 48), 0.66) if self.bright else (250, 248, 244),
        }
        return shades[part.paint]

    def _edge(self, part: Part, paint: RGB) -> RGB:
        if self.style == "neon":
            own = paint if not isinstance(part.paint, str) else self.base
            return mix(_vivid(own), PAPER, 0.12)
        if self.style == "sketch":
            return GRAPHITE
        return mix(paint, (38, 22, 46), 0.70)

    def _surface(self, part: Part, paint: RGB, relief: str, inside: Mask, window: tuple[slice, slice]) -> Field:
        """Colours [n, 3] of the pixels inside."""
        rows, columns = window
        (ox, oy), (sx, sy) = self.origin.tolist(), self.stretch.tolist()
        x: Field = (np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - ox)) / np.float32(sx)
        y: Field = (np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - oy)) / np.float32(sy)
        own = part.paint == "body" or (part.paint == "dark" and part.line > 0)
        material = self.thing.material if own else "plain"
        down, across = _slopes(inside, 0.16 * self.scale) if part.form else (None, None)
        colors = np.array(paint, np.float32)
        light = np.full(int(inside.sum()), -part.shade, np.float32)
        if own and material in textures.PATTERNS:
            share = textures.sample(textures.pattern(material), x, y)[inside]
            other = mix(paint, (44, 24, 60), 0.62) if self.bright else mix(paint, PAPER, 0.78)
            colors = colors + (np.array(other, np.float32) - colors) * share[:, None]
        if material == "metal":
            paint = mix(paint, STEEL, 0.12)
            colors = np.array(paint, np.float32)
            up = np.zeros_like(inside, np.float32) if down is None else down
            facing = 0.62 * y[:, None] + 0.14 * np.sin(2.3 * x)[None, :] - 0.95 * up
            directions, lights = (np.array(values) for values in zip(*_CHROME, strict=True))
            light = light + np.interp(facing[inside], directions, lights).astype(np.float32)
            light = light + textures.sample(textures.relief("brushed"), x, y)[inside]
        else:
            name = part.relief or (relief if isinstance(part.paint, str) else "smooth")
            strength = 0.34 if material != "plain" else 0.85
            light = light + strength * textures.sample(textures.relief(name), x, y)[inside]
            if down is not None and across is not None:
                form = LIGHT[0] * across + LIGHT[1] * down
                light = light + (0.62 * part.form * form)[inside]
                if name == "gloss":
                    light = light + 0.9 * np.clip(form[inside] - 0.42, 0, 1)
        lit, dim = (np.array(mix(paint, *end), np.float32) for end in (((255, 253, 244), 0.86), ((34, 18, 58), 0.74)))
        if own and material in textures.PATTERNS:
            lit, dim = colors + (255 - colors) * 0.8, colors * 0.36
        amount = np.clip(np.abs(light), 0, 1)[:, None]
        colors = np.where(light[:, None] > 0, colors + (lit - colors) * amount, colors + (dim - colors) * amount)
        return self._styled(colors, part, inside, window)

    def _styled(self, colors: Field, part: Part, inside: Mask, window: tuple[slice, slice]) -> Field:
        if self.style == "sketch":
            strokes = _hatching(self.side, 1)[window][inside][:, None]
            dark = 1 - colors.mean(1, keepdims=True) / 255
            share = np.clip(0.30 + 0.60 * strokes + 2.25 * np.clip(dark - 0.72, 0, 1), 0, 1)
            sheet = np.array(SHEET, np.float32)
            return (sheet + (colors - sheet) * share).astype(np.float32)
        if self.style == "neon":
            keep = 0.34 if isinstance(part.paint, str) else 0.55
            wall = np.array(WALL, np.float32)
            return (wall + (colors - wall) * keep).astype(np.float32)
        return np.asarray(colors, np.float32)


def _luma(paint: RGB) -> float:
    return 0.3 * paint[0] + 0.59 * paint[1] + 0.11 * paint[2]


def _vivid(paint: RGB) -> RGB:
    """The colour as bright as it can be."""
    top = max(paint)
    return (round(paint[0] * 255 / top), round(paint[1] * 255 / top), round(paint[2] * 255 / top))


def _filled(outlines: Sequence[NDArray[np.float64]], size: tuple[int, int], line: float) -> tuple[Mask, Mask]:
    """The union of the outlines, and the same with a contour of width `line` around it."""
    inside = Image.new("L", size, 0)
    canvas = ImageDraw.Draw(inside)
    corners = [[(float(x), float(y)) for x, y in outline] for outline in outlines]
    for points in corners:
        canvas.polygon(points, fill=255)
    filled = np.asarray(inside) > 0
    if not line:
        return filled, filled
    whole = inside.copy()
    canvas, r = ImageDraw.Draw(whole), line
    for points in corners:
        canvas.line([*points, points[0], points[1]], fill=255, width=max(1, round(2 * line)))
        if len(points) <= 14:  # straight edges: the corners want joints
            for x, y in points:
                canvas.ellipse((x - r, y - r, x + r, y + r), fill=255)
        else:
            for x, y in points[::2]:
                canvas.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return filled, np.asarray(whole) > 0


def _slopes(inside: Mask, radius: float) -> tuple[Field, Field]:
    """How a pillow of this outline faces: up (> 0) or down, and left (> 0) or right; both -1..1."""
    height, width = inside.shape
    q = 4
    pad = math.ceil(2 * radius / q) + 1
    columns, rows = max(1, width // q), max(1, height // q)
    small = Image.fromarray(inside.astype(np.uint8) * 255).resize((columns, rows), Image.Resampling.BOX)
    # A part that is thinner than the radius is a thinner pillow.
    thick = math.sqrt(float(inside.sum())) * 0.30
    sigma = max(1.0, min(radius, thick) / q)
    padded = Image.new("L", (columns + 2 * pad, rows + 2 * pad), 0)
    padded.paste(small, (pad, pad))
    soft = np.asarray(padded.filter(ImageFilter.GaussianBlur(sigma)), np.float32) / 255
    slopes: list[Field] = []
    for axis in (0, 1):
        slope = np.gradient(soft, axis=axis) * sigma * 2.3
        slope = slope[pad : pad + rows, pad : pad + columns].astype(np.float32)
        large = Image.fromarray(slope).resize((width, height), Image.Resampling.BILINEAR)
        slopes.append(np.asarray(large, np.float32))
    return slopes[0], slopes[1]
