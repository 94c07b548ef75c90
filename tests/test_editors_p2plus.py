"""P2Plus: full maps, invariants, cost; the recorded run is in tests/parity."""

from __future__ import annotations

import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

import reinvert
from reinvert.editors.base import Case
from reinvert.editors.p2plus import P2Plus
from reinvert.errors import ReinvertError
from reinvert.hooks import Layer, Site
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.level import Level, Moment
from reinvert.text import Side

STEPS = 5


def site(side: Side, kind, grid: int, index: int = 0) -> Site:
    moment = Moment(index, STEPS, 801, 601, Level(0.5, 0.8), Level(0.6, 0.7))
    return Site(Layer("x", "up", 0), kind, side, (grid, grid), (16, 16), (0, 1), moment)


def heads(tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 1, 2, tokens, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_null_sides_maps_are_the_sources(tiny64) -> None:
    hooks = P2Plus(tau_u=0.4).bind(Case(tiny64, (SOURCE,), ((TARGET,),), STEPS, torch.zeros(1)))
    q, k, v = (heads(64, seed) for seed in range(3))
    maps = (q[:1] @ k[:1].transpose(-1, -2) / 2).softmax(-1)
    assert gap(hooks.attend(q, k, v, site(Side.NULL, "self", 8)), maps @ v) < 1e-12
    own = ((q @ k.transpose(-1, -2) / 2).softmax(-1)) @ v
    elsewhere = [site(Side.TEXT, "self", 8), site(Side.NULL, "cross", 8), site(Side.NULL, "self", 16)]
    for other in (*elsewhere, site(Side.NULL, "self", 8, index=2)):
        assert gap(hooks.attend(q, k, v, other), own) < 1e-12


def test_no_window_is_plain_guidance_and_the_source_never_moves(tiny64, clean) -> None:
    path = DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    plain, idle = (watch_walk(tiny64, path, [TARGET], e) for e in ([], [P2Plus(tau_u=0.0)]))
    acting = watch_walk(tiny64, path, [TARGET], [P2Plus()])
    for a, b, c in zip(plain, idle, acting, strict=True):
        assert gap(a, b) < 1e-12
        assert gap(a[0], c[0]) < 1e-10
    assert gap(plain[-1][1], acting[-1][1]) > 1e-3


def test_what_is_needed_is_evaluated(tiny64, clean) -> None:
    path = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    for tau, extra in ((0.0, 0), (0.4, 2), (1.0, 5)):
        before = tiny64.tally.copy()
        watch_walk(tiny64, path, [TARGET], [P2Plus(tau_u=tau)])
        assert tiny64.tally.since(before).forwards == 2 * STEPS + extra


def test_it_needs_a_null_side(tiny, picture) -> None:
    with pytest.raises(ReinvertError, match="guidance 1"):
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor="p2p+p2plus", guidance=1.0, steps=STEPS)
