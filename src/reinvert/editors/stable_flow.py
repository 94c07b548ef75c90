"""Stable Flow: the picture's keys and values in the few blocks of a flow transformer that matter most.

    out_target = softmax(q_target [k_target^text, k_source^picture]^T) [v_target^text, v_source^picture]

Stable Flow: Vital Layers for Training-Free Image Editing, 2024, arXiv 2411.14430. The vital blocks are FLUX.1-dev's, as
published; another model's must be measured anew. Differs from the authors' code: the source is held on the right levels
of its inverted path (theirs is two levels off), by direct inversion; latents are not scaled by 1.15 before.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Hooks, Kind, Site, sdpa
from reinvert.level import Moment
from reinvert.text import Side


@dataclass(frozen=True)
class StableFlow(Editor):
    """Attention to the source's picture in vital blocks."""

    name: ClassVar[str] = "stable_flow"
    acts_on: ClassVar[tuple[Kind, ...]] = ("joint",)
    when: ClassVar[str] = (
        "On FLUX, for edits that keep the scene but move or add something. Not on other models without measuring their "
        "vital blocks."
    )
    double: str = "0,1,17,18"
    """Vital blocks with two streams, by number."""
    single: str = "6,9,34,35,37"
    """Vital blocks with one stream, by number."""

    def blocks(self) -> dict[str, frozenset[int]]:
        """The numbers by part of the network."""
        try:
            numbers = {
                part: frozenset(int(n) for n in text.split(",") if n.strip())
                for part, text in (("double", self.double), ("single", self.single))
            }
        except ValueError as error:
            raise ReinvertError('blocks are numbers, as in "0,1,17"') from error
        if not any(numbers.values()):
            raise ReinvertError("name at least one block")
        return numbers

    def __post_init__(self) -> None:
        self.blocks()

    def lacks(self, model: Backbone, *, masked: bool = False) -> str | None:
        blocks = self.blocks()
        reason = super().lacks(model, masked=masked)
        if reason is None and not any(layer.index in blocks.get(layer.part, ()) for layer in model.layers()):
            return f"{model.name} has none of stable_flow's blocks; set double and single to vital blocks of its own"
        return reason

    def bind(self, case: Case) -> Hooks:
        return _StableFlowHooks(self.blocks())


class _StableFlowHooks(Hooks):
    def __init__(self, blocks: dict[str, frozenset[int]]) -> None:
        self.blocks = blocks

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "joint"

    def reads(self, moment: Moment) -> Collection[Side]:
        return tuple(Side)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if site.kind != "joint" or site.layer.index not in self.blocks.get(site.layer.part, ()) or len(q) < 2:
            return inner(q, k, v, site)
        return inner(q, _with_source(k, site.picture), _with_source(v, site.picture), site)


def _with_source(heads: Tensor, picture: slice) -> Tensor:
    """Heads [branch, case, head, token, dim] where every branch has the first one's picture tokens."""
    out = heads.clone()
    out[1:, ..., picture, :] = heads[:1, ..., picture, :]
    return out
