"""InstructDiffusion: one network for many vision tasks, editing by instruction among them.

    e = [e(0, I) + e(T, 0)] / 2 + s_T [e(T, I) - e(0, I)] + s_I [e(T, I) - e(T, 0)]

InstructDiffusion: A Generalist Modeling Interface for Vision Tasks, 2024, arXiv 2309.03895. The same network, picture
latents, sizes and sampler as InstructPix2Pix (arXiv 2211.09800), see `instruct_pix2pix`; but the row without the
picture has the instruction too, and the rows have other weights. The weights (s_T + s_I, 1/2 - s_T, 1/2 - s_I) on
e(T, I), e(0, I), e(T, 0) are InstructPix2Pix's for the scales (s_T + s_I, s_I + 1/2), so that its pipeline makes this
combination once its third row has the instruction. The result is brought back to the picture's size (LANCZOS). The
authors publish no weights in diffusers format: convert theirs (a network of 8 input channels). Their command line
loads the weights without the moving average, and does not start as published (a misspelt argument).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.image import Picture, Size
from reinvert.trained.base import Trained
from reinvert.trained.instruct_pix2pix import InstructPix2Pix


@dataclass(frozen=True)
class InstructDiffusion(Trained):
    """InstructDiffusion, 3 forwards a step."""

    name: ClassVar[str] = "instruct_diffusion"
    when: ClassVar[str] = (
        "As InstructPix2Pix, with a network that learned editing beside segmentation and restoration. Not where the "
        "background must stay exactly."
    )
    model: str = ""
    """Folder in diffusers format or Hub id of the converted networks; there is no published one."""
    steps: int = 50
    """Steps of the sampler; the authors' command line takes 100."""
    text_guidance: float = 5.0
    """Scale s_T of the instruction; higher follows it more."""
    image_guidance: float = 1.25
    """Scale s_I of the picture; higher stays closer to it."""

    def __post_init__(self) -> None:
        unguided = self.text_guidance == self.image_guidance == 0.5
        if not (unguided or (self.text_guidance + self.image_guidance > 1 and self.image_guidance >= 0.5)):
            raise ReinvertError(
                f"image_guidance must be at least 0.5 and its sum with text_guidance above 1 (or both 0.5: no "
                f"guidance), not {self.image_guidance:g} and {self.text_guidance:g}"
            )
        _ = self.pix2pix  # which checks the steps

    @property
    def pix2pix(self) -> InstructPix2Pix:
        """InstructPix2Pix with the scales at which its weights are these."""
        scales = self.text_guidance + self.image_guidance, self.image_guidance + 0.5
        return InstructPix2Pix(self.model, self.steps, *scales)

    def channels(self, latent: int) -> int:
        return self.pix2pix.channels(latent)

    def pipeline(self, parts: Mapping[str, Any], schedule: Mapping[str, Any]) -> Any:
        return self.pix2pix.pipeline(parts, schedule)

    def call(self, pipe: Any, picture: Picture, text: str, mask: Picture | None, common: Mapping[str, Any]) -> Tensor:
        with third_row_hears_the_first(pipe.unet):
            return self.pix2pix.call(pipe, picture, text, mask, common)

    def finish(self, edited: Picture, size: Size) -> Picture:
        return edited if edited.size == size else edited.resize(size, Image.Resampling.LANCZOS)


@contextmanager
def third_row_hears_the_first(unet: Any) -> Generator[None]:
    """Of three rows (text, "", "") make (text, "", text), until the block is left; a single row stays."""

    def before(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        said = named["encoder_hidden_states"]
        if len(said) == 3:
            said = torch.cat([said[:2], said[:1]])
        return given, {**named, "encoder_hidden_states": said}

    handle = unet.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
