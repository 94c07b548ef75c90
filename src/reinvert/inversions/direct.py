"""Direct inversion (PnP inversion): keep the source on the inverted path, leave the targets alone.

    z_source <- z_source + strength * (z*_{N-s-1} - z_source)          after every `every`-th step

PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code, 2024, arXiv 2310.01506. With strength 1 the
source's final latent is the VAE's own, at any guidance. The authors compute the correction in a pass of its own, with
both prompts and both sides, and reconstruct in another; the source is overwritten by the same latents here without
either pass (650 -> 200 forwards with P2P at 50 steps). Every ablation of the paper is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from reinvert.backbones.base import Backbone
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion, Inverting, Source, check_depth, climb, grid_to
from reinvert.inversions.null_text import NullText


@dataclass(frozen=True)
class Direct(Inversion):
    """Direct inversion and its ablations."""

    name: ClassVar[str] = "direct"
    when: ClassVar[str] = (
        "First choice: exact, without learning, for every editor. Not where the noise itself must be better than "
        "DDIM's, as for edits that leave the source's layout."
    )
    strength: float = 1.0
    """Share of the correction that is applied."""
    every: int = 1
    """Correct steps 0, every, 2 every, ... only."""
    carry: Literal["none", "source", "target"] = "none"
    """Add to the targets nothing, the source's correction (add-source), or that of the target prompt on the
    source's path (add-target)."""
    inversion_guidance: float = 1.0
    """Guidance scale while inverting."""
    depth: float = 1.0
    """Share of the grid that is climbed, from the clean end; an edit then begins there."""
    null_latent: bool = False
    """Follow the path of null-text inversion instead, with the plain null prompt (the ablation NL)."""
    inner: int = 10
    """With null_latent: most optimisation steps per sampling step."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ReinvertError(f"strength is a share between 0 and 1, not {self.strength}")
        if self.every < 1:
            raise ReinvertError(f"every counts steps and is at least 1, not {self.every}")
        if self.carry == "target" and self.strength != 1:
            raise ReinvertError("carry=target needs strength 1: its shift is taken on the source's own path")

        check_depth(self.depth)
        if self.null_latent and self.depth != 1:
            raise ReinvertError("null_latent fits the whole grid; leave depth at 1")

    def lacks(self, model: Backbone) -> str | None:
        if self.null_latent and not model.null_side:
            return f"null_latent learns the null side of guidance, which {model.name} does not have"
        return super().lacks(model)

    @property
    def fits_guidance(self) -> bool:
        return self.null_latent

    def stages(self, source: Source) -> Inverting:
        times = grid_to(source, self.depth)
        path = yield from climb(source, self.inversion_guidance, times=times)
        if self.null_latent:
            _, path = yield from NullText(inner=self.inner).fit(source, path)
        pulled = {"strength": self.strength, "every": self.every, "carry": self.carry}
        fitted = source.guidance if self.null_latent else None
        return self._trajectory(source, path, pulled=pulled, guidance=fitted, times=times)
