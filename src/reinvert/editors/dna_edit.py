"""DNAEdit: down from aligned noise, the target's velocity mixed with the way to a picture that moves with the edit.

    v_t = v(x + s, target),   r += (sigma' - sigma) (v_t - v),   r = the picture at first
    x += (sigma' - sigma) [eta v_t + (1 - eta) (x - r) / sigma]

DNAEdit: Direct Noise Alignment for Text-Guided Rectified Flow Editing, 2025, arXiv 2506.01430. s and v are the shift
and the velocity of the same step of the inversion `dna`; r is where the difference of the velocities leads the picture
by itself, as in FlowEdit. The paper calls this mobile velocity guidance.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.inversions.base import Inversion
from reinvert.inversions.dna import SHIFTS
from reinvert.level import Moment
from reinvert.loop import Predictor, State
from reinvert.steps import gap
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class DNAEdit(Editor):
    """Mobile velocity guidance."""

    name: ClassVar[str] = "dna_edit"
    usual_inversion: ClassVar[str] = "dna"
    needs_flow: ClassVar[bool] = True
    when: ClassVar[str] = (
        "On flow models, for a quiet background at Euler's price; less ratio keeps more of the picture. Not after any "
        "inversion but dna."
    )
    ratio: float = 0.8
    """Share eta of the target's own velocity (published: 0.8 on FLUX, 0.85 on Stable Diffusion 3); 1 is plain
    guidance."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ReinvertError(f"ratio is a share between 0 and 1, not {self.ratio}")

    def refuses(self, inversion: Inversion) -> str | None:
        return (
            None if inversion.name == "dna" else "dna_edit needs the shifts that inversion dna keeps; choose that one"
        )

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        path, shifts = case.path, trajectory.kept[SHIFTS].to(case.path.device)

        def step(state: State, predict: Predictor, moment: Moment) -> State:
            x, below = state.x, moment.steps - 1 - moment.index
            before, after = path[below + 1].to(x), path[below].to(x)
            targets = replace(predict, live=tuple(range(1, len(x))))
            aim = targets.answer(x + shifts[below].to(x), moment)[1:]
            moved = state.memory[0] if state.memory else path[0].to(x).expand_as(aim)
            moved = moved + gap(moment) * aim - (after - before)
            velocity = self.ratio * aim + (1 - self.ratio) * (x[1:] - moved) / moment.level.noise
            latents = torch.cat([after[None], x[1:] + gap(moment) * velocity])
            return replace(state, latents=(latents,), memory=(moved,))

        return replace(trajectory, pulled=None, stepper=step)

    def bind(self, case: Case) -> Hooks:
        return Hooks()
