"""Where a picture shows what words name: a mask of its own size.

    mask = reinvert.region("cat.png", "the red cat")                                       # picturebook's judge
    mask = reinvert.region("photo.jpg", "the dog", model="CIDAS/clipseg-rd64-refined")     # a photograph
    reinvert.edit(model, "cat.png", source=..., target=..., mask=mask)

For picturebook the scene is found by drawing it again (`picturebook.fitting`), and its mask is exact. For photographs a
text-prompted segmenter gives every pixel a share,

    mask = sigmoid(CLIPSeg(picture, words)) >= threshold

Image Segmentation Using Text and Image Prompts, 2021, arXiv 2112.10003, read by transformers. Tables of edits with and
without regions do not compare, so a sidecar tells what was named and who found it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reinvert.errors import ReinvertError
from reinvert.files import check_value, shown
from reinvert.files.door import Share
from reinvert.image import MAX_PIXELS, Picturelike, open_image
from reinvert.models import BUNDLED

SEGMENTER: Final = "CIDAS/clipseg-rd64-refined"
"""The segmenter for photographs, where none is named."""
THRESHOLD: Final = 0.4
"""The share from which a pixel belongs to the region, where a segmenter gives shares."""
USUAL_SIDE: Final = 352
"""The side of the pictures that CLIPSeg was trained on."""
LARGEST_DRAWN: Final = 512
"""The mask of a larger drawing is drawn at this side, and enlarged."""

Mask = NDArray[np.bool_]


@runtime_checkable
class Segmenter(Protocol):
    """Finds what words name. Anything of this shape can be given as the model of `region`."""

    @property
    def name(self) -> str:
        """What a sidecar calls it."""
        ...

    def find(self, picture: Image.Image, words: str) -> Mask:
        """The region [height, width] in an RGB picture; raises `ReinvertError` where there is none."""
        ...


@dataclass(frozen=True)
class Region:
    """A region as it was found: white in a mask of mode "L" of the picture's size."""

    mask: Image.Image
    words: str
    model: str

    def record(self) -> Mapping[str, Any]:
        """What a sidecar tells of it."""
        share = sum(self.mask.histogram()[128:]) / (self.mask.width * self.mask.height)
        return {"region": self.words, "model": self.model, "share": round(share, 4)}


def region(
    image: Picturelike,
    words: str,
    *,
    model: str | Path | Segmenter = "picturebook",
    threshold: float = THRESHOLD,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """The mask of what `words` name in a picture: mode "L", the picture's size, 255 inside and 0 outside.

    `image` is a picture as `reinvert.edit` takes it. `model` is "picturebook" for its drawings ("the red cat", "the
    hat", "the dog on the left", "the grass"), a folder or a Hub id of a CLIPSeg for photographs, or one that
    `load_segmenter` loaded. `threshold` (0..1) is CLIPSeg's: less of it makes a larger region.

    Raises `ReinvertError` (one sentence) for words that name nothing there, and for a model that cannot be read.
    """
    segmenter = load_segmenter(model, threshold=threshold, device=device) if isinstance(model, str | Path) else model
    return find_region(open_image(image, max_pixels=max_pixels), words, segmenter).mask


def find_region(picture: Image.Image, words: str, segmenter: Segmenter) -> Region:
    """What the words name in an opened picture."""
    text = check_value(str, words, "words").strip()
    if not text:
        raise ReinvertError('name what is to change, such as "the cat"')
    mask = segmenter.find(picture, text)
    return Region(Image.fromarray(mask.astype(np.uint8) * np.uint8(255)), text, segmenter.name)


def usual_segmenter(model: str) -> str:
    """Who finds regions for pictures of a model, if nobody is named."""
    return model if model in BUNDLED else SEGMENTER


def load_segmenter(where: str | Path, *, threshold: float = THRESHOLD, device: str = "auto") -> Segmenter:
    """picturebook's judge, or a CLIPSeg from a folder or a Hub id: only safetensors, no remote code."""
    check_value(Share, threshold, "threshold")
    if str(where) in BUNDLED:
        return Drawings(str(where))
    return _load_clipseg(where, threshold, device)


@dataclass(frozen=True)
class Drawings:
    """Regions of picturebook's pictures."""

    name: str = "picturebook"

    def find(self, picture: Image.Image, words: str) -> Mask:
        """See `Segmenter`. What is not square is read in its middle, which is what `--fit crop` edits."""
        from reinvert.picturebook.fitting import fit_square
        from reinvert.picturebook.naming import named_mask

        (left, top, side), fit = fit_square(picture)
        drawn = named_mask(words, fit.scene, min(side, LARGEST_DRAWN), fit.detail)
        large = Image.fromarray(drawn.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
        mask = np.zeros((picture.height, picture.width), bool)
        mask[top : top + side, left : left + side] = np.asarray(large) > 0
        return mask


@dataclass(frozen=True)
class ClipSeg:
    """Regions of photographs: a CLIPSeg of transformers."""

    name: str
    network: Any
    tokenizer: Any
    side: int
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    threshold: float = THRESHOLD

    def find(self, picture: Image.Image, words: str) -> Mask:
        """See `Segmenter`."""
        shares = self.shares(picture, words)
        mask = shares >= self.threshold
        if not mask.any():
            raise ReinvertError(
                f"{self.name} finds no '{shown(words)}' in this picture: its surest pixel has {shares.max():.2f} of 1, "
                f"and it takes {self.threshold:g}; use other words, a lower threshold, or a mask"
            )
        return mask

    def shares(self, picture: Image.Image, words: str) -> NDArray[np.float32]:
        """How sure it is of every pixel [height, width], 0..1."""
        import torch
        import torch.nn.functional as F

        from reinvert.backbones.perception import seen

        length = int(self.network.config.text_config.max_position_embeddings)
        tokens = self.tokenizer([words], truncation=True, max_length=length, return_tensors="pt")
        pixels = seen(self.network, picture, (self.side, self.side), self.colours)
        with torch.no_grad():
            logits = self.network(
                input_ids=tokens["input_ids"].to(pixels.device),
                attention_mask=tokens["attention_mask"].to(pixels.device),
                pixel_values=pixels,
            ).logits
        shares = logits.float().sigmoid().reshape(1, 1, *logits.shape[-2:])
        size = (picture.height, picture.width)
        return F.interpolate(shares, size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()


def _load_clipseg(where: str | Path, threshold: float, device: str) -> ClipSeg:
    from reinvert.backbones.loading import pick_device
    from reinvert.backbones.perception import load_network, load_words, side_of
    from reinvert.networks.files import label
    from reinvert.networks.vit import IMAGENET, colours

    network, folder, _ = load_network(where, "CLIPSegForImageSegmentation", ("clipseg",), "a CLIPSeg")
    tokenizer = load_words(folder, "CLIPTokenizer")
    side = side_of(folder, USUAL_SIDE)
    return ClipSeg(label(where), network.to(pick_device(device)), tokenizer, side, colours(folder, IMAGENET), threshold)


__all__ = [
    "SEGMENTER",
    "THRESHOLD",
    "Region",
    "Segmenter",
    "find_region",
    "load_segmenter",
    "region",
    "usual_segmenter",
]
