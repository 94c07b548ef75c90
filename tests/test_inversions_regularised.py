"""Regularised inversion: its losses in closed form, its invariants, batches, cost."""

from __future__ import annotations

import pytest
import torch
from conftest import SOURCE, gap

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.regularised import Regularised, _gradient, autocorrelation, divergence

STEPS = 4


def noise(side: int = 16) -> torch.Tensor:
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1.1 + 0.05


def test_the_divergence_has_its_closed_gradient() -> None:
    e = noise()
    n, m, v = e.numel(), e.mean(), e.var()
    wanted = 2 * (e - m) / (n - 1) * (1 - 1 / (v + 1e-7)) + 2 * m / n
    assert gap(_gradient(e, divergence), wanted) < 1e-15


def test_without_a_shift_the_autocorrelation_is_the_square_of_the_mean_square() -> None:
    e = noise()
    scales = [e, torch.nn.functional.avg_pool2d(e, 2)]  # 16 and 8 cells a side; 8 is the coarsest
    wanted = sum(2 * channel.square().mean() ** 2 for scale in scales for channel in scale)
    assert abs(float(autocorrelation(e, None) - wanted)) < 1e-12


def test_the_published_pyramid_is_64_32_16_8() -> None:
    e = noise(64)
    scales = [torch.nn.functional.avg_pool2d(e, k) if k > 1 else e for k in (1, 2, 4, 8)]
    wanted = sum(2 * channel.square().mean() ** 2 for scale in scales for channel in scale)
    assert abs(float(autocorrelation(e, None) - wanted)) < 1e-12


def test_shifts_are_drawn_from_the_seed_and_stay_below_half() -> None:
    e = noise()
    one, two, other = (autocorrelation(e, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_no_regularisation_is_ddim_inversion(tiny64, clean) -> None:
    source = Source(tiny64, clean, (SOURCE, "a dog"), STEPS)
    assert torch.equal(Regularised(outer=0).invert(source).path, DDIM().invert(source).path)


def test_regularised_noise_is_whiter(tiny64, clean) -> None:
    source = Source(tiny64, clean[:1], (SOURCE,), STEPS)
    plain, regular = (Regularised(outer=outer).invert(source).start[0] for outer in (0, 5))
    assert float(divergence(regular)) < float(divergence(plain))


def test_a_step_is_moved_as_written(tiny64, clean) -> None:
    """One step, the loop of the page written out."""
    source = Source(tiny64, clean[:1], (SOURCE,), 1, seed=5)
    said = tiny64.encode_text([SOURCE])
    (top, _), low = tiny64.times(1), tiny64.level(-1)
    e = tiny64.answer(clean[None, :1], said[None], top, None)[0, 0]
    generator = torch.Generator().manual_seed(5)
    for _ in range(2):
        for _ in range(3):
            leaf = e.detach().requires_grad_()
            e = leaf.detach() - 20 / 3 * torch.autograd.grad(autocorrelation(leaf, generator), leaf)[0]
        leaf = e.detach().requires_grad_()
        e = leaf.detach() - 20 * torch.autograd.grad(divergence(leaf), leaf)[0]
    level = tiny64.level(top)
    wanted = level.signal * (clean[0] - low.noise * e) / low.signal + level.noise * e
    assert gap(Regularised(outer=2, rolls=3).invert(source).start[0], wanted) < 1e-10


def test_the_published_levels(tiny64, clean) -> None:
    source = Source(tiny64, clean[:1], (SOURCE,), 50)
    assert Regularised._published_times(source) == (999, *range(980, -1, -20))
    assert len(Regularised(outer=0, compat="published").invert(Source(tiny64, clean[:1], (SOURCE,), 5)).path) == 6


def test_what_it_costs(tiny64, clean) -> None:
    before = tiny64.tally.copy()
    Regularised().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    spent = tiny64.tally.since(before)
    assert (spent.forwards, spent.backwards) == (STEPS, 0)  # the losses need no network


def test_wrong_settings_are_said_in_a_sentence() -> None:
    with pytest.raises(ReinvertError, match="counts"):
        Regularised(rolls=-1)
    with pytest.raises(ReinvertError, match="strength"):
        Regularised(strength=2.0)
