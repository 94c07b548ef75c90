"""KV-Edit's inversion: a flow's explicit way up, keeping the picture's keys and values of every layer and step.

    x_{k+1} = x_k + (sigma_{k+1} - sigma_k) v(x_k, sigma_k, source),   k, v of all joint attention layers kept

KV-Edit: Training-Free Image Editing for Precise Background Preservation, 2025, arXiv 2502.17363. Its editor is
`kv_edit`; for others it is Euler's inversion with the network asked where the latent stands, at a depth. What is kept
is large: two times the size of the picture's tokens for every layer and step. Differs from the authors' code: the
source is held on its path. `separate` is their `attn_mask`: it needs the mask on the way up (`reinvert invert --mask`),
so that its inversion serves one region only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from reinvert.errors import ReinvertError
from reinvert.features import FEATURES, Recorder, Separated, Where, tokens_inside
from reinvert.hooks import Chain, Hooks, Kind
from reinvert.inversions.base import Inversion, Inverting, Source, check_depth, climb, grid_to, held
from reinvert.steps import explicit
from reinvert.trajectory import Kept


@dataclass(frozen=True)
class KVInv(Inversion):
    """Euler's way up with keys and values kept."""

    name: ClassVar[str] = "kv_inv"
    when: ClassVar[str] = (
        "On flow models, for kv_edit. Not for other editors, which have no use for what it keeps, and not where memory "
        "is short."
    )
    needs_flow: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    can_begin_later: ClassVar[bool] = False
    acts_on: ClassVar[tuple[Kind, ...]] = ("joint",)
    depth: float = 0.86
    """Share of the grid that is climbed, from the clean end (published: 24 of 28 steps); an edit begins there."""
    inversion_guidance: float = 1.5
    """Guidance scale while inverting."""
    separate: bool = False
    """Let what is inside the edit's mask and what is outside not see each other on the way up: for taking things away,
    of which the background then knows nothing."""

    def __post_init__(self) -> None:
        check_depth(self.depth)

    def stages(self, source: Source) -> Inverting:
        times = grid_to(source, self.depth)
        where = Where(source.steps)
        recorder = Recorder(where, where.layers(source.model.layers()), ("k", "v"), picture_only=True)
        hooks: Hooks = recorder
        if self.separate:
            if source.mask is None:
                raise ReinvertError("separate inverts for one region: give its mask (--mask)")
            hooks = Chain(
                [
                    Separated(tokens_inside(source.mask.to(source.x0.device) > 0, source.model.patch).flatten(1)),
                    recorder,
                ]
            )
        path = yield from climb(source, self.inversion_guidance, explicit, times, who="KV inversion", hooks=hooks)
        return self._trajectory(source, path, pulled=held(1.0), times=times, kept=recorder.kept)

    @property
    def takes_mask(self) -> bool:
        return self.separate

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {FEATURES: ("one", "features")}
