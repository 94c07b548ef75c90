"""Negative-prompt inversion: the source prompt takes the place of the empty one, so guidance cannot make it drift.

    null = slerp(source, empty; interpolation)        interpolation 0: null = source, and e_null = e_text at every scale

Negative-prompt Inversion: Fast Image Inversion for Editing with Text-guided Diffusion Models, 2023, arXiv 2305.16807.
The source's reconstruction is DDIM's own round trip at guidance 1: good, not exact. Its null row is never evaluated,
since the text row says the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion, Inverting, Source, climb
from reinvert.text import between


@dataclass(frozen=True)
class NegativePrompt(Inversion):
    """NPI: the cheapest repair of DDIM inversion."""

    name: ClassVar[str] = "negative_prompt"
    needs_null_side: ClassVar[bool] = True
    when: ClassVar[str] = (
        "Where speed counts: no learning and no null row for the source. Not where the picture must come back "
        "exactly, or where the edit adds what the source prompt would now suppress."
    )
    interpolation: float = 0.0
    """How far the null side moves from the source prompt (0) back to the empty prompt (1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.interpolation <= 1:
            raise ReinvertError(f"interpolation is a share between 0 and 1, not {self.interpolation}")

    def stages(self, source: Source) -> Inverting:
        path = yield from climb(source)
        null = source.model.encode_text(source.prompts)
        if self.interpolation > 0:
            null = between(null, source.model.nothing(len(null)), self.interpolation)
        return self._trajectory(source, path, null=null[None])
