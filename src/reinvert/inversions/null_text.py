"""Null-text inversion: learn, at every step, a null embedding that keeps the guided source on the inverted path.

    phi_s = argmin_phi || D_s(zbar, e(phi) + w (e(source) - e(phi))) - z*_{N-s-1} ||^2,   zbar <- D_s(zbar, ...phi_s)

Null-text Inversion for Editing Real Images using Guided Diffusion Models, 2023, arXiv 2211.09794. As in the authors'
code: Adam anew at every step with rate 0.01 (1 - s/100), stopping below 1e-5 + 2e-5 s, both of which the paper does not
tell. Unlike it: the gradient is taken with respect to phi alone (no weight gradients), the conditional prediction is
evaluated once a step and reused after the fit, and every case of a batch stops on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.backbones.base import Tally
from reinvert.inversions.base import Inversion, Inverting, Progress, Source, climb
from reinvert.level import Moment
from reinvert.loop import Predictor, State, walk
from reinvert.text import Side, Text, combine, rows_at
from reinvert.trajectory import source_conditioning

LIFT = 2.0**14
"""What a loss is multiplied by while its gradient is taken; a power of two, so exact in single precision."""


@dataclass(frozen=True)
class NullText(Inversion):
    """NTI; with `single_branch` the targets keep the plain null prompt (the ablation NT-S)."""

    name: ClassVar[str] = "null_text"
    takes_gradients: ClassVar[bool] = True
    needs_null_side: ClassVar[bool] = True
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

    def fit(
        self, source: Source, path: Tensor, side: Side = Side.NULL
    ) -> Generator[Progress, None, tuple[Text, Tensor]]:
        """Walk down `path` [N + 1, case, ...], learning; the generator's value is the embeddings [N, case] of
        the null side (or of the source's text side) and the path they lead along, shaped and ordered like `path`."""
        model, conditioning = source.model, source_conditioning(source.model, source.prompts)
        fitting = _Fit(self, path, source.guidance, conditioning.side(side, 0, 0).map(Tensor.clone), side)
        walked = walk(
            model,
            source.grid(),
            State((path[-1][None],)),
            conditioning,
            guidance=(source.guidance,),
            step=fitting,
            who="null-text inversion" if side is Side.NULL else "text-embedding inversion",
        )
        followed = [path[-1]]
        for moment, state in walked:
            followed.append(state.x[0])
            yield Progress("fitting", moment.index + 1, source.steps)
        return combine(torch.stack, fitting.learned), torch.stack(followed[::-1])


@dataclass
class _Fit:
    """The `Step` that learns before it moves. `phi` [case], the embedding in `side`, is carried on as the next step's
    start; its tokens learn, a pooled vector stays as it is."""

    method: NullText
    path: Tensor
    guidance: float
    phi: Text
    side: Side
    learned: list[Text] = field(default_factory=list[Text])

    def __call__(self, state: State, predict: Predictor, moment: Moment) -> State:
        x, heard = state.x[0], self.guidance if self.side is Side.TEXT else 1 - self.guidance
        with torch.no_grad():
            # The side that is not learned; at some scales only one of the two is heard.
            known = None
            if heard != 1:
                known = predict.plain(x, predict.conditioning.side(Side(1 - self.side), 0, moment.index), moment)
        if heard != 0 and self.method.inner > 0:
            self._learn(x, known, predict, moment)
        self.learned.append(self.phi)
        with torch.no_grad():
            answer = known if heard == 0 else predict.plain(x, self.phi, moment)
            assert answer is not None
            split = predict.model.split(x, self._guided(answer, known), moment)
            return replace(state, latents=(split.at(moment.next_level)[None],))

    def _guided(self, learned: Tensor, known: Tensor | None) -> Tensor:
        if known is None:
            return learned
        null, text = (known, learned) if self.side is Side.TEXT else (learned, known)
        return null + self.guidance * (text - null)

    def _learn(self, x: Tensor, known: Tensor | None, predict: Predictor, moment: Moment) -> None:
        s, method = moment.index, self.method
        goal = self.path[moment.steps - 1 - s]
        phis = [phi.clone().requires_grad_() for phi in self.phi.tokens]

        def losses(active: list[int]) -> Tensor:
            said = replace(self.phi.at(active), tokens=torch.stack([phis[i] for i in active]))
            answer = self._guided(
                predict.plain(rows_at(x, active), said, moment), None if known is None else rows_at(known, active)
            )
            reached = predict.model.split(rows_at(x, active), answer, moment).at(moment.next_level)
            return (reached - rows_at(goal, active)).square().flatten(1).mean(1)

        descend(
            [[phi] for phi in phis],
            losses,
            most=method.inner,
            rate=method.rate * (1 - method.rate_decay * s),
            enough=method.early_stop + method.early_stop_slope * s,
            tally=predict.model.tally,
        )
        self.phi = replace(self.phi, tokens=torch.stack([phi.detach() for phi in phis]))


def descend(
    parameters: Sequence[Sequence[Tensor]],
    losses: Callable[[list[int]], Tensor],
    *,
    most: int,
    rate: float,
    enough: float,
    tally: Tally,
) -> None:
    """Let every case of a batch learn its own parameters (leaves, one list per case), in place, by Adam.

    `losses` tells the loss of each of the cases it is given, by a batch of one network row per case. A case stops after
    `most` steps, or after the first whose loss was below `enough`: the authors test the loss of before the step, so at
    least one is always taken.
    """
    optimizers = [torch.optim.Adam(list(own), lr=rate) for own in parameters]
    active = list(range(len(parameters)))
    for _ in range(most):
        with torch.enable_grad():
            now = losses(active)
            wanted = [parameter for i in active for parameter in parameters[i]]
            # A network in half precision loses the gradient of a mean to underflow (nearly all of it, measured).
            gradients = iter(torch.autograd.grad(now.sum() * LIFT, wanted))
        tally.backwards += len(active)
        for i in active:
            for parameter in parameters[i]:
                parameter.grad = next(gradients) / LIFT
            optimizers[i].step()
        active = [i for i, loss in zip(active, now.tolist(), strict=True) if not loss < enough]
        if not active:
            break


__all__ = ["NullText", "descend"]
