"""FireFlow: the midpoint rule at one evaluation a step, up and down, and the picture's attention values given back.

    q = v(x, t) once;  every step:  x_mid = x + h/2 q,  q = v(x_mid, t + h/2),  x_next = x + h q

Fast Inversion of Rectified Flow for Image Semantic Editing, 2024, arXiv 2412.07517. The last midpoint's velocity
stands in for the velocity at the step's own beginning. Injection as in `rf_solver`; the very first evaluation of an
edit meets no feature, since no inversion asks for it there. Differs from the authors' code: the source is held on its
inverted path (`strength=0` renders it again); q and k are kept after the rotation of positions, which commutes with
replacing and adding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

from reinvert.errors import ReinvertError
from reinvert.features import FEATURES, PARTS, Injector, Part, Where
from reinvert.hooks import Hooks
from reinvert.inversions.base import Inversion, Inverting, Source, check_share, climb_keeping, held
from reinvert.level import Moment
from reinvert.loop import Predictor, State, Step
from reinvert.steps import gap, midway
from reinvert.trajectory import Kept, Trajectory


def carried_midpoint(state: State, predict: Predictor, moment: Moment) -> State:
    """The midpoint rule that begins with the velocity of the last midpoint."""
    first = state.memory[0] if state.memory else predict.answer(state.x, moment.asking(moment.t))
    velocity = midway(predict, moment, state.x, first)
    return replace(state, latents=(state.x + gap(moment) * velocity,), memory=(velocity,))


@dataclass(frozen=True)
class FireFlow(Inversion):
    """A second-order solver for the price of Euler's."""

    name: ClassVar[str] = "fireflow"
    when: ClassVar[str] = (
        "First choice on flow models that are to be inverted: 8 steps, guidance 2. More steps or more injected ones "
        "where too much changes; strategy add_q where too little does."
    )
    needs_flow: ClassVar[bool] = True
    can_begin_later: ClassVar[bool] = False
    inject: int = 1
    """Noisiest steps whose features are kept in the inversion and given to the targets."""
    first_layer: int = -18
    """First block that takes part, counted from 0, or from the end if below 0 (published: the last 18 of FLUX)."""
    last_layer: int = -1
    """Last block that takes part."""
    part: Literal["single", "double", "any"] = "single"
    """Which of the network's blocks these are; a network that has no single blocks takes all of its blocks for them."""
    strategy: str = "replace_v"
    """What is done with the features, several joined by +: replace_q, replace_k, replace_v, add_q, add_k, add_v."""
    scale: float = 1.0
    """What the features are multiplied by."""
    inversion_guidance: float = 1.0
    """Guidance scale while inverting."""
    strength: float = 1.0
    """Share of the correction back to the path at the edit: 0 renders the source again by the same solver."""

    def __post_init__(self) -> None:
        if self.inject < 0:
            raise ReinvertError(f"inject counts steps from 0 on, not {self.inject}")
        check_share("strength", self.strength)
        _ = self._parts("replace"), self._parts("add")

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the source is held on its path."""
        return self.strength == 1

    @property
    def where(self) -> Where:
        return Where(self.inject, self.first_layer, self.last_layer, self.part)

    def _parts(self, deed: str) -> tuple[Part, ...]:
        words = [word.strip() for word in self.strategy.split("+")]
        known = {f"{d}_{part}" for d in ("replace", "add") for part in PARTS}
        if not set(words) <= known:
            raise ReinvertError(f"strategy is one of {', '.join(sorted(known))}, or several joined by +")
        return tuple(cast(Part, word[-1]) for word in words if word.startswith(deed))

    def stages(self, source: Source) -> Inverting:
        parts = self._parts("replace") + self._parts("add")
        path, kept = yield from climb_keeping(
            source, self.inversion_guidance, carried_midpoint, self.where, parts, "FireFlow inversion"
        )
        return self._trajectory(source, path, pulled=held(self.strength), kept=kept)

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {FEATURES: ("one", "features")} if self.inject else {}

    def step(self, trajectory: Trajectory) -> Step:
        return carried_midpoint

    def hooks(self, trajectory: Trajectory) -> Hooks | None:
        if not self.inject:
            return None
        return Injector(self.where, trajectory.kept, self._parts("replace"), self._parts("add"), self.scale)
