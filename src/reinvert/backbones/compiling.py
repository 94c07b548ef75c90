"""Compiled networks (torch.compile): what of a network is compiled, and which evaluations run it.

blocks: the modules that no rule of an editor reaches, ResNet blocks and feed-forward layers, in every evaluation.
whole: besides, the network as one graph, in evaluations where no rule has a say (inversion, reconstruction, and the
steps of an edit that are outside of an editor's windows) and no gradient is taken.

Shapes are compiled as they are: once for each number of rows and size of a picture. A step's time is a tensor, so that
another step is not another graph, and the attention processors stay on a compiled network, so that a walk is none. The
inputs of a whole network are copied into cells of their own, the same at every step, and on a CUDA device its kernels
are recorded once for each shape and played back (CUDA graphs).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Hashable, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final, Literal, cast, get_args

import torch
from torch import Tensor

from reinvert.errors import ReinvertError

Compile = Literal["off", "blocks", "whole"]
BLOCKS: Final = ("ResnetBlock2D", "FeedForward")
"""Classes of diffusers' modules that hold no attention."""
GRAPHS: Final = 256
"""Graphs of one function: the blocks of a network share a function and differ in their sizes. torch would stop at 8."""


class Whole:
    """A network as one graph, which reads its inputs from the same cells in every evaluation of a shape.

    `recorded` kernels read and write where they did when they were recorded: what they wrote is copied out of there.
    """

    def __init__(self, network: torch.nn.Module, backend: str, *, recorded: bool) -> None:
        mode = "reduce-overhead" if recorded else None
        self.graph: Any = torch.compile(network, dynamic=False, backend=backend, mode=mode)
        self.recorded = recorded
        self._cells: dict[Hashable, Tensor] = {}

    def __call__(self, *given: Any, **named: Any) -> tuple[Tensor, ...]:
        placed = [self._placed(i, value) for i, value in enumerate(given)]
        named = {name: self._placed(name, value) for name, value in named.items()}
        if not self.recorded:
            return self.graph(*placed, **named)
        torch.compiler.cudagraph_mark_step_begin()
        return tuple(out.clone() for out in self.graph(*placed, **named))

    def _placed(self, name: Hashable, value: Any) -> Any:
        if isinstance(value, Mapping):
            inner = cast(Mapping[str, Any], value)
            return {key: self._placed((name, key), each) for key, each in inner.items()}
        if not isinstance(value, Tensor):
            return value
        key = name, value.shape, value.dtype, value.device
        if key not in self._cells:
            with torch.inference_mode(False):  # or later walks could not write to them
                self._cells[key] = torch.empty_like(value, memory_format=torch.contiguous_format)
        return self._cells[key].copy_(value)


class Compiled:
    """A network, compiled as `mode` says, by a backend of torch.compile; `whole` is None where it runs as it is."""

    def __init__(self, network: torch.nn.Module, mode: Compile, backend: str = "inductor") -> None:
        self.whole: Whole | None = None
        if mode == "off":
            return
        for module in network.modules():
            if type(module).__name__ in BLOCKS:
                module.compile(dynamic=False, backend=backend)
        if mode == "whole":
            on_cuda = next(network.parameters()).device.type == "cuda"
            self.whole = Whole(network, backend, recorded=on_cuda and backend == "inductor")

    def running(self, network: torch.nn.Module, *, ruled: bool) -> Any:
        """What an evaluation calls: the network, or its one graph where no rule and no gradient needs a look inside."""
        return network if self.whole is None or ruled or torch.is_grad_enabled() else self.whole


@contextmanager
def room() -> Generator[None]:
    """Room for the graphs of a whole network, whose blocks are many sizes of one class."""
    import torch._dynamo as dynamo  # seconds; only who compiles waits for it

    with dynamo.config.patch(recompile_limit=GRAPHS, accumulated_recompile_limit=4 * GRAPHS):
        yield


def check_compile(mode: str, device: torch.device) -> Compile:
    """Refuse a mode that there is not, and one that this computer cannot do, before anything is loaded."""
    if mode not in get_args(Compile):
        raise ReinvertError(f"compile is off, blocks or whole, not {mode!r}")
    if mode == "off":
        return "off"
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        raise ReinvertError(f"--compile {mode} needs a C++ compiler; install g++, or leave --compile out")
    if device.type == "cuda" and find_spec("triton") is None:
        raise ReinvertError(f"--compile {mode} needs triton; install it, or leave --compile out")
    return "blocks" if mode == "blocks" else "whole"


__all__ = ["Compile", "Compiled", "Whole", "check_compile", "room"]
