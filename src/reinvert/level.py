"""Levels, splits and time grids: what a noisy latent is made of, and where on the way it stands.

    x = signal * clean + noise * eps

Every deterministic step of every model family re-mixes the same pair at another level (Denoising Diffusion Implicit
Models, 2021, arXiv 2010.02502). The pair form needs no division, so a level with no signal at all is not special: only
noise that is given by itself says nothing there (`Split.of`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from reinvert.errors import ReinvertError

Time = int | float
"""Where on the way from the picture (0) to noise (the number of training timesteps, usually 1000) a latent stands.
Diffusion models have whole numbers; a flow, whose level is `(1 - t / 1000, t / 1000)`, any."""

FINAL = -1
"""The time after a diffusion model's last timestep, the clean end of its grids. A flow's grids end at 0."""


class Level(NamedTuple):
    """How much clean signal and how much noise a latent holds; for diffusion models signal^2 + noise^2 = 1."""

    signal: float
    noise: float


def require_signal(level: Level) -> None:
    """Refuse a level at which noise does not tell what is clean, for methods that reckon in noise."""
    if level.signal == 0:
        raise ReinvertError(
            "at the noisiest level of this model the noise does not tell what is clean; begin below it (with a smaller "
            "share of the run), or choose a method that does not reckon in noise"
        )


@dataclass(frozen=True)
class Split:
    """What the model believes a latent is made of; both tensors have the latent's shape."""

    clean: Tensor
    noise: Tensor

    def at(self, level: Level) -> Tensor:
        """The same belief mixed at another level."""
        return level.signal * self.clean + level.noise * self.noise

    @classmethod
    def of(cls, x: Tensor, noise: Tensor, level: Level) -> Split:
        """The split of `x`, standing at `level`, whose noise part is known. Raises `ReinvertError` where `x` holds no
        signal: there it is all noise, whatever is clean."""
        require_signal(level)
        return cls((x - level.noise * noise) / level.signal, noise)


@dataclass(frozen=True)
class Moment:
    """One step of a walk: its index, the times it leaves (`t`) and reaches (`s`), and their levels.

    `index` counts from the start of the walk (0 = first step executed); `steps` is the walk's length. A step that asks
    the network elsewhere than by default, or several times, says so by `asking`.
    """

    index: int
    steps: int
    t: Time
    s: Time
    level: Level
    """Where the latents that the network is asked about stand."""
    next_level: Level
    asked: Time | None = None
    """The time the network is told, if it is not the noisier end."""
    evaluation: int = 0
    """Which of the step's evaluations this is: 0, 1, ..."""

    @property
    def ask(self) -> Time:
        """The time the network is told: unless the step says otherwise the noisier end, in both directions (the
        convention of diffusion models)."""
        return max(self.t, self.s) if self.asked is None else self.asked

    @property
    def last(self) -> bool:
        return self.index == self.steps - 1

    def asking(self, time: Time, level: Level | None = None, evaluation: int = 0) -> Moment:
        """The same step where the network is told `time`, about latents at `level` (by default where they stood)."""
        return replace(self, asked=time, level=self.level if level is None else level, evaluation=evaluation)
