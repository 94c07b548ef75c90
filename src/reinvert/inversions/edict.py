"""EDICT: two coupled latents, each moved with the noise that the other shows, so that every step can be undone exactly.

    first  <- a first + b e(second, t),  second <- a second + b e(first, t);    first, second = x, y and y, x by turns
    x <- p x + (1 - p) y,   y <- p y + (1 - p) x;      a = signal(s) / signal(t),   b = noise(s) - a noise(t)

EDICT: Exact Diffusion Inversion via Coupled Transformations, 2023, arXiv 2211.12446. The latents are float64 whatever
the network's precision is: going up multiplies x - y by 1 / p^2 a step, and what the network rounds cancels. Differs
from the authors' code: the step at time 0, an identity on its grid, asks the network nothing; beside targets the source
is not rendered but held on its two paths, which it would follow. As published, P2P reads the source's prompt on the
edited latents instead of a source of its own (`compat="published"`; with p2p's windows and self_grid at 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion, Inverting, Progress, Source
from reinvert.level import Moment
from reinvert.loop import Predictor, State, Step, walk
from reinvert.steps import coefficients, direction
from reinvert.trajectory import Kept, Trajectory, source_conditioning


@dataclass(frozen=True)
class EDICT(Inversion):
    """Exact at the guidance it was inverted with; the source keeps that scale while targets have the edit's."""

    name: ClassVar[str] = "edict"
    when: ClassVar[str] = (
        "Where the sampler itself must be invertible, with the source under guidance and no correction from outside. "
        "Not where speed or memory count: every step asks the network twice for every row."
    )
    exact: ClassVar[bool] = True
    can_begin_later: ClassVar[bool] = False
    mixing: float = 0.93
    """p: how much of itself each latent keeps when the two are mixed; 1 does not mix."""
    strength: float = 0.8
    """Share of the grid that is walked, at its clean end."""
    source_guidance: float = 3.0
    """Guidance scale of the source, up and down."""
    offset: int = 0
    """Time of the last step; the authors' grid ends at 0, the model's own at 1."""
    compat: Literal["correct", "published"] = "correct"
    """published: an attention editor reads the source's prompt on the target's own latents."""

    def __post_init__(self) -> None:
        if not 0 < self.mixing <= 1:
            raise ReinvertError(f"mixing is a share above 0 and at most 1, not {self.mixing}")
        if not 0 < self.strength <= 1:
            raise ReinvertError(f"strength is a share above 0 and at most 1, not {self.strength}")

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {"partner": ("level", "latent")}

    def stages(self, source: Source) -> Inverting:
        model, grid = source.model, source.grid(self.offset)
        times = grid[source.steps - max(1, int(self.strength * source.steps)) :]
        start = source.x0.double()[None]
        xs, ys = [start[0]], [start[0]]
        walked = walk(
            model, tuple(reversed(times)), State((start, start)), source_conditioning(model, source.prompts),
            guidance=(self.source_guidance,), step=self._up, who="EDICT inversion",
        )  # fmt: skip
        for moment, state in walked:
            xs.append(state.latents[0][0])
            ys.append(state.latents[1][0])
            yield Progress("inverting", moment.index + 1, moment.steps)
        kept = {"partner": torch.stack(ys)}
        return self._trajectory(source, torch.stack(xs), kept=kept, times=times, source_guidance=self.source_guidance)

    def begin(self, trajectory: Trajectory, branches: int, device: torch.device) -> State:
        """Both latents, for every branch."""
        if self.compat == "published" and branches > 2:
            raise ReinvertError("the published EDICT reads one target's latents; give one --target at a time")
        ends = (trajectory.path[-1], trajectory.kept["partner"][-1])
        x, y = (end.to(device, torch.float64).expand(branches, *end.shape).clone() for end in ends)
        return State((x, y))

    def step(self, trajectory: Trajectory) -> Step:
        return _Down(self, trajectory)

    def _up(self, state: State, predict: Predictor, moment: Moment) -> State:
        """Undo the step that goes down from the upper to the lower level."""
        p, (x, y) = self.mixing, state.latents
        a, b = coefficients(predict.model, moment.next_level, moment.level)
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        turned = (moment.steps - 1 - moment.index) % 2 == 1
        first, second = (y, x) if turned else (x, y)
        second = (second - b * shown(predict, first, moment, b)) / a
        first = (first - b * shown(predict, second, moment, b)) / a
        return replace(state, latents=(second, first) if turned else (first, second))


@dataclass(frozen=True)
class _Down:
    """The step; beside targets the source's rows are those of its paths."""

    method: EDICT
    trajectory: Trajectory

    def __call__(self, state: State, predict: Predictor, moment: Moment) -> State:
        p, held = self.method.mixing, len(state.x) > 1
        if held:
            # The source is evaluated only as far as a rule reads it.
            predict = replace(predict, live=tuple(b for b in predict.live if b > 0))
        a, b = coefficients(predict.model, moment.level, moment.next_level)
        turned = moment.index % 2 == 1
        first, second = reversed(state.latents) if turned else state.latents
        first = a * first + b * shown(predict, self._read(second), moment, b)
        if held:
            first = torch.cat([self._between(first, moment, turned)[None], first[1:]])
        second = a * second + b * shown(predict, self._read(first), moment, b)
        x, y = (second, first) if turned else (first, second)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        if held:
            x, y = (torch.cat([end[None], own[1:]]) for end, own in zip(self._ends(x, moment), (x, y), strict=True))
        return replace(state, latents=(x, y))

    def _ends(self, like: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Where the source's two latents are after this step, [case, channel, h, w] each."""
        index, kept = moment.steps - 1 - moment.index, self.trajectory
        return kept.path[index].to(like), kept.kept["partner"][index].to(like)

    def _between(self, like: Tensor, moment: Moment, turned: bool) -> Tensor:
        """The source's first latent in the middle of a step, which its paths do not hold but give: unmix the end."""
        p, (x, y) = self.method.mixing, self._ends(like, moment)
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        return y if turned else x

    def _read(self, x: Tensor) -> Tensor:
        """What the network is asked about; as published the source's prompt is read on the target's latents."""
        if self.method.compat == "published" and len(x) > 1:
            return torch.cat([x[1:2], x[1:]])
        return x


def shown(predict: Predictor, x: Tensor, moment: Moment, weight: float) -> Tensor:
    """The guided direction at `x`, or zeros where its weight is 0 and nobody reads it."""
    return direction(predict, x, moment) if weight != 0 else torch.zeros_like(x)
