"""Drawing is deterministic, and the true edit differs from its source inside its mask only."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from reinvert.picturebook.draw import SIZE, draw, thing_masks, true_edit
from reinvert.picturebook.edits import EDIT_TYPES, sample_edits
from reinvert.picturebook.scene import Scene, Thing, sample_scene

PROGRAM = """
import hashlib
from random import Random
from reinvert.picturebook.draw import draw
from reinvert.picturebook.scene import sample_scene
rng = Random(5)
print(hashlib.sha256(b"".join(draw(sample_scene(rng)).tobytes() for _ in range(20))).hexdigest())
"""


def test_the_same_scene_gives_the_same_bytes_in_another_process_too():
    rng = Random(5)
    here = hashlib.sha256(b"".join(draw(sample_scene(rng)).tobytes() for _ in range(20))).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    )
    assert there.stdout.decode().strip() == here


@pytest.mark.parametrize("size", [32, 64, 128])
def test_any_size_can_be_drawn_and_shows_the_same(size):
    scene = sample_scene(Random(1))
    picture = draw(scene, size)
    assert picture.size == (size, size)
    assert picture.mode == "RGB"
    small = np.asarray(picture.resize((16, 16)), dtype=float)
    assert np.abs(small - np.asarray(draw(scene, 64).resize((16, 16)), dtype=float)).mean() < 6


def test_every_attribute_is_visible():
    cat = Thing("cat", "red", "plain", "right", None)
    scene = Scene((cat,), "grass")
    others = [
        scene.with_thing(kind="dog"),
        scene.with_thing(color="blue"),
        scene.with_thing(material="striped"),
        scene.with_thing(material="dotted"),
        scene.with_thing(material="metal"),
        scene.with_thing(facing="left"),
        scene.with_thing(wearing="hat"),
        scene.with_thing(wearing="crown"),
        replace(scene, background="night"),
        replace(scene, style="sketch"),
        replace(scene, style="neon"),
    ]
    plain = np.asarray(draw(scene), dtype=float)
    for other in others:
        assert np.abs(np.asarray(draw(other), dtype=float) - plain).mean() > 1, other.caption


def test_things_cover_what_they_should():
    left, right = Thing("cat", x=0.27, size=0.19), Thing("house", x=0.73, size=0.19)
    masks = thing_masks(Scene((left, right)))
    assert [mask.shape for mask in masks] == [(SIZE, SIZE)] * 2
    assert masks[0][:, :32].sum() > 100 > masks[0][:, 40:].sum()
    assert masks[1][:, 32:].sum() > 100 > masks[1][:, :24].sum()


@pytest.mark.parametrize("type_id", EDIT_TYPES)
def test_outside_the_mask_the_true_edit_is_its_source(type_id):
    for edit in sample_edits(20, type_id, seed=3):
        source = np.asarray(edit.picture())
        picture, mask = edit.truth()
        target = np.asarray(picture)
        assert mask.dtype == bool
        assert mask.shape == source.shape[:2]
        assert (source[~mask] == target[~mask]).all(), edit
        assert (source != target).any(), edit
        assert (target == np.asarray(draw(edit.target))).all()
        share = mask.mean()
        if type_id in (1, 2, 3, 4, 5, 6, 7):
            assert 0.01 < share < 0.75, (edit, share)
        elif type_id == 8:
            thing = thing_masks(edit.source)[0]
            assert 0.3 < share < 0.97
            assert not (mask & thing).sum() > 0.5 * thing.sum()
        elif type_id == 9:
            assert share == 1


def test_the_mask_is_the_thing_even_where_no_pixel_changes():
    """A colour edit may leave eyes and hat as they are; they belong to what the edit is about."""
    scene = Scene((Thing("cat", "red", wearing="crown"),))
    _, mask = true_edit(scene, scene.with_thing(color="blue"))
    assert (mask == thing_masks(scene)[0]).all()
