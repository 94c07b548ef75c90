"""From words or JSON to a scene: reads the captions that `Scene.caption` writes, and scene descriptions.

    caption = [style] thing ["and" thing] [place]
    thing   = a|an [colour] [material] kind ["wearing" a hat|crown] ["facing" left|right]

Captions in other words and another order (see `wording`) are read as the plain caption that says the same. What a
caption leaves open (where a thing stands, and its colour or facing where they are not named) is drawn from
the seed, within the ranges that the bundled model was trained on.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from random import Random
from typing import Annotated, Any, cast

from annotated_types import Ge, Le, Len
from pydantic import AfterValidator

from reinvert.errors import ReinvertError
from reinvert.files import Entry, check, parse_json, shown
from reinvert.files.door import Says, Share
from reinvert.picturebook.scene import (
    BACKGROUNDS,
    COLORS,
    FACING_KINDS,
    FACINGS,
    KINDS,
    MATERIALS,
    PLACE,
    STYLE_PREFIX,
    STYLES,
    WEARABLES,
    WEARER_KINDS,
    Scene,
    Thing,
)
from reinvert.picturebook.wording import plainly

ALONE, PAIR = ((0.5, 0.29),), ((0.27, 0.19), (0.73, 0.19))
"""Where things stand (x) and how large they are, as `scene.sample_scene` places them."""


SIDES = {"left": (0.3, 0.23), "middle": (0.5, 0.27), "right": (0.7, 0.23)}
"""The same for a single thing whose caption says where it stands."""


def read_caption(caption: str, seed: int = 0) -> Scene:
    """The scene that a caption describes. Raises `ReinvertError` naming the words that picturebook knows."""
    try:
        return _read(caption, seed)
    except ReinvertError:
        plain = plainly(caption)
        if plain is None:
            raise
    return _standing(_read(plain.caption, seed), plain.stands)


def _standing(scene: Scene, stands: tuple[str | None, ...]) -> Scene:
    """The scene with its things where the caption has them stand."""
    if len(scene.things) == 1:
        if stands[0] is None:
            return scene
        thing, (x, size) = scene.things[0], SIDES[stands[0]]
        ((old_x, old_size),) = ALONE
        moved = replace(thing, x=round(thing.x + x - old_x, 4), size=round(thing.size * size / old_size, 4))
        return replace(scene, things=(moved,))
    first, second = scene.things
    if stands in (("right", "left"), ("right", None), (None, "left")):
        (a, _), (b, _) = PAIR
        first, second = replace(first, x=round(first.x + b - a, 4)), replace(second, x=round(second.x + a - b, 4))
    elif stands[0] == stands[1] is not None or "middle" in stands:
        raise ReinvertError("of two things one stands on the left and one on the right")
    return replace(scene, things=(first, second))


def _read(caption: str, seed: int) -> Scene:
    text = " ".join(caption.lower().replace(",", " ").split()).rstrip(".!")
    if not text:
        raise ReinvertError('describe a scene, such as "a red cat on grass"')
    style, text = _style(text)
    background, text = _background(text)
    phrases = text.split(" and ")
    if len(phrases) > 2:
        raise ReinvertError(f"picturebook draws one or two things, not {len(phrases)}: leave some out")
    rng = Random(f"caption {seed}")  # of the seed alone: the same layout for every wording, so an edit stays an edit
    places = ALONE if len(phrases) == 1 else PAIR
    things = tuple(_thing(phrase, rng, *place) for phrase, place in zip(phrases, places, strict=True))
    return Scene(things, background, style, seed)


def _style(text: str) -> tuple[str, str]:
    for style, prefix in STYLE_PREFIX.items():
        if prefix and text.startswith(prefix):
            return style, text.removeprefix(prefix)
    return STYLES[0], text


def _background(text: str) -> tuple[str, str]:
    """The place at the end of a caption; grass where none is named."""
    for background, place in PLACE.items():
        if text.endswith(f" {place}"):
            return background, text.removesuffix(f" {place}")
    return BACKGROUNDS[0], text


def _thing(phrase: str, rng: Random, x: float, size: float) -> Thing:
    words = phrase.split()
    if words and words[0] in ("a", "an", "the"):
        words.pop(0)
    color = words.pop(0) if words and words[0] in COLORS else None
    material = words.pop(0) if words and words[0] in MATERIALS else MATERIALS[0]
    if not words or words[0] not in KINDS:
        raise _unknown(words[0] if words else phrase, (*KINDS, *COLORS, *MATERIALS))
    kind = words.pop(0)
    wearing = facing = None
    while words:
        match words:
            case ["wearing", "a", what, *rest] if what in WEARABLES and kind in WEARER_KINDS:
                wearing = what
            case ["facing", what, *rest] if what in FACINGS and kind in FACING_KINDS:
                facing = what
            case _:
                raise _misplaced(words, kind)
        words = rest
    # Every field draws, said or not: naming a thing's colour must not move the thing.
    drawn = rng.choice(COLORS), rng.choice(FACINGS), rng.uniform(-0.07, 0.07), rng.uniform(0.82, 0.90)
    return Thing(
        kind=kind,
        color=color or drawn[0],
        material=material,
        facing=facing or drawn[1],
        wearing=wearing,
        x=round(x + drawn[2], 4),
        ground=round(drawn[3], 4),
        size=round(size * rng.uniform(0.92, 1.08), 4),
        says_color=color is not None,
        says_facing=facing is not None,
    )


def _misplaced(words: Sequence[str], kind: str) -> ReinvertError:
    first, last = words[0], words[-1]
    if first == "wearing" and kind not in WEARER_KINDS:
        return ReinvertError(f"in picturebook a {kind} wears nothing; {', '.join(sorted(WEARER_KINDS))} do")
    if first == "facing" and kind not in FACING_KINDS:
        return ReinvertError(
            f"a {kind} looks the same from both sides; {', '.join(sorted(FACING_KINDS))} face left or right"
        )
    if first in ("wearing", "facing"):
        return _unknown(last, WEARABLES if first == "wearing" else FACINGS)
    return ReinvertError(
        f"picturebook cannot draw {' '.join(words)!r} behind {kind!r}; a caption ends with one of: "
        f"{', '.join(PLACE.values())}"
    )


def _unknown(word: str, known: Sequence[str]) -> ReinvertError:
    near = difflib.get_close_matches(word, known, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return ReinvertError(f"picturebook cannot draw {word!r}{hint}; it knows: {', '.join(known)}")


# --- scene descriptions as JSON ----------------------------------------------------------------------------------


def scene_json(scene: Scene) -> dict[str, Any]:
    """A scene as plain values."""
    return asdict(scene)


def _known(names: Sequence[str], value: str) -> str:
    if value not in names:
        raise ValueError(f"picturebook has no '{shown(value)}'")
    return value


Kind = Annotated[str, AfterValidator(partial(_known, KINDS)), Says(f"one of {', '.join(KINDS)}")]
Color = Annotated[str, AfterValidator(partial(_known, COLORS)), Says(f"one of {', '.join(COLORS)}")]
Material = Annotated[str, AfterValidator(partial(_known, MATERIALS)), Says(f"one of {', '.join(MATERIALS)}")]
Facing = Annotated[str, AfterValidator(partial(_known, FACINGS)), Says(f"one of {', '.join(FACINGS)}")]
Wearable = Annotated[str, AfterValidator(partial(_known, WEARABLES)), Says(f"one of {', '.join(WEARABLES)}")]
Background = Annotated[str, AfterValidator(partial(_known, BACKGROUNDS)), Says(f"one of {', '.join(BACKGROUNDS)}")]
Style = Annotated[str, AfterValidator(partial(_known, STYLES)), Says(f"one of {', '.join(STYLES)}")]


class ThingEntry(Entry):
    """One thing of a scene. Lengths are shares of the picture's side."""

    kind: Kind
    """What it is."""
    color: Color = "red"
    """Its colour."""
    material: Material = "plain"
    """Its surface."""
    facing: Facing = "right"
    """Where it looks, of those that have two sides."""
    wearing: Wearable | None = None
    """What it wears, of those that can."""
    x: Share = 0.5
    """Of its middle, from the left."""
    ground: Annotated[float, Ge(0), Le(1.2)] = 0.86
    """Where it stands, from the top."""
    size: Annotated[float, Ge(0.02), Le(1)] = 0.30
    """Half its height."""
    says_color: bool = True
    """Whether the caption says so."""
    says_facing: bool = False
    """Whether the caption says so."""


class SceneEntry(Entry):
    """A scene, as `--scene` takes it and as it stands beside a drawn picture."""

    things: Annotated[list[ThingEntry], Len(1, 2)]
    """What it shows."""
    background: Background = "grass"
    """Where."""
    style: Style = "drawn"
    """How it is drawn."""
    seed: Annotated[int, Ge(-(2**63)), Le(2**63 - 1)] = 0
    """Moves small details only."""


def read_scene(text: str) -> Scene:
    """A scene from JSON: `scene_json`'s output, or the file that `reinvert draw` writes beside a picture."""
    given: Any = parse_json(text, "the scene")
    given = cast("dict[str, Any]", given)["scene"] if isinstance(given, dict) and "scene" in given else given
    entry = check(SceneEntry, given, "the scene")
    things = tuple(Thing(**thing.model_dump()) for thing in entry.things)
    return Scene(things, entry.background, entry.style, entry.seed)
