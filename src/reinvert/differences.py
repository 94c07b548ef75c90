"""Where and how much two renderings differ: PSNR, and the region of an edit.

An edit is pasted back into its original by such a region (`image.paste_back`), so that what the edit did not mean to
touch keeps the original's own pixels instead of the VAE's rendering of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reinvert.image import Fit, paste_back

if TYPE_CHECKING:
    from reinvert.verbs import Result

Mask = NDArray[np.bool_]
"""Bools [height, width], True = edited."""

THRESHOLD: Final = 16
"""Levels of 255 by which a channel must differ to count as edited: less is the VAE answering to far-away changes."""

GROW: Final = 1 / 32
"""Share of the shorter side by which changed pixels are grown, so that an edit's soft border comes along."""

Origin = Literal["blended cells", "changed pixels"]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size in dB, of 255 levels; infinite if they are equal."""
    error = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    mean = float(np.square(error).mean())
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


def edited_region(result: Result, index: int = 0) -> tuple[Mask, Origin]:
    """What one target of an edit changed, at the model's resolution, and how that is known.

    Local blend makes the target's latent equal to the source's, to the bit, outside its region: the cells that
    differ are then the region. Where every cell differs, it is the pixels that changed visibly.
    """
    source, target = result.latents[0], result.latents[index + 1]
    cells = (source != target).any(dim=0).numpy()
    edited = result.images[index]
    if not cells.all():
        height, width = cells.shape
        return cells.repeat(edited.height // height, 0).repeat(edited.width // width, 1), "blended cells"
    return changed_pixels(result.reconstruction, edited), "changed pixels"


def pasted(
    original: Image.Image, result: Result, index: int, fit: Fit, mask: Image.Image | None = None
) -> tuple[Image.Image, dict[str, Any]]:
    """One target of an edit in its original, whose own pixels are kept outside the mask, or else outside what the edit
    changed; with the region's origin and its share of the picture, as a sidecar tells them."""
    if mask is not None:
        region, origin = mask, "the given mask"
        share = sum(mask.histogram()[128:]) / (mask.width * mask.height)
    else:
        region, origin = edited_region(result, index)
        share = float(region.mean())
    return paste_back(original, result.images[index], fit, region), {"from": origin, "share": round(share, 4)}


def changed_pixels(a: Image.Image, b: Image.Image) -> Mask:
    """Pixels that differ by more than `THRESHOLD` in a channel, grown by `GROW`."""
    levels = np.abs(np.asarray(a, dtype=np.int16) - np.asarray(b, dtype=np.int16))
    changed: Mask = np.any(levels > THRESHOLD, axis=-1)
    return grown(changed, round(GROW * min(a.size)))


def grown(mask: Mask, by: int) -> Mask:
    """The mask with every pixel of the squares of 2 by + 1 pixels around its own."""
    height, width = mask.shape
    rows, columns = np.zeros_like(mask), np.zeros_like(mask)
    framed = np.pad(mask, ((by, by), (0, 0)))
    for shift in range(2 * by + 1):
        rows |= framed[shift : shift + height]
    framed = np.pad(rows, ((0, 0), (by, by)))
    for shift in range(2 * by + 1):
        columns |= framed[:, shift : shift + width]
    return columns
