"""A random model of Stable Diffusion 1.4's sizes, built from configurations alone: nothing is downloaded.

860 M parameters of UNet, 84 M of VAE, 123 M of CLIP ViT-L/14 text encoder, 77 tokens, 64x64x4 latents, 512x512
pixels. Its pictures are noise; its time and memory are the real ones. The tokenizer is the small one of the parity
fixtures, whose ids all lie inside the text encoder's vocabulary.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from reinvert.backbones.stable_diffusion import StableDiffusion

TOKENIZER = Path(__file__).parent.parent / "tests" / "fixtures" / "parity" / "tiny-random-sd" / "tokenizer"
TOKENS = 77

UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # the number of heads, under the name that SD 1.x has for it
    "norm_num_groups": 32,
}
VAE = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": TOKENS,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def build(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> StableDiffusion:
    """The model on `device`; the weights are drawn there, so that a GPU does it in seconds."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=TOKENS)
    torch.manual_seed(seed)
    with torch.device(device):
        unet = UNet2DConditionModel(**UNET).to(dtype)
        vae = AutoencoderKL(**VAE).to(dtype)
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT, **ends)).to(dtype)
    return StableDiffusion(
        unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=SCHEDULER, name="sd14-random"
    )
