"""What a picture shows, in a sentence: a first source prompt, to be read and put right.

    source = reinvert.caption("cat.png")                                                      # picturebook's judge
    source = reinvert.caption("photo.jpg", model="Salesforce/blip-image-captioning-large")    # a photograph

For picturebook it is the caption of the scene that comes nearest to the picture (`picturebook.fitting`). For
photographs a BLIP writes it: BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding
and Generation, 2022, arXiv 2201.12086, read by transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from PIL import Image

from reinvert.errors import ReinvertError
from reinvert.image import MAX_PIXELS, Picturelike, open_image
from reinvert.models import BUNDLED

CAPTIONER: Final = "Salesforce/blip-image-captioning-large"
"""Who captions photographs, where nobody is named. (Of the smaller "base" the Hub's main branch has pickles only.)"""
USUAL_SIDE: Final = 384
"""The side of the pictures that BLIP was trained on."""
MOST_TOKENS: Final = 40
"""The most that a caption is long."""


@runtime_checkable
class Captioner(Protocol):
    """Says what a picture shows. Anything of this shape can be given as the model of `caption`."""

    @property
    def name(self) -> str:
        """What a sidecar calls it."""
        ...

    def describe(self, picture: Image.Image) -> str:
        """A sentence about an RGB picture."""
        ...


def caption(
    image: Picturelike,
    *,
    model: str | Path | Captioner = "picturebook",
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> str:
    """A sentence that says what a picture shows, as a source prompt.

    `image` is a picture as `reinvert.edit` takes it. `model` is "picturebook" for its drawings, a folder or a Hub id of
    a BLIP for photographs, or one that `load_captioner` loaded.

    Raises `ReinvertError` (one sentence) for a picture or a model that cannot be read.
    """
    captioner = load_captioner(model, device=device) if isinstance(model, str | Path) else model
    return captioner.describe(open_image(image, max_pixels=max_pixels))


def usual_captioner(model: str) -> str:
    """Who captions pictures for a model, if nobody is named."""
    return model if model in BUNDLED else CAPTIONER


def load_captioner(where: str | Path, *, device: str = "auto") -> Captioner:
    """picturebook's judge, or a BLIP from a folder or a Hub id: only safetensors, no remote code."""
    return Drawings(str(where)) if str(where) in BUNDLED else _load_blip(where, device)


@dataclass(frozen=True)
class Drawings:
    """Captions of picturebook's pictures."""

    name: str = "picturebook"

    def describe(self, picture: Image.Image) -> str:
        """See `Captioner`."""
        from reinvert.picturebook.fitting import fit_square

        return fit_square(picture)[1].scene.caption


@dataclass(frozen=True)
class Blip:
    """Captions of photographs: a BLIP of transformers."""

    name: str
    network: Any
    tokenizer: Any
    side: int
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]

    def describe(self, picture: Image.Image) -> str:
        """See `Captioner`. Nothing is sampled, so a picture has one caption."""
        import torch

        from reinvert.backbones.perception import seen

        pixels = seen(self.network, picture, (self.side, self.side), self.colours)
        with torch.no_grad():
            tokens = self.network.generate(pixel_values=pixels, max_new_tokens=MOST_TOKENS, do_sample=False)
        text = " ".join(self.tokenizer.decode(tokens[0, 1:], skip_special_tokens=True).split())
        if not text:
            raise ReinvertError(f"{self.name} says nothing about this picture; say yourself what it shows")
        return text


def _load_blip(where: str | Path, device: str) -> Blip:
    from reinvert.backbones.loading import pick_device
    from reinvert.backbones.perception import load_network, load_words, side_of
    from reinvert.networks.files import label
    from reinvert.networks.vit import CLIP, colours

    network, folder, _ = load_network(where, "BlipForConditionalGeneration", ("blip",), "a BLIP")
    tokenizer, side = load_words(folder, "BertTokenizer"), side_of(folder, USUAL_SIDE)
    return Blip(label(where), network.to(pick_device(device)), tokenizer, side, colours(folder, CLIP))


__all__ = ["CAPTIONER", "Captioner", "caption", "load_captioner", "usual_captioner"]
