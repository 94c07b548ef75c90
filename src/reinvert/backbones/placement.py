"""Models that are larger than a device: whole parts take turns on it, and weights are kept in 8 bits.

all on the device    weights of all parts
offload              weights of the largest part; the others wait in the CPU's memory
fp8                  about half of the denoiser's and T5's: stored as float8_e4m3fn, widened layer by layer to compute
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

import torch
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.files import shown

Weights: TypeAlias = Literal["auto", "full", "fp8"]
"""How weights are stored: as loaded, in 8 bits, or whichever fits."""

M = TypeVar("M", bound=torch.nn.Module)

GIB = 2**30
WORKING = 1.5 * GIB
"""Bytes that a step needs beside the weights, roughly: latents, activations, and what the allocator cannot use."""
SHARE = 1.1
"""Weights are counted a tenth larger than they are, since no allocator fills a device."""
LARGE = 200_000_000
"""Weights from which on a denoiser gains by bfloat16 on a CPU that has units for it (AMX). Stable Diffusion 1.4's 860
million took 0.3 to 0.4 of float32's time, picturebook's 13 million 0.8 to 1.3 of it."""
SHRUNK = ("unet", "transformer")
"""Parts whose weights fp8 shrinks; T5 is one of them wherever it stands."""


class Stage:
    """Where a model's parts are: all on its device, or, with `offload`, only the one that was brought there last."""

    def __init__(self, device: torch.device, *, offload: bool = False, fp8: bool = False) -> None:
        self.device, self.offload, self.fp8 = device, offload, fp8
        self.current: torch.nn.Module | None = None

    def bring(self, part: M) -> M:
        """The part, on the device; whichever was there leaves for the CPU's memory."""
        if self.offload and part is not self.current:
            if self.current is not None:
                self.leave(self.current)
            self.current = None  # should there be no room for the next
            self.arrive(part)
            self.current = part
        return part

    def arrive(self, part: torch.nn.Module) -> None:
        # Not diffusers' own `to`, which warns of half precision on the CPU: nothing is computed there.
        torch.nn.Module.to(part, self.device)

    def leave(self, part: torch.nn.Module) -> None:
        torch.nn.Module.to(part, torch.device("cpu"))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def check_gradients(self, *inputs: Tensor | None) -> None:
        """Raise `ReinvertError` where a gradient is wanted that weights in 8 bits cannot carry."""
        if self.fp8 and torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
            raise ReinvertError(
                "this method learns through the network, which weights in 8 bits cannot do; load the model with "
                "--weights full, or choose a method without gradients"
            )


@dataclass(frozen=True)
class Plan:
    """How a model is placed, and, where it was not asked for, why."""

    offload: bool
    fp8: bool
    why: str | None = None


def plan(
    sizes: Mapping[str, int],
    free: int | None,
    name: str,
    *,
    offload: bool | None,
    weights: Weights,
    t5: str | None = None,
) -> Plan:
    """How to place parts of `sizes` bytes where `free` bytes are free (None: nobody knows, so nothing is decided).

    `offload` None and `weights` "auto" are decided here: all on the device if that fits, else in turn, else in turn and
    in 8 bits. `t5` is the part that is a T5.
    """

    def fits(turns: bool, fp8: bool) -> bool:
        kept = [size / 2 if fp8 and part in (*SHRUNK, t5) else size for part, size in sizes.items()]
        return free is None or SHARE * (max(kept) if turns else sum(kept)) + WORKING <= free

    turns = [offload] if offload is not None else [False, True]
    bits = [weights == "fp8"] if weights != "auto" else [False, True]
    choices = [(turn, fp8) for fp8 in bits for turn in turns]
    turn, fp8 = next((choice for choice in choices if fits(*choice)), choices[-1])
    if (turn, fp8) == (bool(offload), weights == "fp8") or free is None:
        return Plan(turn, fp8)
    done = [*(["its parts take turns there (--offload)"] if turn and not offload else [])]
    done += ["its weights are kept in 8 bits (--weights fp8)"] if fp8 and weights != "fp8" else []
    end = "" if fits(turn, fp8) else "; even so it may run out"
    size = f"{sum(sizes.values()) / GIB:.1f} GB"
    return Plan(turn, fp8, f"{name} has {size} of weights and {free / GIB:.1f} GB are free: {' and '.join(done)}{end}")


def check_weights(weights: str, device: torch.device) -> Weights:
    """How weights are to be stored on a device; raises `ReinvertError` for what there is not."""
    if weights not in get_args(Weights):
        raise ReinvertError(f"weights are kept 'auto', 'full' or 'fp8', not {shown(repr(weights))}")
    if device.type != "mps":
        return cast(Weights, weights)
    if weights == "fp8":
        raise ReinvertError("MPS devices have no 8-bit floats; leave --weights at full, and try --offload")
    return "full"


def gains_by_bfloat16(network: torch.nn.Module, device: torch.device) -> bool:
    """Whether a CPU computes this denoiser faster in bfloat16: its kind decides, so that one machine always answers the
    same. `benchmarks/cpu.py` shows where that is so."""
    if device.type != "cpu" or not torch.cpu.get_capabilities().get("amx_bf16", False):
        return False
    return sum(weight.numel() for weight in network.parameters()) >= LARGE


def size_of(part: torch.nn.Module) -> int:
    """Bytes of its weights."""
    return sum(value.numel() * value.element_size() for value in part.state_dict().values())


def free_on(device: torch.device) -> int | None:
    """Bytes that are free on a device; None for the CPU, where everything is already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return None


def shrink(part: Any, dtype: torch.dtype) -> None:
    """Store the weights of a network in 8 bits and compute in `dtype`; norms and embeddings of places stay wide."""
    from diffusers.hooks import apply_layerwise_casting

    # T5 looks at the dtype of its `wo` layers to decide that of its activations.
    skip = (*(getattr(part, "_skip_layerwise_casting_patterns", None) or ("norm",)), r"\bwo\b")
    apply_layerwise_casting(part, torch.float8_e4m3fn, dtype, skip_modules_pattern=skip)


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has held: on a GPU of the device's memory, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used
