"""BDIA: exact up and down, against the paper's own form of the update, and its cost."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

import reinvert
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor
from reinvert.inversions.base import Source
from reinvert.inversions.bdia import BDIA
from reinvert.inversions.ddim import DDIM

STEPS = 6


@pytest.mark.parametrize("steps", [2, 5, 6])
@pytest.mark.parametrize(("gamma", "guidance"), [(1.0, 1.0), (0.9, 1.0), (1.0, 2.0)])
def test_down_undoes_up(tiny64, clean, steps: int, gamma: float, guidance: float) -> None:
    method = BDIA(gamma=gamma, source_guidance=guidance)
    path = method.invert(Source(tiny64, clean, (SOURCE, "a red house"), steps))
    walked = watch_walk(tiny64, path)
    for i, x in enumerate(walked):
        assert gap(x[0], path.path[len(walked) - 1 - i]) < 1e-10
    assert gap(walked[-1][0], clean) < 1e-10


def test_a_float32_network_is_exact_as_well(tiny, picture) -> None:
    clean = tiny.encode(to_tensor([picture]))
    path = BDIA().invert(Source(tiny, clean, (SOURCE,), STEPS))
    assert path.path.dtype == torch.float64
    assert gap(watch_walk(tiny, path)[-1][0], clean) < 1e-10


def test_an_edit_is_the_papers_update(tiny64, clean) -> None:
    """z_{i-1} = gamma z_{i+1} - gamma (z_i / a_{i+1} - b_{i+1} / a_{i+1} e) + a_i z_i + b_i e."""
    path = BDIA(gamma=0.9).invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    said, empty = naive.encode(tiny64, [TARGET]), naive.encode(tiny64, [""])
    above, z = path.kept["before"][0], path.path[-1]
    walked = watch_walk(tiny64, path, [TARGET], guidance=4.0)
    grid = naive.times(STEPS)
    for i, t in enumerate(grid[1:]):
        null, text = naive.ask(tiny64, z, t, empty), naive.ask(tiny64, z, t, said)
        e = null + 4.0 * (text - null)
        a, b = naive.coefficients(t, STEPS)
        a_up, b_up = naive.coefficients(grid[i], STEPS)
        above, z = z, 0.9 * above - 0.9 * (z / a_up - b_up / a_up * e) + a * z + b * e
        assert gap(walked[i][1], z) < 1e-9
        assert torch.equal(walked[i][0], path.path[STEPS - 2 - i])


def test_the_way_up_begins_like_ddim_inversion(tiny64, clean) -> None:
    source = Source(tiny64, clean[:1], (SOURCE,), STEPS)
    assert gap(BDIA().invert(source).path[1], DDIM().invert(source).path[1]) < 1e-12


def test_what_is_needed_is_evaluated(tiny, picture) -> None:
    asked = {"source": SOURCE, "target": TARGET, "inversion": "bdia", "editor": "prompt", "steps": STEPS}
    assert reinvert.edit(tiny, picture, **asked).forwards == STEPS + 2 * (STEPS - 1)


def test_wrong_settings_are_said_in_a_sentence(tiny64, clean) -> None:
    with pytest.raises(ReinvertError, match="gamma"):
        BDIA(gamma=0.0)
    with pytest.raises(ReinvertError, match="at least 2"):
        BDIA().invert(Source(tiny64, clean[:1], (SOURCE,), 1))
