"""RF-Solver-Edit: a second-order solver of the flow, up and down, and the picture's attention values given back.

    x_mid = x + h/2 v(x, t),   x_next = x + h v(x_mid, t + h/2),   h = sigma_next - sigma
    v-heads of the single blocks first_layer.. in the first `inject` steps down := those of the same steps up

Taming Rectified Flow for Inversion and Editing, 2024, arXiv 2411.04746. The paper's second-order Taylor step is the
midpoint rule. Differs from the authors' code: the source is held on its inverted path, so that it comes back and costs
nothing (`strength=0` renders it again).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from reinvert.errors import ReinvertError
from reinvert.features import FEATURES, Injector, Where
from reinvert.hooks import Hooks
from reinvert.inversions.base import Inversion, Inverting, Source, check_share, climb_keeping, held
from reinvert.level import Moment
from reinvert.loop import Predictor, State, Step
from reinvert.steps import gap, midway
from reinvert.trajectory import Kept, Trajectory


def midpoint(state: State, predict: Predictor, moment: Moment) -> State:
    """x + h v(x + h/2 v(x, t), t + h/2), in either direction."""
    first = predict.answer(state.x, moment.asking(moment.t))
    return replace(state, latents=(state.x + gap(moment) * midway(predict, moment, state.x, first),))


@dataclass(frozen=True)
class RFSolver(Inversion):
    """The midpoint rule on a flow, with values injected."""

    name: ClassVar[str] = "rf_solver"
    when: ClassVar[str] = (
        "On flow models, for edits that keep the layout: more injected steps keep more of the picture. Not where "
        "forwards are dear: every step asks the network twice."
    )
    needs_flow: ClassVar[bool] = True
    can_begin_later: ClassVar[bool] = False
    inject: int = 3
    """Noisiest steps whose attention values are kept in the inversion and given to the targets (published: 2 to 5)."""
    first_layer: int = -18
    """First block that takes part, counted from 0, or from the end if below 0 (published: the last 18 of FLUX)."""
    last_layer: int = -1
    """Last block that takes part."""
    part: Literal["single", "double", "any"] = "single"
    """Which of the network's blocks these are; a network that has no single blocks takes all of its blocks for them."""
    inversion_guidance: float = 1.0
    """Guidance scale while inverting."""
    strength: float = 1.0
    """Share of the correction back to the path at the edit: 0 renders the source again by the same solver."""

    def __post_init__(self) -> None:
        if self.inject < 0:
            raise ReinvertError(f"inject counts steps from 0 on, not {self.inject}")
        check_share("strength", self.strength)

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the source is held on its path."""
        return self.strength == 1

    @property
    def where(self) -> Where:
        return Where(self.inject, self.first_layer, self.last_layer, self.part)

    def stages(self, source: Source) -> Inverting:
        path, kept = yield from climb_keeping(
            source, self.inversion_guidance, midpoint, self.where, ("v",), "RF-Solver inversion"
        )
        return self._trajectory(source, path, pulled=held(self.strength), kept=kept)

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {FEATURES: ("one", "features")} if self.inject else {}

    def step(self, trajectory: Trajectory) -> Step:
        return midpoint

    def hooks(self, trajectory: Trajectory) -> Hooks | None:
        return Injector(self.where, trajectory.kept) if self.inject else None
