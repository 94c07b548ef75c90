"""Text-embedding inversion: null-text inversion's optimisation, applied to the source prompt's embedding.

    c_s = argmin_c || D_s(zbar, e("") + w (e(c) - e(""))) - z*_{N-s-1} ||^2,   zbar <- D_s(zbar, ...c_s)

The baseline of StyleDiffusion: Prompt-Embedding Inversion for Text-Based Editing, 2023, arXiv 2303.15649; optimised as
in Null-text Inversion for Editing Real Images using Guided Diffusion Models, 2023, arXiv 2211.09794, and with the same
settings. Only the source uses c_s; the targets use their own prompts and the plain null prompt. The null prediction is
evaluated once a step and reused after the fit. The source's attention follows c_s, so the words of a learned embedding
may look elsewhere than those of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from reinvert.inversions.base import Inversion, Inverting, Source, climb
from reinvert.inversions.null_text import NullText
from reinvert.text import Conditioning, Side
from reinvert.trajectory import Kept, Trajectory


@dataclass(frozen=True)
class TextEmbedding(Inversion):
    """Learns what the source says; StyleDiffusion compares itself to it."""

    name: ClassVar[str] = "text_embedding"
    takes_gradients: ClassVar[bool] = True
    needs_null_side: ClassVar[bool] = True
    when: ClassVar[str] = (
        "To compare with: it learns like null_text and leaves the targets' null side alone. Not as a first choice with "
        "p2p: the source's attention maps, which the target follows, are those of the learned embedding."
    )
    can_begin_later: ClassVar[bool] = False
    inner: int = 10
    """Most optimisation steps per sampling step."""
    rate: float = 0.01
    """Adam's learning rate at the first sampling step."""
    rate_decay: float = 0.01
    """The rate at step s is rate * (1 - rate_decay * s)."""
    early_stop: float = 1e-5
    """A case stops once its loss is below early_stop + early_stop_slope * s ..."""
    early_stop_slope: float = 2e-5
    """... which grows with the step index s."""

    @property
    def fits_guidance(self) -> bool:
        return True

    @property
    def keeps(self) -> Mapping[str, Kept]:
        return {"text": ("step", "text")}

    def stages(self, source: Source) -> Inverting:
        path = yield from climb(source)
        learned, _ = yield from NullText(**self.settings).fit(source, path, Side.TEXT)
        return self._trajectory(source, path, kept={"text": learned.tokens}, guidance=source.guidance)

    def conditioning(self, trajectory: Trajectory, conditioning: Conditioning) -> Conditioning:
        text = conditioning.text
        steps = (torch.cat([own[None], text.tokens[1:]]) for own in trajectory.kept["text"].to(text.tokens))
        return replace(conditioning, at_step=tuple(replace(text, tokens=tokens) for tokens in steps))
