"""Loading a backbone: a bundled name, a local folder in diffusers format, or a Hub id.

Only safetensors are read and no remote code is run.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from reinvert.backbones.base import Backbone
from reinvert.errors import ReinvertError

BUNDLED = {"picturebook": Path(__file__).parent.parent / "picturebook" / "model"}
COMPONENTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def load(
    name: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    revision: str | None = None,
) -> Backbone:
    """Load a model.

    `name` is a bundled name ("picturebook"), a folder in diffusers format, or a Hub id such as "org/model" (then
    `revision` may name a branch, tag or commit). `device` "auto" takes CUDA, then MPS, then the CPU; `dtype` "auto" is
    float16 on CUDA and float32 elsewhere. Raises `ReinvertError` with one sentence for anything that is missing.
    """
    where = pick_device(device)
    kind = pick_dtype(dtype, where)
    folder = _folder(str(name), revision)
    index = _index(folder, str(name))
    with _quiet():
        parts = {part: _component(folder, part, str(name), kind) for part in COMPONENTS}
        for part in ("unet", "vae", "text_encoder"):
            # Many VAEs overflow in float16; their configuration says so.
            full = part == "vae" and kind == torch.float16 and parts[part].config.get("force_upcast", True)
            parts[part].to(where, torch.float32 if full else kind)
    from reinvert.backbones.stable_diffusion import StableDiffusion

    scheduler = _json(folder / "scheduler" / "scheduler_config.json", str(name)) if "scheduler" in index else {}
    shown = str(name) if str(name) in BUNDLED or not Path(name).exists() else Path(name).name
    return StableDiffusion(**parts, scheduler=scheduler, name=shown)


def load_tokenizer(name: str | Path, revision: str | None = None) -> Any:
    """The tokenizer of a model alone: enough to check and explain prompts, in a fraction of `load`'s time."""
    folder = _folder(str(name), revision)
    _index(folder, str(name))
    with _quiet():
        return _component(folder, "tokenizer", str(name), torch.float32)


def pick_device(device: str | torch.device) -> torch.device:
    """A torch device; "auto" is the best one at hand."""
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        picked = torch.device(device)
    except RuntimeError as error:
        raise ReinvertError(f"there is no device {device!r}; use auto, cpu, cuda or cuda:0") from error
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise ReinvertError("no CUDA device can be used here; leave --device at auto, or use cpu")
    if picked.type == "mps" and not torch.backends.mps.is_available():
        raise ReinvertError("no MPS device can be used here; leave --device at auto, or use cpu")
    return picked


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The network's dtype; "auto" is float16 on CUDA and float32 elsewhere."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ReinvertError(f"there is no dtype {dtype!r}; use auto, float32, bfloat16 or float16")
    return DTYPES[dtype]


def _folder(name: str, revision: str | None) -> Path:
    if name in BUNDLED:
        if not BUNDLED[name].exists():
            raise ReinvertError(
                f"the bundled model {name} is not in this installation; reinstall reinvert, or train it with "
                "python -m reinvert.picturebook.train"
            )
        return BUNDLED[name]
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise ReinvertError(
            f"{name} is a file; reinvert loads folders in diffusers format (convert single-file checkpoints with "
            "diffusers first)"
        )
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith((".", "~", "/")):
        raise ReinvertError(
            f"there is no model {name!r}; give picturebook, a folder in diffusers format, or a Hub id like org/model"
        )
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    """Fetch a Hub repository's diffusers components (or find them in the local cache)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    folders = (*COMPONENTS, "scheduler")
    wanted = ["model_index.json", *(f"{part}/*.{end}" for part in folders for end in ("json", "txt"))]
    weights = [f"{part}/{stem}.safetensors" for part in COMPONENTS for stem in ("diffusion_pytorch_model", "model")]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[*wanted, *weights]))
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        raise ReinvertError(
            f"the Hub has no model {name!r} that you may read; check the name, or log in with `hf auth login`"
        ) from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ReinvertError(
            f"{name!r} is not in the local cache and the Hub cannot be reached; give a local folder, or try online"
        ) from error


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        missing = path.relative_to(path.parents[1]) if path.parent.name in (*COMPONENTS, "scheduler") else path.name
        raise ReinvertError(f"{name} is not a complete model in diffusers format: {missing} is missing") from error
    except (OSError, ValueError) as error:
        raise ReinvertError(f"{name} is not a model in diffusers format: {path.name} cannot be read") from error


def _index(folder: Path, name: str) -> dict[str, Any]:
    index = _json(folder / "model_index.json", name)
    for part, classes in COMPONENTS.items():
        found = (index.get(part) or [None, None])[1]
        if found is None:
            kind = index.get("_class_name", "something else")
            raise ReinvertError(
                f"{name} has no {part}: it is a {kind}, and reinvert reads Stable Diffusion 1.x and 2.x"
            )
        if found not in classes:
            raise ReinvertError(
                f"the {part} of {name} is a {found}, not a {classes[0]}; reinvert reads Stable Diffusion 1.x and 2.x"
            )
    if index.get("text_encoder_2"):
        raise ReinvertError(f"{name} is a Stable Diffusion XL model; reinvert reads Stable Diffusion 1.x and 2.x")
    return index


def _component(folder: Path, part: str, name: str, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    path = folder / part
    if not path.is_dir():
        raise ReinvertError(f"{name} is not a complete model in diffusers format: the folder {part} is missing")
    try:
        if part == "tokenizer":
            return CLIPTokenizer.from_pretrained(path)
        classes: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        variant = None if list(path.glob(f"{stem}*.safetensors")) != list(path.glob("*.fp16*.safetensors")) else "fp16"
        if not list(path.glob("*.safetensors")):
            raise ReinvertError(
                f"{name} has no safetensors weights in {part}; reinvert never loads pickles, so save it again with "
                "safe_serialization=True"
            )
        slow = {} if part == "text_encoder" else {"low_cpu_mem_usage": False}
        made = classes[part].from_pretrained(path, torch_dtype=dtype, use_safetensors=True, variant=variant, **slow)
        return made
    except ReinvertError:
        raise
    except Exception as error:  # whatever a broken file makes the libraries raise
        reason = " ".join(str(error).split())[:160]
        raise ReinvertError(f"the {part} of {name} cannot be loaded: {reason}") from error


@contextmanager
def _quiet() -> Generator[None]:
    """The libraries' advice about optional packages and unused weights is not for our users."""
    # Imported before they are silenced: both set their loggers' levels when they are imported.
    import diffusers.utils.logging  # pyright: ignore[reportUnusedImport]  # noqa: F401
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(n) for n in ("diffusers", "transformers")]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    former = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, former, strict=True):
                logger.setLevel(level)
            if bars:
                transformers_logging.enable_progress_bar()
