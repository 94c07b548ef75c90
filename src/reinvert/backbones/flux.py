"""FLUX.1 (dev and schnell) from diffusers components.

Both are distilled: there is no null side. `dev` is told a guidance scale, an input like the time; `schnell` is not.
T5's tokens are the words; of CLIP only the pooled vector is read. The transformer reads latents in packs of 2 x 2,

    [channel, 2 row + y, 2 column + x] -> token (row, column), feature 4 channel + 2 y + x,

each placed by its row and column. Nothing outside this file knows about packs: latents come and go as pictures do.

FLUX.1 Kontext: Flow Matching for In-Context Image Generation and Editing in Latent Space, 2025, arXiv 2506.15742, tells
how its networks are made; the checkpoints of 2024 have no paper of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reinvert import models
from reinvert.backbones.base import Family
from reinvert.backbones.components import clip_text, t5_in_range, t5_text
from reinvert.backbones.flow import FlowTransformer
from reinvert.hooks import Kind
from reinvert.level import Time
from reinvert.precision import around
from reinvert.text import Text
from reinvert.words import Words

T5_TOKENS = 512
"""Positions of T5: what the pipelines of both models take, if its tokenizer has as many."""


class Flux(FlowTransformer):
    """A `Backbone` over a FLUX transformer, a VAE, a CLIP and a T5 text encoder, their tokenizers and a scheduler's
    configuration."""

    null_side = False

    def __init__(
        self,
        *,
        transformer: Any,
        vae: Any,
        text_encoder: Any,
        text_encoder_2: Any,
        tokenizer: Any,
        tokenizer_2: Any,
        scheduler: Mapping[str, Any],
        name: str = "flux",
    ) -> None:
        config = transformer.config
        self.guidance_embeds = bool(config.guidance_embeds)
        super().__init__(
            transformer=transformer,
            vae=vae,
            encoders=[text_encoder, text_encoder_2],
            scheduler=scheduler,
            # The transformer has no size of its own; the autoencoder was made for the same pictures.
            side=int(vae.config.sample_size),
            patch=math.isqrt(int(config.in_channels) // int(vae.config.latent_channels)),
            picture_first=False,
            usual=models.flux(config),
            name=name,
        )
        self.text_encoder, self.text_encoder_2 = text_encoder, t5_in_range(text_encoder_2)
        self.tokenizer, self.tokenizer_2 = tokenizer, tokenizer_2
        self.t5_tokens = min(T5_TOKENS, int(tokenizer_2.model_max_length))
        self.words = Words.of(tokenizer_2, self.t5_tokens)
        self.kinds: frozenset[Kind] = frozenset({"joint"})

    def _sigmas(self, steps: int) -> list[float]:
        """1, 1 - 1/N, ..., 1/N before the shift, as the pipeline has it; not the scheduler's own, which ends lower."""
        return torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).tolist()

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """T5's tokens [prompt, token, dim], and CLIP's pooled vector."""
        tokens = t5_text(self.tokenizer_2, self.stage.bring(self.text_encoder_2), prompts, self.t5_tokens)
        return Text(tokens, clip_text(self.tokenizer, self.stage.bring(self.text_encoder), prompts).pooled)

    def pack(self, x: Tensor) -> Tensor:
        """[n, channel, h, w] -> [n, (h / patch) (w / patch), channel patch^2]."""
        p, (h, w) = self.patch, x.shape[-2:]
        cells = x.unflatten(-2, (h // p, p)).unflatten(-1, (w // p, p))
        return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def unpack(self, tokens: Tensor, latent: tuple[int, int]) -> Tensor:
        """The inverse of `pack` for latents of (h, w)."""
        p, (h, w) = self.patch, latent
        cells = tokens.unflatten(-1, (-1, p, p)).unflatten(1, (h // p, w // p))
        return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Backbone.draw`: packed tokens."""
        n, _, h, w = shape
        tokens = (h // self.patch) * (w // self.patch)
        packed = torch.randn(n, tokens, math.prod(shape) // (n * tokens), generator=generator)
        return self.unpack(packed, (h, w))

    def positions(self, latent: tuple[int, int]) -> Tensor:
        """(0, row, column) of every token of the picture, [token, 3]; those of the text stand at (0, 0, 0)."""
        rows, columns = (torch.arange(side // self.patch, device=self.device) for side in latent)
        grid = torch.cartesian_prod(torch.zeros(1, dtype=rows.dtype, device=self.device), rows, columns)
        return grid.to(torch.float32)  # half precision would round the far ones

    def _velocity(
        self, x: Tensor, tokens: Tensor, pooled: Tensor, time: Time, guidance: Tensor, carried: dict[str, Any]
    ) -> Tensor:
        """The network multiplies time and guidance by 1000 itself."""
        h, w = x.shape[-2:]
        out = self._running(
            hidden_states=self.pack(x),
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=torch.full((len(x),), float(time) / self._range, device=x.device, dtype=around(self.dtype)),
            guidance=guidance if self.guidance_embeds else None,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=x.device),
            img_ids=self.positions((h, w)),
            joint_attention_kwargs=carried,
            return_dict=False,
        )[0]
        return self.unpack(out, (h, w))


def _tiny() -> Flux:
    """16 x 16 latents of 4 channels, 32 x 32 pixels, 20 tokens of text; 2 double and 2 single blocks, told guidance."""
    from diffusers import FluxTransformer2DModel

    from reinvert.backbones import tiny

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=12,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    tokenizer, second = tiny.clip_tokenizer(), tiny.t5_tokenizer()
    parts = {
        "transformer": transformer,
        "vae": tiny.vae(4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": tiny.clip_text(tokenizer, 12),
        "text_encoder_2": tiny.t5_text(second, 24),
        "tokenizer": tokenizer,
        "tokenizer_2": second,
    }
    tiny.peak(transformer)
    return Flux(**tiny.wide(parts), scheduler={"use_dynamic_shifting": True}, name="tiny-flux")


FAMILY = Family(
    title="FLUX.1",
    pipelines=("FluxPipeline", "FluxImg2ImgPipeline"),
    parts={
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("T5TokenizerFast", "T5Tokenizer"),
    },
    open=lambda parts, scheduler, name: Flux(**parts, scheduler=scheduler, name=name),
    tiny=_tiny,
    half=torch.bfloat16,
)
