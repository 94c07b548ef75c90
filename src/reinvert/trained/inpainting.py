"""Stable Diffusion inpainting: a network that redraws what a mask shows, to a target prompt.

    e = e("", M) + w [e(T, M) - e("", M)],   M = (mask, picture without what is under the mask),   DDIM from pure noise

High-Resolution Image Synthesis with Latent Diffusion Models, 2022, arXiv 2112.10752. Around diffusers' pipeline, and
its choices: the mask is made 0 or 1 at one half and brought to the latents' size by nearest cell; the picture without
what is under the mask is encoded by a sample of the VAE's posterior; nothing is pasted, so that around the mask the
result is what the network and the VAE make of the picture. Its size is the picture's, each side cut down to a multiple
of the VAE's factor (by LANCZOS). The published weights learned pictures of 512 pixels: make a much larger one smaller
first. The sampler is DDIM, as in the model's own program; that of its diffusers folder takes one forward more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.image import Picture
from reinvert.trained.base import Trained

CHANNELS: Final = 9
"""What diffusers' pipeline takes, whatever the VAE: latents of 4 channels, the mask, the masked picture's latents."""


@dataclass(frozen=True)
class Inpainting(Trained):
    """Stable Diffusion inpainting, 2 forwards a step (1 at guidance 1)."""

    name: ClassVar[str] = "inpainting"
    when: ClassVar[str] = (
        "When you have a mask and what is under it may be redrawn from nothing: unlike blended_latent it was trained "
        "to join what it draws to its surroundings. Not to alter a thing while keeping it: what is under the mask is "
        "never seen."
    )
    needs: ClassVar[str] = "a target prompt and a mask"
    reads: ClassVar[Literal["instruction", "target"]] = "target"
    needs_mask: ClassVar[bool] = True
    model: str = "stable-diffusion-v1-5/stable-diffusion-inpainting"
    """Folder in diffusers format or Hub id of the networks."""
    steps: int = 50
    """Steps of the sampler."""
    text_guidance: float = 7.5
    """Scale w of the target prompt, at least 1."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ReinvertError(f"steps is at least 1, not {self.steps}")
        if not self.text_guidance >= 1:  # the pipeline would take 1 without a word
            raise ReinvertError(f"text_guidance is at least 1, not {self.text_guidance:g}")

    def channels(self, latent: int) -> int:
        return CHANNELS

    def pipeline(self, parts: Mapping[str, Any], schedule: Mapping[str, Any]) -> Any:
        from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

        scheduler: Any = DDIMScheduler.from_config(dict(schedule), clip_sample=False)
        return StableDiffusionInpaintPipeline(**parts, scheduler=scheduler)

    def call(self, pipe: Any, picture: Picture, text: str, mask: Picture | None, common: Mapping[str, Any]) -> Tensor:
        width, height = (side - side % pipe.vae_scale_factor for side in picture.size)
        if not width or not height:
            raise ReinvertError(f"a side of the picture is below {pipe.vae_scale_factor} pixels: give a larger one")
        return pipe(
            text,
            picture,
            mask,
            width=width,
            height=height,
            num_inference_steps=self.steps,
            guidance_scale=self.text_guidance,
            **common,
        ).images
