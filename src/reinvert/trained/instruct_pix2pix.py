"""InstructPix2Pix: a network that follows an editing instruction, with one scale for the text and one for the picture.

    e = e(0, 0) + s_I [e(0, I) - e(0, 0)] + s_T [e(T, I) - e(0, I)],   Euler ancestral sampling from pure noise

InstructPix2Pix: Learning to Follow Image Editing Instructions, 2023, arXiv 2211.09800. I is the mode of the VAE's
posterior without the scaling factor, beside the noisy latents in the network's other input channels; its 0 is zeros,
and the text's 0 is "". Of the weights (s_T, s_I - s_T, 1 - s_I) on e(T, I), e(0, I), e(0, 0) the sum is 1. The picture
is brought to the model's size (longer side about 512 for the published weights, both sides multiples of 64), which the
result has. Around diffusers' pipeline, which differs from the authors' sampler in that sigma is interpolated linearly,
not logarithmically, between the table's entries (by at most 1e-4 of its value), and in its random numbers. The
pipeline drops both scales without a word unless s_T > 1 and s_I >= 1, so others are refused here; both at 1 is e(T, I)
alone, one row in place of three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.image import Picture
from reinvert.trained.base import Trained, fitted


@dataclass(frozen=True)
class InstructPix2Pix(Trained):
    """InstructPix2Pix, 3 forwards a step."""

    name: ClassVar[str] = "instruct_pix2pix"
    when: ClassVar[str] = (
        "When you would rather say what to do than describe the picture. Not where the background must stay exactly, "
        "nor for instructions unlike its training's: it may repaint everything or nothing."
    )
    model: str = "timbrooks/instruct-pix2pix"
    """Folder in diffusers format or Hub id of the networks."""
    steps: int = 50
    """Steps of the sampler; the authors' command line and diffusers take 100."""
    text_guidance: float = 7.5
    """Scale s_T of the instruction; higher follows it more."""
    image_guidance: float = 1.5
    """Scale s_I of the picture; higher stays closer to it."""

    def __post_init__(self) -> None:
        if self.steps < 2:  # the scheduler's grid of one step begins at the clean end
            raise ReinvertError(f"steps is at least 2, not {self.steps}")
        unguided = self.text_guidance == self.image_guidance == 1
        if not (unguided or (self.text_guidance > 1 and self.image_guidance >= 1)):
            raise ReinvertError(
                f"text_guidance must be above 1 and image_guidance at least 1 (or both 1: no guidance), not "
                f"{self.text_guidance:g} and {self.image_guidance:g}"
            )

    def channels(self, latent: int) -> int:
        return 2 * latent

    def pipeline(self, parts: Mapping[str, Any], schedule: Mapping[str, Any]) -> Any:
        from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionInstructPix2PixPipeline

        # The authors' times are spread evenly over the whole grid, from its noisiest to 0.
        scheduler: Any = EulerAncestralDiscreteScheduler.from_config(dict(schedule), timestep_spacing="linspace")
        return StableDiffusionInstructPix2PixPipeline(**parts, scheduler=scheduler)

    def call(self, pipe: Any, picture: Picture, text: str, mask: Picture | None, common: Mapping[str, Any]) -> Tensor:
        return pipe(
            text,
            fitted(picture, *self.grid(pipe)),
            num_inference_steps=self.steps,
            guidance_scale=self.text_guidance,
            image_guidance_scale=self.image_guidance,
            **common,
        ).images
