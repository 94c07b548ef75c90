"""RF-Inversion: the flow's way up, steered towards given noise, and its way down, steered towards the picture.

    up    x += (sigma_i - sigma_{i+1}) [v + gamma ((y_1 - x) / (1 - t_i) - v)],   v = v(x, t_i, ""),  t_i = i / (N + 1)
    down  x += (sigma_i - sigma_{i+1}) [u + eta_i ((x_0 - x) / sigma_i - u)],     u = -v(x, sigma_i, target)

Semantic Image Inversion and Editing using Rectified Stochastic Differential Equations, 2024, arXiv 2410.10792. y_1 is
noise drawn from the seed. The published way up tells the network times that are neither its latent's level nor on its
grid (`times="level"`: the sampler's own grid, the network told where the latent stands). Differs from the authors'
code: the source row is held on the straight line from the picture to its inverted noise and costs nothing
(`strength=0` renders it, steered as the targets are). Of the two forms of the paper this is the deterministic one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion, Inverting, Source, check_share, climb, held
from reinvert.level import Moment
from reinvert.loop import Predictor, State, Step, add_noise
from reinvert.steps import gap
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class RFInversion(Inversion):
    """Controlled ordinary differential equations in both directions."""

    name: ClassVar[str] = "rf_inversion"
    when: ClassVar[str] = (
        "On flow models, for style and free edits that only lean on the picture: eta and stop say how much. Not where "
        "the background must stay as it is."
    )
    needs: ClassVar[str] = "no source prompt"
    needs_flow: ClassVar[bool] = True
    can_begin_later: ClassVar[bool] = False
    gamma: float = 0.5
    """How much the way up is steered towards given noise; 1 forgets the network."""
    eta: float = 0.9
    """How much the way down is steered towards the picture; 1 at every step gives the picture back."""
    start: float = 0.0
    """Share of the steps down after which the steering begins."""
    stop: float = 0.25
    """Share of the steps down after which the steering ends."""
    decay: bool = False
    """Let eta fall with the steps, as (1 - i / N) ** power."""
    power: float = 1.0
    """How fast eta falls, with decay."""
    times: Literal["published", "level"] = "published"
    """The times of the way up: the authors', or those at which its latents stand."""
    inversion_guidance: float = 0.0
    """Guidance scale while inverting, with the empty prompt."""
    strength: float = 1.0
    """Share of the correction of the source back to its line at the edit: 0 renders it."""

    def __post_init__(self) -> None:
        for name in ("gamma", "eta", "start", "stop", "strength"):
            check_share(name, getattr(self, name))
        if self.start > self.stop:
            raise ReinvertError(f"start ({self.start:g}) must not come after stop ({self.stop:g})")

    @property
    def exact(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the source is held on its line."""
        return self.strength == 1

    def stages(self, source: Source) -> Inverting:
        model, x0 = source.model, source.x0
        given = next(source.draws())
        grid = down = source.grid()
        noisiest = float(down[0])
        if self.times == "published":
            # Its steps are as long as those of the way down, in the same order: small ones first under a shift.
            grid = tuple(noisiest - time for time in reversed(grid))

        def up(state: State, predict: Predictor, moment: Moment) -> State:
            asked = noisiest * moment.index / (moment.steps + 1) if self.times == "published" else moment.t
            velocity = predict.answer(state.x, moment.asking(asked))
            wanted = (given[None] - state.x) / (1 - asked / noisiest)
            return replace(state, latents=(state.x + gap(moment) * (velocity + self.gamma * (wanted - velocity)),))

        silent = replace(source, prompts=("",) * len(source.prompts))
        path = yield from climb(silent, self.inversion_guidance, up, grid, who="RF-Inversion")
        levels = [model.level(time) for time in reversed(down)]
        line = torch.stack([add_noise(x0, path[-1], level) for level in levels])
        return self._trajectory(source, line, pulled=held(self.strength))

    def step(self, trajectory: Trajectory) -> Step:
        picture = trajectory.path[0]

        def down(state: State, predict: Predictor, moment: Moment) -> State:
            velocity = predict.answer(state.x, moment)
            wanted = (state.x - picture.to(state.x)) / moment.level.noise
            velocity = velocity + self._eta(moment) * (wanted - velocity)
            return replace(state, latents=(state.x + gap(moment) * velocity,))

        return down

    def _eta(self, moment: Moment) -> float:
        steps, i = moment.steps, moment.index
        if not int(self.start * steps) <= i < min(int(self.stop * steps), steps):
            return 0.0
        return self.eta * (1 - i / steps) ** self.power if self.decay else self.eta
