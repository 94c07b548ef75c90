"""The recorded values of the published evaluator's pixel metrics, in compat mode."""

from __future__ import annotations

import json

import pytest
from conftest import PARITY

from reinvert.bench.score.columns import Networks, Scores, score
from reinvert.image import open_image, open_mask

INPUTS = PARITY / "inputs"
RECORDED = json.loads((PARITY / "metrics.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def scored():
    made: dict[str, Scores] = {}

    def get(name: str) -> Scores:
        if name not in made:
            said = RECORDED[name]
            mask = open_mask(INPUTS / "mask1_512.png")
            if said["mask"] == "full":
                mask = mask.point(lambda level: 255)
            source, edited = (open_image(INPUTS / said[which]) for which in ("source", "target"))
            wanted = list(said["values"])
            made[name] = score(source, edited, mask, None, None, "compat", Networks(), columns=wanted)
        return made[name]

    return get


@pytest.mark.parametrize(("name", "column"), [(n, c) for n, said in RECORDED.items() for c in said["values"]])
def test_recorded_value(scored, recorded_json, name: str, column: str) -> None:
    wanted = RECORDED[name]["values"][column]
    found = scored(name).values[column]
    if wanted == "nan":
        assert found is None
        assert scored(name).reasons[column] == "the mask covers the whole picture: there is no unedited part"
    else:
        allowed = recorded_json["tolerances"]["metrics"]["recommended_abs"][column.split("_")[0]]
        assert found == pytest.approx(wanted, abs=allowed)


def test_every_recorded_column_is_one_of_ours(scored) -> None:
    assert all(set(scored(name).values) == set(said["values"]) for name, said in RECORDED.items())
