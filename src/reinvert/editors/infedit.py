"""InfEdit: edit without inverting, by consistency steps that hold the source on its own freshly noised picture.

    z_t = signal(t) z_0 + noise(t) n_t                        the source, every n_t fresh: a virtual inversion
    e = e(x_t, target) - e(z_t, source) + n_t,  y = (x_t - noise(t) e) / signal(t),  x_s = signal(s) y + noise(s) n_s

Inversion-Free Image Editing with Natural Language, 2023, arXiv 2312.04965. Follows the paper only; no authors' code was
read. The noise and the source's error are one shift that the targets share: an anchor on the noised picture with carry,
as in edit-friendly inversion, under another step. The paper's unified attention control is a composition: p2p+infedit
for words, masactrl+infedit for shapes. It is meant for a consistency model in some 12 steps; others run as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.inversions.edit_friendly import noised_path
from reinvert.steps import consistency
from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class InfEdit(Editor):
    """Inversion-free editing: no forwards are spent before the edit, and the source comes back exactly."""

    name: ClassVar[str] = "infedit"
    draws_start: ClassVar[bool] = True
    when: ClassVar[str] = (
        "A quick edit without an inversion, best with few steps of a consistency model; join p2p to keep the layout. "
        "Not where the background must stay as it is."
    )
    usual_with: ClassVar[tuple[str, ...]] = ("p2p",)
    strength: float = 1.0
    """Share of the run that is rendered; less keeps more of the picture."""
    source_guidance: float = 1.0
    """Guidance scale of the source; at the edit's own scale the source's prompt is no edit."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ReinvertError(f"strength is a share above 0 and at most 1, not {self.strength}")

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        model, steps = case.model, trajectory.steps
        times = model.times(steps, case.latent)[steps - max(1, int(self.strength * steps)) :]
        return replace(
            trajectory,
            path=noised_path(model, trajectory.path[0], times, case.seed, case.drawn),
            times=times,
            pulled={"strength": 1.0, "every": 1, "carry": "source"},
            source_guidance=self.source_guidance,
            stepper=consistency,
        )

    def bind(self, case: Case) -> Hooks:
        return Hooks()
