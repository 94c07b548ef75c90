"""Loading a backbone: a bundled name, a folder in diffusers format, a single file, a Hub id, or a loaded pipeline.

Which family reads a model is decided by the class names in its index. Only safetensors are read and no remote code is
run.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch

from reinvert.backbones.additions import add_lora, check_vae, folder_digest
from reinvert.backbones.base import Backbone, Family, Looks, World
from reinvert.backbones.compiling import check_compile
from reinvert.backbones.families import class_of, component_folders, families, family_of
from reinvert.backbones.lock import Busy, check_busy
from reinvert.backbones.pipeline import from_pipeline, is_pipeline
from reinvert.backbones.placement import (
    SHRUNK,
    Stage,
    Weights,
    check_weights,
    free_on,
    gains_by_bfloat16,
    plan,
    shrink,
    size_of,
)
from reinvert.backbones.single_file import Opened, load_words, read_single_file, settled
from reinvert.backbones.weights import read_network
from reinvert.collection import paused_collection
from reinvert.errors import ReinvertError, warn
from reinvert.files.model import NOTES, ModelNotes, prompt_length, read_index, read_notes, read_scheduler
from reinvert.models import BUNDLED, DTYPES, check_device, check_dtype, check_name, loras_of


def load(
    name: str | Path | Any,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    revision: str | None = None,
    lora: str | Path | Sequence[Any] = (),
    vae: str | Path | None = None,
    tokenizer: str | Path | None = None,
    offload: bool | None = None,
    weights: Weights = "auto",
    tile_vae: bool = False,
    compile: str = "off",
    gradients: bool = False,
    busy: Busy = "wait",
) -> Backbone:
    """Load a model.

    `name` is a bundled name ("picturebook", "picturebook-flow"), a folder in diffusers format, a checkpoint of Stable
    Diffusion 1.x, 2.x or XL in one safetensors file, or a Hub id such as "org/model" (then `revision` may name a
    branch, tag or commit); or a pipeline of diffusers that is already loaded: its weights are shared, its LoRA, textual
    inversions, device and dtype kept, and its attention processors given back after every
    edit. `device` "auto" takes CUDA, then MPS, then the CPU; `dtype` "auto" is float16 on CUDA (bfloat16 for flow
    transformers) and float32 elsewhere, but for large networks on a CPU with units for bfloat16.

    `lora` is a safetensors file, "FILE:0.8" or (file, 0.8) with its strength, or a list of those; they are added to the
    weights. `vae` is a folder with another VAE in diffusers format,
    and `tokenizer` one with CLIP's tokenizer for a checkpoint in one file, which does not hold its words.

    Models larger than the device: `offload` lets whole parts take turns on it, `weights` "fp8" keeps those of the
    denoiser and of T5 in 8 bits; both are chosen with a warning where the model would not fit otherwise (False and
    "full" never). `tile_vae` encodes and decodes pictures that are larger than usual in tiles.

    `compile` "blocks" compiles the parts of the network that no editor reaches, "whole" besides the network as one
    graph, where no editor has a say: the first picture of a size waits for it, later ones gain by it.

    Edits on one model from several threads wait for each other; with `busy`
    "raise", one that would have to wait raises `BusyError`. Raises `ReinvertError` with one sentence for anything that
    is missing.
    """
    check_busy(busy)
    if isinstance(name, str | Path):
        model = open_model(
            name,
            device,
            dtype,
            revision=revision,
            lora=lora,
            vae=vae,
            tokenizer=tokenizer,
            offload=offload,
            weights=weights,
            tile_vae=tile_vae,
            compile=compile,
            gradients=gradients,
        )
        check_inputs(model, str(name))
    else:
        if lora or vae is not None or tokenizer is not None:
            raise ReinvertError("a loaded pipeline keeps its own LoRA, VAE and tokenizer: load them into the pipeline")
        if compile != "off":
            raise ReinvertError("a loaded pipeline keeps its network as it is: compile it yourself, or load by name")
        if offload is not None or weights != "auto" or tile_vae:
            raise ReinvertError(
                "a loaded pipeline keeps its place in memory: use its own enable_model_cpu_offload, enable_vae_tiling"
            )
        model = _shared(name, device, dtype)
    model.lock.busy = busy
    return model


def _shared(pipeline: Any, device: str | torch.device, dtype: str | torch.dtype) -> Backbone:
    if not is_pipeline(pipeline):
        raise ReinvertError(
            f"{type(pipeline).__name__} is no model: load takes a name, a folder, or a loaded pipeline of diffusers"
        )
    if str(device) != "auto" or dtype != "auto":
        raise ReinvertError("a loaded pipeline keeps its device and dtype; leave them out, or call pipeline.to(...)")
    model = from_pipeline(pipeline)
    check_vocabularies(vars(model), model.name)
    check_inputs(model, model.name)
    return model


def open_model(
    name: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    revision: str | None = None,
    lora: str | Path | Sequence[Any] = (),
    vae: str | Path | None = None,
    tokenizer: str | Path | None = None,
    offload: bool | None = None,
    weights: Weights = "auto",
    tile_vae: bool = False,
    compile: str = "off",
    gradients: bool = False,
) -> Backbone:
    """`load` without asking whether the network takes latents alone: trained editors have networks that take more."""
    loras = loras_of(lora)
    if vae is not None and not (Path(vae) / "config.json").is_file():
        raise ReinvertError(f"{vae} is no VAE in diffusers format: give the folder that holds its config.json")
    where, shown = pick_device(device), str(name)
    stored = check_weights(weights, where)
    mode = check_compile(compile, where)
    place = _place(shown, revision)
    with paused_collection(), _quiet():
        if place.is_file():
            words = None if tokenizer is None else Path(tokenizer)
            opened = _read_file(place, lambda family: pick_dtype(dtype, where, family.half, gradients), words)
        elif tokenizer is not None:
            raise ReinvertError(f"{shown} has a tokenizer of its own; --tokenizer is for checkpoints in one file")
        else:
            opened = _read_folder(place, shown, lambda family: pick_dtype(dtype, where, family.half, gradients))
        parts, family, options = opened.parts, opened.family, opened.options
        kind = pick_dtype(dtype, where, family.half, gradients)
        additions: dict[str, Any] = {}
        if vae is not None:
            parts["vae"] = _other_vae(Path(vae), parts["vae"], shown, kind)
            additions["vae"] = {"folder": Path(vae).name, "sha256": folder_digest(Path(vae))}
        networks = {part: loaded for part, loaded in parts.items() if isinstance(loaded, torch.nn.Module)}
        narrow = dtype == "auto" and any(gains_by_bfloat16(networks[part], where) for part in networks.keys() & SHRUNK)
        sizes = {part: size_of(network) for part, network in networks.items()}
        t5 = next((part for part, network in networks.items() if type(network).__name__.startswith("T5")), None)
        placed = plan(sizes, free_on(where), shown, offload=offload, weights=stored, t5=t5)
        for part, network in networks.items():
            # Many VAEs overflow in float16; their configuration says so.
            full = part == "vae" and kind == torch.float16 and cast(Any, network).config.get("force_upcast", True)
            own = torch.bfloat16 if narrow and part in SHRUNK else torch.float32 if full else kind
            network.to(torch.device("cpu") if placed.offload else where, own)
        if loras:
            additions["lora"] = add_lora(parts, family, loras, shown)
        scheduler = _settled(parts, opened.scheduler, shown)
        if placed.fp8:
            for part in networks.keys() & {*SHRUNK, t5}:
                shrink(networks[part], torch.bfloat16 if part == t5 and kind == torch.float16 else kind)
            additions["weights"] = "fp8"
        if placed.offload:
            additions["offload"] = True
            parts["vae"].enable_slicing()
        if tile_vae:
            additions["tiled_vae"] = True
            parts["vae"].enable_tiling()
    if placed.why is not None:
        warn(placed.why)
    if narrow:
        warn(f"{shown} is computed in bfloat16, which this CPU does several times as fast; --dtype float32 is finer")
    check_vocabularies(parts, shown)
    if shown not in BUNDLED and Path(name).exists():
        shown = Path(name).name
    try:
        model = family.open(parts | options, scheduler, shown)
        model.additions = additions
        if mode != "off":
            if placed.offload or placed.fp8:
                raise ReinvertError("--compile wants whole weights on one device; add --no-offload --weights full")
            if not hasattr(model, "compile"):
                raise ReinvertError(f"{family.title} models know no --compile")
            cast(Any, model).compile(mode)
        if placed.offload or placed.fp8:
            if not isinstance(getattr(model, "stage", None), Stage):
                raise ReinvertError(f"{family.title} models know no --offload and no --weights fp8")
            cast(Any, model).stage = Stage(where, offload=placed.offload, fp8=placed.fp8)
            model.device = where
        model.nothing(1)  # tokenizer and text encoder fit together
    except ReinvertError:
        raise
    except Exception as error:  # a configuration that the libraries take and that makes no sense
        raise ReinvertError(f"{shown} cannot be used: {_reason(error)}") from error
    if place.is_dir():
        _note(model, place, str(name))
    return model


def _settled(parts: Mapping[str, Any], scheduler: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        return settled(parts, scheduler)
    except RuntimeError as error:  # the network cannot be evaluated
        raise ReinvertError(f"{name} cannot be used: {_reason(error)}") from error


def _read_file(path: Path, dtype: Callable[[Family], torch.dtype], tokenizer: Path | None) -> Opened:
    """The parts of a checkpoint in one file, on the CPU."""
    try:
        return read_single_file(path, dtype, tokenizer)
    except ReinvertError:
        raise
    except (KeyError, StopIteration) as error:  # a weight that tells a size
        lacks = "" if isinstance(error, StopIteration) else f": it has no {error.args[0]}"
        raise ReinvertError(f"{path.name} is not a whole checkpoint{lacks}; download it again") from error
    except Exception as error:  # shapes that make no sense
        raise ReinvertError(f"{path.name} cannot be loaded: {_reason(error)}") from error


def _read_folder(folder: Path, name: str, dtype: Callable[[Family], torch.dtype]) -> Opened:
    """The parts of a model in diffusers format, on the CPU."""
    index = read_index(folder, name)
    family = family_of(index, name)
    present = [part for part in family.parts if class_of(index, part) is not None]
    parts = {part: _component(folder, part, index, name, dtype(family)) for part in present}
    scheduler = read_scheduler(folder, name) if "scheduler" in index else {}
    return Opened(parts, family, scheduler, {option: index[option] for option in family.options if option in index})


def _note(model: Backbone, folder: Path, name: str) -> None:
    """Let the model be what its folder says of it beyond diffusers' format."""
    notes = read_notes(folder, name)
    if notes.usual is not None:
        model.usual = replace(model.usual, steps=notes.usual.steps, guidance=notes.usual.guidance)
    model.world = _world(notes)


def _world(notes: ModelNotes) -> World | None:
    if notes.words is None and notes.pictures is None:
        return None
    looks = None
    if notes.pictures is not None:
        colors = tuple((int(c[1:3], 16), int(c[3:5], 16), int(c[5:7], 16)) for c in notes.pictures.colors)
        looks = Looks(**notes.pictures.model_dump(exclude={"colors"}), colors=colors)
    return World(frozenset(word.lower() for word in notes.words or ()), looks)


def _other_vae(folder: Path, own: Any, name: str, dtype: torch.dtype) -> Any:
    """The VAE of a folder, which may be that of a whole model or stand alone."""
    entry = ("diffusers", type(own).__name__)
    try:
        other = read_network(folder.parent, folder.name, entry, str(folder.parent), dtype)
    except ReinvertError:
        raise
    except Exception as error:
        raise ReinvertError(f"the VAE in {folder} cannot be loaded: {_reason(error)}") from error
    check_vae(other, own, name)
    return other


def check_inputs(model: Backbone, name: str) -> None:
    """Raise `ReinvertError` if the network reads something beside the latents, as a trained editor's does."""
    network, vae = getattr(model.network, "config", None), getattr(getattr(model, "vae", None), "config", None)
    if network is None or vae is None:
        return  # of a family from outside, which knows for itself
    taken, latent = int(network.in_channels), int(vae.latent_channels)
    if model.flow:
        # A transformer may read latents in packs; what it gives back has as many channels as it reads.
        latent = int(network.out_channels or taken)
    if taken == latent:
        return
    whose = f"{name} takes {taken} input channels, and its latents have {latent}: it was trained to"
    if taken == 2 * latent + 1:
        raise ReinvertError(
            f"{whose} redraw what a mask covers; use it with `reinvert instruct PICTURE TEXT --editor inpainting "
            f"--mask FILE --model {name}`"
        )
    if taken == 2 * latent:
        raise ReinvertError(
            f"{whose} follow instructions; use it with `reinvert instruct PICTURE TEXT --editor instruct_pix2pix "
            f"--model {name}`"
        )
    raise ReinvertError(f"{whose} read something beside them, which reinvert does not know; take another model")


def check_vocabularies(parts: Mapping[str, Any], name: str) -> None:
    """Raise `ReinvertError` if a tokenizer has words that its text encoder has no embedding for."""
    for part, tokenizer in parts.items():
        encoder = parts.get(part.replace("tokenizer", "text_encoder"))
        if not part.startswith("tokenizer") or encoder is None:
            continue
        words = 1 + max(tokenizer.get_vocab().values(), default=-1)
        known = int(encoder.get_input_embeddings().num_embeddings)
        if words > known:
            raise ReinvertError(
                f"the {part} of {name} has {words:,} words, but its text encoder has embeddings for {known:,}: a "
                "textual inversion that was added to one of them only; add it to both, or take the tokenizer it "
                "came with"
            )


def load_tokenizer(name: str | Path, revision: str | None = None, tokenizer: str | Path | None = None) -> Any:
    """The tokenizer of a model alone: enough to check and explain prompts, in a fraction of `load`'s time."""
    folder = _place(str(name), revision)
    if folder.is_file():
        with _quiet():
            return load_words(folder, None if tokenizer is None else Path(tokenizer))
    index = read_index(folder, str(name))
    family_of(index, str(name))
    with _quiet():
        return _component(folder, "tokenizer", index, str(name), torch.float32)


def load_world(name: str | Path, revision: str | None = None) -> World | None:
    """What a model's folder says about its world, without loading the model."""
    place = _place(str(name), revision)
    return None if place.is_file() else _world(read_notes(place, str(name)))


def pick_device(device: str | torch.device) -> torch.device:
    """A torch device; "auto" is the best one at hand."""
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    check_device(str(device))
    picked = torch.device(device)
    if picked.type == "cuda" and not torch.cuda.is_available():
        raise ReinvertError("no CUDA device can be used here; leave --device at auto, or use cpu")
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ReinvertError(f"there is no {picked}: this machine's are cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    if picked.type == "mps" and not torch.backends.mps.is_available():
        raise ReinvertError("no MPS device can be used here; leave --device at auto, or use cpu")
    return picked


def pick_dtype(
    dtype: str | torch.dtype, device: torch.device, half: torch.dtype = torch.float16, gradients: bool = False
) -> torch.dtype:
    """The network's dtype; "auto" is the family's usual `half` on CUDA and float32 elsewhere.

    For `gradients` through the network it is float32 where `half` is float16: gradients below 6e-8 are zero there, and
    above 65504 infinite. The published programs learn in float32. bfloat16 has float32's range and stays.
    """
    if dtype == "auto":
        usual = torch.float32 if gradients and half == torch.float16 else half
        return usual if device.type == "cuda" else torch.float32
    if not isinstance(dtype, torch.dtype):
        check_dtype(dtype)
        dtype = cast(torch.dtype, getattr(torch, DTYPES[dtype]))
    if dtype == torch.float64 and device.type == "mps":
        raise ReinvertError("MPS devices have no float64; choose --dtype float32, or --device cpu")
    return dtype


def _place(name: str, revision: str | None, folders: Sequence[str] | None = None) -> Path:
    """A folder in diffusers format, or a checkpoint in one file. Of a model on the Hub only `folders` are fetched, by
    default those that any family reads."""
    if name in BUNDLED:
        if not BUNDLED[name].exists():
            raise ReinvertError(
                f"the bundled model {name} is not in this installation; reinstall reinvert, or see docs/training.md"
            )
        return BUNDLED[name]
    check_name(name)
    if Path(name).exists():
        return Path(name)
    return _download(name, revision, folders or component_folders())


def _download(name: str, revision: str | None, folders: Sequence[str]) -> Path:
    """Fetch a Hub repository's diffusers components (or find them in the local cache)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    texts = ("json", "txt", "model")  # configurations, vocabularies, sentencepiece models
    wanted = ["model_index.json", NOTES, *(f"{part}/*.{end}" for part in folders for end in texts)]
    stems = ("diffusion_pytorch_model", "model")
    weights = [f"{part}/{stem}{n}.safetensors" for part in folders for stem in stems for n in ("", "-*-of-*")]
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


def _component(folder: Path, part: str, index: Mapping[str, Any], name: str, dtype: torch.dtype) -> Any:
    path, made = folder / part, str(class_of(index, part))
    if not path.is_dir():
        raise ReinvertError(f"{name} is not a complete model in diffusers format: the folder {part} is missing")
    try:
        if "Tokenizer" in made:
            library = import_module("transformers")
            length = prompt_length(folder, name, part, part.replace("tokenizer", "text_encoder"))
            tokenizer: Any = getattr(library, made).from_pretrained(path, local_files_only=True)
            tokenizer.model_max_length = length or tokenizer.model_max_length
            return tokenizer
        return read_network(folder, part, (index[part][0], made), name, dtype)
    except ReinvertError:
        raise
    except Exception as error:  # whatever a broken file makes the libraries raise
        raise ReinvertError(f"the {part} of {name} cannot be loaded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What a library says, on one line; the kind of error where it says nothing."""
    return " ".join(str(error).split())[:160] or type(error).__name__


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


__all__ = [
    "BUNDLED",
    "component_folders",
    "families",
    "family_of",
    "load",
    "load_tokenizer",
    "open_model",
    "pick_device",
    "pick_dtype",
]
