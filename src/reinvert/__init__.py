"""reinvert: edit a real image with words, by inverting it into a pretrained diffusion model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reinvert.backbones import load
    from reinvert.errors import NonFiniteError, ReinvertError
    from reinvert.trajectory import Trajectory
    from reinvert.verbs import Result, edit, invert, reconstruct

__all__ = [
    "NonFiniteError",
    "ReinvertError",
    "Result",
    "Trajectory",
    "edit",
    "invert",
    "load",
    "reconstruct",
]
__version__ = "0.2.0"

# torch takes seconds to import; whoever only wants `reinvert --help` or the version does not wait for it.
_HOME = {
    "NonFiniteError": "reinvert.errors",
    "ReinvertError": "reinvert.errors",
    "Result": "reinvert.verbs",
    "Trajectory": "reinvert.trajectory",
    "edit": "reinvert.verbs",
    "invert": "reinvert.verbs",
    "load": "reinvert.backbones",
    "reconstruct": "reinvert.verbs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reinvert' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
