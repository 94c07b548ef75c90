"""The world as values: captions, what is held out, and the edits."""

from __future__ import annotations

import dataclasses
import re
from random import Random

import pytest

from reinvert.picturebook.edits import EDIT_TYPES, Edit, sample_edits
from reinvert.picturebook.scene import (
    BACKGROUNDS,
    COLORS,
    FACING_KINDS,
    KINDS,
    MATERIALS,
    PLACE,
    WEARABLES,
    WEARER_KINDS,
    Scene,
    Thing,
    held_out,
    sample_scene,
)

PHRASE = (
    rf"an? (({'|'.join(COLORS)}) )?(({'|'.join(MATERIALS[1:])}) )?({'|'.join(KINDS)})"
    rf"( wearing a ({'|'.join(WEARABLES)}))?( facing (left|right))?"
)
CAPTION = re.compile(rf"(a sketch of |a neon sign of )?{PHRASE}( and {PHRASE})? ({'|'.join(PLACE.values())})")


def test_captions_say_what_the_scene_holds():
    cat = Thing("cat", "orange", "striped", "left", "hat", says_facing=True)
    assert Scene((cat,), "sea").caption == "an orange striped cat wearing a hat facing left in the sea"
    assert Scene((cat, Thing("boat")), "night", "neon").caption == (
        "a neon sign of an orange striped cat wearing a hat facing left and a red boat at night"
    )
    assert Scene((Thing("house", says_color=False, says_facing=True),)).caption == "a house on grass"


@pytest.mark.parametrize(
    "wrong", [{"kind": "cow"}, {"kind": "cat", "color": "beige"}, {"kind": "cat", "wearing": "scarf"}]
)
def test_a_thing_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValueError, match="picturebook has no"):
        Thing(**wrong)
    with pytest.raises(ValueError, match="picturebook has no background"):
        Scene((Thing("cat"),), "moon")


def test_sampled_scenes_have_sensible_captions_and_the_same_seed_gives_the_same():
    scenes = [sample_scene(Random(i), pairs=0.5, styled=0.5) for i in range(500)]
    assert scenes == [sample_scene(Random(i), pairs=0.5, styled=0.5) for i in range(500)]
    for scene in scenes:
        assert CAPTION.fullmatch(scene.caption), scene.caption
        for thing in scene.things:
            assert thing.wearing is None or thing.kind in WEARER_KINDS
            assert not thing.says_facing or thing.kind in FACING_KINDS


def test_what_is_held_out_stays_held_out():
    combos = [(k, c, b) for k in KINDS for c in COLORS for b in BACKGROUNDS]
    out = {combo for combo in combos if held_out(Scene((Thing(combo[0], combo[1]),), combo[2]))}
    assert len(out) == 51
    assert len(combos) == 480
    assert {("cat", "orange", "sand"), ("dog", "red", "grass"), ("dog", "red", "snow")} <= out
    assert ("cat", "red", "grass") not in out
    # Every word is still seen in training, and no object loses a colour altogether.
    for kind in KINDS:
        for color in COLORS:
            assert any((kind, color, b) not in out for b in BACKGROUNDS)
    pair = Scene((Thing("cat", "red"), Thing("cat", "orange")), "sand")
    assert held_out(pair)
    assert not held_out(dataclasses.replace(pair, things=pair.things[:1]))


# --- edits -------------------------------------------------------------------------------------------------------

EDITS = sample_edits(400)


def differing_fields(edit: Edit) -> set[str]:
    """Which fields of the scene, and of its first thing, differ."""
    one, two = edit.source, edit.target
    fields = {f.name for f in dataclasses.fields(Scene) if getattr(one, f.name) != getattr(two, f.name)} - {"things"}
    if len(one.things) != len(two.things):
        fields.add("things")
    a, b = one.things[0], two.things[0]
    return fields | {f.name for f in dataclasses.fields(Thing) if getattr(a, f.name) != getattr(b, f.name)}


EXPECTED = {
    1: [{"kind"}],
    2: [{"wearing"}, {"things"}],
    3: [{"wearing"}, {"things"}],
    4: [{"wearing"}],
    5: [{"facing"}],
    6: [{"color"}],
    7: [{"material"}],
    8: [{"background"}],
    9: [{"style"}],
}


def test_every_type_can_be_expressed_and_changes_only_what_it_names():
    assert {edit.type_id for edit in EDITS} == set(EDIT_TYPES) == set(range(10))
    for edit in EDITS:
        fields = differing_fields(edit)
        if edit.type_id == 0:
            assert len(fields) == 2, edit
        else:
            assert fields in EXPECTED[edit.type_id], edit
    both_sorts = {tuple(differing_fields(e)) for e in EDITS if e.type_id in (2, 3)}
    assert both_sorts == {("wearing",), ("things",)}


def test_an_edit_says_all_that_differs_and_its_words_occur():
    for edit in EDITS:
        assert edit.type_name == EDIT_TYPES[edit.type_id]
        assert edit.instruction
        assert edit.source_prompt != edit.target_prompt
        for prompt, words, scene in (
            (edit.source_prompt, edit.source_words, edit.source),
            (edit.target_prompt, edit.target_words, edit.target),
        ):
            assert CAPTION.fullmatch(prompt), prompt
            assert set(words) <= set(prompt.split())
            for thing in scene.things:
                assert thing.says_color
                assert thing.color in prompt.split()
                assert thing.says_facing or thing.kind not in FACING_KINDS
        assert bool(edit.source_words or edit.target_words) == (edit.type_id != 9)


def test_edits_depend_on_the_seed_alone():
    assert sample_edits(40) == EDITS[:40]
    assert sample_edits(40, seed=1) != EDITS[:40]
    assert {edit.type_id for edit in sample_edits(9, (1, 6, 8))} == {1, 6, 8}
    assert {edit.type_id for edit in sample_edits(3, 5)} == {5}
    with pytest.raises(ValueError, match="there is no edit type 10"):
        sample_edits(1, 10)


def test_unseen_edits_show_only_held_out_combinations():
    edits = sample_edits(60, unseen=True)
    assert all(held_out(edit.source) and held_out(edit.target) for edit in edits)
    assert not all(held_out(edit.source) for edit in EDITS)
