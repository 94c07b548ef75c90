"""The schedule that the published code of direct inversion + prompt-to-prompt executes, in plain form.

Written afresh from its description (PnP Inversion, 2024, arXiv 2310.01506; Prompt-to-Prompt, 2023, arXiv 2208.01626) to
have something honest to compare with; none of reinvert's loop, anchors, hooks or editors is used, only its call of the
network and its word positions. At N steps:

    inversion       N x 1 rows    the source prompt at guidance 1
    offsets         N x 4 rows    both branches from z*_N, both sides, no attention control: o_s = z*_{N-s-1} - D_s(...)
    reconstruction  N x 4 rows    both prompts, an attention store that nobody reads; the source is pulled by o_s
    edit            N x 4 rows    refine, equaliser, self-attention and local blend on materialised attention maps

that is 13 N single-sample forwards. Kept from the published code: the order [null source, null target, text source,
text target] of the rows; edits in place on maps; maps of at most half the latents' side stored per step and
summed over the steps. Kinder to it than its code: inversion and offsets run the model's own fused attention.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert import words
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.level import Moment
from reinvert.text import Text


@dataclass
class Settings:
    """One edit, with the settings of the published PIE-Bench runs."""

    source: str
    target: str
    blend: tuple[str, str]
    boost: float = 2.0
    steps: int = 50
    guidance: float = 7.5
    cross: float = 0.4
    self_attention: float = 0.6
    threshold: float = 0.3
    start_blend: float = 0.2


@dataclass
class Ran:
    """Final latents [2, channel, h, w] (source, target) and the seconds of every pass."""

    latents: Tensor
    seconds: dict[str, float] = field(default_factory=dict)


class Store:
    """Keeps every map of the text half that is small enough, of this step and summed over all: an attention store."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.now: dict[str, list[Tensor]] = {}
        self.total: dict[str, list[Tensor]] = {}
        self.step = 0

    def edit(self, maps: Tensor, cross: bool) -> None:
        """Change the text half's maps [branch, head, query, key] in place."""

    def see(self, maps: Tensor, name: str, cross: bool) -> None:
        """All rows' maps of one layer, [row, head, query, key]; the null half is left alone."""
        text = maps[len(maps) // 2 :]
        if maps.shape[2] <= self.limit:
            part = "down" if name.startswith("down") else "mid" if name.startswith("mid") else "up"
            # The view is stored before the edit in place, so what is summed is the edited map.
            self.now.setdefault(f"{part} {'cross' if cross else 'self'}", []).append(text)
        self.edit(text, cross)

    def next_step(self) -> None:
        for key, maps in self.now.items():
            if key in self.total:
                for total, now in zip(self.total[key], maps, strict=True):
                    total += now
            else:
                self.total[key] = [m.clone() for m in maps]
        self.now, self.step = {}, self.step + 1

    def blend(self, x: Tensor) -> Tensor:
        return x


class Control(Store):
    """Refine with equaliser, self-attention replacement and local blend."""

    def __init__(self, model: StableDiffusion, asked: Settings, latent: tuple[int, int]) -> None:
        h, w = latent
        self.self_limit = (h // 2) * (w // 2)
        self.grid = (max(h // 4, min(16, h)), max(w // 4, min(16, w)))
        super().__init__(max(self.self_limit, self.grid[0] * self.grid[1]))
        tokenizer, device = model.tokenizer, model.device
        mapping, keep = words.refinement_map(tokenizer, asked.source, asked.target)
        self.mapping, self.keep = mapping.to(device), keep.to(device)
        self.equalizer = torch.ones(len(mapping), device=device)
        self.equalizer[list(words.word_positions(tokenizer, asked.target, asked.blend[1]))] = asked.boost
        self.cross_stop = int(asked.cross * (asked.steps + 1))
        self.self_stop = int(asked.self_attention * asked.steps)
        self.start_blend, self.threshold = int(asked.start_blend * asked.steps), asked.threshold
        self.words = torch.zeros(2, len(mapping), device=device)
        for row, (prompt, word) in enumerate(zip((asked.source, asked.target), asked.blend, strict=True)):
            self.words[row, list(words.word_positions(tokenizer, prompt, word))] = 1

    def edit(self, maps: Tensor, cross: bool) -> None:
        source, target = maps[0], maps[1]
        if cross:
            window = float(self.step < self.cross_stop)
            keep = self.keep.to(maps.dtype)
            refined = source[..., self.mapping] * keep + target * (1 - keep)
            weighted = refined * self.equalizer.to(maps.dtype)
            maps[1] = weighted * window + target * (1 - window)
        elif self.step < self.self_stop and maps.shape[2] <= self.self_limit:
            maps[1] = source

    def blend(self, x: Tensor) -> Tensor:
        """Outside the words' region, z_b <- z_0; called after `next_step`."""
        if self.step <= self.start_blend:
            return x
        queries = self.grid[0] * self.grid[1]
        read = [m for key in ("down cross", "up cross") for m in self.total.get(key, ()) if m.shape[2] == queries]
        maps = torch.cat([m.float() for m in read], dim=1).unflatten(2, self.grid)
        seen = (maps * self.words[:, None, None, None]).sum(-1).mean(1, keepdim=True)
        seen = F.interpolate(F.max_pool2d(seen, 3, 1, 1), x.shape[-2:])
        region = (seen / seen.amax((2, 3), keepdim=True)).gt(self.threshold)
        mask = (region[:1] | region).to(x.dtype)
        return x[:1] + mask * (x - x[:1])


class MaterialisedAttention:
    """softmax(q k^T / sqrt(d)) as a tensor, shown to the store, then times v."""

    def __init__(self, name: str, store: Store) -> None:
        self.name, self.store = name, store

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        q, k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (q, k, v))
        maps = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        self.store.see(maps, self.name, cross=encoder_hidden_states is not None)
        out = (maps @ v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


@torch.no_grad()
def run(model: StableDiffusion, x0: Tensor, asked: Settings, clock: Callable[[], float] = time.perf_counter) -> Ran:
    """Edit the latents `x0` [1, channel, h, w]; `clock` may synchronise a device."""
    times = model.times(asked.steps)
    said = model.encode_text([asked.source, asked.target, ""]).tokens
    source, both = said[:1], torch.cat([said[2:], said[2:], said[:2]])

    def noise(x: Tensor, time: int, text: Tensor) -> Tensor:
        here = Moment(0, 1, time, time, model.level(time), model.level(time))
        return model.split(x, model.answer(x[None], Text(text[None]), time, None)[0], here).noise

    def move(x: Tensor, eps: Tensor, here: int, there: int) -> Tensor:
        """z_there = sqrt(abar_there) x0 + sqrt(1 - abar_there) eps with x0 from abar_here."""
        a, b = model.level(here), model.level(there)
        return b.signal * (x - a.noise * eps) / a.signal + b.noise * eps

    def guided(x: Tensor, here: int, there: int) -> Tensor:
        null, text = noise(torch.cat([x, x]), here, both).chunk(2)
        return move(x, null + asked.guidance * (text - null), here, there)

    seconds: dict[str, float] = {}
    mark = clock()

    def lap(name: str) -> None:
        nonlocal mark
        now = clock()
        seconds[name], mark = now - mark, now

    path = [x0]
    for there, here in pairwise(reversed(times)):  # upwards: asked at the upper time with the lower latent
        path.append(move(path[-1], noise(path[-1], here, source), there, here))
    lap("inversion")

    offsets: list[Tensor] = []
    x = path[-1].expand(2, -1, -1, -1)
    for s, (here, there) in enumerate(pairwise(times)):
        moved = guided(x, here, there)
        offsets.append(path[asked.steps - 1 - s] - moved)
        x = moved + offsets[-1]
    lap("offsets")

    latent = (x0.shape[-2], x0.shape[-1])
    control = Control(model, asked, latent)
    for name, store in (("reconstruction", Store(control.limit)), ("edit", control)):
        former = dict(model.unet.attn_processors)
        model.unet.set_attn_processor({n: MaterialisedAttention(n, store) for n in former})
        try:
            x = path[-1].expand(2, -1, -1, -1)
            for s, (here, there) in enumerate(pairwise(times)):
                x = guided(x, here, there)
                store.next_step()
                x = torch.cat([x[:1] + offsets[s][:1], x[1:]])
                x = store.blend(x)
        finally:
            model.unet.set_attn_processor(former)
        lap(name)
    return Ran(x, seconds)
