"""What a UNet makes of the time alone, for all times of a walk in one product.

    e_t = MLP(sinusoid(t)),    shift_b(t) = W_b silu(e_t) + b_b        in every ResNet block b

A network computes them anew in every evaluation and for every row, though neither the latents nor the words have a
part in them. While a walk is open, stand-ins in the places of those modules answer with what was kept.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from reinvert.hooks import scales

MORE = ("class_embed_type", "num_class_embeds", "addition_embed_type", "time_cond_proj_dim", "time_embedding_act_fn")
"""Entries of a UNet's configuration that let its embedding depend on more than the time."""


class _StandIn(torch.nn.Module):
    """In a module's place, with its weights under their own names; `answer` is given what the module would be."""

    def __init__(self, module: torch.nn.Module, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._parameters, self._buffers, self._modules = module._parameters, module._buffers, module._modules
        self._answer = answer

    def forward(self, given: Tensor, *_: Any) -> Tensor:
        return self._answer(given)


class TimeEmbeddings:
    """The embeddings of one UNet: by time, [1, dim] of the time itself and [1, channel] of each block."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.blocks: list[Any] = [
            module
            for module in unet.modules()
            if type(module).__name__ == "ResnetBlock2D" and getattr(module, "time_emb_proj", None) is not None
        ]
        self.placed = False
        self.coming: set[int] = set()
        """Times that will be told, as far as they are known."""
        self._kept: dict[int, list[Tensor]] = {}
        self._told: list[Tensor] = []
        self._modules: list[Any] = []

    @staticmethod
    def of(unet: Any) -> TimeEmbeddings | None:
        """None for a UNet whose embedding depends on more than the time, or that uses it in another way."""
        config = unet.config
        plain = all(config.get(entry) is None for entry in MORE) and config.get("resnet_time_scale_shift") == "default"
        return TimeEmbeddings(unet) if type(unet).__name__ == "UNet2DConditionModel" and plain else None

    @contextmanager
    def standing_in(self) -> Generator[None]:
        """Stand-ins in the modules' places."""
        answers: list[tuple[Any, str, Callable[[Tensor], Tensor]]] = [
            (self.unet, "time_proj", lambda given: self._told[0]),
            (self.unet, "time_embedding", lambda given: given),
            *((block, "time_emb_proj", self._shift(i)) for i, block in enumerate(self.blocks, 1)),
        ]
        own = [getattr(parent, name) for parent, name, _ in answers]
        self._modules = own
        try:
            for (parent, name, answer), module in zip(answers, own, strict=True):
                setattr(parent, name, _StandIn(module, answer))
            self.placed = True
            yield
        finally:
            for (parent, name, _), module in zip(answers, own, strict=True):
                setattr(parent, name, module)
            self.placed, self.coming, self._kept, self._told, self._modules = False, set(), {}, [], []

    def _shift(self, place: int) -> Callable[[Tensor], Tensor]:
        return lambda given: self._told[place]

    def tell(self, time: int, device: torch.device, dtype: torch.dtype) -> None:
        """The next evaluation is told this time. All times that are coming are computed with the first of them."""
        if time not in self._kept:
            times = sorted({time} | (self.coming - self._kept.keys()))
            made = self._made(scales([float(t) for t in times], device, torch.float32), dtype)
            self._kept |= {t: [rows[i : i + 1] for rows in made] for i, t in enumerate(times)}
        self._told = self._kept[time]

    @torch.no_grad()
    def _made(self, times: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """[time, dim] of the times themselves and [time, channel] of each block."""
        sinusoid, mlp, *projections = self._modules
        embedding: Tensor = mlp(sinusoid(times).to(dtype))
        active = [embedding if block.skip_time_act else block.nonlinearity(embedding) for block in self.blocks]
        return [embedding, *(project(rows) for project, rows in zip(projections, active, strict=True))]


__all__ = ["TimeEmbeddings"]
