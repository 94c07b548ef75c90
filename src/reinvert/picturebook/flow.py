"""Trains picturebook's flow model: an MMDiT of Stable Diffusion 3's shape on the VAE's latents, with two text encoders.

    python -m reinvert.picturebook.flow --out DIR [--minutes 110]       the bundled one, on the bundled VAE, one core

The command goes on from its checkpoint and writes `DIR/model`, a diffusers folder in fp16.

    loss = |v(x_s, s, text) - (noise - x)|^2,   x_s = (1 - s) x + s noise,   s = sigmoid(1.1 n + 0.2), n normal

Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, 2024, arXiv 2403.03206. The pipelines of that
family put 256 zeros where T5's tokens would be. They are 256 equal tokens and stay equal from block to block, so one of
them with 256 times the attention is the same: `ZerosProcessor` trains with that one, in a third of the time.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from reinvert.models import BUNDLED
from reinvert.picturebook.notes import write as write_notes
from reinvert.picturebook.train import (
    Draws,
    Recipe,
    Stage,
    batches,
    caption_tokens,
    compiled,
    encode_share,
    read_latents,
    render_all,
    training_scenes,
)

LOG = logging.getLogger(__name__)

Untyped: TypeAlias = Any
"""Networks of diffusers and transformers, whose own types say too little."""

PATCH: Final = 2
STEPS: Final = 28
"""Usual for the family."""
ZEROS: Final = 256
"""Tokens that stand in T5's place."""
COMPACT: Final = Recipe(flow_width=128, flow_heads=4, flow_blocks=6, flow_batch=32)
"""The bundled model's: 3.5 million weights see more than twice as many pictures in an hour of one core as the 10.6
million of `Recipe`'s defaults, and take a third of the space."""


class ZerosProcessor:
    """Joint attention [picture, text] whose last text token counts as `ZEROS` equal ones."""

    def __call__(
        self, attn: Untyped, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Picture tokens and text tokens after one attention over both."""
        assert encoder_hidden_states is not None
        pixels = hidden_states.shape[1]

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        def normed(norm: Untyped, x: Tensor) -> Tensor:
            return x if norm is None else norm(x)

        q = normed(attn.norm_q, heads(attn.to_q(hidden_states)))
        k = normed(attn.norm_k, heads(attn.to_k(hidden_states)))
        text_q = normed(attn.norm_added_q, heads(attn.add_q_proj(encoder_hidden_states)))
        text_k = normed(attn.norm_added_k, heads(attn.add_k_proj(encoder_hidden_states)))
        v, text_v = heads(attn.to_v(hidden_states)), heads(attn.add_v_proj(encoder_hidden_states))
        q, k, v = torch.cat([q, text_q], 2), torch.cat([k, text_k], 2), torch.cat([v, text_v], 2)
        bias = torch.zeros(1, 1, 1, k.shape[2], dtype=v.dtype, device=v.device)
        bias[..., -1] = math.log(ZEROS)
        # Norms give float32 also where the rest is not.
        seen = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, attn_mask=bias)
        seen = seen.transpose(1, 2).flatten(2)
        picture, text = seen[:, :pixels], seen[:, pixels:]
        picture = attn.to_out[1](attn.to_out[0](picture))
        return picture, text if attn.context_pre_only else attn.to_add_out(text)


def new_transformer(recipe: Recipe, latent: int) -> Untyped:
    """The MMDiT; its modulations and its output begin at zero, as DiT's do."""
    transformer = SD3Transformer2DModel(
        sample_size=latent,
        patch_size=PATCH,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        num_layers=recipe.flow_blocks,
        num_attention_heads=recipe.flow_heads,
        attention_head_dim=recipe.flow_width // recipe.flow_heads,
        joint_attention_dim=2 * recipe.flow_text,
        caption_projection_dim=recipe.flow_width,
        pooled_projection_dim=2 * recipe.flow_text,
        pos_embed_max_size=latent // PATCH,
        qk_norm="rms_norm",
    )
    for name, module in transformer.named_modules():
        modulates = name.endswith((".norm1.linear", ".norm1_context.linear"))
        if isinstance(module, nn.Linear) and (modulates or name in ("norm_out.linear", "proj_out")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def new_encoder(recipe: Recipe, tokenizer: Untyped) -> Untyped:
    """One of the two text encoders."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.flow_text,
            intermediate_size=3 * recipe.flow_text,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=recipe.flow_text,
        )
    )


def encode(encoders: list[Untyped], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Both encoders' last but one states side by side [caption, token + 1, dim] with one zero token behind, and their
    pooled vectors [caption, dim], as the family's pipelines make them."""
    outs = [encoder(ids, output_hidden_states=True) for encoder in encoders]
    tokens = torch.cat([out.hidden_states[-2] for out in outs], dim=-1)
    return F.pad(tokens, (0, 0, 0, 1)), torch.cat([out.text_embeds for out in outs], dim=-1)


def train_flow(
    recipe: Recipe, latents: Tensor, tokens: Tensor, empty: Tensor, tokenizer: Untyped, out: Path, budget: float,
    device: torch.device, rank: int = 0,
) -> tuple[Untyped, list[Untyped]]:  # fmt: skip
    """Train for `budget` seconds in all; see `train.train_unet`. Returns the transformer and both encoders."""
    torch.manual_seed(recipe.seed + 2)
    transformer = new_transformer(recipe, latents.shape[-1]).to(device)
    encoders = [new_encoder(recipe, tokenizer).to(device) for _ in range(2)]
    plain = transformer.attn_processors
    transformer.set_attn_processor(ZerosProcessor())
    modules: dict[str, nn.Module] = {"text": encoders[0], "text_2": encoders[1], "flow": transformer}
    stage = Stage(modules, recipe.flow_rate, recipe.ema, out / "flow.ckpt.safetensors", budget, device)
    order = batches(len(latents), recipe.flow_batch, recipe.seed + stage.step + 7919 * rank)
    draws = Draws(latents, tokens, empty, device, recipe.seed + stage.step + 7919 * rank)
    predict = compiled(transformer, device)

    def one_loss() -> tuple[Tensor, float]:
        x, ids, noise = draws(next(order))
        normal = torch.special.ndtri(draws.even(len(x)).clamp(1e-4, 1 - 1e-4))
        s = torch.sigmoid(1.1 * normal + 0.2)[:, None, None, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            text, pooled = encode(encoders, ids)
            velocity = predict(
                hidden_states=(1 - s) * x + s * noise,
                timestep=1000 * s.flatten(),
                encoder_hidden_states=text,
                pooled_projections=pooled,
            ).sample
        loss = (velocity.float() - (noise - x)).square().mean()
        return loss, recipe.flow_rate * min(1.0, 0.02 + 0.98 * (1 - stage.progress) / 0.5)

    stage.run(one_loss, "flow")
    stage.use_average()
    transformer.set_attn_processor(plain)
    return transformer.eval(), [encoder.eval() for encoder in encoders]


def export(
    folder: Path, vae: Untyped, encoders: list[Untyped], transformer: Untyped, tokenizer: Untyped,
    more: Sequence[str] = (),
) -> None:  # fmt: skip
    """Write a diffusers folder in fp16, loadable by plain `StableDiffusion3Pipeline.from_pretrained(folder,
    text_encoder_3=None, tokenizer_3=None)`: there is no T5. `more` words than those of plain captions are known."""
    make: Untyped = StableDiffusion3Pipeline
    pipe = make(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for part in ("text_encoder", "text_encoder_2"):  # see `train.export`
        config = folder / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    write_notes(folder, pictures=False, more=more, steps=STEPS)


def train(recipe: Recipe, out: Path, budget: float, device: torch.device, base: Path) -> None:
    """Draw, encode with the VAE of the model in `base`, whose tokenizer it shares, train for `budget` seconds in all,
    and write `out / "model"`."""
    make_vae: Untyped = AutoencoderKL
    vae = make_vae.from_pretrained(base / "vae", torch_dtype=torch.float32).to(device).eval()
    tokenizer: Untyped = CLIPTokenizer.from_pretrained(base / "tokenizer")
    scenes = training_scenes(recipe.scenes, recipe.seed, wide=recipe.wide)
    encode_share(vae, render_all(scenes, recipe.size, out / "pictures.npy"), out, device)
    latents = read_latents(vae, out, scale=vae.config.scaling_factor)
    tokens, empty = caption_tokens(recipe, scenes, tokenizer)
    transformer, encoders = train_flow(recipe, latents, tokens, empty, tokenizer, out, budget, device)
    export(out / "model", vae, encoders, transformer, tokenizer)
    write_notes(out / "model", steps=STEPS)  # the VAE is trained to its end: what it loses of a drawing is known
    LOG.info(f"wrote {out / 'model'}")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Train picturebook's flow model on the VAE of a trained model.")
    parser.add_argument("--out", type=Path, required=True, help="working folder; run again to resume")
    parser.add_argument("--minutes", type=float, default=110, help="of training, resumed runs included")
    parser.add_argument("--model", type=Path, default=BUNDLED["picturebook"], help="whose VAE and tokenizer to take")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--scenes", type=int, default=COMPACT.scenes)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(args.threads)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    recipe = replace(COMPACT, scenes=args.scenes, seed=args.seed)
    train(recipe, out, args.minutes * 60, torch.device(args.device), args.model)


if __name__ == "__main__":
    main()
