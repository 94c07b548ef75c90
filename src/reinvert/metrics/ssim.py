"""Structural similarity of two pictures in 0..1: 1 for equal ones.

    SSIM = (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2)),     c1 = 0.01^2, c2 = 0.03^2

with means m, variances s^2 and covariance s_ab under a Gaussian window (sigma 1.5, 11 x 11), channel by channel, the
picture mirrored at its border; then the mean of this map. As the published evaluator's torchmetrics does.

strict with a mask: the mean of the map over the region. compat: over the full frame of the blackened pictures, where
every window inside the black counts as 1. `crop` leaves the outermost 5 pixels out of the mean, as torchmetrics before
1.4.2 did: the paper's table was made before that.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.metrics.base import Metric, Mode, blackened, check, region_mean, whole_mean

RADIUS = 5
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(a: Tensor, b: Tensor, mask: Tensor | None = None, mode: Mode = "strict", *, crop: bool = False) -> Tensor:
    """SSIM, `[n]`, of pictures `[n, 3, h, w]` in 0..1; mask `[n, 1, h, w]`, 1 where they are compared."""
    check(a, b, mask, mode)
    if min(a.shape[-2:]) <= (2 * RADIUS if crop else RADIUS):
        raise ReinvertError(f"SSIM needs pictures of more than {2 * RADIUS} pixels a side")
    compat = mode == "compat"
    if compat:
        similar = ssim_map(blackened(a, mask), blackened(b, mask))
    else:
        similar = ssim_map(_precise(a), _precise(b)).to(a)
    if crop:
        inner = (..., slice(RADIUS, -RADIUS), slice(RADIUS, -RADIUS))
        similar = similar[inner]
        mask = mask if mask is None or compat else mask[inner]
    return whole_mean(similar, mask) if compat else region_mean(similar, mask)


def ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """SSIM around every pixel, of the pictures' shape."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a = (_blurred(a * a) - mean_a**2).clamp(min=0)
    variance_b = (_blurred(b * b) - mean_b**2).clamp(min=0)
    covariance = _blurred(a * b) - mean_a * mean_b
    above = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    return above / ((mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2))


def _blurred(x: Tensor) -> Tensor:
    """Under the Gaussian window, the border mirrored."""
    distance = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype, device=x.device) / SIGMA
    window = torch.exp(-(distance**2) / 2)
    window = window / window.sum()
    framed = F.pad(x, (RADIUS,) * 4, mode="reflect")
    if x.dtype == torch.float64:  # one axis after the other: 5 times as fast, and here the order does not show
        height, width = x.shape[-2:]
        rows = sum((w * framed[..., i : i + height, :] for i, w in enumerate(window)), torch.zeros_like(x[..., :1]))
        return sum((w * rows[..., i : i + width] for i, w in enumerate(window)), torch.zeros_like(x))
    # One filter of 11 x 11, so that compat rounds as the published evaluator does.
    square = torch.outer(window, window).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(framed, square, groups=x.shape[1])


def _precise(x: Tensor) -> Tensor:
    """In float64 where there is one: in float32 the variances' rounding moves SSIM by 1e-4, as it does in compat."""
    return x if x.device.type == "mps" else x.double()


METRIC = Metric("ssim", "SSIM", "higher", ssim, scale=1e2)
