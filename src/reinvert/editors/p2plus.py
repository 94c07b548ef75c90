"""P2Plus: in the null side as well, the target's self-attention is the source's.

    out = softmax(Q_S K_S^T) V_T           self-attention, null side, for the first `tau_u` of the run

StyleDiffusion: Prompt-Embedding Inversion for Text-Based Editing, 2023, arXiv 2303.15649. Joined to P2P, which does the
same in the text side: p2p+p2plus. Differs from the authors' code, which asks for the two sides one after the other to
reach the null one; here they go through the network together. Cross-attention of the null side is left alone, as there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from reinvert.editors.attention import of_source
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Hooks, Kind, Site, sdpa
from reinvert.level import Moment
from reinvert.text import Side
from reinvert.words import Share, self_window


@dataclass(frozen=True)
class P2Plus(Editor):
    """Keeps more of the structure than P2P alone, for one row more while it acts."""

    name: ClassVar[str] = "p2plus"
    acts_on: ClassVar[tuple[Kind, ...]] = ("self", "cross")
    needs_null_side: ClassVar[bool] = True
    when: ClassVar[str] = (
        "Joined to p2p where the structure still moves under guidance. Not for changes of shape, and not at guidance "
        "1, where there is no null side."
    )
    usual_with: ClassVar[tuple[str, ...]] = ("p2p",)
    needs_guidance: ClassVar[bool] = True
    tau_u: Share = 0.5
    """Share of the run in which the null side's self-attention is the source's."""
    null_grid: float = 0.5
    """Largest self-attention grid that is injected, as a fraction of the latents' side."""

    def __post_init__(self) -> None:
        if self.null_grid <= 0:
            raise ReinvertError(f"null_grid is a fraction above 0, not {self.null_grid}")

    def bind(self, case: Case) -> Hooks:
        return _P2PlusHooks(range(*self_window(case.steps, self.tau_u)), self.null_grid)


class _P2PlusHooks(Hooks):
    def __init__(self, steps: range, grid: float) -> None:
        self.steps, self.grid = steps, grid

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "self" and moment.index in self.steps

    def reads(self, moment: Moment) -> Collection[Side]:
        return (Side.NULL,) if moment.index in self.steps else ()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        acts = site.side is Side.NULL and site.kind == "self" and site.moment.index in self.steps
        if not acts or len(site.branches) < 2 or site.grid[0] > self.grid * site.latent[0]:
            return inner(q, k, v, site)
        return inner(of_source(q), of_source(k), v, site)
