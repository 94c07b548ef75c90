"""DDIM inversion: walk the deterministic sampler upwards.

    z_{k+1} = signal(k+1) (z_k - noise(k) e) / signal(k) + noise(k+1) e,   e = eps(z_k, t_{k+1}, source)

Denoising Diffusion Implicit Models, 2021, arXiv 2010.02502. Diffusion Models Beat GANs on Image Synthesis, 2021, arXiv
2105.05233, inverted with it first. Differs from the published `ddim+p2p`: no throw-away guided roll and no separate
reconstruction pass, because the source branch of the edit is the reconstruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reinvert.inversions.base import Inversion, Inverting, Source, check_depth, climb, grid_to


@dataclass(frozen=True)
class DDIM(Inversion):
    """Plain DDIM inversion. The source drifts when it is rendered at another guidance than `inversion_guidance`."""

    name: ClassVar[str] = "ddim"
    when: ClassVar[str] = (
        "As the baseline, or at guidance 1, where it comes back by itself. Not for real edits under guidance: the "
        "source drifts, and the edit with it."
    )
    inversion_guidance: float = 1.0
    """Guidance scale while inverting; 1 asks for the source prompt alone."""

    depth: float = 1.0
    """Share of the grid that is climbed, from the clean end; an edit then begins there."""

    def __post_init__(self) -> None:
        check_depth(self.depth)

    def stages(self, source: Source) -> Inverting:
        times = grid_to(source, self.depth)
        path = yield from climb(source, self.inversion_guidance, times=times)
        return self._trajectory(source, path, times=times)
