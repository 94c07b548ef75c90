"""Uni-Inv: Euler's way up, corrected in every step by the velocity at its upper end, at one evaluation a step.

    q = v(x, 0) once;  every step:  x' = x + h q,  q = v(x', t_next),  x_next = x + h q

UniEdit-Flow: Unleashing Inversion and Editing in the Era of Flow Models, 2025, arXiv 2504.13109. It is one iteration of
the equation that the sampler's own step inverts, begun with the last velocity. It says nothing while it climbs, and
climbs the clean `depth` of the grid only. Its editor is `uni_edit`. Differs from the authors' diffusers code: pictures
are encoded as the model's VAE wants them (theirs adds the shift that it should take away); the source is held on its
path (`strength=0` lets it walk).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from reinvert.inversions.base import Inversion, Inverting, Source, check_depth, check_share, climb, grid_to, held
from reinvert.level import Moment
from reinvert.loop import Predictor, State
from reinvert.steps import gap


@dataclass(frozen=True)
class UniInv(Inversion):
    """A predictor-corrector of the flow."""

    name: ClassVar[str] = "uni_inv"
    when: ClassVar[str] = (
        "On flow models, with uni_edit or plain guidance: it leads back as well as a second-order solver for half the "
        "price. Not to begin from pure noise: at depth 1 the last steps are the worst."
    )
    needs_flow: ClassVar[bool] = True
    depth: float = 0.6
    """Share of the grid that is climbed, from the clean end (alpha in the paper: 0.6 to 0.8); an edit begins there."""
    rounding: Literal["down", "nearest"] = "down"
    """How depth becomes a number of steps: as the authors' diffusers code does it, or as their FLUX code (nearest)."""
    prompt: Literal["empty", "source"] = "empty"
    """What the network is conditioned on while inverting: the empty prompt, as published, or the source's."""
    zero_init: bool = False
    """Begin with no velocity instead of the network's at the picture; saves one evaluation."""
    inversion_guidance: float = 1.0
    """Guidance scale while inverting."""
    strength: float = 1.0
    """Share of the correction back to the path at the edit: 0 lets the source walk freely."""

    def __post_init__(self) -> None:
        check_depth(self.depth)
        check_share("strength", self.strength)

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the source is held on its path."""
        return self.strength == 1

    def stages(self, source: Source) -> Inverting:
        times = grid_to(source, self.depth, self.rounding)
        silent = replace(source, prompts=("",) * len(source.prompts)) if self.prompt == "empty" else source
        path = yield from climb(silent, self.inversion_guidance, self._up, times, who="Uni-Inv")
        return self._trajectory(source, path, pulled=held(self.strength), times=times)

    def _up(self, state: State, predict: Predictor, moment: Moment) -> State:
        if state.memory:
            velocity = state.memory[0]
        elif self.zero_init:
            velocity = torch.zeros_like(state.x)
        else:
            velocity = predict.answer(state.x, moment.asking(moment.t))
        h = gap(moment)
        upper = moment.asking(moment.s, moment.next_level, evaluation=1)
        velocity = predict.answer(state.x + h * velocity, upper)
        return replace(state, latents=(state.x + h * velocity,), memory=(velocity,))
