"""Stable Diffusion 3 and 3.5 from diffusers components.

Its words are two encodings one behind the other: [CLIP | T5], the two CLIPs side by side on the features and padded
with zeros to T5's width. T5 may be left out; zeros then stand in its place. The pooled vectors of both CLIPs go with
the time. Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, 2024, arXiv 2403.03206.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert import models
from reinvert.backbones.base import Family
from reinvert.backbones.components import clip_text, t5_in_range, t5_text, vae_factor
from reinvert.backbones.flow import FlowTransformer
from reinvert.hooks import Kind
from reinvert.level import Time
from reinvert.precision import around
from reinvert.text import Text
from reinvert.words import Segment, Words

T5_TOKENS = 256
"""Positions of T5, with or without it: what its pipeline takes, less than its tokenizer could."""


class StableDiffusion3(FlowTransformer):
    """A `Backbone` over an MMDiT, a VAE, two CLIP text encoders, perhaps T5, their tokenizers and a scheduler's
    configuration."""

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
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
        name: str = "stable-diffusion-3",
    ) -> None:
        config = transformer.config
        super().__init__(
            transformer=transformer,
            vae=vae,
            encoders=[e for e in (text_encoder, text_encoder_2, text_encoder_3) if e is not None],
            scheduler=scheduler,
            side=int(config.sample_size) * vae_factor(vae),
            patch=int(config.patch_size),
            picture_first=True,
            usual=models.stable_diffusion_3(config),
            name=name,
        )
        self.text_encoder, self.text_encoder_2 = text_encoder, text_encoder_2
        self.text_encoder_3 = None if text_encoder_3 is None else t5_in_range(text_encoder_3)
        self.tokenizer, self.tokenizer_2, self.tokenizer_3 = tokenizer, tokenizer_2, tokenizer_3
        self.t5_tokens = T5_TOKENS if tokenizer_3 is None else min(T5_TOKENS, int(tokenizer_3.model_max_length))
        # One word has tokens in CLIP's stretch of the axis and in T5's; without T5 nothing is written there.
        clip, t5 = int(tokenizer.model_max_length), self.t5_tokens
        segments = [Segment(tokenizer, 0, clip)]
        if text_encoder_3 is not None and tokenizer_3 is not None:
            segments.append(Segment(tokenizer_3, clip, t5))
        self.words = Words(tuple(segments), clip + t5)
        self.kinds: frozenset[Kind] = frozenset({"joint", "self"} if config.dual_attention_layers else {"joint"})

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """[prompt, CLIP's then T5's tokens, dim], and both CLIPs' pooled vectors side by side."""
        first = clip_text(self.tokenizer, self.stage.bring(self.text_encoder), prompts)
        second = clip_text(self.tokenizer_2, self.stage.bring(self.text_encoder_2), prompts)
        width = int(self.transformer.config.joint_attention_dim)
        clip = torch.cat([first.tokens, second.tokens], dim=-1)
        clip = F.pad(clip, (0, width - clip.shape[-1]))
        if self.text_encoder_3 is None:
            t5 = clip.new_zeros(len(prompts), self.t5_tokens, width)
        else:
            t5 = t5_text(self.tokenizer_3, self.stage.bring(self.text_encoder_3), prompts, self.t5_tokens)
        return Text(torch.cat([clip, t5], dim=1), torch.cat([first.pooled, second.pooled], dim=-1))

    def _velocity(
        self, x: Tensor, tokens: Tensor, pooled: Tensor, time: Time, guidance: Tensor, carried: dict[str, Any]
    ) -> Tensor:
        """The network is told the time as it is, 1000 sigma; a guidance scale is no input of it."""
        return self._running(
            hidden_states=x,
            encoder_hidden_states=tokens,
            pooled_projections=pooled,
            timestep=torch.full((len(x),), float(time), device=x.device, dtype=around(self.dtype)),
            joint_attention_kwargs=carried,
            return_dict=False,
        )[0]


def _tiny() -> StableDiffusion3:
    """16 x 16 latents of 4 channels, 32 x 32 pixels, 16 + 20 tokens, 3 blocks of which one has a second attention."""
    from diffusers import SD3Transformer2DModel

    from reinvert.backbones import tiny

    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pooled_projection_dim=20,
        pos_embed_max_size=12,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    tokenizer, second, third = tiny.clip_tokenizer(), tiny.clip_tokenizer(pad_token="!"), tiny.t5_tokenizer()
    parts = {
        "transformer": transformer,
        "vae": tiny.vae(4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": tiny.clip_text(tokenizer, 8, projection=8),
        "text_encoder_2": tiny.clip_text(second, 12, projection=12, seed=1),
        "text_encoder_3": tiny.t5_text(third, 24),
        "tokenizer": tokenizer,
        "tokenizer_2": second,
        "tokenizer_3": third,
    }
    tiny.peak(transformer)
    return StableDiffusion3(**tiny.wide(parts), scheduler={"shift": 3.0}, name="tiny-stable-diffusion-3")


FAMILY = Family(
    title="Stable Diffusion 3 and 3.5",
    pipelines=("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
    parts={
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_3": ("T5TokenizerFast", "T5Tokenizer"),
    },
    optional=frozenset({"text_encoder_3", "tokenizer_3"}),
    open=lambda parts, scheduler, name: StableDiffusion3(**parts, scheduler=scheduler, name=name),
    tiny=_tiny,
    half=torch.bfloat16,
)
