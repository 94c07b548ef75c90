"""MasaCtrl: the recorded run and operator, full maps with foregrounds, invariants, cost."""

from __future__ import annotations

import pytest
import torch
from conftest import PARITY, SOURCE, TARGET, gap, relative_l2, watch_walk
from safetensors.torch import load_file

from reinvert.editors.base import Case
from reinvert.editors.masactrl import MasaCtrl
from reinvert.errors import ReinvertError
from reinvert.hooks import Layer, Site
from reinvert.image import open_image, to_tensor
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
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


def test_the_recorded_run(parity_model, recorded, recorded_json) -> None:
    entry = recorded_json["entries"]["p1_masa_di"]
    clean = parity_model.encode(to_tensor([open_image(PARITY / "inputs" / "img1_512.png")]))
    path = Direct().invert(Source(parity_model, clean, ("",), entry["N"]))
    for k in (1, 5, 10):
        assert relative_l2(path.path[k, 0], recorded[f"p1_masa_di.zstar{k}"].view(4, 64, 64)) < 1e-4
    x = watch_walk(parity_model, path, [TARGET], [MasaCtrl(start_step=entry["step"])])[-1]
    final = recorded["p1_masa_di.final"].view(2, 4, 64, 64)
    assert relative_l2(x[1, 0], final[1]) < 1e-4  # recorded.json, tolerances
    assert float((x[0, 0] - final[0]).abs().max()) < 1e-4


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
    # the next step begins without maps, so without a foreground
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


def test_wrong_settings_are_said_in_a_sentence() -> None:
    with pytest.raises(ReinvertError, match="both prompts"):
        MasaCtrl(mask_source=("cat",))
    with pytest.raises(ReinvertError, match="start_step"):
        MasaCtrl(start_step=-1)
