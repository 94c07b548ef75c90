"""Uni-Edit: walk down from a little noise, between source and target where they agree and past the target elsewhere.

    D = v(x, target) - v(x, source),   m = range of D's mean over the channels, 0..1
    x += (sigma' - sigma) [v(x, source) + (m + omega (1 + m)) D]

UniEdit-Flow: Unleashing Inversion and Editing in the Era of Flow Models, 2025, arXiv 2504.13109. Both prompts are asked
about the target's own latent. `difference="absolute"` is the authors' form for FLUX, with m one value a token, and
`"signed"` their form for diffusers' models, which marks where D is positive. Differs from their code: where both
prompts say the same m is 0 instead of 0 / 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.level import Moment
from reinvert.loop import Predictor, State
from reinvert.steps import gap
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class UniEdit(Editor):
    """Region-aware velocity fusion."""

    name: ClassVar[str] = "uni_edit"
    usual_inversion: ClassVar[str] = "uni_inv"
    needs_flow: ClassVar[bool] = True
    when: ClassVar[str] = (
        "On flow models after uni_inv, for the best background of the methods without a mask. Less depth of the "
        "inversion keeps more; a larger omega changes more."
    )
    omega: float = 5.0
    """How far past the target its difference to the source is followed."""
    difference: Literal["absolute", "signed"] = "absolute"
    """The sign of the difference that makes the region m."""
    source_guidance: float = 1.0
    """Guidance scale of the source's prompt."""

    def __post_init__(self) -> None:
        if self.omega < 0:
            raise ReinvertError(f"omega is at least 0, not {self.omega}")

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        path, patch = trajectory.path, case.model.patch

        def step(state: State, predict: Predictor, moment: Moment) -> State:
            x, after = state.x, path[moment.steps - 1 - moment.index].to(state.x)
            moved = [after]
            for branch in range(1, len(x)):
                pair = replace(predict, live=(0, branch), seen={})
                answer = pair.answer(x[branch].expand_as(x), moment)
                source, difference = answer[0], answer[branch] - answer[0]
                m = self._region(difference, patch)
                moved.append(x[branch] + gap(moment) * (source + (m + self.omega * (1 + m)) * difference))
            return replace(state, latents=(torch.stack(moved),))

        return replace(trajectory, pulled=None, source_guidance=self.source_guidance, stepper=step)

    def _region(self, difference: Tensor, patch: int) -> Tensor:
        """[case, 1, h, w] in 0..1 of a difference [case, channel, h, w]."""
        if self.difference == "signed":
            m = difference.mean(1, keepdim=True)
        else:
            m = difference.abs().mean(1, keepdim=True)
            if patch > 1:
                m = F.avg_pool2d(m, patch).repeat_interleave(patch, -1).repeat_interleave(patch, -2)
        low, high = (reduce((-1, -2), keepdim=True) for reduce in (m.amin, m.amax))
        spread = high - low
        return torch.where(spread > 0, (m - low) / spread.clamp(min=torch.finfo(m.dtype).tiny), 0 * m)

    def bind(self, case: Case) -> Hooks:
        return Hooks()
