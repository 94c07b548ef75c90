"""Measures reinvert's speed and writes docs/performance.md.

    python benchmarks/performance.py [--model picturebook|FOLDER|sd14-random] [--steps 50] [--write docs/performance.md]

One run reports (a) what the loop costs beside its network calls, (b) direct inversion + prompt-to-prompt against the
schedule that the published code executes (`published.py`), (c) null-text inversion with and without gradients of
the weights, and, where there is a GPU, (d) whole edits with a random model of Stable Diffusion 1.4's sizes
(`sd14.py`). Times that are compared are taken in turn, and medians are reported; a busy machine still spoils them.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import published
import sd14
import torch
from PIL import Image
from published import Settings
from torch import Tensor

import reinvert
from reinvert.backbones.loading import pick_device, pick_dtype
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.editors.base import Case, Editor, bind_all
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.inversions.base import Source
from reinvert.inversions.direct import Direct
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


def case_for(model: StableDiffusion, steps: int) -> tuple[Tensor, Settings]:
    """Latents [1, channel, h, w] and the edit: a drawn scene for picturebook, noise for any other model."""
    if model.name == "picturebook":
        scene = Scene((Thing("cat", "red"),), "grass")
        words = Settings(scene.caption, scene.with_thing(kind="dog").caption, ("cat", "dog"), steps=steps)
        return prepare(model, [draw(scene, model.image_size)]).latents, words
    side = model.image_size // model.factor
    drawn = torch.randn(1, int(model.unet.config.in_channels), side, side, generator=torch.Generator().manual_seed(0))
    words = Settings("a cat sitting on a table", "a dog sitting on a table", ("cat", "dog"), steps=steps)
    return drawn.to(model.device), words


def editors_for(asked: Settings, *, blend: bool = True) -> list[Editor]:
    """reinvert's editors with the settings of the published run."""
    p2p = P2P(cross=asked.cross, self_attention=asked.self_attention, boost={asked.blend[1]: asked.boost})
    words = {"source_words": asked.blend[:1], "target_words": asked.blend[1:]}
    return [p2p, LocalBlend(**words, threshold=asked.threshold, start=asked.start_blend)] if blend else [p2p]


# --- (a) the loop --------------------------------------------------------------------------------------------------


def loop_overhead(model: StableDiffusion, x0: Tensor, asked: Settings, repeats: int) -> Table:
    """Walks against the same number of bare calls of the network with the same shapes."""
    trajectory = Direct().invert(Source(model, x0, (asked.source,), asked.steps, asked.guidance))
    free = replace(trajectory, pulled=None, inversion="ddim")
    targets = ((asked.target,),)
    case = Case(model, trajectory.prompts, targets, asked.steps, trajectory.path.to(model.device))

    def edit(blend: bool) -> Iterator[Any]:
        return trajectory.walk(model, targets, bind_all(editors_for(asked, blend=blend), case), asked.guidance)

    walks: dict[str, Callable[[], Iterator[Any]]] = {
        "edit: direct + p2p + local_blend": partial(edit, True),
        "edit: direct + p2p": partial(edit, False),
        "reconstruct: ddim, guided": partial(free.walk, model, guidance=asked.guidance),
    }
    table = Table(
        "(a) The loop",
        "Seconds of a walk (attention edits, guidance, steps, anchor and checks included) over those of the same "
        "number of bare `unet(...)` calls with the same batch shapes and the model's own attention. "
        "`preparation` is what a walk does once before its first step: checks, word alignment, text encoding. "
        "Aim: ratio at most 1.05.",
    )
    for name, start in walks.items():
        calls = recorded_calls(model, start)
        prepared: list[float] = []

        def loop(start: Callable[[], Iterator[Any]] = start, prepared: list[float] = prepared) -> None:
            before = clock(model.device)
            walked = start()
            prepared.append(clock(model.device) - before)
            for _ in walked:
                pass

        def bare(calls: Sequence[Call] = calls) -> None:
            with torch.no_grad():
                for args, kwargs in calls:
                    model.unet(*args, **kwargs)

        bare()
        seconds = in_turn({"loop": loop, "bare": bare}, repeats, model.device)
        walked = [total - once for total, once in zip(seconds["loop"], prepared, strict=True)]
        pairs = [a / b for a, b in zip(walked, seconds["bare"], strict=True)]
        table.rows.append(
            {
                "walk": name,
                "calls": len(calls),
                "forwards": sum(len(args[0]) for args, _ in calls),
                "loop (s)": statistics.median(walked),
                "bare calls (s)": statistics.median(seconds["bare"]),
                "ratio": statistics.median(walked) / statistics.median(seconds["bare"]),
                "aim": "<= 1.05",
                "pairs": f"{min(pairs):.3f} to {max(pairs):.3f}",
                "preparation (s)": statistics.median(prepared),
            }
        )
        say(f"(a) {name}: {table.rows[-1]['ratio']:.3f}")
    return table


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


# --- (b) the published schedule --------------------------------------------------------------------------------------


def edit_latents(model: StableDiffusion, x0: Tensor, asked: Settings) -> Tensor:
    """Direct inversion and the edit, from latents to latents [branch, channel, h, w]."""
    trajectory = Direct().invert(Source(model, x0, (asked.source,), asked.steps, asked.guidance))
    targets = ((asked.target,),)
    case = Case(model, trajectory.prompts, targets, asked.steps, trajectory.path.to(model.device))
    x = trajectory.path[-1:]
    for _, state in trajectory.walk(model, targets, bind_all(editors_for(asked), case), asked.guidance):
        x = state.x
    return x[:, 0]


def schedules(model: StableDiffusion, x0: Tensor, asked: Settings, repeats: int) -> Table:
    """Direct + p2p here and as the published code executes it."""
    now = partial(clock, model.device)
    theirs, their_forwards = counted(model, lambda: published.run(model, x0, asked, now).latents)
    ours, our_forwards = counted(model, lambda: edit_latents(model, x0, asked))
    passes: list[dict[str, float]] = []
    works = {
        "reinvert": lambda: edit_latents(model, x0, asked),
        "published": lambda: passes.append(published.run(model, x0, asked, now).seconds),
    }
    seconds = in_turn(works, repeats, model.device)
    mine, yours = (statistics.median(seconds[name]) for name in works)
    laps = {name: statistics.median([p[name] for p in passes]) for name in passes[0]}
    # The same schedule if its reconstruction pass, which reads no map, ran fused attention too.
    lean = yours - max(0.0, laps["reconstruction"] - laps["offsets"])
    away = [float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True)]
    table = Table(
        "(b) Direct inversion + p2p against the published schedule",
        "One edit from latents to latents (refine, equaliser 2, local blend; the VAE left out on both sides). "
        "*published* is `benchmarks/published.py`: inversion, offset pass, reconstruction pass with both prompts, edit "
        "with materialised attention maps; its seconds per pass are "
        + ", ".join(f"{name} {shown(value)}" for name, value in laps.items())
        + f". Its ratio would be {shown(lean / mine)} if its reconstruction pass kept no maps. Aims: at most "
        f"{4 * asked.steps} forwards against {13 * asked.steps}; the same edit, to a relative L2 of 1e-4 of the "
        "target's latents in float32.",
    )
    for name, forwards, seconds_, off in (
        ("reinvert", our_forwards, mine, away[1]),
        ("published", their_forwards, yours, None),
        ("published / reinvert", their_forwards / our_forwards, yours / mine, None),
    ):
        table.rows.append(
            {"schedule": name, "forwards": forwards, "seconds": seconds_, "target, relative L2 to published": off}
        )
    say(f"(b) forwards {our_forwards} against {their_forwards}, {yours / mine:.2f} times as fast, relative L2 {away}")
    return table


def counted(model: StableDiffusion, work: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """A result and the rows that went through the network for it, counted at the network itself."""
    rows: list[int] = []
    handle = model.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        return work(), sum(rows)
    finally:
        handle.remove()


# --- (c) null-text ---------------------------------------------------------------------------------------------------


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
        "(c) Null-text inversion: gradients",
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
    say(f"(c) weight gradients cost {each[second] / each[first]:.2f} times the time")
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


# --- (d) Stable Diffusion 1.4's sizes --------------------------------------------------------------------------------

INVERSIONS: dict[str, dict[str, Any]] = {
    "direct": {},
    # No early stop: a random model would stop at will, and this is the most a fit can cost.
    "null_text": {"early_stop": 0.0, "early_stop_slope": 0.0},
}


def full_size(
    build: Callable[[], StableDiffusion],
    steps: int,
    repeats: int,
    *,
    batches: Sequence[int] = (1, 2, 4, 8, 16),
    backend: str = "inductor",
    minutes: float = 9.0,
) -> Table:
    """Whole edits at real sizes: batch 1 and the best batch, eager and with regional compile."""
    table = empty_full_size()
    model, until = build(), time.monotonic() + 60 * minutes
    best: dict[str, int] = {}

    def row(inversion: str, mode: str, batch: int) -> float | None:
        line: dict[str, Any] = {"edit": f"{inversion} + p2p", "mode": mode, "batch": batch}
        seconds, note = None, ""
        try:
            seconds, peak, forwards = edits(model, inversion, batch, steps, repeats if inversion == "direct" else 1)
            each = {"forwards per edit": forwards, "seconds per edit": seconds, "peak (MiB)": peak}
        except torch.OutOfMemoryError:
            note = "out of memory"
            each = {"forwards per edit": None, "seconds per edit": None, "peak (MiB)": None}
        aim = "1 s on an H200" if inversion == "direct" else "-"
        table.rows.append({**line, **each, "aim": aim, "note": note})
        say(f"(d) {table.rows[-1]}")
        return seconds

    def late(inversion: str, mode: str) -> bool:
        if time.monotonic() < until:
            return False
        say(f"(d) no time left for {inversion}, {mode}")
        return True

    for inversion in INVERSIONS:
        fastest = float("inf")
        for batch in batches:
            if batch != batches[0] and late(inversion, f"eager, batch {batch}"):
                break
            seconds = row(inversion, "eager", batch)
            if seconds is None or seconds > 1.02 * fastest:
                break
            if seconds < fastest:
                fastest, best[inversion] = seconds, batch
    compiled = compile_regions(model, backend)
    for inversion in INVERSIONS:
        for batch in sorted({batches[0], best.get(inversion, batches[0])}):
            if not late(inversion, f"compiled, batch {batch}"):
                row(inversion, f"regional compile ({compiled} blocks)", batch)
    return table


def empty_full_size() -> Table:
    return Table(
        "(d) Whole edits at Stable Diffusion 1.4's sizes",
        "`reinvert.edit` from pictures to pictures (VAE included) with a random model of SD 1.4's sizes in bfloat16, "
        "512x512, p2p with equaliser and local blend; null_text without its early stop, which is the most it can cost. "
        "Seconds are those of a batch divided by its size; the batch doubles until it no longer helps or memory ends. "
        "*regional compile* is `torch.compile` of every ResNet block and feed-forward block on its own. "
        "Aim: 1 s per direct + p2p edit on an H200.",
    )


def edits(
    model: StableDiffusion, inversion: str, batch: int, steps: int, repeats: int
) -> tuple[float, float | None, float]:
    """Seconds per edit, peak MiB (CUDA) and forwards per edit of a batch of pictures."""
    side, generator = model.image_size, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, side, side, 3), generator=generator, dtype=torch.uint8)
    pictures = [Image.fromarray(p.numpy()) for p in pixels]
    results: list[Any] = []

    def edit(steps: int) -> None:
        results[:] = reinvert.edit(
            model,
            pictures,
            source=["a cat sitting on a table"] * batch,
            target=["a dog sitting on a table"] * batch,
            inversion=inversion,
            steps=steps,
            blend=("cat", "dog"),
            boost={"dog": 2.0},
            **INVERSIONS[inversion],
        )

    edit(2)  # the warm-up, which also compiles
    cuda = model.device.type == "cuda"
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(model.device)
    seconds = statistics.median(timed(partial(edit, steps), model.device) for _ in range(repeats)) / batch
    peak = torch.cuda.max_memory_allocated(model.device) / MIB if cuda else None
    return seconds, peak, results[0].forwards / batch


def compile_regions(model: StableDiffusion, backend: str) -> int:
    """Compile the blocks that no rule reaches into; attention stays as it is, so that rules never recompile."""
    import torch._dynamo as dynamo

    # One compilation per shape of a block; the default limit of 8 is for one function, and these share theirs.
    dynamo.config.recompile_limit = 256
    dynamo.config.accumulated_recompile_limit = 1024
    blocks = [m for m in model.unet.modules() if type(m).__name__ in ("ResnetBlock2D", "FeedForward")]
    for block in blocks:
        block.compile(backend=backend)
    return len(blocks)


# --- the report ------------------------------------------------------------------------------------------------------


def machine(device: torch.device) -> str:
    """What a figure depends on, as lines of Markdown."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if (info.exists())
        else []
    )
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [
        f"* date: {date.today().isoformat()}",
        f"* CPU: {names[0] if names else platform.processor() or platform.machine()}, {allowed} cores, "
        f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.2f} when the run began",
        f"* GPU: {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'none used'}",
        f"* Python {platform.python_version()}, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"reinvert {reinvert.__version__}",
    ]
    return "\n".join(lines)


def report(tables: Sequence[Table], head: str) -> str:
    opening = (
        "# Performance\n\nWritten by `benchmarks/performance.py`, and behind it by `benchmarks/overhead.py`; "
        "not edited by hand. A *forward* is one sample "
        "through the network once: a batch of four rows counts four. "
        "Seconds are wall clock, medians of runs taken in turn.\n"
    )
    return "\n".join([opening, head, "", *(table.markdown() for table in tables)])


def measure(
    model: StableDiffusion, steps: int, repeats: int, case: tuple[Tensor, Settings] | None = None
) -> list[Table]:
    """Sections (a), (b) and (c)."""
    x0, asked = case or case_for(model, steps)
    return [
        loop_overhead(model, x0, asked, repeats),
        schedules(model, x0, asked, repeats),
        null_text_gradients(model, x0, asked, repeats),
    ]


def main(argv: Sequence[str] | None = None) -> list[Table]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="picturebook", help="picturebook, a folder, a Hub id, or sd14-random")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of everything, after one that is not timed")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report to this file too")
    parser.add_argument("--no-full-size", action="store_true", help="leave section (d) out even where there is a GPU")
    parser.add_argument("--minutes", type=float, default=9, help="start no further line of section (d) after this long")
    given = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(given)
    device = pick_device(args.device)
    dtype = pick_dtype(args.dtype, device)
    head = machine(device)
    started = time.monotonic()
    if args.model == "sd14-random":
        model = sd14.build(device, dtype)
    else:
        loaded = reinvert.load(args.model, device, dtype)
        assert isinstance(loaded, StableDiffusion)
        model = loaded
    head += f"\n* model of (a) to (c): {model.name}, {dtype}, {args.steps} steps, {args.repeats} repeats"
    head += f"\n* command: `python benchmarks/performance.py {shlex.join(given)}`"
    tables = measure(model, args.steps, args.repeats)

    def write() -> str:
        took = f"\n* the run took {(time.monotonic() - started) / 60:.1f} minutes"
        text = report(tables, head + took)
        if args.write:
            args.write.parent.mkdir(parents=True, exist_ok=True)
            args.write.write_text(text)
        return text

    blank = empty_full_size()
    if device.type == "cuda" and not args.no_full_size:
        tables.append(blank)
        write()  # what is known is safe if the time limit of a borrowed GPU ends the run here
        del model
        gc.collect()
        torch.cuda.empty_cache()
        build = partial(sd14.build, device, torch.bfloat16)
        tables[-1] = full_size(build, args.steps, args.repeats, minutes=args.minutes)
    else:
        why = "left out of this run" if device.type == "cuda" else NOT_MEASURED
        blank.rows = [
            {"edit": f"{name} + p2p", "mode": mode, "batch": batch, "seconds per edit": why, "peak (MiB)": why}
            for name in INVERSIONS
            for mode in ("eager", "regional compile")
            for batch in ("1", "best")
        ]
        tables.append(blank)
    print(write())
    return tables


if __name__ == "__main__":
    main()
