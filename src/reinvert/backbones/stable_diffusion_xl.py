"""Stable Diffusion XL (base, turbo, and anything of that shape) from diffusers components.

Beside the words its UNet is given a pooled text vector and six numbers,

    (height, width, 0, 0, height, width)

the picture's size, where it was cropped, and the size aimed at, as the pipeline of diffusers has them by default. Its
two CLIP encoders lie side by side on the features of one token axis.

SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis, 2023, arXiv 2307.01952.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reinvert import models
from reinvert.backbones.base import Family
from reinvert.backbones.components import clip_text
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.hooks import scales
from reinvert.level import FINAL, Level, Time
from reinvert.text import Text


class StableDiffusionXL(StableDiffusion):
    """A `Backbone` over a UNet, a VAE, two CLIP text encoders, their tokenizers and a scheduler's configuration.

    `zeros_for_nothing` is the checkpoint's `force_zeros_for_empty_prompt`: where no prompt is given its null side is
    all zeros, not the encoding of "".
    """

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        text_encoder_2: Any,
        tokenizer: Any,
        tokenizer_2: Any,
        scheduler: Mapping[str, Any],
        zeros_for_nothing: bool = True,
        name: str = "stable-diffusion-xl",
    ) -> None:
        super().__init__(
            unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler, name=name
        )
        text_encoder_2.requires_grad_(False).eval()
        self.text_encoder_2, self.tokenizer_2 = text_encoder_2, tokenizer_2
        self._zeros = zeros_for_nothing
        kind = str(scheduler.get("_class_name", ""))
        self.usual = models.stable_diffusion_xl(scheduler)
        # Euler's samplers, with which these models are published, end without any noise; DDIM's at its first level.
        self._ends_clean = kind.startswith("Euler") and scheduler.get("final_sigmas_type", "zero") == "zero"

    def level(self, time: Time) -> Level:
        return Level(1.0, 0.0) if time == FINAL and self._ends_clean else super().level(time)

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """[prompt, token, dim] of both encoders side by side, and the second's pooled vector."""
        first = clip_text(self.tokenizer, self.stage.bring(self.text_encoder), prompts)
        second = clip_text(self.tokenizer_2, self.stage.bring(self.text_encoder_2), prompts)
        return Text(torch.cat([first.tokens, second.tokens], dim=-1), second.pooled)

    def nothing(self, n: int) -> Text:
        """What no prompt is: zeros where the configuration says so, else the encoding of ""."""
        empty = self.encode_text([""]).expand(n)
        return empty.map(torch.zeros_like) if self._zeros else empty

    def conditions(self, x: Tensor, text: Text) -> dict[str, Any]:
        """Arguments that the UNet is given beside latents [n, channel, h, w] and words: pooled text and sizes."""
        assert text.pooled is not None
        height, width = (float(side * self.factor) for side in x.shape[-2:])
        sizes = scales((height, width, 0.0, 0.0, height, width), x.device, torch.float32)[None]
        pooled = text.pooled.flatten(0, 1).to(self.dtype)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes.expand(len(x), -1)}}

    def _networks(self) -> tuple[torch.nn.Module, ...]:
        return (*super()._networks(), self.text_encoder_2)


def _tiny() -> StableDiffusionXL:
    """16 x 16 latents of 4 channels, 32 x 32 pixels, 16 tokens; attention on grids of 8, as many as transformers."""
    from diffusers import UNet2DConditionModel

    from reinvert.backbones import tiny

    torch.manual_seed(0)
    kind: Any = UNet2DConditionModel  # whose annotations take one number for all levels
    unet = kind(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        norm_num_groups=4,
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 20,
    )
    tokenizer, second = tiny.clip_tokenizer(), tiny.clip_tokenizer(pad_token="!")
    parts = {
        "unet": unet,
        "vae": tiny.vae(4),
        "text_encoder": tiny.clip_text(tokenizer, 10),
        "text_encoder_2": tiny.clip_text(second, 14, projection=20, seed=1),
        "tokenizer": tokenizer,
        "tokenizer_2": second,
    }
    tiny.peak(unet)
    scheduler = {**tiny.SCHEDULE, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    return StableDiffusionXL(**tiny.wide(parts), scheduler=scheduler, name="tiny-stable-diffusion-xl")


def _open(parts: Mapping[str, Any], scheduler: Mapping[str, Any], name: str) -> StableDiffusionXL:
    parts = dict(parts)
    zeros = bool(parts.pop("force_zeros_for_empty_prompt", True))
    return StableDiffusionXL(**parts, scheduler=scheduler, zeros_for_nothing=zeros, name=name)


FAMILY = Family(
    title="Stable Diffusion XL",
    pipelines=("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
    parts={
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    },
    options=("force_zeros_for_empty_prompt",),
    open=_open,
    tiny=_tiny,
)
