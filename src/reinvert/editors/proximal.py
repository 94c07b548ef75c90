"""Proximal guidance: small differences between the two sides of guidance are taken for noise and dropped.

    d = e_text - e_null,  lam = quantile(|d|, q),  d' = sign(d) max(|d| - lam, 0),  e = e_null + w d'
    x_{t-1} <- x_{t-1} - eta (x_{t-1} - z*) outside the dilated region [|d'| > lam]              inversion guidance

ProxEdit: Improving Tuning-Free Real Image Editing with Proximal Guidance, 2024, arXiv 2306.05414. The authors' code
calls the soft threshold above "l0", which the paper means to be hard; its "l1" shrinks what is left once more (and is
not monotone). Its reconstruction guidance pulls the clean latents that a step believes in, eps as it was:

    x_{t-1} <- x_{t-1} - signal recon_lr (clean - z_0)        outside the same region

In the published PnPInversion runs the inversion guidance was requested but never took effect; `inversion_guidance=0` is
that, and 1 the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks, Look, Nudged
from reinvert.inversions.base import Inversion
from reinvert.level import Moment
from reinvert.precision import wide


@dataclass(frozen=True)
class Proximal(Editor):
    """A rule of guidance; compose it with an editor of attention, e.g. p2p+proximal."""

    name: ClassVar[str] = "proximal"
    needs_null_side: ClassVar[bool] = True
    when: ClassVar[str] = (
        "Joined to p2p to keep backgrounds quiet without naming a region. Not for subtle edits: small differences are "
        "what it drops."
    )
    usual_with: ClassVar[tuple[str, ...]] = ("p2p",)
    rule: Literal["soft", "hard", "l1"] = "soft"
    """soft: shrink by the threshold (what the published code runs as "l0"); hard: keep or drop (the paper's L0); l1:
    the published code's other rule, which shrinks twice."""
    quantile: float = 0.75
    """Share of the differences that is dropped, over all branches of a case; below 0, minus the threshold itself."""
    inversion_guidance: float = 0.0
    """eta: how far what lies outside the region is pulled to the inverted path; 0 as published, 1 as in the paper."""
    until: int = 400
    """Inversion guidance acts at timesteps below this."""
    recon_lr: float = 0.0
    """Reconstruction guidance: how far the clean latents of a step are pulled to the picture's outside the region."""
    recon_t: int = 400
    """Reconstruction guidance acts at timesteps below this; below 0, at those above its size."""
    dilate: int = 1
    """Cells by which the region grows."""

    def __post_init__(self) -> None:
        if self.quantile > 1:
            raise ReinvertError(f"quantile is at most 1, not {self.quantile}")
        if self.dilate < 0 or not 0 <= self.inversion_guidance <= 1:
            raise ReinvertError("dilate counts cells from 0 on, and inversion_guidance is a share between 0 and 1")
        if not 0 <= self.recon_lr <= 1:
            raise ReinvertError(f"recon_lr is a share between 0 and 1, not {self.recon_lr}")

    def refuses(self, inversion: Inversion) -> str | None:
        if self.recon_lr and inversion.name in ("edict", "bdia"):
            return f"reconstruction guidance needs one latent a step, and {inversion.name} has two; set recon_lr to 0"
        return None

    def bind(self, case: Case) -> Hooks:
        return _ProximalHooks(self, case.model, case.path.to(case.model.device))


class _ProximalHooks(Hooks):
    def __init__(self, method: Proximal, model: Backbone, path: Tensor) -> None:
        self.method, self.model, self.path = method, model, path
        self.before: Tensor | None = None
        """The latents that the step began from."""
        self.answer: Tensor | None = None
        """The guided answer to them, and below where it counts, both [branch, case, channel, h, w] of live branches."""
        self.region: Tensor | None = None

    def nudge(self, x: Tensor, look: Look, moment: Moment) -> Nudged:
        self.before = x
        return x

    def guide(self, null: Tensor, text: Tensor, scale: Tensor, moment: Moment) -> Tensor:
        d = text - null
        lam = self._threshold(d)
        kept = shrunken(d, lam, self.method.rule)
        # The published region is where the shrunken difference still exceeds the threshold, per element and channel.
        self.region = self._dilated((kept.abs() > lam).to(d))
        self.answer = null + scale * kept
        return self.answer

    def _threshold(self, d: Tensor) -> Tensor:
        """[1, case, 1, 1, 1], from all branches of a case together."""
        if self.method.quantile <= 0:
            return d.new_full((1, d.shape[1], 1, 1, 1), -self.method.quantile)
        per_case = wide(d.abs().transpose(0, 1).flatten(1))
        return per_case.quantile(self.method.quantile, dim=1).to(d).view(1, -1, 1, 1, 1)

    def _dilated(self, region: Tensor) -> Tensor:
        r = self.method.dilate
        flat = region.flatten(0, 1)
        return F.max_pool2d(flat, 2 * r + 1, 1, r).view_as(region) if r else region

    def blend(self, x: Tensor, moment: Moment) -> Tensor:
        if self.region is None:
            return x
        # A source that an anchor overwrites has no prediction of its own; it already is where it is pulled to.
        first = len(x) - len(self.region)
        moved = x[first:]
        if self.method.recon_lr and self._reconstructs(moment):
            assert self.before is not None
            assert self.answer is not None
            clean = self.model.split(self.before[first:], self.answer, moment).clean
            apart = (clean - self.path[0].to(x)) * (1 - self.region)
            moved = moved - moment.next_level.signal * self.method.recon_lr * apart
        if self.method.inversion_guidance and moment.t < self.method.until:
            where = self.path[moment.steps - 1 - moment.index].to(x)
            moved = moved - self.method.inversion_guidance * (moved - where) * (1 - self.region)
        return torch.cat([x[:first], moved])

    def _reconstructs(self, moment: Moment) -> bool:
        limit = self.method.recon_t
        return moment.t < limit if limit > 0 else limit < 0 and moment.t > -limit


def shrunken(d: Tensor, lam: Tensor, rule: str) -> Tensor:
    """The differences that are left of `d`."""
    if rule == "hard":
        return d * (d.abs() > lam)
    soft = d.sign() * (d.abs() - lam).clamp(min=0)
    if rule == "soft":
        return soft
    once = torch.where(soft > 0, soft - lam, soft)
    return torch.where(once < 0, once + lam, once)  # also what the line above moved below zero
