"""Regularised DDIM inversion (Pix2Pix-Zero): keep the predicted noise like noise while climbing.

    e <- e - (lambda_ac / rolls) grad L_ac(e)   `rolls` times,   e <- e - lambda_kl grad L_kl(e);   all `outer` times
    L_ac = sum over channels and scales of mean(e roll_y(e))^2 + mean(e roll_x(e))^2,   L_kl = v + m^2 - 1 - ln v

Zero-shot Image-to-Image Translation, 2023, arXiv 2302.03027. m and v are mean and variance over a whole latent. Differs
from the authors' code: the levels are those of DDIM inversion (diffusers' version agrees), and the rolls come from a
seeded generator per case. `compat="published"` asks at the lower latent's own timestep and ends at the last training
timestep, as PnPInversion runs it. With `strength` the source is held on the path, as in direct inversion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion, Inverting, Source, climb
from reinvert.level import Moment, Split, Time
from reinvert.loop import Predictor, State

SMALLEST = 8
"""Cells a side of the coarsest scale, as published."""


@dataclass(frozen=True)
class Regularised(Inversion):
    """The inversion of Pix2Pix-Zero, which any editor can use."""

    name: ClassVar[str] = "regularised"
    when: ClassVar[str] = (
        "As the partner of pix2pix_zero, or where inverted noise is visibly not noise. Not where the reconstruction "
        "matters most: regularising moves the noise away from the one that leads back, so set strength 1 then."
    )
    lambda_ac: float = 20.0
    """Weight of the autocorrelation loss."""
    lambda_kl: float = 20.0
    """Weight of the distance from a standard normal distribution."""
    outer: int = 5
    """Times that both are applied at every step; 0 is plain DDIM inversion."""
    rolls: int = 5
    """Random shifts at which the autocorrelation is looked at, each time."""
    inversion_guidance: float = 1.0
    """Guidance scale while inverting."""
    strength: float = 0.0
    """Share of the correction back to the path at the edit: 0 lets the source walk freely, 1 is direct inversion."""
    carry: Literal["none", "source"] = "none"
    """Whether the targets share that correction, as they do in the published direct-inversion row."""
    compat: Literal["correct", "published"] = "correct"
    """published: the levels of PnPInversion's program."""

    def __post_init__(self) -> None:
        if self.outer < 0 or self.rolls < 0:
            raise ReinvertError("outer and rolls are counts, from 0 on")
        if not 0 <= self.strength <= 1:
            raise ReinvertError(f"strength is a share between 0 and 1, not {self.strength}")

    def stages(self, source: Source) -> Inverting:
        up = _Up(self, [torch.Generator().manual_seed(source.seed) for _ in source.prompts])
        times = self._published_times(source) if self.compat == "published" else ()
        path = yield from climb(
            source, self.inversion_guidance, up.published if times else up.aligned, times, "regularised inversion"
        )
        pulled = None
        if self.strength > 0:
            pulled = {"strength": self.strength, "every": 1, "carry": self.carry}
        # The published path is rendered on the model's own grid, whose levels it misses by up to one stride.
        return self._trajectory(source, path, pulled=pulled)

    @staticmethod
    def _published_times(source: Source) -> tuple[Time, ...]:
        """From noise to clean: the lower level of every published step is one below the time it is asked at."""
        grid = [time for time in source.grid()[:-1] if isinstance(time, int)]
        if len(grid) < source.steps:
            raise ReinvertError("the published levels are those of whole timesteps, which a flow does not have")
        if len(grid) < 2:
            raise ReinvertError("the published levels need at least 2 steps")
        stride = grid[0] - grid[1]
        lower = [time - 1 for time in grid]
        return (min(lower[0] + stride, stride * len(grid) - 1), *lower)


@dataclass(frozen=True)
class _Up:
    """Steps up, with one generator of shifts per case."""

    method: Regularised
    generators: list[torch.Generator]

    def aligned(self, state: State, predict: Predictor, moment: Moment) -> State:
        return self._moved(state, predict, moment, moment)

    def published(self, state: State, predict: Predictor, moment: Moment) -> State:
        # The timestep is one above the lower level's time.
        return self._moved(state, predict, moment, moment.asking(moment.t + 1))

    def _moved(self, state: State, predict: Predictor, moment: Moment, asked: Moment) -> State:
        noise = predict(state.x, asked).noise
        regular = torch.stack(
            [self.regular(e, generator) for e, generator in zip(noise[0], self.generators, strict=True)]
        )[None]
        return replace(state, latents=(Split.of(state.x, regular, moment.level).at(moment.next_level),))

    def regular(self, e: Tensor, generator: torch.Generator) -> Tensor:
        """One case's noise [channel, h, w], moved towards white."""
        method = self.method
        for _ in range(method.outer):
            for _ in range(method.rolls):
                e = e - method.lambda_ac / method.rolls * _gradient(e, lambda e: autocorrelation(e, generator))
            e = e - method.lambda_kl * _gradient(e, divergence)
        return e


def _gradient(e: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.enable_grad():
        leaf = e.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]


def autocorrelation(e: Tensor, generator: torch.Generator | None) -> Tensor:
    """L_ac of noise [channel, h, w]; without a generator the shift is 0, which the published draw may give too."""
    total = e.new_zeros(())
    for channel in e:
        for scale in _pyramid(channel):
            half = scale.shape[-1] // 2
            shift = 0 if generator is None else int(torch.randint(half, (1,), generator=generator))
            for axis in (0, 1):
                total = total + (scale * scale.roll(shift, axis)).mean().square()
    return total


def divergence(e: Tensor) -> Tensor:
    """L_kl: the distance of all values' mean and (unbiased) variance from 0 and 1."""
    mean, variance = e.mean(), e.var()
    return variance + mean.square() - 1 - torch.log(variance + 1e-7)


def _pyramid(channel: Tensor) -> Iterator[Tensor]:
    """The channel, and its halvings by 2 x 2 means down to SMALLEST cells a side."""
    yield channel
    while min(channel.shape) >= 2 * SMALLEST:
        channel = F.avg_pool2d(channel[None, None], 2)[0, 0]
        yield channel


__all__ = ["Regularised", "autocorrelation", "divergence"]
