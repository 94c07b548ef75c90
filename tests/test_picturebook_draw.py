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

from reinvert.errors import ReinvertError
from reinvert.picturebook.draw import DETAILS, SIZE, detail_of, draw, thing_masks, true_edit
from reinvert.picturebook.edits import EDIT_TYPES, sample_edits
from reinvert.picturebook.scene import STYLES, Scene, Thing, sample_scene

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


@pytest.mark.parametrize(("size", "detail"), [(32, None), (64, None), (128, "simple"), (64, "fine"), (192, None)])
def test_any_size_can_be_drawn_and_shows_the_same(size, detail):
    scene = sample_scene(Random(1))
    picture = draw(scene, size, detail)
    assert picture.size == (size, size)
    assert picture.mode == "RGB"
    small = np.asarray(picture.resize((16, 16)), dtype=float)
    same = draw(scene, 128 if detail_of(size, detail) == "fine" else 64)
    assert np.abs(small - np.asarray(same.resize((16, 16)), dtype=float)).mean() < 6


def test_what_the_bundled_model_knows_is_drawn_as_it_was():
    """The bytes of before there was any other detail: the bundled model was trained on them."""
    rng = Random(5)
    drawn = hashlib.sha256(b"".join(draw(sample_scene(rng, styled=0.3, pairs=0.3)).tobytes() for _ in range(60)))
    assert drawn.hexdigest() == "93fdac41d7efd83c332c5d10566a645a0c835afada9d1854473aafc4285731b9"


def test_the_detail_follows_the_size_and_can_be_asked_for():
    scene = Scene((Thing("cat"),))
    pictures = {
        (size, detail): draw(scene, size, detail).tobytes() for size in (64, 128) for detail in (None, *DETAILS)
    }
    assert pictures[64, None] == pictures[64, "simple"] != pictures[64, "fine"]
    assert pictures[128, None] == pictures[128, "fine"] != pictures[128, "simple"]
    with pytest.raises(ReinvertError, match="no detail 'rich'"):
        detail_of(64, "rich")


@pytest.mark.parametrize("size", [64, 128])
def test_every_attribute_is_visible(size):
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
    plain = np.asarray(draw(scene, size), dtype=float)
    for other in others:
        assert np.abs(np.asarray(draw(other, size), dtype=float) - plain).mean() > 1, other.caption


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


# --- full detail -------------------------------------------------------------------------------------------------


def test_full_detail_gives_the_same_bytes_in_another_process_too():
    program = PROGRAM.replace("draw(sample_scene(rng))", "draw(sample_scene(rng), 128)").replace(
        "range(20)", "range(5)"
    )
    rng = Random(5)
    here = hashlib.sha256(b"".join(draw(sample_scene(rng), 128).tobytes() for _ in range(5))).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    )
    assert there.stdout.decode().strip() == here


@pytest.mark.parametrize("type_id", EDIT_TYPES)
def test_outside_the_mask_a_true_edit_in_full_detail_is_its_source(type_id):
    for edit in sample_edits(4, type_id, seed=3):
        source = np.asarray(edit.picture(128))
        picture, mask = edit.truth(128)
        target = np.asarray(picture)
        assert (source[~mask] == target[~mask]).all(), edit
        assert (source != target).any(), edit
        assert (target == np.asarray(draw(edit.target, 128))).all()
        # Tight: what is in the mask differs, or belongs to what the edit is about.
        about = np.zeros_like(mask)
        for scene, other in ((edit.source, edit.target), (edit.target, edit.source)):
            for thing, cover in zip(scene.things, thing_masks(scene, 128), strict=True):
                about |= cover & (thing not in other.things)
        if type_id in range(1, 8):
            assert (mask == (about | (source != target).any(-1))).all(), edit
            assert 0.01 < mask.mean() < 0.75
        elif type_id == 8:
            thing = thing_masks(edit.source, 128)[0]
            assert (mask | thing).all()
            assert (mask & thing).sum() < 0.2 * thing.sum()  # its rim only, where the place shows through
        elif type_id == 9:
            assert mask.all()


def test_a_thing_in_full_detail_has_its_shadow_on_the_ground_and_its_mask_without_it():
    scene = Scene((Thing("star"),), "snow")
    (mask,) = thing_masks(scene, 128)
    gone = np.asarray(draw(replace(scene, things=()), 128), dtype=int)
    drawn = np.asarray(draw(scene, 128), dtype=int)
    ground = ~mask & (np.arange(128)[:, None] > 100)
    assert ((gone - drawn)[ground].sum(-1) > 30).sum() > 60
    turned = scene.with_thing(color="blue")
    assert (true_edit(scene, turned, 128)[1] == mask).all()


@pytest.mark.parametrize("style", STYLES)
def test_things_at_the_edge_of_the_picture_are_cut(style):
    scene = Scene((Thing("boat", x=0.02, ground=1.1, size=0.4), Thing("snowman", x=1.0, ground=0.1)), "sea", style)
    assert draw(scene, 128).size == (128, 128)
    Scene((Thing("cat", x=0.0, ground=0.0, size=0.02, wearing="hat"),), "sea", style)
    assert draw(scene, 16, "fine").size == (16, 16)
