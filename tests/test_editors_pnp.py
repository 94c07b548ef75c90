"""Plug-and-Play: the recorded run, a naive three-row program, invariants, cost."""

from __future__ import annotations

import naive
import pytest
import torch
from conftest import PARITY, SOURCE, TARGET, gap, relative_l2, watch_walk

import reinvert
from reinvert.editors.pnp import PnP, feature_of
from reinvert.errors import ReinvertError
from reinvert.hooks import Layer
from reinvert.image import open_image, to_tensor
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.edict import EDICT

STEPS = 5
BAD = "ugly"


def test_the_recorded_run(parity_model, recorded, recorded_json) -> None:
    entry = recorded_json["entries"]["p1_pnp_di"]
    clean = parity_model.encode(to_tensor([open_image(PARITY / "inputs" / "img1_512.png")]))
    path = Direct().invert(Source(parity_model, clean, (SOURCE,), entry["N"]))
    for k in (1, 5, 10):
        assert relative_l2(path.path[k, 0], recorded[f"p1_pnp_di.zstar{k}"].view(4, 64, 64)) < 1e-4
    x = watch_walk(parity_model, path, [TARGET], [PnP()])[-1]
    final = recorded["p1_pnp_di.final"].view(-1, 4, 64, 64)
    assert relative_l2(x[1, 0], final[-1]) < 1e-4  # recorded.json, tolerances


def test_the_published_start_of_the_ddim_row(parity_model, recorded, recorded_json) -> None:
    """The list that row takes the source's latents from: its first and last entries were recorded."""
    from reinvert.verbs import prepared_edit

    clean = parity_model.encode(to_tensor([open_image(PARITY / "inputs" / "img1_512.png")]))
    path = DDIM().invert(Source(parity_model, clean, (SOURCE,), 10))
    published, _ = prepared_edit(parity_model, path, [PnP(compat="published")], ((TARGET,),))
    assert relative_l2(published.start[0], recorded["p1_pnp_di.recon_list9"].view(4, 64, 64)) < 1e-4
    assert relative_l2(published.path[1, 0], recorded["p1_pnp_di.recon_list0"].view(4, 64, 64)) < 1e-4


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
    with pytest.raises(ReinvertError, match="no module"):
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor=[PnP(layer="nowhere")], steps=2)
    path = EDICT().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    with pytest.raises(ReinvertError, match="DDIM inversion"):
        watch_walk(tiny64, path, [TARGET], [PnP(compat="published")])
