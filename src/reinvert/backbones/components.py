"""What families of latent models share: text encoders, the autoencoder, and how weights are told apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reinvert.backbones.base import Fingerprint
from reinvert.backbones.memory import pictures_at_once
from reinvert.display import line, table
from reinvert.precision import around, wide


def model_line(model: Any) -> str:
    """A model's `__repr__`."""
    dtype, side = str(model.dtype).removeprefix("torch."), model.image_size
    return line(type(model).__name__, f"'{model.name}'", f"{side}x{side}", model.device, dtype)


def model_table(model: Any) -> str:
    """A model's `_repr_html_`."""
    count = sum(weight.numel() for weight in model.network.parameters())
    rows = {
        "kind": type(model).__name__,
        "network": f"{count / 1e6:,.1f} M parameters",
        "usual size": f"{model.image_size}x{model.image_size} pixels, a multiple of {model.multiple}",
        "usual steps, guidance": f"{model.usual.steps}, {model.usual.guidance:g}",
        "device, dtype": f"{model.device}, {str(model.dtype).removeprefix('torch.')}",
    }
    return table(model.name, rows)


class Encoded(NamedTuple):
    """What a CLIP text encoder makes of prompts."""

    tokens: Tensor
    """[prompt, token, dim]: the last hidden state but one, before the final layer norm."""
    pooled: Tensor
    """[prompt, dim]: the end token's embedding, projected where the encoder has a projection."""


def token_ids(tokenizer: Any, prompts: Sequence[str], length: int) -> Tensor:
    """[prompt, length]; each tokenizer pads with its own token, and longer prompts are cut."""
    rows = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return rows.input_ids


@torch.no_grad()
def clip_text(tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> Encoded:
    """Both in float32 (float64 stays). Neither the padding nor anything else is masked."""
    ids = token_ids(tokenizer, prompts, int(tokenizer.model_max_length)).to(encoder.device)
    out = encoder(ids, output_hidden_states=True)
    pooled = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
    return Encoded(wide(out.hidden_states[-2]), wide(pooled))


@torch.no_grad()
def t5_text(tokenizer: Any, encoder: Any, prompts: Sequence[str], length: int) -> Tensor:
    """[prompt, length, dim] in float32 (float64 stays). The padding is attended to, as in every published model that
    reads T5."""
    return wide(encoder(token_ids(tokenizer, prompts, length).to(encoder.device))[0])


def t5_in_range(encoder: Any) -> Any:
    """T5 overflows in float16; there it runs in bfloat16, the precision it was trained in. Where the layers that
    overflow were left in float32, as transformers loads it, it is in range as it is."""
    return encoder.to(torch.bfloat16) if {p.dtype for p in encoder.parameters()} == {torch.float16} else encoder


@torch.no_grad()
def vae_encode(vae: Any, images: Tensor, noise: Tensor | None = None) -> Tensor:
    """(posterior mean + deviation noise - shift) scale, [n, channel, h, w] in float32 (float64 stays); images are on
    the VAE's device."""
    with _in_range(vae):
        dists = [vae.encode(part.to(vae.dtype)).latent_dist for part in _fitting(vae, images, images.shape[-2:])]
    z = torch.cat([wide(dist.mean) for dist in dists])
    if noise is not None:
        z = z + torch.cat([wide(dist.std) for dist in dists]) * noise.to(z)
    return (z - _shift(vae)) * float(vae.config.scaling_factor)


@torch.no_grad()
def vae_decode(vae: Any, latents: Tensor) -> Tensor:
    """[n, 3, H, W] in float32 (float64 stays); latents are on the device where the VAE computes."""
    z = latents.to(around(vae.dtype)) / float(vae.config.scaling_factor) + _shift(vae)
    height, width = (side * vae_factor(vae) for side in z.shape[-2:])
    with _in_range(vae):
        return torch.cat([wide(vae.decode(part.to(vae.dtype)).sample) for part in _fitting(vae, z, (height, width))])


def _fitting(vae: Any, pictures: Tensor, size: Sequence[int]) -> Sequence[Tensor]:
    """Pictures of (height, width) pixels, or their latents, in batches that fit the memory."""
    at_once = pictures_at_once(vae, *size)
    return (pictures,) if at_once is None else pictures.split(at_once)


@contextmanager
def _in_range(vae: Any) -> Generator[None]:
    """A VAE that overflows in float16, as its configuration says, works in float32; `load` leaves it there, and one
    that a pipeline holds in float16 goes back to it, as in the pipeline."""
    full = vae.dtype == torch.float16 and vae.config.get("force_upcast", True)
    if full:
        torch.nn.Module.to(vae, torch.float32)  # without diffusers' warning about parts that it has not
    try:
        yield
    finally:
        if full:
            torch.nn.Module.to(vae, torch.float16)


def vae_factor(vae: Any) -> int:
    """Pixels a side of one cell of the latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _shift(vae: Any) -> float:
    return float(getattr(vae.config, "shift_factor", None) or 0.0)


def active_adapters(networks: Sequence[torch.nn.Module]) -> dict[str, float]:
    """LoRA that layers apply as they compute, and how strongly; those fused into the weights are weights."""
    layers: list[Any] = [m for net in networks for m in net.modules() if hasattr(m, "lora_A")]
    return {
        adapter: round(float(layer.scaling[adapter]), 6)
        for layer in layers
        if not layer.disable_adapters
        for adapter in layer.active_adapters
        if adapter in layer.scaling
    }


def fingerprint(networks: Sequence[torch.nn.Module], additions: Mapping[str, Any] | None = None) -> Fingerprint:
    """Hash of the configuration and of what was added to the weights, and the mean magnitude of 32 weight tensors
    spread over the networks."""
    named = [pair for net in networks for pair in sorted(net.named_parameters())]
    shapes = [(name, tuple(weight.shape)) for name, weight in named]
    picked = [weight for _, weight in named[:: max(1, len(named) // 32)]]
    probe = tuple(round(float(p.detach().float().flatten()[:4096].abs().mean()), 6) for p in picked)
    added = {key: value for key, value in (additions or {}).items() if key in ("lora", "vae")}
    added |= {"adapters": adapters} if (adapters := active_adapters(networks)) else {}
    about = repr(shapes) + (json.dumps(added, sort_keys=True) if added else "")
    return Fingerprint(hashlib.sha256(about.encode()).hexdigest()[:16], probe)
