"""What waits for the device: reads of its values by Python, and copies of Python's values to it.

On the CPU nothing waits. Here tensors that would lie on the device are marked by a class of their own, which everything
that is computed from them keeps, and every read of one of them, and every upload, is noted with the line that made it.
"""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import reinvert

PACKAGE = Path(reinvert.__file__).parent
READS = {
    Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__bool__, Tensor.__float__, Tensor.__int__,
    Tensor.__index__, Tensor.nonzero, Tensor.equal, Tensor.is_nonzero, Tensor.masked_select, Tensor.unique,
    torch.equal, torch.is_nonzero, torch.nonzero, torch.masked_select, torch.unique, torch.allclose, Tensor.allclose,
}  # fmt: skip
UPLOADS = {torch.tensor, torch.as_tensor, torch.from_numpy}
INDEXING = {Tensor.__getitem__, Tensor.__setitem__}


class OnDevice(Tensor):
    """A tensor that stands for one on an accelerator."""


def on_device(value: Any) -> Any:
    if isinstance(value, Tensor) and type(value) is Tensor:
        return value.as_subclass(OnDevice)
    return value


class Watch(TorchFunctionMode):
    """Notes what waits inside a walk: `seen` counts by (what, "file:function")."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        ours = any(isinstance(arg, OnDevice) for arg in args)
        name = getattr(func, "__name__", str(func))
        if func in READS and ours:
            self._note(name)
        if func in INDEXING and ours and _waits(args[1]):
            self._note("an index that is a list or a mask")
        moved = func is Tensor.to and not isinstance(args[0], OnDevice)
        to = moved and (_is_place(args[1:]) or isinstance(kwargs.get("device"), torch.device))
        if moved and (to or any(isinstance(arg, OnDevice) for arg in args[1:])):
            self._note("to")
        if func is Tensor.to and ours and (args[1:2] == ("cpu",) or kwargs.get("device") == "cpu"):
            self._note("to the host")
        # Who writes "cpu" means the host; a model's device is a `torch.device`.
        given = isinstance(kwargs.get("device"), torch.device) and func is not Tensor.to
        if given and func in UPLOADS:
            self._note(name)
        out = func(*args, **kwargs)
        # What is made on a device, or moved to it, lies there.
        return on_device(out) if given or to else out

    def _note(self, what: str) -> None:
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
        places = [f"{Path(f.filename).relative_to(PACKAGE)}:{f.name}" for f in frames]
        if "loop.py:walk" in places:  # in a step: what is done before a walk, or after it, holds up no step
            self.seen[what, places[-1]] += 1


def _is_place(args: tuple[Any, ...]) -> bool:
    return any(isinstance(arg, torch.device) for arg in args)


def _waits(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(p, list) or (isinstance(p, Tensor) and p.dtype == torch.bool) for p in parts)
