"""KV-Edit without an inversion: FlowEdit inside a mask, beside the keys and values of the freshly noised picture.

    q = (1 - sigma) x + sigma eps,   p = z + q - x,   k, v of the target's tokens outside the mask := the source's
    z += (sigma' - sigma) [v(p, target) - v(q, source)] inside the mask,   z = x outside

KV-Edit: Training-Free Image Editing for Precise Background Preservation, 2025, arXiv 2502.17363 (`Flux_kv_edit_inf`).
Nothing is kept: source and target are asked together. The background comes back exactly. Differs from the authors'
code, which `compat="published"` restores: there the generator is seeded anew in every step, so that all steps have the
same eps; and every token is walked here, where theirs leaves out those of the background, which nobody reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import repeat
from typing import ClassVar, Literal

import torch

from reinvert.editors.base import Case, Editor
from reinvert.editors.kv_edit import KVHooks
from reinvert.errors import ReinvertError
from reinvert.features import Separated, tokens_inside
from reinvert.hooks import Chain, Hooks, Kind
from reinvert.inversions.base import check_depth
from reinvert.level import Moment
from reinvert.loop import Predictor, State, add_noise
from reinvert.noise import draws
from reinvert.steps import gap
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class KVEditInf(Editor):
    """Inversion-free editing inside a mask with the background's keys and values."""

    name: ClassVar[str] = "kv_edit_inf"
    draws_start: ClassVar[bool] = True
    when: ClassVar[str] = (
        "As kv_edit where its memory is too much: nothing is kept. Not to edit one picture many times, which kv_edit "
        "does with one inversion."
    )
    needs: ClassVar[str] = "a target prompt and a mask"
    needs_flow: ClassVar[bool] = True
    needs_mask: ClassVar[bool] = True
    acts_on: ClassVar[tuple[Kind, ...]] = ("joint",)
    depth: float = 0.86
    """Share of the grid that is walked, from the clean end (published: 24 of 28 steps)."""
    source_guidance: float = 1.5
    """Guidance scale of the source's prompt."""
    background: float = 1.0
    """What is added to the logits of the background's keys (published: 1): above 0 the edit fits in with it more."""
    separate: bool = False
    """Let what is inside the mask and what is outside not see each other in the source."""
    compat: Literal["correct", "published"] = "correct"
    """published: the same noise in every step."""

    def __post_init__(self) -> None:
        check_depth(self.depth)

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        if case.mask is None:
            raise ReinvertError("kv_edit_inf needs a mask (--mask)")
        model, clean, cells = case.model, case.path[0], case.mask.to(case.path.device) > 0
        steps = max(1, int(self.depth * trajectory.steps))
        times = model.times(trajectory.steps, case.latent)[trajectory.steps - steps :]
        drawn = draws(clean, case.seed, model.draw, case.drawn)
        noises = repeat(next(drawn)) if self.compat == "published" else drawn
        noised = [add_noise(clean, n, model.level(t)) for n, t in zip(noises, times[:-1], strict=False)]
        path = torch.stack([*noised, clean][::-1])

        def step(state: State, predict: Predictor, moment: Moment) -> State:
            x, before = state.x, path[0].to(state.x)
            after = path[moment.steps - 1 - moment.index].to(x)
            z = state.memory[0] if state.memory else before.expand_as(x[1:])
            answer = predict.answer(x, moment)
            z = torch.where(cells, z + gap(moment) * (answer[1:] - answer[:1]), before)
            moved = torch.where(cells, after + (z - before), after)
            return replace(state, latents=(torch.cat([after[None], moved]),), memory=(z,))

        return replace(
            trajectory, path=path, times=times, pulled=None, source_guidance=self.source_guidance, stepper=step
        )

    def bind(self, case: Case) -> Hooks:
        if case.mask is None:  # the words are being checked
            return Hooks()
        inside = tokens_inside(case.mask.to(case.path.device) > 0, case.model.patch).flatten(1)
        hooks = KVHooks(inside, None, self.background)
        return Chain([Separated(inside), hooks]) if self.separate else hooks
