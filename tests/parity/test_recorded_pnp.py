"""The authors' Plug-and-Play, as recorded, through the public API."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import PARITY, relative_l2

import reinvert
from reinvert.editors.pnp import PnP
from reinvert.verbs import prepared_edit

NAME = "p1_pnp_di"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(parity_model, recorded_json) -> reinvert.Trajectory:
    """DDIM inversion: by default the source is held on it, which is direct inversion."""
    pair = recorded_json["pair"]
    return reinvert.invert(parity_model, PARITY / pair["image"], pair["src"], inversion="ddim", steps=10)


@pytest.fixture(scope="module")
def tolerance(recorded_json) -> float:
    return recorded_json["tolerances"]["pnp"]["recommended"]


def test_the_run(parity_model, path, recorded, recorded_json, tolerance) -> None:
    entry, pair = recorded_json["entries"][NAME], recorded_json["pair"]
    for level in (1, 5, 10):
        assert relative_l2(path.path[level, 0], recorded[f"{NAME}.zstar{level}"][0]) < tolerance
    result = reinvert.edit(parity_model, path, target=pair["tgt"], editor="pnp")
    assert relative_l2(result.latents[1], recorded[f"{NAME}.final"][0]) < tolerance
    assert result.forwards == len(entry["conv"]) * 3 + 2 * 2
    pixels = np.asarray(result.image)
    assert pixels.mean() == pytest.approx(entry["image"]["mean"], abs=0.6)
    assert pixels.std() == pytest.approx(entry["image"]["std"], abs=0.2)


def test_the_list_of_the_published_ddim_row(parity_model, path, recorded, recorded_json, tolerance) -> None:
    """Where that row takes the source's latents from; its first and last entries were recorded."""
    targets = ((recorded_json["pair"]["tgt"],),)
    published, _ = prepared_edit(parity_model, path, [PnP(compat="published")], targets)
    assert relative_l2(published.start[0], recorded[f"{NAME}.recon_list9"][0]) < tolerance
    assert relative_l2(published.path[1, 0], recorded[f"{NAME}.recon_list0"][0]) < tolerance
