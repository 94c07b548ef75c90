"""How well pictures show what their prompts say, for CLIP: 100 times the cosine of the two embeddings, at least 0.

    similarity = max(100 cos(E_image(x), E_text(prompt)), 0)

CLIPScore: A Reference-free Evaluation Metric for Image Captioning, 2021, arXiv 2104.08718. Published with CLIP
ViT-L/14. A prompt longer than the network's text is cut at its end.

With a mask (the edited region), compat blackens the rest of the picture and asks with the whole prompt, as published;
strict shows CLIP's mean colour there, which is zero after its normalisation, instead of black, which is a shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.metrics.base import Metric, Mode, check
from reinvert.networks.base import TextImage


def clip_similarity(
    pictures: Tensor,
    prompts: Sequence[str],
    mask: Tensor | None = None,
    mode: Mode = "strict",
    *,
    network: TextImage,
) -> Tensor:
    """CLIP similarity in 0..100, `[n]`, of pictures `[n, 3, h, w]` in 0..1 and one prompt each; mask `[n, 1, h, w]`."""
    check(pictures, pictures, mask, mode)
    if isinstance(prompts, str) or len(prompts) != len(pictures):
        raise ReinvertError(f"give one prompt for each of the {len(pictures)} pictures")
    image = network.embed_pictures(_levels(pictures, mask, mode, network))
    text = network.embed_texts(prompts).to(image)
    cosine = (image / image.norm(dim=-1, keepdim=True) * (text / text.norm(dim=-1, keepdim=True))).sum(-1)
    values = (100 * cosine).clamp(min=0)
    return values if mask is None else values.masked_fill(mask.flatten(1).sum(1) == 0, torch.nan)


def _levels(x: Tensor, mask: Tensor | None, mode: Mode, network: TextImage) -> Tensor:
    """What CLIP is shown, as 8-bit levels."""
    levels = (x * 255).round()
    if mask is not None and mode == "compat":
        levels = levels * mask
    elif mask is not None:
        neutral = torch.tensor(network.mean, dtype=x.dtype, device=x.device).view(-1, 1, 1) * 255
        levels = (mask * levels + (1 - mask) * neutral).round()
    return levels.to(torch.uint8)


METRIC = Metric("clip_similarity", "CLIP similarity", "higher", clip_similarity, needs="clip")
