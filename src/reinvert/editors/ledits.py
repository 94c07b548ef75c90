"""LEDITS++: add the directions of concepts to the source's own prediction, each only where it matters.

    e = e_base + sum_c M_c s_c (e_c - e_base),   M_c = M1_c M2_c
    M1_c = [ smooth attention to c's words >= its quantile ],  M2_c = [ channel sum of |e_c - e_base| >= its quantile ]

LEDITS++: Limitless Image Editing using Text-to-Image Models, 2024, arXiv 2311.16711. Follows the paper and what its
pipeline in diffusers does; its usual partner is edit-friendly inversion. The target prompt is the first concept. The
paper inverts with an empty prompt and edits from the null side: its base is what conditions the source, as here
for any source prompt; M1 then reads the words that are new in the target. `compat="published"` is diffusers, which
edits from the null side also where the source has a prompt, and so leaves the source without any concept. The edit's
guidance scale is not used for the targets: every concept has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.editors.attention import attend_with, map_grid
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Call, Hooks, Kind, Look, Nudged, Row, Site, rows_at, sdpa
from reinvert.level import Moment
from reinvert.precision import wide
from reinvert.text import Conditioning, Side, Text
from reinvert.trajectory import Trajectory
from reinvert.words import changed_words, indicator

Masks = Literal["both", "maps", "noise", "whole"]


@dataclass(frozen=True)
class LEdits(Editor):
    """A rule of guidance with a region of its own for every concept."""

    name: ClassVar[str] = "ledits"
    prompts: ClassVar[tuple[str, ...]] = ("concepts",)
    acts_on: ClassVar[tuple[Kind, ...]] = ("cross",)
    needs_null_side: ClassVar[bool] = True
    needs: ClassVar[str] = 'a target prompt (a full one, or a concept such as "glasses")'
    usual_inversion: ClassVar[str] = "edit_friendly"
    when: ClassVar[str] = (
        "Several independent changes at once, each with a strength of its own, adding as well as removing. Not for a "
        "new layout or a new pose: what no concept claims stays."
    )
    reads_maps: ClassVar[bool] = True
    scale: float = 5.0
    """Scale of the target prompt's direction; a negative one moves away from it."""
    concepts: Mapping[str, float] = field(default_factory=dict)
    """Further concepts and their scales, e.g. glasses=5 beard=-3; each costs one forward a step."""
    threshold: float = 0.9
    """Quantile from which on a cell belongs to a concept's region."""
    masks: Masks = "both"
    """both: attention and noise must agree. maps, noise: one of them alone. whole: everywhere."""
    maps_only_above: int = 800
    """With masks both: at timesteps above this the noise is not asked yet."""
    warmup: int = 0
    """Steps before the first concept acts."""
    grid: int = 16
    """Smallest side of the attention map that is read, where the latents have that many cells."""
    compat: Literal["correct", "published"] = "correct"
    """published: directions from the empty prompt, and all of the target's words, whatever the source prompt is."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ReinvertError(f"threshold is a quantile between 0 and 1, not {self.threshold}")
        if self.warmup < 0:
            raise ReinvertError(f"warmup counts steps from 0 on, not {self.warmup}")
        if not all(concept.strip() for concept in self.concepts):
            raise ReinvertError("a further concept is at least one word (concepts={'glasses': 5.0})")

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        if trajectory.source_guidance != 1 or trajectory.null is not None:
            return trajectory
        # A rule of guidance is given both sides of the source; if both are the same, it is evaluated once.
        return replace(trajectory, null=case.model.encode_text(case.sources)[None], null_for_targets=False)

    def bind(self, case: Case) -> Hooks:
        return _LEditsHooks(self, case)

    def mapped(self) -> bool:
        """Whether attention decides about regions."""
        return self.masks in ("both", "maps")


class _MapHooks(Hooks):
    """Reads how much each cell attends to `words` [branch, case, token], in every layer of the one grid."""

    def __init__(self, words: Tensor, grid: tuple[int, int], wanted: bool) -> None:
        self.words, self.map_grid, self.wanted = words, grid, wanted
        self.seen: dict[str, Tensor] = {}

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "cross" and self.wanted

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        read = self.wanted and site.side is Side.TEXT and site.kind == "cross" and site.layer.part != "mid"
        if not read or site.grid != self.map_grid:
            return inner(q, k, v, site)
        out, shares = attend_with(q, k, v, rows_at(self.words, site.branches)[..., None], site, inner)
        self.seen[site.layer.name] = shares[:, :, 0]
        return out

    def attention(self) -> Tensor:
        """Smoothed, [branch, case, h, w] of the latest evaluation: the mean over heads and layers."""
        if not self.seen:
            raise ReinvertError(
                f"this model has no cross-attention on a {self.map_grid[0]} x {self.map_grid[1]} grid for ledits to "
                "read; choose another `grid`, or masks noise"
            )
        return _smooth(torch.stack(list(self.seen.values())).mean(0))


class _LEditsHooks(_MapHooks):
    def __init__(self, method: LEdits, case: Case) -> None:
        grid, device = map_grid(case.latent, method.grid), case.model.device

        def told(source: str, target: str) -> Tensor:
            new = () if method.compat == "published" else changed_words(source, target)[1]
            return indicator(case.model.words, target, new or target.split())

        targets = torch.stack([torch.stack([told(s, t) for s, t in branch]) for branch in case.pairs()])
        super().__init__(torch.cat([torch.zeros_like(targets[:1]), targets]).to(device), grid, method.mapped())
        self.method, self.model, self.targets = method, case.model, len(targets)
        self.concepts = tuple(method.concepts)
        further = [told("", concept).expand_as(targets) for concept in self.concepts]
        self.further = _MapHooks(torch.cat(further or [targets]).to(device), grid, method.mapped())
        self.answers: tuple[Tensor, ...] = ()

    def text(self, conditioning: Conditioning) -> Conditioning:
        return (
            conditioning if self.method.compat == "published" else replace(conditioning, negative=conditioning.text[0])
        )

    @cached_property
    def encoded(self) -> Text:
        """The further concepts, [concept]."""
        return self.model.encode_text(self.concepts)

    @torch.no_grad()
    def nudge(self, x: Tensor, look: Look, moment: Moment) -> Nudged:
        """Asks for the further concepts, [target, case, channel, h, w] each, at the targets' latents."""
        if self.concepts and moment.index >= self.method.warmup:
            n, cases = len(self.concepts), x.shape[1]
            text = self.encoded[:, None, None].expand(n, self.targets, cases).map(lambda tensor: tensor.flatten(0, 1))
            rows = tuple(Row(Side.TEXT, i) for i in range(n * self.targets))
            call = Call(rows, {}, moment, self.further)
            asked = self.model.answer(torch.cat([x[1:]] * n), text, moment.ask, call)
            self.answers = asked.split(self.targets)
        return x

    def guide(self, null: Tensor, text: Tensor, scale: Tensor, moment: Moment) -> Tensor:
        live = len(null) - self.targets  # the source, unless an anchor overwrites it
        source = super().guide(null[:live], text[:live], scale[:live], moment)
        base = null[live:]
        if moment.index < self.method.warmup:
            return torch.cat([source, base])
        told = [(text[live:], self.method.scale), *zip(self.answers, self.method.concepts.values(), strict=True)]
        maps = self.maps()
        edit = torch.zeros_like(base)
        for concept, (answer, strength) in enumerate(told):
            direction = answer - base
            region = self.region(direction, maps[concept] if maps else None, moment)
            edit = edit + strength * region * direction
        return torch.cat([source, base + edit])

    def maps(self) -> tuple[Tensor, ...]:
        """For every concept [target, case, h, w], if attention decides."""
        if not self.method.mapped():
            return ()
        own = self.attention()[-self.targets :]
        return (own, *(self.further.attention().split(self.targets) if self.concepts else ()))

    def region(self, direction: Tensor, attention: Tensor | None, moment: Moment) -> Tensor:
        """M [target, case, 1, h, w] of one concept, as 0 and 1."""
        method, size = self.method, direction.shape[-2:]
        region = torch.ones_like(direction[:, :, :1])
        if attention is not None:
            m1 = _above(attention, method.threshold).to(direction)
            region = region * F.interpolate(m1, tuple(size), mode="nearest")[:, :, None]
        if method.masks == "noise" or (method.masks == "both" and moment.ask <= method.maps_only_above):
            region = region * _above(direction.abs().sum(2), method.threshold).to(direction)[:, :, None]
        return region


def _above(maps: Tensor, quantile: float) -> Tensor:
    """Boolean, where each of the maps [.., .., h, w] reaches its own quantile."""
    flat = wide(maps).flatten(-2)
    return wide(maps) >= flat.quantile(quantile, dim=-1)[..., None, None]


def _smooth(maps: Tensor) -> Tensor:
    """Maps [branch, case, h, w] under a 3 x 3 kernel exp(-dx^2 - dy^2) of sum 1, mirrored at the border."""
    near = torch.exp(-torch.arange(-1.0, 2.0, device=maps.device, dtype=maps.dtype).square())
    kernel = near[:, None] * near[None, :]
    padded = F.pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
    return F.conv2d(padded, (kernel / kernel.sum())[None, None].to(maps))[:, 0].unflatten(0, maps.shape[:2])
