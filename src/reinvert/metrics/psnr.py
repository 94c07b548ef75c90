"""Peak signal-to-noise ratio of two pictures in 0..1, in decibels; infinite for equal ones.

    PSNR = 10 log10(1 / MSE)

strict with a mask: of the region's own MSE. compat: of the MSE over the full frame of the blackened pictures, which is
10 log10(1 / u) dB too high where the region is the share u of the frame.
"""

from __future__ import annotations

from torch import Tensor

from reinvert.metrics.base import Metric, Mode
from reinvert.metrics.mse import mse


def psnr(a: Tensor, b: Tensor, mask: Tensor | None = None, mode: Mode = "strict") -> Tensor:
    """PSNR in dB, `[n]`, of pictures `[n, 3, h, w]` in 0..1; mask `[n, 1, h, w]`, 1 where they are compared."""
    return -10 * mse(a, b, mask, mode).log10()


METRIC = Metric("psnr", "PSNR", "higher", psnr, unit="dB")
