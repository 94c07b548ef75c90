"""SDEdit: noise the picture part of the way and render it again to the target prompt.

    x = signal(t_0) z_0 + noise(t_0) n,   t_0 = the (N - int(strength N))-th time,   then plain guidance

SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations, 2022, arXiv 2108.01073, in its latent
form (image to image). Differs from diffusers' pipeline: the latents are the posterior's mean, not a sample. The source
is held on the noised picture, so that editors which read the source's attention can be joined to it (p2p+sdedit).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.inversions.base import held
from reinvert.loop import add_noise
from reinvert.noise import draws
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class SDEdit(Editor):
    """Trades the change against what is kept by one number."""

    name: ClassVar[str] = "sdedit"
    when: ClassVar[str] = (
        "For a quick restyling without an inversion. Not where detail must stay: what is kept and what is changed "
        "hang on one number."
    )
    draws_start: ClassVar[bool] = True
    strength: float = 0.8
    """Share of the run that is rendered again; 0 keeps the picture, 1 begins almost from pure noise."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ReinvertError(f"strength is a share between 0 and 1, not {self.strength}")

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        model, clean = case.model, trajectory.path[0]
        times = model.times(trajectory.steps, case.latent)[trajectory.steps - int(self.strength * trajectory.steps) :]
        noise = next(draws(clean, case.seed, skip=case.drawn))
        noised = [add_noise(clean, noise, model.level(time)) for time in reversed(times[:-1])]
        # An anchored source is not evaluated unless a joined editor reads it.
        pulled = held(1.0)
        return replace(trajectory, path=torch.stack([clean, *noised]), times=times, pulled=pulled)

    def bind(self, case: Case) -> Hooks:
        return Hooks()
