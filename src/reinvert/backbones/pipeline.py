"""A pipeline of diffusers that is already loaded, as a backbone: its weights are shared, nothing of it is copied.

LoRA, textual inversions, device and dtype are the pipeline's, and while an edit runs its attention processors are
replaced and given back. Its networks are frozen (no weight wants a gradient) and in evaluation mode, as for drawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reinvert.backbones.base import Backbone
from reinvert.backbones.families import ANY, family_of
from reinvert.errors import ReinvertError


def is_pipeline(value: Any) -> bool:
    """Whether it is one of diffusers' pipelines."""
    from diffusers import DiffusionPipeline

    return isinstance(value, DiffusionPipeline)


def from_pipeline(pipe: Any) -> Backbone:
    """The backbone around a pipeline's own parts; `ReinvertError` if no family reads it."""
    kind = type(pipe).__name__
    components: Mapping[str, Any] = pipe.components
    there = {part: value for part, value in components.items() if value is not None}
    # Tokenizers are here already: what their class is called decides nothing.
    index: dict[str, Any] = {
        part: ["", ANY if part.startswith("tokenizer") else type(value).__name__] for part, value in there.items()
    }
    family = family_of({**pipe.config, **index, "_class_name": kind}, kind)
    parts = {part: there[part] for part in family.parts if part in there}
    networks = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    if any(parameter.device.type == "meta" for network in networks for parameter in network.parameters()):
        raise ReinvertError(
            f"the weights of this {kind} are moved layer by layer (sequential offload), where no edit can run; use "
            "pipe.enable_model_cpu_offload() instead"
        )
    network = parts.get("unet", parts.get("transformer"))
    if getattr(network, "encoder_hid_proj", None) is not None:
        raise ReinvertError(f"this {kind} has an IP-Adapter, which edits do not feed; call pipe.unload_ip_adapter()")
    parts = {name: with_vectors(part) if name.startswith("tokenizer") else part for name, part in parts.items()}
    scheduler = {**pipe.scheduler.config, "_class_name": type(pipe.scheduler).__name__}
    options = {option: pipe.config[option] for option in family.options if option in pipe.config}
    name = Path(str(pipe.config.get("_name_or_path") or kind)).name
    # The switch of requires_grad and train is the only one that is not given back: drawing needs neither.
    model = family.open(parts | options, scheduler, name)
    model.device = torch.device(pipe._execution_device)  # with hooks that fetch its parts, not where they lie now
    return model


class TokenizerOfVectors:
    """A tokenizer with textual inversions of several vectors: `<cat>` stands for `<cat> <cat>_1 <cat>_2`, as in the
    pipelines. All else is the tokenizer's own."""

    def __init__(self, tokenizer: Any, vectors: Mapping[str, str]) -> None:
        self._tokenizer, self._vectors = tokenizer, vectors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str | Sequence[str], **options: Any) -> Any:
        texts = self._whole(text) if isinstance(text, str) else [self._whole(t) for t in text]
        return self._tokenizer(texts, **options)

    def encode(self, text: str, **options: Any) -> list[int]:
        return self._tokenizer.encode(self._whole(text), **options)

    def _whole(self, text: str) -> str:
        for word, vectors in self._vectors.items():
            text = text.replace(word, vectors)
        return text


def with_vectors(tokenizer: Any) -> Any:
    """The tokenizer, which reads every word of several vectors whole."""
    added = list(getattr(tokenizer, "added_tokens_encoder", {}))
    vectors: dict[str, str] = {}
    for word in added:
        further: list[str] = []
        while f"{word}_{len(further) + 1}" in added:
            further.append(f"{word}_{len(further) + 1}")
        if further:
            vectors[word] = " ".join([word, *further])
    return TokenizerOfVectors(tokenizer, vectors) if vectors else tokenizer
