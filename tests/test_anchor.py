"""Anchors on bare numbers: what is corrected, when, and what the targets share."""

from __future__ import annotations

import pytest
import torch

from reinvert.anchor import Anchor
from reinvert.hooks import Hooks
from reinvert.level import Level, Moment
from reinvert.loop import Predictor, Prompts, State
from reinvert.steps import ddim
from reinvert.text import Conditioning, Text

STEPS = 6


def moment(index: int) -> Moment:
    return Moment(index, STEPS, 600 - index, 500 - index, Level(0.6, 0.8), Level(0.8, 0.6))


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def path() -> torch.Tensor:
    return random(0, STEPS + 1, 2, 3, 4, 4)


@pytest.fixture
def pulled(tiny):
    """The latents after the correction; without a target shadow the network is not asked."""

    def pull(anchor: Anchor, after: torch.Tensor, index: int) -> torch.Tensor:
        before = tiny.tally.copy()
        unused = Predictor(tiny, Prompts(Conditioning(Text(after), Text(after))), (1.0,), Hooks(), ())
        state = anchor.pull(State((after,)), State((after,)), unused, ddim, moment(index))
        assert tiny.tally == before
        return state.x

    return pull


@pytest.mark.parametrize("index", range(STEPS))
def test_full_strength_puts_the_source_on_the_path_to_the_bit(path, pulled, index: int) -> None:
    after = random(1, 3, 2, 3, 4, 4)
    x = pulled(Anchor(path), after, index)
    assert torch.equal(x[0], path[STEPS - 1 - index])  # z*_{N-s-1} after step s
    assert torch.equal(x[1:], after[1:])


def test_strength_zero_changes_nothing(path, pulled) -> None:
    after = random(1, 3, 2, 3, 4, 4)
    for carry in ("none", "source", "target"):
        for index in range(STEPS):
            anchor = Anchor(path, strength=0.0, carry=carry)
            assert not anchor.acts(moment(index))
            assert torch.equal(pulled(anchor, after, index), after)


@pytest.mark.parametrize("strength", [0.4, 0.8])
def test_a_share_of_the_correction(path, pulled, strength: float) -> None:
    after = random(1, 2, 2, 3, 4, 4)
    x = pulled(Anchor(path, strength=strength), after, 2)
    wanted = (1 - strength) * after[0] + strength * path[STEPS - 3]
    assert (x[0] - wanted).abs().max() < 1e-12
    assert torch.equal(x[1:], after[1:])


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_carry_source_keeps_the_differences_between_rows(path, pulled, strength: float) -> None:
    after = random(1, 3, 2, 3, 4, 4)
    x = pulled(Anchor(path, strength=strength, carry="source"), after, 1)
    assert ((x[1:] - x[0]) - (after[1:] - after[0])).abs().max() < 1e-12
    assert (x[1:] - after[1:]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("every", "steps", "corrected"),
    [
        (2, 50, [*range(0, 50, 2)]),
        (5, 50, [*range(0, 50, 5)]),
        (10, 50, [0, 10, 20, 30, 40]),
        (24, 50, [0, 24, 48]),
        (49, 50, [0, 49]),
        (3, 10, [0, 3, 6, 9]),
        (1, 4, [0, 1, 2, 3]),
    ],
)
def test_intervals_correct_the_published_steps(path, every: int, steps: int, corrected: list[int]) -> None:
    anchor = Anchor(path, every=every)
    moments = [Moment(s, steps, 999 - s, 998 - s, Level(0.6, 0.8), Level(0.8, 0.6)) for s in range(steps)]
    assert [m.index for m in moments if anchor.acts(m)] == corrected


def test_rows_that_nobody_reads_are_not_live(path) -> None:
    branches = (0, 1, 2)
    assert Anchor(path).live(branches, moment(0)) == (1, 2)
    assert Anchor(path, carry="target").live(branches, moment(0)) == (1, 2)
    assert Anchor(path, carry="source").live(branches, moment(0)) == branches
    assert Anchor(path, strength=0.8).live(branches, moment(0)) == branches
    assert Anchor(path, every=2).live(branches, moment(1)) == branches
    assert Anchor(path, strength=0.0).live(branches, moment(0)) == branches
