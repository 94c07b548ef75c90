"""FlowAlign: FlowEdit without a scale of its own for the source, and with a pull towards the source's clean picture.

    q = (1 - sigma) x + sigma eps,   p = z + q - x,   v_q = v(q, source)
    v_p = v(p, source) + w [v(p, target) - v(p, source)]
    z += (sigma' - sigma) (v_p - v_q) + zeta [(q - sigma v_q) - (p - sigma v_p)]

FlowAlign: Trajectory-Regularized, Inversion-Free Flow-based Image Editing, 2025, arXiv 2505.23145. The source's prompt
stands where the null prompt does in guidance, so that w is the edit's guidance scale; every step of the grid is taken,
with a fresh eps. Differs from the authors' code, which is for Stable Diffusion 3: the noise of every picture begins
with the seed; on a model without a null side, which is told a scale, v_p is v(p, target) at that scale and v_q is told
`source_guidance`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.level import Moment
from reinvert.loop import Predictor, State, add_noise
from reinvert.noise import draws
from reinvert.steps import gap
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class FlowAlign(Editor):
    """Inversion-free editing of a flow that keeps more of the source; 3 forwards a step."""

    name: ClassVar[str] = "flowalign"
    draws_start: ClassVar[bool] = True
    needs_flow: ClassVar[bool] = True
    when: ClassVar[str] = (
        "On flow models in place of flowedit where the background must stay: no inversion, and 3 forwards a step for "
        "its 4. Not for changes of the whole picture, against which the pull to the source works."
    )
    zeta: float = 0.01
    """Share of the way to the source's clean picture that every step goes; more keeps more (published: 0.01)."""
    source_guidance: float = 1.0
    """Scale that a model without a null side is told for the source; other models have none for it."""

    def __post_init__(self) -> None:
        if not 0 <= self.zeta <= 1:
            raise ReinvertError(f"zeta is a share between 0 and 1, not {self.zeta}")

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        model, clean = case.model, case.path[0]
        times = model.times(trajectory.steps, case.latent)
        noised = [
            add_noise(clean, noise, model.level(time))
            for noise, time in zip(draws(clean, case.seed, model.draw, case.drawn), times[:-1], strict=False)
        ]
        path = torch.stack([*noised, clean][::-1])

        def step(state: State, predict: Predictor, moment: Moment) -> State:
            x, before = state.x, path[0].to(state.x)
            after = path[moment.steps - 1 - moment.index].to(x)
            aims = self._aims(x, predict, moment)
            v_q, v_p = aims[:1], aims[1:]
            sigma, q, p = moment.level.noise, x[:1], x[1:]
            z = p - q + before
            z = z + gap(moment) * (v_p - v_q) + self.zeta * ((q - sigma * v_q) - (p - sigma * v_p))
            return replace(state, latents=(torch.cat([after[None], z + after - before]),))

        return replace(
            trajectory, path=path, times=times, pulled=None, source_guidance=self.source_guidance, stepper=step
        )

    @staticmethod
    def _aims(x: Tensor, predict: Predictor, moment: Moment) -> Tensor:
        """[v_q, v_p of every target], [branch, case, channel, h, w]."""
        if not predict.model.null_side:
            return predict.answer(x, moment)
        alone = replace(predict, guidance=(1.0,) * len(x))  # each prompt by itself
        aims = alone.answer(x, moment)
        for branch in range(1, len(x)):
            said = replace(alone, live=(0,), seen={}).answer(x[branch].expand_as(x), moment)[0]
            aims[branch] = said + predict.guidance[branch] * (aims[branch] - said)
        return aims

    def bind(self, case: Case) -> Hooks:
        return Hooks()
