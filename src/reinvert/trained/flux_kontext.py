"""FLUX.1 Kontext: a flow transformer that follows an instruction, with the picture's tokens beside the noisy ones.

    v = v([x_sigma | picture], sigma, T, g),   x <- x + (sigma' - sigma) v,   from pure noise at sigma 1

FLUX.1 Kontext: Flow Matching for In-Context Image Generation and Editing in Latent Space, 2025, arXiv 2506.15742. The
picture's tokens, the mode of the VAE's posterior, stand at (1, row, column) where the noisy ones stand at (0, row,
column); what the network answers for them is dropped. It is distilled: the scale g is told to it, one row a step.
Around diffusers' pipeline, but for sizes: that pipeline brings the picture to the nearest of the sizes it was trained
with and draws a square beside it; here both have the same size, the one trained with whose shape is nearest to the
picture's (scaled by `size` / 1024, LANCZOS), as in the authors' program, and the result is brought back to the
picture's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.image import Picture, Size
from reinvert.trained.base import Trained


@dataclass(frozen=True)
class FluxKontext(Trained):
    """FLUX.1 Kontext, 1 forward a step over twice the tokens of FLUX.1."""

    name: ClassVar[str] = "flux_kontext"
    when: ClassVar[str] = (
        "When you have the memory of FLUX.1 dev and want an instruction followed: it keeps characters and scenes over "
        "several edits. Not where the background must stay to the pixel, which is drawn again."
    )
    model: str = "black-forest-labs/FLUX.1-Kontext-dev"
    """Folder in diffusers format or Hub id of the networks."""
    steps: int = 28
    """Steps of the sampler."""
    text_guidance: float = 2.5
    """Scale g that the network is told; higher follows the instruction more."""
    size: int = 1024
    """Side in pixels of the square whose area the picture is brought to; the network was trained with 1024."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ReinvertError(f"steps is at least 1, not {self.steps}")
        if not self.text_guidance >= 0:
            raise ReinvertError(f"text_guidance is at least 0, not {self.text_guidance:g}")
        if not 32 <= self.size <= 2048:
            raise ReinvertError(f"size is between 32 and 2048 pixels, not {self.size}")

    def load(self, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> Any:
        from reinvert.backbones.checkpoint import open_pipeline
        from reinvert.backbones.flux import FAMILY

        return open_pipeline(self.model, "FluxKontextPipeline", FAMILY.parts, device, dtype)

    def network(self, pipe: Any) -> Any:
        return pipe.transformer

    def reader(self, pipe: Any) -> Any:
        return pipe.tokenizer_2

    def grid(self, pipe: Any) -> tuple[int, int]:
        return self.size, 2 * pipe.vae_scale_factor

    def call(self, pipe: Any, picture: Picture, text: str, mask: Picture | None, common: Mapping[str, Any]) -> Tensor:
        width, height = trained_size(picture.size, *self.grid(pipe))
        return pipe(
            picture.resize((width, height), Image.Resampling.LANCZOS),
            text,
            width=width,
            height=height,
            max_area=width * height,  # else the pipeline chooses another size
            _auto_resize=False,
            num_inference_steps=self.steps,
            guidance_scale=self.text_guidance,
            **common,
        ).images

    def finish(self, edited: Picture, size: Size) -> Picture:
        return edited if edited.size == size else edited.resize(size, Image.Resampling.LANCZOS)


def trained_size(size: Size, side: int, multiple: int) -> Size:
    """Of the sizes that the network was trained with the one whose shape is nearest to `size`'s, scaled from 1024 to
    `side`; both sides are multiples of `multiple`."""
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS

    shape = size[0] / size[1]
    known: list[Size] = PREFERRED_KONTEXT_RESOLUTIONS
    _, *best = min((abs(shape - width / height), width, height) for width, height in known)
    width, height = (max(1, round(length * side / (1024 * multiple))) * multiple for length in best)
    return width, height
