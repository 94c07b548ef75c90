"""Qwen-Image-Edit: a flow transformer that follows an instruction; a language model that sees the picture reads it.

    v = v("", I) + w [v(T, I) - v("", I)],   v <- v |v(T, I)| / |v| per token,   x <- x + (sigma' - sigma) v

Qwen-Image Technical Report, 2025, arXiv 2508.02324. The picture I enters twice: seen by Qwen2.5-VL together with the
instruction T, and as tokens of the VAE's mode beside the noisy ones, whose answers are dropped. Both rows see it; "" is
a single space, as in the authors' example. Around diffusers' pipeline, whose sizes are fixed: an area of 1024 x 1024 in
the picture's shape, in multiples of 32; the result is brought back to the picture's size (LANCZOS). Where transformers
wants to be told which tokens are the picture's (from version 5 on), the pipeline does not tell it, and the picture's
tokens would stand in a line, not in rows and columns as they were trained: here it is told. The picture is brought to
Qwen2.5-VL's size by Pillow; with torchvision at hand the pipeline's own reader would do it, rounding otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from PIL import Image
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.image import Picture, Size
from reinvert.trained.base import Trained

PARTS: Final = {
    "transformer": ("QwenImageTransformer2DModel",),
    "vae": ("AutoencoderKLQwenImage",),
    "text_encoder": ("Qwen2_5_VLForConditionalGeneration",),
    "tokenizer": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
}
NOTHING: Final = " "
"""What the null side is told."""
PICTURE: Final = "<|image_pad|>"
"""Where the picture stands among the words; the tokenizer's name for one of its tokens."""


@dataclass(frozen=True)
class QwenImageEdit(Trained):
    """Qwen-Image-Edit, 2 forwards a step (1 at guidance 1)."""

    name: ClassVar[str] = "qwen_image_edit"
    when: ClassVar[str] = (
        "When you have memory for 29 billion weights and want an instruction understood, also one about written text. "
        "Not where the background must stay to the pixel, which is drawn again."
    )
    model: str = "Qwen/Qwen-Image-Edit"
    """Folder in diffusers format or Hub id of the networks."""
    steps: int = 50
    """Steps of the sampler."""
    text_guidance: float = 4.0
    """Scale w of the instruction, at least 1."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ReinvertError(f"steps is at least 1, not {self.steps}")
        if not self.text_guidance >= 1:  # the pipeline would take 1 without a word
            raise ReinvertError(f"text_guidance is at least 1, not {self.text_guidance:g}")

    def load(self, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> Any:
        from reinvert.backbones.checkpoint import open_pipeline

        readers = {"processor": Sight.read}
        return open_pipeline(self.model, "QwenImageEditPipeline", PARTS, device, dtype, readers)

    def network(self, pipe: Any) -> Any:
        return pipe.transformer

    def grid(self, pipe: Any) -> tuple[int, int]:
        return pipe.default_sample_size * pipe.vae_scale_factor, 2 * pipe.vae_scale_factor

    def call(self, pipe: Any, picture: Picture, text: str, mask: Picture | None, common: Mapping[str, Any]) -> Tensor:
        if "<|" in text:
            raise ReinvertError("an instruction cannot hold <|, with which the language model's own marks begin")
        with pictures_in_rows(pipe.text_encoder):
            return pipe(
                picture,
                text,
                negative_prompt=None if self.text_guidance == 1 else NOTHING,
                true_cfg_scale=self.text_guidance,
                num_inference_steps=self.steps,
                **common,
            ).images

    def finish(self, edited: Picture, size: Size) -> Picture:
        return edited if edited.size == size else edited.resize(size, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class Sight:
    """What makes tokens of a text with a picture in it, as Qwen2VLProcessor, which cannot be made without torchvision
    (for videos)."""

    tokenizer: Any
    image_processor: Any

    @classmethod
    def read(cls, folder: Path) -> Sight:
        """From the folder of a processor."""
        from transformers import Qwen2Tokenizer, Qwen2VLImageProcessorPil

        kinds: tuple[Any, Any] = Qwen2Tokenizer, Qwen2VLImageProcessorPil
        tokenizer, pictures = (kind.from_pretrained(folder, local_files_only=True) for kind in kinds)
        return cls(tokenizer, pictures)

    def __call__(self, *, text: list[str], images: Any, padding: bool, return_tensors: str) -> Any:
        """The tokens of texts that each have a mark for the picture, which is given as many tokens as it has."""
        from transformers import BatchFeature

        seen = self.image_processor(images=images, return_tensors=return_tensors)
        tokens = int(seen["image_grid_thw"][0].prod()) // self.image_processor.merge_size**2
        marked = [each.replace(PICTURE, PICTURE * tokens, 1) for each in text]
        return BatchFeature({**self.tokenizer(marked, padding=padding, return_tensors=return_tensors), **seen})


@contextmanager
def pictures_in_rows(text_encoder: Any) -> Generator[None]:
    """Tell Qwen2.5-VL which of its tokens are the picture's, if it wants to know, until the block is left."""

    def before(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kinds = (named["input_ids"] == text_encoder.config.image_token_id).int()
        return given, {"mm_token_type_ids": kinds, **named}

    if "mm_token_type_ids" not in inspect.signature(text_encoder.forward).parameters:
        yield
        return
    handle = text_encoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
