"""Joint attention: processors that hand q, k, v of picture and text together to the rules.

They do what `JointAttnProcessor2_0` (Stable Diffusion 3) and `FluxAttnProcessor` (FLUX) of diffusers (0.42) do, and in
their middle call the rules of the `Call` that the evaluation brought along in `joint_attention_kwargs`. Without a call
they are those processors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor

from reinvert.backbones.attention import signed
from reinvert.hooks import Call, Kind, Layer, Site, Take
from reinvert.text import Side


@dataclass(frozen=True)
class CarriedJoint:
    """What travels through `joint_attention_kwargs`: the call, (h, w) of the latents and of the picture's tokens, how
    many tokens the text has, and whether the picture's come before them."""

    call: Call
    latent: tuple[int, int]
    grid: tuple[int, int]
    text: int
    picture_first: bool

    def attend(self, layer: Layer, kind: Kind, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        """The rules' answer [row case, token, head, dim] to heads [row case, head, token, dim], or None where no rule
        reaches this layer."""
        call = self.call
        if not call.hooks.touches(kind, call.moment):
            return None
        tokens, text = q.shape[2], self.text if kind == "joint" else 0
        picture, words = slice(text, tokens), slice(0, text)
        if self.picture_first or kind == "self":
            picture, words = slice(0, tokens - text), slice(tokens - text, tokens)
        sites = {
            side: Site(layer, kind, side, self.grid, self.latent, branches, call.moment, picture, words)
            for side, branches in call.sides()
        }
        if not any(call.hooks.reaches(site) for site in sites.values()):
            return None
        q, k, v = (y.unflatten(0, (len(call.rows), -1)) for y in (q, k, v))

        def rule(side: Side, branches: tuple[int, ...], take: Take) -> Tensor:
            # Transposed before the sides are joined: fused attention leaves its answer in this order.
            return call.hooks.attend(take(q), take(k), take(v), sites[side]).transpose(2, 3)

        return call.by_side(rule).flatten(0, 1)


def _attended(carried: CarriedJoint | None, layer: Layer, kind: Kind, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads = None if carried is None else carried.attend(layer, kind, q, k, v)
    heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2) if heads is None else heads
    return heads.flatten(2).to(q.dtype)


@signed
class RuledJointAttention:
    """For a layer of Stable Diffusion 3: one softmax over [picture | text], or over the picture alone (attn2)."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        reinvert: CarriedJoint | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        def heads(projected: Tensor, norm: Any = None) -> Tensor:
            split = projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return split if norm is None else norm(split)

        q = heads(attn.to_q(hidden_states), attn.norm_q)
        k = heads(attn.to_k(hidden_states), attn.norm_k)
        v = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is None:
            out = _attended(reinvert, self.layer, "self", q, k, v)
            return attn.to_out[1](attn.to_out[0](out))
        q = torch.cat([q, heads(attn.add_q_proj(encoder_hidden_states), attn.norm_added_q)], dim=2)
        k = torch.cat([k, heads(attn.add_k_proj(encoder_hidden_states), attn.norm_added_k)], dim=2)
        v = torch.cat([v, heads(attn.add_v_proj(encoder_hidden_states))], dim=2)
        out = _attended(reinvert, self.layer, "joint", q, k, v)
        picture, text = out[:, : hidden_states.shape[1]], out[:, hidden_states.shape[1] :]
        # The last block reads the text and leaves it as it is.
        text = text if attn.context_pre_only else attn.to_add_out(text)
        return attn.to_out[1](attn.to_out[0](picture)), text


@signed
class RuledFluxAttention:
    """For a layer of FLUX: one softmax over [text | picture], in two streams (double blocks) or in one (single)."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        reinvert: CarriedJoint | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        def heads(projected: Tensor, norm: Any = None) -> Tensor:
            split = projected.unflatten(-1, (-1, attn.head_dim))
            return split if norm is None else norm(split)

        q = heads(attn.to_q(hidden_states), attn.norm_q)
        k = heads(attn.to_k(hidden_states), attn.norm_k)
        v = heads(attn.to_v(hidden_states))
        if encoder_hidden_states is not None:
            q = torch.cat([heads(attn.add_q_proj(encoder_hidden_states), attn.norm_added_q), q], dim=1)
            k = torch.cat([heads(attn.add_k_proj(encoder_hidden_states), attn.norm_added_k), k], dim=1)
            v = torch.cat([heads(attn.add_v_proj(encoder_hidden_states)), v], dim=1)
        if image_rotary_emb is not None:
            rotate: Any = apply_rotary_emb  # typed for one of its two uses only
            q, k = (rotate(y, image_rotary_emb, sequence_dim=1) for y in (q, k))
        out = _attended(reinvert, self.layer, "joint", q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        if encoder_hidden_states is None:
            return out
        length = encoder_hidden_states.shape[1]
        text, picture = out[:, :length], out[:, length:]
        return attn.to_out[1](attn.to_out[0](picture.contiguous())), attn.to_add_out(text.contiguous())


def joint_layers(transformer: Any) -> tuple[Layer, ...]:
    """Every attention layer of a transformer in order of execution: double blocks, then single ones, each numbered by
    its block; a second attention within a block stands behind its first."""
    names = [name.removesuffix(".processor") for name in transformer.attn_processors]
    found = [(name.startswith("single"), int(name.split(".")[1]), name.rsplit(".", 1)[-1], name) for name in names]
    found.sort()
    blocks = sorted({(single, block) for single, block, _, _ in found})
    depth = {key: i / max(1, len(blocks) - 1) for i, key in enumerate(blocks)}
    return tuple(
        Layer(name, "single" if single else "double", block, depth[single, block]) for single, block, _, name in found
    )


def ruled_joint(transformer: Any) -> Callable[[Layer], Any]:
    """The processor to set on a layer of this transformer."""
    flux = hasattr(transformer, "single_transformer_blocks")
    return RuledFluxAttention if flux else RuledJointAttention
