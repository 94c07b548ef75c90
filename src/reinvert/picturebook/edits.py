"""True edits of picturebook scenes, of each of PIE-Bench's ten types, with all that an editor is told.

The source picture, the true edited picture and the mask of what may change come from drawing both scenes, so an
edit can be judged by what it should have been. The types are those of PIE-Bench (PnP Inversion: Boosting
Diffusion-based Editing with 3 Lines of Code, 2024, arXiv 2310.01506).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reinvert.picturebook.draw import SIZE, Detail, draw, true_edit
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
    held_out,
    sample_thing,
)

EDIT_TYPES: dict[int, str] = {
    0: "random",
    1: "change_object",
    2: "add_object",
    3: "delete_object",
    4: "change_content",
    5: "change_pose",
    6: "change_color",
    7: "change_material",
    8: "change_background",
    9: "change_style",
}
"""PIE-Bench's numbers; "random" mixes two of the others."""

Words = tuple[str, ...]

PAIRS = 0.25
"""Share of two-thing scenes among edits that add or delete an object; in the others a hat or crown comes or goes."""


@dataclass(frozen=True)
class Edit:
    """One edit with its truth. `source_words` and `target_words` name the region that changes in either prompt
    (blend words); both are empty where the whole picture changes."""

    type_id: int
    type_name: str
    source: Scene
    target: Scene
    source_words: Words
    target_words: Words
    instruction: str

    @property
    def source_prompt(self) -> str:
        return self.source.caption

    @property
    def target_prompt(self) -> str:
        return self.target.caption

    def picture(self, size: int = SIZE, detail: Detail | None = None) -> Image.Image:
        """The source picture."""
        return draw(self.source, size, detail)

    def truth(self, size: int = SIZE, detail: Detail | None = None) -> tuple[Image.Image, NDArray[np.bool_]]:
        """The true edited picture, and the mask of what may change (see `draw.true_edit`)."""
        return true_edit(self.source, self.target, size, detail)


class Change(NamedTuple):
    """What a change makes of a scene."""

    target: Scene
    source_words: Words
    target_words: Words
    instruction: str


Changer = Callable[[Random, Scene], Change | None]
"""A change of a scene, or None where the scene does not allow it."""


# --- the changes -------------------------------------------------------------------------------------------------


def _other(rng: Random, choices: Sequence[str], now: str) -> str:
    return rng.choice([choice for choice in choices if choice != now])


def _change_object(rng: Random, scene: Scene) -> Change:
    """Another kind that can face and wear what this one does, so that one word of the prompt changes."""
    thing = scene.things[0]
    alike = [k for k in KINDS if (k in FACING_KINDS) == (thing.kind in FACING_KINDS)]
    alike = [k for k in alike if k in WEARER_KINDS] if thing.wearing else alike
    kind = _other(rng, alike, thing.kind)
    target = scene.with_thing(kind=kind)
    return Change(target, (thing.kind,), (kind,), f"turn the {thing.kind} into a {kind}")


def _add_object(rng: Random, scene: Scene) -> Change | None:
    thing = scene.things[0]
    if len(scene.things) == 1 and thing.x < 0.4:  # beside it is room for a second
        second = _said(replace(sample_thing(rng, 0.73, 0.19), material="plain", wearing=None))
        if second.kind == thing.kind:
            return None
        target = replace(scene, things=(thing, second))
        return Change(target, (), (second.kind,), f"add {second.phrase} beside the {thing.kind}")
    if thing.wearing or thing.kind not in WEARER_KINDS:
        return None
    worn = rng.choice(WEARABLES)
    return Change(scene.with_thing(wearing=worn), (), (worn,), f"give the {thing.kind} a {worn}")


def _delete_object(rng: Random, scene: Scene) -> Change | None:
    thing = scene.things[0]
    if len(scene.things) > 1:
        gone = scene.things[1]
        if gone.kind == thing.kind:
            return None
        return Change(replace(scene, things=(thing,)), (gone.kind,), (), f"remove the {gone.kind}")
    if not thing.wearing:
        return None
    return Change(
        scene.with_thing(wearing=None), (thing.wearing,), (), f"take the {thing.wearing} off the {thing.kind}"
    )


def _change_content(rng: Random, scene: Scene) -> Change | None:
    worn = scene.things[0].wearing
    if not worn:
        return None
    other = _other(rng, WEARABLES, worn)
    return Change(scene.with_thing(wearing=other), (worn,), (other,), f"replace the {worn} by a {other}")


def _change_pose(rng: Random, scene: Scene) -> Change | None:
    thing = scene.things[0]
    if thing.kind not in FACING_KINDS:
        return None
    facing = _other(rng, FACINGS, thing.facing)
    target = scene.with_thing(facing=facing)
    return Change(target, (thing.kind,), (thing.kind,), f"make the {thing.kind} face {facing}")


def _change_color(rng: Random, scene: Scene) -> Change:
    thing = scene.things[0]
    color = _other(rng, COLORS, thing.color)
    target = scene.with_thing(color=color)
    return Change(target, (thing.kind,), (thing.kind,), f"make the {thing.kind} {color}")


def _change_material(rng: Random, scene: Scene) -> Change:
    thing = scene.things[0]
    material = _other(rng, MATERIALS, thing.material)
    target = scene.with_thing(material=material)
    return Change(target, (thing.kind,), (thing.kind,), f"make the {thing.kind} {material}")


def _change_background(rng: Random, scene: Scene) -> Change:
    background = _other(rng, BACKGROUNDS, scene.background)
    before, after = (PLACE[b].split()[-1] for b in (scene.background, background))
    target = replace(scene, background=background)
    return Change(target, (before,), (after,), f"put the {scene.things[0].kind} {PLACE[background]}")


def _change_style(rng: Random, scene: Scene) -> Change:
    style = _other(rng, STYLES, scene.style)
    look = STYLE_PREFIX[style].removesuffix(" of ") or "a coloured drawing"
    return Change(replace(scene, style=style), (), (), f"make it {look}")


CHANGES: dict[int, Changer] = {
    1: _change_object,
    2: _add_object,
    3: _delete_object,
    4: _change_content,
    5: _change_pose,
    6: _change_color,
    7: _change_material,
    8: _change_background,
    9: _change_style,
}


def _random(rng: Random, scene: Scene) -> Change | None:
    """Two changes of different types, one after the other."""
    first, second = rng.sample([1, 2, 4, 5, 6, 7, 8], 2)
    if {first, second} == {2, 4}:  # both are about what is worn: together they are one change
        return None
    one = CHANGES[first](rng, scene)
    two = CHANGES[second](rng, one.target) if one else None
    if one is None or two is None:
        return None
    known = set(scene.caption.split()), set(two.target.caption.split())
    source_words, target_words = (
        tuple(word for word in dict.fromkeys(a + b) if word in words)
        for a, b, words in zip(one[1:3], two[1:3], known, strict=True)
    )
    return Change(two.target, source_words, target_words, f"{one.instruction} and {two.instruction}")


# --- sampling ----------------------------------------------------------------------------------------------------


def _said(thing: Thing) -> Thing:
    """The same thing with all that can be seen of it said in its caption."""
    return replace(thing, says_color=True, says_facing=thing.kind in FACING_KINDS)


def _source(rng: Random, type_id: int) -> Scene:
    background, seed = rng.choice(BACKGROUNDS), rng.randrange(1_000_000)
    if type_id in (2, 3) and rng.random() < PAIRS:
        left = _said(sample_thing(rng, 0.27, 0.19))
        right = _said(sample_thing(rng, 0.73, 0.19))
        things = (left,) if type_id == 2 else (left, right)
    else:
        things = (_said(sample_thing(rng, 0.5, 0.29)),)
    style = rng.choice(STYLES) if type_id == 9 else STYLES[0]
    return Scene(things, background, style, seed)


def sample_edit(rng: Random, type_id: int, *, unseen: bool = False) -> Edit:
    """A random edit of one type. `unseen`: neither its source nor its target shows anything that training saw
    (see `scene.held_out`)."""
    if type_id not in EDIT_TYPES:
        raise ValueError(f"there is no edit type {type_id}; choose from {', '.join(map(str, EDIT_TYPES))}")
    change = CHANGES.get(type_id, _random)
    while True:
        source = _source(rng, type_id)
        made = change(rng, source)
        if made is None or (unseen and not (held_out(source) and held_out(made.target))):
            continue
        return Edit(type_id, EDIT_TYPES[type_id], source, *made)


def sample_edits(
    count: int, types: int | Sequence[int] = tuple(EDIT_TYPES), seed: int = 0, *, unseen: bool = False
) -> list[Edit]:
    """`count` edits, the types taking turns. The same seed gives the same edits, whatever the count."""
    cycle = (types,) if isinstance(types, int) else tuple(types)
    return [
        sample_edit(Random(f"edit {seed} {i} {cycle[i % len(cycle)]}"), cycle[i % len(cycle)], unseen=unseen)
        for i in range(count)
    ]


def sample_pair_edit(rng: Random, type_id: int, *, unseen: bool = False) -> Edit:
    """A random edit of a scene with two things of different kinds: of one of the two, of the background or of the
    style. Types that add or delete an object are those of `sample_edit`, whose scenes have two things now and then."""
    if type_id in (2, 3) or type_id not in EDIT_TYPES:
        return sample_edit(rng, type_id, unseen=unseen)
    change = CHANGES.get(type_id, _random)
    while True:
        things = tuple(_said(sample_thing(rng, x, 0.19)) for x in (0.27, 0.73))
        style = rng.choice(STYLES) if type_id == 9 else STYLES[0]
        source = Scene(things, rng.choice(BACKGROUNDS), style, rng.randrange(1_000_000))
        index = rng.randrange(2)
        made = change(rng, replace(source, things=(things[index],)))
        if made is None or len(made.target.things) != 1:
            continue
        if type_id == 0 and made.target.background != source.background:  # the instruction would name one thing only
            continue
        after = tuple(made.target.things[0] if i == index else thing for i, thing in enumerate(things))
        target = replace(made.target, things=after)
        if any(len({thing.kind for thing in scene.things}) < 2 for scene in (source, target)):
            continue  # a word of the prompt would mean both
        if things[index].wearing != made.target.things[0].wearing and things[1 - index].wearing:
            continue  # and so would "the hat"
        if unseen and not (held_out(source) and held_out(target)):
            continue
        told = made.instruction
        if type_id == 8:
            told = told.replace(f"the {things[index].kind}", " and ".join(f"the {thing.kind}" for thing in things))
        return Edit(type_id, EDIT_TYPES[type_id], source, target, made.source_words, made.target_words, told)
