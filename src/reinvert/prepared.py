"""Pictures as a model takes them: opened, fitted, encoded; and masks laid over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.backbones.lock import exclusive
from reinvert.errors import ReinvertError
from reinvert.image import (
    MAX_PIXELS,
    Fit,
    FitMode,
    Picturelike,
    fit_image,
    fit_mask,
    is_picture,
    open_image,
    open_mask,
    to_tensor,
)
from reinvert.inversions.base import Encode
from reinvert.noise import posterior
from reinvert.precision import around

Picture = Image.Image


@dataclass(frozen=True)
class Prepared:
    """Pictures as a model takes them: latents [case, channel, h, w] and how each picture was fitted."""

    latents: Tensor
    fits: tuple[Fit, ...]
    pictures: tuple[Picture, ...]

    def __getitem__(self, part: slice) -> Prepared:
        """Some of them."""
        return Prepared(self.latents[part], self.fits[part], self.pictures[part])


@exclusive
def prepare(
    model: Backbone,
    pictures: Sequence[Picturelike],
    fit: FitMode = "crop",
    max_pixels: int = MAX_PIXELS,
    *,
    encode: Encode = "mean",
    seed: int = 0,
) -> Prepared:
    """Open, fit and encode pictures: as the mean of the VAE's posterior, or as a sample that the seed draws. All of a
    batch must come out the same size."""
    fitted = [fit_image(open_image(p, max_pixels=max_pixels), model.image_size, model.multiple, fit) for p in pictures]
    if len({picture.size for picture, _ in fitted}) > 1:
        raise ReinvertError("pictures of one batch must come out the same size; use --fit crop, or one at a time")
    noise = None
    if encode == "sample":
        width, height = fitted[0][0].size
        shape = (model.latent_shape[0], height // model.factor, width // model.factor)
        noise = posterior(shape, seed, model.dtype)
    latents = _encoded(model, [picture for picture, _ in fitted], noise)
    return Prepared(latents, tuple(f for _, f in fitted), tuple(picture for picture, _ in fitted))


def _encoded(model: Backbone, pictures: Sequence[Picture], noise: Tensor | None) -> Tensor:
    """[n, channel, h, w]. On the CPU a batch saves no time, and alone a picture is the same to the bit in any batch."""
    size = 1 if model.device.type == "cpu" else len(pictures)
    parts = [pixels(model, pictures[i : i + size]) for i in range(0, len(pictures), size)]
    encoded = [
        model.encode(p) if noise is None else model.encode(p, noise.expand(len(p), *noise.shape[1:])) for p in parts
    ]
    return torch.cat(encoded)


def pixels(model: Backbone, pictures: Picture | Sequence[Picture]) -> Tensor:
    """Pictures as the model's VAE is given them, [n, 3, H, W] in -1..1."""
    return to_tensor(pictures, around(model.dtype))


def fitted_masks(mask: Any, fits: Sequence[Fit], max_pixels: int = MAX_PIXELS) -> Tensor:
    """Masks (`Picturelike`: one for all, or a list with one each) over fitted pictures; [case, 1, H, W] of 0 and 1."""
    masks: list[Any] = [mask] * len(fits) if is_picture(mask) else list(mask)
    if len(masks) != len(fits):
        raise ReinvertError(f"{len(fits)} pictures need {len(fits)} masks, or one for all")
    opened = [open_mask(m, max_pixels=max_pixels) for m in masks]
    fitted = [fit_mask(picture, fit) for picture, fit in zip(opened, fits, strict=True)]
    stacked = torch.stack([torch.from_numpy(np.asarray(m, dtype=np.float32) / 255) for m in fitted])
    return stacked[:, None].round()


def saved_fits(info: Mapping[str, Any]) -> tuple[Fit, ...]:
    """How a trajectory's pictures were fitted, from its `info`."""
    if "fits" not in info:
        raise ReinvertError("this trajectory does not tell how its pictures were fitted; leave the mask out")
    return tuple(Fit(**_fields(saved)) for saved in info["fits"])


def _fields(saved: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
