"""From words or JSON to a scene: reads the captions that `Scene.caption` writes, and scene descriptions.

    caption = [style] thing ["and" thing] [place]
    thing   = a|an [colour] [material] kind ["wearing" a hat|crown] ["facing" left|right]

What a caption leaves open (where a thing stands, and its colour or facing where they are not named) is drawn from
the seed, within the ranges that the bundled model was trained on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from random import Random
from typing import Any, cast

from reinvert.errors import ReinvertError
from reinvert.files import parse_json
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

ALONE, PAIR = ((0.5, 0.29),), ((0.27, 0.19), (0.73, 0.19))
"""Where things stand (x) and how large they are, as `scene.sample_scene` places them."""


def read_caption(caption: str, seed: int = 0) -> Scene:
    """The scene that a caption describes. Raises `ReinvertError` naming the words that picturebook knows."""
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


def read_scene(text: str) -> Scene:
    """A scene from JSON: `scene_json`'s output, or the file that `reinvert draw` writes beside a picture."""
    given: Any = parse_json(text, "the scene")
    given = cast(dict[str, Any], given)["scene"] if isinstance(given, dict) and "scene" in given else given
    scene = _fields(given, Scene, "the scene")
    things = scene.get("things")
    if not isinstance(things, list) or not 1 <= len(cast(list[Any], things)) <= 2:
        raise ReinvertError('the scene needs "things": a list of one or two')
    made = tuple(_build(Thing, _fields(thing, Thing, "a thing")) for thing in cast(list[Any], things))
    return _build(Scene, {**scene, "things": made})


def _fields(given: object, cls: type[Any], what: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise ReinvertError(f"{what} is described by a JSON object, not by {given!r}")
    known = [f.name for f in fields(cls)]
    for name in cast(Mapping[str, Any], given):
        if name not in known:
            raise ReinvertError(f"{what} has no {name!r}; it has {', '.join(known)}")
    return dict(cast(Mapping[str, Any], given))


NUMBERS = {"x": (0.0, 1.0), "ground": (0.0, 1.2), "size": (0.02, 1.0)}


def _build(cls: type[Any], given: Mapping[str, Any]) -> Any:
    for name, (low, high) in NUMBERS.items():
        value: Any = given.get(name, low)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ReinvertError(f"{name} is a number from {low:g} to {high:g}, not {value!r}")
    if not isinstance(given.get("seed", 0), int):
        raise ReinvertError(f"seed is a whole number, not {given['seed']!r}")
    try:
        return cls(**given)
    except (TypeError, ValueError) as error:
        raise ReinvertError(str(error)) from error
