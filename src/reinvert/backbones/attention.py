"""The only lines that know the insides of diffusers' attention: a processor that hands q, k, v to the rules.

It does what `diffusers.models.attention_processor.AttnProcessor2_0` (0.42) does, and in its middle calls the rules
of the `Call` that the evaluation brought along in `cross_attention_kwargs`. Without a call it is that processor.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert.backbones.lock import ModelLock
from reinvert.backbones.time_embeddings import TimeEmbeddings
from reinvert.errors import ReinvertError
from reinvert.hooks import Call, Kind, Layer, Site, Take, rows_at
from reinvert.text import Side

P = TypeVar("P")


def signed(processor: type[P]) -> type[P]:
    """A class of processors whose signature is read once: diffusers asks for it in every attention of every step."""
    call: Any = vars(processor)["__call__"]
    call.__signature__ = inspect.signature(call)
    return processor


@dataclass(frozen=True)
class Carried:
    """What travels through `cross_attention_kwargs`: the call if there is one, the latents' (h, w), and values if they
    differ from the keys."""

    call: Call | None
    latent: tuple[int, int]
    values: Tensor | None


@signed
class RuledAttention:
    """An attention processor for one layer."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        reinvert: Carried | None = None,
    ) -> Tensor:
        kind: Kind = "self" if encoder_hidden_states is None else "cross"
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        call = None if reinvert is None else reinvert.call
        q = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        q = q if attn.norm_q is None else attn.norm_q(q)
        if encoder_hidden_states is None:
            k, v = self._keys_and_values(attn, hidden_states, hidden_states)
        else:
            values = encoder_hidden_states if reinvert is None or reinvert.values is None else reinvert.values
            k, v = self._words(attn, encoder_hidden_states, values, call)

        heads = None
        if reinvert is not None and call is not None and call.hooks.touches(kind, call.moment):
            heads = self._ruled(q, k, v, kind, call, reinvert.latent)
        if heads is None:
            mask = attention_mask
            if mask is not None:
                mask = attn.prepare_attention_mask(mask, k.shape[2], len(k)).unflatten(0, (len(k), -1))
            heads = F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)

        out = attn.to_out[1](attn.to_out[0](heads.flatten(2).to(q.dtype)))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor

    def _keys_and_values(
        self, attn: Any, keys: Tensor, values: Tensor, *, cross: bool = False
    ) -> tuple[Tensor, Tensor]:
        if cross and attn.norm_cross:
            keys, values = attn.norm_encoder_hidden_states(keys), attn.norm_encoder_hidden_states(values)
        k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (attn.to_k(keys), attn.to_v(values)))
        return (k if attn.norm_k is None else attn.norm_k(k)), v

    def _words(self, attn: Any, keys: Tensor, values: Tensor, call: Call | None) -> tuple[Tensor, Tensor]:
        """Keys and values of the text: of rows that say the same as before, what was made of them then."""
        if call is None or call.memo is None:
            return self._keys_and_values(attn, keys, values, cross=True)
        kept = call.memo.get(self.layer.name)
        if kept is None:
            kept = call.memo[self.layer.name] = self._keys_and_values(attn, keys, values, cross=True)
            return kept
        if not call.changing:
            return kept
        rows = len(call.rows)
        own = [rows_at(y.unflatten(0, (rows, -1)), call.changing).flatten(0, 1) for y in (keys, values)]
        changed = self._keys_and_values(attn, own[0], own[1], cross=True)
        k, v = (_replaced(a, b, rows, call.changing) for a, b in zip(kept, changed, strict=True))
        return k, v

    def _ruled(self, q: Tensor, k: Tensor, v: Tensor, kind: Kind, call: Call, latent: tuple[int, int]) -> Tensor | None:
        """The rules' answer [row case, token, head, dim], or None where no rule reaches this layer."""
        rows, (h, w) = len(call.rows), latent
        shrink = round((h * w / q.shape[2]) ** 0.5)
        grid = (h // shrink, w // shrink)
        sites = {
            side: Site(self.layer, kind, side, grid, latent, branches, call.moment) for side, branches in call.sides()
        }
        if not any(call.hooks.reaches(site) for site in sites.values()):
            return None
        q, k, v = (y.unflatten(0, (rows, -1)) for y in (q, k, v))

        def rule(side: Side, branches: tuple[int, ...], take: Take) -> Tensor:
            # Transposed before the sides are joined: fused attention leaves its answer in this order.
            return call.hooks.attend(take(q), take(k), take(v), sites[side]).transpose(2, 3)

        return call.by_side(rule).flatten(0, 1)


def _replaced(heads: Tensor, own: Tensor, rows: int, changing: tuple[int, ...]) -> Tensor:
    """Heads [row case, ...] of all rows, with some rows' own in their places."""
    each, new = list(heads.unflatten(0, (rows, -1))), own.unflatten(0, (len(changing), -1))
    for i, row in enumerate(changing):
        each[row] = new[i]
    return torch.cat(each)


def _part(name: str) -> Literal["down", "mid", "up"]:
    return "down" if name.startswith("down") else "mid" if name.startswith("mid") else "up"


def attention_layers(unet: Any) -> tuple[Layer, ...]:
    """Every attention layer of a UNet, in order of execution (down, mid, up), numbered within attn1 and attn2 each."""
    order = {"down": 0, "mid": 1, "up": 2}
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    names.sort(key=lambda name: order[_part(name)])  # stable: within a part the module order is the execution order
    count: dict[str, int] = {}
    layers: list[Layer] = []
    for i, name in enumerate(names):
        which = name.rsplit(".", 1)[-1]
        layers.append(Layer(name, _part(name), count.get(which, 0), i / max(1, len(names) - 1)))
        count[which] = count.get(which, 0) + 1
    return tuple(layers)


class Rules:
    """Lets calls reach a network: our processors on its attention layers, and forward hooks on the features that rules
    want to see, for as long as a walk is open.

    Walks may overlap, each working for a step at a time: the last one to end puts the network's own processors back.
    `embeddings`, where there are some, stand in for the network's as long.
    """

    def __init__(
        self,
        network: Any,
        layers: Iterable[Layer],
        processor: Callable[[Layer], Any],
        embeddings: TimeEmbeddings | None = None,
    ) -> None:
        self.network, self.embeddings = network, embeddings
        self.call: Call | None = None
        """That of the evaluation that is going on."""
        self.processors = {layer: processor(layer) for layer in layers}
        self._walks = 0
        self._placed = ExitStack()
        self._watched: Counter[str] = Counter()
        self._handles: dict[str, Any] = {}

    @property
    def open(self) -> bool:
        """Whether calls reach the network."""
        return self._walks > 0

    def ruled(self, call: Call | None, kinds: Iterable[Kind]) -> bool:
        """Whether a rule wants to look into this evaluation."""
        if call is None:
            return False
        return bool(call.hooks.features()) or any(call.hooks.touches(kind, call.moment) for kind in kinds)

    def set(self) -> list[tuple[Any, Any]]:
        """Our processors on every layer; the modules with those that they had."""
        # One layer at a time: a UNet's own set_attn_processor walks the whole tree.
        modules = [(self.network.get_submodule(layer.name), mine) for layer, mine in self.processors.items()]
        former = [(module, module.processor) for module, _ in modules]
        for module, mine in modules:
            module.set_processor(mine)
        return former

    @contextmanager
    def applied(self, features: Collection[str], lock: ModelLock) -> Generator[None]:
        """Whatever happens, the network is as it was in the end. `lock` is held to begin and to end."""
        with lock:
            watched = {name: self._module(name) for name in features}
            if not self._walks:
                self._placed.enter_context(self._in_place())
            self._walks += 1
            for name, module in watched.items():
                self._watched[name] += 1
                if name not in self._handles:
                    self._handles[name] = module.register_forward_hook(self._feature_hook(name))
        try:
            yield
        finally:
            with lock.patient():
                for name in watched:
                    self._watched[name] -= 1
                    if not self._watched[name]:
                        self._handles.pop(name).remove()
                self._walks -= 1
                if not self._walks:
                    self._placed.close()

    @contextmanager
    def _in_place(self) -> Generator[None]:
        former = self.set()
        try:
            with nullcontext() if self.embeddings is None else self.embeddings.standing_in():
                yield
        finally:
            for module, processor in former:
                module.set_processor(processor)

    def _module(self, name: str) -> torch.nn.Module:
        try:
            return self.network.get_submodule(name)
        except AttributeError as error:
            raise ReinvertError(f"this model has no module {name!r} for the editor to read from") from error

    def _feature_hook(self, name: str) -> Callable[[Any, Any, Tensor], Tensor | None]:
        def hook(module: Any, args: Any, out: Tensor) -> Tensor | None:
            call = self.call
            if call is None or name not in call.hooks.features():
                return None
            h = out.unflatten(0, (len(call.rows), -1))

            def rule(side: Side, branches: tuple[int, ...], take: Take) -> Tensor:
                return call.hooks.feature(take(h), name, side, branches, call.moment)

            return call.by_side(rule).flatten(0, 1)

        return hook
