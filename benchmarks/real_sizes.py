"""Random models of the published models' sizes, from the configurations of `memory.py`: nothing is downloaded.

Their pictures are noise; their time and memory are the real ones. Tokenizers are small ones whose ids lie inside the
text encoders' vocabularies; the numbers of tokens are the real ones. Drawn on the device and in the dtype asked for, so
that FLUX.1's 12 thousand million parameters need half a minute on a GPU and no room beside their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import memory
import sd14
import torch
from transformers import CLIPTokenizer

from reinvert.backbones import tiny
from reinvert.backbones.base import Backbone
from reinvert.backbones.families import families
from reinvert.backbones.flux import Flux
from reinvert.backbones.stable_diffusion_3 import StableDiffusion3
from reinvert.backbones.stable_diffusion_xl import StableDiffusionXL

TOKENS = 77
T5_TOKENS = {"sd3": 256, "flux": 512}


@contextmanager
def drawn(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Whatever is made in here is made there, from a fixed seed."""
    former = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(former)


def tokenizers() -> tuple[Any, Any, dict[str, int]]:
    """CLIP's two, of which the second pads with "!", and the ids of their ends for the encoders' configurations."""
    first = CLIPTokenizer.from_pretrained(sd14.TOKENIZER, model_max_length=TOKENS)
    second = CLIPTokenizer.from_pretrained(sd14.TOKENIZER, model_max_length=TOKENS, pad_token="!")
    return first, second, {"bos_token_id": first.bos_token_id, "eos_token_id": first.eos_token_id}


def sdxl(device: torch.device, dtype: torch.dtype) -> Backbone:
    first, second, ends = tokenizers()
    with drawn(device, dtype):
        parts = {
            "unet": memory.unet_xl(),
            "vae": memory.vae(4, True, sample_size=1024, scaling_factor=0.13025),
            "text_encoder": memory.clip(768, 3072, 12, 12, **ends),
            "text_encoder_2": memory.clip(1280, 5120, 32, 20, projection=1280, **ends),
        }
    scheduler = {**sd14.SCHEDULER, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    return StableDiffusionXL(**parts, tokenizer=first, tokenizer_2=second, scheduler=scheduler, name="sdxl-random")


def sd3(device: torch.device, dtype: torch.dtype) -> Backbone:
    first, second, ends = tokenizers()
    with drawn(device, dtype):
        parts = {
            "transformer": memory.mmdit(24),
            "vae": memory.vae(16, False, sample_size=1024, scaling_factor=1.5305, shift_factor=0.0609),
            "text_encoder": memory.clip(768, 3072, 12, 12, projection=768, **ends),
            "text_encoder_2": memory.clip(1280, 5120, 32, 20, projection=1280, **ends),
            "text_encoder_3": memory.t5(),
        }
    words = {"tokenizer": first, "tokenizer_2": second, "tokenizer_3": tiny.t5_tokenizer(T5_TOKENS["sd3"])}
    return StableDiffusion3(**parts, **words, scheduler={"shift": 3.0}, name="sd3-random")


def flux(device: torch.device, dtype: torch.dtype) -> Backbone:
    first, _, ends = tokenizers()
    with drawn(device, dtype):
        parts = {
            "transformer": memory.flux(True),
            "vae": memory.vae(16, False, sample_size=1024, scaling_factor=0.3611, shift_factor=0.1159),
            "text_encoder": memory.clip(768, 3072, 12, 12, **ends),
            "text_encoder_2": memory.t5(),
        }
    words = {"tokenizer": first, "tokenizer_2": tiny.t5_tokenizer(T5_TOKENS["flux"])}
    return Flux(**parts, **words, scheduler={"use_dynamic_shifting": True, "shift": 3.0}, name="flux-random")


MODELS: dict[str, Callable[[torch.device, torch.dtype], Backbone]] = {
    "SD 1.4": lambda device, dtype: sd14.build(device, dtype),
    "SDXL": sdxl,
    "SD3 medium": sd3,
    "FLUX.1": flux,
}


def miniature(name: str) -> Backbone:
    """The family's tiny model in place of one of `MODELS`, for a rehearsal."""
    family = {
        "SD 1.4": "stable_diffusion",
        "SDXL": "stable_diffusion_xl",
        "SD3 medium": "stable_diffusion_3",
        "FLUX.1": "flux",
    }[name]
    return families()[family].tiny()
