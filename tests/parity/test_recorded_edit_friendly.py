"""The authors' edit-friendly DDPM inversion with Prompt-to-Prompt, as recorded, through the public API."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import PARITY, relative_l2

import reinvert
from reinvert.level import Moment
from reinvert.steps import deviation

PICTURE = PARITY / "inputs" / "img1_512.png"
NAME = "p1_ef_skip0"


@pytest.fixture(scope="module")
def common(recorded_json) -> dict:
    """The recorded run as arguments; `skip` and the size of the windows coincide, because nothing was skipped."""
    return {
        "inversion": "edit_friendly",
        "steps": recorded_json["entries"][NAME]["N"],
        "seed": 1234,
        "skip": 0.0,
        "compat": "published",
    }


@pytest.fixture(scope="module")
def stored(parity_model, recorded_json, common) -> reinvert.Trajectory:
    return reinvert.invert(parity_model, PICTURE, recorded_json["pair"]["src"], form="stored", **common)


@pytest.fixture(scope="module")
def tolerance(recorded_json) -> float:
    return recorded_json["tolerances"]["edit-friendly"]["recommended"]


def test_the_noised_latents(stored, recorded, tolerance) -> None:
    for level, wanted in zip((1, 4, 10), recorded[f"{NAME}.xts_sampled"], strict=True):
        assert relative_l2(stored.path[level, 0], wanted) < tolerance


def test_the_noise_maps(parity_model, stored, recorded, tolerance) -> None:
    times = parity_model.times(10)
    for z, k in zip(recorded[f"{NAME}.zs"], (0, 1, 5, 9), strict=True):
        t, s = times[9 - k], times[10 - k]
        sigma = deviation(Moment(9 - k, 10, t, s, parity_model.level(t), parity_model.level(s)))
        if k == 0:
            assert not stored.kept["shifts"][0].any()
            assert not z.any()
        else:
            assert relative_l2(stored.kept["shifts"][k, 0] / sigma, z) < tolerance


@pytest.mark.slow
def test_the_edit(parity_model, recorded, recorded_json, common, tolerance) -> None:
    entry, pair = recorded_json["entries"][NAME], recorded_json["pair"]
    rules = {"editor": "p2p", "kind": "replace", "self_grid": 0.25, "windows": "grid"}
    result = reinvert.edit(parity_model, PICTURE, source=pair["src"], target=pair["tgt"], **rules, **common)
    for row in range(2):
        assert relative_l2(result.latents[row], recorded[f"{NAME}.final"][row]) < tolerance
    assert result.forwards == 1 + 10 * 3  # of the published 10 * 2 + 10 * 4 (and 20 more for an edit nobody sees)
    pixels = np.asarray(result.image)
    assert pixels.mean() == pytest.approx(entry["image"]["mean"], abs=0.6)
    assert pixels.std() == pytest.approx(entry["image"]["std"], abs=0.2)


@pytest.mark.slow
def test_the_target_alone(parity_model, stored, recorded, recorded_json, tolerance) -> None:
    """The reverse process with the target prompt and no attention edit, from the stored maps."""
    result = reinvert.edit(parity_model, stored, target=recorded_json["pair"]["tgt"], editor="prompt")
    assert relative_l2(result.latents[1], recorded[f"{NAME}.plain_target"][0]) < tolerance
    assert result.forwards == 20
