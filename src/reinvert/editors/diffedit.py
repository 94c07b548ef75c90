"""DiffEdit: find by itself where the two prompts disagree, and edit only there.

    M = mean over maps and channels of |e(z_j, target) - e(z_j, source)|,  z_j = signal(t) z_0 + noise(t) n_j
    mask = [ min(M, clip mean M) / (clip mean M) > threshold ],   x <- mask x + (1 - mask) z*_level   after every step

DiffEdit: Diffusion-based Semantic Image Editing with Mask Guidance, 2023, arXiv 2210.11427. Follows the paper. Differs
from diffusers' pipeline: the two predictions are compared without guidance, which cancels (2 forwards a map instead of
4); the latents are the posterior's mean; a case's threshold is its own; two equal prompts give an empty mask instead of
0 / 0; and the background has the level that the step has reached (`compat="published"`: one step noisier, and the first
inverted latent in the end).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.inversions.base import Inversion, held
from reinvert.level import Moment
from reinvert.loop import add_noise
from reinvert.noise import draws
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class DiffEdit(Editor):
    """A mask from predictions, or the user's own."""

    name: ClassVar[str] = "diffedit"
    when: ClassVar[str] = (
        "When the region should be found from the two prompts. Not where the prompts differ in everything, as in "
        "style: the mask is then everywhere or nowhere."
    )
    needs: ClassVar[str] = "a target prompt (it finds the mask, unless one is given)"
    takes_mask: ClassVar[bool] = True
    strength: float = 0.8
    """Share of the run that is rendered again; an inversion that went less deep is taken as it is."""
    mask_strength: float = 0.5
    """How far the picture is noised to find the mask, as a share of the run."""
    maps: int = 10
    """Noised pictures that are compared."""
    threshold: float = 0.5
    """Share of the clipped map above which a cell is edited."""
    clip: float = 3.0
    """The map is clipped at this many times its mean."""
    compat: Literal["correct", "published"] = "correct"
    """published: the background one step noisier than what it is joined to."""

    def __post_init__(self) -> None:
        if not (0 < self.strength <= 1 and 0 < self.mask_strength <= 1):
            raise ReinvertError("strength and mask_strength are shares above 0 and at most 1")
        if self.maps < 1 or self.clip <= 0:
            raise ReinvertError("maps is at least 1 and clip is above 0")

    def refuses(self, inversion: Inversion) -> str | None:
        if not inversion.can_begin_later and self.strength < 1:
            return "diffedit begins inside the run, but this inversion only at its start; set diffedit's strength to 1"
        return None

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        depth = min(trajectory.walked, max(1, int(self.strength * trajectory.steps)))
        trajectory = trajectory.later(trajectory.walked - depth, case.model)
        if trajectory.pulled is None and not trajectory.kept:
            # The background is the inverted path; so held, the source costs no evaluation.
            return replace(trajectory, pulled=held(1.0))
        return trajectory

    def bind(self, case: Case) -> Hooks:
        return _DiffEditHooks(self, case)


class _DiffEditHooks(Hooks):
    """`mask` is [target, case, 1, h, w], found when it is first needed."""

    def __init__(self, method: DiffEdit, case: Case) -> None:
        self.method, self.case = method, case
        self.mask = None if case.mask is None else case.mask[None].to(case.path.device)

    def blend(self, x: Tensor, moment: Moment) -> Tensor:
        if self.mask is None:
            self.mask = self.estimated_mask()
        noisier = 1 if self.method.compat == "published" else 0
        around = self.case.path[moment.steps - 1 - moment.index + noisier].to(x)
        mask = self.mask.to(x)
        return torch.cat([x[:1], mask * x[1:] + (1 - mask) * around])

    @torch.no_grad()
    def estimated_mask(self) -> Tensor:
        """Where the target's prediction differs from the source's, as 0 and 1: [target, case, 1, h, w]."""
        method, case = self.method, self.case
        model, clean = case.model, case.path[0]
        grid, steps = model.times(case.grid_steps, case.latent), case.grid_steps
        time = grid[steps - max(1, int(method.mask_strength * steps))]
        level, noises = model.level(time), islice(draws(clean, case.seed, skip=case.drawn), method.maps)
        noised = torch.stack([add_noise(clean, noise, level) for noise in noises])

        def answer(prompts: tuple[str, ...]) -> Tensor:
            text = model.encode_text(prompts).expand(method.maps, len(prompts))
            return model.answer(noised, text, time, None)

        source = answer(case.sources)
        maps = torch.stack([(answer(target) - source).abs().mean((0, 2)) for target in case.targets])[:, :, None]
        ceiling = method.clip * maps.mean((-2, -1), keepdim=True)
        return (maps.minimum(ceiling) > method.threshold * ceiling).to(clean)
