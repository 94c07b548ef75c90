"""Run-length masks: a flat list start, length, start, length ... over the rows of the picture, 0-based.

1 is the region to edit. A run that goes beyond the last pixel is cut there; runs may overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from reinvert.bench.case import Mask
from reinvert.files import check_value
from reinvert.files.data import Runs as Pairs

Runs = NDArray[np.int64]
"""[2 n]: start, length, start, length ..."""


def check_runs(told: Any) -> Runs:
    """A list from a data file as runs. Raises `ReinvertError` unless it is pairs of whole numbers, none negative."""
    listed = list(cast("Sequence[Any]", told)) if isinstance(told, list | tuple) else told
    return np.asarray(check_value(Pairs, listed, "its mask"), dtype=np.int64)


def decode_mask(runs: Sequence[int] | Runs, height: int, width: int) -> Mask:
    """The mask, bool [height, width], without the border of the published evaluator (`with_border`)."""
    runs = runs if isinstance(runs, np.ndarray) else check_runs(runs)
    total = height * width
    starts = np.minimum(runs[0::2], total)
    ends = np.minimum(runs[0::2] + runs[1::2], total)
    # the number of runs that cover a pixel is the number that began minus the number that ended
    change = np.bincount(starts, minlength=total + 1) - np.bincount(ends, minlength=total + 1)
    return (change[:total].cumsum() > 0).reshape(height, width)


def encode_mask(mask: Mask) -> list[int]:
    """The shortest runs of a bool mask [height, width]."""
    padded = np.concatenate([[False], mask.reshape(-1), [False]])
    starts, ends = np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2).T
    return np.stack([starts, ends - starts], axis=1).reshape(-1).tolist()


def with_border(mask: Mask) -> Mask:
    """A copy in which the outermost pixels count as edited: the published guard against errors of the annotation."""
    framed = mask.copy()
    framed[[0, -1]] = True
    framed[:, [0, -1]] = True
    return framed
