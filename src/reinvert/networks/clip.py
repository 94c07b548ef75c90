"""CLIP as a judge of pictures and prompts, from a folder or Hub repository in transformers' `CLIPModel` format.

Pictures go in as the published evaluator's processor gives them: 8-bit bicubic (PIL) to the network's side at the
shorter side, the centre square cut out, 0..1, CLIP's mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.networks.files import digest, label, locate, read_json
from reinvert.networks.vit import CLIP, colours


class Clip:
    """A CLIP with its tokenizer. `shape` is (blocks, width, patch) of its vision half."""

    def __init__(self, model: Any, tokenizer: Any, name: str, digest: str = "") -> None:
        self.model, self.tokenizer, self.name, self.digest = model, tokenizer, name, digest
        vision = model.config.vision_config
        self.side = int(vision.image_size)
        self.shape = (int(vision.num_hidden_layers), int(vision.hidden_size), int(vision.patch_size))
        self.mean, self.std = CLIP

    @classmethod
    def load(cls, where: str | Path, name: str | None = None, tokenizer: str | Path | None = None) -> Clip:
        """From a folder or a Hub id; `tokenizer` is a folder, for a model that brings none.

        Raises `ReinvertError` if something is missing or cannot be read.
        """
        from transformers import CLIPModel, CLIPTokenizer

        folder = locate(where)
        if read_json(folder / "config.json").get("model_type") != "clip":
            raise ReinvertError(f"{where} is not a CLIP in transformers format: its config.json must say so")
        spoken = folder if tokenizer is None else locate(tokenizer)
        if not any((spoken / file).is_file() for file in ("tokenizer.json", "vocab.json")):
            raise ReinvertError(f"{where} has no tokenizer: put tokenizer.json beside its config.json")
        told = digest(folder)  # refuses a folder that holds only pickles
        try:
            with _without_bars():
                model: Any = CLIPModel.from_pretrained(folder, use_safetensors=True)
            tokens: Any = CLIPTokenizer.from_pretrained(spoken)
        except Exception as error:  # whatever a broken file makes the library raise
            raise ReinvertError(f"{where} cannot be loaded: {' '.join(str(error).split())[:160]}") from error
        made = cls(model.float().eval().requires_grad_(False), tokens, name or label(where), told)
        made.mean, made.std = colours(folder, CLIP)
        return made

    def to(self, device: torch.device | str) -> Clip:
        """The same, moved there."""
        self.model.to(device)
        return self

    def embed_pictures(self, levels: Tensor) -> Tensor:
        """See `TextImage`."""
        pictures = [Image.fromarray(x) for x in levels.cpu().permute(0, 2, 3, 1).contiguous().numpy()]
        seen = torch.stack([self._seen(picture) for picture in pictures])
        return _embedding(self.model.get_image_features(pixel_values=seen.to(self.model.device)))

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """See `TextImage`; a prompt that is too long is cut."""
        most = int(self.model.config.text_config.max_position_embeddings)
        said = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        told = said.to(self.model.device)
        return _embedding(self.model.get_text_features(told["input_ids"], told["attention_mask"]))

    def _seen(self, picture: Image.Image) -> Tensor:
        """One picture as the network wants it, `[3, side, side]`."""
        side, short, long = self.side, min(picture.size), max(picture.size)
        longer = int(side * long / short)
        size = (side, longer) if picture.width <= picture.height else (longer, side)
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        square = np.asarray(picture.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
        normal = (square - np.asarray(self.mean, dtype=np.float32)) / np.asarray(self.std, dtype=np.float32)
        return torch.from_numpy(normal).permute(2, 0, 1)


@contextmanager
def _without_bars() -> Generator[None]:
    """The library's progress bar of a second or two is not for our users."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _embedding(answer: Any) -> Tensor:
    """The projected embedding; transformers 5 wraps it in an output object."""
    return answer if isinstance(answer, Tensor) else answer.pooler_output
