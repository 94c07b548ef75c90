"""A model in float64 computes in it throughout: texts, latents, trajectories and pictures; files keep it."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, build_tower, gap, watch_walk

import reinvert
from reinvert import registry
from reinvert.backbones.families import families
from reinvert.backbones.loading import pick_dtype
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.precision import around
from reinvert.trajectory import Trajectory

LEARN = {
    "null_text": {"inner": 1},
    "text_embedding": {"inner": 1},
    "style_diffusion": {"inner": 1},
    "regularised": {"outer": 1},
}


def tensors(trajectory: Trajectory) -> list[torch.Tensor]:
    null = trajectory.null
    more = [] if null is None else [t for t in (null.tokens, null.pooled) if t is not None]
    return [trajectory.path, *trajectory.kept.values(), *more]


@pytest.mark.parametrize("name", ["float64", "fp64"])
def test_it_has_a_name(tiny_folder, name: str) -> None:
    assert reinvert.load(tiny_folder, device="cpu", dtype=name).dtype == torch.float64
    with pytest.raises(ReinvertError, match="MPS devices have no float64"):
        pick_dtype(name, torch.device("mps"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_computed_around_a_network(dtype: torch.dtype) -> None:
    assert around(dtype) == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", sorted(families()))
def test_texts_latents_and_pictures_of_every_family(name: str) -> None:
    """Not only by their dtype: what a float32 rounding anywhere would leave is far above the limits."""
    model = families()[name].tiny()
    text, nothing = model.encode_text([SOURCE]), model.nothing(1)
    channels, h, w = model.latent_shape
    pictures = torch.rand(1, 3, h * model.factor, w * model.factor, dtype=torch.float64) * 2 - 1
    latents = model.encode(pictures)
    decoded = model.decode(latents)
    for tensor in (text.tokens, text.pooled, nothing.tokens, nothing.pooled, latents, decoded):
        assert tensor is None or tensor.dtype == torch.float64
    assert latents.shape == (1, channels, h, w)
    for tensor in (text.tokens, latents, decoded):
        assert gap(tensor.float(), tensor) > 1e-10  # a float32 number widened would not be moved by rounding


def test_encoding_and_decoding_lose_nothing(tiny64) -> None:
    """Against diffusers' own arithmetic in float64."""
    pictures = torch.rand(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scale = tiny64.vae.config.scaling_factor
    with torch.no_grad():
        wanted = tiny64.vae.encode(pictures).latent_dist.mean * scale
        back = tiny64.vae.decode(wanted / scale).sample
    latents = tiny64.encode(pictures)
    assert gap(latents, wanted) < 1e-14
    assert gap(tiny64.decode(latents), back) < 1e-13


@pytest.mark.parametrize(
    "name", [n for n in registry.names("inversions") if not registry.find("inversions", n).needs_flow]
)
def test_every_tensor_of_a_trajectory(tiny64, picture, tmp_path, name: str) -> None:
    """From the verbs on: the picture is not rounded to float32 on its way in, and the file keeps what it is given."""
    method = registry.make("inversions", name, LEARN.get(name, {}))
    if name == "style_diffusion":
        method = replace(method, encoder=str(build_tower(tmp_path / "tower")))
    made = reinvert.invert(tiny64, picture, SOURCE, inversion=method, steps=3)
    assert {tensor.dtype for tensor in tensors(made)} == {torch.float64}
    made.save(tmp_path / "a.trajectory.safetensors")
    loaded = Trajectory.load(tmp_path / "a.trajectory.safetensors")
    for a, b in zip(tensors(made), tensors(loaded), strict=True):
        assert torch.equal(a, b)
        assert b.dtype == torch.float64
    text = loaded.conditioning(tiny64, ((TARGET,),)).text
    assert text.tokens.dtype == torch.float64
    if method.exact:
        back = reinvert.reconstruct(tiny64, loaded).latents[0]
        assert back.dtype == torch.float64
        assert gap(back, tiny64.encode(reinvert.image.to_tensor([picture], torch.float64))[0]) < 1e-10


def test_ddim_s_way_up_and_down_is_that_of_the_naive_loop(tiny64, clean) -> None:
    """At 1e-10 of whole guided runs: a text or a table in float32 anywhere leaves 1e-6."""
    path = naive.invert(tiny64, clean[:1], SOURCE, 3)
    made = reinvert.inversions.ddim.DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), 3))
    assert gap(made.path[:, 0], torch.cat(path)) < 1e-10
    attention = naive.Attention(tiny64.tokenizer, [SOURCE, TARGET], 3)
    expected = naive.edit(tiny64, path, attention)
    run = watch_walk(tiny64, made, [TARGET], [P2P()])
    assert max(gap(x[:, 0], y) for x, y in zip(run, expected, strict=True)) < 1e-10


def test_boosts_are_not_rounded_to_float32(tiny64, clean) -> None:
    made = reinvert.inversions.ddim.DDIM().invert(Source(tiny64, clean[:1], (SOURCE,), 2))
    targets, float32_of = ((TARGET,),), float(torch.tensor(1.3))
    runs = [watch_walk(tiny64, made, targets, [P2P(boost={"dog": boost})])[-1] for boost in (1.3, float32_of)]
    assert 1e-12 < gap(*runs) < 1e-3


def test_a_trajectory_of_a_float32_model_is_edited_in_float64(tiny, tiny64, picture) -> None:
    made = reinvert.invert(tiny, picture, SOURCE, inversion="ddim", steps=2)
    assert made.path.dtype == torch.float32
    result = reinvert.edit(tiny64, made, target=TARGET, editor="p2p+proximal")
    assert result.latents.dtype == torch.float64
    assert reinvert.edit(tiny, made, target=TARGET).latents.dtype == torch.float32
