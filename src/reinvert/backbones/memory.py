"""How many pictures go through a model at once, where nobody says so."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import torch

MOST: Final = 8
"""Beyond this a larger batch saves hardly any time."""
LAYERS: Final = 100
"""Tensors of latent cells x width that a forward holds at its peak for each row, skips and workspaces included. Stable
Diffusion's UNet took 38 (half its width, float32, on a CPU); the rest is reserve."""
MAPS: Final = 8
"""Tensors of the finest level's channels and pixels that a VAE holds at its peak for each picture, with reserve."""
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


def vae_bytes(vae: Any, height: int, width: int) -> int:
    """What a VAE holds at its peak for one picture of these pixels: tensors of its finest level."""
    size = torch.finfo(vae.dtype).bits // 8
    return MAPS * int(vae.config.block_out_channels[0]) * height * width * size


def pictures_at_once(vae: Any, height: int, width: int) -> int | None:
    """Pictures that a VAE takes in half of an accelerator's free memory, or in half of what the machine has: there the
    same picture, which depends on its batch in the last bits, shall not depend on what else is running. At least 1;
    None where the system does not tell."""
    free = all_memory() if vae.device.type == "cpu" else free_memory(vae.device)
    return None if free is None else max(1, free // 2 // vae_bytes(vae, height, width))


def largest(device: torch.device, size: int) -> int:
    """How far batches may grow from a first guess. On the CPU not at all: a system that is out of memory ends the
    program instead of refusing it more."""
    return size if device.type == "cpu" else max(size, MOST)


@dataclass
class Trial:
    """A batch size that is found by trial, up to `most`; with `most` 0 it is fixed."""

    size: int
    most: int

    def double(self, size: int) -> None:
        """A batch of `size` went through: a larger one may follow."""
        if size == self.size:
            self.size = max(size, min(2 * size, self.most))

    def halve(self, size: int) -> bool:
        """For a batch of `size` the memory was not enough; False if there is nothing smaller to try."""
        if self.most == 0 or size == 1:
            return False
        self.size = self.most = size // 2
        return True


def free_cached(device: torch.device) -> None:
    """Give back what torch keeps of an accelerator's memory, which lies in pieces of a failed batch's sizes."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int | None:
    """Bytes; None where the system does not tell."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, to be used again
        return torch.cuda.mem_get_info(device)[0] + held
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device.type == "cpu" else None
    except (AttributeError, ValueError, OSError):  # Windows and macOS
        return None


def all_memory() -> int | None:
    """Bytes that the machine has; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _width(model: Any) -> int:
    """Channels of a UNet's finest level, or of a transformer's tokens, per cell of the latents."""
    config = model.network.config
    if "block_out_channels" in config:
        return int(config["block_out_channels"][0])
    heads, dim = config.get("num_attention_heads"), config.get("attention_head_dim")
    return int(heads * dim) if isinstance(heads, int) and isinstance(dim, int) else 1024
