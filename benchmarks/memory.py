"""How many parameters the published models have, part by part, and what their weights fill: the table of
docs/backbones.md.

    python benchmarks/memory.py

Every part is made from its published configuration on torch's `meta` device, so nothing is downloaded and no memory is
filled; only what decides shapes is written down here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

GIB = 1024**3


def clip(width: int, inner: int, layers: int, heads: int, projection: int = 0, **more: Any) -> Any:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=projection or width,
        **more,
    )
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def t5() -> Any:
    return T5EncoderModel(
        T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, d_kv=64, feed_forward_proj="gated-gelu")
    )


def vae(channels: int, quant: bool, **more: Any) -> Any:
    levels = (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=levels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=2,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        **more,
    )


def unet(width: int, linear: bool) -> Any:
    return UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=width,
        attention_head_dim=(5, 10, 20, 20) if linear else 8,
        use_linear_projection=linear,
    )


def unet_xl() -> Any:
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def mmdit(layers: int, qk_norm: str | None = None, dual: int = 0, positions: int = 192) -> Any:
    return SD3Transformer2DModel(
        sample_size=128,
        num_layers=layers,
        num_attention_heads=layers,
        attention_head_dim=64,
        joint_attention_dim=4096,
        caption_projection_dim=64 * layers,
        pooled_projection_dim=2048,
        pos_embed_max_size=positions,
        qk_norm=qk_norm,
        dual_attention_layers=tuple(range(dual)),
    )


def flux(guidance: bool) -> Any:
    return FluxTransformer2DModel(guidance_embeds=guidance)


def qwen() -> Any:
    """Qwen2.5-VL of 7 B, which reads the instruction and sees the picture."""
    words = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    sight = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    config = Qwen2_5_VLConfig(text_config=words, vision_config=sight, tie_word_embeddings=False)
    return Qwen2_5_VLForConditionalGeneration(config)


def large() -> Any:
    return clip(768, 3072, 12, 12)


def large_pooling() -> Any:
    return clip(768, 3072, 12, 12, projection=768)


def big() -> Any:
    return clip(1280, 5120, 32, 20, projection=1280)


def huge() -> Any:
    return clip(1024, 4096, 23, 16)


Parts = Mapping[str, Callable[[], Any]]
MODELS: dict[str, Parts] = {
    "SD 1.4 / 1.5": {"network": lambda: unet(768, False), "CLIP": large, "VAE": lambda: vae(4, True)},
    "SD 2.1": {"network": lambda: unet(1024, True), "CLIP": huge, "VAE": lambda: vae(4, True)},
    "SDXL": {"network": unet_xl, "CLIP": large, "CLIP 2": big, "VAE": lambda: vae(4, True)},
    "SD3 medium": {
        "network": lambda: mmdit(24),
        "CLIP": large_pooling,
        "CLIP 2": big,
        "T5": t5,
        "VAE": lambda: vae(16, False),
    },
    "SD3.5 medium": {
        "network": lambda: mmdit(24, "rms_norm", 13, positions=384),
        "CLIP": large_pooling,
        "CLIP 2": big,
        "T5": t5,
        "VAE": lambda: vae(16, False),
    },
    "SD3.5 large": {
        "network": lambda: mmdit(38, "rms_norm"),
        "CLIP": large_pooling,
        "CLIP 2": big,
        "T5": t5,
        "VAE": lambda: vae(16, False),
    },
    "FLUX.1 schnell": {"network": lambda: flux(False), "CLIP": large, "T5": t5, "VAE": lambda: vae(16, False)},
    "FLUX.1 dev": {"network": lambda: flux(True), "CLIP": large, "T5": t5, "VAE": lambda: vae(16, False)},
    "FLUX.1 Kontext dev": {"network": lambda: flux(True), "CLIP": large, "T5": t5, "VAE": lambda: vae(16, False)},
    "Qwen-Image-Edit": {
        "network": QwenImageTransformer2DModel,  # its defaults are the published configuration
        "Qwen2.5-VL": qwen,
        "VAE": AutoencoderKLQwenImage,
    },
}


def count(make: Callable[[], Any]) -> int:
    """Numbers in a part's checkpoint: parameters, and tables of positions."""
    with torch.device("meta"):
        part = make()
        return sum(tensor.numel() for tensor in (*part.parameters(), *part.buffers()))


def main() -> None:
    print("| model | network | text encoders | VAE | all | 16 bit | network alone, 16 bit | 32 bit |")
    print("|---|---|---|---|---|---|---|---|")
    for name, parts in MODELS.items():
        sizes = {part: count(make) for part, make in parts.items()}
        network, autoencoder, everything = sizes["network"], sizes["VAE"], sum(sizes.values())
        text = everything - network - autoencoder
        millions = [f"{n / 1e6:,.0f} M" for n in (network, text, autoencoder, everything)]
        memory = [f"{n / GIB:.1f} GiB" for n in (2 * everything, 2 * network, 4 * everything)]
        print(f"| {name} | {' | '.join(millions + memory)} |")


if __name__ == "__main__":
    main()
