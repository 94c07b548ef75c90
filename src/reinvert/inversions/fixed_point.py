"""Fixed-point inversion: ask for the noise of the latent that is looked for, not of the one below it.

    z_{k+1} = D(z_k; e(z_{k+1}, t_{k+1})),   solved by z <- D(z_k; e(z, t_{k+1})), `iterations` times from DDIM's guess

Effective Real Image Editing with Accelerated Iterative Diffusion Inversion, 2023, arXiv 2309.04907. ReNoise: Real Image
Inversion Through Iterative Noising, 2024, arXiv 2403.14602, which takes the mean of the last predictions. Follows the
papers only; no authors' code was read, and neither the acceleration of the first nor the regularisation of the second
is here. What is solved is the sampler's own step, so at the same guidance it leads back as far as the iteration
converged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion, Inverting, Source, climb, held
from reinvert.level import Moment
from reinvert.loop import Predictor, State
from reinvert.steps import along, direction


@dataclass(frozen=True)
class FixedPoint(Inversion):
    """A better DDIM inversion, for the price of its iterations."""

    name: ClassVar[str] = "fixed_point"
    when: ClassVar[str] = (
        "With few steps, where DDIM inversion's error per step is large, or to invert under guidance. Not where the "
        "edit's guidance differs from the inversion's and the picture must come back: join it to direct's anchor by "
        "strength 1 then."
    )
    iterations: int = 5
    """Evaluations per step beyond DDIM inversion's one; 0 is DDIM inversion."""
    average: int = 1
    """How many of the last predictions are averaged in the end (ReNoise); 1 takes the last alone."""
    inversion_guidance: float = 1.0
    """Guidance scale while inverting; iterations converge best near 1."""
    strength: float = 0.0
    """Share of the correction back to the path at the edit: 0 lets the source walk freely, 1 is direct inversion."""

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ReinvertError(f"iterations is a count from 0 on, not {self.iterations}")
        if not 1 <= self.average <= self.iterations + 1:
            raise ReinvertError(
                f"average is at least 1 and at most iterations + 1 ({self.iterations + 1}), not {self.average}"
            )
        if not 0 <= self.strength <= 1:
            raise ReinvertError(f"strength is a share between 0 and 1, not {self.strength}")

    def stages(self, source: Source) -> Inverting:
        path = yield from climb(source, self.inversion_guidance, self._up, who="fixed-point inversion")
        pulled = held(self.strength)
        return self._trajectory(source, path, pulled=pulled)

    def _up(self, state: State, predict: Predictor, moment: Moment) -> State:
        x, guess = state.x, state.x
        recent: list[Tensor] = []
        for _ in range(self.iterations + 1):
            recent = [*recent, direction(predict, guess, moment)][-self.average :]
            guess = along(predict.model, x, recent[-1], moment)
        mean = torch.stack(recent).mean(0) if self.average > 1 else recent[-1]
        return replace(state, latents=(along(predict.model, x, mean, moment),))
