"""Which inversion goes with which editor, and which is usual, as far as their class variables tell: known without
importing either."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from reinvert import registry
from reinvert.errors import ReinvertError


def reason(inversion: Any, editors: Sequence[Any], *, masked: bool, guidance: float | None) -> str | None:
    """Why the pair cannot run, as one clause; None where nothing speaks against it. `guidance` None is any above 1."""
    drawing = [editor.name for editor in editors if editor.draws_start]
    if len(drawing) > 1:
        return f"{' and '.join(drawing)} each begin from noise of their own; choose one of them"
    if drawing and inversion.finds_noise:
        return f"{drawing[0]} begins from noise of its own; use it with inversion none"
    if not drawing and not inversion.finds_noise:
        return f"inversion {inversion.name} leaves no noise to begin from; choose another one"
    for editor in editors:
        if editor.needs_mask and not masked:
            return f"{editor.name} needs a mask (--mask)"
        if editor.needs_guidance and guidance == 1:
            return f"{editor.name} needs a null side, which guidance 1 does not have; choose another --guidance"
    return None


def check_names(inversion: str, editors: Sequence[str], *, masked: bool, guidance: float | None) -> None:
    """Raise `ReinvertError` where methods of these names cannot run together."""
    told = reason(
        _ByName("inversions", inversion),
        [_ByName("editors", name) for name in editors],
        masked=masked,
        guidance=guidance,
    )
    if told:
        raise ReinvertError(told)


def usual_inversion(editors: Collection[str], usual: str = "direct") -> str:
    """The inversion that is meant where none is named, of editors by name: `verbs.usual_inversion` without torch.

    `usual` is the model's, for editors that have none of their own."""
    if any(registry.variable("editors", name, "draws_start") for name in editors):
        return "none"
    own = (registry.variable("editors", name, "usual_inversion") for name in editors)
    return next((name for name in own if name), usual)


@dataclass(frozen=True)
class _ByName:
    """The class variables of a registered method as attributes, read when they are asked for."""

    group: registry.Group
    name: str

    def __getattr__(self, variable: str) -> Any:
        return registry.variable(self.group, self.name, variable)
