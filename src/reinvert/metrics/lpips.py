"""Learned perceptual image patch similarity: how far apart two pictures are for a network; 0 for equal ones.

    LPIPS = sum over layers l of mean over places of  w_l . (f_l(a) / |f_l(a)| - f_l(b) / |f_l(b)|)^2

The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, arXiv 1801.03924. f_l are the features of
a trained trunk and w_l the learned weights of their channels. The published evaluator uses SqueezeNet 1.1; AlexNet and
VGG16 are other networks (`networks/convolutional.py`). Their columns carry the network's name.

strict with a mask: each layer's mean is taken over the region, shrunk to the layer's grid. compat: over the full frame
of the blackened pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.metrics.base import Metric, Mode, blackened, check, region_mean, whole_mean
from reinvert.networks.base import Perceptual


def lpips(a: Tensor, b: Tensor, mask: Tensor | None = None, mode: Mode = "strict", *, network: Perceptual) -> Tensor:
    """LPIPS, `[n]`, of pictures `[n, 3, h, w]` in 0..1; mask `[n, 1, h, w]`, 1 where they are compared."""
    check(a, b, mask, mode)
    if mode == "compat":
        a, b = blackened(a, mask), blackened(b, mask)
    return summed(network.maps(2 * a - 1, 2 * b - 1), mask, mode)


def summed(maps: tuple[Tensor, ...], mask: Tensor | None, mode: Mode) -> Tensor:
    """The layers' distance maps `[n, 1, h_l, w_l]` as one value per picture, `[n]`."""
    if mode == "compat" or mask is None:
        means = [whole_mean(distance, mask) for distance in maps]
    else:
        means = [region_mean(x, F.adaptive_avg_pool2d(mask, (x.shape[2], x.shape[3]))) for x in maps]
    return torch.stack(means).sum(0)


METRIC = Metric("lpips", "LPIPS", "lower", lpips, scale=1e3, needs="lpips")
