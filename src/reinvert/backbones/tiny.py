"""Parts of the tiny random models on which the laws run over every family; made in code, in well under a second.

Networks are imported where they are made: finding out which family reads a model imports this module too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

TOKENS = 16
"""Positions of the tiny CLIPs: not 77, so that nothing can rely on that."""

SCHEDULE: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""The noise schedule of Stable Diffusion 1.x, 2.x and XL."""


def clip_tokenizer(tokens: int = TOKENS, **more: Any) -> Any:
    """The bundled model's small CLIP tokenizer, with as many positions as asked for."""
    from transformers import CLIPTokenizer

    folder = Path(__file__).parent.parent / "picturebook" / "model" / "tokenizer"
    return CLIPTokenizer.from_pretrained(folder, model_max_length=tokens, **more)


def clip_text(tokenizer: Any, width: int, projection: int = 0, seed: int = 0) -> Any:
    """A CLIP text encoder whose words differ visibly; with a `projection` one that also pools."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        projection_dim=projection or width,
    )
    encoder = CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "token_embedding" in name:
                weight.mul_(20)
    return encoder


def t5_tokenizer(tokens: int = 20) -> Any:
    """A unigram tokenizer as T5 has it: words begin with a mark, the end token closes, padding is 0. It spells with
    letters, but knows a few words whole."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ("▁a", "▁cat", "▁dog", "▁sitting", "▁on", "▁table", "▁photo", "▁of")
    letters = ("▁", *"abcdefghijklmnopqrstuvwxyz0123456789.,'-")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(word, -2.0) for word in words] + [(letter, -4.0) for letter in letters]
    inner = Tokenizer(models.Unigram(pieces, unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=tokens, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def t5_text(tokenizer: Any, width: int, seed: int = 0) -> Any:
    """A T5 text encoder whose words differ visibly."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def vae(channels: int, levels: int = 2, seed: int = 0, scaling_factor: float = 2.5, **more: Any) -> Any:
    """An autoencoder of latents with `channels`, whose cells are 2 ** (levels - 1) pixels a side."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    kind: Any = AutoencoderKL  # whose annotations take one level only
    return kind(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16 * 2 ** (levels - 1),
        scaling_factor=scaling_factor,
        **more,
    )


def peak(network: torch.nn.Module, attention: float = 3.0, output: float = 2.0) -> None:
    """Scale the weights of attention, so that the maps are peaked and the text moves the prediction."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight", "add_q_proj.weight", "add_k_proj.weight")):
                weight.mul_(attention)
            if name.endswith(("to_out.0.weight", "to_add_out.weight", "proj_out.weight")):
                weight.mul_(output)
            if name == "conv_out.weight":
                weight.mul_(0.6)


def wide(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts in float64: equalities of whole runs are only meaningful there."""
    return {name: part.double() if isinstance(part, torch.nn.Module) else part for name, part in parts.items()}
