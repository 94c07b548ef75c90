"""Drawing noise: on the CPU from a seed, one generator per case, so that a batch draws what its cases draw alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def draws(like: Tensor, seed: int) -> Iterator[Tensor]:
    """Endless standard normal tensors shaped like `like` [case, ...], in its dtype and on its device.

    Every case has a generator of its own with the same seed. They are drawn in float32, the field's convention.
    """
    generators = [torch.Generator().manual_seed(seed) for _ in like]
    while True:
        drawn = [torch.randn((1, *like.shape[1:]), generator=generator) for generator in generators]
        yield torch.cat(drawn).to(like)
