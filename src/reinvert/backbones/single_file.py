"""Checkpoints in one file, of Stable Diffusion 1.x, 2.x and XL: the format of the authors' own programs.

Such a file has no configuration. Sizes are read off the shapes of its weights, and what shapes do not tell (heads,
schedule, scaling) is what the family has; nothing is fetched for it. Names are translated by diffusers. The words of
CLIP's tokenizer are not in the file either: they come from a folder, or from the Hub's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from reinvert.backbones.base import Family
from reinvert.backbones.families import families
from reinvert.backbones.weights import refuse_misfits, refuse_nonfinite
from reinvert.errors import ReinvertError
from reinvert.files import shown
from reinvert.models import check_safetensors

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
XL_CLIP, XL_OPEN_CLIP = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."

TOKENIZERS = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer/"),
    ("CompVis/stable-diffusion-v1-4", "tokenizer/"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer/"),
)
"""Where the words of CLIP's tokenizer are on the Hub; they are the same in all."""
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


class Opened(NamedTuple):
    """The parts of a checkpoint, the family that reads them, a scheduler's configuration and the `Family.options`."""

    parts: dict[str, Any]
    family: Family
    scheduler: dict[str, Any]
    options: dict[str, Any]


def read_single_file(path: Path, dtype_of: Callable[[Family], torch.dtype], tokenizer: Path | None = None) -> Opened:
    """The parts of a checkpoint in one file, on the CPU. Raises `ReinvertError` for a file that is no such checkpoint,
    or lacks weights."""
    kind = kind_of(path)
    words = find_tokenizer(path, tokenizer)
    family = families()["stable_diffusion_xl" if kind == "xl" else "stable_diffusion"]
    weights, name, dtype = load_file(path), path.name, dtype_of(family)
    unet = _unet(weights, dtype, name, kind)
    vae = _vae(weights, dtype, name, kind)
    if kind == "xl":
        first = _clip(weights, XL_CLIP, dtype, "text_encoder", name)
        second = _open_clip(weights, XL_OPEN_CLIP, dtype, "text_encoder_2", name, pooled=True)
        _added(unet, second)
        parts = {"text_encoder": first, "text_encoder_2": second}
        parts |= {"tokenizer": _tokenizer(words, first), "tokenizer_2": _tokenizer(words, second, pad="!")}
    elif kind == "2":
        encoder = _open_clip(weights, OPEN_CLIP, dtype, "text_encoder", name, pooled=False)
        parts = {"text_encoder": encoder, "tokenizer": _tokenizer(words, encoder, pad="!")}
    else:
        encoder = _clip(weights, CLIP, dtype, "text_encoder", name)
        parts = {"text_encoder": encoder, "tokenizer": _tokenizer(words, encoder)}
    return Opened({"unet": unet, "vae": vae, **parts}, family, _scheduler(path, weights, kind), {})


def kind_of(path: Path) -> str:
    """Which family a file is of: "1", "2" or "xl"; raises `ReinvertError` for any other."""
    check_safetensors(path, "a checkpoint")
    try:
        with safe_open(path, "pt") as opened:
            keys = set(opened.keys())
    except Exception as error:
        raise ReinvertError(f"{shown(path.name)} cannot be read: {' '.join(str(error).split())[:120]}") from error

    def has(*prefixes: str) -> bool:
        return all(any(key.startswith(prefix) for key in keys) for prefix in prefixes)

    if "edm_mean" not in keys and has(UNET, VAE):
        if has(XL_CLIP, XL_OPEN_CLIP):
            return "xl"
        if has(OPEN_CLIP):
            return "2"
        if has(CLIP):
            return "1"
    raise ReinvertError(f"{shown(path.name)} {_other(keys)}")


def _other(keys: set[str]) -> str:
    """What a file is that is no checkpoint of these families."""
    if any("lora" in key.lower() for key in keys):
        return "is a LoRA, which is added to a model: --model MODEL --lora FILE"
    if any("double_blocks" in key or "joint_blocks" in key for key in keys):
        return "is of FLUX or Stable Diffusion 3, which reinvert reads as folders in diffusers format only"
    if any(key.startswith(UNET) for key in keys):
        lacks = (
            "VAE" if not any(key.startswith(VAE) for key in keys) else "text encoder of Stable Diffusion 1.x, 2.x or XL"
        )
        return f"has a network but no {lacks}; take a whole checkpoint"
    return "is no checkpoint of Stable Diffusion 1.x, 2.x or XL; a single part is loaded with its folder, or --vae"


# --- networks --------------------------------------------------------------------------------------------------------


def _unet(weights: Mapping[str, Tensor], dtype: torch.dtype, name: str, kind: str) -> Any:
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    own = {key: value for key, value in weights.items() if key.startswith(UNET)}
    bare = {key.removeprefix(UNET): value for key, value in own.items()}
    config = unet_config(bare, {"1": 64, "2": 96, "xl": 128}[kind])
    converted = convert_ldm_unet_checkpoint(own, config)
    return _filled(UNet2DConditionModel, config, converted, dtype, "unet", name)


def unet_config(weights: Mapping[str, Tensor], sample_size: int) -> dict[str, Any]:
    """A UNet's configuration from the shapes of its weights. Heads have no shape of their own: there are 8 where the
    projections are convolutions (1.x), and as many as 64 features make where they are linear (2.x, XL)."""
    starts = [
        0,
        *sorted(_numbers(weights, "input_blocks.", ".0.op.weight")),
        len(_numbers(weights, "input_blocks.", "")),
    ]
    layers = starts[1] - 1
    channels: list[int] = []
    depths: list[int] = []
    for last in (after - 1 for after in starts[1:]):
        channels.append(int(weights[f"input_blocks.{last}.0.out_layers.3.weight"].shape[0]))
        depths.append(len(_numbers(weights, f"input_blocks.{last}.1.transformer_blocks.", "")))
    attention = [depth > 0 for depth in depths]
    cross = next(value.shape[1] for key, value in weights.items() if key.endswith("attn2.to_k.weight"))
    linear = next(value.ndim == 2 for key, value in weights.items() if key.endswith("proj_in.weight"))
    config: dict[str, Any] = {
        "sample_size": sample_size,
        "in_channels": int(weights["input_blocks.0.0.weight"].shape[1]),
        "out_channels": int(weights["out.2.weight"].shape[0]),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "cross_attention_dim": int(cross),
        "attention_head_dim": [max(1, c // 64) for c in channels] if linear else 8,
        "use_linear_projection": linear,
    }
    if "middle_block.1.proj_in.weight" in weights:
        config["transformer_layers_per_block"][-1] = len(_numbers(weights, "middle_block.1.transformer_blocks.", ""))
    if "label_emb.0.0.weight" in weights:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": int(weights["label_emb.0.0.weight"].shape[1]),
        }
    return config


def _added(unet: Any, pooled: Any) -> None:
    """How wide the embedding of each of the six sizes is: what the pooled text leaves of the input."""
    left = int(unet.config.projection_class_embeddings_input_dim) - int(pooled.config.projection_dim)
    if left <= 0 or left % 6:
        raise ReinvertError("the network and the second text encoder of this checkpoint do not fit together")
    if left // 6 != unet.config.addition_time_embed_dim:
        unet.add_time_proj.num_channels = left // 6
        unet.register_to_config(addition_time_embed_dim=left // 6)


def _vae(weights: Mapping[str, Tensor], dtype: torch.dtype, name: str, kind: str) -> Any:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    own = {key: value for key, value in weights.items() if key.startswith(VAE)}
    bare = {key.removeprefix(VAE): value for key, value in own.items()}
    levels = len(_numbers(bare, "encoder.down.", ""))
    config: dict[str, Any] = {
        "sample_size": {"1": 512, "2": 768, "xl": 1024}[kind],
        "in_channels": int(bare["encoder.conv_in.weight"].shape[1]),
        "out_channels": int(bare["decoder.conv_out.weight"].shape[0]),
        "latent_channels": int(bare["decoder.conv_in.weight"].shape[1]),
        "block_out_channels": [int(bare[f"encoder.down.{i}.block.0.conv1.weight"].shape[0]) for i in range(levels)],
        "layers_per_block": len(_numbers(bare, "encoder.down.0.block.", "")),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": 32,
        "scaling_factor": 0.13025 if kind == "xl" else 0.18215,
    }
    return _filled(AutoencoderKL, config, convert_ldm_vae_checkpoint(own, config), dtype, "vae", name)


def _clip(weights: Mapping[str, Tensor], prefix: str, dtype: torch.dtype, part: str, name: str) -> Any:
    """OpenAI's CLIP, whose names are those of transformers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    own = {key.removeprefix("text_model."): value for key, value in own.items()}
    tokens = own["embeddings.token_embedding.weight"]
    width = int(tokens.shape[1])
    config = CLIPTextConfig(
        vocab_size=int(tokens.shape[0]),
        hidden_size=width,
        intermediate_size=int(own["encoder.layers.0.mlp.fc1.weight"].shape[0]),
        num_hidden_layers=len(_numbers(own, "encoder.layers.", "")),
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=int(own["embeddings.position_embedding.weight"].shape[0]),
        projection_dim=width,
        bos_token_id=int(tokens.shape[0]) - 2,
        eos_token_id=int(tokens.shape[0]) - 1,
    )
    return _filled(CLIPTextModel, config, own, dtype, part, name)


def _open_clip(
    weights: Mapping[str, Tensor], prefix: str, dtype: torch.dtype, part: str, name: str, *, pooled: bool
) -> Any:
    """OpenCLIP, translated. Where nothing is pooled (2.x) the last layer is not used: the words are read before it."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    own = {key: value for key, value in weights.items() if key.startswith(prefix)}
    layers = len(_numbers(own, f"{prefix}transformer.resblocks.", ""))
    if not pooled:
        layers -= 1
        own = {key: value for key, value in own.items() if f".resblocks.{layers}." not in key}
    tokens = own[f"{prefix}token_embedding.weight"]
    width = int(tokens.shape[1])
    config = CLIPTextConfig(
        vocab_size=int(tokens.shape[0]),
        hidden_size=width,
        intermediate_size=int(own[f"{prefix}transformer.resblocks.0.mlp.c_fc.weight"].shape[0]),
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=int(own[f"{prefix}positional_embedding"].shape[0]),
        hidden_act="gelu",
        projection_dim=int(own[f"{prefix}text_projection"].shape[1]) if pooled else width,
        bos_token_id=int(tokens.shape[0]) - 2,
        eos_token_id=int(tokens.shape[0]) - 1,
    )
    kind: Any = CLIPTextModelWithProjection if pooled else CLIPTextModel
    # Only the width is read of it: the three projections of attention are one matrix in the file.
    shape: Any = type("Shape", (), {"config": config})
    converted = convert_open_clip_checkpoint(
        shape, {k: v for k, v in own.items() if pooled or "text_proj" not in k}, prefix
    )
    if not pooled:
        converted = {key.removeprefix("text_model."): value for key, value in converted.items()}
    return _filled(kind, config, converted, dtype, part, name)


def _filled(kind: Any, config: Any, weights: Mapping[str, Tensor], dtype: torch.dtype, part: str, name: str) -> Any:
    """The network of a configuration with these weights, every one of which it must have."""
    with torch.device("meta"):  # nothing is drawn that would be thrown away
        network: Any = kind.from_config(config) if isinstance(config, dict) else kind(config)
    wanted = network.state_dict()
    weights = {key: value for key, value in weights.items() if key.rpartition(".")[2] != "position_ids"}
    refuse_misfits(
        {
            "missing_keys": wanted.keys() - weights.keys(),
            "unexpected_keys": weights.keys() - wanted.keys(),
            "mismatched_keys": [
                (key, weights[key].shape, value.shape)
                for key, value in wanted.items()
                if key in weights and weights[key].shape != value.shape
            ],
        },
        network,
        part,
        name,
    )
    network.load_state_dict({key: value.to(dtype) for key, value in weights.items()}, assign=True)
    for key, buffer in list(network.named_buffers()):
        if buffer.device.type == "meta":  # the places 0, 1, 2, ..., which files need not have
            owner, _, last = key.rpartition(".")
            places = torch.arange(buffer.shape[-1]).expand(buffer.shape)
            network.get_submodule(owner).register_buffer(last, places, persistent=False)
    refuse_nonfinite(network, part, name)
    return network.eval()


def _numbers(weights: Mapping[str, Any], before: str, after: str) -> set[int]:
    """The numbers n for which a weight's name begins with `before`, n, `after`."""
    found: set[int] = set()
    for key in weights:
        number, dot, rest = key.removeprefix(before).partition(".")
        if key.startswith(before) and number.isdigit() and (dot + rest).startswith(after):
            found.add(int(number))
    return found


# --- what is no weight -----------------------------------------------------------------------------------------------


def _scheduler(path: Path, weights: Mapping[str, Tensor], kind: str) -> dict[str, Any]:
    """The family's schedule. What the network predicts stands in the file's header, or is marked by a name; for 2.x
    it is else found out by `predicts`."""
    with safe_open(path, "pt") as opened:
        about: Mapping[str, str] = opened.metadata() or {}
    typed = {"epsilon": "epsilon", "v": "v_prediction"}.get(about.get("modelspec.prediction_type", ""))
    marked = "v_prediction" if "v_pred" in weights else None if kind == "2" else "epsilon"
    scheduler: dict[str, Any] = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "clip_sample": False,
        "steps_offset": 1,
        "prediction_type": typed or marked,
    }
    if kind == "xl":
        scheduler |= {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    if "ztsnr" in weights:
        scheduler |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return scheduler


def settled(parts: Mapping[str, Any], scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration in which nothing is open any more; the parts are where they will run."""
    if scheduler.get("prediction_type", "") is not None:
        return dict(scheduler)
    unet, predicted = parts["unet"], predicts(parts["unet"])
    # The models of 2.x that predict noise were trained on 512 pixels, those that predict v on 768.
    unet.register_to_config(sample_size=64 if predicted == "epsilon" else 96)
    return {**scheduler, "prediction_type": predicted}


@torch.no_grad()
def predicts(unet: Any) -> str:
    """What a network predicts, by asking it about pure noise: that is itself what a prediction of noise gives back,
    and v there is the picture, of which pure noise tells nothing."""
    channels, width = int(unet.config.in_channels), int(unet.config.cross_attention_dim)
    noise = torch.randn(1, channels, 32, 32, generator=torch.Generator().manual_seed(0)).to(unet.device, unet.dtype)
    text = torch.zeros(1, 77, width, device=unet.device, dtype=unet.dtype)
    answer = unet(noise, torch.full((1,), 999, device=unet.device), encoder_hidden_states=text).sample
    alike = torch.nn.functional.cosine_similarity(
        answer.float().flatten(), noise[:, : answer.shape[1]].float().flatten(), 0
    )
    return "epsilon" if float(alike) > 0.5 else "v_prediction"


def find_tokenizer(path: Path, given: Path | None = None) -> Path:
    """The folder with CLIP's tokenizer: as given, beside the file, in the Hub's cache, or fetched from there."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    for folder in (given, path.parent / "tokenizer"):
        if folder is not None and any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json")):
            return folder
    if given is not None:
        raise ReinvertError(f"{shown(given)} holds no tokenizer: give the folder with vocab.json or tokenizer.json")
    for repository, under in TOKENIZERS:
        found = [try_to_load_from_cache(repository, under + file) for file in TOKENIZER_FILES[:2]]
        if all(isinstance(file, str) for file in found):
            return Path(str(found[0])).parent
    try:
        return Path(snapshot_download(TOKENIZERS[0][0], allow_patterns=list(TOKENIZER_FILES)))
    except Exception as error:  # offline, or the Hub is
        raise ReinvertError(
            f"{shown(path.name)} does not hold the words of its tokenizer, and the Hub cannot be reached: give "
            "--tokenizer with the tokenizer folder of any Stable Diffusion model, or put it beside the file"
        ) from error


def _tokenizer(folder: Path, encoder: Any, pad: str | None = None) -> Any:
    from transformers import CLIPTokenizer

    length = int(encoder.config.max_position_embeddings)
    more: dict[str, Any] = {} if pad is None else {"pad_token": pad}
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length, local_files_only=True, **more)


def load_words(path: Path, tokenizer: Path | None = None) -> Any:
    """The tokenizer of a checkpoint alone, without its weights."""
    kind, prefixes = kind_of(path), {"1": CLIP, "2": OPEN_CLIP, "xl": XL_CLIP}
    places = "positional_embedding" if kind == "2" else "text_model.embeddings.position_embedding.weight"
    with safe_open(path, "pt") as opened:
        length = int(opened.get_slice(prefixes[kind] + places).get_shape()[0])
    from transformers import CLIPTokenizer

    more: dict[str, Any] = {"pad_token": "!"} if kind == "2" else {}
    found = find_tokenizer(path, tokenizer)
    return CLIPTokenizer.from_pretrained(found, model_max_length=length, local_files_only=True, **more)
