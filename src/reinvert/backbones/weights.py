"""A network and its weights: every one that it has, no other, and all of them numbers.

The libraries load what they find and leave the rest as memory held it, with a line in a log; here that is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from reinvert.errors import ReinvertError
from reinvert.files import shown
from reinvert.files.model import check_network, promised_weights

HARMLESS = ("position_ids",)
"""Last names of tensors that old files carry and networks make themselves: 0, 1, 2, ..."""
NAMED = 3
"""As many weights are named in a message; the rest is counted."""


def read_network(folder: Path, part: str, entry: tuple[str, str], name: str, dtype: torch.dtype) -> Any:
    """The network in `folder / part`, whose (library, class) is `entry`, on the CPU in `dtype`.

    Raises `ReinvertError` for weights that are missing, surplus, of another shape than the configuration says, or no
    numbers, by name and count.
    """
    path = folder / part
    check_network(folder, part, name)
    promised = promised_weights(path, name)  # before a library follows what an index says
    files = sorted(file for file in path.glob("*.safetensors") if file.is_file())  # a pipe would be waited for
    if not files:
        raise ReinvertError(
            f"{name} has no safetensors weights in {part}; reinvert never loads pickles, so save it again with "
            "safe_serialization=True"
        )
    library = import_module(entry[0] if entry[0] in ("diffusers", "transformers") else "diffusers")
    transformers = library.__name__ == "transformers"
    stem = "model" if transformers else "diffusion_pytorch_model"
    half = [file for file in files if ".fp16" in file.name]
    variant = None if [file for file in files if file.name.startswith(stem)] != half else "fp16"
    # What has other shapes is left out by the libraries and told in `info`, as what is missing is.
    network, info = getattr(library, entry[1]).from_pretrained(
        path,
        torch_dtype=dtype,
        use_safetensors=True,
        variant=variant,
        local_files_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **({} if transformers else {"low_cpu_mem_usage": False}),
    )
    refuse_misfits(info, network, part, name)
    if not transformers:
        # Of a network in several files diffusers believes the index, which may promise more than is there.
        there = _keys(half if variant else [file for file in files if file not in half])
        refuse_misfits({"missing_keys": promised - there}, network, part, name)
    refuse_nonfinite(network, part, name, files)
    return network


def refuse_misfits(info: Mapping[str, Any], network: torch.nn.Module, part: str, name: str) -> None:
    """Raise `ReinvertError` for what a library's loading info says of missing, surplus and mis-shaped weights."""
    shapes = {mismatch[0]: mismatch for mismatch in info.get("mismatched_keys") or ()}
    # A weight that stands under two names is one.
    names = {key for key, _ in (*network.named_parameters(), *network.named_buffers())}
    twice = {key for key, _ in network.named_parameters(remove_duplicate=False)} - names
    missing = sorted(set(info.get("missing_keys") or ()) - set(shapes) - twice)
    surplus = [key for key in info.get("unexpected_keys") or () if key.rpartition(".")[2] not in HARMLESS]
    whose, total = f"the {part} of {name}", len(network.state_dict().keys() - twice)
    if missing:
        raise ReinvertError(
            f"{whose} lacks {len(missing)} of its {total} weights ({_listed(missing)}); download or save it again"
        )
    if shapes:
        key, found, wanted = min(shapes.values())
        raise ReinvertError(
            f"{whose} has {len(shapes)} weights of another shape than its config.json says ({_listed([key])} is "
            f"{_shape(found)}, not {_shape(wanted)}); the two are of different models"
        )
    if surplus:
        raise ReinvertError(
            f"{whose} has {len(surplus)} weights that its network has not ({_listed(sorted(surplus))}); its "
            "config.json is that of another model"
        )


def refuse_nonfinite(network: torch.nn.Module, part: str, name: str, files: Collection[Path] = ()) -> None:
    """Raise `ReinvertError` if a weight is not finite; from `files` whether it was so before it was cast."""
    # A sum is one pass over the memory and keeps every NaN and infinity; what overflows in it is looked at closer.
    values = [(key, value) for key, value in network.state_dict().items() if value.is_floating_point()]
    bad = [key for key, value in values if not (bool(value.sum().isfinite()) or bool(value.isfinite().all()))]
    if not bad:
        return
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    if all(_finite_in(files, key) for key in bad):
        raise ReinvertError(
            f"{len(bad)} weights of the {part} of {name} are too large for {dtype} ({_listed(bad)}); load it with "
            "--dtype bfloat16 or float32"
        )
    raise ReinvertError(
        f"{len(bad)} weights of the {part} of {name} hold NaN or infinity ({_listed(bad)}); the file is damaged, or "
        "its training failed: download it again, or take another"
    )


def _keys(files: Collection[Path]) -> set[str]:
    keys: set[str] = set()
    for file in files:
        with safe_open(file, "pt") as opened:
            keys |= set(opened.keys())
    return keys


def _finite_in(files: Collection[Path], key: str) -> bool:
    for file in files:
        with safe_open(file, "pt") as opened:
            if key in opened.keys():
                return bool(torch.isfinite(opened.get_tensor(key)).all())
    return False


def _listed(keys: Collection[str]) -> str:
    some = [shown(key, 80) for key in list(keys)[:NAMED]]
    return ", ".join(some) + (", ..." if len(keys) > NAMED else "")


def _shape(shape: Any) -> str:
    return "x".join(str(size) for size in shape) or "a single number"
