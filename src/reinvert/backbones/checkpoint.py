"""A pipeline of diffusers that is no backbone, read from a folder or the Hub as carefully as models are.

Only safetensors are read, no code is run, and every part is of a class that the caller named. Parts larger than the
device take turns on it, as `load` lets a model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from reinvert.backbones import loading
from reinvert.backbones.families import class_of
from reinvert.backbones.placement import SHRUNK, free_on, plan, shrink, size_of
from reinvert.backbones.weights import read_network
from reinvert.errors import ReinvertError, warn
from reinvert.files.model import read_index, read_scheduler


def open_pipeline(
    name: str,
    kind: str,
    parts: Mapping[str, tuple[str, ...]],
    device: str | torch.device,
    dtype: str | torch.dtype,
    readers: Mapping[str, Callable[[Path], Any]] | None = None,
) -> Any:
    """The pipeline of class `kind` in a folder in diffusers format, or of a Hub id, ready on its device.

    `parts` are its networks and tokenizers with the classes each may have; `readers` read parts from their folders that
    are neither. It is sampled by Euler's steps along the flow, on the grid of its own scheduler's configuration. Raises
    `ReinvertError` for a model that is missing, incomplete or of another kind, and for float16, in which the text
    encoders of these models overflow.
    """
    import diffusers

    where = loading.pick_device(device)
    picked = loading.pick_dtype(dtype, where, torch.bfloat16)
    if picked == torch.float16:
        raise ReinvertError(f"a {kind} overflows in float16; take --dtype bfloat16 or float32")
    readers = readers or {}
    place = loading._place(name, None, (*parts, *readers, "scheduler"))  # pyright: ignore[reportPrivateUsage]
    if not place.is_dir():
        raise ReinvertError(f"{name} is no folder in diffusers format, which a {kind} is read from")
    index = read_index(place, name)
    name = Path(name).name if Path(name).exists() else name
    if index.get("_class_name") != kind:
        found = index.get("_class_name", "something else")
        raise ReinvertError(f"{name} is a {found}, and was not trained for this; give a {kind}")
    for part, classes in parts.items():
        if class_of(index, part) not in classes:
            raise ReinvertError(f"the {part} of {name} is a {class_of(index, part) or 'nothing'}, not a {classes[0]}")
    with loading._quiet():  # pyright: ignore[reportPrivateUsage]
        read = {part: _read(place, part, index, name, picked) for part in parts}
        for part, reader in readers.items():
            read[part] = _tried(name, part, lambda path=place / part, reader=reader: reader(path))
        networks = {part: network for part, network in read.items() if isinstance(network, torch.nn.Module)}
        t5 = next((part for part, network in networks.items() if type(network).__name__.startswith("T5")), None)
        sizes = {part: size_of(network) for part, network in networks.items()}
        placed = plan(sizes, free_on(where), name, offload=None, weights="auto", t5=t5)
        if placed.fp8:
            for part in networks.keys() & {*SHRUNK, t5}:
                shrink(networks[part], picked)
        settings = read_scheduler(place, name)
        scheduler: Any = diffusers.FlowMatchEulerDiscreteScheduler.from_config(settings)
        pipe = getattr(diffusers, kind)(**read, scheduler=scheduler)
        pipe.set_progress_bar_config(disable=True)
        if not placed.offload:
            pipe.to(where)
        else:
            try:
                pipe.enable_model_cpu_offload(device=where)
            except ImportError as error:
                raise ReinvertError(
                    f"{name} does not fit into the memory of {where}; install accelerate, so that its parts can take "
                    "turns there"
                ) from error
    if placed.why is not None:
        warn(placed.why)
    return pipe


def _read(folder: Path, part: str, index: Mapping[str, Any], name: str, dtype: torch.dtype) -> Any:
    import transformers

    made = str(class_of(index, part))
    if not (folder / part).is_dir():
        raise ReinvertError(f"{name} is not a complete model in diffusers format: the folder {part} is missing")
    if "Tokenizer" in made:  # the pipeline knows itself how many tokens it reads
        tokenizer: Any = getattr(transformers, made)
        return _tried(name, part, lambda: tokenizer.from_pretrained(folder / part, local_files_only=True))
    return _tried(name, part, lambda: read_network(folder, part, (index[part][0], made), name, dtype))


def _tried(name: str, part: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ReinvertError:
        raise
    except Exception as error:  # whatever a broken file makes the libraries raise
        why = loading._reason(error)  # pyright: ignore[reportPrivateUsage]
        raise ReinvertError(f"the {part} of {name} cannot be loaded: {why}") from error


__all__ = ["open_pipeline"]
