"""Whether a picture is one for a model of a small world: what the model's VAE loses of it, and what the picture is.

A photograph differs from flat drawings in several ways, and no one of them tells all: a VAE of drawings renders texture
badly but a dark sky well; plain areas of a photograph have colours that the world has not; it is noisier, or smoother,
or without colour. The limits are the model's own (`pictures` in its `reinvert.json`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reinvert.backbones.base import Backbone, Looks
from reinvert.errors import ReinvertError
from reinvert.image import to_image

PLAIN, EVEN, GREY, NEAR = 10, 3, 16, 14
"""In levels of 0..255: neighbours of a plain area, and of an even one; channels of a grey; a colour's surroundings."""
LEAST_PLAIN = 0.02
"""Share of plain areas below which their colours say nothing: the picture is all texture."""

Pixels = NDArray[np.uint8]


def check_pictures(model: Backbone, pictures: Sequence[Image.Image], latents: Tensor, force: bool = False) -> None:
    """Raise `ReinvertError` for a picture that is none of the model's world, unless `force`.

    `pictures` are as the model is given them, `latents` [case, channel, h, w] as it encodes them.
    """
    looks = None if model.world is None else model.world.looks
    if looks is None or force:
        return
    for picture, latent in zip(pictures, latents, strict=True):
        with torch.no_grad():
            rendered = to_image(model.decode(latent[None])[0])
        reason = why_unlike(looks, np.asarray(picture.convert("RGB")), np.asarray(rendered))
        if reason is not None:
            raise ReinvertError(
                f"this picture does not look like {model.name}'s drawn world ({reason}); use --model with a Stable "
                "Diffusion checkpoint for photographs, or --force (force=True) to go on"
            )


def why_unlike(looks: Looks, picture: Pixels, rendered: Pixels) -> str | None:
    """What tells a picture [h, w, 3] from those of the world, or None; `rendered` is its VAE's round trip."""
    error = float(((picture.astype(np.float64) - rendered) ** 2).mean())
    if error > 255**2 / 10 ** (looks.psnr / 10):
        return f"the model's VAE renders it at {10 * np.log10(255**2 / error):.1f} dB"
    even, plain = differences(picture) <= EVEN, plain_area(picture)
    if not looks.least_even <= even.mean() <= looks.most_even:
        return "it is smoother than a drawing" if even.mean() > looks.most_even else "it is all texture"
    if (grey_of(picture)).mean() > looks.most_grey:
        return "it has no colours"
    if plain.mean() < LEAST_PLAIN or foreign(picture[plain], looks.colors) > looks.most_foreign:
        return "its plain areas have other colours"
    return None


def differences(picture: Pixels) -> NDArray[np.int64]:
    """The largest difference of a channel between each two neighbours, along rows and columns, as one list."""
    levels = picture.astype(np.int64)
    return np.concatenate([np.abs(np.diff(levels, axis=axis)).max(-1).ravel() for axis in (0, 1)])


def plain_area(picture: Pixels) -> NDArray[np.bool_]:
    """Where a pixel is like all four of its neighbours: [h, w]."""
    levels, plain = picture.astype(np.int64), np.ones(picture.shape[:2], bool)
    down, right = (np.abs(np.diff(levels, axis=axis)).max(-1) <= PLAIN for axis in (0, 1))
    plain[:-1] &= down
    plain[1:] &= down
    plain[:, :-1] &= right
    plain[:, 1:] &= right
    return plain


def grey_of(picture: Pixels) -> NDArray[np.bool_]:
    """Where a pixel is grey: [h, w]."""
    return np.ptp(picture.astype(np.int64), axis=-1) < GREY


def foreign(pixels: Pixels, colors: Sequence[tuple[int, int, int]]) -> float:
    """The share of pixels [n, 3] that lie near none of the colours."""
    known, count = np.unique(pixels, axis=0, return_counts=True)
    away = np.abs(known.astype(np.int64)[:, None] - np.array(colors)[None]).max(-1).min(-1)
    return float(count[away > NEAR].sum() / count.sum())
