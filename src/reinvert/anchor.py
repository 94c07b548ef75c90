"""Anchors: where the source must be after a step, and what of that correction the targets share.

    shift = strength * (path - x_source);  x_source += shift;  x_target += carry * shift

Direct inversion is strength 1, carry 0 on the inverted latents (PnP Inversion: Boosting Diffusion-based Editing with 3
Lines of Code, 2024, arXiv 2310.01506); its ablations are the other arguments. The authors compute the same shift in
a pass of its own and add it; overwriting is the same algorithm without that pass, exact in any precision.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from reinvert.hooks import Hooks
from reinvert.level import Moment
from reinvert.loop import Predictor, State, Step

Carry = Literal["none", "source", "target"]


@dataclass(frozen=True)
class Anchor:
    """Pulls the source towards `path` [level, case, channel, h, w] (index 0 = clean, N = noisiest) after a step.

    Only every `every`-th step (0, every, 2 every, ...) is corrected. `carry` says what the targets share: "none";
    "source", the source's shift; "target", the shift of a shadow that says the target prompt on the source's
    path, without attention rules (needs strength 1).
    """

    path: Tensor
    strength: float = 1.0
    every: int = 1
    carry: Carry = "none"

    def acts(self, moment: Moment) -> bool:
        return self.strength > 0 and moment.index % self.every == 0

    def live(self, branches: tuple[int, ...], moment: Moment) -> tuple[int, ...]:
        """The branches whose own prediction is still needed: the source's is not if it is wholly overwritten and
        nobody shares its shift."""
        overwritten = self.acts(moment) and self.strength == 1 and self.carry != "source"
        return tuple(b for b in branches if b > 0 or not overwritten)

    def pull(self, before: State, after: State, predict: Predictor, step: Step, moment: Moment) -> State:
        """Correct the state after a step; `before`, `predict` and `step` are only used for a target shadow."""
        if not self.acts(moment):
            return after
        where = self.path[moment.steps - 1 - moment.index].to(after.x)
        shift = self.strength * (where - after.x[0])
        latents: list[Tensor] = []
        shadow = self._shadow_shift(before, predict, where, moment) if self.carry == "target" else None
        for x in after.latents:
            source = where if self.strength == 1 else x[0] + shift
            targets = x[1:] + shift if self.carry == "source" else x[1:] + shadow if shadow is not None else x[1:]
            latents.append(torch.cat([source[None], targets]))
        return replace(after, latents=tuple(latents))

    def _shadow_shift(self, before: State, predict: Predictor, where: Tensor, moment: Moment) -> Tensor:
        """path - D(source, guided by each target's prompt): [target, case, channel, h, w]."""
        x = before.x[:1].expand_as(before.x)
        targets = tuple(range(1, len(x)))
        plain = replace(predict, hooks=Hooks(), live=targets)
        return where - plain(x, moment).at(moment.next_level)[1:]
