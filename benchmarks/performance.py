"""What the benchmarks share: tables, clocks, the case, the calls of a walk; and what null-text's gradients cost.

`performance_page.py` writes docs/performance.md from this, `overhead.py`, `against_published.py`, `edit_profile.py` and
`gpu.py`.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from published import Settings
from torch import Tensor

from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.editors.base import Editor
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.loop import moments
from reinvert.picturebook.draw import draw
from reinvert.picturebook.scene import Scene, Thing
from reinvert.text import Text
from reinvert.verbs import prepare

NOT_MEASURED = "not measured (no GPU in this run)"
MIB = 2**20


@dataclass
class Table:
    """One section of the report: rows of raw figures, one column per key of the first row."""

    title: str
    meaning: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    threads: str = "one thread"
    """What it was measured on."""

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.meaning, ""]
        if self.rows:
            columns = list(self.rows[0])
            lines += ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
            lines += ["| " + " | ".join(shown(row[c]) for c in columns) + " |" for row in self.rows]
        return "\n".join([*lines, ""])


def shown(value: Any) -> str:
    """A figure with three or four significant digits."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
    return str(value)


# --- timing --------------------------------------------------------------------------------------------------------


def clock(device: torch.device) -> float:
    """Seconds, after everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], Any], device: torch.device) -> float:
    start = clock(device)
    work()
    return clock(device) - start


def in_turn(works: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every work, `repeats` times, taken in turn and in alternating order so that a drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name in list(works)[:: 1 if repeat % 2 == 0 else -1]:
            seconds[name].append(timed(works[name], device))
    return seconds


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


# --- the case ------------------------------------------------------------------------------------------------------


def case_for(model: StableDiffusion, steps: int, side: int | None = None) -> tuple[Tensor, Settings]:
    """Latents [1, channel, h, w] and the edit: a drawn scene for picturebook, noise for any other model, of its usual
    size or of `side` cells."""
    if model.name == "picturebook":
        scene = Scene((Thing("cat", "red"),), "grass")
        words = Settings(scene.caption, scene.with_thing(kind="dog").caption, ("cat", "dog"), steps=steps)
        return prepare(model, [draw(scene, model.image_size)]).latents, words
    side = side or model.image_size // model.factor
    drawn = torch.randn(1, int(model.unet.config.in_channels), side, side, generator=torch.Generator().manual_seed(0))
    words = Settings("a cat sitting on a table", "a dog sitting on a table", ("cat", "dog"), steps=steps)
    return drawn.to(model.device), words


def editors_for(asked: Settings, *, blend: bool = True) -> list[Editor]:
    """reinvert's editors with the settings of the published run."""
    p2p = P2P(cross=asked.cross, self_attention=asked.self_attention, boost={asked.blend[1]: asked.boost})
    words = {"source_words": asked.blend[:1], "target_words": asked.blend[1:]}
    return [p2p, LocalBlend(**words, threshold=asked.threshold, start=asked.start_blend)] if blend else [p2p]


# --- calls of the network ------------------------------------------------------------------------------------------

Call = tuple[tuple[Any, ...], dict[str, Any]]


def recorded_calls(model: StableDiffusion, start: Callable[[], Iterator[Any]]) -> list[Call]:
    """The calls of the network that a walk makes, without what reinvert sends along to the attention layers."""
    calls: list[Call] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, {k: v for k, v in kwargs.items() if k != "cross_attention_kwargs"}))

    handle = model.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        for _ in start():
            pass
    finally:
        handle.remove()
    return calls


# --- null-text inversion --------------------------------------------------------------------------------------------


def null_text_gradients(model: StableDiffusion, x0: Tensor, asked: Settings, repeats: int, inner: int = 5) -> Table:
    """Inner steps with the gradient of the embedding alone, and with those of all weights as published."""
    moment = next(moments(model, model.times(asked.steps)))
    said = model.encode_text([asked.source, ""])
    with torch.no_grad():
        text = model.answer(x0[None], said[:1][None], moment.ask, None)[0]
    goal = model.split(x0, text, moment).at(moment.next_level)
    fitted: dict[str, Tensor] = {}

    def steps(name: str, weights: bool, count: int = inner) -> None:
        model.unet.requires_grad_(weights)
        phi = said.tokens[1:].clone().requires_grad_()
        optimizer = torch.optim.Adam([phi], lr=0.01)
        for _ in range(count):
            with torch.enable_grad():
                null = model.answer(x0[None], Text(phi[None]), moment.ask, None)[0]
                answer = null + asked.guidance * (text - null)
                reached = model.split(x0, answer, moment).at(moment.next_level)
                loss = (reached - goal).square().mean()
                if weights:
                    optimizer.zero_grad()
                    loss.backward()  # also into every weight's own gradient, which nobody resets
                else:
                    (phi.grad,) = torch.autograd.grad(loss, [phi])
            optimizer.step()
        fitted[name] = phi.detach()

    kinds = {"embedding alone": False, "embedding and weights": True}
    works = {name: partial(steps, name, weights) for name, weights in kinds.items()}
    memory: dict[str, float] = {}
    counts = "peak allocated" if model.device.type == "cuda" else "saved for backward + weight gradients"
    try:
        for name, weights in kinds.items():  # also the warm-up
            memory[name] = memory_of(model, partial(steps, name, weights, 1))
        seconds = in_turn(works, repeats, model.device)
    finally:
        model.unet.requires_grad_(False)
        model.unet.zero_grad(set_to_none=True)
    each = {name: statistics.median(taken) / inner for name, taken in seconds.items()}
    first, second = kinds
    apart = float((fitted[first] - fitted[second]).abs().max())
    table = Table(
        "Null-text inversion: gradients",
        "One inner step (forward, backward, Adam) with the gradient taken with respect to the null embedding alone, as "
        "here, and with the weights' gradients computed and accumulated too, as the published code does. Both learn "
        f"the same embedding: largest difference {shown(apart)} after {inner} steps. Memory is `{counts}`.",
    )
    for name in kinds:
        table.rows.append({"gradients": name, "seconds per inner step": each[name], "memory (MiB)": memory[name] / MIB})
    table.rows.append(
        {
            "gradients": "ratio",
            "seconds per inner step": each[second] / each[first],
            "memory (MiB)": memory[second] / memory[first],
        }
    )
    say(f"weight gradients cost {each[second] / each[first]:.2f} times the time")
    return table


def memory_of(model: StableDiffusion, work: Callable[[], None]) -> float:
    """Bytes: the allocator's peak on CUDA; elsewhere what autograd keeps beside the weights, and their gradients."""
    model.unet.zero_grad(set_to_none=True)
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        work()
        return float(torch.cuda.max_memory_allocated(model.device))
    own = {p.untyped_storage().data_ptr() for p in model.unet.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return float(sum(kept.values()) + sum(p.grad.nbytes for p in model.unet.parameters() if p.grad is not None))
