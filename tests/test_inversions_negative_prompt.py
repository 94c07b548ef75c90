"""Negative-prompt inversion: the source ignores guidance, and the interpolation runs from the source prompt to none."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.negative_prompt import NegativePrompt

STEPS = 4


@pytest.fixture(scope="module")
def source(tiny64, clean) -> Source:
    return Source(tiny64, clean[:1], (SOURCE,), STEPS)


def test_the_source_is_ddim_s_round_trip_at_every_guidance(tiny64, source) -> None:
    round_trip = watch_walk(tiny64, DDIM().invert(source), guidance=1.0)
    made = NegativePrompt().invert(source)
    for guidance in (0.0, 1.0, 3.0, 7.5):
        for a, b in zip(watch_walk(tiny64, made, [TARGET], [P2P()], guidance), round_trip, strict=True):
            assert gap(a[0], b[0]) < 1e-9


def test_the_edit_is_that_of_the_naive_loop(tiny64, source, clean) -> None:
    path = naive.invert(tiny64, clean[:1], SOURCE, STEPS)
    said = naive.encode(tiny64, [SOURCE])[0]
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], STEPS)
    expected = naive.edit(tiny64, path, attention, nulls=[[said, said]] * STEPS)
    run = watch_walk(tiny64, NegativePrompt().invert(source), [TARGET], [P2P()])
    assert max(gap(x[:, 0], y) for x, y in zip(run, expected, strict=True)) < 1e-6


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_interpolation(tiny64, source, share: float) -> None:
    """sin((1-v) omega) / sin(omega) c_S + sin(v omega) / sin(omega) c_0 on the vectors of all tokens."""
    a, b = naive.encode(tiny64, [SOURCE])[0].flatten(), naive.encode(tiny64, [""])[0].flatten()
    omega = math.acos(float(a @ b / a.norm() / b.norm()))
    wanted = math.sin((1 - share) * omega) / math.sin(omega) * a + math.sin(share * omega) / math.sin(omega) * b
    null = NegativePrompt(interpolation=share).invert(source).null.tokens
    assert null is not None
    assert null.shape == (1, 1, 16, 12)
    assert gap(null.flatten(), wanted) < 1e-10


def test_interpolated_all_the_way_it_is_ddim(tiny64, source) -> None:
    a = watch_walk(tiny64, NegativePrompt(interpolation=1.0).invert(source), [TARGET], [P2P()])[-1]
    b = watch_walk(tiny64, DDIM().invert(source), [TARGET], [P2P()])[-1]
    assert gap(a, b) < 1e-7  # slerp returns the empty prompt to rounding
    half = watch_walk(tiny64, NegativePrompt(interpolation=0.5).invert(source), [TARGET], [P2P()])[-1]
    assert gap(half, b) > 1e-2


def test_the_interpolation_is_a_share() -> None:
    for wrong in (-0.1, 1.1):
        with pytest.raises(ReinvertError, match="interpolation is a share between 0 and 1"):
            NegativePrompt(interpolation=wrong)


def test_every_case_has_its_own_null(tiny64, clean) -> None:
    made = NegativePrompt().invert(Source(tiny64, clean, (SOURCE, TARGET), 2))
    assert made.null is not None
    assert torch.equal(made.null.tokens[0], tiny64.encode_text([SOURCE, TARGET]).tokens)
