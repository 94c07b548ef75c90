"""The authors' direct inversion with MasaCtrl, as recorded, through the public API."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import PARITY, relative_l2

import reinvert

NAME = "p1_masa_di"
pytestmark = pytest.mark.slow


def test_the_run(parity_model, recorded, recorded_json) -> None:
    entry, pair = recorded_json["entries"][NAME], recorded_json["pair"]
    tolerance = recorded_json["tolerances"]["masactrl"]["recommended"]
    picture = PARITY / pair["image"]
    path = reinvert.invert(parity_model, picture, "", inversion="direct", steps=entry["N"])
    for level in (1, 5, 10):
        assert relative_l2(path.path[level, 0], recorded[f"{NAME}.zstar{level}"][0]) < tolerance
    result = reinvert.edit(parity_model, path, target=pair["tgt"], editor="masactrl", start_step=entry["step"])
    for row in range(2):
        assert relative_l2(result.latents[row], recorded[f"{NAME}.final"][row]) < tolerance
    assert result.forwards == 4 * 2 + 6 * 3
    pixels = np.asarray(result.image)
    assert pixels.mean() == pytest.approx(entry["image"]["mean"], abs=0.6)
    assert pixels.std() == pytest.approx(entry["image"]["std"], abs=0.2)
