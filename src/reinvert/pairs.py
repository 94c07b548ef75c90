"""Which inversion goes with which editor: the reason why a pair cannot run, known before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from reinvert import legal, registry
from reinvert.backbones.base import Backbone
from reinvert.editors.base import Editor
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion


def why_not(
    inversion: Inversion,
    editors: Sequence[Editor],
    *,
    masked: bool = True,
    guidance: float | None = None,
    model: Backbone | None = None,
) -> str | None:
    """The reason, as one clause, or None for a legal pair; on a model, if one is given.

    `guidance` None stands for any scale above 1.
    """
    if model is not None:
        # First: what no partner can mend would else be answered with a hint that leads nowhere.
        lacking = [inversion.lacks(model), *(editor.lacks(model, masked=masked) for editor in editors)]
        reason = next((why for why in lacking if why is not None), None)
        if reason:
            return reason
    known = legal.reason(inversion, editors, masked=masked, guidance=guidance)
    refused = (editor.refuses(inversion) for editor in editors)
    reason = known or next((why for why in refused if why is not None), None)
    return reason or inversion.refuses([editor.name for editor in editors])


def matrix(model: Backbone | None = None) -> dict[str, dict[str, str | None]]:
    """Every registered inversion against every registered editor, with its defaults: the reason why not, or None; on
    a model, if one is given.

    A mask is taken to be there, since whether one is given is the user's choice.
    """
    inversions = [registry.make("inversions", name) for name in registry.names("inversions")]
    editors = [registry.make("editors", name) for name in registry.names("editors")]
    return {i.name: {e.name: why_not(i, [e], model=model) for e in editors} for i in inversions}


def check_pair(
    inversion: Inversion,
    editors: Sequence[Editor],
    *,
    masked: bool,
    guidance: float | None = None,
    model: Backbone | None = None,
) -> None:
    """Raise `ReinvertError` with the reason, if there is one."""
    reason = why_not(inversion, editors, masked=masked, guidance=guidance, model=model)
    if reason:
        raise ReinvertError(reason)
