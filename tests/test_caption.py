"""Captions and JSON are read back into the scenes that wrote them."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest

from reinvert.errors import ReinvertError
from reinvert.picturebook.caption import read_caption, read_scene, scene_json
from reinvert.picturebook.scene import Scene, caption_words, sample_scene
from reinvert.picturebook.tokenizer import build_tokenizer
from reinvert.picturebook.wording import STANDS, plainly, reword, words

SCENES = [sample_scene(Random(i), pairs=0.4, styled=0.4) for i in range(300)]


def test_every_caption_is_read_back():
    for i, scene in enumerate(SCENES):
        assert read_caption(scene.caption, seed=i).caption == scene.caption


def test_every_scene_survives_json():
    for scene in SCENES:
        assert read_scene(json.dumps(scene_json(scene))) == scene
        assert read_scene(json.dumps({"caption": "", "scene": scene_json(scene)})) == scene


def test_a_seed_gives_one_layout_for_every_wording():
    cat, dog = read_caption("a red cat on grass", 5), read_caption("a blue striped dog in snow", 5)
    assert (cat.things[0].x, cat.things[0].ground, cat.things[0].size, cat.things[0].facing) == (
        dog.things[0].x,
        dog.things[0].ground,
        dog.things[0].size,
        dog.things[0].facing,
    )
    assert read_caption("a red cat on grass", 6) != cat


# --- captions as people write them -------------------------------------------------------------------------------


def twins(scene: Scene) -> Scene:
    """The second thing made of the first one's kind."""
    first, *others = scene.things
    same = [replace(b, kind=first.kind, wearing=first.wearing, material=first.material) for b in others]
    return replace(scene, things=(first, *same))


WORDED = [twins(scene) if i % 2 else scene for i, scene in enumerate(SCENES)]


def test_every_rewording_is_read_as_what_it_says():
    for i, scene in enumerate(WORDED):
        written = reword(scene, Random(i), near=0.5)
        assert plainly(written.text) == written.plain, written.text
        assert read_caption(written.text, i).style == scene.style


def test_rewordings_say_the_truth_and_leave_things_out():
    for i, scene in enumerate(WORDED):
        whole = reword(scene, Random(i), unsaid=0.0)
        assert all(thing.color in whole.plain.caption for thing in scene.things)
        sides = [STANDS["left" if t.x < 0.4 else "right" if t.x > 0.6 else "middle"] for t in scene.things]
        assert all(side is None or STANDS[side] in sides for side in whole.plain.stands)
    texts = [reword(scene, Random(i)).text for i, scene in enumerate(WORDED)]
    assert texts == [reword(scene, Random(i)).text for i, scene in enumerate(WORDED)]
    some = " ".join(texts)
    for phrase in ("two ", " one and ", "on the left", "in the middle", "kitten", "snow man", "party hat", "that is "):
        assert phrase in some, phrase
    assert sum(text.startswith(("in ", "on ", "at ", "by ")) for text in texts) > 30


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("In the snow, a cat.", "a cat in snow"),
        ("two kittens: a crimson one and a blue one at sea", "a red cat and a blue cat in the sea"),
        ("two striped cats looking left", "a striped cat facing left and a striped cat facing left"),
        ("a snow man with a party hat as a neon sign indoors", "a neon sign of a snowman wearing a hat in a room"),
        ("a puppy that is red and spotted, a boat made of metal", "a red dotted dog and a metal boat"),
        ("a pencil sketch of a stripy azure ship", "a sketch of a blue striped boat"),
    ],
)
def test_what_other_words_say(text: str, plain: str):
    found = plainly(text)
    assert found is not None
    assert found.caption == plain


def test_a_caption_says_where_things_stand():
    left, alone = read_caption("a red cat on the left", 3), read_caption("a red cat", 3)
    assert left.things[0].x == pytest.approx(alone.things[0].x - 0.2)
    assert read_caption("a red cat in the middle", 3).things[0].x == alone.things[0].x
    pair = read_caption("on the right a blue dog, a red cat on the left, in snow", 3)
    assert [(thing.kind, thing.x > 0.5) for thing in pair.things] == [("dog", True), ("cat", False)]
    with pytest.raises(ReinvertError, match="one stands on the left and one on the right"):
        read_caption("a red cat on the left and a dog on the left")


@pytest.mark.parametrize("text", ["a cat on mars", "two elephants", "a cat in the snow at night", "three cats", ""])
def test_what_no_words_of_the_world_say_is_not_read(text: str):
    assert plainly(text) is None
    with pytest.raises(ReinvertError):
        read_caption(text)


def test_the_words_of_rewordings_are_tokens_of_a_tokenizer_that_is_built_with_them(tmp_path):
    tokenizer = build_tokenizer(tmp_path, words(), 64)
    known = {*words(), *caption_words(), "a"}
    for i, scene in enumerate(WORDED):
        text = reword(scene, Random(i), near=0.5).text
        assert set(text.replace(",", "").split()) <= known, text
        assert len(tokenizer(text)["input_ids"]) < 64
    assert len(tokenizer.tokenize("two kittens in a meadow")) == 5


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("", "describe a scene"),
        ("an elephant on grass", "'elephant'"),
        ("a dgo", "did you mean dog"),
        ("a red boat wearing a hat in the sea", "a boat wears nothing"),
        ("a tree facing left at night", "same from both sides"),
        ("a cat on mars", "on grass"),
        ("a cat and a dog and a fish", "one or two things"),
        ("a cat wearing a shoe", "hat, crown"),
        ("a cat wearing", "hat, crown"),
        ("a", "cannot draw"),
    ],
)
def test_wrong_captions(caption: str, said: str):
    with pytest.raises(ReinvertError, match=said):
        read_caption(caption)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "the scene is an empty list, not a table of things, background"),
        ("{}", "things"),
        ('{"things": []}', "things is an empty list; it takes a list of 1 to 2"),
        ('{"things": [3]}', r"things\[0\] is 3; it takes a table of kind,"),
        ('{"things": [{"kind": "cow"}]}', "no 'cow'"),
        ('{"things": [{"kind": "cat", "hat": 1}]}', r"unknown entry 'things\[0\]\.hat'; there are kind,"),
        ('{"things": [{"kind": "cat", "x": "left"}]}', r"things\[0\]\.x is 'left'; it takes a number from 0 to 1"),
        ('{"things": [{"kind": "cat", "size": NaN}]}', r"things\[0\]\.size is nan; it takes a number from 0.02 to 1"),
        ('{"things": [{}]}', "kind"),
        (
            '{"things": [{"kind": "cat"}], "background": "moon"}',
            "background is 'moon' .picturebook has no 'moon'.; it takes",
        ),
        ('{"things": [{"kind": "cat"}], "seed": "x"}', "seed"),
    ],
)
def test_wrong_scenes(text: str, said: str):
    with pytest.raises(ReinvertError, match=said):
        read_scene(text)
