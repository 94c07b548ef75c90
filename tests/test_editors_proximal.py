"""Proximal guidance: the published threshold and region, by values, by the recorded numbers and in whole runs."""

from __future__ import annotations

import naive
import pytest
import torch
import torch.nn.functional as F
from conftest import SOURCE, TARGET, gap, watch_walk

from reinvert.editors.base import Case
from reinvert.editors.p2p import P2P
from reinvert.editors.proximal import Proximal
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.edict import EDICT
from reinvert.inversions.negative_prompt import NegativePrompt
from reinvert.level import Level, Moment
from reinvert.pairs import check_pair

STEPS = 10


def moment(t: int, index: int = 5) -> Moment:
    return Moment(index, STEPS, t, t - 100, Level(0.6, 0.8), Level(0.8, 0.6))


def guided(model, method: Proximal, d: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """d' for a difference [branch, case, ...] of the two sides, seen through e = 0 + scale d'."""
    hooks = method.bind(Case(model, (SOURCE,), ((TARGET,),), STEPS, torch.zeros(STEPS + 1, 1, 1, 1, 1)))
    return hooks.guide(torch.zeros_like(d), d, torch.tensor(scale), moment(501))


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers).view(1, 1, 1, 1, -1)


def test_the_soft_rule_on_the_values_of_the_methods_page(tiny) -> None:
    d = values(-4, -1.5, 0.5, 1.5, 4)
    assert guided(tiny, Proximal(quantile=-1.0), d).flatten().tolist() == [-3, -0.5, 0, 0.5, 3]


def test_the_hard_rule_keeps_or_drops(tiny) -> None:
    d = values(-4, -1.5, -1, 0.5, 1, 1.5, 4)
    kept = guided(tiny, Proximal(rule="hard", quantile=-1.0), d).flatten().tolist()
    assert kept == [-4, -1.5, 0, 0, 0, 1.5, 4]


def test_the_published_l1_rule_on_the_values_of_the_methods_page(tiny) -> None:
    d = values(-4, -1.5, -0.5, 1, 1.5, 2, 2.5, 4)
    assert guided(tiny, Proximal(rule="l1", quantile=-1.0), d).flatten().tolist() == [-2, 0.5, 0, 0, 0.5, 0, 0.5, 2]


def test_the_recorded_thresholds(tiny, unit, unit_json) -> None:
    d = torch.linspace(-4, 4, 33)
    assert d.abs().quantile(0.75).item() == pytest.approx(unit_json["prox.l0.thr"])
    assert gap(guided(tiny, Proximal(), d.view(1, 1, 1, 1, -1)).flatten(), unit["prox.l0.q0.75"]) < 1e-6
    l1 = guided(tiny, Proximal(rule="l1"), d.view(1, 1, 1, 1, -1)).flatten()
    assert gap(l1, unit["prox.l1.q0.75"]) < 1e-6
    assert gap(l1, unit["prox.l0.q0.75"]) > 0.1


def test_quantile_zero_drops_nothing_and_one_everything(tiny) -> None:
    d = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(guided(tiny, Proximal(quantile=0.0), d), d)
    assert guided(tiny, Proximal(quantile=1.0), d).abs().max() == 0


def test_the_quantile_is_taken_over_the_branches_of_a_case_and_not_over_cases(tiny) -> None:
    d = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    d[:, 1] *= 100
    hooks = Proximal().bind(Case(tiny, (SOURCE,) * 2, ((TARGET,) * 2,), STEPS, torch.zeros(STEPS + 1, 2, 1, 1, 1)))
    together = hooks.guide(torch.zeros_like(d), d, torch.tensor(1.0), moment(501))
    for case in range(2):
        lam = d[:, case].abs().flatten().quantile(0.75)
        assert (together[:, case] != 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
        assert gap(together[:, case], F.softshrink(d[:, case], lam.item())) < 1e-4


@pytest.mark.slow
def test_whole_runs_against_the_naive_loop(tiny64, clean) -> None:
    source = Source(tiny64, clean[:1], (SOURCE,), 5)
    path = naive.invert(tiny64, clean[:1], SOURCE, 5)
    said = naive.encode(tiny64, [SOURCE])[0]
    for inversion, nulls in ((DDIM(), None), (NegativePrompt(), [[said, said]] * 5)):
        attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], 5)
        expected = naive.edit(tiny64, path, attention, nulls=nulls, soft=0.75)
        run = watch_walk(tiny64, inversion.invert(source), [TARGET], [P2P(), Proximal()])
        # the quantile is computed in float32, whose rounding the guided walk multiplies
        assert max(gap(x[:, 0], y) for x, y in zip(run, expected, strict=True)) < 1e-3
        free = watch_walk(tiny64, inversion.invert(source), [TARGET], [P2P()])
        assert gap(free[-1], run[-1]) > 1e-1


def test_both_sides_are_read_at_guidance_one_as_well(tiny64, clean) -> None:
    """e = e_null + 1 d' is not e_text: the rule acts on the difference whatever the scale."""
    source = Source(tiny64, clean[:1], (SOURCE,), 3)
    path = naive.invert(tiny64, clean[:1], SOURCE, 3)
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], 3)
    expected = naive.edit(tiny64, path, attention, w=1.0, soft=0.75)
    run = watch_walk(tiny64, DDIM().invert(source), [TARGET], [P2P(), Proximal()], 1.0)
    assert gap(run[-1][:, 0], expected[-1]) < 1e-3


# --- inversion guidance --------------------------------------------------------------------------------------


def bound(model, method: Proximal, path: torch.Tensor):
    return method.bind(Case(model, (SOURCE,), ((TARGET,),), STEPS, path))


@pytest.mark.parametrize("dilate", [0, 1, 2])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_what_lies_outside_the_region_is_pulled_to_the_path(tiny, eta: float, dilate: int) -> None:
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(2, 1, 3, 8, 8, generator=generator) ** 3
    path = torch.randn(STEPS + 1, 1, 3, 8, 8, generator=generator)
    x = torch.randn(2, 1, 3, 8, 8, generator=generator)
    hooks = bound(tiny, Proximal(inversion_guidance=eta, dilate=dilate), path)
    hooks.guide(torch.zeros_like(d), d, torch.tensor(7.5), moment(301, index=6))
    pulled = hooks.blend(x, moment(301, index=6))
    lam = d.abs().flatten().quantile(0.75)
    for branch in range(2):
        for channel in range(3):
            for i in range(8):
                for j in range(8):
                    rows, columns = (slice(max(0, k - dilate), k + dilate + 1) for k in (i, j))
                    near = d[branch, 0, channel, rows, columns]
                    edited = bool((near.abs() > 2 * lam).any())  # |d'| > lam, and |d'| = |d| - lam
                    there, goal = x[branch, 0, channel, i, j], path[STEPS - 1 - 6, 0, channel, i, j]
                    wanted = there if edited else there - eta * (there - goal)
                    assert abs(pulled[branch, 0, channel, i, j] - wanted) < 1e-5


def test_an_empty_region_and_full_eta_give_the_path(tiny) -> None:
    path = torch.randn(STEPS + 1, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    hooks = bound(tiny, Proximal(quantile=-1e9, inversion_guidance=1.0), path)
    x = torch.zeros(2, 1, 3, 8, 8)
    hooks.guide(x, x + 1, torch.tensor(7.5), moment(301))
    assert gap(hooks.blend(x, moment(301)), path[4].expand_as(x)) < 1e-6


def test_it_acts_below_its_timestep_only_and_not_at_all_as_published(tiny) -> None:
    path = torch.ones(STEPS + 1, 1, 3, 8, 8)
    x = torch.zeros(2, 1, 3, 8, 8)
    for method, t, acts in (
        (Proximal(quantile=-9.0, inversion_guidance=1.0), 401, False),
        (Proximal(quantile=-9.0, inversion_guidance=1.0), 400, False),
        (Proximal(quantile=-9.0, inversion_guidance=1.0), 381, True),
        (Proximal(quantile=-9.0, inversion_guidance=1.0, until=1000), 981, True),
        (Proximal(quantile=-9.0), 1, False),
    ):
        hooks = bound(tiny, method, path)
        hooks.guide(x, x + 1, torch.tensor(7.5), moment(t))
        assert bool((hooks.blend(x, moment(t)) != x).any()) == acts


def test_an_overwritten_source_stays_where_it_is(tiny) -> None:
    path = torch.ones(STEPS + 1, 1, 3, 8, 8)
    hooks = bound(tiny, Proximal(quantile=-9.0, inversion_guidance=1.0), path)
    x = torch.zeros(2, 1, 3, 8, 8)
    hooks.guide(x[1:], x[1:] + 1, torch.tensor(7.5), moment(301))  # the target alone is live
    pulled = hooks.blend(x, moment(301))
    assert torch.equal(pulled[0], x[0])
    assert torch.equal(pulled[1], path[4])


# --- reconstruction guidance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("recon_t", [500, -500])
@pytest.mark.parametrize("rule", ["soft", "l1"])
def test_reconstruction_guidance_against_the_naive_loop(tiny64, clean, rule: str, recon_t: int) -> None:
    """Inside the scheduler's step, as published: x0' = x0 - eta (x0 - x_ref) m, mixed again with the old e."""
    steps, eta, w, lam = 5, 0.4, 7.5, 0.1
    path = naive.invert(tiny64, clean[:1], SOURCE, steps)
    null, text = naive.encode(tiny64, [""]).expand(2, -1, -1), naive.encode(tiny64, [SOURCE, TARGET])
    z, expected, shares = path[-1].expand(2, -1, -1, -1), [], []
    for t in naive.times(steps):
        e_u = naive.ask(tiny64, z, t, null)
        d = F.softshrink(naive.ask(tiny64, z, t, text) - e_u, lam)
        if rule == "l1":
            d = torch.where(d > 0, d - lam, d)
            d = torch.where(d < 0, d + lam, d)
        e, keep = e_u + w * d, 1 - F.max_pool2d((d.abs() > lam).to(d), 3, 1, 1)
        hi, lo = naive.abar(t), naive.abar(t - 1000 // steps)
        x0 = (z - (1 - hi) ** 0.5 * e) / hi**0.5
        if (recon_t > 0 and t < recon_t) or (recon_t < 0 and t > -recon_t):
            x0 = x0 - eta * (x0 - path[0]) * keep
            shares.append(keep.mean().item())
        z = lo**0.5 * x0 + (1 - lo) ** 0.5 * e
        expected.append(z)
    assert 0.02 < min(shares) <= max(shares) < 0.98  # something is pulled and something is not
    source = Source(tiny64, clean[:1], (SOURCE,), steps)
    method = Proximal(rule=rule, quantile=-lam, recon_lr=eta, recon_t=recon_t)
    run = watch_walk(tiny64, DDIM().invert(source), [TARGET], [method])
    assert max(gap(x[:, 0], y) for x, y in zip(run, expected, strict=True)) < 1e-6
    without = watch_walk(tiny64, DDIM().invert(source), [TARGET], [Proximal(rule=rule, quantile=-lam)])
    assert gap(without[-1][:, 0], expected[-1]) > 1e-2


def test_reconstruction_guidance_leaves_an_overwritten_source(tiny64, clean) -> None:
    source = Source(tiny64, clean[:1], (SOURCE,), 3)
    method = Proximal(quantile=-9.0, recon_lr=1.0, recon_t=1000)
    run = watch_walk(tiny64, Direct().invert(source), [TARGET], [method])
    assert torch.equal(run[-1][0], clean[:1])
    assert gap(run[-1][1], clean[:1]) < 0.1  # all of it is pulled: what is left is the last level's noise


def test_reconstruction_guidance_and_two_latents_do_not_go_together() -> None:
    with pytest.raises(ReinvertError, match="recon_lr"):
        check_pair(EDICT(), [Proximal(recon_lr=1.0)], masked=False)


@pytest.mark.parametrize("wrong", [{"quantile": 1.5}, {"dilate": -1}, {"inversion_guidance": 2.0}, {"recon_lr": -1.0}])
def test_arguments_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ReinvertError):
        Proximal(**wrong)
