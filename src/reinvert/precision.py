"""How precisely is computed around a network: in float32 where it runs in half precision, else in its own precision."""

from __future__ import annotations

import torch
from torch import Tensor


def around(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 for a network in float64."""
    return torch.promote_types(dtype, torch.float32)


def wide(x: Tensor) -> Tensor:
    """A tensor in float32; float64 stays."""
    return x.to(around(x.dtype))


__all__ = ["around", "wide"]
