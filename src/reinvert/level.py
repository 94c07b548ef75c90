"""Levels, splits and time grids: what a noisy latent is made of, and where on the way it stands.

    x = signal * clean + noise * eps

Every deterministic step of every model family re-mixes the same pair at another level (Denoising Diffusion Implicit
Models, 2021, arXiv 2010.02502). The pair form needs no division, so a level with no signal at all is not special.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

FINAL = -1
"""The time after the last timestep: the clean end of every grid."""


class Level(NamedTuple):
    """How much clean signal and how much noise a latent holds; for diffusion models signal^2 + noise^2 = 1."""

    signal: float
    noise: float


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
        """The split of `x`, standing at `level`, whose noise part is known."""
        return cls((x - level.noise * noise) / level.signal, noise)


@dataclass(frozen=True)
class Moment:
    """One step of a walk: its index, the times it leaves (`t`) and reaches (`s`), and their levels.

    `index` counts from the start of the walk (0 = first step executed); `steps` is the walk's length.
    """

    index: int
    steps: int
    t: int
    s: int
    level: Level
    next_level: Level

    @property
    def ask(self) -> int:
        """The timestep the network is asked at: the noisier end, in both directions (the field's convention)."""
        return max(self.t, self.s)

    @property
    def last(self) -> bool:
        return self.index == self.steps - 1
