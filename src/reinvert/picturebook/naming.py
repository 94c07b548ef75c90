"""Which part of a scene a phrase names: "the red cat", "the hat of the dog", "the dog on the left", "the grass".

A thing is found by the words that caption it (`wording`), and where it stands; a place by its own name, "background" or
"sky". What names several things means all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from reinvert.errors import ReinvertError
from reinvert.files import shown
from reinvert.picturebook.draw import Detail, thing_masks, worn_masks
from reinvert.picturebook.scene import FACING_KINDS, Scene, Thing
from reinvert.picturebook.wording import (
    COLOR_OF,
    COLORED,
    FACES,
    KIND_OF,
    KIND_OF_MANY,
    MADE,
    MATERIAL_OF,
    NAMED,
    SIDE_OF,
    STOOD,
    WEARS,
    WORN_OF,
    Clause,
    stands,
)

PLACE_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "grass": ("grass", "meadow", "sky", "lawn"),
    "sand": ("sand", "desert", "sky", "beach"),
    "sea": ("sea", "water", "sky", "waves"),
    "night": ("night", "night sky", "sky", "moon"),
    "snow": ("snow", "winter", "sky"),
    "room": ("room", "wall", "floor"),
}
"""Other names of a place, beside "background" and "ground"."""
ANY_PLACE: Final = ("background", "ground", "scenery")
ANY_THING: Final = ("thing", "things", "object", "objects", "one")
FILLERS: Final = frozenset({"a", "an", "the", "both", "two", "that", "is", "of", "all"})

_OWNED = re.compile(r"^(?P<owner>.+?)'s (?P<part>.+)$")
_PART_OF = re.compile(r"^(?P<part>.+?) (?:of|on|worn by) (?P<owner>(?:the|a|an) (?!left\b|right\b).+)$")
_SIDE = re.compile(r"\b(left|right|middle)\b")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Name:
    """What a phrase asks for: of a thing what is not None must be so. `part` is the whole thing or what it wears."""

    part: Literal["thing", "worn", "place"] = "thing"
    kind: str | None = None
    color: str | None = None
    material: str | None = None
    facing: str | None = None
    wearing: str | None = None
    side: str | None = None

    def means(self, thing: Thing, scene: Scene) -> bool:
        """Whether a thing of the scene is meant."""
        if self.part == "place":
            return False
        facing = thing.facing if thing.kind in FACING_KINDS else None
        asked = (self.kind, self.color, self.material, self.facing, self.wearing, self.side)
        true = (thing.kind, thing.color, thing.material, facing, thing.wearing, _side(thing, scene))
        return all(wanted is None or wanted == is_ for wanted, is_ in zip(asked, true, strict=True))


def _side(thing: Thing, scene: Scene) -> str:
    if len(scene.things) == 1:
        return stands(thing.x)
    return "left" if thing.x == min(other.x for other in scene.things) else "right"


def read_names(words: str, scene: Scene) -> list[Name] | None:
    """What the words ask for, one name for each part that "and" joins; None where they are not understood."""
    text = " ".join(words.lower().replace(",", " and ").replace("’", "'").split()).rstrip(".! ")
    names = [_name(part.strip(), scene) for part in re.split(r"\band\b", text) if part.strip()]
    known = [name for name in names if name is not None]
    return known if known and len(known) == len(names) else None


def _name(phrase: str, scene: Scene) -> Name | None:
    bare = " ".join(word for word in phrase.split() if word not in FILLERS)
    if bare in (*ANY_PLACE, *PLACE_NAMES[scene.background]):
        return Name("place")
    owned = _OWNED.match(phrase) or _PART_OF.match(phrase)
    if owned:
        wearer, worn = _thing(owned["owner"]), _worn(owned["part"])
        return None if wearer is None or worn is None else replace(wearer, part="worn", wearing=worn.wearing)
    return _worn(phrase) or _thing(phrase)


def _worn(phrase: str) -> Name | None:
    """A hat or a crown, and on which side its wearer stands."""
    clause = Clause(phrase)
    side = clause.take(STOOD, SIDE_OF) or clause.take(_SIDE)
    bare = " ".join(word for word in clause.rest.split() if word not in FILLERS)
    names = WORN_OF | {f"{way}s": name for way, name in WORN_OF.items()}
    return Name("worn", wearing=names[bare], side=side) if bare in names else None


def _thing(phrase: str) -> Name | None:
    clause = Clause(phrase)
    wearing, facing = clause.take(WEARS, WORN_OF), clause.take(FACES)
    side, color = clause.take(STOOD, SIDE_OF), clause.take(COLORED, COLOR_OF)
    material, kind = clause.take(MADE, MATERIAL_OF), clause.take(NAMED, KIND_OF)
    side = side or clause.take(_SIDE)
    rest = [word for word in clause.rest.split() if word not in FILLERS]
    if kind is None and rest and rest[-1] in KIND_OF_MANY:
        kind = KIND_OF_MANY[rest.pop()]
    elif kind is None and rest and rest[-1] in ANY_THING:
        rest.pop()
    elif kind is None:
        return None
    if rest:
        return None
    return Name("thing", kind, color, material, facing, wearing, side)


def named_mask(words: str, scene: Scene, size: int, detail: Detail) -> Mask:
    """The pixels [size, size] of what the words name in a scene.

    Raises `ReinvertError`, which tells what there is, for words that name nothing there.
    """
    names = read_names(words, scene)
    found = np.zeros((size, size), bool)
    things, worn = thing_masks(scene, size, detail), worn_masks(scene, size, detail)
    for name in names or ():
        parts = worn if name.part == "worn" else things
        meant = [part for thing, part in zip(scene.things, parts, strict=True) if name.means(thing, scene)]
        if name.part == "place":
            meant = [~np.any(things, axis=0)] if things else [np.ones_like(found)]
        if not meant:
            names = None
            break
        for part in meant:
            found |= part
    if not names:
        raise ReinvertError(f"nothing in this picture is called '{shown(words)}'; it shows {scene.caption}")
    return found
