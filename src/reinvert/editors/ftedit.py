"""FTEdit: the words that both prompts share have the source's features in every block, and the first steps its values.

    q, k, v of a kept word := those of the source's;   v of all tokens := the source's in the first steps (`values`)

Unveil Inversion and Invariance in Flow Transformer for Versatile Image Editing, 2024, arXiv 2411.15843. In every block
of two streams but the network's last, on the text side; the words are those that Prompt-to-Prompt's refinement
aligns, for CLIP's tokens and T5's apart. Its inversion is `fixed_point` of 2 `iterations` whose 3 predictions are
averaged (`average`), held by `strength` 1. The authors replace the features behind the text's adaptive norm, of which
queries, keys and values are all that is made there: the same.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.editors.attention import of_source
from reinvert.editors.base import Case, Editor
from reinvert.hooks import Attend, Hooks, Kind, Site, rows_at, sdpa
from reinvert.inversions.base import check_share
from reinvert.level import Moment
from reinvert.text import Side
from reinvert.words import mixing


@dataclass(frozen=True)
class FTEdit(Editor):
    """Invariance control by the features of kept words, and early values of the source."""

    name: ClassVar[str] = "ftedit"
    acts_on: ClassVar[tuple[Kind, ...]] = ("joint",)
    when: ClassVar[str] = (
        "On Stable Diffusion 3 and 3.5 as Prompt-to-Prompt is on a UNet: two prompts that share most of their words. "
        "More values keep more of the picture. Not for prompts with other words throughout."
    )
    words: float = 1.0
    """Share of the steps in which kept words have the source's features."""
    values: float = 0.15
    """Share of the steps, from the first on, in which all values are the source's (published: 0.15)."""

    def __post_init__(self) -> None:
        check_share("words", self.words)
        check_share("values", self.values)

    def lacks(self, model: Backbone, *, masked: bool = False) -> str | None:
        reason = super().lacks(model, masked=masked)
        return (
            reason if reason or _blocks(model) else f"{model.name} has no blocks of two streams, which ftedit acts on"
        )

    def bind(self, case: Case) -> Hooks:
        mixed = [[mixing(case.model.words, *pair, "refine") for pair in branch] for branch in case.pairs()]
        device = case.model.device
        given = torch.stack([torch.stack([mix.source for mix in branch]) for branch in mixed]).to(device)
        own = torch.stack([torch.stack([mix.own for mix in branch]) for branch in mixed]).to(device)
        steps = int(self.words * case.steps), int(self.values * case.steps)
        return _FTEditHooks(given, own, _blocks(case.model), *steps)


def _blocks(model: Backbone) -> frozenset[str]:
    """The joint attention layers of two streams, without the network's last layer."""
    layers = [layer for layer in model.layers() if not layer.name.endswith("attn2")]
    return frozenset(layer.name for layer in layers if layer.part == "double" and layer.depth < 1)


class _FTEditHooks(Hooks):
    """`given` [target, case, source token, target token] and `own` [target, case, target token] mix the tokens."""

    def __init__(self, given: Tensor, own: Tensor, layers: frozenset[str], words: int, values: int) -> None:
        self.given, self.own, self.layers, self.words, self.values = given, own, layers, words, values

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "joint" and moment.index < max(self.words, self.values)

    def reads(self, moment: Moment) -> Collection[Side]:
        return (Side.TEXT,) if self.touches("joint", moment) else ()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if site.side is not Side.TEXT or len(q) < 2 or site.layer.name not in self.layers:
            return inner(q, k, v, site)
        if site.moment.index < self.words:
            q, k, v = (self._kept_words(heads, site) for heads in (q, k, v))
        if site.moment.index < self.values:
            v = of_source(v)
        return inner(q, k, v, site)

    def _kept_words(self, heads: Tensor, site: Site) -> Tensor:
        """Heads [branch, case, head, token, dim] whose targets have the source's for the words that they kept."""
        targets = [branch - 1 for branch in site.branches[1:]]
        given, own = (rows_at(table, targets).to(heads)[:, :, None] for table in (self.given, self.own))
        text = heads[..., site.text, :]
        out = heads.clone()
        out[1:, ..., site.text, :] = given.transpose(-1, -2) @ text[:1] + own[..., None] * text[1:]
        return out
