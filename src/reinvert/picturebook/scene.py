"""What a picturebook scene is: things, a background and a style, with the caption that says so.

A scene is a plain value. Everything that is drawn is named by its fields, so an edit is `dataclasses.replace`
and the true edited picture is the drawing of the edited value (see `draw.py`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from random import Random

KINDS = ("cat", "dog", "fish", "car", "boat", "house", "tree", "star", "mushroom", "snowman")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
MATERIALS = ("plain", "striped", "dotted", "metal")
BACKGROUNDS = ("grass", "sand", "sea", "night", "snow", "room")
STYLES = ("drawn", "sketch", "neon")
WEARABLES = ("hat", "crown")
FACINGS = ("left", "right")

FACING_KINDS = frozenset({"cat", "dog", "fish", "car"})
"""Kinds whose silhouette shows which way they look; only these may name it."""
WEARER_KINDS = frozenset({"cat", "dog", "fish", "star", "mushroom", "snowman"})

PLACE = {
    "grass": "on grass",
    "sand": "on sand",
    "sea": "in the sea",
    "night": "at night",
    "snow": "in snow",
    "room": "in a room",
}
STYLE_PREFIX = {"drawn": "", "sketch": "a sketch of ", "neon": "a neon sign of "}


@dataclass(frozen=True)
class Thing:
    """One object. `x`, `ground` and `size` are fractions of the picture's side (`size` = half the height)."""

    kind: str
    color: str = "red"
    material: str = "plain"
    facing: str = "right"
    wearing: str | None = None
    x: float = 0.5
    ground: float = 0.86
    size: float = 0.30
    says_color: bool = True
    says_facing: bool = False

    def __post_init__(self) -> None:
        for value, allowed in (
            (self.kind, KINDS),
            (self.color, COLORS),
            (self.material, MATERIALS),
            (self.facing, FACINGS),
            (self.wearing, (None, *WEARABLES)),
        ):
            if value not in allowed:
                raise ValueError(f"picturebook has no {value!r}; choose from {', '.join(map(str, allowed))}")

    @property
    def phrase(self) -> str:
        """The noun phrase of the caption, e.g. "a red striped cat wearing a hat facing left"."""
        adjectives = [self.color] if self.says_color else []
        adjectives += [self.material] if self.material != "plain" else []
        words = [*adjectives, self.kind]
        words += ["wearing", "a", self.wearing] if self.wearing else []
        words += ["facing", self.facing] if self.says_facing and self.kind in FACING_KINDS else []
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


@dataclass(frozen=True)
class Scene:
    """One or two things before a background, in a style. `seed` only moves small details (tufts, flakes)."""

    things: tuple[Thing, ...]
    background: str = "grass"
    style: str = "drawn"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise ValueError(f"picturebook has no background {self.background!r}; choose from {', '.join(BACKGROUNDS)}")
        if self.style not in STYLES:
            raise ValueError(f"picturebook has no style {self.style!r}; choose from {', '.join(STYLES)}")

    @property
    def caption(self) -> str:
        """The sentence the model is trained on."""
        things = " and ".join(thing.phrase for thing in self.things)
        return f"{STYLE_PREFIX[self.style]}{things} {PLACE[self.background]}"

    def with_thing(self, index: int = 0, **changes: object) -> Scene:
        """The same scene with one thing changed (fields of `Thing`)."""
        things = list(self.things)
        things[index] = replace(things[index], **changes)  # type: ignore[arg-type]
        return replace(self, things=tuple(things))


def caption_words() -> tuple[str, ...]:
    """Every word that a caption can have, sorted: the only ones that the bundled model was trained with."""
    phrases = " ".join((*PLACE.values(), *STYLE_PREFIX.values(), "a an and wearing facing"))
    materials = (material for material in MATERIALS if material != "plain")
    return tuple(sorted({*KINDS, *COLORS, *materials, *WEARABLES, *FACINGS, *phrases.split()}))


def held_out(scene: Scene) -> bool:
    """Whether a scene shows a (kind, colour, background) combination that training never sees (about 10 %)."""
    return any(
        zlib.crc32(f"{thing.kind} {thing.color} {scene.background}".encode()) % 10 == 0 for thing in scene.things
    )


def sample_thing(rng: Random, x: float, size: float) -> Thing:
    """A random thing standing near `x`."""
    kind = rng.choice(KINDS)
    wearing = rng.choice(WEARABLES) if kind in WEARER_KINDS and rng.random() < 0.45 else None
    return Thing(
        kind=kind,
        color=rng.choice(COLORS),
        material=rng.choices(MATERIALS, (0.4, 0.2, 0.2, 0.2))[0],
        facing=rng.choice(FACINGS),
        wearing=wearing,
        x=x + rng.uniform(-0.07, 0.07),
        ground=rng.uniform(0.82, 0.90),
        size=size * rng.uniform(0.92, 1.08),
        says_color=rng.random() > 0.08,
        says_facing=kind in FACING_KINDS and rng.random() < 0.7,
    )


def sample_scene(rng: Random, *, pairs: float = 0.2, styled: float = 0.14) -> Scene:
    """A random scene. `pairs` is the share of two-thing scenes, `styled` the share of sketches and neon signs."""
    if rng.random() < pairs:
        things = (sample_thing(rng, 0.27, 0.19), sample_thing(rng, 0.73, 0.19))
    else:
        things = (sample_thing(rng, 0.5, 0.29),)
    style = rng.choice(STYLES[1:]) if rng.random() < styled else STYLES[0]
    return Scene(things, rng.choice(BACKGROUNDS), style, rng.randrange(1_000_000))
