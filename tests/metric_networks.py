"""Tiny random networks for the metrics, and naive forms of what they compute."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from conftest import PARITY
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

from reinvert.networks.convolutional import TRUNKS, Lpips

SIDE, PATCH, DIM = 32, 8, 24
TOKENS = 16


def pictures(count: int, side: int = 48, seed: int = 0) -> torch.Tensor:
    """Smooth pictures of many colours, [count, 3, side, side] in 0..1 and exactly representable in 8 bits."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(noise, (side, side), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


def noisy(x: torch.Tensor, amount: float, seed: int = 9) -> torch.Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return ((x + amount * noise).clamp(0, 1) * 255).round() / 255


def square(count: int, side: int = 48) -> torch.Tensor:
    """A mask with a square in it, off the middle and another one in each picture."""
    mask = torch.zeros(count, 1, side, side)
    for i in range(count):
        mask[i, :, 10 : 26 + 2 * i, 14:34] = 1
    return mask


def vit_folder(folder: Path, seed: int = 0) -> Path:
    """A random `ViTModel` saved by transformers; weights scaled so that attention and positions matter."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=DIM,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=PATCH,
        layer_norm_eps=1e-6,
    )
    model = ViTModel(config)
    _stir(model)
    model.save_pretrained(folder)
    return folder


def timm_file(path: Path, seed: int = 0) -> Path:
    """A random ViT under timm's and DINO's key names, heads of 64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(shape, generator=generator)

    dim, inner = 128, 96
    state = {
        "cls_token": draw(1, 1, dim),
        "pos_embed": draw(1, 1 + (SIDE // PATCH) ** 2, dim),
        "patch_embed.proj.weight": draw(dim, 3, PATCH, PATCH),
        "patch_embed.proj.bias": draw(dim),
        "norm.weight": draw(dim),
        "norm.bias": draw(dim),
    }
    for i in range(2):
        shapes = {"attn.qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.fc1": (inner, dim), "mlp.fc2": (dim, inner)}
        for part, shape in shapes.items():
            state |= {f"blocks.{i}.{part}.weight": draw(*shape), f"blocks.{i}.{part}.bias": draw(shape[0])}
        for part in ("norm1", "norm2"):
            state |= {f"blocks.{i}.{part}.weight": 1 + draw(dim), f"blocks.{i}.{part}.bias": draw(dim)}
    save_file(state, path)
    return path


def clip_folder(folder: Path, seed: int = 0, tokenizer: bool = True) -> Path:
    """A random `CLIPModel` with the tokenizer of the recorded runs."""
    tokens = CLIPTokenizer.from_pretrained(PARITY / "tiny-random-sd" / "tokenizer", model_max_length=TOKENS)
    torch.manual_seed(seed)
    small = {"hidden_size": DIM, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = {"vocab_size": len(tokens), "max_position_embeddings": TOKENS}
    ends = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id}
    config = CLIPConfig(
        projection_dim=12,
        text_config={**small, **words, **ends},
        vision_config={**small, "image_size": SIDE, "patch_size": PATCH},
    )
    model = CLIPModel(config)
    _stir(model)
    model.save_pretrained(folder)
    if tokenizer:
        tokens.save_pretrained(folder)
    return folder


def _stir(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.mul_(8)
            elif "norm" not in name:
                weight.add_(0.1 * torch.randn(weight.shape))


def lpips_tensors(kind: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random trunk under torchvision's names and learned weights under the lpips package's."""
    torch.manual_seed(seed)
    trunk = TRUNKS[kind].build()
    with torch.no_grad():
        for name, weight in trunk.named_parameters():
            weight.mul_(0.5 if name.endswith("bias") else 2.5)  # the picture counts more than the biases
    state = {f"features.{key}": weight.clone() for key, weight in trunk.state_dict().items()}
    widths = {"squeeze": (64, 128, 256, 384, 384, 512, 512), "alex": (64, 192, 384, 256, 256)}
    for i, width in enumerate(widths.get(kind, (64, 128, 256, 512, 512))):
        state[f"lin{i}.model.1.weight"] = torch.rand(1, width, 1, 1)
    return state


def lpips_network(kind: str = "squeeze", seed: int = 0) -> Lpips:
    return Lpips(lpips_tensors(kind, seed), digest="random")


# --- naive forms -------------------------------------------------------------------------------------------------


def naive_trunk(kind: str, state: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """The features of a trunk, layer by layer from its description in the papers, with functions only."""

    def conv(x: torch.Tensor, name: str, stride: int = 1, padding: int = 0) -> torch.Tensor:
        weight, bias = state[f"features.{name}.weight"], state[f"features.{name}.bias"]
        return F.relu(F.conv2d(x, weight, bias, stride, padding))

    seen = []
    if kind == "alex":
        x = conv(x, "0", 4, 2)
        seen.append(x)
        x = conv(F.max_pool2d(x, 3, 2), "3", 1, 2)
        seen.append(x)
        x = F.max_pool2d(x, 3, 2)
        for name in ("6", "8", "10"):
            x = conv(x, name, 1, 1)
            seen.append(x)
    elif kind == "vgg":
        for stage in (("0", "2"), ("5", "7"), ("10", "12", "14"), ("17", "19", "21"), ("24", "26", "28")):
            x = F.max_pool2d(x, 2) if seen else x
            for name in stage:
                x = conv(x, name, 1, 1)
            seen.append(x)
    else:

        def fire(x: torch.Tensor, name: str) -> torch.Tensor:
            x = conv(x, f"{name}.squeeze")
            return torch.cat([conv(x, f"{name}.expand1x1"), conv(x, f"{name}.expand3x3", 1, 1)], 1)

        def pool(x: torch.Tensor) -> torch.Tensor:
            return F.max_pool2d(x, 3, 2, ceil_mode=True)

        x = conv(x, "0", 2)
        seen.append(x)
        x = fire(fire(pool(x), "3"), "4")
        seen.append(x)
        x = fire(fire(pool(x), "6"), "7")
        seen.append(x)
        x = fire(pool(x), "9")
        seen.append(x)
        for name in ("10", "11", "12"):
            x = fire(x, name)
            seen.append(x)
    return seen


def naive_lpips(kind: str, state: dict[str, torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> float:
    """LPIPS of two pictures [3, h, w] in -1..1, place by place."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    features = [naive_trunk(kind, state, ((x.permute(1, 2, 0) - shift) / scale).permute(2, 0, 1)[None]) for x in (a, b)]
    total = 0.0
    for i, (fa, fb) in enumerate(zip(*features, strict=True)):
        weight, places = state[f"lin{i}.model.1.weight"].flatten(), []
        for y in range(fa.shape[2]):
            for x in range(fa.shape[3]):
                u, v = fa[0, :, y, x], fb[0, :, y, x]
                u, v = u / torch.sqrt(u @ u + 1e-8), v / torch.sqrt(v @ v + 1e-8)
                places.append(float(weight @ (u - v) ** 2))
        total += sum(places) / len(places)
    return total


def naive_timm_keys(state: dict[str, torch.Tensor], x: torch.Tensor, heads: int) -> torch.Tensor:
    """The last block's keys [token, dim] of one normalised picture [3, h, w]: full attention maps, head by head."""

    def norm(z: torch.Tensor, name: str) -> torch.Tensor:
        centred = z - z.mean(-1, keepdim=True)
        spread = (centred**2).mean(-1, keepdim=True)
        return centred / torch.sqrt(spread + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(z: torch.Tensor, name: str) -> torch.Tensor:
        return z @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    dim = state["cls_token"].shape[-1]
    tokens = [state["cls_token"].flatten()]
    for top in range(0, x.shape[1], PATCH):
        for left in range(0, x.shape[2], PATCH):
            patch = x[:, top : top + PATCH, left : left + PATCH]
            weight = state["patch_embed.proj.weight"].flatten(1)
            tokens.append(weight @ patch.flatten() + state["patch_embed.proj.bias"])
    z = torch.stack(tokens) + state["pos_embed"][0]
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks"))
    for i in range(depth):
        q, k, v = linear(norm(z, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").split(dim, -1)
        if i == depth - 1:
            return k
        width, mixed = dim // heads, []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            mixed.append(torch.softmax(q[:, part] @ k[:, part].T / width**0.5, -1) @ v[:, part])
        z = z + linear(torch.cat(mixed, -1), f"blocks.{i}.attn.proj")
        hidden = linear(norm(z, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        gelu = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        z = z + linear(gelu, f"blocks.{i}.mlp.fc2")
    raise AssertionError


def naive_similarity(keys: torch.Tensor) -> torch.Tensor:
    """Cosines of every two rows, one by one."""
    n = len(keys)
    return torch.tensor(
        [[float(keys[i] @ keys[j] / (keys[i].norm() * keys[j].norm())) for j in range(n)] for i in range(n)]
    )
