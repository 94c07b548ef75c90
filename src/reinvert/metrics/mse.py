"""Mean squared error of two pictures in 0..1.

    MSE = mean over pixels and channels of (a - b)^2

strict with a mask: the mean over the region. compat: over the full frame of the blackened pictures, which is the
region's value times its share of the frame.
"""

from __future__ import annotations

from torch import Tensor

from reinvert.metrics.base import Metric, Mode, blackened, check, region_mean, whole_mean


def mse(a: Tensor, b: Tensor, mask: Tensor | None = None, mode: Mode = "strict") -> Tensor:
    """Mean squared error, `[n]`, of pictures `[n, 3, h, w]` in 0..1; mask `[n, 1, h, w]`, 1 where they are compared."""
    check(a, b, mask, mode)
    if mode == "compat":
        return whole_mean((blackened(a, mask) - blackened(b, mask)) ** 2, mask)
    return region_mean((a - b) ** 2, mask)


METRIC = Metric("mse", "MSE", "lower", mse, scale=1e4)
