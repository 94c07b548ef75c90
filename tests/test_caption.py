"""Captions and JSON are read back into the scenes that wrote them."""

from __future__ import annotations

import json
from random import Random

import pytest

from reinvert.errors import ReinvertError
from reinvert.picturebook.caption import read_caption, read_scene, scene_json
from reinvert.picturebook.scene import sample_scene

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
