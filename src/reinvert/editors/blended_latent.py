"""Blended latent diffusion: render the target prompt inside a mask, and put the noised picture around it at every step.

    x <- m D(x, target) + (1 - m) (signal(s) z_0 + noise(s) n_s),   n_s fresh at every step;   z_0 itself at the end

Blended Latent Diffusion, 2023, arXiv 2206.02779, without its decoder optimisation and its shrinking of thin masks.
Differs from the authors' code, which `compat="published"` restores: there the walk begins from pure noise that is
declared to stand at the first time of the walk; the background is one step noisier than what it is joined to; it still
holds noise in the end; and the grid ends at time 0. There the mask's cells are the pixels in their middle
(`mask_cells="nearest"`). Here the picture outside the mask comes back as the VAE renders it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reinvert.editors.base import Case, Editor, cells
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.inversions.base import held
from reinvert.level import Moment
from reinvert.loop import add_noise
from reinvert.noise import draws
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class BlendedLatent(Editor):
    """BLD: needs a mask and no inversion; the source prompt is not used."""

    name: ClassVar[str] = "blended_latent"
    when: ClassVar[str] = (
        "When you have a mask and what is in it may be redrawn from nothing. Not to alter a thing while keeping it: "
        "the source inside the mask is not looked at."
    )
    needs: ClassVar[str] = "a target prompt and a mask"
    draws_start: ClassVar[bool] = True
    needs_mask: ClassVar[bool] = True
    skip: float = 0.25
    """Share of the run that is skipped at its noisy end."""
    compat: Literal["correct", "published"] = "correct"
    """published: the start, the background's level and the grid of the authors' code."""
    mask_cells: Literal["any", "nearest"] = "any"
    """any: a cell of the latents is redrawn if any of its pixels is in the mask. nearest: if the pixel in its middle
    is (as published)."""

    def __post_init__(self) -> None:
        if not 0 <= self.skip < 1:
            raise ReinvertError(f"skip is a share from 0 on and below 1, not {self.skip}")

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        model, clean = case.model, trajectory.path[0]
        published = self.compat == "published"
        grid = model.times(trajectory.steps, case.latent, 0 if published else None)
        times = grid[int(self.skip * trajectory.steps) :]
        noise = draws(clean, case.seed, skip=case.drawn)
        first = next(noise)
        start = first if published else add_noise(clean, first, model.level(times[0]))
        # What surrounds the edit after each step: at the level that is left, or rightly at the one that is reached.
        levels = [model.level(time) for time in (times[:-1] if published else times[1:-1])]
        around = [add_noise(clean, n, level) for level, n in zip(levels, noise, strict=False)]
        around += [] if published else [clean]
        pulled = held(1.0)
        return replace(trajectory, path=torch.stack([*reversed(around), start]), times=times, pulled=pulled)

    def bind(self, case: Case) -> Hooks:
        if case.mask is None:
            # Bound to be checked only; `pairs` has seen to it that there will be a mask.
            return Hooks()
        pixels = case.mask if case.pixels is None else case.pixels
        return _BlendHooks(cells(pixels, case.latent, self.mask_cells).to(case.model.device))


class _BlendHooks(Hooks):
    """`mask` is [case, 1, h, w]; the source's row is what surrounds the edit."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def blend(self, x: Tensor, moment: Moment) -> Tensor:
        mask = self.mask.to(x)
        return torch.cat([x[:1], mask * x[1:] + (1 - mask) * x[:1]])
