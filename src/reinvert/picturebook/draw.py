"""Drawing a scene: supersampled shapes, box-filtered, deterministic to the byte.

`draw(scene)` gives the picture, `thing_masks(scene)` each thing's coverage, and `true_edit(source, target)`
the edited picture with the exact mask of what an editor may touch: outside it both pictures are identical.

There are two levels of detail. Small pictures are `simple`: flat shapes, drawn here; they are the world of the bundled
model. From `FINE_SIZE` pixels on pictures are `fine`, with eyes, fur, shadows and places to look at, drawn by `fine`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from reinvert.errors import ReinvertError
from reinvert.picturebook.fine import Drawn, cover_worn
from reinvert.picturebook.fine import paint as paint_finely
from reinvert.picturebook.palette import HORIZON, INK, PALETTE, PAPER, RGB, SKY_AND_GROUND, mix
from reinvert.picturebook.scene import Scene, Thing
from reinvert.picturebook.shapes import (
    SHAPES,
    WORN,
    Ellipse,
    Paint,
    Point,
    Polygon,
    Primitive,
)

SIZE = 64
"""The side in pixels that the bundled model is trained on; any other can be drawn."""
SUPERSAMPLE = 4
FINE_SIZE = 128
"""The side from which on a picture is drawn in full detail, unless another detail is asked for."""

Detail: TypeAlias = Literal["simple", "fine"]
DETAILS: tuple[Detail, ...] = get_args(Detail)


def detail_of(size: int, detail: str | None = None) -> Detail:
    """The level of detail of a picture of `size` pixels: the one that is asked for, or the size's own."""
    if detail is None:
        return "fine" if size >= FINE_SIZE else "simple"
    known: dict[str, Detail] = {name: name for name in DETAILS}
    if detail not in known:
        raise ReinvertError(f"there is no detail {detail!r}; choose from {', '.join(DETAILS)}")
    return known[detail]


class Pen:
    """Draws primitives of one thing's local frame on a canvas of `side` pixels."""

    def __init__(self, thing: Thing, side: int) -> None:
        self.side = side
        self.scale = thing.size * side
        self.cx = thing.x * side
        self.cy = thing.ground * side - self.scale
        self.flip = -1.0 if thing.facing == "left" else 1.0

    def at(self, p: Point) -> Point:
        return self.cx + self.flip * p[0] * self.scale, self.cy + p[1] * self.scale

    def fill(self, canvas: ImageDraw.ImageDraw, part: Primitive, paint: int | RGB, grow: float = 0.0) -> None:
        """Fill one primitive, `grow` pixels larger on every side (for outlines)."""
        if isinstance(part, Ellipse):
            x, y = self.at((part.x, part.y))
            rx, ry = part.rx * self.scale + grow, part.ry * self.scale + grow
            canvas.ellipse((x - rx, y - ry, x + rx, y + ry), fill=paint)
        elif isinstance(part, Polygon):
            points = [self.at(p) for p in part.points]
            canvas.polygon(points, fill=paint)
            if grow:
                self._stroke(canvas, [*points, points[0]], 2 * grow, paint)
        else:
            points = [self.at(p) for p in part.points]
            self._stroke(canvas, points, part.width * self.scale + 2 * grow, paint)

    @staticmethod
    def _stroke(canvas: ImageDraw.ImageDraw, points: list[Point], width: float, paint: int | RGB) -> None:
        canvas.line(points, fill=paint, width=round(width))
        r = width / 2
        for x, y in points:
            canvas.ellipse((x - r, y - r, x + r, y + r), fill=paint)


def _material(thing: Thing, pen: Pen, base: RGB) -> Image.Image:
    """The thing's own surface, anchored to the thing so that moving it moves its pattern."""
    side = pen.side
    if thing.material == "plain":
        return Image.new("RGB", (side, side), base)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    u, v = (x - pen.cx) / side, (y - pen.cy) / side
    bright = 0.3 * base[0] + 0.59 * base[1] + 0.11 * base[2] > 195
    other = mix(base, INK, 0.5) if bright else mix(base, PAPER, 0.72)
    if thing.material == "striped":
        share = ((u * pen.flip + 0.5 * v) * 11.0 % 1.0 < 0.5).astype(np.float32)
    elif thing.material == "dotted":
        pu, pv = (u * 7.0 + 0.5) % 1.0 - 0.5, (v * 7.0 + 0.5) % 1.0 - 0.5
        share = (pu**2 + pv**2 < 0.27**2).astype(np.float32)
    else:
        wave = 0.5 + 0.5 * np.sin(v / thing.size * 5.0 + 0.5)
        dark, light = np.array(mix(base, (20, 24, 40), 0.48)), np.array(mix(base, PAPER, 0.85))
        return Image.fromarray((dark + (light - dark) * wave[..., None]).astype(np.uint8))
    surface = np.array(base) + (np.array(other) - np.array(base)) * share[..., None]
    return Image.fromarray(surface.astype(np.uint8))


def _styled(paint: RGB, style: str) -> RGB:
    if style == "sketch":
        return mix(paint, PAPER, 0.5)
    if style == "neon":
        return mix(paint, (14, 10, 34), 0.6)
    return paint


def _outline(side: int) -> float:
    return max(2.0, 0.017 * side)


def _edge(base: RGB, style: str) -> RGB:
    return {"sketch": (70, 70, 80), "neon": mix(base, PAPER, 0.25)}.get(style, mix(base, INK, 0.72))


def draw_thing(image: Image.Image, thing: Thing, style: str) -> Image.Image:
    """Draw a thing on the canvas and return its coverage (mode "L", 255 = covered, outline included)."""
    side = image.width
    pen, shape, base = Pen(thing, side), SHAPES[thing.kind], PALETTE[thing.color]
    outline, edge = _outline(side), _edge(base, style)
    shades: dict[str, RGB] = {"dark": mix(base, INK, 0.5), "light": mix(base, PAPER, 0.6)}

    def shade(paint: Paint) -> RGB:
        return shades[paint] if isinstance(paint, str) else paint

    canvas, cover = ImageDraw.Draw(image), Image.new("L", image.size, 0)
    cover_canvas = ImageDraw.Draw(cover)
    inside = Image.new("L", image.size, 0)
    inside_canvas = ImageDraw.Draw(inside)
    for part in shape.body:
        pen.fill(canvas, part, edge, outline)
        pen.fill(cover_canvas, part, 255, outline)
        pen.fill(inside_canvas, part, 255)
    surface = _material(thing, pen, base)
    if style != "drawn":
        wash = Image.new("RGB", image.size, PAPER if style == "sketch" else (14, 10, 34))
        surface = Image.blend(surface, wash, 0.5 if style == "sketch" else 0.6)
    image.paste(surface, (0, 0), inside)
    for part, paint in shape.details:
        pen.fill(canvas, part, _styled(shade(paint), style))
        pen.fill(cover_canvas, part, 255)
    draw_worn(canvas, cover_canvas, thing, style, side)
    return cover


def draw_worn(canvas: ImageDraw.ImageDraw, cover: ImageDraw.ImageDraw, thing: Thing, style: str, side: int) -> None:
    """Draw what a thing wears, if anything, on a canvas and on a coverage of `side` pixels."""
    if not thing.wearing:
        return
    pen, outline, edge = Pen(thing, side), _outline(side), _edge(PALETTE[thing.color], style)
    hat_x, hat_y = SHAPES[thing.kind].hat
    hat_pen = Pen(replace(thing, x=thing.x + pen.flip * hat_x * thing.size), side)
    hat_pen.cy += hat_y * pen.scale
    for grow in (outline, 0.0):
        for part, paint in WORN[thing.wearing]:
            assert not isinstance(paint, str)
            rim = mix(paint, INK, 0.6) if style == "drawn" else edge
            hat_pen.fill(canvas, part, rim if grow else _styled(paint, style), grow)
            hat_pen.fill(cover, part, 255, grow)


def _gradient(top: RGB, bottom: RGB, height: int, width: int) -> NDArray[np.uint8]:
    t = np.linspace(0, 1, height)[:, None]
    rows = np.array(top) * (1 - t) + np.array(bottom) * t
    return np.repeat(rows[:, None], width, axis=1).astype(np.uint8)


def draw_background(background: str, seed: int, side: int) -> Image.Image:
    """Sky over ground, the horizon at the same height everywhere, with a few small details moved by `seed`."""
    rng = Random(f"{background} {seed}")
    horizon = round(HORIZON * side)
    sky_top, sky_low, ground_top, ground_low = SKY_AND_GROUND[background]
    sky = _gradient(sky_top, sky_low, horizon, side)
    ground = _gradient(ground_top, ground_low, side - horizon, side)
    image = Image.fromarray(np.concatenate([sky, ground]))
    canvas, unit = ImageDraw.Draw(image), side / 64

    def blob(x: int | float, y: int | float, rx: int | float, ry: int | float, paint: RGB) -> None:
        canvas.ellipse(((x - rx) * unit, (y - ry) * unit, (x + rx) * unit, (y + ry) * unit), fill=paint)

    if background == "grass":
        for x, y, r in ((9, 8, 4), (14, 6, 5), (20, 8, 4)):
            blob(x, y, r + 2, r, PAPER)
        for i in range(8):
            x, y = i * 8 + rng.uniform(1, 7), rng.uniform(43, 62)
            tuft = [(x - 1.6, y), (x + 1.6, y), (x + rng.uniform(-1.5, 1.5), y - 4.5)]
            canvas.polygon([(a * unit, b * unit) for a, b in tuft], fill=(44, 118, 44))
    elif background == "sand":
        blob(54, 9, 6, 6, (255, 246, 176))
        for i in range(7):
            blob(i * 9 + rng.uniform(1, 8), rng.uniform(42, 62), 2.4, 1.2, (196, 152, 86))
    elif background == "sea":
        for j in range(4):
            y, phase = 42 + j * 6, rng.uniform(0, 2 * math.pi)
            crest = [(x * unit, (y + 1.2 * math.sin(x / 3 + phase)) * unit) for x in range(0, 66, 2)]
            canvas.line(crest, fill=(140, 206, 238), width=round(1.4 * unit))
    elif background == "night":
        blob(54, 10, 6, 6, (252, 246, 206))
        blob(51, 8.5, 5, 5, mix(sky_top, sky_low, 0.22))
        for i in range(8):
            blob(i * 6 + rng.uniform(1, 5), rng.uniform(3, 30), 1.1, 1.1, (255, 255, 228))
    elif background == "snow":
        for i in range(10):
            blob(i * 6.4 + rng.uniform(0, 6), rng.uniform(3, 34), 1.5, 1.5, PAPER)
    else:
        canvas.rectangle((6 * unit, 6 * unit, 22 * unit, 24 * unit), fill=(150, 98, 58))
        canvas.rectangle((8 * unit, 8 * unit, 20 * unit, 22 * unit), fill=(170, 216, 246))
        canvas.rectangle((13.2 * unit, 8 * unit, 14.8 * unit, 22 * unit), fill=(150, 98, 58))
        for y in (44, 52):
            canvas.rectangle((0, y * unit, side, (y + 1) * unit), fill=(122, 76, 42))
    return image


def _canvas(scene: Scene, side: int) -> tuple[Image.Image, list[Image.Image]]:
    image = draw_background(scene.background, scene.seed, side)
    if scene.style == "sketch":
        image = Image.blend(image, Image.new("RGB", image.size, (252, 250, 244)), 0.74)
    elif scene.style == "neon":
        image = Image.blend(image, Image.new("RGB", image.size, (14, 10, 34)), 0.74)
    return image, [draw_thing(image, thing, scene.style) for thing in scene.things]


def draw(scene: Scene, size: int = SIZE, detail: Detail | None = None) -> Image.Image:
    """The scene's picture, RGB, `size` x `size` pixels; `detail` is that of the size unless given."""
    if detail_of(size, detail) == "fine":
        return Image.fromarray(paint_finely(scene, size).picture)
    image, _ = _canvas(scene, size * SUPERSAMPLE)
    return image.resize((size, size), Image.Resampling.BOX)


def _touched(mask: Image.Image | NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Pixels of the small picture that any supersampled pixel of the mask falls into."""
    array = np.asarray(mask) > 0
    return np.asarray(array.reshape(size, SUPERSAMPLE, size, SUPERSAMPLE).any(axis=(1, 3)))


def thing_masks(scene: Scene, size: int = SIZE, detail: Detail | None = None) -> list[NDArray[np.bool_]]:
    """For each thing, the pixels it touches (what it wears included, its shadow not), bool [size, size]."""
    if detail_of(size, detail) == "fine":
        return [cover > 0 for cover in paint_finely(scene, size).covers]
    _, covers = _canvas(scene, size * SUPERSAMPLE)
    return [_touched(cover, size) for cover in covers]


def worn_masks(scene: Scene, size: int = SIZE, detail: Detail | None = None) -> list[NDArray[np.bool_]]:
    """For each thing, the pixels that what it wears touches (none where it wears nothing), bool [size, size]."""
    if detail_of(size, detail) == "fine":
        return [cover > 0 for cover in cover_worn(scene, size)]
    side, masks = size * SUPERSAMPLE, list[NDArray[np.bool_]]()
    for thing in scene.things:
        cover, spare = Image.new("L", (side, side), 0), Image.new("RGB", (side, side))
        draw_worn(ImageDraw.Draw(spare), ImageDraw.Draw(cover), thing, scene.style, side)
        masks.append(_touched(cover, size))
    return masks


def true_edit(
    source: Scene, target: Scene, size: int = SIZE, detail: Detail | None = None
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """The true edited picture and the mask of the edit (bool [size, size], True = edited).

    The mask is the region an edit is *about*: the silhouettes, before and after, of the things that differ; all
    but the unchanged things when the background differs; everything when the style differs. Every pixel that
    differs is inside it (the shadow of a thing that goes, say), so outside it the two pictures are identical.
    """
    if detail_of(size, detail) == "fine":
        return _fine_edit(source, target, paint_finely(source, size), paint_finely(target, size))
    side = size * SUPERSAMPLE
    before, source_covers = _canvas(source, side)
    after, target_covers = _canvas(target, side)
    mask = (np.asarray(before) != np.asarray(after)).any(axis=-1)
    unchanged = set(source.things) & set(target.things)
    if source.style != target.style:
        mask[:] = True
    elif source.background != target.background or source.seed != target.seed:
        kept = np.zeros_like(mask)
        for thing, cover in zip(source.things, source_covers, strict=True):
            kept |= (np.asarray(cover) > 0) & (thing in unchanged)
        mask |= ~kept
    for scene, covers in ((source, source_covers), (target, target_covers)):
        for thing, cover in zip(scene.things, covers, strict=True):
            if thing not in unchanged:
                mask |= np.asarray(cover) > 0
    picture = after.resize((size, size), Image.Resampling.BOX)
    return picture, _touched(mask, size)


def _fine_edit(source: Scene, target: Scene, before: Drawn, after: Drawn) -> tuple[Image.Image, NDArray[np.bool_]]:
    """`true_edit` of two pictures in full detail, whose pixels are compared as they are shown."""
    mask = (before.picture != after.picture).any(axis=-1)
    unchanged = set(source.things) & set(target.things)
    if source.style != target.style:
        mask[:] = True
    elif source.background != target.background or source.seed != target.seed:
        kept = np.zeros_like(mask)
        for thing, cover in zip(source.things, before.covers, strict=True):
            kept |= (cover == 255) & (thing in unchanged)
        mask |= ~kept
    for scene, drawn in ((source, before), (target, after)):
        for thing, cover in zip(scene.things, drawn.covers, strict=True):
            if thing not in unchanged:
                mask |= cover > 0
    return Image.fromarray(after.picture), mask
