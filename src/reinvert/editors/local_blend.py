"""Local blend: outside the edited words' region (or a user's own mask) the target is the source.

    L_b = sum over steps and layers of head-mean( E_b u_b ),  u_b = 1 at branch b's blend words
    m_b = [ maxpool3(L_b) resized to the latents / max > threshold ],   M = m_source or m_b,  x_b <- x_0 + M (x_b - x_0)

Prompt-to-Prompt Image Editing with Cross Attention Control, 2023, arXiv 2208.01626: its LocalBlend, as in
the null-text notebook and PnPInversion: maps after the attention edit, running sums, from a fifth of the run on.
Differs from the authors' code: `E u` is one more value channel of the fused attention instead of stored maps; an empty
word on both sides is an error instead of an edit that is silently erased; a user's mask takes the place of the
words'; the map's grid is a quarter of the latents (16 x 16 at 512 pixels) but not under `grid` cells.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.editors.attention import attend_with, map_grid
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Hooks, Kind, Site, rows_at, sdpa
from reinvert.level import Moment
from reinvert.text import Side
from reinvert.words import indicator

Words = tuple[str, ...]


@dataclass(frozen=True)
class LocalBlend(Editor):
    """Keep everything outside a region; the region comes from words, or from a mask if the edit is given one."""

    name: ClassVar[str] = "local_blend"
    acts_on: ClassVar[tuple[Kind, ...]] = ("cross",)
    when: ClassVar[str] = (
        "Joined to any other editor when one thing changes and all around it must stay. Not for backgrounds, styles "
        "or moves, whose region is everywhere."
    )
    needs: ClassVar[str] = "a word of either prompt, or a mask"
    words_of_source: ClassVar[tuple[str, ...]] = ("source_words", "source_without")
    words_of_target: ClassVar[tuple[str, ...]] = ("target_words", "target_without")
    reads_maps: ClassVar[bool] = True
    takes_mask: ClassVar[bool] = True
    source_words: Words = ()
    """Words of the source prompt whose region may change."""
    target_words: Words = ()
    """Words of the target prompt whose region may change."""
    source_without: Words = ()
    """Words of the source prompt whose region is taken out of the mask (substruct words)."""
    target_without: Words = ()
    """The same for the target prompt."""
    threshold: float = 0.3
    """Share of the map's maximum above which a cell belongs to the region."""
    without_threshold: float = 0.3
    """The same for the words that are taken out."""
    start: float = 0.2
    """Share of the run after which blending begins."""
    grid: int = 16
    """Smallest side of the attention map that is read, where the latents have that many cells."""

    def lacks(self, model: Backbone, *, masked: bool = False) -> str | None:
        return None if masked else super().lacks(model)

    def bind(self, case: Case) -> Hooks:
        if case.mask is not None:
            return _MaskHooks(case.mask.to(case.path.device), int(self.start * case.steps))
        mine = [self.at(case, i) for i in range(len(case.sources))]
        if not all(m.source_words or m.target_words for m in mine):
            raise ReinvertError("local_blend needs a word of either prompt (--blend cat dog) or a mask (--mask)")
        chosen = self._channels(case, [(m.source_words, m.target_words) for m in mine])
        without = None
        if any(m.source_without or m.target_without for m in mine):
            without = self._channels(case, [(m.source_without, m.target_without) for m in mine])
        channels = chosen[..., None] if without is None else torch.stack([chosen, without], -1)
        return _WordHooks(self, channels.to(case.model.device), map_grid(case.latent, self.grid), case.steps)

    @staticmethod
    def _channels(case: Case, words: Sequence[tuple[Words, Words]]) -> Tensor:
        """Word indicators [branch, case, token]; `words` has the source's and the targets' words of each case."""
        rows = [[indicator(case.model.words, prompt, w[0]) for prompt, w in zip(case.sources, words, strict=True)]]
        for target in case.targets:
            rows.append([indicator(case.model.words, prompt, w[1]) for prompt, w in zip(target, words, strict=True)])
        return torch.stack([torch.stack(row) for row in rows])


def _mix(x: Tensor, mask: Tensor) -> Tensor:
    """x_0 + M (x - x_0); the source row stays as it is, to the bit."""
    return torch.cat([x[:1], x[:1] + mask * (x[1:] - x[:1])])


class _MaskHooks(Hooks):
    """A mask [case, 1, h, w] given by the user; needs no attention."""

    def __init__(self, mask: Tensor, start: int) -> None:
        self.mask, self.start = mask, start

    def blend(self, x: Tensor, moment: Moment) -> Tensor:
        return _mix(x, self.mask.to(x)) if moment.index + 1 > self.start else x


class _WordHooks(Hooks):
    """`channels` [branch, case, token, 1 or 2]; `maps` accumulates [branch, case, 1 or 2, h, w] over the steps."""

    def __init__(self, method: LocalBlend, channels: Tensor, grid: tuple[int, int], steps: int) -> None:
        self.method, self.channels, self.grid = method, channels, grid
        self.start = int(method.start * steps)
        self.maps: Tensor | None = None

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "cross"

    def reaches(self, site: Site) -> bool:
        wanted = site.side is Side.TEXT and site.kind == "cross" and site.layer.part != "mid"
        return wanted and site.grid == self.grid

    def reads(self, moment: Moment) -> Collection[Side]:
        return (Side.TEXT,)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if not self.reaches(site):
            return inner(q, k, v, site)
        out, shares = attend_with(q, k, v, rows_at(self.channels, site.branches), site, inner)
        self.maps = shares if self.maps is None else self.maps + shares
        return out

    def blend(self, x: Tensor, moment: Moment) -> Tensor:
        if moment.index + 1 <= self.start:
            return x
        if self.maps is None:
            raise ReinvertError(
                f"this model has no cross-attention on a {self.grid[0]} x {self.grid[1]} grid for local_blend to "
                "read; choose another `grid`, or give a mask"
            )
        size = (x.shape[-2], x.shape[-1])
        mask = self._region(self.maps[:, :, 0], size, self.method.threshold, pool=True)
        if self.maps.shape[2] > 1:
            mask &= ~self._region(self.maps[:, :, 1], size, self.method.without_threshold, pool=False)
        return _mix(x, mask[1:, :, None].to(x))

    @staticmethod
    def _region(maps: Tensor, size: tuple[int, int], threshold: float, *, pool: bool) -> Tensor:
        """Boolean [branch, case, h, w]: each branch's region united with the source's."""
        if pool:
            maps = F.max_pool2d(maps, 3, 1, 1)
        maps = F.interpolate(maps, size, mode="nearest")
        # A branch without words has an all-zero map; 0 / 0 is no region, as in the published code.
        region = maps / maps.amax((-1, -2), keepdim=True) > threshold
        return region | region[:1]
