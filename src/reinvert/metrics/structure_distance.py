"""How much the structure of two pictures differs: between their patches' similarities to each other; 0 for equal ones.

    S(x)[i, j] = <k_i, k_j> / (|k_i| |k_j|),     distance = mean over i, j of (S(a)[i, j] - S(b)[i, j])^2

Splicing ViT Features for Semantic Appearance Transfer, 2022, arXiv 2201.00424. k are the keys of the last block of a
vision transformer (published: DINO ViT-B/8 at 224 pixels), all heads together, the class token among them.

compat feeds the network pictures in 0..255 before the ImageNet normalisation, as every published figure was made: far
outside what it was trained on. strict feeds 0..1. strict with a mask weighs every pair of patches by their shares of
the region, without the class token; compat blackens the pictures. `antialias` smooths while shrinking; torchvision
before 0.17, with which the paper's table was made, did not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.metrics.base import Metric, Mode, blackened, check, whole_mean
from reinvert.networks.base import Tower

LONGEST = 480 / 224
"""The longer side is capped at this many times the network's side (published: 480 for 224)."""


def structure_distance(
    a: Tensor,
    b: Tensor,
    mask: Tensor | None = None,
    mode: Mode = "strict",
    *,
    network: Tower,
    antialias: bool = True,
) -> Tensor:
    """Structure distance, `[n]`, of pictures `[n, 3, h, w]` in 0..1; mask `[n, 1, h, w]`, 1 where they are compared."""
    check(a, b, mask, mode)
    if mode == "compat":
        a, b = 255 * blackened(a, mask), 255 * blackened(b, mask)
    similar = [self_similarity(network.keys(_seen(x, network, antialias))) for x in (a, b)]
    apart = (similar[0] - similar[1]) ** 2
    if mode == "compat" or mask is None:
        return whole_mean(apart, mask)
    share = F.adaptive_avg_pool2d(mask, network.grid(*_size(mask, network))).flatten(1)
    pairs = share[:, :, None] * share[:, None, :]
    return (pairs * apart[:, 1:, 1:]).flatten(1).sum(1) / pairs.flatten(1).sum(1)


def self_similarity(keys: Tensor) -> Tensor:
    """The cosine of every two tokens' keys `[n, token, dim]`: `[n, token, token]`."""
    length = keys.norm(dim=-1, keepdim=True)
    return keys @ keys.mT / (length @ length.mT).clamp(min=1e-8)


def _seen(x: Tensor, network: Tower, antialias: bool) -> Tensor:
    """The picture at the network's size, normalised by the network's mean and standard deviation of 0..1."""
    size = _size(x, network)
    if size != tuple(x.shape[-2:]):
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=antialias)
    mean, std = (torch.tensor(values, dtype=x.dtype, device=x.device) for values in (network.mean, network.std))
    return (x - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def _size(x: Tensor, network: Tower) -> tuple[int, int]:
    """Height and width with the shorter side at the network's and the longer one capped."""
    height, width = x.shape[-2:]
    short, long = min(height, width), max(height, width)
    cap = int(LONGEST * network.side)
    new_short, new_long = network.side, int(network.side * long / short)
    if new_long > cap:
        new_short, new_long = int(cap * new_short / new_long), cap
    return (new_short, new_long) if height <= width else (new_long, new_short)


METRIC = Metric("structure_distance", "Structure distance", "lower", structure_distance, scale=1e3, needs="structure")
