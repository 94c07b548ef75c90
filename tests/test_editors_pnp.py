"""Plug-and-Play: a naive three-row program, invariants, cost; the recorded run is in tests/parity."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, load_tiny, watch_walk

import reinvert
from reinvert.editors.pnp import PnP, feature_of
from reinvert.errors import ReinvertError
from reinvert.hooks import Layer
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.edict import EDICT
from reinvert.inversions.negative_prompt import NegativePrompt
from reinvert.inversions.text_embedding import TextEmbedding
from reinvert.trajectory import Trajectory

STEPS = 5
BAD = "ugly"


class Injected:
    """Full-map attention of rows [source, null, text], with the source's queries and keys where told."""

    def __init__(self, ruled: bool) -> None:
        self.ruled = ruled

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            layer(y).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, y in ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
        )
        if self.ruled and encoder_hidden_states is None:
            q, k = q[:1].expand_as(q), k[:1].expand_as(k)
        maps = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


def three_rows(model, path, features: int, attention: int) -> torch.Tensor:
    """The published loop on an aligned path: source, negative and target in one batch."""
    said = torch.cat([naive.encode(model, [prompt]) for prompt in ("", BAD, TARGET)])
    x, former = path[-1], dict(model.unet.attn_processors)
    module = model.unet.get_submodule(feature_of(model.layers()))
    ruled = [n for n in former if n.startswith("up_blocks") and "attn1" in n][1:]
    for i, t in enumerate(naive.times(STEPS)):
        model.unet.set_attn_processor({n: Injected(n in ruled and i < attention) for n in former})
        hook = module.register_forward_hook(lambda m, a, out: out[:1].expand_as(out)) if i < features else None
        e = naive.ask(model, torch.cat([path[STEPS - i], x, x]), t, said)
        if hook:
            hook.remove()
        a, b = naive.coefficients(t, STEPS)
        x = a * x + b * (e[1:2] + 7.5 * (e[2:] - e[1:2]))
    model.unet.set_attn_processor(former)
    return x


@pytest.mark.parametrize(("features", "attention"), [(0.8, 0.4), (0.0, 1.0), (1.0, 0.0)])
def test_an_edit_is_the_naive_program(tiny64, clean, features: float, attention: float) -> None:
    path = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    x = watch_walk(tiny64, path, [TARGET], [PnP(features=features, attention=attention, negative=BAD)])[-1]
    wanted = three_rows(tiny64, list(path.path), int(STEPS * features), int(STEPS * attention))
    assert gap(x[1], wanted) < 1e-9
    assert torch.equal(x[0], clean[:1])


def test_without_injection_it_is_guidance_with_a_negative_prompt(tiny64, clean) -> None:
    path = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    x = watch_walk(tiny64, path, [TARGET], [PnP(features=0.0, attention=0.0, negative=BAD)])[-1][1]
    z, said, bad = path.start, naive.encode(tiny64, [TARGET]), naive.encode(tiny64, [BAD])
    for t in naive.times(STEPS):
        z = naive.guided_step(tiny64, z, t, bad, said, 7.5, STEPS)
    assert gap(x, z) < 1e-10


def test_what_is_needed_is_evaluated(tiny64, clean) -> None:
    """40 x 3 + 10 x 2 of fifty steps (page, 2.3); here 4 x 3 + 1 x 2."""
    path = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    before = tiny64.tally.copy()
    watch_walk(tiny64, path, [TARGET], [PnP()])
    assert tiny64.tally.since(before).forwards == 4 * 3 + 1 * 2


@pytest.mark.parametrize("free", [DDIM(), NegativePrompt(), TextEmbedding(inner=1)])
def test_a_free_source_is_held_on_its_inverted_latents(tiny64, clean, free) -> None:
    path = free.invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    assert path.pulled is None
    before = tiny64.tally.copy()
    walked = watch_walk(tiny64, path, [TARGET], [PnP()])
    assert tiny64.tally.since(before).forwards == 4 * 3 + 1 * 2
    for x, wanted in zip(walked, path.path.flip(0)[1:], strict=True):
        assert gap(x[0], wanted) < 1e-12
    assert gap(walked[-1][1], walked[-1][0]) > 1e-2


def test_with_ddim_it_is_direct_inversion(tiny64, clean) -> None:
    source = Source(tiny64, clean[:1], (SOURCE,), STEPS)
    ours, direct = (watch_walk(tiny64, i.invert(source), [TARGET], [PnP()])[-1] for i in (DDIM(), Direct()))
    assert gap(ours, direct) < 1e-12


def test_a_source_on_two_paths_holds_itself(tiny64, clean) -> None:
    path = EDICT().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    assert gap(watch_walk(tiny64, path, [TARGET], [PnP()])[-1][0], clean[:1]) < 1e-10


def test_the_published_row_is_one_step_ahead(tiny64, clean) -> None:
    """The three-row program on the list of that row: the render's latent after a step stands in for that before it."""
    path = DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    z, said, ahead = path.start, naive.encode(tiny64, [SOURCE]), []
    for t in naive.times(STEPS):
        z = naive.guided_step(tiny64, z, t, said, said, 1.0, STEPS)
        ahead.append(z)
    wanted = three_rows(tiny64, [None, *reversed(ahead)], 4, 2)
    before = tiny64.tally.copy()
    x = watch_walk(tiny64, path, [TARGET], [PnP(negative=BAD, compat="published")])[-1]
    assert gap(x[1], wanted) < 1e-9
    assert tiny64.tally.since(before).forwards == STEPS + 4 * 3 + 1 * 2  # the page's 240: the render, then the edit


def test_with_nothing_to_say_all_rows_agree(tiny64, clean) -> None:
    """Invariant 4 of the page: at the first step injection copies what is there already."""
    path = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    x = watch_walk(tiny64, path, [""], [PnP(negative="")])[0]
    empty = naive.encode(tiny64, [""])
    assert gap(x[1], naive.guided_step(tiny64, path.start, naive.times(STEPS)[0], empty, empty, 7.5, STEPS)) < 1e-10


def test_guidance_one_still_copies_the_structure(tiny64, clean) -> None:
    path = Direct().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    plain = watch_walk(tiny64, path, [TARGET], guidance=1.0)[-1]
    before = tiny64.tally.copy()
    ruled = watch_walk(tiny64, path, [TARGET], [PnP()], guidance=1.0)[-1]
    assert tiny64.tally.since(before).forwards == 4 * 2 + 1
    assert gap(ruled[1], plain[1]) > 1e-2


def test_a_saved_trajectory_gives_the_same_edit(tiny, picture, tmp_path) -> None:
    made = reinvert.invert(tiny, picture, SOURCE, inversion="ddim", steps=3)
    made.save(tmp_path / "made.trajectory.safetensors")
    again = Trajectory.load(tmp_path / "made.trajectory.safetensors")
    first, second = (reinvert.edit(tiny, path, target=TARGET, editor="pnp").latents for path in (made, again))
    assert torch.equal(first, second)


def test_half_precision_is_finite(tiny_folder, picture) -> None:
    model = load_tiny(tiny_folder, torch.float16)
    result = reinvert.edit(model, picture, source=SOURCE, target=TARGET, editor="pnp", steps=3)
    assert bool(result.latents.isfinite().all())


def test_the_feature_is_found_in_the_names() -> None:
    names = [f"up_blocks.1.attentions.{i}.transformer_blocks.0.attn1" for i in range(3)]
    layers = [Layer(name, "up", i) for i, name in enumerate(names)]
    assert feature_of(layers) == "up_blocks.1.resnets.1.conv2"
    assert feature_of(layers[:1]) == "up_blocks.1.resnets.0.conv2"
    with pytest.raises(ReinvertError, match="layer"):
        feature_of([Layer("mid_block.attentions.0.transformer_blocks.0.attn1", "mid", 0)])


def test_wrong_settings_are_said_in_a_sentence(tiny, picture, tiny64, clean) -> None:
    with pytest.raises(ReinvertError, match="shares"):
        PnP(features=1.5)
    before = tiny.tally.copy()
    with pytest.raises(ReinvertError, match="no module"):
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor=[PnP(layer="nowhere")], steps=2)
    assert tiny.tally.since(before).forwards == 0
    path = EDICT().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    with pytest.raises(ReinvertError, match="DDIM inversion"):
        watch_walk(tiny64, path, [TARGET], [PnP(compat="published")])
