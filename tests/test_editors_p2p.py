"""Prompt-to-Prompt against full attention maps: every attention edit, in whole runs and on fixed maps."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk
from torch import Tensor

import reinvert
from reinvert.editors.base import Case
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.hooks import Layer, Site
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.level import Level, Moment
from reinvert.text import Side

STEPS = 6
EXACT = 1e-6
"""float64 leaves about 1e-12 of a whole run; LocalBlend's maps are kept in float32, which moves no mask here. The
smallest wrong setting tried below moves the result by more than 1e-2."""

SETTINGS = {
    "refine": (P2P(), {}),
    "replace": (P2P(kind="replace"), {"kind": "replace"}),
    "refine, boosted": (P2P(boost={"dog": 2.0}), {"boost": {"dog": 2.0}}),
    "replace, boosted": (
        P2P(kind="replace", boost={"dog": 2.0, "table": -1.0}),
        {"kind": "replace", "boost": {"dog": 2.0, "table": -1.0}},
    ),
    "windows by word": (
        P2P(cross={"default_": 0.4, "dog": (0.2, 0.9), "table": 0.0}),
        {"word_windows": {"dog": (0.2, 0.9), "table": (0.0, 0.0)}},
    ),
    "replace, windows by word": (
        P2P(kind="replace", cross={"default_": 0.8, "dog": 0.3}, boost={"dog": 3.0}),
        {"kind": "replace", "cross": 0.8, "word_windows": {"dog": (0.0, 0.3)}, "boost": {"dog": 3.0}},
    ),
    "whole run": (
        P2P(kind="replace", cross=1.0, self_attention=1.0),
        {"kind": "replace", "cross": 1.0, "self_share": 1.0},
    ),
    "cross only": (P2P(self_attention=0), {"self_share": 0.0}),
    "self only": (P2P(cross=0), {"cross": 0.0}),
    "self-attention of every grid": (P2P(self_grid=1.0), {"self_queries": 256}),
}


@pytest.fixture(scope="module")
def paths(tiny64, clean) -> dict[str, reinvert.Trajectory]:
    source = Source(tiny64, clean[:1], (SOURCE,), STEPS)
    return {"ddim": DDIM().invert(source), "direct": Direct().invert(source)}


@pytest.fixture(scope="module")
def plain(tiny64, paths) -> dict[str, Tensor]:
    """The latents of both branches without any rule."""
    return {k: reinvert.edit(tiny64, path, target=TARGET, editor="prompt").latents for k, path in paths.items()}


def slow_way(model, path: Tensor, attention: naive.Attention, anchored: bool, blend=None) -> Tensor:
    """The published programs: an offset pass, then the edit in which only the source's offset is added."""
    levels, added = list(path), None
    if anchored:
        only_source = torch.zeros(len(attention.prompts), 1, 1, 1).double()
        only_source[0] = 1
        added = [o * only_source for o in naive.offsets(model, levels, attention.prompts)]
    return naive.edit(model, levels, attention, offsets=added, blend=blend)[-1]


@pytest.mark.parametrize(
    ("setting", "inversion"),
    [*((s, "ddim") for s in SETTINGS), *((s, "direct") for s in ("refine", "replace, boosted", "windows by word"))],
)
def test_edits_are_those_of_full_attention_maps(tiny64, paths, plain, setting: str, inversion: str) -> None:
    editor, slow = SETTINGS[setting]
    path = paths[inversion]
    result = reinvert.edit(tiny64, path, target=TARGET, editor=editor)
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], STEPS, **slow)
    expected = slow_way(tiny64, path.path, attention, inversion == "direct")
    assert gap(result.latents, expected) < EXACT
    assert gap(plain[inversion][1:], result.latents[1:]) > 1e-2  # the rule was at work


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (SOURCE, "a stormtrooper sitting on a table"),  # one token becomes three
        ("a stormtrooper sitting on a table", TARGET),  # and three one
        (SOURCE, "a rusty big dog sitting on the table"),  # longer
        ("a red house near the river", "a house near the river"),  # shorter
    ],
)
@pytest.mark.parametrize("kind", ["refine", "replace"])
def test_other_prompts_against_full_attention_maps(tiny64, clean, source: str, target: str, kind) -> None:
    path = Direct().invert(Source(tiny64, clean[:1], (source,), 5))
    editor = P2P(kind=kind, cross=0.8, self_attention=0.5)
    if kind == "replace" and len(source.split()) != len(target.split()):
        with pytest.raises(ReinvertError, match="equally many words"):
            reinvert.edit(tiny64, path, target=target, editor=editor)
        return
    result = reinvert.edit(tiny64, path, target=target, editor=editor)
    attention = naive.Attention(tiny64.tokenizer, [source, target], 5, kind=kind, cross=0.8, self_share=0.5)
    assert gap(result.latents, slow_way(tiny64, path.path, attention, True)) < EXACT


WORDS = (("cat",), ("dog",))
BLENDS = {
    "one word each": (LocalBlend(*WORDS, threshold=0.7), naive.Blend(WORDS, threshold=0.7), 256),
    "on the coarse grid": (LocalBlend(*WORDS, threshold=0.7, grid=8), naive.Blend(WORDS, threshold=0.7), 64),
    "several words": (
        LocalBlend(("cat", "table"), ("dog", "table"), threshold=0.8),
        naive.Blend((("cat", "table"), ("dog", "table")), threshold=0.8),
        256,
    ),
    "only the target's word": (
        LocalBlend((), ("dog",), threshold=0.6),
        naive.Blend(((), ("dog",)), threshold=0.6),
        256,
    ),
    "substruct words": (
        LocalBlend(*WORDS, ("table",), ("table",), threshold=0.4, without_threshold=0.5),
        naive.Blend(WORDS, (("table",), ("table",)), threshold=0.4, without_threshold=0.5),
        256,
    ),
    "later start": (
        LocalBlend(*WORDS, threshold=0.7, start=0.65),
        naive.Blend(WORDS, threshold=0.7, start=0.65),
        256,
    ),
}


@pytest.mark.parametrize(
    ("blend", "inversion"), [*((b, "direct") for b in BLENDS), ("one word each", "ddim"), ("substruct words", "ddim")]
)
def test_local_blend_is_that_of_stored_maps(tiny64, paths, blend: str, inversion: str) -> None:
    editor, slow, queries = BLENDS[blend]
    path, rule = paths[inversion], P2P(boost={"dog": 2.0})
    result = reinvert.edit(tiny64, path, target=TARGET, editor=[rule, editor])
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], STEPS, boost={"dog": 2.0}, store_queries=queries)
    assert gap(result.latents, slow_way(tiny64, path.path, attention, inversion == "direct", slow)) < EXACT
    kept = (result.latents[1] == result.latents[0]).all(0)
    assert 0 < kept.float().mean() < 1  # a region was kept, and not everything


def test_two_targets_share_the_source(tiny64, paths) -> None:
    other = "a horse sitting on a table"
    result = reinvert.edit(tiny64, paths["direct"], target=[TARGET, other], editor=P2P(kind="replace"))
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET, other], STEPS, kind="replace")
    assert gap(result.latents, slow_way(tiny64, paths["direct"].path, attention, True)) < EXACT


def test_an_editor_that_reads_maps_goes_last_wherever_it_is_named(tiny64, paths) -> None:
    rules = [P2P(boost={"dog": 2.0}), LocalBlend(("cat",), ("dog",))]
    one = reinvert.edit(tiny64, paths["direct"], target=TARGET, editor=rules)
    other = reinvert.edit(tiny64, paths["direct"], target=TARGET, editor=rules[::-1])
    assert torch.equal(one.latents, other.latents)


def test_the_published_replacement_tail_is_an_argument(tiny64, clean) -> None:
    target = "a stormtrooper sitting on a table"
    path = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), 4))
    correct, published = (
        reinvert.edit(tiny64, path, target=target, editor=P2P(kind="replace", compat=compat))
        for compat in ("correct", "published")
    )
    assert gap(correct.latents, published.latents) > 1e-3


def test_windows_are_shares_of_the_steps_walked_or_of_the_whole_grid(parity_model) -> None:
    """38 of 50 steps: int(0.4 * 39) and int(0.6 * 38), or as published int(0.4 * 51) and int(0.6 * 50)."""
    case = Case(parity_model, (SOURCE,), ((TARGET,),), 38, torch.zeros(39, 1, 4, 64, 64), grid_steps=50)
    for windows, (cross, own) in {"walked": (15, 22), "grid": (20, 30)}.items():
        hooks = P2P(kind="replace", windows=windows).bind(case)
        assert [hooks.touches("cross", moment(i, 38)) for i in range(38)] == [i < cross for i in range(38)]
        assert [hooks.touches("self", moment(i, 38)) for i in range(38)] == [i < own for i in range(38)]


# --- on fixed maps -------------------------------------------------------------------------------------------


def moment(index: int, steps: int = 10) -> Moment:
    return Moment(index, steps, 901 - 100 * index, 801 - 100 * index, Level(0.6, 0.8), Level(0.8, 0.6))


def site(kind, branches, index: int, grid=(16, 16), latent=(64, 64), side=Side.TEXT, part="down") -> Site:
    return Site(Layer("some.layer", part, 0), kind, side, grid, latent, branches, moment(index))


def heads_of(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v whose attention map is `maps` [branch, head, query, key] and whose output is the map itself."""
    n = maps.shape[-1]
    eye = torch.eye(n, dtype=maps.dtype).expand(*maps.shape[:2], n, n)
    return (maps.log() * n**0.5)[:, None], eye[:, None], eye[:, None]


@pytest.mark.parametrize("name", ["refine", "refine_eq", "replace", "replace_eq"])
@pytest.mark.parametrize("pair", ["p1", "p2", "p3", "p4", "p5"])
def test_controllers_on_recorded_maps(parity_model, unit, unit_json, name: str, pair: str) -> None:
    source, target, word = RECORDED_PAIRS[pair]
    editor = P2P(
        kind="replace" if name.startswith("replace") else "refine",
        boost={word: 2.0} if name.endswith("eq") else {},
        compat="published",
    )
    case = Case(parity_model, (source,), ((target,),), 10, torch.zeros(11, 1, 4, 64, 64))
    if "replace_error" in unit_json["controllers"][pair] and editor.kind == "replace":
        with pytest.raises(ReinvertError, match="equally many words"):
            editor.bind(case)
        return
    hooks = editor.bind(case)
    maps = unit["ctl.cross_in"].double().unflatten(0, (2, 2))
    q, k, v = heads_of(maps)
    checked = 0
    for s in range(10):
        edited = hooks.attend(q, k, v, site("cross", (0, 1), s))[:, 0]
        assert gap(edited[0], maps[0]) < 1e-6  # the maps were recorded in float32, whose rows sum to 1 only to 1e-7
        key = f"ctl.{pair}.{name}.N10.s{s}."
        if key + "cross_tgt_colmean" in unit:
            assert gap(edited[1].mean(1), unit[key + "cross_tgt_colmean"]) < 1e-6
            checked += 1
        if key + "cross_tgt_q0_32" in unit:
            assert gap(edited[1, :, :32], unit[key + "cross_tgt_q0_32"]) < 1e-6
            checked += 1
    assert checked >= 3
    maps = unit["ctl.self_in"].double().unflatten(0, (2, 2))
    for key, replaced in unit_json["controllers"][pair]["self_replaced"].items():
        if key.startswith(f"{name}.N10."):
            s = int(key.rsplit("s", 1)[1])
            injected = hooks.attend(*heads_of(maps), site("self", (0, 1), s, grid=(8, 8)))[1, 0]
            assert gap(injected, maps[0] if replaced else maps[1]) < 1e-6


RECORDED_PAIRS = {
    "p1": (SOURCE, TARGET, "dog"),
    "p2": ("a bicycle next to a river", "a rusty bicycle next to a river", "bicycle"),
    "p3": ("a horse standing on the beach", "a stormtrooper standing on the beach", "stormtrooper"),
    "p4": ("a stormtrooper and a cat on the beach", "a horse and a snowman on the beach", "snowman"),
    "p5": ("a big red house near the river", "a small house near the river", "house"),
}
"""Source, target and the boosted word, as recorded."""


@pytest.mark.parametrize("pair", RECORDED_PAIRS)
def test_local_blend_mask_on_recorded_maps(parity_model, unit, unit_json, pair: str) -> None:
    source, target, word = RECORDED_PAIRS[pair]
    known = unit_json["controllers"][pair]
    old = {"p1": "cat", "p2": "bicycle", "p3": "horse", "p4": "stormtrooper", "p5": "house"}[pair]
    case = Case(parity_model, (source,), ((target,),), 10, torch.zeros(11, 1, 4, 64, 64))
    hooks = LocalBlend((old,), (word,)).bind(case)
    x = torch.stack([torch.zeros(1, 4, 64, 64), torch.ones(1, 4, 64, 64)])
    for s, untouched in enumerate(known["localblend_identity_for_first_calls"]):
        for layer, maps in enumerate(unit["lb.maps"]):
            where = site("cross", (0, 1), s, part="down" if layer < 2 else "up")
            hooks.attend(*heads_of(maps.double()[:, None]), where)
        blended = hooks.blend(x, moment(s))
        assert torch.equal(blended[0], x[0])
        assert torch.equal(blended, x) == untouched
    mask = blended[1, 0]
    assert torch.equal(mask[0], mask[3])
    assert torch.equal(mask[0].to(torch.uint8), unit[f"lb.{pair}.mask"])
    assert mask.mean().item() == pytest.approx(known["lb_mask_fraction"], abs=1e-6)


def test_the_null_side_the_middle_and_other_grids_are_left_alone(parity_model) -> None:
    case = Case(parity_model, (SOURCE,), ((TARGET,),), 10, torch.zeros(11, 1, 4, 64, 64))
    maps = torch.rand(2, 2, 64, 77, generator=torch.Generator().manual_seed(0), dtype=torch.float64).softmax(-1)
    q, k, v = heads_of(maps)
    hooks = P2P(boost={"dog": 5.0}).bind(case)
    for kind in ("cross", "self"):
        assert gap(hooks.attend(q, k, v, site(kind, (0, 1), 0, side=Side.NULL))[:, 0], maps) < 1e-12
    assert gap(hooks.attend(q, k, v, site("self", (0, 1), 0, grid=(64, 64)))[:, 0], maps) < 1e-12
    assert gap(hooks.attend(q, k, v, site("self", (0, 1), 0, grid=(32, 32)))[1, 0], maps[0]) < 1e-12
    blend = LocalBlend(("cat",), ("dog",)).bind(case)
    for ignored in (
        site("cross", (0, 1), 5, grid=(8, 8), part="mid"),
        site("cross", (0, 1), 5, grid=(32, 32)),
        site("cross", (0, 1), 5, part="mid"),
        site("cross", (0, 1), 5, side=Side.NULL),
        site("self", (0, 1), 5),
    ):
        blend.attend(q, k, v, ignored)
    with pytest.raises(ReinvertError, match="no cross-attention on a 16 x 16 grid for local_blend"):
        blend.blend(torch.zeros(2, 1, 4, 64, 64), moment(5))


# --- masks and words -----------------------------------------------------------------------------------------


def test_a_mask_takes_the_place_of_words(tiny64, paths) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:9, 2:12] = 1
    blended = watch_walk(tiny64, paths["direct"], [TARGET], [P2P(), LocalBlend()], mask=mask)
    free = watch_walk(tiny64, paths["direct"], [TARGET], [P2P()])
    inside = mask[0, 0].bool()
    for s, x in enumerate(blended):
        changed = (x[1] != x[0]).any(1)[0]
        assert torch.equal(changed, inside) == (s >= int(0.2 * STEPS))  # the published share, rounded down
    assert gap(free[-1][1], blended[-1][1]) > 1e-2


@pytest.mark.parametrize("blend", [("", ""), ("dog", "dog"), ("cat", "cat"), ("Cat", "dog")])
def test_words_that_do_not_occur_are_refused_before_anything_runs(tiny, picture, blend) -> None:
    before = tiny.tally.copy()
    with pytest.raises(ReinvertError, match=r"does not occur in|needs a word"):
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, blend=blend, steps=4)
    assert tiny.tally == before


def test_boosts_and_windows_of_missing_words_are_refused(tiny, picture) -> None:
    for wrong in ({"boost": {"cat": 2.0}}, {"cross": {"default_": 0.4, "cat": 0.2}}):
        with pytest.raises(ReinvertError, match="'cat' does not occur"):
            reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, steps=4, **wrong)


def test_auto_is_replace_where_the_word_counts_are_equal() -> None:
    assert P2P(kind="auto").kind_for(SOURCE, TARGET) == "replace"
    assert P2P(kind="auto").kind_for(SOURCE, TARGET + " outside") == "refine"
    assert P2P().kind_for(SOURCE, TARGET) == "refine"


def test_auto_counts_words_and_not_spaces(tiny) -> None:
    """Two spaces are no word between them: the prompts below have two words and three."""
    source, target = "a  cat", "a big cat"
    editor = P2P(kind="auto")
    assert editor.kind_for(source, target) == "refine"
    assert editor.kind_for(" a cat ", "a\tdog") == "replace"
    editor.bind(Case(tiny, (source,), ((target,),), 4, torch.zeros(5, 1, 3, 16, 16)))
