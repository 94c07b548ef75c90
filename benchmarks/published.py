"""The schedules that the published programs of PnP Inversion's table execute, in plain form.

Written afresh from their description (PnP Inversion, 2024, arXiv 2310.01506; Prompt-to-Prompt, 2023, arXiv 2208.01626)
to have something honest to compare with where their repository is not at hand (`against_published.py` runs the
programs themselves); none of reinvert's loop, anchors, hooks or editors is used, only its call of the network and its
word positions. Rows of the P2P family are whole programs and end at the same edit. Direct inversion at N steps:

    inversion       N x 1 rows    the source prompt at guidance 1
    offsets         N x 4 rows    both branches from z*_N, both sides, no attention control: o_s = z*_{N-s-1} - D_s(...)
    reconstruction  N x 4 rows    both prompts, an attention store that nobody reads; the source is pulled by o_s
    edit            N x 4 rows    refine, equaliser, self-attention and local blend on materialised attention maps

that is 13 N single-sample forwards. The others reconstruct the source alone (N x 2 rows); `ddim+p2p` rolls N x 2 rows
behind its inversion that nobody reads, and null-text inversion fits its embeddings there, with the gradients of all
weights. The rows of MasaCtrl, Plug-and-Play, EDICT and edit-friendly inversion (`CALLS`) are their calls of the network
alone: as many as they make, of as many rows, with materialised attention maps where they have them, but without what
they change in between; where that leads is nobody's picture.

Kept from the published code: the order [null source, null target, text source, text target] of the rows; edits in place
on maps; maps of at most half the latents' side stored per step and summed over the steps. Kinder to it than its code:
inversions, offsets, rolls and fits run the model's own fused attention; larger maps are made a row at a time, which
saves memory; EDICT is not run in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from reinvert import words
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.level import Moment, Time
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
    quantile: float = 0.75
    """Of the guidance's differences that proximal guidance takes away."""
    inner: int = 10
    """Steps that null-text inversion takes at most to fit one embedding."""


@dataclass
class Ran:
    """Final latents [2, channel, h, w] (source, target) and the seconds of every pass."""

    latents: Tensor
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """One row of the P2P family: what is different from its neighbours."""

    null: Literal["empty", "fitted", "source"] = "empty"
    """The null side of guidance: the empty prompt, an embedding fitted to every step, or the source prompt."""
    roll: bool = True
    """Whether N x 2 rows are walked behind the inversion, to fit something or nothing."""
    offsets: bool = False
    proximal: bool = False


P2P: dict[str, Family] = {
    "ddim+p2p": Family(),
    "null-text-inversion+p2p": Family(null="fitted"),
    "null-text-inversion+proximal-guidance": Family(null="fitted", proximal=True),
    "negative-prompt-inversion+p2p": Family(null="source", roll=False),
    "negative-prompt-inversion+proximal-guidance": Family(null="source", roll=False, proximal=True),
    "directinversion+p2p": Family(roll=False, offsets=True),
}


@dataclass(frozen=True)
class Pass:
    """A walk of a published program: at each of its steps one call of the network for each of `calls`, of so many
    rows."""

    name: str
    calls: tuple[int, ...]
    share: float = 1.0
    """Of the grid, from its clean end, that is walked."""
    maps: bool = False
    """Whether attention maps are made."""


_PNP = (Pass("inversion", (1,)), Pass("reconstruction", (1,)), Pass("edit", (3,)))
# A panel of the picture that is saved shows a reconstruction with settings of its own.
_PANEL = (Pass("inversion for the panel", (1,) * 4), Pass("reconstruction for the panel", (1,) * 4))
CALLS: dict[str, tuple[Pass, ...]] = {
    "ddim+masactrl": (
        Pass("inversion", (2,)),
        Pass("synthesis that nobody sees", (2,), maps=True),
        Pass("edit", (4,), maps=True),
    ),
    "directinversion+masactrl": (
        Pass("inversion", (1,)),
        Pass("offsets", (4,)),
        Pass("synthesis that nobody sees", (2,), maps=True),
        Pass("edit", (4,), maps=True),
    ),
    "ddim+pnp": _PNP,
    "directinversion+pnp": _PNP,
    "edict+p2p": (*_PANEL, Pass("inversion", (1,) * 4, 0.8), Pass("edit", (1,) * 6, 0.8, maps=True)),
    "edict+direct_forward": (*_PANEL, Pass("inversion", (1,) * 4, 0.8), Pass("edit", (1,) * 4, 0.8)),
    "edit-friendly-inversion+p2p": (
        Pass("inversion", (1, 1)),
        Pass("edit that nobody sees", (1, 1), 0.76, maps=True),
        Pass("edit", (2, 2), 0.76, maps=True),
    ),
}
ROWS = (*P2P, *CALLS)
"""The rows of the published table that have a schedule here."""


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
        cross = encoder_hidden_states is not None
        if cross or q.shape[2] <= self.store.limit:
            maps = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
            self.store.see(maps, self.name, cross=cross)
            out = maps @ v
        else:  # nobody looks at these, which would fill gigabytes
            out = torch.stack(
                [(q_ @ k_.transpose(-1, -2) * attn.scale).softmax(-1) @ v_ for q_, k_, v_ in zip(q, k, v, strict=True)]
            )
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


@contextmanager
def materialised(model: StableDiffusion, store: Store) -> Iterator[None]:
    """The network with maps that the store sees, until the end of the `with`."""
    former = dict(model.unet.attn_processors)
    model.unet.set_attn_processor({name: MaterialisedAttention(name, store) for name in former})
    try:
        yield
    finally:
        model.unet.set_attn_processor(former)


class Walker:
    """The network and the DDIM step, for one picture; a lap ends with each pass."""

    def __init__(self, model: StableDiffusion, asked: Settings, clock: Callable[[], float]) -> None:
        self.model, self.clock = model, clock
        self.times = model.times(asked.steps)
        self.down = tuple(pairwise(self.times))
        self.up = tuple((here, there) for there, here in pairwise(reversed(self.times)))
        """(the upper time, at which the network is asked, the lower time, at which the latent is)."""
        self.seconds: dict[str, float] = {}
        self.mark = clock()

    def lap(self, name: str) -> None:
        now = self.clock()
        self.seconds[name], self.mark = now - self.mark, now

    def noise(self, x: Tensor, time: Time, text: Tensor) -> Tensor:
        here = Moment(0, 1, time, time, self.model.level(time), self.model.level(time))
        return self.model.split(x, self.model.answer(x[None], Text(text[None]), time, None)[0], here).noise

    def move(self, x: Tensor, eps: Tensor, here: Time, there: Time) -> Tensor:
        """z_there = sqrt(abar_there) x0 + sqrt(1 - abar_there) eps with x0 from abar_here."""
        a, b = self.model.level(here), self.model.level(there)
        return b.signal * (x - a.noise * eps) / a.signal + b.noise * eps

    def invert(self, x0: Tensor, text: Tensor) -> list[Tensor]:
        """The latents from clean to noise, asked at the upper time with the lower latent."""
        path = [x0]
        for upper, lower in self.up:
            path.append(self.move(path[-1], self.noise(path[-1], upper, text), lower, upper))
        return path


@torch.no_grad()
def run(
    model: StableDiffusion,
    x0: Tensor,
    asked: Settings,
    clock: Callable[[], float] = time.perf_counter,
    row: str = "directinversion+p2p",
) -> Ran:
    """Edit the latents `x0` [1, channel, h, w] as a row of the P2P family does; `clock` may synchronise a device."""
    program, walker = P2P[row], Walker(model, asked, clock)
    said = model.encode_text([asked.source, asked.target, ""]).tokens
    source, both = said[:1], said[:2]
    null = source if program.null == "source" else said[2:]

    def guided(x: Tensor, here: Time, there: Time, nulls: Tensor, text: Tensor, *, proximal: bool = False) -> Tensor:
        rows = torch.cat([nulls.expand(len(text), -1, -1), text])
        empty, told = walker.noise(torch.cat([x, x]), here, rows).chunk(2)
        delta = told - empty
        if proximal:
            limit = float(delta.abs().quantile(asked.quantile))
            delta = delta - delta.clamp(-limit, limit)
        return walker.move(x, empty + asked.guidance * delta, here, there)

    path = walker.invert(x0, source)
    walker.lap("inversion")

    nulls = [null] * asked.steps
    if program.roll:
        x, fitted = path[-1], null
        for s, (here, there) in enumerate(walker.down):
            if program.null == "fitted":
                fitted = fit(walker, x, path[asked.steps - 1 - s], source, fitted, s, asked)
                nulls[s] = fitted
            x = guided(x, here, there, fitted, source)
        walker.lap("fit" if program.null == "fitted" else "roll")

    offsets: list[Tensor] = []
    if program.offsets:
        x = path[-1].expand(2, -1, -1, -1)
        for s, (here, there) in enumerate(walker.down):
            moved = guided(x, here, there, null, both)
            offsets.append(path[asked.steps - 1 - s] - moved)
            x = moved + offsets[-1]
        walker.lap("offsets")

    control = Control(model, asked, (x0.shape[-2], x0.shape[-1]))
    # Direct inversion reconstructs both prompts, the others the source's.
    passes = {
        "reconstruction": (Store(control.limit), both if program.offsets else source),
        "edit": (control, both),
    }
    x = path[-1]
    for name, (store, text) in passes.items():
        with materialised(model, store):
            x = path[-1].expand(len(text), -1, -1, -1)
            for s, (here, there) in enumerate(walker.down):
                x = guided(x, here, there, nulls[s], text, proximal=program.proximal and name == "edit")
                store.next_step()
                if offsets:
                    x = torch.cat([x[:1] + offsets[s][:1], x[1:]])
                x = store.blend(x)
        walker.lap(name)
    return Ran(x, walker.seconds)


def fit(walker: Walker, x: Tensor, goal: Tensor, text: Tensor, null: Tensor, s: int, asked: Settings) -> Tensor:
    """Null-text inversion's step: the embedding that leads from `x` to `goal` under guidance.

    The gradients of all weights are computed and accumulated too, as in the published program, and left to be cleared.
    """
    here, there = walker.down[s]
    unet = walker.model.unet
    told = walker.noise(x, here, text)
    phi = null.clone().requires_grad_()
    optimizer = torch.optim.Adam([phi], lr=1e-2 * (1 - s / 100))
    unet.requires_grad_(True)
    try:
        with torch.enable_grad():
            for _ in range(asked.inner):
                empty = walker.noise(x, here, phi)
                reached = walker.move(x, empty + asked.guidance * (told - empty), here, there)
                loss = F.mse_loss(reached, goal)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if float(loss.detach()) < 1e-5 + 2e-5 * s:
                    break
    finally:
        unet.requires_grad_(False)
        if s == asked.steps - 1:
            unet.zero_grad(set_to_none=True)
    return phi.detach()


@torch.no_grad()
def call(
    model: StableDiffusion, x0: Tensor, asked: Settings, clock: Callable[[], float] = time.perf_counter, row: str = ""
) -> Ran:
    """The calls of the network that a row of `CALLS` makes for the latents `x0` [1, channel, h, w]."""
    walker = Walker(model, asked, clock)
    said = model.encode_text([asked.source]).tokens
    x = x0
    for made in CALLS[row]:
        steps = int(made.share * asked.steps + 1e-9)
        stairs = walker.up[:steps] if made.name.startswith("inversion") else walker.down[-steps:]
        with materialised(model, Store(0)) if made.maps else nullcontext():
            for here, there in stairs:
                rising = made.name.startswith("inversion")
                for rows in made.calls:
                    eps = walker.noise(x.expand(rows, -1, -1, -1), here, said.expand(rows, -1, -1))[:1]
                x = walker.move(x, eps, there, here) if rising else walker.move(x, eps, here, there)
        walker.lap(made.name)
    return Ran(torch.cat([x, x]), walker.seconds)


def follow(
    model: StableDiffusion, x0: Tensor, asked: Settings, clock: Callable[[], float] = time.perf_counter, row: str = ""
) -> Ran:
    """Any row of `ROWS`: its whole program, or its calls."""
    return run(model, x0, asked, clock, row) if row in P2P else call(model, x0, asked, clock, row)
