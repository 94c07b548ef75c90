"""A CLIP vision tower that tells what a picture looks like: one token for the whole picture and one per patch.

    E(x) = norm(transformer([class, patches(x)]))                   every token after the last layer norm, no projection

Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020. It is read by
transformers, from a folder or Hub repository in that library's `CLIPModel` or `CLIPVisionModel` format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.backbones.perception import load_network
from reinvert.errors import ReinvertError
from reinvert.networks.files import label
from reinvert.networks.vit import CLIP, Colour, colours
from reinvert.precision import around

BUNDLED = {"picturebook": Path(__file__).parent.parent / "picturebook" / "towers"}
"""The tower of a bundled model, which knows that model's pictures."""
PUBLISHED = "openai/clip-vit-base-patch16"


class VisionTower:
    """The vision half of a CLIP, frozen, in float32 (float64 stays)."""

    def __init__(self, model: Any, name: str, mean: Colour = CLIP[0], std: Colour = CLIP[1]) -> None:
        self.dtype = around(model.dtype)
        self.model, self.name, self.mean, self.std = model.to(self.dtype).eval().requires_grad_(False), name, mean, std

    @torch.no_grad()
    def tokens(self, pictures: Tensor) -> Tensor:
        """[n, 1 + patches, dim] of pictures [n, 3, height, width] in -1..1, on the tower's device."""
        within = getattr(self.model, "vision_model", self.model)  # transformers 4 has one more shell
        seen = self.seen(pictures.to(self.model.device, self.dtype))
        return within.post_layernorm(self.model(pixel_values=seen).last_hidden_state)

    def seen(self, pictures: Tensor) -> Tensor:
        """The pictures as the network wants them: the shorter side resized (bicubic, smoothed while shrinking) to its
        own, the centre square cut out, normalised."""
        side, (h, w) = int(self.model.config.image_size), pictures.shape[-2:]
        size = (side * h // min(h, w), side * w // min(h, w))
        x = F.interpolate(pictures / 2 + 0.5, size, mode="bicubic", align_corners=False, antialias=True)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        mean, std = (torch.tensor(c, device=x.device, dtype=x.dtype).view(-1, 1, 1) for c in (self.mean, self.std))
        return (x[..., top : top + side, left : left + side] - mean) / std


def usual_tower(model: str) -> str:
    """Where the tower of a model lies, if none is named; `ReinvertError` if it should be bundled and is not."""
    if model not in BUNDLED:
        return PUBLISHED
    if not (BUNDLED[model] / "config.json").is_file():
        raise ReinvertError(
            f"the picture encoder of {model} is not in this installation: reinstall reinvert, or name one (--encoder)"
        )
    return str(BUNDLED[model])


def load_tower(
    where: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VisionTower:
    """A vision tower from a folder or a Hub id; only safetensors are read and no remote code is run.

    Raises `ReinvertError` if something is missing or cannot be read.
    """
    model, folder, _ = load_network(where, "CLIPVisionModel", ("clip", "clip_vision_model"), "a CLIP")
    return VisionTower(model.to(device, dtype), label(where), *colours(folder, CLIP))
