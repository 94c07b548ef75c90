"""Names of models, devices and dtypes, and what is usual for a model: without torch, so that it is answered at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reinvert.errors import ReinvertError, meant
from reinvert.files import shown

BUNDLED: Final = {"picturebook": Path(__file__).parent / "picturebook" / "model"}
DTYPES: Final = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
"""What may be typed, and torch's name of it."""
_DEVICE: Final = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class Usual:
    """What is usual for a model where the user says nothing: steps of a run, and the guidance scale of an edit."""

    steps: int = 50
    guidance: float = 7.5


def check_name(name: str) -> None:
    """Raise `ReinvertError` unless this is a bundled model, an existing folder, or could be a Hub id."""
    if name in BUNDLED:
        return
    try:
        exists, is_folder = Path(name).exists(), Path(name).is_dir()
    except (OSError, ValueError):  # too long, or with a zero byte
        exists = is_folder = False
    if is_folder:
        return
    if exists:
        raise ReinvertError(
            f"{shown(name)} is a file; reinvert loads folders in diffusers format (convert single-file checkpoints "
            "with diffusers first)"
        )
    parts = name.split("/")
    if len(parts) == 2 and all(parts) and not name.startswith((".", "~")) and re.fullmatch(r"[\w./-]{1,200}", name):
        return
    hint = meant(name, BUNDLED, "give picturebook, a folder in diffusers format, or a Hub id like org/model")
    raise ReinvertError(f"there is no model '{shown(name)}'; {hint}")


def check_device(name: str) -> None:
    """Raise `ReinvertError` unless reinvert runs on devices of that name; whether there is one, torch knows."""
    if not _DEVICE.fullmatch(name):
        raise ReinvertError(f"there is no device '{shown(name)}'; use auto, cpu, cuda, cuda:0 or mps")


def check_dtype(name: str) -> None:
    """Raise `ReinvertError` unless it is "auto" or a dtype's name."""
    if name != "auto" and name not in DTYPES:
        raise ReinvertError(f"there is no dtype '{shown(name)}'; use auto, float32, bfloat16 or float16")
