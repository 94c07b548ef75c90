"""What the engine asks of a model family. A new family is one file that fills this protocol."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from reinvert.hooks import Call, Layer
from reinvert.level import Level, Moment, Split, Time
from reinvert.text import Text


@dataclass
class Tally:
    """Single-sample evaluations of the network so far: a batch of four rows counts as four."""

    forwards: int = 0
    backwards: int = 0

    def since(self, earlier: Tally) -> Tally:
        return Tally(self.forwards - earlier.forwards, self.backwards - earlier.backwards)

    def copy(self) -> Tally:
        return Tally(self.forwards, self.backwards)


@dataclass(frozen=True)
class Fingerprint:
    """What tells two models apart: a hash of their configuration and a few of their weights (compared loosely, so
    that the same weights in another precision still match)."""

    config: str
    probe: tuple[float, ...] = field(repr=False)

    def matches(self, other: Fingerprint) -> bool:
        if self.config != other.config or len(self.probe) != len(other.probe):
            return False
        pairs = zip(self.probe, other.probe, strict=True)
        return all(abs(a - b) <= 0.02 * max(abs(a), abs(b)) + 1e-3 for a, b in pairs)


@runtime_checkable
class Backbone(Protocol):
    """A pretrained model that the loop can walk.

    `latent` shapes are [.., channel, h, w]; images are [n, 3, H, W] float32 in [-1, 1]. The walk's arithmetic stays
    in the dtype of the latents it is given (float32 by default, float64 where a method asks for it); only the
    network runs in `dtype`.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    tally: Tally
    image_size: int
    multiple: int
    latent_shape: tuple[int, int, int]
    """Channels, height and width of the latents of a picture of the usual size."""
    schedule: str

    def times(self, steps: int, offset: int | None = None) -> tuple[Time, ...]:
        """steps + 1 times from noise to clean, ending with `level.FINAL`; `offset` shifts the grid where a method
        has its own (0: the last step stands at time 0)."""
        ...

    def level(self, time: Time) -> Level:
        """What a latent at this time is made of. A flow knows every time in its range, not only those of its grids."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """[prompt, token, dim] float32."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Scaled posterior means [n, channel, h, w], float32."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images [n, 3, H, W] float32, not yet clamped."""
        ...

    def answer(self, x: Tensor, text: Text, time: Time, call: Call | None) -> Tensor:
        """What the network predicts by nature (noise, v, velocity) for x [row, case, channel, h, w] given text [row,
        case, token, dim], told `time`; in x's shape and dtype.

        With a `call`, its rules act on the attention layers; without, the network is left alone.
        """
        ...

    def split(self, x: Tensor, answer: Tensor, moment: Moment) -> Split:
        """What the answer says `x`, standing at `moment.level`, is made of; `at(moment.level)` of it is `x` again.

        The answer may have been given at another time (`moment.ask`) or be a guided mixture of answers.
        """
        ...

    def attending(self, features: Collection[str] = ()) -> AbstractContextManager[None]:
        """While this is open, calls reach the attention layers and the modules named by `features`; afterwards the
        network is as it was, to the bit."""
        ...

    def layers(self) -> tuple[Layer, ...]: ...

    def fingerprint(self) -> Fingerprint: ...
