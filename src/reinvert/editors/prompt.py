"""Plain guidance: render the target prompt from the inverted noise, with no rule at all.

    e = e_null + w (e_text - e_null)

Classifier-Free Diffusion Guidance, 2022, arXiv 2207.12598. The baseline that every editor is compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reinvert.editors.base import Case, Editor
from reinvert.hooks import Hooks


@dataclass(frozen=True)
class Prompt(Editor):
    """Only the prompt changes; layout is kept as far as the shared noise keeps it."""

    name: ClassVar[str] = "prompt"
    when: ClassVar[str] = (
        "To see what guidance alone does, and for changes of everything at once. Not where the source's layout must "
        "stay."
    )

    def bind(self, case: Case) -> Hooks:
        return Hooks()
