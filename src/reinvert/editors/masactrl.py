"""MasaCtrl: the target draws its own layout, and fills it with what the source looks like.

    out_T = softmax(Q_T K_S^T) V_S            self-attention, both sides, from `start_step` and `start_layer` on
    out_T = m_T Attn(Q_T, K_S, V_S | m_S) + (1 - m_T) Attn(Q_T, K_S, V_S | not m_S)                 with a foreground

MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent Image Synthesis and Editing, 2023, arXiv 2304.08465.
As published the source prompt is empty, best already while inverting; a source with a prompt works as well and costs a
row more. The foregrounds m come from a mask, the same for both, or from the cross-attention of words in the step
itself, as the authors' code has it. Differs from it: keys are masked instead of adding a large negative number to every
logit, so half precision is safe; a foreground that is empty is ignored instead of masking everything; several edits may
follow each other.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.editors.attention import attend_with, map_grid, of_source
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Hooks, Kind, Site, rows_at, sdpa
from reinvert.level import Moment
from reinvert.text import Conditioning, Side, with_text
from reinvert.words import indicator

Words = tuple[str, ...]


@dataclass(frozen=True)
class MasaCtrl(Editor):
    """Mutual self-attention, with or without a foreground."""

    name: ClassVar[str] = "masactrl"
    acts_on: ClassVar[tuple[Kind, ...]] = ("self", "cross")
    needs: ClassVar[str] = "a target prompt (published with an empty source prompt)"
    when: ClassVar[str] = (
        "For changes of pose, shape or view that must keep the look of what is there. Not for colour or material: "
        "those come from the source."
    )
    takes_mask: ClassVar[bool] = True
    words_of_source: ClassVar[tuple[str, ...]] = ("mask_source",)
    words_of_target: ClassVar[tuple[str, ...]] = ("mask_target",)
    start_step: int = 4
    """Steps that the target walks by itself first; a count that does not grow with the run (published: 4 of 50)."""
    start_layer: float = 0.625
    """Share of the self-attention layers, in order of execution, that are left alone (10 of 16, as published)."""
    source_conditioning: Literal["empty", "prompt"] = "prompt"
    """The source row during the edit: conditioned on the source prompt, or on the empty one, which needs an anchor."""
    mask_source: Words = ()
    """Words of the source prompt that make its foreground."""
    mask_target: Words = ()
    """Words of the target prompt that make its foreground."""
    threshold: float = 0.1
    """Share of a word map's range from which on a cell is foreground."""
    grid: int = 16
    """Smallest side of the attention maps that are read, where the latents have that many cells."""

    def __post_init__(self) -> None:
        if self.start_step < 0 or not 0 <= self.start_layer <= 1:
            raise ReinvertError("start_step counts steps from 0 on, and start_layer is a share between 0 and 1")
        if bool(self.mask_source) != bool(self.mask_target):
            raise ReinvertError("a foreground needs words of both prompts: mask_source and mask_target")
        if self.mask_source and self.source_conditioning == "empty":
            raise ReinvertError(
                "a foreground found by words needs the source's prompt: set source_conditioning to prompt"
            )

    def bind(self, case: Case) -> Hooks:
        layers = [layer for layer in case.model.layers() if layer.name.endswith("attn1")]
        first = int(self.start_layer * len(layers))
        channels = self._channels(case) if self.mask_source and case.mask is None else None
        mask = None if case.mask is None else case.mask.to(case.model.device)
        return _MasaHooks(self, first, mask, channels, map_grid(case.latent, self.grid))

    def _channels(self, case: Case) -> Tensor:
        """Word indicators [branch, case, token]."""
        said = [(case.sources, self.mask_source), *((target, self.mask_target) for target in case.targets)]
        rows = [torch.stack([indicator(case.model.words, p, words) for p in prompts]) for prompts, words in said]
        return torch.stack(rows).to(case.model.device)


class _MasaHooks(Hooks):
    """`mask` is the user's [case, 1, h, w]; `channels` the words' [branch, case, token]; `maps` those of one evaluation
    of the network, [branch, case, h, w], summed over the layers seen so far."""

    def __init__(
        self, method: MasaCtrl, first: int, mask: Tensor | None, channels: Tensor | None, grid: tuple[int, int]
    ) -> None:
        self.method, self.first, self.mask, self.channels, self.grid = method, first, mask, channels, grid
        self.maps: Tensor | None = None

    def text(self, conditioning: Conditioning) -> Conditioning:
        return (
            conditioning
            if self.method.source_conditioning == "prompt"
            else with_text(conditioning, 0, conditioning.empty)
        )

    def _acts(self, moment: Moment) -> bool:
        return moment.index >= self.method.start_step

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return self._acts(moment) and (kind == "self" or self.channels is not None)

    def reads(self, moment: Moment) -> Collection[Side]:
        return tuple(Side) if self._acts(moment) else ()

    def reaches(self, site: Site) -> bool:
        if not self._acts(site.moment) or len(site.branches) < 2:
            return False
        if site.kind == "cross":
            return self.channels is not None and site.side is Side.TEXT and site.grid == self.grid
        return site.layer.index >= self.first or self._begins(site)

    def _begins(self, site: Site) -> bool:
        """Whether this is the first layer of a new evaluation, of which a step may have several (EDICT)."""
        return self.channels is not None and site.kind == "self" and site.layer.index == 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if not self.reaches(site):
            return inner(q, k, v, site)
        if site.kind == "cross":
            return self._watched(q, k, v, site, inner)
        if self._begins(site):
            self.maps = None
        if site.layer.index < self.first:
            return inner(q, k, v, site)
        masks = self._foregrounds(site)
        if masks is None:
            return inner(q, of_source(k), of_source(v), site)
        # The foreground is a matter of keys, which a rule below could not be told about: it is asked for the source.
        targets = self._masked(q[1:], of_source(k)[1:], of_source(v)[1:], *masks)
        return torch.cat([inner(q[:1], k[:1], v[:1], site), targets])

    def _watched(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend) -> Tensor:
        """Cross-attention as it is, with the words' share of it as one more value channel."""
        assert self.channels is not None
        out, shares = attend_with(q, k, v, rows_at(self.channels, site.branches)[..., None], site, inner)
        self.maps = shares[:, :, 0] if self.maps is None else self.maps + shares[:, :, 0]
        return out

    def _foregrounds(self, site: Site) -> tuple[Tensor, Tensor] | None:
        """Of the source [case, token] and of the targets [target, case, token], or None where there is none."""
        if self.mask is not None:
            mask = F.interpolate(self.mask, site.grid, mode="nearest").flatten(1) > 0.5
            return mask, mask.expand(len(site.branches) - 1, *mask.shape)
        if self.maps is None:
            return None
        low, high = (reduce((-1, -2), keepdim=True) for reduce in (self.maps.amin, self.maps.amax))
        share = (self.maps - low) / (high - low).clamp(min=torch.finfo(self.maps.dtype).tiny)
        found = F.interpolate(share, site.grid, mode="nearest").flatten(2) >= self.method.threshold
        return found[0], found[1:]

    @staticmethod
    def _masked(q: Tensor, k: Tensor, v: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Attention of the targets' foreground to the source's, and of their background to its background."""
        inside = target.to(q.device)[:, :, None, :, None]
        parts: list[Tensor] = []
        for keys in (source.to(q.device), ~source.to(q.device)):
            # Without a single key there is nothing to attend to: then all keys stand in.
            keys = keys | ~keys.any(-1, keepdim=True)
            mask = keys[:, None, None, :].expand(len(q), -1, -1, -1, -1).flatten(0, 1)
            flat = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask)
            parts.append(flat.unflatten(0, q.shape[:2]))
        return torch.where(inside, *parts)
