"""LEDITS++ against full attention maps and masks cell by cell, its invariants and its cost."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

import reinvert
from reinvert.editors.base import Case
from reinvert.editors.ledits import LEdits, _above, _smooth
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.edit_friendly import EditFriendly

STEPS = 4
EXACT = 1e-7
"""float64. Masks are decided in float32: a cell would have to lie within 1e-7 of a quantile to be decided otherwise."""


@pytest.fixture(scope="module")
def free(tiny64, clean) -> reinvert.Trajectory:
    return DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))


# --- the method once more, on stored maps ---------------------------------------------------------------------


class Store:
    """Full maps of the cross-attention of down and up layers on the 16 x 16 grid."""

    def __init__(self) -> None:
        self.maps: list[torch.Tensor] = []

    def __call__(self, maps: torch.Tensor, name: str, crossing: bool) -> torch.Tensor:
        if crossing and maps.shape[2] == 256 and not name.startswith("mid"):
            self.maps.append(maps)
        return maps


@cache
def smoothing(h: int, w: int) -> torch.Tensor:
    """[h w, h w], cell by cell, with the three weights of the methods page; the border mirrors its neighbour."""

    def mirror(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    total = 1 + 4 * math.exp(-1) + 4 * math.exp(-2)
    assert [round(v / total, 4) for v in (1, math.exp(-1), math.exp(-2))] == [0.3319, 0.1221, 0.0449]
    out = torch.zeros(h, w, h, w).double()
    for i, j, di, dj in itertools.product(range(h), range(w), (-1, 0, 1), (-1, 0, 1)):
        out[i, j, mirror(i + di, h), mirror(j + dj, w)] += math.exp(-di * di - dj * dj) / total
    return out.view(h * w, h * w)


def smoothed(m: torch.Tensor) -> torch.Tensor:
    return (smoothing(*m.shape) @ m.double().flatten()).view(m.shape)


def over_quantile(m: torch.Tensor, q: float) -> torch.Tensor:
    ordered = m.flatten().sort().values
    rank = q * (len(ordered) - 1)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return m >= ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def slowly(
    model, x: torch.Tensor, concepts: list[tuple[str, list[int], float]], base: str, *,
    threshold=0.9, region="both", early=800,
) -> list[torch.Tensor]:  # fmt: skip
    """Guided DDIM from x [1, channel, h, w]; a concept is (prompt, tokens of M1, scale)."""
    said, out = [naive.encode(model, [base]), *(naive.encode(model, [c]) for c, _, _ in concepts)], []
    processors = dict(model.unet.attn_processors)
    store = Store()
    model.unet.set_attn_processor({name: naive.FullMaps(name, store) for name in processors})
    try:
        for t in naive.times(STEPS):
            e_base = naive.ask(model, x, t, said[0])
            e = e_base.clone()
            for (_, tokens, scale), words in zip(concepts, said[1:], strict=True):
                store.maps.clear()
                d = naive.ask(model, x, t, words) - e_base
                mask = torch.ones(16, 16).bool()
                if region in ("both", "maps"):
                    attention = torch.stack([m[0].mean(0)[:, tokens].sum(-1) for m in store.maps]).mean(0)
                    mask = mask & over_quantile(smoothed(attention.view(16, 16)), threshold)
                if region == "noise" or (region == "both" and t <= early):
                    mask = mask & over_quantile((scale * d).abs()[0].sum(0), threshold)
                e = e + scale * mask * d
            a, b = naive.coefficients(t, STEPS)
            x = a * x + b * e
            out.append(x)
    finally:
        model.unet.set_attn_processor(processors)
    return out


DOG, WHOLE = [2], [1, 2, 3, 4, 5, 6]
"""Tokens of TARGET: its one new word, and all of its words."""


@pytest.mark.parametrize(
    ("editor", "slow"),
    [
        (LEdits(threshold=0.6), {"threshold": 0.6}),
        (LEdits(threshold=0.6, maps_only_above=300), {"threshold": 0.6, "early": 300}),
        (LEdits(masks="maps", scale=-3.0), {"region": "maps", "scale": -3.0}),
        (LEdits(masks="noise"), {"region": "noise"}),
        (LEdits(masks="whole"), {"region": "whole"}),
        (LEdits(threshold=0.6, compat="published"), {"threshold": 0.6, "base": "", "tokens": WHOLE}),
    ],
)
def test_it_is_that_of_stored_maps(tiny64, free, editor: LEdits, slow: dict) -> None:
    concept = (TARGET, slow.pop("tokens", DOG), slow.pop("scale", 5.0))
    expected = slowly(tiny64, free.start, [concept], slow.pop("base", SOURCE), **slow)
    walked = watch_walk(tiny64, free, [TARGET], [editor])
    assert max(gap(x[1], y) for x, y in zip(walked, expected, strict=True)) < EXACT
    assert gap(walked[-1][1], watch_walk(tiny64, free, [TARGET], [LEdits(threshold=0.3)])[-1][1]) > 1e-3


def test_further_concepts_have_regions_and_scales_of_their_own(tiny64, free) -> None:
    concepts = {"a red hat": 4.0, "table": -2.0}
    told = [(c, [p for _, t in naive.word_tokens(tiny64.tokenizer, c) for p in t], s) for c, s in concepts.items()]
    expected = slowly(tiny64, free.start, [(TARGET, DOG, 5.0), *told], SOURCE, threshold=0.7)
    walked = watch_walk(tiny64, free, [TARGET], [LEdits(threshold=0.7, concepts=concepts)])
    assert max(gap(x[1], y) for x, y in zip(walked, expected, strict=True)) < EXACT


def test_a_source_without_a_prompt_is_the_paper(tiny64, clean) -> None:
    """Both forms agree there: the base is the null side, and every word of the target is new."""
    path = DDIM().invert(Source(tiny64, clean[:1], ("",), STEPS))
    expected = slowly(tiny64, path.start, [("a dog", [1, 2], 5.0)], "", threshold=0.8)
    for compat in ("correct", "published"):
        walked = watch_walk(tiny64, path, ["a dog"], [LEdits(threshold=0.8, compat=compat)])
        assert max(gap(x[1], y) for x, y in zip(walked, expected, strict=True)) < EXACT


# --- invariants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["anchor", "stored"])
def test_without_a_concept_the_picture_comes_back(tiny64, clean, form) -> None:
    path = EditFriendly(form=form).invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    for editor in (LEdits(scale=0.0), LEdits(warmup=STEPS), LEdits(scale=0.0, concepts={"a hat": 0.0})):
        assert gap(watch_walk(tiny64, path, [TARGET], [editor])[-1][1], clean[:1]) < 1e-9
    published = watch_walk(tiny64, path, [TARGET], [LEdits(scale=0.0, compat="published")])[-1][1]
    assert gap(published, clean[:1]) > 1e-3  # whose base is not what the source was told


def test_the_source_prompt_is_no_concept(tiny64, clean) -> None:
    path = EditFriendly().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    for x in watch_walk(tiny64, path, [SOURCE], [LEdits()]):
        assert gap(x[1], x[0]) < 1e-9


def test_the_forms_of_the_inversion_agree(tiny64, clean) -> None:
    made = []
    for form in ("anchor", "stored"):
        path = EditFriendly(form=form, solver="dpm").invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
        made.append(watch_walk(tiny64, path, [TARGET], [LEdits(threshold=0.6, concepts={"a hat": 3.0})])[-1])
    assert gap(made[0], made[1]) < EXACT
    assert gap(made[0][1], clean[:1]) > 1e-2


def test_a_threshold_of_zero_is_everywhere(tiny64, free) -> None:
    one, two = (watch_walk(tiny64, free, [TARGET], [e])[-1] for e in (LEdits(threshold=0.0), LEdits(masks="whole")))
    assert gap(one, two) < EXACT


def test_cases_and_targets_together_are_those_alone(tiny64, clean) -> None:
    prompts, targets = (SOURCE, "a big cat on the table"), (TARGET, "a big dog on the table")
    editors = [P2P(), LEdits(threshold=0.6, concepts={"a hat": 3.0})]
    both = EditFriendly().invert(Source(tiny64, clean, prompts, 3))
    together = watch_walk(tiny64, both, [targets, ("a red cat", "a red dog")], editors)[-1]
    for i in range(2):
        one = watch_walk(tiny64, both.case(i), [targets[i]], editors)[-1]
        assert gap(together[:2, i], one[:, 0]) < EXACT


def test_a_saved_trajectory_gives_the_same_edit(tiny, picture, tmp_path: Path) -> None:
    made = reinvert.invert(tiny, picture, SOURCE, inversion="edit_friendly", steps=STEPS, solver="dpm")
    made.save(tmp_path / "one.trajectory.safetensors")
    again = reinvert.Trajectory.load(tmp_path / "one.trajectory.safetensors")
    before, after = (reinvert.edit(tiny, t, target=TARGET, editor="ledits").latents for t in (made, again))
    assert torch.equal(before, after)


def test_the_parts() -> None:
    maps = torch.rand(2, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    for row, m in zip(_smooth(maps), maps, strict=True):
        assert gap(row[0], smoothed(m[0])) < 1e-6
        assert torch.equal(_above(m, 0.9)[0], over_quantile(m[0], 0.9))


# --- cost and errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("concepts", "further"), [({}, 0), ({"a hat": 5.0, "a red nose": -3.0}, 2)])
@pytest.mark.parametrize(
    ("inversion", "inverting", "editing"),
    [
        ({"inversion": "edit_friendly"}, 0, 3),  # the source, the base and the concept at the target's latents
        ({"inversion": "edit_friendly", "form": "stored"}, 1, 2),
        ({"inversion": "direct"}, 1, 2),
    ],
)
def test_forwards(tiny, picture, concepts, further: int, inversion: dict, inverting: int, editing: int) -> None:
    """N for the source and N (1 + concepts) for the target, as the methods page counts."""
    result = reinvert.edit(
        tiny, picture, source=SOURCE, target=TARGET, editor="ledits", steps=STEPS, concepts=concepts, **inversion
    )
    walked = STEPS - (int(0.24 * STEPS) if inversion["inversion"] == "edit_friendly" else 0)
    assert (result.forwards, result.backwards) == (walked * (inverting + editing + further), 0)
    # float32, and five steps that multiply its rounding
    assert gap(result.latents[0], tiny.encode(to_tensor([picture]))[0]) < 1e-5


def test_its_usual_partner(tiny, picture) -> None:
    result = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor="ledits", steps=STEPS)
    assert result.settings["inversion"]["name"] == "edit_friendly"


def test_a_model_without_that_grid_is_told(tiny64, free) -> None:
    case = Case(tiny64, (SOURCE,), ((TARGET,),), STEPS, torch.zeros(1, 1, 3, 256, 256))
    with pytest.raises(ReinvertError, match="no cross-attention on a 64 x 64 grid"):
        LEdits().bind(case).attention()


@pytest.mark.parametrize("wrong", [{"threshold": 1.5}, {"warmup": -1}, {"concepts": {" ": 5.0}}])
def test_bad_arguments_are_refused(wrong: dict) -> None:
    with pytest.raises(ReinvertError):
        LEdits(**wrong)
