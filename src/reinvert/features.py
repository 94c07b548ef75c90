"""Attention features of a picture's inversion that its edits meet again: kept going up, given back going down.

A feature is the queries, keys or values of one joint attention layer in one evaluation of the network. Its place is
(k, evaluation, layer), where k counts steps from the noisy end in both directions, so that the k-th step of an edit
meets what the inversion saw between the same two levels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Hooks, Kind, Layer, Site, sdpa
from reinvert.level import Moment
from reinvert.steps import rising
from reinvert.text import Side

FORBIDDEN = -1e4
"""What is added to logits whose keys are not to be read: after the softmax nothing is left of them."""
Part = Literal["q", "k", "v"]
PARTS: tuple[Part, ...] = ("q", "k", "v")
FEATURES = "features"
"""What their names in a trajectory begin with."""


def place(moment: Moment) -> int:
    """The step's place counted from the noisy end, whichever way it goes."""
    return moment.steps - 1 - moment.index if rising(moment) else moment.index


def name(part: Part, moment: Moment, layer: Layer) -> str:
    """The name a feature is kept under in a trajectory."""
    return f"{FEATURES}.{part}.{place(moment)}.{moment.evaluation}.{layer.name}"


@dataclass(frozen=True)
class Where:
    """The steps and layers whose features are kept: the `steps` noisiest steps, and the blocks `first` to `last` (both
    included, negative ones counted from the end) of the network's `part`. A network that has no single blocks gives
    all its blocks for them."""

    steps: int
    first: int = 0
    last: int = -1
    part: Literal["double", "single", "any"] = "any"

    def at(self, moment: Moment) -> bool:
        return place(moment) < self.steps

    def layers(self, layers: Sequence[Layer]) -> frozenset[str]:
        """The names of the layers, of those of a network. Raises `ReinvertError` where it has none of them."""
        part = self.part if any(layer.part == self.part for layer in layers) else "any"
        mine = [layer for layer in layers if part in ("any", layer.part)]
        blocks = sorted({(layer.depth, layer.index) for layer in mine})
        count = len(blocks)
        first, last = (number + count if number < 0 else number for number in (self.first, self.last))
        taken = set(blocks[max(0, first) : last + 1])
        if not taken:
            raise ReinvertError(
                f"this model has no {'' if part == 'any' else part + ' '}blocks from {self.first} to {self.last}, but "
                f"{count} of them, counted from 0; choose other layers"
            )
        return frozenset(layer.name for layer in mine if (layer.depth, layer.index) in taken)


@dataclass
class Recorder(Hooks):
    """Keeps features of the source's text side while a picture is inverted; changes nothing."""

    where: Where
    layers: frozenset[str]
    parts: Collection[Part] = ("v",)
    picture_only: bool = False
    """Keep the picture's tokens and leave those of the text."""
    kept: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """[1, case, head, token, dim] by name; the second axis is the case, as a trajectory's `kept` wants it."""

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "joint" and self.where.at(moment)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if site.side is Side.TEXT and site.kind == "joint" and site.layer.name in self.layers:
            for part, heads in zip(PARTS, (q, k, v), strict=True):
                if part in self.parts:
                    # The loop's batch is used again at the next step; what is kept must not be a view of it.
                    own = heads[:1, ..., site.picture, :] if self.picture_only else heads[:1]
                    self.kept[name(part, site.moment, site.layer)] = own.detach().clone()
        return inner(q, k, v, site)


@dataclass(frozen=True)
class Injector(Hooks):
    """Gives features back to the targets of an edit, in both sides; the source keeps its own.

    `replaced` parts take the kept ones' place, to `added` parts they are added, after being multiplied by `scale`.
    What was not kept (the first evaluation of a solver that carries its velocity) is left as it is.
    """

    where: Where
    kept: Mapping[str, Tensor]
    replaced: Collection[Part] = ("v",)
    added: Collection[Part] = ()
    scale: float = 1.0

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "joint" and self.where.at(moment)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if site.kind == "joint" and self.where.at(site.moment):
            q, k, v = (self._changed(part, heads, site) for part, heads in zip(PARTS, (q, k, v), strict=True))
        return inner(q, k, v, site)

    def _changed(self, part: Part, heads: Tensor, site: Site) -> Tensor:
        kept = self.kept.get(name(part, site.moment, site.layer))
        if kept is None or (part not in self.replaced and part not in self.added):
            return heads
        given = self.scale * kept.to(heads)
        if given.shape[1:] != heads.shape[1:]:
            raise ReinvertError("the features of this trajectory are of another size than its latents; invert again")
        own = [(h if branch == 0 else given[0] if part in self.replaced else h + given[0])
               for branch, h in zip(site.branches, heads, strict=True)]  # fmt: skip
        return torch.stack(own)


# --- the tokens of a region -----------------------------------------------------------------------------------------


def tokens_inside(cells: Tensor, patch: int) -> Tensor:
    """[case, 1, h / patch, w / patch]: whether any of a token's cells [case, 1, h, w] is inside a region."""
    return F.max_pool2d(cells.float(), patch).bool()


def biased(q: Tensor, k: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose logits are those of `q` and `k` [..., token, dim] plus left right^T [..., token, n].

    The n further dimensions are a part of the fused product, so that no map of logits is made.
    """
    width = q.shape[-1]
    wide = width + left.shape[-1]
    return torch.cat([q * (wide / width) ** 0.5, left.to(q) * wide**0.5], -1), torch.cat([k, right.to(k)], -1)


@dataclass(frozen=True)
class Separated(Hooks):
    """The source's picture tokens inside a region and those outside do not see each other; both see the text, which
    sees all. `inside` is [case, token] of the picture."""

    inside: Tensor

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "joint"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if site.kind != "joint":
            return inner(q, k, v, site)
        if site.branches[0] != 0:
            return inner(q, k, v, site)
        inside = self.inside.to(q)[:, None, :]
        left, right = q.new_zeros(*q.shape[:-1], 2), q.new_zeros(*q.shape[:-1], 2)
        left[0, ..., site.picture, :] = torch.stack([inside, 1 - inside], -1)
        right[0, ..., site.picture, :] = FORBIDDEN * torch.stack([1 - inside, inside], -1)
        return inner(*biased(q, k, left, right), v, site)
