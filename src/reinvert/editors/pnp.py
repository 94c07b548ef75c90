"""Plug-and-Play: the source's features and self-attention pattern make the structure, the prompt the appearance.

    h_T = h_S                            one decoder ResNet's second convolution, for the first `features` of the run
    out_T = softmax(Q_S K_S^T) V_T       decoder self-attention but the first, for the first `attention` of the run

Plug-and-Play Diffusion Features for Text-Driven Image-to-Image Translation, 2023, arXiv 2211.12572. Both sides of the
target take the source's features; the source has an empty prompt, the target a negative prompt. As in the authors' code
the source's latents are the inverted ones: a source that no anchor holds is held on them. Differs from it: the source
is not evaluated once no injection is active. `compat="published"` is PnPInversion's row with DDIM inversion: there the
source's latents are those of a render of the inverted noise, each one step too clean for the time it is processed at,
and the target begins from one of them; with an anchored source it is the aligned form, as that row is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reinvert.editors.attention import of_source
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Hooks, Kind, Layer, Site, sdpa
from reinvert.inversions.base import held
from reinvert.level import Moment
from reinvert.text import Conditioning, Side, with_text
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class PnP(Editor):
    """Feature and attention injection."""

    name: ClassVar[str] = "pnp"
    prompts: ClassVar[tuple[str, ...]] = ("negative",)
    acts_on: ClassVar[tuple[Kind, ...]] = ("self", "cross")
    when: ClassVar[str] = (
        "For another style or material on the same structure. Not for changes of shape, pose or place: the structure "
        "is what it copies."
    )
    features: float = 0.8
    """Share of the run in which the decoder's features are the source's."""
    attention: float = 0.5
    """Share of the run in which the decoder's self-attention has the source's queries and keys."""
    negative: str = "ugly, blurry, black, low res, unrealistic"
    """Negative prompt of the targets."""
    source_conditioning: Literal["empty", "prompt"] = "empty"
    """The source row during the edit: conditioned on the empty prompt, as published, or on the source prompt."""
    layer: str = ""
    """Module whose output is the feature; empty: the second convolution of the second ResNet of the decoder's first
    block with attention."""
    compat: Literal["correct", "published"] = "correct"
    """published: with a source that no anchor holds, its latents are one step ahead of their time."""

    def __post_init__(self) -> None:
        if not (0 <= self.features <= 1 and 0 <= self.attention <= 1):
            raise ReinvertError("features and attention are shares between 0 and 1")

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        if trajectory.pulled is not None:
            return trajectory
        anchor = held(1.0)
        if self.compat == "correct":
            # A step that moves two latents (EDICT) holds the source on both of its paths itself.
            two = len(trajectory.maker.begin(trajectory, 1, trajectory.path.device).latents) > 1
            return trajectory if two else replace(trajectory, pulled=anchor)
        if trajectory.kept or trajectory.times or trajectory.null is not None:
            raise ReinvertError(f"the published Plug-and-Play row has DDIM inversion, not {trajectory.inversion}")
        # The source's guidance is 1 in that render; its latents after each step stand in for those before it.
        rendered = [state.x[0] for _, state in replace(trajectory, source_guidance=1.0).walk(case.model)]
        path = torch.stack([trajectory.path[0].to(rendered[0]), *reversed(rendered)])
        return replace(trajectory, path=path, pulled=anchor)

    def bind(self, case: Case) -> Hooks:
        steps, layers = case.steps, case.model.layers()
        chosen = self.layer or feature_of(layers)
        with case.model.attending((chosen,)):
            pass  # a module that is not there is an error now, before anything is computed
        own = [layer for layer in layers if layer.part == "up" and layer.name.endswith("attn1")]
        return _PnPHooks(
            self, case, chosen, frozenset(layer.name for layer in own[1:]), int(steps * self.features),
            int(steps * self.attention),
        )  # fmt: skip


def feature_of(layers: Sequence[Layer]) -> str:
    """The module that is injected, by the names that diffusers gives: the ResNet before the decoder's second attention
    (in Stable Diffusion up_blocks.1.resnets.1), or before its first if that block has no second."""
    names = [layer.name for layer in layers if layer.part == "up" and ".attentions." in layer.name]
    blocks = [name.split(".attentions.") for name in names]
    if not blocks:
        raise ReinvertError("this model has no attention in its decoder; name the module to inject with `layer`")
    first = blocks[0][0]
    numbers = sorted({int(rest.split(".")[0]) for block, rest in blocks if block == first})
    return f"{first}.resnets.{numbers[min(1, len(numbers) - 1)]}.conv2"


class _PnPHooks(Hooks):
    def __init__(
        self, method: PnP, case: Case, chosen: str, ruled: frozenset[str], features: int, attention: int
    ) -> None:
        self.method, self.case = method, case
        self.chosen, self.ruled, self.until_features, self.until_attention = chosen, ruled, features, attention

    def text(self, conditioning: Conditioning) -> Conditioning:
        negative = self.case.model.encode_text([self.method.negative]).expand(len(self.case.sources))
        conditioning = replace(conditioning, negative=negative)
        if self.method.source_conditioning == "prompt":
            return conditioning
        # In neither side, whatever the inversion learned for the null one; so one row answers for both.
        return with_text(replace(conditioning, null=None), 0, conditioning.empty)

    def reads(self, moment: Moment) -> Collection[Side]:
        return tuple(Side) if moment.index < max(self.until_features, self.until_attention) else ()

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "self" and moment.index < self.until_attention

    def reaches(self, site: Site) -> bool:
        acts = site.kind == "self" and site.moment.index < self.until_attention and site.layer.name in self.ruled
        return acts and len(site.branches) > 1

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if not self.reaches(site):
            return inner(q, k, v, site)
        return inner(of_source(q), of_source(k), v, site)

    def features(self) -> Collection[str]:
        return (self.chosen,)

    def feature(self, h: Tensor, name: str, side: Side, branches: Sequence[int], moment: Moment) -> Tensor:
        if name != self.chosen or moment.index >= self.until_features or len(branches) < 2:
            return h
        return h[:1].expand_as(h)
