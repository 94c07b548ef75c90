"""What ComfyUI lends to its nodes: a progress bar, the interrupt button, a device, folders. Without it, nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from reinvert import Progress

KNOWN_DEVICES = ("cpu", "cuda", "mps")


def _module(name: str) -> Any:
    """A module of ComfyUI's, or None outside of it."""
    top = name.partition(".")[0]
    try:
        there = find_spec(top) is not None
    except ValueError:  # a module without a spec, as some hosts make them
        there = True
    return import_module(name) if there else None


def watcher() -> Callable[[Progress], None]:
    """For `watch=`: moves the bar of the node that runs, and raises ComfyUI's own exception after an interrupt."""
    utils, management = _module("comfy.utils"), _module("comfy.model_management")
    bar = None if utils is None else utils.ProgressBar(1)

    def watch(progress: Progress) -> None:
        if management is not None:
            management.throw_exception_if_processing_interrupted()
        if bar is not None:
            bar.update_absolute(progress.done, progress.total)

    return watch


def device(chosen: str) -> str:
    """The device of a model: "auto" is the one that ComfyUI itself uses, where reinvert knows it."""
    management = _module("comfy.model_management") if chosen == "auto" else None
    if management is None:
        return chosen
    used = management.get_torch_device()
    return str(used) if used.type in KNOWN_DEVICES else chosen


def checkpoint(name: str) -> str:
    """A model's name, or the path of a file that lies in one of ComfyUI's folders of checkpoints."""
    folders = _module("folder_paths")
    found = None if folders is None or not name else folders.get_full_path("checkpoints", name)
    return name if found is None else str(found)


def as_usual() -> AbstractContextManager[Any]:
    """Leaves the inference mode in which ComfyUI runs its nodes: some inversions learn, and models and trajectories
    outlive the call."""
    return torch.inference_mode(False)
