"""Fixed-point inversion: DDIM inversion at none, the sampler's own path at many iterations, averaging, cost."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import SOURCE, gap, watch_walk

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.fixed_point import FixedPoint

STEPS = 5


def test_no_iterations_is_ddim_inversion(tiny64, clean) -> None:
    source = Source(tiny64, clean, (SOURCE, "a red house"), STEPS)
    assert torch.equal(FixedPoint(iterations=0).invert(source).path, DDIM().invert(source).path)


@pytest.mark.parametrize(("iterations", "average", "guidance"), [(3, 1, 1.0), (3, 2, 1.0), (2, 3, 2.0)])
def test_a_path_is_the_naive_one(tiny64, clean, iterations: int, average: int, guidance: float) -> None:
    method = FixedPoint(iterations=iterations, average=average, inversion_guidance=guidance)
    found = method.invert(Source(tiny64, clean[:1], (SOURCE,), STEPS)).path
    said, empty = naive.encode(tiny64, [SOURCE]), naive.encode(tiny64, [""])
    z = clean[:1]
    for k, t in enumerate(reversed(naive.times(STEPS)), 1):
        a, b = naive.coefficients(t, STEPS)
        guess, predictions = z, []
        for _ in range(iterations + 1):
            text = naive.ask(tiny64, guess, t, said)
            null = naive.ask(tiny64, guess, t, empty)
            predictions.append(null + guidance * (text - null))
            guess = (z - b * predictions[-1]) / a
        z = (z - b * sum(predictions[-average:]) / average) / a
        assert gap(found[k], z) < 1e-9


@pytest.mark.slow
def test_more_iterations_lead_back_better(tiny64, clean) -> None:
    """The sampler at guidance 1 follows the path backwards, the better the more the equation is solved."""
    errors = []
    for iterations in (0, 4, 10):
        path = FixedPoint(iterations=iterations).invert(Source(tiny64, clean[:1], (SOURCE,), 30))
        errors.append(gap(watch_walk(tiny64, path, guidance=1.0)[-1][0], clean[:1]))
    assert errors[1] < 0.2 * errors[0]
    assert errors[2] < 0.2 * errors[1]


def test_what_it_costs(tiny64, clean) -> None:
    before = tiny64.tally.copy()
    FixedPoint(iterations=3).invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    assert tiny64.tally.since(before).forwards == 4 * STEPS


def test_held_on_its_path_it_is_exact(tiny64, clean) -> None:
    path = FixedPoint(strength=1.0).invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    assert torch.equal(watch_walk(tiny64, path)[-1][0], clean[:1])


def test_wrong_settings_are_said_in_a_sentence() -> None:
    for wrong, said in (({"iterations": -1}, "count"), ({"average": 0}, "average"), ({"average": 9}, "at most")):
        with pytest.raises(ReinvertError, match=said):
            FixedPoint(**wrong)
