"""A model: a folder in diffusers format. Its configuration files are JSON; only what reinvert relies on is described.

Weights are safetensors, and no code is run. A folder may be made of links, as the Hub's cache is.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Le, Len, MaxLen
from pydantic import ConfigDict, Field, StringConstraints, model_validator

from reinvert.files.door import MIB, Entry, Inside, Line, OpenEntry, Says, Share, check, read_json, refusal, shown

LARGEST: Final = 16 * MIB
"""Bytes of a configuration file."""
NOTES: Final = "reinvert.json"
MOST_LAYERS: Final = 512
MOST: Final = 4_000_000
"""The largest whole number in a network's configuration: the words of the largest tokenizers are a quarter million."""

Color = Annotated[str, StringConstraints(pattern=r"^#[0-9a-f]{6}$"), Says('a colour such as "#fce4c4"')]
Channels = Annotated[int, Ge(1), Le(65_536)]
Few = Annotated[int, Ge(1), Le(64)]
Part = Annotated[
    list[Annotated[str, MaxLen(200)] | None],
    Len(2, 2),
    Says("a list of two, the library and the class, or of two nulls"),
]


class ModelIndex(OpenEntry):
    """`model_index.json`: the parts of a model, each as [library, class]."""

    pipeline: Line = Field("", alias="_class_name")
    """The pipeline that it was made for."""
    unet: Part | None = None
    transformer: Part | None = None
    vae: Part | None = None
    text_encoder: Part | None = None
    text_encoder_2: Part | None = None
    text_encoder_3: Part | None = None
    tokenizer: Part | None = None
    tokenizer_2: Part | None = None
    tokenizer_3: Part | None = None
    scheduler: Part | None = None


class SchedulerConfig(OpenEntry):
    """`scheduler/scheduler_config.json`: the noise schedule."""

    num_train_timesteps: Annotated[int, Ge(1), Le(100_000)] = 1000
    """Times of the training."""
    beta_start: Annotated[float, Gt(0), Le(1)] = 0.0001
    beta_end: Annotated[float, Gt(0), Le(1)] = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] | None = None
    trained_betas: Annotated[list[Annotated[float, Gt(0), Le(1)]], Len(1, 100_000)] | None = None
    """The betas themselves, one for each time of the training."""
    prediction_type: Annotated[str, MaxLen(100)] | None = None
    """What the network predicts."""
    steps_offset: Annotated[int, Ge(0), Le(1000)] = 0
    set_alpha_to_one: bool = False
    clip_sample: bool = False
    rescale_betas_zero_snr: bool = False
    timestep_spacing: Literal["leading", "linspace", "trailing"] | None = None
    shift: Annotated[float, Gt(0), Le(1000)] | None = None
    """Of a flow model's times."""
    use_dynamic_shifting: bool = False

    @model_validator(mode="after")
    def _betas(self) -> SchedulerConfig:
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError("trained_betas are not as many as num_train_timesteps")
        return self


class TokenizerConfig(OpenEntry):
    """`tokenizer/tokenizer_config.json`. How many tokens a prompt has is held against the text encoder."""

    model_max_length: Annotated[float, Ge(1), Le(1e31)] | None = None
    """The most tokens of a prompt. Missing (some programs write thirty digits for that), it is the text encoder's."""
    vocab: Annotated[None, Says("nothing: the words stand in a file of their own")] = None
    merges: Annotated[None, Says("nothing: the merges stand in a file of their own")] = None
    tokenizer_object: Annotated[None, Says("nothing")] = None


class NetworkConfig(OpenEntry):
    """`config.json` of a network: sizes, which decide how much memory is taken before a weight is read."""

    model_config = ConfigDict(extra="allow")

    sample_size: Channels | Annotated[list[Channels], Len(2, 2)] | None = None
    in_channels: Channels | None = None
    out_channels: Channels | None = None
    latent_channels: Channels | None = None
    block_out_channels: Annotated[list[Channels], Len(1, 16)] | None = None
    layers_per_block: Few | Annotated[list[Few], Len(1, 16)] | None = None
    cross_attention_dim: Channels | Annotated[list[Channels], Len(1, 16)] | None = None
    scaling_factor: Annotated[float, Gt(0), Le(1000)] | None = None
    shift_factor: Annotated[float, Ge(-1000), Le(1000)] | None = None
    force_upcast: bool = True
    vocab_size: Annotated[int, Ge(1), Le(MOST)] | None = None
    hidden_size: Channels | None = None
    intermediate_size: Annotated[int, Ge(1), Le(1_000_000)] | None = None
    num_hidden_layers: Annotated[int, Ge(1), Le(MOST_LAYERS)] | None = None
    num_attention_heads: Annotated[int, Ge(1), Le(1024)] | Annotated[list[int], MaxLen(16)] | None = None
    max_position_embeddings: Annotated[int, Ge(1), Le(200_000)] | None = None
    use_attention_mask: bool | None = None

    @model_validator(mode="after")
    def _bounded(self) -> NetworkConfig:
        for name, value in (self.__pydantic_extra__ or {}).items():
            most = MOST_LAYERS if "layer" in name or "block" in name else MOST
            if _largest(value) > most:
                raise ValueError(f"{shown(name)} is more than {most:,}")
        return self


class WeightsIndex(OpenEntry):
    """`*.safetensors.index.json`: which file of a network each of its weights is in."""

    weight_map: Annotated[dict[Annotated[str, MaxLen(500)], Inside], MaxLen(1_000_000), Says("a table of file names")]
    """The file beside it for each weight's name."""


class UsualNote(Entry):
    """What is usual for the model where nothing else is asked for."""

    steps: Annotated[int, Ge(1), Le(1000)] = 50
    """Sampling steps."""
    guidance: Annotated[float, Ge(0), Le(100)] = 7.5
    """The guidance scale of an edit."""


class PicturesNote(Entry):
    """What the pictures of a small world look like; others, such as photographs, are refused."""

    psnr: Annotated[float, Ge(0), Le(100)]
    """dB that the VAE keeps of them at least."""
    least_even: Share
    """Share of neighbouring pixels that hardly differ, at least."""
    most_even: Share
    """And at most."""
    most_grey: Share
    """Share of grey pixels, at most."""
    most_foreign: Share
    """Share of the plain areas that has none of `colors`, at most."""
    colors: Annotated[list[Color], Len(1, 4096)]
    """The colours of their plain areas."""


class ModelNotes(Entry):
    """`reinvert.json`, which a model's folder may have: what reinvert is to know of it beyond diffusers' format."""

    usual: UsualNote | None = None
    """What is usual for it; its family's if left out."""
    words: Annotated[list[Annotated[Line, Len(1, 100)]], Len(1, 100_000)] | None = None
    """Every word that it was trained with, in small letters; other words of a prompt are refused."""
    pictures: PicturesNote | None = None
    """What its pictures look like; any picture is taken if left out."""


def _largest(value: Any) -> int | float:
    """The largest number of a value, and of lists their lengths too."""
    match value:
        case bool() | str() | None:
            return 0
        case int() | float():
            return abs(value) if math.isfinite(value) else 0
        case list():
            return max([len(value), *map(_largest, value)])
        case dict():
            return max(map(_largest, value.values()), default=0)
        case _:
            return 0


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """The plain values of `model_index.json`, which are as described."""
    return _read(folder, "model_index.json", ModelIndex, name)


def read_scheduler(folder: Path, name: str, part: str = "scheduler") -> dict[str, Any]:
    """The plain values of the scheduler's configuration, which are as described."""
    return _read(folder, f"{part}/scheduler_config.json", SchedulerConfig, name)


def check_network(folder: Path, part: str, name: str) -> dict[str, Any]:
    """The plain values of a network's configuration, which are as described."""
    return _read(folder, f"{part}/config.json", NetworkConfig, name)


def promised_weights(folder: Path, name: str) -> set[str]:
    """The weights of a network that the indices beside its files promise."""
    promised = set[str]()
    for path in sorted(folder.glob("*.safetensors.index*.json")):
        label = _label(f"{folder.name}/{path.name}", name)
        index = check(WeightsIndex, read_json(path, 64 * MIB), label)
        pipe = next((f for f in index.weight_map.values() if (folder / f).exists() and not (folder / f).is_file()), "")
        if pipe:  # a library would wait for it
            raise refusal(f"{label} names {shown(pipe)}, which is not a file", "download the model again")
        promised |= index.weight_map.keys()
    return promised


def prompt_length(folder: Path, name: str, tokenizer: str = "tokenizer", encoder: str = "text_encoder") -> int | None:
    """The most tokens of a prompt: the tokenizer's, held against its text encoder's positions (None: it has none)."""
    config = TokenizerConfig(model_max_length=None)
    file = f"{tokenizer}/tokenizer_config.json"
    if (folder / file).is_file():
        config = check(TokenizerConfig, _values(folder, file, name), _label(file, name))
    positions = check(
        NetworkConfig, _values(folder, f"{encoder}/config.json", name), _label(f"{encoder}/config.json", name)
    ).max_position_embeddings
    length = config.model_max_length
    if length is None or length > 1e20:
        return positions
    if length != int(length) or (positions is not None and length > positions) or length > MOST_LAYERS * 8:
        most = MOST_LAYERS * 8 if positions is None else positions
        raise refusal(
            f"{_label(file, name)}: model_max_length is {shown(f'{length:.15g}')}; its text encoder takes at most "
            f"{most:,} tokens"
        )
    return int(length)


def read_notes(folder: Path, name: str) -> ModelNotes:
    """What `reinvert.json` says; nothing where there is none."""
    if not (folder / NOTES).exists():
        return ModelNotes()
    return check(ModelNotes, _values(folder, NOTES, name), _label(NOTES, name))


def _read(folder: Path, file: str, kind: type[OpenEntry], name: str) -> dict[str, Any]:
    values = _values(folder, file, name)
    check(kind, values, _label(file, name))
    return values


def _values(folder: Path, file: str, name: str) -> dict[str, Any]:
    if not (folder / file).exists():
        raise refusal(f"{shown(name)} is not a complete model in diffusers format: {file} is missing")
    try:
        found = read_json(folder / file, LARGEST)
    except ValueError as error:
        said = str(error).removeprefix(f"{shown(folder / file)} ")
        raise refusal(f"{shown(name)} is not a model in diffusers format: {file} cannot be read ({said})") from error
    if not isinstance(found, dict):
        raise refusal(f"{shown(name)} is not a model in diffusers format: {file} holds no JSON object")
    return found


def _label(file: str, name: str) -> str:
    return f"{file} of {shown(name)}"


__all__ = [
    "NOTES",
    "ModelIndex",
    "ModelNotes",
    "check_network",
    "promised_weights",
    "prompt_length",
    "read_index",
    "read_notes",
    "read_scheduler",
]
