"""Names of models, devices and dtypes, and what is usual for a model: without torch, so that it is answered at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from reinvert.errors import ReinvertError, meant
from reinvert.files import read_json, shown
from reinvert.files.model import read_notes

BUNDLED: Final = {
    "picturebook": Path(__file__).parent / "picturebook" / "model",
    "picturebook-flow": Path(__file__).parent / "picturebook" / "model-flow",
}
DTYPES: Final = {
    "float64": "float64",
    "fp64": "float64",
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
"""What may be typed, and torch's name of it."""
PICKLES: Final = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
"""Endings of files that run code when they are opened."""
_DEVICE: Final = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@dataclass(frozen=True)
class Usual:
    """What is usual for a model where the user says nothing: steps of a run, guidance scale and editor of an edit."""

    steps: int = 50
    guidance: float = 7.5
    editor: str = "p2p"
    inversion: str = "direct"
    """For the editors that have no usual one of their own."""


USUAL: Final[Mapping[str, Usual]] = {
    "Stable Diffusion 1.x and 2.x": Usual(),
    "Stable Diffusion XL": Usual(50, 5.0),
    "Stable Diffusion XL Turbo": Usual(4, 1.0, "turbo_edit"),
    "Stable Diffusion 3": Usual(28, 7.0, "flowedit"),
    "Stable Diffusion 3.5 medium": Usual(28, 4.5, "flowedit"),
    "Stable Diffusion 3.5 large": Usual(28, 3.5, "flowedit"),
    "FLUX.1 dev": Usual(28, 3.5, "flowedit"),
    "FLUX.1 schnell": Usual(4, 1.0, "flowedit"),
}
"""What is usual for the models of this package's families, unless their folder says otherwise."""


def stable_diffusion_xl(scheduler: Mapping[str, Any]) -> Usual:
    """Of the checkpoint with this scheduler: adversarially distilled ones (turbo) come with its sampler and grid."""
    sampler, spacing = str(scheduler.get("_class_name", "")), scheduler.get("timestep_spacing")
    turbo = sampler.startswith("EulerAncestral") and spacing == "trailing"
    return USUAL[f"Stable Diffusion XL{' Turbo' if turbo else ''}"]


def stable_diffusion_3(transformer: Mapping[str, Any]) -> Usual:
    """Of the checkpoint with this transformer: 3.5 norms queries and keys, its medium size has a second attention."""
    newer = "5 medium" if transformer.get("dual_attention_layers") else "5 large"
    return USUAL[f"Stable Diffusion 3{'.' + newer if transformer.get('qk_norm') else ''}"]


def flux(transformer: Mapping[str, Any]) -> Usual:
    """Of the checkpoint with this transformer: dev is told a guidance scale."""
    return USUAL[f"FLUX.1 {'dev' if transformer.get('guidance_embeds') else 'schnell'}"]


def usual_of(name: str) -> Usual | None:
    """What is usual for a bundled or local model, or one of the Hub that was loaded before, as far as its folder tells
    without torch; None where it does not."""
    try:
        folder = _folder(name)
        notes = read_notes(folder, name).usual
        family = _family(folder)
    except (OSError, ValueError):  # no such folder, no such name, or files that loading the model refuses
        return None
    if notes is None:
        return family
    return replace(family or Usual(), steps=notes.steps, guidance=notes.guidance)


def _folder(name: str) -> Path:
    """Where a model's files are, on this machine."""
    folder = BUNDLED.get(name, Path(name))
    if not folder.exists() and _is_hub_id(name):
        from huggingface_hub import try_to_load_from_cache  # here: other names do not wait for it

        index = try_to_load_from_cache(name, "model_index.json")
        return Path(index).parent if isinstance(index, str) else folder
    return folder


def _family(folder: Path) -> Usual | None:
    """What is usual for the family that a folder's `model_index.json` tells by its classes; None of foreign ones."""
    index = _json(folder / "model_index.json")
    parts: dict[str, Any] = {part: entry[1] for part, entry in index.items() if isinstance(entry, list) and entry[1:]}
    match parts.get("transformer") or parts.get("unet"):
        case "UNet2DConditionModel" if parts.get("text_encoder_2"):
            return stable_diffusion_xl(_json(folder / "scheduler" / "scheduler_config.json"))
        case "UNet2DConditionModel":
            return USUAL["Stable Diffusion 1.x and 2.x"]
        case "SD3Transformer2DModel":
            return stable_diffusion_3(_json(folder / "transformer" / "config.json"))
        case "FluxTransformer2DModel":
            return flux(_json(folder / "transformer" / "config.json"))
        case _:
            return None


def _json(path: Path) -> dict[str, Any]:
    """An object of JSON; nothing where there is none."""
    found = read_json(path) if path.is_file() else {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def check_name(name: str) -> None:
    """Raise `ReinvertError` unless this is a bundled model, a folder or safetensors file, or could be a Hub id."""
    if name in BUNDLED:
        return
    try:
        exists, is_folder = Path(name).exists(), Path(name).is_dir()
    except (OSError, ValueError):  # too long, or with a zero byte
        exists = is_folder = False
    if is_folder:
        return
    if exists:
        check_safetensors(Path(name), "a model")
        return
    if _is_hub_id(name):
        return
    hint = meant(name, BUNDLED, "give picturebook, a folder in diffusers format, or a Hub id like org/model")
    raise ReinvertError(f"there is no model '{shown(name)}'; {hint}")


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    plain = re.fullmatch(r"[\w./-]{1,200}", name) is not None
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~")) and plain


def check_steps(name: str, steps: int | None) -> None:
    """Raise `ReinvertError` for more steps than the schedule of a bundled model, or of a folder, has."""
    if steps is None:
        return
    try:
        config: Any = read_json(BUNDLED.get(name, Path(name)) / "scheduler" / "scheduler_config.json")
        limit = config["num_train_timesteps"]
    except (ReinvertError, KeyError, TypeError):  # on the Hub, or not as it should be: loading it will tell
        return
    if isinstance(limit, int) and steps > limit:
        raise ReinvertError(f"{steps} steps cannot be taken; choose between 1 and {limit}")


def check_device(name: str) -> None:
    """Raise `ReinvertError` unless reinvert runs on devices of that name; whether there is one, torch knows."""
    if not _DEVICE.fullmatch(name):
        raise ReinvertError(f"there is no device '{shown(name)}'; use auto, cpu, cuda, cuda:0 or mps")


def check_dtype(name: str) -> None:
    """Raise `ReinvertError` unless it is "auto" or a dtype's name."""
    if name != "auto" and name not in DTYPES:
        raise ReinvertError(f"there is no dtype '{shown(name)}'; use auto, float64, float32, bfloat16 or float16")


class Lora(NamedTuple):
    """A LoRA file, and how strongly it is added: 1 as it was trained, 0 not at all."""

    path: Path
    strength: float = 1.0


def lora_of(given: Any) -> Lora:
    """`FILE`, `FILE:0.8`, or (file, 0.8); raises `ReinvertError` unless it is a safetensors file that exists."""
    path, strength = given if isinstance(given, tuple | list) and len(given) == 2 else (given, 1.0)
    file, colon, typed = str(path).rpartition(":")
    if colon and not Path(str(path)).exists() and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", typed):
        path, strength = file, float(typed)
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not -10 <= strength <= 10:
        raise ReinvertError(f"the strength of a LoRA is a number from -10 to 10, not {shown(repr(strength))}")
    if not isinstance(path, str | Path):
        raise ReinvertError(f"a LoRA is given as a file, or as (file, strength), not as {shown(repr(path))}")
    check_safetensors(Path(path), "a LoRA")
    return Lora(Path(path), float(strength))


def loras_of(given: Any) -> tuple[Lora, ...]:
    """One LoRA, or a list of them; see `lora_of`."""
    single = isinstance(given, str | Path) or (
        isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], int | float)
    )
    if not single and not isinstance(given, Sequence):
        raise ReinvertError(f"lora takes a file, (file, strength), or a list of them, not {shown(repr(given))}")
    return tuple(lora_of(one) for one in cast("Sequence[Any]", [given] if single else given))


def check_safetensors(path: Path, what: str) -> None:
    """Raise `ReinvertError` unless it is a safetensors file that exists."""
    if path.suffix.lower() in PICKLES:
        raise ReinvertError(
            f"{shown(path.name)} is a pickle, which can run any program when it is opened, so reinvert never does; "
            "take the .safetensors file of the same model, or convert it where you trust it"
        )
    if not path.is_file():
        raise ReinvertError(f"{shown(path)} does not exist")
    if path.suffix.lower() != ".safetensors":
        raise ReinvertError(f"{shown(path.name)} is a file, but not {what} that can be read: take a .safetensors file")
