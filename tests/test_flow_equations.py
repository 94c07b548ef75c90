"""The methods made for flows against their equations written out, at other settings than the authors' runs recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from conftest import SOURCE, gap, watch_walk
from test_flow_successors import FLOWS, OTHER, SAME, Ask, tiny

from reinvert.editors.flowedit import FlowEdit
from reinvert.editors.uni_edit import UniEdit
from reinvert.inversions.base import Source
from reinvert.inversions.fireflow import FireFlow
from reinvert.inversions.none import Nothing
from reinvert.inversions.rf_inversion import RFInversion
from reinvert.inversions.rf_solver import RFSolver
from reinvert.inversions.uni_inv import UniInv

__all__ = ["tiny"]
EMPTY = ("", "")


def edited(model, trajectory, editors=(), guidance: float = 3.0, **more) -> torch.Tensor:
    """Source and target rows at the end, two pictures with a target each."""
    return watch_walk(model, trajectory, [OTHER], editors, guidance, **more)[-1]


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(("n_max", "n_min", "n_avg"), [(4, 0, 2), (4, 2, 1), (5, 1, 3), (3, 3, 1)])
def test_flowedit_is_its_equations(tiny, name: str, n_max: int, n_min: int, n_avg: int) -> None:
    model, x0 = tiny(name)
    start = Nothing().invert(Source(model, x0, SAME, 5))
    editor = FlowEdit(n_max=float(n_max), n_min=float(n_min), n_avg=n_avg, source_guidance=1.5)
    ours = edited(model, start, (editor,), 4.0, seed=3)
    ask, drawn, z, plain = Ask(model, x0), Source(model, x0, SAME, 5, seed=3).draws(), x0, None
    for i, (t, s) in enumerate(pairwise(ask.times(5))):
        sigma, later = t / 1000, s / 1000
        if 5 - i > n_max:
            continue
        if 5 - i > n_min:
            direction = torch.zeros_like(z)
            for _ in range(n_avg):
                source = (1 - sigma) * x0 + sigma * next(drawn)
                direction += ask(z + source - x0, OTHER, t, 4.0) - ask(source, SAME, t, 1.5)
            z = z + (later - sigma) * direction / n_avg
        else:
            plain = z + sigma * next(drawn) + (1 - sigma) * x0 - x0 if plain is None else plain
            plain = plain + (later - sigma) * ask(plain, OTHER, t, 4.0)
    assert torch.equal(ours[0], x0)
    assert gap(ours[1], z if plain is None else plain) < 1e-10


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(
    ("gamma", "eta", "start", "stop", "decay", "power"),
    [(0.3, 0.7, 0.2, 0.7, False, 1.0), (0.8, 0.9, 0.0, 1.0, True, 1.5), (0.0, 1.0, 0.0, 0.4, False, 1.0)],
)
def test_rf_inversion_is_its_equations(tiny, name: str, gamma, eta, start, stop, decay, power) -> None:
    model, x0 = tiny(name)
    steps = 5
    inversion = RFInversion(gamma=gamma, eta=eta, start=start, stop=stop, decay=decay, power=power)
    trajectory = inversion.invert(Source(model, x0, SAME, steps, seed=5))
    ask, y1, x = Ask(model, x0), next(Source(model, x0, SAME, steps, seed=5).draws()), x0
    grid = [t / 1000 for t in ask.times(steps)]
    for i, (sigma, later) in enumerate(pairwise(grid)):  # as published: the way down's lengths, times of their own
        t = i / (steps + 1)
        u = ask(x, EMPTY, 1000 * t, 0.0)
        x = x + (sigma - later) * (u + gamma * ((y1 - x) / (1 - t) - u))
    assert gap(trajectory.start, x) < 1e-10
    for i, (sigma, later) in enumerate(pairwise(grid)):
        u = -ask(x, OTHER, 1000 * sigma, 3.5)
        share = eta if int(start * steps) <= i < min(int(stop * steps), steps) else 0.0
        share *= (1 - i / steps) ** power if decay else 1.0
        x = x + (sigma - later) * (u + share * ((x0 - x) / sigma - u))
    ours = edited(model, trajectory, (), 3.5)
    assert torch.equal(ours[0], x0)
    assert gap(ours[1], x) < 1e-9  # 1 / sigma of the last step magnifies the rounding


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize(("zero_init", "difference", "omega"), [(True, "signed", 2.0), (False, "absolute", 7.0)])
def test_uni_inv_and_uni_edit_are_their_equations(tiny, name: str, zero_init: bool, difference, omega: float) -> None:
    model, x0 = tiny(name)
    inversion = UniInv(depth=0.7, zero_init=zero_init, strength=0.0)
    trajectory = inversion.invert(Source(model, x0, SAME, 5))
    ask, x = Ask(model, x0), x0
    grid = [t / 1000 for t in ask.times(5)][2:]  # the clean 3 of 5 steps: 0.7 is cut down
    q = torch.zeros_like(x0) if zero_init else ask(x, EMPTY, 0.0)
    for later, sigma in reversed(list(pairwise(grid))):
        q = ask(x + (later - sigma) * q, EMPTY, 1000 * later)
        x = x + (later - sigma) * q
    assert gap(trajectory.start, x) < 1e-10
    for sigma, later in pairwise(grid):
        vs, vt = ask(x, SAME, 1000 * sigma), ask(x, OTHER, 1000 * sigma)
        m = vt - vs if difference == "signed" else (vt - vs).abs()
        m = m.mean(1, keepdim=True)
        if difference == "absolute":  # the program's channels are those of a packed token: a patch's cells count as one
            p = model.patch
            n, _, h, w = m.shape
            m = m.reshape(n, 1, h // p, p, w // p, p).mean((3, 5), keepdim=True).expand(-1, -1, -1, p, -1, p)
            m = m.reshape(n, 1, h, w)
        low, high = m.amin((2, 3), keepdim=True), m.amax((2, 3), keepdim=True)
        m = (m - low) / (high - low)
        x = x + (later - sigma) * (m * vt + (1 - m) * vs + omega * (1 + m) * (vt - vs))
    ours = edited(model, trajectory, (UniEdit(omega=omega, difference=difference),), 1.0)
    assert gap(ours[1], x) < 1e-9  # several times the difference of two answers is added in every step


# --- solvers that give features back ---------------------------------------------------------------------------------

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
CHANGES: dict[str, Change] = {"replace": lambda own, kept: kept, "add": lambda own, kept: own + kept}


class Store:
    """Features of a plain network's single blocks, by hooks on its own layers; q and k after their norm."""

    def __init__(self, model, blocks: slice, strategy: str, scale: float) -> None:
        singles = list(model.transformer.single_transformer_blocks)[blocks]
        self.kept: dict[tuple, torch.Tensor] = {}
        self.key: tuple | None = None
        self.going_up = True
        self.wanted = [word.split("_") for word in strategy.split("+")]
        self.scale = scale
        self.layers = [
            (index, part, layer)
            for index, block in enumerate(singles)
            for part, layer in (("q", block.attn.norm_q), ("k", block.attn.norm_k), ("v", block.attn.to_v))
        ]

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = [layer.register_forward_hook(self._hook(index, part)) for index, part, layer in self.layers]
        yield
        for handle in handles:
            handle.remove()

    def _hook(self, index: int, part: str):
        def hook(module, given, out):
            name = (self.key, index, part)
            if self.key is None:
                return out
            if self.going_up:
                self.kept[name] = out.clone()
                return out
            for change, which in self.wanted:
                if which == part and name in self.kept:
                    out = CHANGES[change](out, self.scale * self.kept[name])
            return out

        return hook


def naive_solver(model, x0, steps: int, inject: int, store: Store, guidance: float, carried: bool):
    """Up to the source's words and down to the target's: the midpoint rule, its first velocity carried or asked."""
    ask, x = Ask(model, x0), x0
    grid = [t / 1000 for t in ask.times(steps)]

    def walk(x, grid, words, scale, places):
        velocity = None
        for (t, s), place in zip(pairwise(grid), places, strict=True):
            store.key = (place, 0) if place < inject else None
            first = velocity if carried and velocity is not None else ask(x, words, 1000 * t, scale)
            store.key = (place, 1) if place < inject else None
            velocity = ask(x + (s - t) / 2 * first, words, 1000 * (t + (s - t) / 2), scale)
            x = x + (s - t) * velocity
        return x

    with store.watching():
        store.going_up = True
        noise = walk(x, grid[::-1], SAME, 1.0, range(steps - 1, -1, -1))
        store.going_up = False
        return noise, walk(noise, grid, OTHER, guidance, range(steps))


@pytest.mark.parametrize(
    ("method", "strategy"),
    [
        (RFSolver(inject=2, first_layer=1), "replace_v"),
        (FireFlow(inject=2, first_layer=1), "replace_v"),
        (FireFlow(inject=1, first_layer=0, last_layer=1, strategy="add_q", scale=0.5), "add_q"),
        (FireFlow(inject=3, first_layer=-2, last_layer=-2, strategy="replace_k+add_v", scale=0.7), "replace_k+add_v"),
        (FireFlow(inject=4, first_layer=0, strategy="replace_q"), "replace_q"),
    ],
)
def test_solvers_that_inject_are_the_plain_network_with_hooks(tiny, method: RFSolver | FireFlow, strategy: str) -> None:
    model, x0 = tiny("flux")
    count, steps, carried = len(model.transformer.single_transformer_blocks), 4, isinstance(method, FireFlow)
    blocks, scale = slice(method.first_layer % count, method.last_layer % count + 1), getattr(method, "scale", 1.0)
    trajectory = method.invert(Source(model, x0, SAME, steps))
    noise, wanted = naive_solver(model, x0, steps, method.inject, Store(model, blocks, strategy, scale), 2.0, carried)
    assert gap(trajectory.start, noise) < 1e-10
    ours = edited(model, trajectory, (), 2.0)
    assert torch.equal(ours[0], x0)
    assert gap(ours[1], wanted) < 1e-9
    assert (
        gap(ours[1], naive_solver(model, x0, steps, 0, Store(model, blocks, strategy, scale), 2.0, carried)[1]) > 1e-6
    )


def test_the_source_may_be_told_nothing(tiny) -> None:
    """An empty source prompt, as RF-Solver allows it, is a prompt like another."""
    model, x0 = tiny("flux")
    told = RFSolver(inject=1).invert(Source(model, x0, EMPTY, 3))
    assert gap(told.start, RFSolver(inject=1).invert(Source(model, x0, (SOURCE,) * 2, 3)).start) > 1e-6
