"""What is added to a model when it is loaded: LoRA, fused into its weights, and another VAE."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from reinvert.backbones.base import Family
from reinvert.errors import ReinvertError
from reinvert.files import shown
from reinvert.models import Lora

HALVES = ((".lora_A.", ".lora_B."), (".lora_down.", ".lora_up."), (".lora.down.", ".lora.up."))
"""What the two factors of a LoRA are called, by different programs."""


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def add_lora(parts: Mapping[str, Any], family: Family, loras: Sequence[Lora], name: str) -> list[dict[str, Any]]:
    """Fuse LoRA into the parts' weights, W + strength B A, and return the records of their files.

    Raises `ReinvertError` for a file that is none, or that was made for another kind of model.
    """
    if not loras:
        return []
    pipe = _pipeline(parts, family, name)
    before = _sums(pipe)
    adapters: dict[str, float] = {}
    for i, lora in enumerate(loras):
        weights = _read(lora.path)
        adapters[adapter := f"lora_{i}"] = lora.strength
        try:
            pipe.load_lora_weights(weights, adapter_name=adapter)
        except Exception as error:  # whatever the library makes of shapes and names that do not fit
            raise ReinvertError(
                f"the LoRA {shown(lora.path.name)} does not fit {name}, which is a {family.title} model: "
                f"{' '.join(str(error).split())[:120]}"
            ) from error
        if adapter not in {a for of_part in pipe.get_list_adapters().values() for a in of_part}:
            raise ReinvertError(
                f"the LoRA {shown(lora.path.name)} does not fit {name}, which is a {family.title} model: none of its "
                "weights belongs to a layer there"
            )
    changed = [part for part in pipe._lora_loadable_modules if pipe.components.get(part) is not None]
    try:
        pipe.set_adapters(list(adapters), adapter_weights=list(adapters.values()))
        pipe.fuse_lora(components=changed, adapter_names=list(adapters))
        pipe.unload_lora_weights()
    except Exception as error:
        raise ReinvertError(f"the LoRA of {name} cannot be added: {' '.join(str(error).split())[:120]}") from error
    if any(lora.strength for lora in loras) and _sums(pipe) == before:
        raise ReinvertError(f"the LoRA of {name} change none of its weights; they are of another kind of model")
    return [{"file": lora.path.name, "sha256": digest(lora.path), "strength": lora.strength} for lora in loras]


def _pipeline(parts: Mapping[str, Any], family: Family, name: str) -> Any:
    """diffusers' pipeline around the parts, whose loader knows the formats of LoRA files."""
    try:
        import peft  # noqa: F401  # pyright: ignore[reportUnusedImport, reportMissingTypeStubs]
    except ImportError as error:
        raise ReinvertError("LoRA are read with peft: pip install 'reinvert[lora]'") from error
    import diffusers

    kind: Any = getattr(diffusers, family.pipelines[0], None)
    if kind is None or not hasattr(kind, "load_lora_weights"):
        raise ReinvertError(f"{name} is a {family.title} model, for which no LoRA can be loaded")
    scheduler = diffusers.DDIMScheduler() if "unet" in parts else diffusers.FlowMatchEulerDiscreteScheduler()
    given: dict[str, Any] = {part: parts.get(part) for part in family.parts} | {"scheduler": scheduler}
    other = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    other |= {"add_watermarker": False}
    takes = inspect.signature(kind.__init__).parameters
    return kind(**given, **{key: value for key, value in other.items() if key in takes})


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = load_file(path)
    except Exception as error:
        raise ReinvertError(
            f"the LoRA {shown(path.name)} cannot be read: {' '.join(str(error).split())[:120]}"
        ) from error
    if not any("lora" in key.lower() for key in weights):
        raise ReinvertError(f"{shown(path.name)} is no LoRA: none of its {len(weights)} weights is called so")
    halves = [key.replace(a, b) for key in weights for pair in HALVES for a, b in (pair, pair[::-1]) if a in key]
    lost = sorted({half for half in halves if half not in weights})
    if lost:
        raise ReinvertError(
            f"the LoRA {shown(path.name)} lacks {len(lost)} weights ({shown(lost[0], 80)}); download it again"
        )
    bad = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ReinvertError(
            f"{len(bad)} weights of the LoRA {shown(path.name)} hold NaN or infinity ({shown(bad[0], 80)})"
        )
    return weights


def _sums(pipe: Any) -> list[float]:
    networks = [pipe.components.get(part) for part in pipe._lora_loadable_modules]
    return [float(p.detach().abs().sum()) for n in networks if n is not None for p in n.parameters() if p.ndim > 1]


def check_vae(vae: Any, replaced: Any, name: str) -> None:
    """Raise `ReinvertError` unless one VAE can stand in another's place."""
    for key in ("latent_channels", "scaling_factor", "shift_factor"):
        found, wanted = vae.config.get(key), replaced.config.get(key)
        same = (
            math.isclose(found, wanted) if isinstance(found, float) and isinstance(wanted, float) else found == wanted
        )
        if not same:
            raise ReinvertError(
                f"the VAE given with --vae is none for {name}: its {key} is {found}, and the model's own has {wanted}"
            )
    if len(vae.config.block_out_channels) != len(replaced.config.block_out_channels):
        raise ReinvertError(f"the VAE given with --vae is none for {name}: its latents are of another size")


def folder_digest(folder: Path) -> str:
    """Of the safetensors files in a folder, in order of their names."""
    return hashlib.sha256(
        "".join(digest(file) for file in sorted(folder.glob("*.safetensors")) if file.is_file()).encode()
    ).hexdigest()
