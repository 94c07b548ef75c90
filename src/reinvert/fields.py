"""Types of methods' fields that the command line reads too: it answers without torch, so nothing heavy is imported."""

from __future__ import annotations

from typing import Final, TypeAlias

Number: TypeAlias = int | float

Share: TypeAlias = Number | tuple[Number, Number]
"""A part of the run: `0.4` is its first 40 %, `(0.2, 0.9)` what lies between."""

DEFAULT: Final = "default_"
"""The key, in windows given word by word, of all other words."""
