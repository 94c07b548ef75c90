"""What the engine asks of a model, and what a model family is.

A new family is one file in this package (or in one of your own, with an entry point in `reinvert.backbones`) that fills
`Backbone` and ends in one constant, `FAMILY`. The laws of `tests/contract` run on its tiny model.

A backbone answers with what its network predicts by nature (noise, v, a velocity) and splits latents by such answers;
guidance, editors and learning act on answers, and no method divides by a signal that may not be there. Latents are
never packed outside a backbone, and what its network wants beside them and the text (sizes, positions) it knows itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from reinvert.backbones.lock import ModelLock
from reinvert.hooks import Call, Kind, Layer
from reinvert.level import Level, Moment, Split, Time
from reinvert.models import Usual
from reinvert.text import Text
from reinvert.words import Words


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


@dataclass(frozen=True)
class Looks:
    """What the pictures of a small world look like, as limits (see `reinvert.likeness`)."""

    psnr: float
    """dB that the model's VAE keeps of them at least."""
    least_even: float
    most_even: float
    """Share of neighbouring pixels that hardly differ."""
    most_grey: float
    """Share of grey pixels."""
    most_foreign: float
    """Share of the plain areas that has none of the colours."""
    colors: tuple[tuple[int, int, int], ...] = field(repr=False)
    """Red, green and blue, 0..255, of their plain areas."""


@dataclass(frozen=True)
class World:
    """What a model that was trained on a small world of its own says about it (`reinvert.json` in its folder)."""

    words: frozenset[str] = frozenset()
    """The words that it was trained with, in small letters; none if it does not say."""
    looks: Looks | None = None


@runtime_checkable
class Backbone(Protocol):
    """A pretrained model that the loop can walk.

    `latent` shapes are [.., channel, h, w]; images are [n, 3, H, W] in [-1, 1]. Latents, texts and images are float32,
    or float64 where `dtype` is (`precision.around`); the walk's arithmetic stays in the dtype of the latents it is
    given (float64 too where a method asks for it), and only the network runs in `dtype`.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    words: Words
    """Where the words of a prompt lie among its tokens."""
    tally: Tally
    lock: ModelLock
    """Held by the thread that works on the model."""
    additions: Mapping[str, Any]
    """Records of what was added to its weights when it was loaded: "lora", a list of files, and "vae"; and of
    how it is kept in memory: "offload", "weights", "tiled_vae"."""
    image_size: int
    """Usual height and width of a picture, in pixels."""
    multiple: int
    """Height and width of a picture are multiples of this."""
    latent_shape: tuple[int, int, int]
    """Channels, height and width of the latents of a picture of the usual size."""
    factor: int
    """Pixels a side of one cell of the latents."""
    schedule: str
    """What decides the levels and grids; two models that share it can share trajectories."""
    usual: Usual
    world: World | None
    """Of a model that knows only a small world; None for one that may be asked for anything."""
    null_side: bool
    """Whether guidance mixes two sides. Not so for guidance-distilled models, which are told a scale, or have none."""
    flow: bool
    """Whether the way from the picture to noise is straight: levels are (1 - sigma, sigma), and answers velocities."""
    kinds: frozenset[Kind]
    """The kinds of attention that its network has."""
    patch: int
    """Cells of the latents a side that make one token of the network's."""

    @property
    def network(self) -> torch.nn.Module:
        """The denoiser, whose modules `layers` and an editor's `features` name."""
        ...

    def times(self, steps: int, latent: tuple[int, int], offset: int | None = None) -> tuple[Time, ...]:
        """steps + 1 times from noise to clean for latents of (h, w), which a flow's grid may depend on.

        `offset` shifts the whole timesteps of a diffusion model where a method has its own grid (0: the last step
        stands at time 0).
        """
        ...

    def level(self, time: Time) -> Level:
        """What a latent at this time is made of. A flow knows every time in its range, not only those of its grids."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Encoded prompts, [prompt]."""
        ...

    def nothing(self, n: int) -> Text:
        """What no prompt is, [n]: the encoding of "", or whatever else the model was trained with."""
        ...

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal noise [n, channel, h, w], float32 on the CPU, drawn in the order in which the programs of
        this family draw it (FLUX's draw packed tokens): the same seed gives their noise."""
        ...

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled posterior means [n, channel, h, w]; given standard normal noise of that shape, posterior samples."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images [n, 3, H, W], not yet clamped."""
        ...

    def answer(self, x: Tensor, text: Text, time: Time, call: Call | None, guidance: tuple[float, ...] = ()) -> Tensor:
        """What the network predicts by nature (noise, v, velocity) for x [row, case, channel, h, w] given text [row,
        case], told `time`; in x's shape and dtype. `guidance` is each row's scale, for a network that is
        told one (() for 1).

        With a `call`, its rules act on the attention layers; without, the network is left alone.
        """
        ...

    def split(self, x: Tensor, answer: Tensor, moment: Moment) -> Split:
        """What the answer says `x`, standing at `moment.level`, is made of; `at(moment.level)` of it is `x` again.

        The answer may have been given at another time (`moment.ask`) or be a guided mixture of answers.
        """
        ...

    def attending(self, features: Collection[str] = (), times: Sequence[Time] = ()) -> AbstractContextManager[None]:
        """While this is open, calls reach the attention layers and the modules named by `features`; afterwards the
        network is as it was, to the bit. Several may be open, as several walks are.

        `times` are those that a walk will ask at, so that what the network makes of them can be made once.
        """
        ...

    def layers(self) -> tuple[Layer, ...]: ...

    def fingerprint(self) -> Fingerprint: ...


@dataclass(frozen=True)
class Family:
    """One kind of model: which checkpoints in diffusers format it reads, and how.

    `parts` are the folders of a checkpoint that are loaded, with the class names that each may have (those of
    `model_index.json`); a part in `optional` may be missing there. `pipelines` are the `_class_name`s that decide where
    parts alone would fit several families.
    """

    title: str
    """What its models are called, in messages."""
    pipelines: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    open: Callable[[Mapping[str, Any], Mapping[str, Any], str], Backbone]
    """(loaded parts, the scheduler's configuration, the name to show) -> the model."""
    tiny: Callable[[], Backbone]
    """A tiny random model in float64, made in code, on which the laws run."""
    optional: frozenset[str] = frozenset()
    options: tuple[str, ...] = ()
    """Entries of `model_index.json` that are no parts and are handed to `open` among them, where they are there."""
    half: torch.dtype = torch.float16
    """The dtype that `auto` means on an accelerator."""
