"""BDIA: a sampler of two steps whose every step can be undone exactly, at the cost of DDIM.

    z_{i-1} = gamma z_{i+1} + D(z_i; i -> i-1) - gamma D(z_i; i -> i+1)          D re-mixes z_i and its noise at a level
    z_{i+1} = (z_{i-1} - D(z_i; i -> i-1)) / gamma + D(z_i; i -> i+1)                                   the same, undone

Exact Diffusion Inversion via Bi-directional Integration Approximation, 2023, arXiv 2307.10829. Follows the paper only;
no authors' code was read. Both end latents are kept, in float64 whatever the network's precision is. The first latent
on the way up is DDIM inversion's. Beside targets the source is not rendered but held on its path, which it would
follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion, Inverting, Source, climb
from reinvert.level import Moment, Split, Time
from reinvert.loop import Predictor, State, Step
from reinvert.trajectory import Kept, Trajectory


@dataclass(frozen=True)
class BDIA(Inversion):
    """Exact at the guidance it was inverted with; one evaluation a step and row."""

    name: ClassVar[str] = "bdia"
    when: ClassVar[str] = (
        "Where the sampler itself must be invertible and EDICT is too slow. Not at a high guidance of the source: the "
        "two-step rule does not damp what it amplifies."
    )
    exact: ClassVar[bool] = True
    can_begin_later: ClassVar[bool] = False
    gamma: float = 0.8
    """Weight of the step back. At 1 a target that is guided harder than its source swings from step to step; below 1
    that is damped, and what is lost to rounding grows by the inverse on the way up."""
    source_guidance: float = 1.0
    """Guidance scale of the source, up and down."""

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ReinvertError(f"gamma is a share above 0 and at most 1, not {self.gamma}")

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {"before": ("one", "latent")}

    def stages(self, source: Source) -> Inverting:
        if source.steps < 2:
            raise ReinvertError("bdia goes by two steps at once; take at least 2")
        wide = replace(source, x0=source.x0.double())
        grid = source.grid()
        path = yield from climb(wide, self.source_guidance, self._up, who="BDIA inversion")
        # The edit begins one step below the noisiest latent, which it needs as the latent before.
        return self._trajectory(
            source, path[:-1], times=grid[1:], kept={"before": path[-1:]}, source_guidance=self.source_guidance
        )

    def begin(self, trajectory: Trajectory, branches: int, device: torch.device) -> State:
        ends = (trajectory.path[-1], trajectory.kept["before"][0])
        now, before = (end.to(device, torch.float64).expand(branches, *end.shape).clone() for end in ends)
        return State((now,), (before,))

    def step(self, trajectory: Trajectory) -> Step:
        return _Down(self.gamma, trajectory)

    def _up(self, state: State, predict: Predictor, moment: Moment) -> State:
        if moment.index == 0:
            above = predict(state.x, moment).at(moment.next_level)
            return State((above,), (state.x,))
        # Up and down the network is asked about z_i at its own time, not at the upper one.
        split = predict(state.x, moment.asking(moment.t))
        below = predict.model.level(_neighbour(predict, moment, state.x))
        above = (state.memory[0] - split.at(below)) / self.gamma + split.at(moment.next_level)
        return State((above,), (state.x,))


def _neighbour(predict: Predictor, moment: Moment, latent: Tensor) -> Time:
    """The time below that of an upward moment."""
    grid = predict.model.times(moment.steps, (latent.shape[-2], latent.shape[-1]))
    return grid[moment.steps - moment.index + 1]


@dataclass(frozen=True)
class _Down:
    gamma: float
    trajectory: Trajectory

    def __call__(self, state: State, predict: Predictor, moment: Moment) -> State:
        held = len(state.x) > 1
        if held:
            predict = replace(predict, live=tuple(b for b in predict.live if b > 0))
        split: Split = predict(state.x, moment)
        # The walk's own grid leaves the noisiest time out, so this index is one step above.
        above = predict.model.level(replace(self.trajectory, times=()).grid(predict.model)[moment.index])
        x: Tensor = self.gamma * state.memory[0] + split.at(moment.next_level) - self.gamma * split.at(above)
        if held:
            x = torch.cat([self.trajectory.path[moment.steps - 1 - moment.index].to(x)[None], x[1:]])
        return State((x,), (state.x,))
