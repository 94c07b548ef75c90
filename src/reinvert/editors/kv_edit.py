"""KV-Edit: what is outside a mask is never generated; what is inside attends to the picture's own keys and values.

    k, v of the picture's tokens outside the mask := those that the inversion met in the same step;   x = x_k outside

KV-Edit: Training-Free Image Editing for Precise Background Preservation, 2025, arXiv 2502.17363. A token of the network
counts as inside if any of its cells is. The background comes back exactly. Differs from the authors' code, which
`compat="published"` restores: there the picture's latents in every step, and those that the edit begins from, stand one
level lower than the network is told. Every token is walked, where theirs leaves out those of the background, whose
answers nobody reads: the results agree. Keys are kept after the rotation of positions, which commutes with replacing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.features import FEATURES, Part, biased, name, tokens_inside
from reinvert.hooks import Attend, Hooks, Kind, Site, sdpa
from reinvert.inversions.base import Inversion
from reinvert.level import Moment
from reinvert.loop import Predictor, State, add_noise
from reinvert.noise import draws
from reinvert.steps import gap
from reinvert.text import Side
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class KVEdit(Editor):
    """Editing inside a mask with the background's keys and values."""

    name: ClassVar[str] = "kv_edit"
    usual_inversion: ClassVar[str] = "kv_inv"
    when: ClassVar[str] = (
        "On flow models when you have a mask and the background must stay to the bit. To remove a thing, or where its "
        "old shape shows through, set re_init, and separate of its inversion."
    )
    needs: ClassVar[str] = "a target prompt and a mask"
    needs_flow: ClassVar[bool] = True
    needs_mask: ClassVar[bool] = True
    acts_on: ClassVar[tuple[Kind, ...]] = ("joint",)
    re_init: bool = False
    """Begin inside the mask from noise that knows nothing of the picture, instead of its inverted latents."""
    background: float = 1.0
    """What is added to the logits of the background's keys (published: 1): above 0 the edit fits in with it more."""
    compat: Literal["correct", "published"] = "correct"
    """published: latents of the picture one level lower than they are taken for."""

    def refuses(self, inversion: Inversion) -> str | None:
        if FEATURES not in inversion.keeps or inversion.name != "kv_inv":
            return "kv_edit needs the keys and values of every layer, which inversion kv_inv keeps; choose that one"
        return None

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        if case.mask is None:
            raise ReinvertError("kv_edit needs a mask (--mask)")
        path, cells = case.path, case.mask.to(case.path.device) > 0
        tokens, lag = _spread(tokens_inside(cells, case.model.patch), case.model.patch), int(self.compat == "published")
        start = path[len(path) - 1 - lag]
        if self.re_init:
            level = case.model.level(trajectory.grid(case.model)[0])
            start = add_noise(path[0], next(draws(path[0], case.seed, case.model.draw, case.drawn)), level)

        def step(state: State, predict: Predictor, moment: Moment) -> State:
            stands, after = (path[moment.steps - moment.index - i].to(state.x) for i in (0, 1))
            around = after if lag else stands
            inside, whole = cells, tokens
            x = state.x[1:] if moment.index else start.to(state.x).expand_as(state.x[1:])
            x = torch.where(inside, x, around)
            moved = x + gap(moment) * predict.answer(torch.cat([stands[None], x]), moment)[1:]
            # On the way whole tokens move; the next step puts the picture around the cells again.
            moved = torch.where(inside if moment.last else whole, moved, after)
            return replace(state, latents=(torch.cat([after[None], moved]),))

        return replace(trajectory, stepper=step)

    def bind(self, case: Case) -> Hooks:
        if case.mask is None or not case.kept:  # nothing is inverted yet: the words are being checked
            return Hooks()
        cells = case.mask.to(case.path.device) > 0
        return KVHooks(tokens_inside(cells, case.model.patch).flatten(1), case.kept, self.background)


def _spread(tokens: Tensor, patch: int) -> Tensor:
    """Tokens as cells [case, 1, h, w]."""
    return tokens.repeat_interleave(patch, -1).repeat_interleave(patch, -2)


class KVHooks(Hooks):
    """`inside` [case, token] are the picture's tokens that are generated; the others' keys and values are what was
    kept, or, without that, the source's own in the same evaluation."""

    def __init__(self, inside: Tensor, kept: Mapping[str, Tensor] | None, background: float) -> None:
        self.inside, self.kept, self.background = inside, kept, background

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "joint"

    def reads(self, moment: Moment) -> Collection[Side]:
        return tuple(Side) if self.kept is None else ()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if site.kind != "joint":
            return inner(q, k, v, site)
        inside = self.inside[None, :, None, :, None]
        k, v = self._with_background("k", k, inside, site), self._with_background("v", v, inside, site)
        if self.background == 0:
            return inner(q, k, v, site)
        outside, read = torch.zeros_like(k[..., :1]), torch.full_like(q[..., :1], self.background)
        outside[..., site.picture, :] = (~inside).to(k)
        if site.branches[0] == 0:
            read[:1] = 0  # the source has its own keys
        return inner(*biased(q, k, read, outside), v, site)

    def _with_background(self, part: Part, heads: Tensor, inside: Tensor, site: Site) -> Tensor:
        if self.kept is None:
            around = heads[site.branches.index(0), ..., site.picture, :]
        else:
            around = self.kept[name(part, site.moment, site.layer)].to(heads)[0]
        out = heads.clone()
        for row, branch in enumerate(site.branches):
            if branch > 0:
                out[row, ..., site.picture, :] = torch.where(inside[0], heads[row, ..., site.picture, :], around)
        return out
