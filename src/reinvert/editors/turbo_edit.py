"""TurboEdit: edit-friendly editing in three or four steps, on a picture that is noised less than the network is told.

    x_t = the picture noised to t - shift,   z = x_s - mu(x_t, source),   k = min(1, max_norm / |z|) in the last step
    y_s = k x_s + [mu(y_t, source) - k mu(x_t, source)] + w [mu(y_t, target) - mu(y_t, source)]

TurboEdit: Text-Based Image Editing Using Few-Step Diffusion Models, 2024, arXiv 2408.00735. mu is the posterior's mean.
The times lie evenly from `first` to `last` (799, 499, 199 in three steps), and what is noised below time 0 is the
picture itself. w takes the place of guidance, which is left out. For models of few steps, as SDXL Turbo. Differs from
the authors' code: every picture of a batch has its own norm |z|, and every case a generator of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.level import FINAL, Level, Moment
from reinvert.loop import Predictor, State, Step, add_noise
from reinvert.noise import draws
from reinvert.steps import posterior_mean
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class TurboEdit(Editor):
    """Shifted noise maps with pseudo-guidance; 3 forwards a step."""

    name: ClassVar[str] = "turbo_edit"
    draws_start: ClassVar[bool] = True
    when: ClassVar[str] = (
        "On models of few steps (SDXL Turbo, 512 pixels), with 3 or 4 of them: an edit in 9 forwards. Not on models "
        "that need 20 steps and more."
    )
    w: float = 1.5
    """How far the difference of the prompts is followed; 1 is edit-friendly editing."""
    first: float = 0.8
    """Where the edit begins, as a share of the training's times."""
    last: float = 0.2
    """Where its last step begins."""
    shift: float = 0.2
    """How much less the picture is noised than the network is told, as a share of the training's times."""
    max_norm: float = 15.5
    """The largest norm of what the last step adds to its mean, which is else scaled down to it; 0 never does."""

    def __post_init__(self) -> None:
        if not 0 < self.last <= self.first <= 1:
            raise ReinvertError("last and first are shares of the times above 0, and last is the smaller one")
        if not 0 <= self.shift < 1:
            raise ReinvertError(f"shift is a share from 0 on and below 1, not {self.shift}")
        if self.max_norm < 0:
            raise ReinvertError(f"max_norm is at least 0, not {self.max_norm}")

    def lacks(self, model: Backbone, *, masked: bool = False) -> str | None:
        if model.flow:
            return f"{self.name} steps along a diffusion model's posterior, and {model.name} is a flow; take flowedit"
        return super().lacks(model, masked=masked)

    def times(self, steps: int, count: int) -> list[int]:
        """The times that the network is told, of `count` times of its training."""
        gap = (self.first - self.last) * count / max(1, steps - 1)
        return [round(self.first * count) - 1 - round(i * gap) for i in range(steps)]

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        model, clean = case.model, case.path[0]
        count = int(json.loads(model.schedule)["num_train_timesteps"])
        told = self.times(trajectory.steps, count)
        if told[-1] < 0 or len(set(told)) < len(told):
            raise ReinvertError(f"{self.name} takes few steps, of which {trajectory.steps} are too many here")
        noised = [time - round(self.shift * count) for time in told]
        drawn = draws(clean, case.seed, model.draw, case.drawn)
        latents = [add_noise(clean, next(drawn), model.level(time)) if time > 0 else clean for time in noised]
        path = torch.stack([*latents, clean][::-1])
        return replace(trajectory, path=path, times=(*told, FINAL), pulled=None, stepper=self._step(path))

    def _step(self, path: Tensor) -> Step:
        def step(state: State, predict: Predictor, moment: Moment) -> State:
            x, after = state.x, path[moment.steps - 1 - moment.index].to(state.x)
            # The last step reaches the picture itself, whatever level the model's grids end at.
            toward = replace(moment, next_level=Level(1.0, 0.0)) if moment.last else moment
            alone = replace(predict, guidance=(1.0,) * len(x))  # each prompt by itself
            mean = posterior_mean(alone(x, moment), toward)
            size = (after - mean[0]).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            k = (self.max_norm / size).clamp(max=1) if moment.last and self.max_norm else torch.ones_like(size)
            moved = [after]
            for branch in range(1, len(x)):
                belief = replace(alone, live=(0,), seen={})(x[branch].expand_as(x), moment)
                source = posterior_mean(belief, toward)[0]
                moved.append(k * after + (source - k * mean[0]) + self.w * (mean[branch] - source))
            return replace(state, latents=(torch.stack(moved),))

        return step

    def bind(self, case: Case) -> Hooks:
        return Hooks()
