"""A vision transformer that is read for its keys and its layers: DINO's, or the vision half of a CLIP.

    z = [class, patches] + positions;     z += attention(norm1(z));     z += mlp(norm2(z))         for every block

Three ways of naming the weights are understood: timm's (and DINO's own), those of transformers' `ViTModel`, and those
of transformers' `CLIPModel`, whose vision half also normalises before the first block.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reinvert.errors import ReinvertError
from reinvert.networks.files import Weights, locate, read, read_json

Colour = tuple[float, float, float]
IMAGENET: tuple[Colour, Colour] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: tuple[Colour, Colour] = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HEAD = 64
"""The width of a head where the weights' own configuration does not say: every published ViT's."""

# Patterns of the three namings, and what the weights are called here. What matches none is not needed.
_NAMES = (
    (r"(embeddings\.)?(cls_token|class_embedding)", "cls"),
    (r"(embeddings\.)?(pos_embed|position_embeddings?(\.weight)?)", "pos"),
    (r"(patch_embed\.proj|embeddings\.patch_embeddings\.projection|embeddings\.patch_embedding)", "patch"),
    (r"(norm_pre|pre_layrnorm)", "before"),
)
_BLOCK = re.compile(r"(?:blocks|encoder\.layer|encoder\.layers|layers)\.(\d+)\.(.+)\.(weight|bias)")
_PARTS = {
    "norm1": "norm1|layernorm_before|layer_norm1",
    "norm2": "norm2|layernorm_after|layer_norm2",
    "qkv": r"attn\.qkv",
    "q": r"attention\.attention\.query|(attention|self_attn)\.q_proj",
    "k": r"attention\.attention\.key|(attention|self_attn)\.k_proj",
    "v": r"attention\.attention\.value|(attention|self_attn)\.v_proj",
    "out": r"attn\.proj|attention\.output\.dense|attention\.o_proj|self_attn\.out_proj",
    "fc1": r"mlp\.fc1|intermediate\.dense",
    "fc2": r"mlp\.fc2|output\.dense",
}


class Block(nn.Module):
    """One block; the activation is the caller's."""

    def __init__(self, dim: int, inner: int, heads: int, eps: float, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.heads, self.act = heads, act
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps), nn.LayerNorm(dim, eps)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, z: Tensor) -> Tensor:
        """`[n, token, dim]` to the same."""
        normed = self.norm1(z)
        q, k, v = (part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        z = z + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return z + self.fc2(self.act(self.fc1(self.norm2(z))))


class Vit(nn.Module):
    """A vision transformer with a class token, for pictures that are already normalised by `mean` and `std`."""

    def __init__(self, weights: Weights, name: str | None = None) -> None:
        """Raises `ReinvertError` if the weights are not those of a vision transformer."""
        super().__init__()
        state = canonical(weights.tensors)
        config = cast(Mapping[str, Any], weights.config.get("vision_config", weights.config))
        self.name, self.digest = name or weights.name, weights.digest
        try:
            dim, self.patch = state["pos"].shape[-1], state["patch.weight"].shape[-1]
            inner, depth = len(state["blocks.0.fc1.weight"]), 1 + max(_number(key) for key in state)
        except KeyError as error:
            raise ReinvertError(
                f"{self.name} is not a vision transformer reinvert can read: {error.args[0]} is missing"
            ) from error
        self.side = round((state["pos"].shape[-2] - 1) ** 0.5) * self.patch
        heads = int(config.get("num_attention_heads", max(1, dim // HEAD)))
        if dim % heads:
            raise ReinvertError(f"{self.name} has width {dim}, which its {heads} heads cannot share: see config.json")
        clip = "before.weight" in state
        self.mean, self.std = CLIP if clip else IMAGENET
        act = _activation(str(config.get("hidden_act", "quick_gelu" if clip else "gelu")), self.name)
        eps = float(config.get("layer_norm_eps", 1e-5 if clip else 1e-6))
        self.shape = (depth, dim, self.patch)
        self.cls, self.pos = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(state["pos"].shape[-2], dim))
        bias = "patch.bias" in state
        self.patches = nn.Conv2d(3, dim, self.patch, self.patch, bias=bias)
        self.before = nn.LayerNorm(dim, eps) if clip else nn.Identity()
        self.blocks = nn.ModuleList([Block(dim, inner, heads, eps, act) for _ in range(depth)])
        named = {key.replace("patch.", "patches."): tensor.float() for key, tensor in state.items()}
        named["cls"], named["pos"] = named["cls"].flatten(), named["pos"].flatten(0, -2)
        try:
            self.load_state_dict(named)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ReinvertError(f"{self.name} is not a vision transformer reinvert can read: {reason}") from error
        self.eval().requires_grad_(False)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return height // self.patch, width // self.patch

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        """`[n, 1 + patches, dim]` before the first block and after each, for normalised pictures `[n, 3, h, w]`."""
        rows, columns = self.grid(*x.shape[-2:])
        seen = self.patches(x[..., : rows * self.patch, : columns * self.patch]).flatten(2).mT
        z = self.before(torch.cat([self.cls.expand(len(x), 1, -1), seen], 1) + self._positions(rows, columns))
        yield z
        for block in self.blocks:
            z = block(z)
            yield z

    def keys(self, x: Tensor) -> Tensor:
        """The last block's keys, all heads together: `[n, 1 + patches, dim]`, the class token first."""
        last = cast(Block, self.blocks[-1])
        # The last block itself need not run: its keys are made of what enters it.
        entering = next(z for depth, z in enumerate(self.layers(x), start=1) if depth == len(self.blocks))
        return last.k(last.norm1(entering))

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The learned positions, resampled (bicubic) where the grid is not the one they were learned on."""
        side = self.side // self.patch
        if (rows, columns) == (side, side):
            return self.pos
        learned = self.pos[1:].mT.unflatten(-1, (side, side))[None]
        there = F.interpolate(learned, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.pos[:1], there[0].flatten(1).mT])


def load_vit(where: str | Path, name: str | None = None) -> Vit:
    """A vision transformer from a safetensors file, a folder or a Hub id; of a CLIP, its vision half."""
    made = Vit(read(where), name)
    made.mean, made.std = colours(locate(where), (made.mean, made.std))
    return made


def colours(folder: Path, usual: tuple[Colour, Colour]) -> tuple[Colour, Colour]:
    """The mean and standard deviation of a network's training: the usual ones, unless its folder says others."""
    said = read_json(folder / "preprocessor_config.json")
    mean, std = said.get("image_mean", usual[0]), said.get("image_std", usual[1])
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))


def canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that are needed, under the names used here; one matrix of q, k and v is cut in three."""
    state: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        key = full.removeprefix("model.")
        key = re.sub(r"^(vit|vision_model|visual)\.", "", key)
        block = _BLOCK.fullmatch(key)
        if block:
            index, part, kind = block.groups()
            ours = next((ours for ours, theirs in _PARTS.items() if re.fullmatch(theirs, part)), None)
            if ours == "qkv":
                state |= {f"blocks.{index}.{o}.{kind}": t for o, t in zip("qkv", tensor.chunk(3), strict=True)}
            elif ours:
                state[f"blocks.{index}.{ours}.{kind}"] = tensor
            continue
        for theirs, ours in _NAMES:
            found = re.fullmatch(rf"{theirs}(\.(?P<kind>weight|bias))?", key)
            if found:
                state[ours if ours in ("cls", "pos") else f"{ours}.{found['kind']}"] = tensor
    return state


def _number(key: str) -> int:
    return int(key.split(".")[1]) if key.startswith("blocks.") else -1


def _activation(name: str, who: str) -> Callable[[Tensor], Tensor]:
    if name == "gelu":
        return F.gelu
    if name == "quick_gelu":
        return lambda x: x * torch.sigmoid(1.702 * x)
    raise ReinvertError(f"{who} has the activation {name!r}; reinvert reads gelu and quick_gelu")


class TowerDistance:
    """A perceptual distance made of a vision transformer's layers, for where LPIPS's own networks are not at hand.

    As LPIPS without learned weights: every patch's features are brought to length 1, and the squared difference is
    averaged over the layers. Values compare to each other, never to LPIPS.
    """

    def __init__(self, tower: Vit) -> None:
        self.tower, self.name, self.digest = tower, tower.name, tower.digest

    def maps(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        """See `Perceptual`."""
        features = zip(self._features(a), self._features(b), strict=True)
        depth = len(self.tower.blocks)
        return tuple(((fa - fb) ** 2).sum(1, keepdim=True) / depth for fa, fb in features)

    def _features(self, x: Tensor) -> Iterator[Tensor]:
        """Every block's patches `[n, dim, rows, columns]`, each of length 1, for pictures in -1..1."""
        side = self.tower.side
        if tuple(x.shape[-2:]) != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
        colours = (self.tower.mean, self.tower.std)
        mean, std = (torch.tensor(c, dtype=x.dtype, device=x.device).view(-1, 1, 1) for c in colours)
        layers = self.tower.layers((x / 2 + 0.5 - mean) / std)
        next(layers)  # before the first block nothing has been looked at yet
        grid = self.tower.grid(side, side)
        for z in layers:
            patches = F.normalize(z[:, 1:], dim=-1)
            yield patches.mT.unflatten(-1, grid)
