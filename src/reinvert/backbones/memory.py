"""How many pictures go through a model at once, where nobody says so."""

from __future__ import annotations

import os
from typing import Any, Final

import torch

MOST: Final = 8
"""Beyond this a larger batch saves hardly any time."""
LAYERS: Final = 100
"""Tensors of latent cells x width that a forward holds at its peak for each row, skips and workspaces included. Stable
Diffusion's UNet took 38 (half its width, float32, on a CPU); the rest is reserve."""
GRADIENTS: Final = 10
"""Times the memory of a forward that a backward pass needs, which keeps every layer's input."""


def at_once(model: Any, latent: tuple[int, int], rows: int, gradients: bool) -> int:
    """Cases of latents (h, w) that fit half of the free memory, at least 1; each takes `rows` rows of the network."""
    free = free_memory(model.device)
    if free is None:
        return 1
    size = torch.finfo(model.dtype).bits // 8
    one = LAYERS * latent[0] * latent[1] * _width(model) * size * rows * (GRADIENTS if gradients else 1)
    return max(1, min(MOST, free // 2 // one))


def free_memory(device: torch.device) -> int | None:
    """Bytes; None where the system does not tell."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, to be used again
        return torch.cuda.mem_get_info(device)[0] + held
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device.type == "cpu" else None
    except (AttributeError, ValueError, OSError):  # Windows and macOS
        return None


def _width(model: Any) -> int:
    """Channels of a UNet's finest level, or of a transformer's tokens, per cell of the latents."""
    config = model.network.config
    if "block_out_channels" in config:
        return int(config["block_out_channels"][0])
    heads, dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    return int(heads * dim) if isinstance(heads, int) and isinstance(dim, int) else 1024
