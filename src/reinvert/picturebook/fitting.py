"""Finds the scene that a picture shows: analysis by synthesis.

The judge (`reader`) says what there is; where it stands and how large it is comes from drawing it and comparing:

    scene = argmin over scenes of mean |drawing(scene) - picture|,   each difference at most `MOST`

The judge knows small flat drawings. What it is unsure of (and, in pictures of full detail, all that it tends to
misread) is decided by the comparison, too. A thing is drawn once for every look and then moved and scaled as a layer,
which is a hundred times faster than drawing it anew; the place behind it is drawn with another seed, so its small
details differ, which the bound on a difference keeps harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.picturebook.draw import DETAILS, SIZE, Detail, draw, draw_thing
from reinvert.picturebook.fine import cover_thing
from reinvert.picturebook.reader import BUNDLED, HEADS, NOTHING, OF_THING, SLOTS, Reader
from reinvert.picturebook.scene import FACING_KINDS, FACINGS, WEARER_KINDS, Scene, Thing

MOST: Final = 0.25
"""The most that a channel of a pixel can be wrong by, of 1."""
FOREIGN: Final = 0.1
"""A picture that differs by more from the nearest scene shows none."""
NEARER: Final = 0.7
"""Nor does one that differs from it by more than this share of what it differs from its own mean colour: a dark
photograph differs little from a night. Drawings are at 0.2 (fine ones, and those that went through a VAE, below 0.55),
photographs at 0.9 at least."""
BARE: Final = 0.12
"""No scene comes near a picture that differs by more from its place without things, so none are looked for."""
UNSURE: Final = 0.01
"""A value that the judge gives this share is drawn and compared; below it is ruled out."""
CLEARLY: Final = 0.75
"""Another number of things than the judge counts must bring the difference below this share."""
KINDS_TRIED: Final = 4
"""So many kinds are drawn in full detail, of which the judge misreads some."""
FACTORS: Final = (0.93, 0.965, 1.0, 1.035, 1.07)
WIDE: Final = torch.tensor((0.008, 0.008, 0.0))
FINENESS: Final = ((0.007, 0.007, 0.006), (0.004, 0.004, 0.003), (0.002, 0.002, 0.0015), (0.001, 0.001, 0.0008))
"""Factors of the size and steps of x, ground and size, as shares of the side, one after the other."""
STARTS: Final = 3
AHEAD: Final = 1.3
"""So many looks are followed that begin with at most this times the smallest difference."""
ALONE: Final = (np.arange(0.2, 0.81, 0.04), (0.80, 0.84, 0.88, 0.92), np.geomspace(0.16, 0.36, 8))
LEFT: Final = (np.arange(0.14, 0.47, 0.04), (0.80, 0.84, 0.88, 0.92), np.geomspace(0.14, 0.26, 5))
RIGHT: Final = (1 - LEFT[0], *LEFT[1:])
PLACES: Final = {"only": ALONE, "left": LEFT, "right": RIGHT}
"""Where the search begins: x, ground and size of a thing that is read as the only, the left or the right one."""

Where = tuple[float, float, float]
"""x, ground and size of a thing (`scene.Thing`)."""
USUAL_SIZES: Final = (0.29, 0.19)
UNUSUAL: Final = 0.01
"""Sizes of a thing alone and of one of two (`scene.sample_scene`), and what others cost: difference per logarithm."""
SAMPLES: Final = 2
"""A layer is drawn so many times as large, and box-filtered."""
LEAST, GREATEST = torch.tensor((0.0, 0.5, 0.12)), torch.tensor((1.0, 1.0, 0.42))
"""How far the search goes."""
REFERENCE: Final[Where] = (0.5, 0.8, 0.3)


@dataclass(frozen=True)
class Fit:
    """The scene that comes nearest to a picture, how it is drawn, and the mean difference that is left (0..`MOST`)."""

    scene: Scene
    detail: Detail
    error: float
    plain: float
    """The mean difference of the picture from its own mean colour."""

    @property
    def is_scene(self) -> bool:
        """Whether the picture shows a scene at all."""
        return self.error <= min(FOREIGN, NEARER * self.plain)


@lru_cache(maxsize=1)
def judge() -> Reader:
    """The bundled judge."""
    reader = Reader.load(BUNDLED)
    if reader is None:
        raise ReinvertError("picturebook's judge is not in this installation: reinstall reinvert")
    return reader


def fit_scene(picture: Image.Image, reader: Reader | None = None) -> Fit:
    """The scene that a square RGB picture shows."""
    shares = {name: values[0] for name, values in (reader or judge()).weigh([picture]).items()}
    seen = _pixels(picture)
    background, style = (_first(shares, name) for name in ("background", "style"))
    places = {d: _pixels(draw(Scene((), background, style), SIZE, d)) for d in DETAILS}
    detail = min(DETAILS, key=lambda d: float(_difference(places[d], seen)))
    bare = float(_difference(places[detail], seen))
    plain = float(_difference(seen.mean((1, 2), keepdim=True).expand_as(seen), seen))
    if bare > BARE:
        return Fit(Scene((), background, style), detail, bare, plain)
    search = _Search(seen, places[detail], style, detail, shares)
    error, things = 1.0, tuple[Thing, ...]()
    for count in _likely(shares, "count", UNSURE):  # against the judge only what is clearly nearer
        fit = search.things(SLOTS[:1] if count == "1" else SLOTS[1:])
        if fit[0] < CLEARLY * error:
            error, things = fit
    return Fit(Scene(things, background, style), detail, error, plain)


Square = tuple[int, int, int]
"""Left, top and side."""


def fit_square(picture: Image.Image) -> tuple[Square, Fit]:
    """The largest square in the middle of a picture, and the scene that it shows.

    Raises `ReinvertError` for a picture that no scene comes near.
    """
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    fit = fit_scene(picture.convert("RGB").crop((left, top, left + side, top + side)))
    if not fit.is_scene:
        raise ReinvertError(
            "this picture does not look like picturebook's drawn world, so its judge cannot tell what it shows; name "
            "another model, a folder or a Hub id, for photographs"
        )
    return (left, top, side), fit


def _pixels(picture: Image.Image) -> Float[Tensor, "3 h w"]:
    """In 0..1, at the size in which pictures are compared."""
    if picture.size != (SIZE, SIZE):
        shrinks = min(picture.size) >= SIZE
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def _difference(drawn: Float[Tensor, "*n 3 h w"], seen: Float[Tensor, "3 h w"]) -> Float[Tensor, "*n"]:
    return (drawn - seen).abs().clamp(max=MOST).mean((-3, -2, -1))


def _first(shares: Mapping[str, Tensor], name: str) -> str:
    return HEADS[name][int(shares[name].argmax())]


def _likely(shares: Mapping[str, Tensor], name: str, least: float, most: int | None = None) -> list[str]:
    """The values of a head, the likeliest first, that have at least this share."""
    order = shares[name].argsort(descending=True).tolist()
    return [HEADS[name][i] for n, i in enumerate(order) if n == 0 or shares[name][i] >= least][:most]


# --- a thing as a layer ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A thing that was drawn once: its colours times its cover, and its cover, [4, h, w] in 0..1."""

    where: Where
    pixels: Float[Tensor, "4 h w"]

    def at(self, where: Float[Tensor, "n 3"], size: int) -> Float[Tensor, "n 4 {size} {size}"]:
        """Moved and scaled to each x, ground and size."""
        (x, ground, scale), (x0, ground0, scale0) = where.unbind(-1), self.where
        shrink, zero = scale0 / scale, torch.zeros_like(x)
        right = 2 * x0 - 1 + shrink * (1 - 2 * x)
        down = 2 * (ground0 - scale0) - 1 + shrink * (1 - 2 * (ground - scale))
        theta = torch.stack([torch.stack([shrink, zero, right], -1), torch.stack([zero, shrink, down], -1)], 1)
        grid = F.affine_grid(theta, [len(where), 4, size, size], align_corners=False)
        return F.grid_sample(self.pixels.expand(len(where), -1, -1, -1), grid, align_corners=False)


def draw_layer(thing: Thing, style: str, detail: Detail, behind: Float[Tensor, "3 h w"]) -> Layer:
    """Draw a thing where it stands, before what lies behind it."""
    canvas = (behind.permute(1, 2, 0) * 255).round().byte().numpy()
    canvas = canvas.repeat(SAMPLES, 0).repeat(SAMPLES, 1)
    if detail == "fine":
        painted, cover = cover_thing(canvas, thing, style)
    else:
        image = Image.fromarray(canvas)
        cover = np.asarray(draw_thing(image, thing, style)) > 0
        painted = np.asarray(image)
    alpha = torch.from_numpy(cover.astype(np.float32))[None]
    colors = torch.from_numpy(painted.copy()).permute(2, 0, 1).float() / 255
    layered = torch.cat([colors * alpha, alpha])[None]
    return Layer((thing.x, thing.ground, thing.size), F.avg_pool2d(layered, SAMPLES)[0])


def _laid(layers: Float[Tensor, "n 4 h w"], behind: Float[Tensor, "3 h w"]) -> Float[Tensor, "n 3 h w"]:
    return layers[:, :3] + (1 - layers[:, 3:]) * behind


# --- the search --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Search:
    """The things before one place."""

    seen: Float[Tensor, "3 h w"]
    place: Float[Tensor, "3 h w"]
    style: str
    detail: Detail
    shares: Mapping[str, Tensor]

    def things(self, slots: Sequence[str]) -> tuple[float, tuple[Thing, ...]]:
        """The things that are read there, from left to right, and the difference that is left."""
        found: dict[str, Thing] = {}
        for slot in slots:
            behind = self._before(found.values())
            begun = sorted((self._begun(look, slot, behind) for look in self._looks(slot)), key=lambda one: one[0])
            near = [self._near(thing, behind) for error, thing in begun[:STARTS] if error <= AHEAD * begun[0][0]]
            found[slot] = self._settled(*min(near, key=lambda one: one[0]), slot, behind)
        for slot in slots if len(slots) > 1 else ():  # each again, now that the other is there
            others = [thing for other, thing in found.items() if other != slot]
            found[slot] = self._near(found[slot], self._before(others))[1]
        things = tuple(found[slot] for slot in slots)
        return float(_difference(self._before(things), self.seen)), things

    def _before(self, things: Iterable[Thing]) -> Float[Tensor, "3 h w"]:
        """The place with things in it."""
        behind = self.place
        for thing in things:
            layer = self._layer(thing, behind)
            behind = _laid(layer.pixels[None], behind)[0]
        return behind

    def _layer(self, thing: Thing, behind: Float[Tensor, "3 h w"]) -> Layer:
        return draw_layer(thing, self.style, self.detail, behind)

    def _looks(self, slot: str) -> Iterator[Thing]:
        """What a thing could be, with the likeliest colour, surface and headgear."""
        few = 0.0 if self.detail == "fine" else UNSURE
        color, material, wearing = (_first(self.shares, f"{slot}.{name}") for name in ("color", "material", "wearing"))
        x, ground, size = REFERENCE
        for kind in _likely(self.shares, f"{slot}.kind", few, KINDS_TRIED):
            worn = wearing if wearing != NOTHING and kind in WEARER_KINDS else None
            # Which way a boat looks is not said, but shows: it is not symmetric.
            facings = _likely(self.shares, f"{slot}.facing", few) if kind in FACING_KINDS else FACINGS
            for facing in facings:
                yield Thing(kind, color, material, facing, worn, x, ground, size, True, kind in FACING_KINDS)

    def _begun(self, look: Thing, slot: str, behind: Float[Tensor, "3 h w"]) -> tuple[float, Thing]:
        """The best of all places, at half the size."""
        layer = self._layer(look, behind)
        half = Layer(layer.where, F.avg_pool2d(layer.pixels, 2))
        tried = torch.tensor(list(product(*PLACES[slot])), dtype=torch.float32)
        return _best(look, half, tried, F.avg_pool2d(behind, 2), F.avg_pool2d(self.seen, 2))

    def _near(self, thing: Thing, behind: Float[Tensor, "3 h w"]) -> tuple[float, Thing]:
        """The best place near where it stands, in ever smaller steps."""
        error, thing = self._redrawn(thing, behind)
        layer = self._layer(thing, behind)
        for steps in FINENESS:
            moves = torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=3))) * torch.tensor(steps)
            for _ in range(3):
                error, moved = _best(thing, layer, _moved(thing, moves), behind, self.seen)
                if moved == thing:
                    break
                thing = moved
        return error, thing

    def _redrawn(self, thing: Thing, behind: Float[Tensor, "3 h w"]) -> tuple[float, Thing]:
        """The best place around, where the thing is drawn anew at every size: scaled stripes would mislead."""
        ways = (range(-3, 4),) * 2
        moves = torch.tensor([(x, ground, 0.0) for x, ground in product(*ways)]) * WIDE
        sizes = [replace(thing, size=thing.size * factor) for factor in FACTORS]
        return min(
            (_best(one, self._layer(one, behind), _moved(one, moves), behind, self.seen) for one in sizes),
            key=lambda found: found[0],
        )

    def _settled(self, error: float, thing: Thing, slot: str, behind: Float[Tensor, "3 h w"]) -> Thing:
        """With the looks under which it fits best."""
        for _ in range(2):
            before = thing
            for look in self._other_looks(thing, slot):
                layer = self._layer(look, behind)
                other = float(_difference(_laid(layer.pixels[None], behind), self.seen)[0])
                if other < error:
                    error, thing = other, look
            if thing == before:
                break
            error, thing = self._near(thing, behind)
        return thing

    def _other_looks(self, thing: Thing, slot: str) -> Iterator[Thing]:
        """The thing with one attribute changed."""
        few = 0.0 if self.detail == "fine" else UNSURE
        for name in OF_THING:
            if name == "kind" or (name == "wearing" and thing.kind not in WEARER_KINDS):
                continue
            least = 0.0 if name == "facing" else few
            for value in _likely(self.shares, f"{slot}.{name}", least, 4 if name == "color" else None):
                look = replace(thing, **{name: None if value == NOTHING else value})
                if look != thing:
                    yield look


def _moved(thing: Thing, moves: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    return (torch.tensor((thing.x, thing.ground, thing.size)) + moves).clamp(LEAST, GREATEST)


def _best(
    thing: Thing,
    layer: Layer,
    tried: Float[Tensor, "n 3"],
    behind: Float[Tensor, "3 h w"],
    seen: Float[Tensor, "3 h w"],
) -> tuple[float, Thing]:
    """The thing at the best of several places, and the difference that is left."""
    size = seen.shape[-1]
    errors = torch.cat([_difference(_laid(layer.at(part, size), behind), seen) for part in tried.split(128)])
    unusual = (tried[:, 2:] / torch.tensor(USUAL_SIZES)).log().abs().min(-1).values
    errors = errors + UNUSUAL * unusual
    index = int(errors.argmin())
    x, ground, scale = (round(float(value), 5) for value in tried[index])
    return float(errors[index]), replace(thing, x=x, ground=ground, size=scale)


__all__ = ["Fit", "Layer", "draw_layer", "fit_scene", "judge"]
