"""What editors of attention share: the grid of words' maps, words as a channel of the values, the source's rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from reinvert.hooks import Attend, Site, same_memory
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


class MadeOfHeads:
    """Keeps what a rule makes of keys and values for as long as those are the same, as they are of words that do not
    change from step to step."""

    def __init__(self) -> None:
        self._made: dict[Hashable, tuple[Tensor, Tensor, tuple[Tensor, Tensor]]] = {}

    def of(
        self,
        k: Tensor,
        v: Tensor,
        key: Hashable,
        make: Callable[[Tensor, Tensor, Site], tuple[Tensor, Tensor]],
        site: Site,
    ) -> tuple[Tensor, Tensor]:
        """`make(k, v, site)`, or what it gave before; `key` says all that it depends on besides."""
        if key in self._made:
            before_k, before_v, made = self._made[key]
            if same_memory(before_k, k) and same_memory(before_v, v):
                return made
        self._made[key] = k, v, make(k, v, site)
        return self._made[key][2]


def probabilities(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) of heads [branch, case, head, token, dim], in float32 or wider; where a map itself is
    needed, for its gradient or to be compared."""
    return (wide(q) @ wide(k).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


__all__ = ["MadeOfHeads", "attend_with", "map_grid", "of_source", "probabilities"]
