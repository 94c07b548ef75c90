"""Null-text inversion: learn, at every step, a null embedding that keeps the guided source on the inverted path.

    phi_s = argmin_phi || D_s(zbar, e(phi) + w (e(source) - e(phi))) - z*_{N-s-1} ||^2,   zbar <- D_s(zbar, ...phi_s)

Null-text Inversion for Editing Real Images using Guided Diffusion Models, 2023, arXiv 2211.09794. As in the authors'
code: Adam anew at every step with rate 0.01 (1 - s/100), stopping below 1e-5 + 2e-5 s, both of which the paper does not
tell. Unlike it: the gradient is taken with respect to phi alone (no weight gradients), the conditional prediction is
evaluated once a step and reused after the fit, and every case of a batch stops on its own.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.inversions.base import Inversion, Inverting, Progress, Source, climb
from reinvert.level import Moment, Split
from reinvert.loop import Predictor, State, walk
from reinvert.text import Side, Text
from reinvert.trajectory import spoken


@dataclass(frozen=True)
class NullText(Inversion):
    """NTI; with `single_branch` the targets keep the plain null prompt (the ablation NT-S)."""

    name: ClassVar[str] = "null_text"
    when: ClassVar[str] = (
        "Where the null side may learn for a minute per picture and one scale is enough; the learned side also quiets "
        "the edit. Not for many pictures, nor for several guidance scales."
    )
    inner: int = 10
    """Most optimisation steps per sampling step."""
    rate: float = 0.01
    """Adam's learning rate at the first sampling step."""
    rate_decay: float = 0.01
    """The rate at step s is rate * (1 - rate_decay * s)."""
    early_stop: float = 1e-5
    """A case stops once its loss is below early_stop + early_stop_slope * s ..."""
    early_stop_slope: float = 2e-5
    """... which grows with the step index s."""
    single_branch: bool = False
    """Give the learned embedding to the source only."""

    @property
    def fits_guidance(self) -> bool:
        return True

    def stages(self, source: Source) -> Inverting:
        path = yield from climb(source)
        null, _ = yield from self.fit(source, path)
        return self._trajectory(
            source, path, null=null, null_for_targets=not self.single_branch, guidance=source.guidance
        )

    def fit(self, source: Source, path: Tensor) -> Generator[Progress, None, tuple[Tensor, Tensor]]:
        """Walk down `path` [N + 1, case, ...], learning; the generator's value is the null embeddings
        [N, case, token, dim] and the path that they lead along, shaped and ordered like `path`."""
        model, speech = source.model, spoken(source.model, source.prompts)
        fitting = _Fit(self, path, source.guidance, speech.empty.keys.clone(), len(source.prompts))
        walked = walk(
            model,
            model.times(source.steps),
            State((path[-1][None],)),
            speech,
            guidance=(source.guidance,),
            step=fitting,
            who="null-text inversion",
        )
        followed = [path[-1]]
        for moment, state in walked:
            followed.append(state.x[0])
            yield Progress("fitting", moment.index + 1, source.steps)
        return torch.stack(fitting.learned), torch.stack(followed[::-1])


@dataclass
class _Fit:
    """The `Step` that learns before it moves. `phi` is carried on as the next step's start."""

    method: NullText
    path: Tensor
    guidance: float
    phi: Tensor
    cases: int
    learned: list[Tensor] = field(default_factory=list)

    def __call__(self, state: State, predict: Predictor, moment: Moment) -> State:
        x = state.x[0]
        with torch.no_grad():
            text = predict.plain(x, predict.speech.side(Side.TEXT, 0, moment.index), moment)
        if self.guidance != 1 and self.method.inner > 0:
            self._learn(x, text, predict, moment)
        self.learned.append(self.phi.clone())
        with torch.no_grad():
            null = predict.plain(x, Text(self.phi), moment) if self.guidance != 1 else text
            noise = null + self.guidance * (text - null)
            return replace(state, latents=(Split.of(x, noise, moment.level).at(moment.next_level)[None],))

    def _learn(self, x: Tensor, text: Tensor, predict: Predictor, moment: Moment) -> None:
        s, method = moment.index, self.method
        goal = self.path[moment.steps - 1 - s]
        phis = [self.phi[i].clone().requires_grad_() for i in range(self.cases)]
        rate = method.rate * (1 - method.rate_decay * s)
        optimizers = [torch.optim.Adam([phi], lr=rate) for phi in phis]
        active = list(range(self.cases))
        for _ in range(method.inner):
            with torch.enable_grad():
                null = predict.plain(x[active], Text(torch.stack([phis[i] for i in active])), moment)
                noise = null + self.guidance * (text[active] - null)
                reached = Split.of(x[active], noise, moment.level).at(moment.next_level)
                losses = (reached - goal[active]).square().flatten(1).mean(1)
                gradients = torch.autograd.grad(losses.sum(), [phis[i] for i in active])
            predict.model.tally.backwards += len(active)
            for i, gradient in zip(active, gradients, strict=True):
                phis[i].grad = gradient
                optimizers[i].step()
            # The authors test the loss of before the step, so at least one step is always taken.
            threshold = method.early_stop + method.early_stop_slope * s
            active = [i for i, loss in zip(active, losses.tolist(), strict=True) if not loss < threshold]
            if not active:
                break
        self.phi = torch.stack([phi.detach() for phi in phis])
