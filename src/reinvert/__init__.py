"""reinvert: edit a real image with words, by inverting it into a pretrained diffusion model."""

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
__version__ = "0.1.0"
