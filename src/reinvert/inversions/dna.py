"""Direct noise alignment: Euler's way up a flow, asked where the picture is noised, with the noise put right each step.

    y = x + h / (1 - sigma) (n - x),   v = v(y, sigma'),   x' = x + h v,   n -= (1 - sigma) [(y - x) / h - v]

DNAEdit: Direct Noise Alignment for Text-Guided Rectified Flow Editing, 2025, arXiv 2506.01430. y lies on the line from
x to a noise n that is drawn once; s = y - x' is kept for every step, and an edit asks at x + s, so that the source's
own prompt finds the same velocities and comes back exactly. Its editor is `dna_edit`. Differs from the authors' code:
what it asks of the target on the way up and never reads is left out, and at guidance 1 one side is evaluated, not two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.inversions.base import Inversion, Inverting, Source, check_depth, climb, grid_to, held
from reinvert.level import Moment
from reinvert.loop import Predictor, State, Step
from reinvert.steps import gap
from reinvert.trajectory import Kept, Trajectory

SHIFTS = "shifts"


@dataclass(frozen=True)
class DNA(Inversion):
    """Direct noise alignment, 1 forward a step."""

    name: ClassVar[str] = "dna"
    when: ClassVar[str] = (
        "On flow models, for dna_edit; with plain guidance for edits that may leave the layout. Not without a seed to "
        "choose: the noise that it begins from is drawn."
    )
    needs_flow: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    can_begin_later: ClassVar[bool] = False
    depth: float = 0.86
    """Share of the grid that is climbed, from the clean end (published: 24 of 28 steps on FLUX, 27 of 40 on Stable
    Diffusion 3.5); an edit begins there."""
    inversion_guidance: float = 1.0
    """Guidance scale while inverting."""

    def __post_init__(self) -> None:
        check_depth(self.depth)

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {SHIFTS: ("step", "latent")}

    def stages(self, source: Source) -> Inverting:
        times, shifts, drawn = grid_to(source, self.depth), list[Tensor](), next(source.draws())

        def up(state: State, predict: Predictor, moment: Moment) -> State:
            x, h, room = state.x, gap(moment), 1 - moment.level.noise
            noise = state.memory[0] if state.memory else drawn[None]
            ahead = x + h / room * (noise - x)
            velocity = predict.answer(ahead, moment.asking(moment.s, moment.next_level))
            after = x + h * velocity
            shifts.append((ahead - after)[0])
            return replace(state, latents=(after,), memory=(noise - room * ((ahead - x) / h - velocity),))

        path = yield from climb(source, self.inversion_guidance, up, times, who="direct noise alignment")
        return self._trajectory(source, path, pulled=held(1.0), times=times, kept={SHIFTS: torch.stack(shifts)})

    def step(self, trajectory: Trajectory) -> Step:
        shifts = trajectory.kept[SHIFTS]

        def down(state: State, predict: Predictor, moment: Moment) -> State:
            shift = shifts[moment.steps - 1 - moment.index].to(state.x)
            return replace(state, latents=(state.x + gap(moment) * predict.answer(state.x + shift, moment),))

        return down
