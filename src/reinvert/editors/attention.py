"""What editors of attention share: the grid of words' maps, words as a channel of the values, the source's rows."""

from __future__ import annotations

import torch
from torch import Tensor

from reinvert.hooks import Attend, Site
from reinvert.precision import wide


def map_grid(latent: tuple[int, int], smallest: int) -> tuple[int, int]:
    """(h, w) of the cross-attention maps in which words are looked for.

    A quarter of the latents (16 x 16 at 512 pixels), or a half or the whole where that has fewer than `smallest` cells.
    """
    h, w = latent
    shrink = next((shrink for shrink in (4, 2) if min(h, w) // shrink >= smallest), 1)
    return h // shrink, w // shrink


def of_source(heads: Tensor) -> Tensor:
    """The source's heads in every branch's place, [branch, case, head, token, dim]."""
    return heads[:1].expand_as(heads)


def attend_with(q: Tensor, k: Tensor, v: Tensor, channels: Tensor, site: Site, inner: Attend) -> tuple[Tensor, Tensor]:
    """An attention, and the share of it that goes to groups of tokens, without any map being built.

    `channels` [branch, case, token, group] weigh the tokens (of the site's branches): A u is what the attention A makes
    of them as further channels of the values. The shares are means over heads, [branch, case, group, h, w].
    """
    u = channels.to(v)[:, :, None].expand(*v.shape[:3], -1, -1)
    out = inner(q, k, torch.cat([v, u], -1), site)
    shares = wide(out[..., v.shape[-1] :]).mean(2).transpose(-1, -2).unflatten(-1, site.grid)
    return out[..., : v.shape[-1]], shares


def probabilities(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of heads [branch, case, head, token, dim], in float32 or wider; where a map itself is
    needed, for its gradient or to be compared."""
    return (wide(q) @ wide(k).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


__all__ = ["attend_with", "map_grid", "of_source", "probabilities"]
