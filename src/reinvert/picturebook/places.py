"""picturebook's places in full detail: what stands behind the things in drawings of 128 pixels and more.

Every place has its own layout, the horizon where it is in every other; `seed` moves small things only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from reinvert.picturebook.palette import HORIZON, PAPER, RGB, SKY_AND_GROUND, Number, Point, mix


class Place:
    """A canvas of `side` pixels; lengths are in 64ths of it."""

    def __init__(self, background: str, seed: int, side: int) -> None:
        self.rng, self.side, self.unit = Random(f"{background} {seed}"), side, side / 64
        sky_top, sky_low, ground_top, ground_low = SKY_AND_GROUND[background]
        horizon = round(HORIZON * side)
        rows = np.concatenate([_ramp(sky_top, sky_low, horizon), _ramp(ground_top, ground_low, side - horizon)])
        self.image = Image.fromarray(np.repeat(rows[:, None], side, axis=1))
        self.canvas = ImageDraw.Draw(self.image)
        self.horizon = 64 * HORIZON

    def disc(self, x: Number, y: Number, rx: Number, ry: Number | None = None, *, fill: RGB) -> None:
        u, ry = self.unit, rx if ry is None else ry
        self.canvas.ellipse(((x - rx) * u, (y - ry) * u, (x + rx) * u, (y + ry) * u), fill=fill)

    def shape(self, points: Sequence[Point], fill: RGB) -> None:
        self.canvas.polygon([(x * self.unit, y * self.unit) for x, y in points], fill=fill)

    def box(self, left: Number, top: Number, right: Number, bottom: Number, fill: RGB) -> None:
        u = self.unit
        self.canvas.rectangle((left * u, top * u, right * u - 1, bottom * u - 1), fill=fill)

    def line(self, points: Sequence[Point], width: Number, fill: RGB) -> None:
        scaled = [(x * self.unit, y * self.unit) for x, y in points]
        self.canvas.line(scaled, fill=fill, width=max(1, round(width * self.unit)), joint="curve")

    def below(self, height: Callable[[Number], Number], fill: RGB, bottom: Number = 64.0) -> None:
        """Fill from a curve down to `bottom`."""
        line = [(x, height(x)) for x in range(-1, 66)]
        self.shape([*line, (65, bottom), (-1, bottom)], fill)

    def shaded(self, height: Callable[[Number], Number], top: RGB, low: RGB, bottom: Number = 64.0) -> None:
        """The same in a gradient, from the highest point of the curve down."""
        line = [(x, height(x)) for x in range(-1, 66)]
        mask = Image.new("L", (self.side, self.side), 0)
        outline = [*line, (65.0, bottom), (-1.0, bottom)]
        ImageDraw.Draw(mask).polygon([(x * self.unit, y * self.unit) for x, y in outline], fill=255)
        first = max(0, round(min(y for _, y in line) * self.unit))
        last = min(self.side, round(bottom * self.unit))
        rows = np.repeat(_ramp(top, low, last - first)[:, None], self.side, axis=1)
        self.image.paste(Image.fromarray(rows), (0, first), mask.crop((0, first, self.side, last)))

    def glow(self, x: Number, y: Number, r: Number, fill: RGB, strength: Number) -> None:
        """Soft light around a point, drawn small and enlarged."""
        small = 64
        yy, xx = np.mgrid[0:small, 0:small].astype(np.float32) + 0.5
        distance = np.hypot(xx - x, yy - y) / r
        share = np.clip(1 - distance, 0, 1) ** 2 * strength * 255
        mask = Image.fromarray(share.astype(np.uint8)).resize(self.image.size, Image.Resampling.BILINEAR)
        self.image.paste(Image.new("RGB", self.image.size, fill), (0, 0), mask)

    def cloud(self, x: Number, y: Number, size: Number, light: RGB = PAPER, shade: RGB = (206, 222, 240)) -> None:
        puffs = ((-1.5, 0.15, 0.62), (-0.75, -0.35, 0.85), (0.2, -0.6, 1.0), (1.05, -0.15, 0.8), (1.7, 0.2, 0.5))
        for dx, dy, r in puffs:
            self.disc(x + dx * size, y + dy * size + 0.18 * size, r * size, 0.86 * r * size, fill=shade)
        self.box(x - 1.6 * size, y + 0.1 * size, x + 1.8 * size, y + 0.68 * size, shade)
        for dx, dy, r in puffs:
            self.disc(x + dx * size, y + dy * size - 0.06 * size, 0.93 * r * size, 0.8 * r * size, fill=light)

    def tuft(self, x: Number, y: Number, size: Number, paint: RGB, light: RGB) -> None:
        for lean, high, fill in ((-0.75, 0.8, paint), (0.7, 0.85, paint), (-0.1, 1.15, light)):
            tip = (x + lean * size, y - high * size * 1.6)
            self.shape([(x - 0.26 * size, y), (x + 0.26 * size, y), tip], fill)

    def bird(self, x: Number, y: Number, size: Number, fill: RGB) -> None:
        self.line([(x - size, y - 0.35 * size), (x - 0.45 * size, y - 0.5 * size), (x, y),
            (x + 0.45 * size, y - 0.5 * size),
                   (x + size, y - 0.35 * size)], 0.35, fill)  # fmt: skip

    def fir(self, x: Number, y: Number, size: Number, paint: RGB, snow: RGB | None = None) -> None:
        self.box(x - 0.12 * size, y - 0.3 * size, x + 0.12 * size, y, (96, 74, 66))
        for k in range(3):
            low, wide = y - 0.25 * size - 0.55 * k * size, (0.85 - 0.2 * k) * size
            top = (x, low - 1.0 * size)
            self.shape([(x - wide, low), (x + wide, low), top], paint)
            if snow:
                self.shape([(x - 0.42 * wide, low - 0.58 * size), (x + 0.05 * wide, low - 0.42 * size),
                            (x + 0.42 * wide, low - 0.58 * size), top], snow)  # fmt: skip


def _ramp(top: RGB, low: RGB, height: int) -> NDArray[np.uint8]:
    t = np.linspace(0, 1, max(height, 1))[:, None]
    return (np.array(top) * (1 - t) + np.array(low) * t).astype(np.uint8)


def _grass(place: Place) -> None:
    rng, h = place.rng, place.horizon
    shift = rng.uniform(-1.2, 1.2)
    place.glow(51, 8, 22, (255, 252, 226), 0.85)
    place.cloud(13 + shift, 9, 3.6)
    place.cloud(44 - 0.8 * shift, 15.5, 2.1)
    place.bird(31 + shift, 8, 1.3, (96, 112, 140))
    place.shaded(lambda x: h - 5.2 - 3.2 * math.sin(x / 11.5 + 0.6), (170, 208, 206), (150, 204, 168))
    place.shaded(lambda x: h - 2.6 - 2.2 * math.sin(x / 8.6 + 2.9), (138, 200, 132), (112, 186, 96))
    for x, r in ((5, 1.3), (8, 1.0), (45, 1.2), (48.5, 1.5), (58, 1.1)):
        y = h - 2.6 - 2.2 * math.sin(x / 8.6 + 2.9) + 0.4
        place.disc(x, y, r, 0.9 * r, fill=(88, 160, 92))
        place.disc(x - 0.3, y - 0.3, 0.6 * r, 0.5 * r, fill=(112, 180, 108))
    place.shaded(lambda x: h + 0.4 * math.sin(x / 6), (128, 202, 92), (66, 148, 60))
    for j in range(3):
        y = h + 4 + 6.6 * j
        for k in range(7):
            x = 10 * k + rng.uniform(-4, 4)
            place.disc(
                x, y + rng.uniform(-1.5, 1.5), rng.uniform(3, 6), 0.45, fill=mix((126, 200, 92), (80, 164, 70), j / 2.2)
            )
    for i in range(26):
        x, y = i * 2.5 + rng.uniform(-1, 1), h + 2 + (23.5 * (i * 0.618 % 1.0)) + rng.uniform(-0.6, 0.6)
        grow = 0.55 + 0.9 * (y - h) / (64 - h)
        place.tuft(x, y, 1.3 * grow, (46, 126, 50), (104, 186, 74))
    for i in range(11):
        x, y = 6 * i + rng.uniform(0, 5), h + 4 + (21 * ((i * 0.382 + 0.2) % 1.0)) + rng.uniform(-0.5, 0.5)
        r = 0.34 + 0.36 * (y - h) / (64 - h)
        petal = ((255, 255, 255), (255, 226, 96), (250, 178, 214))[i % 3]
        for k in range(5):
            a = 2 * math.pi * k / 5
            place.disc(x + 1.05 * r * math.cos(a), y + 0.9 * r * math.sin(a), 0.8 * r, fill=petal)
        place.disc(x, y, 0.65 * r, fill=(244, 158, 40) if i % 3 != 1 else (190, 110, 30))


def _sand(place: Place) -> None:
    rng, h = place.rng, place.horizon
    place.glow(54, 9, 26, (255, 246, 186), 0.95)
    place.disc(54, 9, 5.2, fill=(255, 240, 150))
    place.disc(54, 9, 4.5, fill=(255, 248, 190))
    shift = rng.uniform(-1.5, 1.5)
    for x, y, w in ((14 + shift, 10, 8), (24 + shift, 13.4, 6), (38 - shift, 6, 5)):
        place.disc(x, y, w, 0.75, fill=(255, 222, 190))
        place.disc(x + 2, y - 0.8, 0.55 * w, 0.7, fill=(255, 232, 206))
    place.shaded(lambda x: h - 2.4 - 3.6 * math.exp(-(((x - 14) / 11) ** 2)), (242, 204, 150), (232, 188, 128))
    place.shape([(14, h - 6.1), (19, h - 3), (27, h + 1), (13, h + 1), (16, h - 2.5)], (220, 172, 112))
    place.shaded(lambda x: h - 1.2 - 4.2 * math.exp(-(((x - 50) / 13) ** 2)), (246, 212, 152), (232, 190, 124))
    place.shape([(50, h - 5.3), (56, h - 3), (66, h - 0.2), (66, h + 2), (47, h + 2), (52, h - 2)], (224, 178, 114))
    for x, y, s in ((6.5, h + 0.4, 1.0), (58.5, h - 0.2, 0.8)):  # cacti, far away
        green, lit = (92, 142, 92), (126, 174, 112)
        place.disc(x, y - 3.2 * s, 0.75 * s, 3.2 * s, fill=green)
        place.line([(x, y - 2.4 * s), (x - 1.8 * s, y - 2.6 * s), (x - 1.8 * s, y - 4.2 * s)], 0.8 * s, green)
        place.line([(x, y - 3.2 * s), (x + 1.7 * s, y - 3.4 * s), (x + 1.7 * s, y - 5.0 * s)], 0.8 * s, green)
        place.line([(x - 0.2 * s, y - 5.6 * s), (x - 0.2 * s, y - 0.8 * s)], 0.3 * s, lit)
    place.shaded(lambda x: h + 0.6 + 0.7 * math.sin(x / 9 + 1), (242, 214, 152), (210, 168, 98))
    for j in range(6):
        y, phase = h + 4.2 + 3.9 * j, rng.uniform(0, 6.28)
        for start in (rng.uniform(-4, 10), rng.uniform(28, 40)):
            long = rng.uniform(14, 24)
            wave = [(start + long * k / 12, y + 0.55 * math.sin(k * 0.9 + phase)) for k in range(13)]
            place.line([(a, b + 0.35) for a, b in wave], 0.5, (248, 226, 172))
            place.line(wave, 0.4, (204, 162, 96))
    for i in range(12):
        x, y = i * 5.6 + rng.uniform(0, 4), h + 5 + 21 * ((i * 0.618 + 0.1) % 1.0)
        r = rng.uniform(0.45, 0.95)
        place.disc(x + 0.2, y + 0.25, 1.25 * r, 0.7 * r, fill=(184, 140, 82))
        place.disc(x, y, 1.2 * r, 0.68 * r, fill=((206, 170, 120), (196, 156, 112), (226, 200, 160))[i % 3])
        place.disc(x - 0.25 * r, y - 0.2 * r, 0.5 * r, 0.25 * r, fill=(244, 226, 190))
    x, y = rng.uniform(5, 11), 60.0  # a shell
    place.disc(x, y, 1.9, 1.5, fill=(190, 120, 100))
    place.disc(x, y - 0.15, 1.7, 1.3, fill=(250, 214, 196))
    for k in range(-2, 3):
        place.line([(x, y + 1.0), (x + 0.62 * k, y - 1.1)], 0.22, (222, 152, 132))


def _sea(place: Place) -> None:
    rng, h = place.rng, place.horizon
    shift = rng.uniform(-1.2, 1.2)
    place.glow(50, 10, 20, (255, 252, 232), 0.8)
    place.cloud(12 + shift, 10, 3.0)
    place.cloud(47 - shift, 19, 2.2)
    for x, y, s in ((30 + shift, 9, 1.7), (36 + shift, 12.5, 1.3)):
        place.bird(x, y, s, (88, 108, 138))
    place.below(
        lambda x: h - 3.4 * math.exp(-(((x - 56) / 5.5) ** 4)) - 1.6 * math.exp(-(((x - 50) / 3.5) ** 2)),
        (126, 172, 168),
        h + 1,
    )
    place.below(lambda x: h - 0.9 * math.exp(-(((x - 55) / 7.5) ** 4)), (226, 214, 172), h + 1)
    place.box(0, h, 64, 64, (40, 140, 196))
    rows = 7
    for j in range(rows):
        t = j / (rows - 1)
        y, high, long = h + 24.5 * t**1.25, 0.35 + 1.15 * t, 5.5 + 7.5 * t
        phase = rng.uniform(0, 1)

        def crest(x: Number, y: Number = y, high: Number = high, long: Number = long, phase: Number = phase) -> float:
            u = (x / long + phase) % 1.0
            return y + high * (1.6 * abs(u - 0.5) ** 1.3 * 2 - 0.6)  # pointed tops, round troughs

        top, low = mix((64, 166, 212), (24, 100, 172), t), mix((40, 140, 196), (16, 78, 150), t)
        line = [(x / 2, crest(x / 2)) for x in range(-2, 132)]
        place.shape([*line, (66, 66), (-1, 66)], top)
        place.shape([*((x, y0 + 1.0 + 1.1 * t) for x, y0 in line), (66, 66), (-1, 66)], low)
        place.line(line, 0.28 + 0.38 * t, (226, 244, 252))
        for _ in range(4):
            x = rng.uniform(0, 64)
            place.line(
                [(x, crest(x) + 2.0 + 1.3 * t), (x + 1.5 + 2 * t, crest(x + 1.5) + 2.0 + 1.3 * t)],
                0.2 + 0.22 * t,
                (150, 212, 238),
            )


def _night(place: Place) -> None:
    rng, h = place.rng, place.horizon
    place.glow(32, h, 46, (86, 82, 156), 0.55)
    place.glow(53, 11, 20, (190, 196, 236), 0.62)
    sky = Image.new("L", place.image.size, 0)
    u = place.unit
    moon = ImageDraw.Draw(sky)
    moon.ellipse((47 * u, 5 * u, 59 * u, 17 * u), fill=255)
    moon.ellipse((43.6 * u, 3.2 * u, 54.4 * u, 14.0 * u), fill=0)
    place.image.paste(Image.new("RGB", place.image.size, (254, 244, 200)), (0, 0), sky)
    for x, y, r in ((56.2, 12.6, 0.8), (53.6, 15.2, 0.6), (57.4, 9.4, 0.5)):
        place.disc(x, y, r, fill=(232, 214, 160))
    for i in range(34):
        x = 64 * ((i * 0.7548777 + rng.uniform(-0.015, 0.015)) % 1.0)
        y = 2 + 29 * ((i * 0.5698403) % 1.0) + rng.uniform(-1, 1)
        if 44 < x < 62 and y < 19:
            continue
        if i % 5:
            place.disc(x, y, rng.uniform(0.22, 0.42), fill=mix((160, 170, 220), (255, 252, 226), rng.random()))
        else:
            r = rng.uniform(1.2, 1.9)
            star = [(x + (r if k % 2 == 0 else 0.24 * r) * math.sin(k * math.pi / 4),
                     y - (r if k % 2 == 0 else 0.24 * r) * math.cos(k * math.pi / 4)) for k in range(8)]  # fmt: skip
            place.shape(star, (255, 250, 214))
    place.below(lambda x: h - 4.6 - 3.0 * math.sin(x / 10.5 + 0.4), (44, 48, 100))
    place.below(lambda x: h - 2.0 - 1.9 * math.sin(x / 7.4 + 3.2), (34, 40, 82))
    for x, s in ((3, 1.5), (6.2, 2.0), (9.6, 1.4), (55, 1.6), (58.4, 2.1), (61.6, 1.5)):
        place.fir(x, h + 0.4, s, (24, 32, 62))
    place.shaded(lambda x: h + 0.5 * math.sin(x / 7 + 1), (48, 62, 92), (20, 28, 50))
    for i in range(20):
        x, y = i * 3.3 + rng.uniform(-1, 1), h + 2.5 + 22.5 * ((i * 0.618) % 1.0)
        grow = 0.55 + 0.8 * (y - h) / (64 - h)
        place.tuft(x, y, 1.2 * grow, (20, 32, 52), (66, 88, 116))
    for i in range(6):
        x, y = i * 10 + rng.uniform(2, 9), h + 4 + rng.uniform(0, 20)
        place.glow(x, y, 2.6, (236, 240, 140), 0.5)
        place.disc(x, y, 0.32, fill=(252, 252, 190))


def _snow(place: Place) -> None:
    rng, h = place.rng, place.horizon
    ridge = [
        (-1, h - 5),
        (7, h - 13),
        (13, h - 8),
        (20, h - 17),
        (29, h - 7.5),
        (37, h - 12),
        (44, h - 6.5),
        (53, h - 15.5),
        (60, h - 9),
        (65, h - 11),
    ]
    place.shape([*ridge, (65, h + 1), (-1, h + 1)], (160, 178, 204))
    for i in (1, 3, 5, 7):
        (ax, ay), (x, y), (bx, by) = ridge[i - 1 : i + 2]
        left, right = (x + 0.42 * (ax - x), y + 0.42 * (ay - y)), (x + 0.42 * (bx - x), y + 0.42 * (by - y))
        place.shape([(x, y), left, (x - 0.8, y + 2.6), (x + 0.5, y + 4.2), (x + 1.4, y + 2.4), right], (242, 246, 252))
        place.shape([(x, y), (x + 0.5, y + 4.2), (x + 1.4, y + 2.4), right], (216, 226, 242))
    place.shaded(lambda x: h - 2.6 - 1.9 * math.sin(x / 9.5 + 0.8), (224, 232, 244), (236, 242, 250))
    for x, s in ((3.5, 2.4), (7.5, 3.0), (12, 2.2), (49.5, 2.2), (54, 2.9), (58.2, 2.3), (61.8, 2.7)):
        place.fir(x, h + 0.2 - 1.0 * math.sin(x / 9.5 + 0.8), s, (84, 124, 122), (240, 246, 252))
    place.shaded(lambda x: h + 0.6 + 0.9 * math.sin(x / 8 + 2.4), (250, 252, 255), (218, 230, 244))
    for j in range(4):
        x, y, w = rng.uniform(-4, 14) + 15 * j, h + 6 + 5.4 * j, rng.uniform(12, 20)
        drift = [(x + w * k / 10, y - 1.1 * math.sin(math.pi * k / 10)) for k in range(11)]
        place.shape([*drift, (x + w, y + 0.5), (x, y + 0.5)], (255, 255, 255))
        place.shape([(x, y + 0.4), (x + w, y + 0.4), (x + 0.7 * w, y + 1.3), (x + 0.25 * w, y + 1.2)], (204, 218, 238))
    for i in range(14):
        x, y = i * 4.7 + rng.uniform(0, 3), h + 3 + 22 * ((i * 0.618) % 1.0)
        place.shape([(x, y - 0.6), (x + 0.2, y), (x, y + 0.6), (x - 0.2, y)], (178, 204, 236))
    for i in range(52):
        x = 64 * ((i * 0.7548777 + rng.uniform(-0.02, 0.02)) % 1.0)
        y = 1 + 41 * ((i * 0.5698403) % 1.0) + rng.uniform(-0.8, 0.8)
        r = (0.34, 0.55, 0.8)[i % 3]
        if i % 13 == 0:
            for k in range(3):
                a = math.pi * (k / 3 + 0.5)
                place.line(
                    [(x - 1.7 * math.cos(a), y - 1.7 * math.sin(a)), (x + 1.7 * math.cos(a), y + 1.7 * math.sin(a))],
                    0.42,
                    PAPER,
                )
            place.disc(x, y, 0.6, fill=PAPER)
        else:
            place.disc(x, y, r, fill=(236, 242, 250) if i % 3 == 0 else PAPER)


def _room(place: Place) -> None:
    rng, h = place.rng, place.horizon
    for k in range(11):
        place.box(6 * k + 0.2, 0, 6 * k + 3.2, h, (250, 234, 208))
        for y in range(4, 36, 8):
            x = 6 * k + 4.7
            place.disc(x, y + 4 * (k % 2), 0.55, fill=(232, 186, 150))
            place.disc(x, y + 4 * (k % 2) + 0.9, 0.22, 0.5, fill=(196, 184, 136))
    place.glow(13, 14, 30, (255, 250, 226), 0.55)
    # The window, with hills behind it and curtains before it.
    place.box(4.6, 4.4, 23.4, 25.2, (120, 78, 46))
    place.box(5.1, 4.9, 22.9, 24.5, (166, 112, 68))
    for top, bottom, sky in ((6.6, 11, (158, 208, 246)), (11, 16, (182, 222, 248)), (16, 22.6, (208, 234, 250))):
        place.box(6.8, top, 21.2, bottom, sky)
    place.disc(11, 10.4, 2.2, 1.1, fill=PAPER)
    place.disc(13, 9.8, 1.6, 1.0, fill=PAPER)
    place.shape(
        [(6.8, 19.4), (10, 18.2), (14, 19.2), (18, 17.6), (21.2, 18.8), (21.2, 22.6), (6.8, 22.6)], (130, 194, 116)
    )
    place.box(13.4, 6.4, 14.6, 22.8, (186, 130, 82))
    place.box(6.6, 13.6, 21.4, 14.6, (186, 130, 82))
    place.box(3.6, 24.4, 24.4, 26.0, (186, 130, 82))
    place.box(3.6, 25.5, 24.4, 26.0, (132, 88, 52))
    for side in (-1, 1):
        x = 14 + side * 8.6
        cloth, fold = (214, 92, 92), (176, 62, 70)
        edge = [(x + side * 2.4, 3.4), (x - side * 2.8, 3.4), (x - side * 1.7, 10), (x + side * 0.4, 17),
            (x - side * 0.2, 25.4),
                (x + side * 2.6, 25.4)]  # fmt: skip
        place.shape(edge, cloth)
        for d in (0.5, 1.5):
            place.line(
                [
                    (x + side * (d - 1), 3.6),
                    (x + side * (d - 0.2), 11),
                    (x + side * (d + 0.5), 17),
                    (x + side * d, 25.2),
                ],
                0.4,
                fold,
            )
        place.box(min(x + side * 0.2, x + side * 2.5), 16.4, max(x + side * 0.2, x + side * 2.5), 17.6, (250, 206, 90))
    place.box(1.6, 2.4, 26.4, 3.5, (132, 88, 52))
    for x in (1.6, 26.4):
        place.disc(x, 2.95, 0.9, fill=(250, 206, 90))
    # A picture and a shelf with books and a plant.
    place.box(36.5, 6.5, 46.5, 15.5, (196, 142, 66))
    place.box(37.1, 7.1, 45.9, 14.9, (240, 196, 100))
    place.box(37.9, 7.9, 45.1, 14.1, (200, 226, 240))
    place.shape(
        [(37.9, 14.1), (37.9, 12.2), (40.6, 9.6), (42.6, 11.8), (43.6, 11.0), (45.1, 12.4), (45.1, 14.1)],
        (120, 150, 190),
    )
    place.disc(43.6, 9.3, 0.8, fill=(250, 206, 90))
    x = 49.4
    books = ((212, 82, 80), (72, 128, 190), (246, 196, 84), (96, 160, 110), (152, 96, 178))
    for k in range(5):
        w, high = 1.2 + 0.25 * ((k * 7) % 3), 4.4 + 0.6 * ((k * 5) % 3)
        place.box(x, 24.4 - high, x + w, 24.4, mix(books[k], (40, 30, 40), 0.35))
        place.box(x + 0.15, 24.6 - high, x + w - 0.15, 24.4, books[k])
        place.box(x + 0.15, 25.4 - high, x + w - 0.15, 25.8 - high, (250, 238, 206))
        x += w + 0.08
    place.shape([(57.8, 21.4), (61.4, 21.4), (60.9, 24.4), (58.3, 24.4)], (206, 112, 70))
    for lean, high in ((-2.2, 3.0), (2.3, 3.2), (-1.0, 4.6), (1.2, 4.8), (0.1, 5.4)):
        lean += rng.uniform(-0.3, 0.3)
        place.shape([(59.1, 21.4), (59.6 + 0.45 * lean, 21.0 - 0.65 * high), (59.6 + lean, 21.4 - high),
            (60.1 + 0.2 * lean, 21.2)],
                    (86, 156, 92) if high < 4 else (112, 182, 104))  # fmt: skip
    place.box(47.6, 24.4, 63.0, 25.6, (150, 98, 58))
    place.box(47.6, 25.3, 63.0, 25.6, (112, 70, 40))
    # The skirting board, the floor's boards running to the back, and a rug.
    place.box(0, h - 2.4, 64, h, (250, 240, 222))
    place.box(0, h - 2.5, 64, h - 2.2, (206, 172, 134))
    place.box(0, h - 0.3, 64, h + 0.3, (120, 76, 44))
    for k in range(-9, 20):
        near, far = 32 + (k - 5) * 9.5, 32 + (k - 5) * 4.6
        tone = mix((184, 126, 78), (160, 104, 60), (k * 0.618) % 1.0)
        place.shape([(far, h + 0.3), (far + 4.6, h + 0.3), (near + 9.5, 64), (near, 64)], tone)
        place.line([(far, h + 0.3), (near, 64)], 0.35, (118, 74, 42))
        cut = 0.15 + 0.8 * ((k * 0.382) % 1.0)
        y = h + 27 * cut
        place.line([(far + (near - far) * cut, y), (far + 4.6 + (near + 4.9 - far) * cut, y)], 0.3, (118, 74, 42))
    for grow, fill in (
        (1.0, (150, 60, 62)),
        (0.96, (226, 196, 150)),
        (0.86, (178, 74, 74)),
        (0.60, (226, 196, 150)),
        (0.54, (196, 96, 88)),
    ):
        place.disc(32, 55.4, 25.5 * grow, 6.6 * grow, fill=fill)


PAINTERS: dict[str, Callable[[Place], None]] = {
    "grass": _grass, "sand": _sand, "sea": _sea, "night": _night, "snow": _snow, "room": _room,
}  # fmt: skip


def draw_place(background: str, seed: int, side: int) -> Image.Image:
    """The place, RGB, `side` x `side` pixels; not yet smoothed."""
    place = Place(background, seed, side)
    PAINTERS[background](place)
    return place.image
