"""MasaCtrl: the recorded operator, full maps with foregrounds, invariants; the recorded run is in tests/parity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import PARITY, SOURCE, TARGET, gap, load_tiny, watch_walk
from PIL import Image
from safetensors.torch import load_file

import reinvert
from reinvert.editors.base import Case
from reinvert.editors.masactrl import MasaCtrl, _MasaHooks
from reinvert.errors import ReinvertError
from reinvert.hooks import Layer, Site
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.edict import EDICT
from reinvert.level import Level, Moment
from reinvert.text import Side

STEPS = 6


def site(kind, grid: int, *, layer: int = 9, index: int = 5, side: Side = Side.TEXT, latent: int = 16) -> Site:
    moment = Moment(index, STEPS, 801, 601, Level(0.5, 0.8), Level(0.6, 0.7))
    return Site(Layer("x.attn1", "up", layer), kind, side, (grid, grid), (latent, latent), (0, 1), moment)


def hooks(model, method: MasaCtrl, mask: torch.Tensor | None = None):
    return method.bind(Case(model, (SOURCE,), ((TARGET,),), STEPS, torch.zeros(1, 1, 3, 16, 16), mask))


def heads(tokens: int, seed: int, other: int | None = None) -> torch.Tensor:
    shape = (2, 1, 2, tokens, other or 4)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_recorded_operator(tiny64) -> None:
    unit = load_file(PARITY / "unit.safetensors")
    q, k, v = (unit[f"masa.{n}"].view(4, 1, 2, 256, 16) for n in "qkv")
    out = unit["masa.out"].view(4, 256, 2, 16).transpose(1, 2)[:, None]
    rule = hooks(tiny64, MasaCtrl())
    for rows, side in ((slice(0, 2), Side.NULL), (slice(2, 4), Side.TEXT)):
        found = rule.attend(q[rows], k[rows], v[rows], site("self", 16, side=side))
        assert gap(found, out[rows]) < 1e-5


def test_a_foreground_is_two_attentions_by_full_maps(tiny64) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 5:] = 1
    q, k, v = (heads(256, seed) for seed in range(3))
    out = hooks(tiny64, MasaCtrl(), mask).attend(q, k, v, site("self", 16))
    logits = q[1] @ k[0].transpose(-1, -2) / 2
    keys = mask.flatten().bool()
    inside, outside = (logits.masked_fill(~part, -torch.inf).softmax(-1) @ v[0] for part in (keys, ~keys))
    wanted = torch.where(keys[:, None], inside, outside)
    assert gap(out[1], wanted) < 1e-12
    assert gap(out[0], (q[0] @ k[0].transpose(-1, -2) / 2).softmax(-1) @ v[0]) < 1e-12


def test_a_foreground_of_all_or_nothing_is_no_foreground(tiny64) -> None:
    q, k, v = (heads(64, seed) for seed in range(3))
    free = hooks(tiny64, MasaCtrl()).attend(q, k, v, site("self", 8))
    for value in (0.0, 1.0):
        mask = torch.full((1, 1, 16, 16), value)
        assert gap(hooks(tiny64, MasaCtrl(), mask).attend(q, k, v, site("self", 8)), free) < 1e-12


def test_words_make_the_foreground_from_the_steps_own_maps(tiny64) -> None:
    """Two cross-attention layers, then a self-attention: means over heads, sums over layers, min-max, threshold."""
    method = MasaCtrl(mask_source=("cat",), mask_target=("dog",), threshold=0.5)
    rule = hooks(tiny64, method)
    rule.attend(heads(64, 1), heads(64, 2), heads(64, 3), site("self", 8, layer=0))
    token = 2  # "a cat ...": start, a, cat
    seen = torch.zeros(2, 256, dtype=torch.float64)
    for seed in (10, 20):
        q, k, v = heads(256, seed), heads(16, seed + 1), heads(16, seed + 2)
        plain = (q @ k.transpose(-1, -2) / 2).softmax(-1)
        assert gap(rule.attend(q, k, v, site("cross", 16)), plain @ v) < 1e-12
        seen += plain[:, 0, :, :, token].mean(1)
    low, high = seen.amin(-1, keepdim=True), seen.amax(-1, keepdim=True)
    found = (seen - low) / (high - low) >= 0.5
    q, k, v = (heads(256, seed) for seed in range(3))
    logits = q[1] @ k[0].transpose(-1, -2) / 2
    inside, outside = (logits.masked_fill(~part, -torch.inf).softmax(-1) @ v[0] for part in (found[0], ~found[0]))
    assert gap(rule.attend(q, k, v, site("self", 16))[1], torch.where(found[1][:, None], inside, outside)) < 1e-12
    # the next evaluation begins without maps, so without a foreground
    rule.attend(q, k, v, site("self", 8, layer=0, index=6))
    later = rule.attend(q, k, v, site("self", 16, index=6))
    assert gap(later, hooks(tiny64, MasaCtrl()).attend(q, k, v, site("self", 16, index=6))) < 1e-12


def test_beyond_the_last_step_or_layer_it_is_plain_guidance(tiny64, clean) -> None:
    path = DDIM().invert(Source(tiny64, clean[:1], ("",), STEPS))
    plain = watch_walk(tiny64, path, [TARGET])
    for idle in (MasaCtrl(start_step=STEPS), MasaCtrl(start_layer=1.0)):
        assert gap(watch_walk(tiny64, path, [TARGET], [idle])[-1], plain[-1]) < 1e-12
    acting = watch_walk(tiny64, path, [TARGET], [MasaCtrl(start_step=2, start_layer=0.4)])
    assert gap(acting[-1][1], plain[-1][1]) > 1e-3
    assert gap(acting[-1][0], plain[-1][0]) < 1e-10


def test_an_empty_target_stays_with_its_source(tiny64, clean) -> None:
    path = DDIM().invert(Source(tiny64, clean[:1], ("",), STEPS))
    for x in watch_walk(tiny64, path, [""], [MasaCtrl(start_step=1)]):
        assert gap(x[1], x[0]) < 1e-10


def test_what_is_needed_is_evaluated(tiny64, clean) -> None:
    """Four steps of two rows, then three (page: 46 x 3 + 4 x 2 of the 196 at fifty steps)."""
    path = Direct().invert(Source(tiny64, clean[:1], ("",), STEPS))
    before = tiny64.tally.copy()
    watch_walk(tiny64, path, [TARGET], [MasaCtrl()])
    assert tiny64.tally.since(before).forwards == 4 * 2 + 2 * 3
    said = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    before = tiny64.tally.copy()
    watch_walk(tiny64, said, [TARGET], [MasaCtrl()])
    assert tiny64.tally.since(before).forwards == 4 * 2 + 2 * 4


def test_a_source_may_hear_nothing(tiny64, clean) -> None:
    """Anchored, it then costs one row, as if it had never had a prompt."""
    path = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    before = tiny64.tally.copy()
    silent = watch_walk(tiny64, path, [TARGET], [MasaCtrl(source_conditioning="empty")])[-1]
    assert tiny64.tally.since(before).forwards == 4 * 2 + 2 * 3
    mute = watch_walk(tiny64, replace(path, prompts=("",)), [TARGET], [MasaCtrl()])[-1]
    assert gap(silent, mute) < 1e-12


@pytest.mark.parametrize("form", ["mask", "words"])
def test_foregrounds_together_equal_foregrounds_alone(tiny64, clean, form: str) -> None:
    """Every case has a foreground of its own, one of them an empty one; the words are read off whole runs."""
    sources, targets = (SOURCE, "a big cat on the table"), (TARGET, "a big dog on the table")
    words = {"mask_source": ("cat",), "mask_target": ("dog",), "threshold": 0.6} if form == "words" else {}
    method = MasaCtrl(start_step=1, start_layer=0.3, **words)
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, ..., 5:12] = 1
    path = Direct().invert(Source(tiny64, clean, sources, STEPS))
    both = watch_walk(tiny64, path, [targets], [method], mask=mask if form == "mask" else None)
    for i in range(2):
        own = mask[i : i + 1] if form == "mask" else None
        alone = watch_walk(tiny64, path.case(i), [targets[i]], [method], mask=own)
        assert max(gap(a[:, i], b[:, 0]) for a, b in zip(both, alone, strict=True)) < 1e-9
    free = watch_walk(tiny64, path, [targets], [MasaCtrl(start_step=1, start_layer=0.3)])[-1]
    assert gap(both[-1][1, 0], free[1, 0]) > 1e-3
    assert form == "words" or gap(both[-1][1, 1], free[1, 1]) < 1e-12  # the empty one


@pytest.mark.parametrize("given", ["mask", "nothing", "words"])
def test_half_precision_is_finite(tiny_folder, picture, given: str) -> None:
    model = load_tiny(tiny_folder, torch.float16)
    mask = Image.new("L", (32, 32))
    if given != "nothing":
        mask.paste(255, (16, 0, 32, 32))
    words = {"mask_source": ("cat",), "mask_target": ("dog",)} if given == "words" else {"mask": mask}
    result = reinvert.edit(
        model, picture, source=SOURCE, target=TARGET, editor="masactrl", start_step=1, start_layer=0.3, steps=3, **words
    )
    assert bool(result.latents.isfinite().all())


def test_beside_edict_every_evaluation_has_its_own_maps(tiny64, clean, monkeypatch) -> None:
    """EDICT asks the network twice a step: a foreground never sums more layers than one evaluation has."""
    counts: list[int] = []
    watched, foregrounds = _MasaHooks._watched, _MasaHooks._foregrounds
    layers = [0]

    def watch(self, q, k, v, site, inner):
        before = self.maps
        out = watched(self, q, k, v, site, inner)
        layers[0] = (1 if before is None else layers[0] + 1) if self.maps is not before else layers[0]
        return out

    def look(self, site):
        counts.append(layers[0] if self.maps is not None else 0)
        return foregrounds(self, site)

    monkeypatch.setattr(_MasaHooks, "_watched", watch)
    monkeypatch.setattr(_MasaHooks, "_foregrounds", look)
    path = EDICT().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    method = MasaCtrl(start_step=1, start_layer=0.0, mask_source=("cat",), mask_target=("dog",))
    watch_walk(tiny64, path, [TARGET], [method])
    on_the_grid = 3  # cross-attention layers of 16 x 16 in the tiny model: one down, two up
    assert counts[0] == 0
    assert max(counts) < on_the_grid + 1


def test_wrong_settings_are_said_in_a_sentence() -> None:
    with pytest.raises(ReinvertError, match="both prompts"):
        MasaCtrl(mask_source=("cat",))
    with pytest.raises(ReinvertError, match="start_step"):
        MasaCtrl(start_step=-1)
    with pytest.raises(ReinvertError, match="source_conditioning"):
        MasaCtrl(mask_source=("cat",), mask_target=("dog",), source_conditioning="empty")
