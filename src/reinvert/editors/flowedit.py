"""FlowEdit: edit without inverting, along the difference of two velocities on the freshly noised picture.

    z_s = (1 - sigma) x + sigma eps,   z_t = z + z_s - x,   z += (sigma' - sigma) [v(z_t, target) - v(z_s, source)]

FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models, 2024, arXiv 2412.08629. The mean of `n_avg`
fresh eps a step; the noisiest N - n_max steps are left out, and the last n_min are plain sampling. Differs from the
authors' code: the noise of every picture begins with the seed (theirs runs on from picture to picture); n_min works on
every model, and its steps do not evaluate the source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.level import Moment
from reinvert.loop import Predictor, State, Step, add_noise
from reinvert.noise import draws
from reinvert.steps import gap
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class FlowEdit(Editor):
    """Inversion-free editing of a flow; the source comes back exactly."""

    name: ClassVar[str] = "flowedit"
    draws_start: ClassVar[bool] = True
    needs_flow: ClassVar[bool] = True
    when: ClassVar[str] = (
        "First choice on flow models: no inversion, and as free of the picture's structure as n_max says. Not where "
        "the background must stay as it is to the pixel."
    )
    n_max: float = 0.66
    """The noisiest step that is taken, counted from the clean end: a number of steps, or below 1 a share of them
    (published: 33 of 50 on Stable Diffusion 3, 24 of 28 on FLUX)."""
    n_min: float = 0.0
    """The last steps that are plain sampling of the target: a number of steps, or below 1 a share of them."""
    n_avg: int = 1
    """Fresh draws of noise a step, whose directions are averaged."""
    source_guidance: float = 3.5
    """Guidance scale of the source (published: 3.5 on Stable Diffusion 3 beside 13.5 for the target; 1.5 beside 5.5 on
    FLUX)."""

    def __post_init__(self) -> None:
        if self.n_avg < 1:
            raise ReinvertError(f"n_avg counts draws and is at least 1, not {self.n_avg}")
        if self.n_max < 0 or not 0 <= self.n_min:
            raise ReinvertError("n_max and n_min count steps, or are shares of them; neither is below 0")

    def _counts(self, steps: int) -> tuple[int, int]:
        """(n_max, n_min) as numbers of steps."""
        most, least = (round(n * steps) if n < 1 else min(round(n), steps) for n in (self.n_max, self.n_min))
        if most < 1 or least > most:
            raise ReinvertError(
                f"of {steps} steps n_max takes {most} and n_min {least}: take at least one, and no more for n_min"
            )
        return most, least

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        model, clean = case.model, trajectory.path[0]
        most, least = self._counts(trajectory.steps)
        times = model.times(trajectory.steps, case.latent)[trajectory.steps - most :]
        drawn = draws(clean, case.seed, model.draw, case.drawn)
        # One draw a step and average, from the noisy end; one more where plain sampling begins.
        noises = [list(islice(drawn, self.n_avg)) for _ in range(most - least)]
        noises += [[next(drawn)]] if least else []
        firsts = [step[0] for step in noises] + [noises[-1][0]] * max(0, least - 1)
        path = torch.stack(
            [*(add_noise(clean, n, model.level(t)) for n, t in zip(firsts, times, strict=False)), clean][::-1]
        )
        return replace(
            trajectory,
            path=path,
            times=times,
            pulled=None,
            source_guidance=self.source_guidance,
            stepper=_step(path, [step[1:] for step in noises[: most - least]]),
        )

    def bind(self, case: Case) -> Hooks:
        return Hooks()


def _step(path: Tensor, more: list[list[Tensor]]) -> Step:
    """The step of an edit whose source walks along `path` (index 0 = clean); `more` are a step's further draws."""

    def step(state: State, predict: Predictor, moment: Moment) -> State:
        x, clean = state.x, path[0].to(state.x)
        after = path[moment.steps - 1 - moment.index].to(x)[None]
        if moment.index >= len(more):
            plain = replace(predict, live=tuple(range(1, len(x))))
            return replace(state, latents=(torch.cat([after, x[1:] + gap(moment) * plain.answer(x, moment)[1:]]),))
        z = x[1:] - x[:1] + clean
        direction = _difference(predict.answer(x, moment))
        for number, noise in enumerate(more[moment.index], 1):
            source = add_noise(clean, noise.to(x), moment.level)
            latents = torch.cat([source[None], z + source - clean])
            direction += _difference(predict.answer(latents, replace(moment, evaluation=number)))
        z = z + gap(moment) * direction / (1 + len(more[moment.index]))
        return replace(state, latents=(torch.cat([after, z + after - clean]),))

    return step


def _difference(answer: Tensor) -> Tensor:
    return answer[1:] - answer[:1]
