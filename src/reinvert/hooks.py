"""Where an editor may act: rows, sites, and the six hooks.

An `Editor` (see `editors/`) is a frozen set of arguments; bound to the prompts of one edit it becomes `Hooks`, which
may keep state for that edit. Law: a rule may mix branches, never sides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.level import Moment
from reinvert.text import Conditioning, Side, rows_at

Kind = Literal["self", "cross", "joint"]
"""Pictures among themselves, pictures reading text, or both in one softmax."""


class Row(NamedTuple):
    """One (side, branch) pair that goes through the network, for every case at once. Rows sort by side, then branch."""

    side: Side
    branch: int


@dataclass(frozen=True)
class Layer:
    """An attention layer as the backbone knows it. `part` is where in the network it lies: down, mid or up of a UNet,
    the double blocks (two streams) or single blocks (one stream) of a transformer."""

    name: str
    part: Literal["down", "mid", "up", "double", "single"]
    index: int
    """Its place among the layers of its kind, in order of execution; of joint attention, its block's in its part."""
    depth: float = 0.0
    """Where in the network it lies, in order of execution: 0 is the first layer, 1 the last."""


@dataclass(frozen=True)
class Site:
    """Where in the network, in which side and when an attention happens.

    `grid` is (height, width) of its queries, `latent` of the latents; `branches` names the entries of the branch axis.
    """

    layer: Layer
    kind: Kind
    side: Side
    grid: tuple[int, int]
    latent: tuple[int, int]
    branches: tuple[int, ...]
    moment: Moment
    picture: slice = field(default_factory=lambda: slice(None))
    """Which tokens are the picture's; in joint attention queries, keys and values are those of picture and text."""
    text: slice = field(default_factory=lambda: slice(0, 0))
    """Which tokens of a joint attention are the text's."""


Attend = Callable[[Tensor, Tensor, Tensor, Site], Tensor]


@runtime_checkable
class Look(Protocol):
    """Asks the network about latents [branch, case, ...] without gradients; the rows of some branches, or all."""

    def __call__(self, x: Tensor, moment: Moment, branches: tuple[int, ...] | None = None) -> Mapping[Row, Tensor]: ...


Nudged = Tensor | tuple[Tensor, Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, fused. q, k, v are [branch, case, head, token, dim]; v may have its own dim."""
    flat = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    return flat.unflatten(0, q.shape[:2])


class Hooks:
    """What happens during one edit; every hook is a no-op here. Tensors are [branch, case, ...] unless said."""

    def reads(self, moment: Moment) -> Collection[Side]:
        """The sides in which a rule reads the source's rows at this moment, so that they must be evaluated."""
        return ()

    def touches(self, kind: Kind, moment: Moment) -> bool:
        """Whether `attend` may differ from plain attention at layers of this kind now (a saving, not a filter)."""
        return False

    def reaches(self, site: Site) -> bool:
        """Whether `attend` may differ from plain attention here. Where that is so of no side, the sides stay together
        (a saving, not a filter)."""
        return True

    def text(self, conditioning: Conditioning) -> Conditioning:
        """Change what the branches are conditioned on, once, before the walk."""
        return conditioning

    def nudge(self, x: Tensor, look: Look, moment: Moment) -> Nudged:
        """Change the latents before the prediction; `look` asks the network.

        Two tensors are the latents that the null side and the text side see; the step then moves the null side's.
        """
        return x

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        """Replace an attention, once per side; heads are [branch, case, head, token, dim], `inner` the rule below."""
        return inner(q, k, v, site)

    def features(self) -> Collection[str]:
        """Names of the network's modules whose output `feature` wants to see."""
        return ()

    def feature(self, h: Tensor, name: str, side: Side, branches: Sequence[int], moment: Moment) -> Tensor:
        """Replace the output of a module named by `features`, once per side: [branch, case, channel, h, w]."""
        return h

    def guides(self) -> bool:
        """Whether `guide` has a rule of its own, which reads both sides even where the scale makes one superfluous."""
        return type(self).guide is not Hooks.guide

    def guide(self, null: Tensor, text: Tensor, scale: Tensor, moment: Moment) -> Tensor:
        """Combine the two sides of every live branch: classifier-free guidance."""
        return null + scale * (text - null)

    def blend(self, x: Tensor, moment: Moment) -> Tensor:
        """Change the latents after the step (and after the anchor)."""
        return x


class Chain(Hooks):
    """Several rules as one: `attend` nests (the last is outermost), `guide` is the last one's that has its own,
    the others pipe in order."""

    def __init__(self, parts: Sequence[Hooks]) -> None:
        self.parts = tuple(parts)

    def reads(self, moment: Moment) -> Collection[Side]:
        return {side for part in self.parts for side in part.reads(moment)}

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return any(part.touches(kind, moment) for part in self.parts)

    def reaches(self, site: Site) -> bool:
        return any(part.reaches(site) for part in self.parts)

    def text(self, conditioning: Conditioning) -> Conditioning:
        for part in self.parts:
            conditioning = part.text(conditioning)
        return conditioning

    def nudge(self, x: Tensor, look: Look, moment: Moment) -> Nudged:
        nudged: Nudged = x
        for part in self.parts:
            if not isinstance(nudged, Tensor):
                raise ReinvertError("only the last editor of a composition may tell the sides' latents apart")
            nudged = part.nudge(nudged, look, moment)
        return nudged

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        for part in self.parts:
            inner = _nested(part, inner)
        return inner(q, k, v, site)

    def features(self) -> Collection[str]:
        return {name for part in self.parts for name in part.features()}

    def feature(self, h: Tensor, name: str, side: Side, branches: Sequence[int], moment: Moment) -> Tensor:
        for part in self.parts:
            h = part.feature(h, name, side, branches, moment)
        return h

    def guides(self) -> bool:
        return any(part.guides() for part in self.parts)

    def guide(self, null: Tensor, text: Tensor, scale: Tensor, moment: Moment) -> Tensor:
        own = [part for part in self.parts if part.guides()]
        return (own[-1] if own else Hooks()).guide(null, text, scale, moment)

    def blend(self, x: Tensor, moment: Moment) -> Tensor:
        for part in self.parts:
            x = part.blend(x, moment)
        return x


def _nested(part: Hooks, inner: Attend) -> Attend:
    return lambda q, k, v, site: part.attend(q, k, v, site, inner)


def scales(values: Sequence[float], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Scales on the device without waiting for it: a fill instead of a copy."""
    if len(set(values)) == 1:
        return torch.full((len(values),), values[0], device=device, dtype=dtype)
    return torch.stack([torch.full((), value, device=device, dtype=dtype) for value in values])


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same values because they are the same cells, unchanged since: nothing is read."""
    if a.is_inference() or b.is_inference():  # which count no versions
        return a is b
    return (a.data_ptr(), a.shape, a.stride(), a.dtype, a._version) == (
        b.data_ptr(),
        b.shape,
        b.stride(),
        b.dtype,
        b._version,
    )


Take = Callable[[Tensor], Tensor]
"""Picks one side's entries of the row axis of any tensor of an evaluation."""


@dataclass(frozen=True)
class Call:
    """What one evaluation of the network carries to its attention layers: its rows, rows that another row answers
    for, the moment and the rules.

    `memo`, where there is one, belongs to the text of this evaluation, which is that of other evaluations too, but for
    the rows at `changing`: layers keep in it what they make of the text alone.
    """

    rows: tuple[Row, ...]
    alias: Mapping[Row, Row]
    moment: Moment
    hooks: Hooks
    memo: dict[str, tuple[Tensor, Tensor]] | None = field(default=None, compare=False, repr=False)
    changing: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @cached_property
    def _views(self) -> tuple[tuple[Side, tuple[int, ...], list[int], list[bool]], ...]:
        """The sides that have rows of their own, with what `view` says of them; all layers share it."""
        views = ((side, *self.view(side)) for side in Side)
        return tuple(view for view in views if any(view[3]))

    def sides(self) -> Iterator[tuple[Side, tuple[int, ...]]]:
        """The sides that have rows of their own, with the branches of each."""
        return ((side, branches) for side, branches, _, _ in self._views)

    def view(self, side: Side) -> tuple[tuple[int, ...], list[int], list[bool]]:
        """For one side: its branches, the index of the row that shows each, and whether that row belongs to it."""
        place = {row: i for i, row in enumerate(self.rows)}
        seen = sorted(row for row in (*self.rows, *self.alias) if row.side is side)
        index = [place[self.alias.get(row, row)] for row in seen]
        return tuple(row.branch for row in seen), index, [row not in self.alias for row in seen]

    def by_side(self, rule: Callable[[Side, tuple[int, ...], Take], Tensor]) -> Tensor:
        """Run `rule(side, branches, take)` on every side and put its rows [branch, ...] back in row order."""
        done: list[Tensor] = []
        order: list[int] = []
        for side, branches, index, owned in self._views:
            out = rule(side, branches, partial(rows_at, index=index))
            mine = [i for i, own in enumerate(owned) if own]
            done.append(out if len(mine) == len(owned) else rows_at(out, mine))
            order += [index[i] for i in mine]
        together = done[0] if len(done) == 1 else torch.cat(done)
        if order == sorted(order):  # as in every call of the loop, whose rows are sorted by side
            return together
        return torch.stack([together[order.index(row)] for row in range(len(order))])
