"""LPIPS of the region that was not selected for editing (NS-LPIPS): how well the rest was kept; 0 for equal pictures.

    NS-LPIPS = LPIPS(a, b over the non-selected region)

StyleDiffusion: Prompt-Embedding Inversion for Text-Based Editing, 2023, arXiv 2303.15649. There the region is the
complement of the edited word's cross-attention map, and not binary; here it is the mask that is given (a benchmark
has one), so that published figures of NS-LPIPS are not comparable.

compat follows the authors' evaluation in everything else: pictures and mask are squashed to 256 x 256 (PIL, bilinear),
multiplied, and given to LPIPS with AlexNet *in 0..1*, where it expects -1..1. As they shrink before they mask, pixels
just beyond the region leak in. strict is LPIPS over the region, at the pictures' own size and in the right range.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reinvert.metrics.base import Metric, Mode, blackened, check
from reinvert.metrics.lpips import lpips, summed
from reinvert.networks.base import Perceptual

SIDE = 256
"""The published evaluation's size, whatever the pictures' own."""


def ns_lpips(a: Tensor, b: Tensor, mask: Tensor | None = None, mode: Mode = "strict", *, network: Perceptual) -> Tensor:
    """NS-LPIPS, `[n]`, of pictures `[n, 3, h, w]` in 0..1; mask `[n, 1, h, w]`, 1 on the non-selected region."""
    check(a, b, mask, mode)
    if mode == "strict":
        return lpips(a, b, mask, mode, network=network)
    small = None if mask is None else _squashed(mask)
    return summed(network.maps(blackened(_squashed(a), small), blackened(_squashed(b), small)), mask, mode)


def _squashed(x: Tensor) -> Tensor:
    """Pictures or masks at the published size, by way of 8 bits as PIL resizes them."""
    levels = (x * 255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).numpy()
    planes = [Image.fromarray(picture.squeeze(-1) if x.shape[1] == 1 else picture) for picture in levels]
    resized = [np.asarray(plane.resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for plane in planes]
    stacked = torch.from_numpy(np.stack(resized)).to(x.device, x.dtype) / 255
    return stacked[:, None] if x.shape[1] == 1 else stacked.permute(0, 3, 1, 2)


METRIC = Metric("ns_lpips", "NS-LPIPS", "lower", ns_lpips, scale=1e3, needs="lpips")
