"""No inversion: only the picture's own latents, for editors that begin from noise of their own.

    path = [z_0]

Auto-Encoding Variational Bayes, 2013, arXiv 1312.6114: rendered again with no edit it is the VAE's round trip, the best
that any inversion can reconstruct.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reinvert.inversions.base import Inversion, Inverting, Progress, Source


@dataclass(frozen=True)
class Nothing(Inversion):
    """The clean latents alone; SDEdit, blended latent diffusion and InfEdit begin here."""

    name: ClassVar[str] = "none"
    when: ClassVar[str] = (
        "With the editors that begin from noise of their own, and to see what the VAE alone loses. Not with any other "
        "editor: there is no noise to begin from."
    )
    exact: ClassVar[bool] = True
    finds_noise: ClassVar[bool] = False

    def stages(self, source: Source) -> Inverting:
        yield Progress("encoding", 1, 1)
        return self._trajectory(source, source.x0[None], times=source.grid()[-1:])
