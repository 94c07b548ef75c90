"""The families of models: which there are, and which of them reads a model with a given `model_index.json`."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from reinvert.backbones.base import Family
from reinvert.errors import ReinvertError

ANY = "*"
"""A class that every family takes, of a part that is loaded already."""


@cache
def families() -> dict[str, Family]:
    """Every model family by name: this package's files, and other packages' entry points in `reinvert.backbones`."""
    package = import_module("reinvert.backbones")
    modules = {m.name: f"reinvert.backbones.{m.name}" for m in pkgutil.iter_modules(package.__path__)}
    known: dict[str, Family] = {}
    for name, module in sorted(modules.items()):
        # The machinery of this package is no family.
        family = getattr(import_module(module), "FAMILY", None)
        if family is not None:
            known[name] = family
    return known | {point.name: point.load() for point in entry_points(group="reinvert.backbones")}


def component_folders() -> tuple[str, ...]:
    """The folders of a checkpoint that any family reads."""
    parts = {part: None for family in families().values() for part in family.parts}
    return (*parts, "scheduler")


def family_of(index: Mapping[str, Any], name: str) -> Family:
    """The family that reads a model with this `model_index.json`; `ReinvertError` if there is none."""
    known = list(families().values())
    pipeline = index.get("_class_name", "something else")
    named = [family for family in known if pipeline in family.pipelines]
    fitting = [family for family in (*named, *known) if _misfit(family, index, name) is None]
    if fitting:
        return fitting[0]
    # Explained by the family that it is nearest to.
    nearest = named[0] if named else max(known, key=lambda f: _shared(f, index))
    raise ReinvertError(f"{_misfit(nearest, index, name)}; reinvert reads {', '.join(f.title for f in known)}")


def _shared(family: Family, index: Mapping[str, Any]) -> float:
    """The share of a family's parts that a model has."""
    return sum(class_of(index, part) in classes for part, classes in family.parts.items()) / len(family.parts)


def class_of(index: Mapping[str, Any], part: str) -> str | None:
    entry = index.get(part)
    return entry[1] if isinstance(entry, list | tuple) and len(entry) == 2 else None


_DECIDING = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Parts that a family must know; any other (a safety checker, say) may lie beside those it reads."""


def _misfit(family: Family, index: Mapping[str, Any], name: str) -> str | None:
    """Why a family does not read a model, or None."""
    for part, classes in family.parts.items():
        found = class_of(index, part)
        if found is None:
            if part not in family.optional:
                return f"{name} has no {part}: it is a {index.get('_class_name', 'something else')}"
        elif found not in (*classes, ANY):
            return f"the {part} of {name} is a {found}, not a {classes[0]}"
    for part in _DECIDING:
        if part not in family.parts and class_of(index, part) is not None:
            return f"{name} has a {part}, which a {family.title} model does not have"
    return None
