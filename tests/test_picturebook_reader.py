"""The attribute reader: what counts as right, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from reinvert.picturebook.draw import draw
from reinvert.picturebook.edits import sample_edits
from reinvert.picturebook.evaluate import psnr, rates
from reinvert.picturebook.reader import (
    HEADS,
    UNSEEN,
    Network,
    Reader,
    changed,
    get_reader,
    reader_scenes,
    score,
    train_reader,
    truth,
)
from reinvert.picturebook.reader import _labels as labels_of
from reinvert.picturebook.scene import Scene, Thing

CAT = Thing("cat", "blue", "metal", "left", "hat", says_facing=True)
STAR = Thing("star", "red", x=0.27)


def test_the_truth_is_told_by_slot():
    assert truth(Scene((CAT,), "sea", "neon")) == {
        "background": "sea", "style": "neon", "count": "1", "only.kind": "cat", "only.color": "blue",
        "only.material": "metal", "only.wearing": "hat", "only.facing": "left",
    }  # fmt: skip
    pair = truth(Scene((replace(CAT, x=0.73), STAR)))
    assert (pair["left.kind"], pair["right.kind"], pair["count"]) == ("star", "cat", "2")
    assert "left.facing" not in pair  # nobody sees where a star looks
    assert "only.facing" not in truth(Scene((replace(CAT, says_facing=False),)), said=True)


def test_every_answer_of_the_truth_has_a_head():
    scenes = reader_scenes(300, 0)
    for scene, row in zip(scenes, labels_of(scenes).tolist(), strict=True):
        true = truth(scene)
        assert all(value in HEADS[name] for name, value in true.items())
        assert sum(label != UNSEEN for label in row) == len(true)


def test_what_an_edit_changes_is_what_is_asked_of_the_reader():
    for edit in sample_edits(100):
        asked = changed(edit)
        assert asked
        assert not any(truth(edit.source).get(name) == value for name, value in asked.items())
        wanted = {1: "kind", 4: "wearing", 5: "facing", 6: "color", 7: "material", 8: "background", 9: "style"}
        if edit.type_id in wanted:
            assert [name.rpartition(".")[2] for name in asked] == [wanted[edit.type_id]]


def test_scores_and_rates_count_by_thing():
    one, two = Scene((CAT,), "sea"), Scene((STAR, replace(CAT, x=0.73)), "sand")
    right = [truth(one), truth(two)]
    assert set(rates([one, two], right).values()) == {1.0}
    wrong = [right[0] | {"only.color": "red"}, right[1] | {"left.kind": "cat"}]
    found = rates([one, two], wrong)
    assert (found["color"], found["kind"], found["kind+color"], found["kind+color+background"]) == (0, 1, 0, 0)
    assert (found["pair.kind"], found["pair.kind+color"], found["pair.kind+color+background"]) == (0.5, 0.5, 0)
    assert found["background"] == 1
    assert score([one], wrong[:1])["facing"] == 1


@pytest.mark.slow
def test_a_little_training_beats_guessing_and_is_repeatable(tmp_path):
    reader = train_reader(320, 6, batch=32)
    scenes = reader_scenes(120, 9)
    pictures = [draw(scene) for scene in scenes]
    answers = reader.read(pictures)
    found = score(scenes, answers)
    assert found["background"] > 0.8
    assert found["color"] > 0.25
    assert reader.read(pictures[5:6]) == answers[5:6]
    assert reader.read([draw(scenes[0], 128, "simple")])[0]["background"] == scenes[0].background
    again = train_reader(64, 1, batch=32)
    for a, b in zip(again.network.parameters(), train_reader(64, 1, batch=32).network.parameters(), strict=True):
        assert torch.equal(a, b)

    path = tmp_path / "reader.safetensors"
    reader.save(path)
    kept = get_reader(path)
    assert kept.read(pictures) == answers


def test_a_reader_that_is_missing_damaged_or_of_another_world_is_not_believed(tmp_path, monkeypatch):
    path = tmp_path / "reader.safetensors"
    assert Reader.load(path) is None
    path.write_bytes(b"nonsense")
    assert Reader.load(path) is None
    Reader(Network()).save(path)
    assert Reader.load(path) is not None
    monkeypatch.setattr("reinvert.picturebook.reader.world", lambda: "another")
    assert Reader.load(path) is None


def test_psnr_is_that_of_eight_bit_pictures_within_a_region():
    a = draw(Scene((CAT,)))
    pixels = np.asarray(a).astype(int)
    pixels[:32] = np.clip(pixels[:32] - 10, 0, 255)
    from PIL import Image

    b = Image.fromarray(pixels.astype(np.uint8))
    top = np.zeros((64, 64), dtype=bool)
    top[:32] = True
    mse = np.square(np.asarray(a, float) - np.asarray(b, float))[:32].mean()
    assert psnr(a, b, top) == pytest.approx(10 * np.log10(255**2 / mse))
    assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 / (mse / 2)))
    assert psnr(a, b, ~top) == 99
    assert np.isnan(psnr(a, b, top & ~top))
