"""What the metrics ask of a network. Anything of this shape will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Perceptual(Protocol):
    """A network for `lpips` and `ns_lpips`."""

    name: str

    def maps(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """How far apart pictures `[n, 3, h, w]` in -1..1 are, place by place: `[n, 1, h_l, w_l]` for every layer l."""
        ...


@runtime_checkable
class Tower(Protocol):
    """A vision transformer for `structure_distance`. `side` is the side of the square pictures it was trained on."""

    name: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def keys(self, x: Tensor) -> Tensor:
        """The keys of the last block for normalised pictures `[n, 3, h, w]`: `[n, 1 + patches, dim]`, class first."""
        ...

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches of a picture of this size."""
        ...


@runtime_checkable
class TextImage(Protocol):
    """A network for `clip_similarity`."""

    name: str
    mean: tuple[float, float, float]

    def embed_pictures(self, levels: Tensor) -> Tensor:
        """One embedding `[n, dim]` per picture of uint8 levels `[n, 3, h, w]` of any size."""
        ...

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """One embedding `[n, dim]` per prompt."""
        ...
