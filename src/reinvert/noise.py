"""Drawing noise: on the CPU from a seed, one generator per case, so that a batch draws what its cases draw alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from reinvert.precision import around

Draw = Callable[[tuple[int, ...], torch.Generator], Tensor]
"""(shape, generator) -> standard normal noise of that shape, float32 on the CPU."""


def in_order(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise drawn in the order of its axes."""
    return torch.randn(shape, generator=generator, dtype=dtype)


def posterior(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    """The seed's first draw [1, channel, h, w], with which the programs sample a VAE's posterior: in the VAE's own
    precision (float64 takes other numbers), and in order even where a family packs its latents."""
    return in_order((1, *shape), torch.Generator().manual_seed(seed), around(dtype))


def channels_last(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise [n, channel, h, w] drawn cell by cell, all channels of one before the next: what `randn_like` gives to
    latents whose picture came from an array [h, w, channel]."""
    empty = torch.empty(shape).to(memory_format=torch.channels_last)
    return empty.normal_(generator=generator).contiguous()


def draws(like: Tensor, seed: int, draw: Draw = in_order, skip: int = 0) -> Iterator[Tensor]:
    """Endless standard normal tensors shaped like `like` [case, ...], in its dtype and on its device.

    Every case has a generator of its own with the same seed. They are drawn in float32, the field's convention, so
    that a seed gives a model in any precision the same noise. The first `skip` draws are thrown away, which `posterior`
    took.
    """
    generators = [torch.Generator().manual_seed(seed) for _ in like]
    shape = (1, *like.shape[1:])
    for _ in range(skip):
        for generator in generators:
            in_order(shape, generator, around(like.dtype))
    while True:
        yield torch.cat([draw(shape, generator) for generator in generators]).to(like)
