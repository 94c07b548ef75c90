"""Pix2Pix-Zero: the recorded run, a naive step with full maps, its invariants, its cost and its memory."""

from __future__ import annotations

import json

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, relative_l2, watch_walk

from reinvert.cli.program import main
from reinvert.editors.base import Case
from reinvert.editors.pix2pix_zero import Pix2PixZero, _ZeroHooks, sentences
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.regularised import Regularised

STEPS = 4


@pytest.mark.slow
def test_the_recorded_run(parity_model, recorded, recorded_json) -> None:
    """The published direct-inversion row: its levels, its sampled latents, its shared correction, no regularisation."""
    entry = recorded_json["entries"]["p1_p2pz_di_noreg"]
    clean = recorded["p1_p2pz_di_noreg.posterior_sample"].float() * parity_model.vae.config.scaling_factor
    inversion = Regularised(outer=0, strength=1.0, carry="source", compat="published")
    path = inversion.invert(Source(parity_model, clean.view(1, 4, 64, 64), (entry["caption"],), entry["N"]))
    assert relative_l2(path.start[0], recorded["p1_p2pz_di_noreg.zstar_last"].view(4, 64, 64)) < 1e-5
    editor = Pix2PixZero(source_bank=(SOURCE,), target_bank=(TARGET,))
    x = watch_walk(parity_model, path, [TARGET], [editor])[-1]
    assert relative_l2(x[0, 0], recorded["p1_p2pz_di_noreg.recon"].view(4, 64, 64)) < 1e-5
    # recorded.json, tolerances: gradients of sums of squared maps are taken in float32
    assert relative_l2(x[1, 0], recorded["p1_p2pz_di_noreg.final"].view(4, 64, 64)) < 1e-3


class Full:
    """An attention processor that keeps the full cross-attention maps of a forward."""

    def __init__(self, keep: list) -> None:
        self.keep = keep

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            layer(y).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, y in ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
        )
        maps = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        if encoder_hidden_states is not None:
            self.keep.append(maps)
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


def maps_of(model, z: torch.Tensor, t: int, text: torch.Tensor):
    former, kept = dict(model.unet.attn_processors), []
    model.unet.set_attn_processor({name: Full(kept) for name in former})
    noise = naive.noise(model, z, t, text)
    model.unet.set_attn_processor(former)
    return noise, kept


def test_a_walk_is_the_naive_one_with_full_maps(tiny64, clean) -> None:
    path = DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    walked = watch_walk(tiny64, path, [TARGET], [Pix2PixZero(amount=0.3)])
    cap, said = naive.encode(tiny64, [SOURCE]), naive.encode(tiny64, [TARGET])
    source, z = path.start, path.start
    for i, t in enumerate(naive.times(STEPS)):
        with torch.no_grad():
            e, reference = maps_of(tiny64, source, t, cap)
        a, b = naive.coefficients(t, STEPS)
        source = a * source + b * e
        leaf = torch.cat([z, z]).detach().requires_grad_()
        _, found = maps_of(tiny64, leaf, t, torch.cat([cap, said]))
        loss = sum(((m - r) ** 2).sum() / (2 * m.shape[1]) for m, r in zip(found, reference, strict=True))
        x = (leaf - 0.3 * torch.autograd.grad(loss, leaf)[0]).detach()
        null, text = naive.ask(tiny64, x[:1], t, cap), naive.ask(tiny64, x[1:], t, said)
        z = a * x[:1] + b * (null + 7.5 * (text - null))
        assert gap(walked[i][0], source) < 1e-9
        # float64; through these peaked maps a gradient step multiplies a rounding error by ten and more
        assert gap(walked[i][1], z) < 1e-10 * 10.0**i


def test_no_direction_is_no_edit_at_any_amount_and_guidance(tiny64, clean) -> None:
    path = DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    for x in watch_walk(tiny64, path, [SOURCE], [Pix2PixZero(amount=1e-3)], guidance=3.0):
        assert gap(x[1], x[0]) < 1e-9
    # Equal maps are a fixed point, but on peaked maps an unstable one: rounding grows with the length of the steps.
    first = watch_walk(tiny64, path, [SOURCE], [Pix2PixZero(amount=5.0)], guidance=3.0)[0]
    assert gap(first[1], first[0]) < 1e-8
    # along the anchored path the target follows its own way, whose maps differ, so only carrying brings it home
    carried = Direct(carry="source").invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    assert gap(watch_walk(tiny64, carried, [SOURCE], [Pix2PixZero(amount=1e-3)])[-1][1], clean[:1]) < 1e-9


def test_banks_are_averaged(tiny64, clean, tmp_path) -> None:
    cats, dogs = ("a cat", "a small cat"), ("a dog", "a small dog", "a big dog")
    (tmp_path / "dogs.txt").write_text("a dog\n\na small dog\na big dog\n")
    path = DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
    case = Case(tiny64, (SOURCE,), ((TARGET,),), STEPS, path.path)
    hooks = Pix2PixZero(source_bank=cats, target_bank=(f"@{tmp_path / 'dogs.txt'}",)).bind(case)
    assert isinstance(hooks, _ZeroHooks)
    said = hooks.text(path.conditioning(tiny64, [(TARGET,)]))
    encode = lambda prompts: tiny64.encode_text(prompts).tokens  # noqa: E731
    wanted = encode([SOURCE])[0] + encode(dogs).mean(0) - encode(cats).mean(0)
    assert gap(said.text.tokens[1, 0], wanted) < 1e-6  # the encoder is run in batches of another size
    with pytest.raises(ReinvertError, match="does not exist"):
        sentences(["@nowhere.txt"])


def test_what_is_needed_is_evaluated_and_one_step_of_maps_is_kept(tiny64, clean) -> None:
    for inversion in (DDIM(), Direct()):
        path = inversion.invert(Source(tiny64, clean[:1], (SOURCE,), STEPS))
        before = tiny64.tally.copy()
        hooks = Pix2PixZero().bind(Case(tiny64, (SOURCE,), ((TARGET,),), STEPS, path.path))
        assert isinstance(hooks, _ZeroHooks)
        for _ in path.walk(tiny64, [(TARGET,)], hooks):
            assert not hooks.maps.by_layer
        spent = tiny64.tally.since(before)
        # a step: the source once, both sides of the target with gradients, both sides of the moved target
        assert (spent.forwards, spent.backwards) == (5 * STEPS, 2 * STEPS)
    before = tiny64.tally.copy()
    watch_walk(tiny64, path, [TARGET], [Pix2PixZero(amount=0.0)])
    assert tiny64.tally.since(before).forwards == 2 * STEPS


def test_sentence_banks_from_the_command_line(tiny_folder, picture, tmp_path) -> None:
    """Files of sentences are read, and the sidecar has the sentences: the edit can be told from it alone."""
    picture.save(tmp_path / "in.png")
    for name, concept in (("before", "cat"), ("after", "dog")):
        (tmp_path / f"{name}.txt").write_text(f"a {concept} sitting on a table\nthe {concept} near the river\n")
    words = ["--model", str(tiny_folder), "--device", "cpu", "--steps", "2", "--editor", "pix2pix_zero"]
    banks = ["--source-bank", f"@{tmp_path}/before.txt", "--target-bank", f"@{tmp_path}/after.txt"]
    edit = ["edit", str(tmp_path / "in.png"), "--source", SOURCE, "--target", TARGET, *words]
    for output, more in (("a.png", banks), ("b.png", [])):
        assert main([*edit, *more, "--amount", "1", "-o", str(tmp_path / output)]) == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    (editor,) = json.loads((tmp_path / "a.png.json").read_text())["settings"]["editors"]
    assert editor["source_bank"] == ["a cat sitting on a table", "the cat near the river"]
    assert editor["target_bank"] == ["a dog sitting on a table", "the dog near the river"]


def test_a_bank_s_lines_are_sentences(tmp_path) -> None:
    (tmp_path / "bank.txt").write_text("a cat\n@other.txt\n")
    with pytest.raises(ReinvertError, match="names another file"):
        Pix2PixZero(source_bank=(f"@{tmp_path / 'bank.txt'}",))
