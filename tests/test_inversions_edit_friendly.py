"""Edit-friendly DDPM inversion against the published two-pass program, its two forms, its invariants and its cost."""

from __future__ import annotations

import math
from pathlib import Path

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

import reinvert
from reinvert.editors.diffedit import DiffEdit
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.edit_friendly import EditFriendly
from reinvert.level import Moment
from reinvert.steps import deviation
from reinvert.trajectory import Trajectory

STEPS, SKIP = 8, 2
SHARE = SKIP / STEPS
SEED = 5
EXACT = 1e-7
"""float64: six guided steps multiply rounding by some thousands. The nearest wrong setting below moves it by 1e-3."""


@pytest.fixture(scope="module")
def source(tiny64, clean) -> Source:
    return Source(tiny64, clean[:1], (SOURCE,), STEPS, seed=SEED)


# --- the method once more, from section 5 of the methods page ---------------------------------------------------


def level_of(k: int, steps: int = STEPS) -> float:
    """abar of x_k: t_k = 1 + (k - 1) 1000 / T, and the clean end below."""
    return naive.abar(1 + (k - 1) * (1000 // steps)) if k else naive.abar(-1)


def sigma_of(k: int, steps: int = STEPS) -> float:
    ab, lower = level_of(k, steps), level_of(k - 1, steps)
    return math.sqrt((1 - lower) / (1 - ab) * (1 - ab / lower))


def mean_of(x: torch.Tensor, e: torch.Tensor, k: int) -> torch.Tensor:
    ab, lower = level_of(k), level_of(k - 1)
    clean = (x - math.sqrt(1 - ab) * e) / math.sqrt(ab)
    return math.sqrt(lower) * clean + math.sqrt(1 - lower - sigma_of(k) ** 2) * e


def second_order(x: torch.Tensor, e: torch.Tensor, k: int, former: torch.Tensor | None):
    """mu and sigma of SDE-DPM-Solver++(2M), section 8.3, and the clean prediction that the next step needs."""

    def lam(j: int) -> float:
        return math.log(math.sqrt(level_of(j)) / math.sqrt(1 - level_of(j)))

    ab, lower = level_of(k), level_of(k - 1)
    m0 = (x - math.sqrt(1 - ab) * e) / math.sqrt(ab)
    h = lam(k - 1) - lam(k)
    slope = m0 if former is None else m0 + (m0 - former) / (2 * (lam(k) - lam(k + 1)) / h)
    mean = math.sqrt((1 - lower) / (1 - ab)) * math.exp(-h) * x + math.sqrt(lower) * (1 - math.exp(-2 * h)) * slope
    return mean, math.sqrt(1 - lower) * math.sqrt(1 - math.exp(-2 * h)), m0


def published(
    model, x0, *, prompts=(SOURCE, TARGET), scales=(1.0, 7.5), zeroed=False, attention=None, two=False
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(noise maps z_0 .. z_{T-1}, [row, channel, h, w] after every sampling step): invert with all T maps, then sample
    both rows with them. x0 is [1, channel, h, w]."""
    generator = torch.Generator().manual_seed(SEED)
    xs = [x0]
    for k in range(1, STEPS + 1):
        n = torch.randn(x0.shape, generator=generator).to(x0)
        xs.append(math.sqrt(level_of(k)) * x0 + math.sqrt(1 - level_of(k)) * n)
    words, empty = naive.encode(model, list(prompts)), naive.encode(model, [""])

    def ask(x: torch.Tensor, k: int, said: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        e = naive.ask(model, torch.cat([x, x]), 1 + (k - 1) * (1000 // STEPS), torch.cat([empty.expand_as(said), said]))
        null, text = e.chunk(2)
        return null + w * (text - null)

    w = torch.tensor(scales, dtype=x0.dtype).view(-1, 1, 1, 1)
    begin = STEPS - SKIP
    zs: list[torch.Tensor] = [torch.zeros_like(x0)] * STEPS
    former = None
    for k in range(begin if two else STEPS, 0, -1):
        e = ask(xs[k], k, words[:1], w[:1])
        mean, sigma = mean_of(xs[k], e, k), sigma_of(k)
        if two:
            mean, sigma, former = second_order(xs[k], e, k, former)
        zs[k - 1] = (xs[k - 1] - mean) / sigma
        xs[k - 1] = mean + sigma * zs[k - 1]
    if zeroed:
        zs[0] = torch.zeros_like(x0)

    x, out, former = xs[begin].expand(len(prompts), -1, -1, -1), [], None
    processors = dict(model.unet.attn_processors)
    if attention is not None:
        model.unet.set_attn_processor({name: naive.FullMaps(name, attention) for name in processors})
    try:
        for executed, k in enumerate(range(begin, 0, -1)):
            if attention is not None:
                attention.step = executed
            e = ask(x, k, words, w)
            mean, sigma = mean_of(x, e, k), sigma_of(k)
            if two:
                mean, sigma, former = second_order(x, e, k, former)
            x = mean + sigma * zs[k - 1]
            out.append(x)
    finally:
        model.unet.set_attn_processor(processors)
    return zs, out


def ours(source: Source, method: EditFriendly, editors=(), guidance=7.5, target=TARGET) -> list[torch.Tensor]:
    walked = watch_walk(source.model, method.invert(source), [target], editors, guidance)
    return [x[:, 0] for x in walked]


def largest(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    assert len(a) == len(b) == STEPS - SKIP
    return max(gap(x, y) for x, y in zip(a, b, strict=True))


# --- parity -----------------------------------------------------------------------------------------------------


def test_the_table_of_sigma(tiny) -> None:
    """The values that the methods page gives for 50 steps, in float64; the model's alphas are float32 (2e-7)."""
    times = tiny.times(50)
    for k, wanted in {1: 0.0206483, 2: 0.0394795, 50: 0.4544633}.items():
        t, s = times[50 - k], times[50 - k + 1]
        assert deviation(Moment(50 - k, 50, t, s, tiny.level(t), tiny.level(s))) == pytest.approx(wanted, abs=3e-7)
        assert sigma_of(k, 50) == pytest.approx(wanted, abs=3e-7)


@pytest.mark.parametrize("form", ["anchor", "stored"])
@pytest.mark.parametrize(
    ("method", "slow"),
    [
        ({}, {}),
        ({"compat": "published"}, {"zeroed": True}),
        ({"source_guidance": 3.5}, {"scales": (3.5, 7.5)}),
        ({"solver": "dpm"}, {"two": True}),
        ({"solver": "dpm", "compat": "published"}, {"two": True, "zeroed": True}),
    ],
)
def test_both_forms_are_the_published_program(tiny64, clean, source, form, method, slow) -> None:
    run = ours(source, EditFriendly(skip=SHARE, form=form, **method))
    zs, expected = published(tiny64, clean[:1], **slow)
    assert largest(run, expected) < EXACT
    exact = not slow.get("zeroed", False)
    # the last map is worth sigma_1 z_0, which is what the picture lacks without it
    assert (gap(run[-1][:1], clean[:1]) < 1e-12) == exact
    assert gap(zs[0], torch.zeros_like(zs[0])) > 1e-2 or not exact


def test_the_stored_shifts_are_the_noise_maps(tiny64, clean, source) -> None:
    kept = EditFriendly(skip=SHARE, form="stored").invert(source).kept["shifts"]
    zs, _ = published(tiny64, clean[:1])
    assert kept.shape == (STEPS - SKIP, 1, *clean.shape[1:])
    for k in range(1, STEPS - SKIP + 1):
        assert gap(kept[k - 1] / sigma_of(k), zs[k - 1]) < 1e-8


@pytest.mark.parametrize("windows", ["walked", "grid"])
@pytest.mark.parametrize("form", ["anchor", "stored"])
def test_with_p2p(tiny64, clean, source, form: str, windows: str) -> None:
    """Published: windows of the whole grid, counted from the first step walked."""
    editor = P2P(kind="replace", windows=windows)  # 0.4 of 8 + 1 are 3 steps, of 6 + 1 are 2; 0.6 are 4 and 3
    attention = naive.Attention(
        tiny64.tokenizer, [SOURCE, TARGET], STEPS if windows == "grid" else STEPS - SKIP, kind="replace"
    )
    _, expected = published(tiny64, clean[:1], attention=attention)
    run = ours(source, EditFriendly(skip=SHARE, form=form), [editor])
    assert largest(run, expected) < EXACT
    other = P2P(kind="replace", windows="walked" if windows == "grid" else "grid")
    assert largest(run, ours(source, EditFriendly(skip=SHARE, form=form), [other])) > 1e-3


def test_a_model_that_predicts_v(tiny_v64, clean) -> None:
    source = Source(tiny_v64, clean[:1], (SOURCE,), STEPS, seed=SEED)
    _, expected = published(tiny_v64, clean[:1])
    assert largest(ours(source, EditFriendly(skip=SHARE)), expected) < EXACT


# --- invariants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["anchor", "stored"])
@pytest.mark.parametrize("skip", [0.0, 0.5])
def test_the_source_prompt_at_the_source_scale_gives_the_path_back(tiny64, clean, source, form, skip: float) -> None:
    method = EditFriendly(skip=skip, form=form)
    path = method.invert(source).path
    assert len(path) == STEPS - int(skip * STEPS) + 1
    for i, x in enumerate(watch_walk(tiny64, method.invert(source), [SOURCE], guidance=1.0)):
        assert torch.equal(x[0], path[-2 - i])
        assert gap(x[1], path[-2 - i]) < 1e-9


def test_a_target_that_repeats_the_source_is_the_source_at_any_common_scale(tiny64, source) -> None:
    for x in ours(source, EditFriendly(skip=SHARE, source_guidance=7.5), target=SOURCE):
        assert gap(x[1], x[0]) < 1e-9


def test_levels_are_noised_independently(tiny64, clean, source) -> None:
    path = EditFriendly(skip=0.0).invert(source).path
    noises = [(path[k] - math.sqrt(level_of(k)) * clean[:1]) / math.sqrt(1 - level_of(k)) for k in range(1, STEPS + 1)]
    flat = torch.stack(noises).flatten(1)
    correlated = torch.corrcoef(flat) - torch.eye(STEPS).double()
    assert correlated.abs().max() < 5 / math.sqrt(flat.shape[1])  # five standard deviations of independent draws
    assert flat.std() == pytest.approx(1, abs=0.05)


def test_the_seed_decides_and_the_skip_does_not(tiny64, clean, source) -> None:
    one, again, later = (EditFriendly(skip=s).invert(source).path for s in (0.0, 0.0, 0.5))
    assert torch.equal(one, again)
    assert torch.equal(one[: len(later)], later)
    other = EditFriendly(skip=0.0).invert(Source(tiny64, clean[:1], (SOURCE,), STEPS, seed=SEED + 1)).path
    assert gap(one[1:], other[1:]) > 1


@pytest.mark.parametrize("form", ["anchor", "stored"])
def test_two_cases_and_two_targets_are_those_alone(tiny64, clean, form) -> None:
    prompts, targets = (SOURCE, "a red house near the river"), (TARGET, "a small house near the river")
    method = EditFriendly(skip=0.25, form=form)
    both = method.invert(Source(tiny64, clean, prompts, 4, seed=SEED))
    together = watch_walk(tiny64, both, [targets, prompts], [P2P()])[-1]
    for i in range(2):
        alone = method.invert(Source(tiny64, clean[i : i + 1], prompts[i : i + 1], 4, seed=SEED))
        assert torch.equal(both.path[:, i], alone.path[:, 0])
        one = watch_walk(tiny64, alone, [targets[i]], [P2P()])[-1]
        assert gap(together[:2, i], one[:, 0]) < EXACT
        assert gap(together[:2, i], watch_walk(tiny64, both.case(i), [targets[i]], [P2P()])[-1][:, 0]) < EXACT


@pytest.mark.parametrize("form", ["anchor", "stored"])
def test_saved_loaded_and_walked_again(tiny, picture, tmp_path: Path, form: str) -> None:
    made = reinvert.invert(
        tiny, picture, SOURCE, inversion="edit_friendly", steps=STEPS, seed=SEED, form=form, source_guidance=2.0
    )
    made.save(tmp_path / "one.trajectory.safetensors")
    again = Trajectory.load(tmp_path / "one.trajectory.safetensors")
    before, after = (reinvert.edit(tiny, t, target=TARGET).latents for t in (made, again))
    assert torch.equal(before, after)
    assert set(again.kept) == ({"shifts"} if form == "stored" else set())


# --- cost and errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["anchor", "stored"])
def test_forwards(tiny, picture, form: str) -> None:
    """6 of 8 steps are walked. Anchored, the edit asks for the source and both sides of the target: 3 a step. Stored,
    the inversion asks for the source, and the edit for the source only where P2P reads it: in the first 3 steps."""
    path = reinvert.invert(tiny, picture, SOURCE, inversion="edit_friendly", steps=STEPS, skip=SHARE, form=form)
    spent = tiny.tally.copy()
    first = reinvert.invert(tiny, picture, SOURCE, inversion="edit_friendly", steps=STEPS, skip=SHARE, form=form)
    assert torch.equal(first.path, path.path)
    assert tiny.tally.since(spent).forwards == (6 if form == "stored" else 0)
    assert reinvert.edit(tiny, path, target=TARGET).forwards == 12 + (3 if form == "stored" else 6)
    assert reinvert.edit(tiny, path, target=TARGET, editor="prompt").forwards == 12 + (0 if form == "stored" else 6)
    for compat in ("correct", "published"):
        result = reinvert.edit(
            tiny, picture, source=SOURCE, target=TARGET, inversion="edit_friendly", steps=STEPS, skip=SHARE, form=form,
            compat=compat,
        )  # fmt: skip
        # published, the anchored form asks once more for the source at the last step, to know where it will end
        extra = {("anchor", "published"): 1}.get((form, compat), 0)
        assert (result.forwards, result.backwards) == ({"anchor": 18, "stored": 21}[form] + extra, 0)


def test_a_later_beginning(tiny, picture) -> None:
    """An anchored path can be entered anywhere; stored shifts belong to their steps, which is said before computing."""
    common = {"source": SOURCE, "target": TARGET, "inversion": "edit_friendly", "steps": STEPS, "skip": 0.0}
    result = reinvert.edit(tiny, picture, editor=DiffEdit(maps=2, strength=0.5), **common)
    assert torch.equal(result.latents[0], reinvert.edit(tiny, picture, **common).latents[0])
    before = tiny.tally.copy()
    with pytest.raises(ReinvertError, match="begins inside the run"):
        reinvert.edit(tiny, picture, editor=DiffEdit(maps=2, strength=0.5), form="stored", **common)
    assert tiny.tally == before


@pytest.mark.parametrize("skip", [-0.1, 1.0])
def test_a_skip_that_is_no_share_is_refused(skip: float) -> None:
    with pytest.raises(ReinvertError, match="skip is a share"):
        EditFriendly(skip=skip)
