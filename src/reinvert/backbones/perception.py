"""Networks of transformers that look at a picture for us: a folder or a Hub id, safetensors only, no remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from reinvert.backbones.loading import _quiet  # pyright: ignore[reportPrivateUsage]
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor
from reinvert.networks.files import digest, locate, read_json
from reinvert.networks.vit import Colour


def load_network(where: str | Path, cls: str, types: tuple[str, ...], what: str) -> tuple[Any, Path, str]:
    """A network of the transformers class `cls` in evaluation, its folder, and the digest of its weights.

    `types` are the values of `model_type` that its config.json may have, `what` is what a sentence calls it. Raises
    `ReinvertError` if something is missing or cannot be read.
    """
    folder = locate(where)
    if read_json(folder / "config.json").get("model_type") not in types:
        raise ReinvertError(f"{where} is not {what} in transformers format: its config.json must say so")
    told_by = digest(folder)  # refuses a folder that holds only pickles
    import transformers

    try:
        with _quiet():
            loaded: Any = getattr(transformers, cls).from_pretrained(
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # whatever a broken file makes the library raise
        raise ReinvertError(f"{where} cannot be loaded: {' '.join(str(error).split())[:160]}") from error
    network, told = loaded
    if told["missing_keys"]:
        # The library fills what is missing with random numbers.
        raise ReinvertError(f"{where} lacks weights of {what}: {sorted(told['missing_keys'])[0]} is missing")
    return network.eval().requires_grad_(False), folder, told_by


def load_words(folder: Path, cls: str) -> Any:
    """The tokenizer of the transformers class `cls` in a network's folder."""
    import transformers

    try:
        with _quiet():
            return getattr(transformers, cls).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever a broken file makes the library raise
        reason = " ".join(str(error).split())[:160]
        raise ReinvertError(f"the tokenizer of {folder.name} cannot be loaded: {reason}") from error


def side_of(folder: Path, usual: int) -> int:
    """The side of the square pictures that a network takes: what its folder says, or the usual one."""
    size: Any = read_json(folder / "preprocessor_config.json").get("size", usual)
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge", usual))
    if not isinstance(size, int) or not 1 <= size <= 4096:
        raise ReinvertError(f"the preprocessor_config.json of {folder.name} says no size of a picture")
    return size


def seen(network: Any, picture: Image.Image, size: tuple[int, int], colours: tuple[Colour, Colour]) -> Tensor:
    """An RGB picture as a network wants it, [1, 3, height, width]: resized whatever its shape, normalised."""
    pixels = to_tensor(picture).to(network.device)
    x = F.interpolate(pixels / 2 + 0.5, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    mean, std = (torch.tensor(c, device=x.device, dtype=x.dtype).view(-1, 1, 1) for c in colours)
    return ((x - mean) / std).to(network.dtype)
