"""Direct inversion: the anchor against the published two-pass programs, in every ablation of the paper."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.null_text import NullText

STEPS = 6
EXACT = 1e-6
"""float64; the offset form walks rounding errors along (about 1e-11 here), the anchor does not."""


@pytest.fixture(scope="module")
def source(tiny64, clean) -> Source:
    return Source(tiny64, clean[:1], (SOURCE,), STEPS)


@pytest.fixture(scope="module")
def path(tiny64, clean) -> list[torch.Tensor]:
    return naive.invert(tiny64, clean[:1], SOURCE, STEPS)


@pytest.fixture(scope="module")
def offsets(tiny64, path) -> list[torch.Tensor]:
    return naive.offsets(tiny64, path, [SOURCE, TARGET])


Method = Direct | DDIM | NullText


def ours(source: Source, method: Method, editors=None, guidance: float = 7.5) -> list[torch.Tensor]:
    """[branch, channel, h, w] after every step; P2P unless told otherwise."""
    editors = (P2P(),) if editors is None else editors
    trajectory = method.invert(source)
    return [x[:, 0] for x in watch_walk(source.model, trajectory, [TARGET], editors, guidance)]


def theirs(model, path, offsets, **more) -> list[torch.Tensor]:
    blend = more.pop("blend", None)
    attention = naive.Attention(model.tokenizer, [SOURCE, TARGET], STEPS, **more)
    return naive.edit(model, path, attention, offsets=offsets, blend=blend)


def source_only(offsets: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.stack([o[0], torch.zeros_like(o[1])]) for o in offsets]


def largest(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    assert len(a) == len(b) == STEPS
    return max(gap(x, y) for x, y in zip(a, b, strict=True))


def test_overwriting_is_the_published_offset_form(tiny64, source, path, offsets) -> None:
    run = ours(source, Direct(), [P2P(), LocalBlend(("cat",), ("dog",))])
    blend = naive.Blend((("cat",), ("dog",)))
    assert largest(run, theirs(tiny64, path, source_only(offsets), blend=blend)) < EXACT
    for s, x in enumerate(run):
        assert gap(x[0], path[STEPS - s - 1][0]) < 1e-9


def test_the_offset_in_closed_form(tiny64, path, offsets) -> None:
    """o_s = Bc_s ( e(z*_{N-s-1}, tau_s, source) - eCFG(z*_{N-s}, tau_s) ), section 5.2."""
    text, empty = naive.encode(tiny64, [SOURCE]), naive.encode(tiny64, [""])
    for s, t in enumerate(naive.times(STEPS)):
        _, b = naive.coefficients(t, STEPS)
        inverting = naive.ask(tiny64, path[STEPS - s - 1], t, text)
        guided = naive.guided(tiny64, path[STEPS - s], t, empty, text, 7.5)
        assert gap(offsets[s][:1], b * (inverting - guided)) < 1e-9
        assert offsets[s].abs().max() > 1e-4


@pytest.mark.parametrize("strength", [0.4, 0.8])
def test_a_share_of_the_correction(tiny64, source, path, strength: float) -> None:
    offsets = naive.offsets(tiny64, path, [SOURCE, TARGET], scale=strength)
    run = ours(source, Direct(strength=strength))
    assert largest(run, theirs(tiny64, path, source_only(offsets))) < EXACT
    assert gap(run[-1][0], path[0][0]) > 1e-3  # no longer exact


def test_full_and_no_strength_are_the_main_method_and_ddim(source) -> None:
    main, free = ours(source, Direct()), ours(source, DDIM())
    assert largest(ours(source, Direct(strength=0.0)), free) < 1e-12
    assert largest(main, ours(source, Direct(strength=1 - 1e-12))) < EXACT
    assert gap(main[-1], free[-1]) > 1e-2


@pytest.mark.parametrize("every", [2, 3, 5])
def test_intervals(tiny64, source, path, every: int) -> None:
    offsets = naive.offsets(tiny64, path, [SOURCE, TARGET], corrected=lambda s: s % every == 0)
    run = ours(source, Direct(every=every))
    assert largest(run, theirs(tiny64, path, source_only(offsets))) < EXACT
    # exact at the end if and only if the last step, N - 1 = 5, is a multiple
    assert torch.equal(run[-1][0], Direct().invert(source).path[0, 0]) == (every == 5)


def test_intervals_that_correct_the_same_last_step_end_at_the_same_source(source) -> None:
    """As 2 and 24 do at 50 steps: at 6 steps, 2 and 4 both correct step 4 last and take one free step."""
    reading = [P2P(self_attention=1.0)]  # the target sees the source at every step
    two, four = ours(source, Direct(every=2), reading), ours(source, Direct(every=4), reading)
    assert torch.equal(two[-1][0], four[-1][0])
    assert gap(two[-1][1], four[-1][1]) > 1e-4  # the paths that the target saw differ


def test_add_target(tiny64, source, path, offsets) -> None:
    run = ours(source, Direct(carry="target"))
    assert largest(run, theirs(tiny64, path, offsets)) < EXACT
    assert gap(run[-1][1], ours(source, Direct())[-1][1]) > 1e-2


def test_add_source(tiny64, source, path, offsets) -> None:
    both = [torch.stack([o[0], o[0]]) for o in offsets]
    run = ours(source, Direct(carry="source"))
    assert largest(run, theirs(tiny64, path, both)) < EXACT
    assert gap(run[-1][1], ours(source, Direct())[-1][1]) > 1e-2


@pytest.mark.parametrize("edit", [1.0, 2.5, 7.5])
@pytest.mark.parametrize("inversion", [0.0, 1.0, 2.5])
def test_the_guidance_grid(tiny64, clean, inversion: float, edit: float) -> None:
    steps = 3
    source = Source(tiny64, clean[:1], (SOURCE,), steps)
    path = naive.invert(tiny64, clean[:1], SOURCE, steps, inversion)
    offsets = source_only(naive.offsets(tiny64, path, [SOURCE, TARGET], edit))
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], steps)
    expected = naive.edit(tiny64, path, attention, w=edit, offsets=offsets)
    run = ours(source, Direct(inversion_guidance=inversion), guidance=edit)
    assert max(gap(x, y) for x, y in zip(run, expected, strict=True)) < EXACT
    assert gap(run[-1][:1], clean[:1]) < 1e-12  # exact at any guidance


def test_the_target_does_not_know_of_the_anchor_without_attention_rules(source) -> None:
    direct, free = ours(source, Direct(), ()), ours(source, DDIM(), ())
    assert max(gap(a[1], b[1]) for a, b in zip(direct, free, strict=True)) < 1e-9


def test_null_latent_is_single_branch_null_text(source) -> None:
    """Section 5.7: the same method up to rounding."""
    latent = ours(source, Direct(null_latent=True, inner=3))
    single = ours(source, NullText(inner=3, single_branch=True))
    assert largest(latent, single) < 1e-8
    assert gap(latent[-1][1], ours(source, NullText(inner=3))[-1][1]) > 1e-3


def test_null_latent_against_its_published_offsets(tiny64, source, path) -> None:
    """o_s = zN_{N-s-1} - D_s(zN_{N-s}, eCFG with the plain empty prompt), added to the source only."""
    _, followed, _ = naive.null_text(tiny64, path, SOURCE, inner=3)
    run = ours(source, Direct(null_latent=True, inner=3))
    offsets = source_only(naive.offsets(tiny64, followed[::-1], [SOURCE, TARGET]))
    assert largest(run, theirs(tiny64, path, offsets)) < 1e-8


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"strength": 1.5}, "strength is a share between 0 and 1, not 1.5"),
        ({"strength": -0.1}, "strength is a share between 0 and 1"),
        ({"every": 0}, "every counts steps and is at least 1, not 0"),
        ({"carry": "target", "strength": 0.5}, "carry=target needs strength 1"),
    ],
)
def test_arguments_out_of_range_are_refused(wrong, said: str) -> None:
    with pytest.raises(ReinvertError, match=said):
        Direct(**wrong)
