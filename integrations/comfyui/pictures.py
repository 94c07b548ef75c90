"""Between ComfyUI's tensors and reinvert's pictures.

ComfyUI's IMAGE is float [batch, height, width, channel] and its MASK [batch, height, width] (or [height, width]), both
in 0..1; 1 of a mask is what may change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reinvert import ReinvertError


def pictures_of(image: Tensor) -> list[Tensor]:
    """The pictures of a batch, each [channel, height, width], as reinvert's verbs take them."""
    return list(image.detach().clamp(0, 1).movedim(-1, 1))


def masks_of(mask: Tensor | None, count: int) -> Any:
    """The mask of `count` pictures as `mask=` takes it: one for all, or a list with one each; None where there is none.

    Raises `ReinvertError` for a mask in which nothing may change: ComfyUI hands one out for a picture without any.
    """
    if mask is None:
        return None
    masks = list(mask.detach().clamp(0, 1).reshape(-1, *mask.shape[-2:]))
    if any(not bool((each >= 0.5).any()) for each in masks):
        raise ReinvertError("the mask is empty: paint what may change (MaskEditor), or leave the mask unconnected")
    return masks[0] if len(masks) == 1 and count == 1 else masks * count if len(masks) == 1 else masks


def image_of(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as ComfyUI's IMAGE."""
    levels = np.stack([np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in pictures])
    return torch.from_numpy(levels / 255)


def mask_of(mask: Image.Image) -> Tensor:
    """A white-on-black picture as ComfyUI's MASK, [1, height, width]."""
    return torch.from_numpy(np.asarray(mask.convert("L"), dtype=np.float32) / 255)[None]
