"""What a CPU gains by another precision or layout, by a compiler, and by two pictures at once, in CPU time.

    python benchmarks/cpu.py precision|compile|overlap ... [--model picturebook|FOLDER|sd14-random] [--steps 4]
                             [--repeats 5] [--side CELLS] [--out FILE.json] [--write docs/performance.md]

One thread; everything is taken in turn, in alternating order, and medians are told, since other programs on a machine
take time from one as from another. `precision` compares calls of the network; `compile` whole edits, and one block of
Stable Diffusion 1.4's sizes; `overlap` calls of as many rows as two pictures have, one behind the other, together, or
one picture's inversion in the calls of another's edit. `--write` puts the tables into a page, as `overhead.py` does.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from overhead import give, open_model, spent
from performance import Table, say
from torch import Tensor

import reinvert
from reinvert.backbones.compiling import Compiled, room
from reinvert.backbones.stable_diffusion import StableDiffusion

ROWS = (1, 2, 3)
"""Of an inversion, of an edit without a rule that reads the source, and of p2p."""


def medians(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU seconds of each, taken in turn; a first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            seconds = spent(works[name])
            if turn:
                taken[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def inputs(model: StableDiffusion, rows: int, side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, times and words of random numbers."""
    config, generator = model.unet.config, torch.Generator().manual_seed(0)
    x = torch.randn(rows, config.in_channels, side, side, generator=generator)
    tokens = int(model.tokenizer.model_max_length)
    said = torch.randn(rows, tokens, config.cross_attention_dim, generator=generator)
    return x.to(dtype), torch.full((rows,), 500), said.to(dtype)


@torch.no_grad()
def precision(model: StableDiffusion, side: int, repeats: int) -> Table:
    table = Table(
        f"Precision and layout on the CPU: {model.name}",
        f"CPU seconds of one call of the network of {model.name} on latents of {side} x {side}, median of {repeats}, "
        "and their share of those in float32 as it is loaded.",
    )
    networks = {
        (name, layout): copy.deepcopy(model.unet).to(dtype).to(memory_format=form)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        for layout, form in (("as loaded", torch.contiguous_format), ("channels last", torch.channels_last))
    }
    for rows in ROWS[::2]:

        def call(network: Any, rows: int = rows) -> Tensor:
            return network(*inputs(model, rows, side, network.dtype))[0]

        seconds = medians({" ".join(key): partial(call, network) for key, network in networks.items()}, repeats)
        for (name, layout), network in networks.items():
            mine = seconds[f"{name} {layout}"]
            share = mine / seconds["float32 as loaded"]
            row = {"rows": rows, "precision": name, "layout": layout, "CPU s a call": mine, "share": share}
            table.rows.append(row)
            say(
                f"{model.name}, {rows} rows, {name}, {layout}: {mine:.4f} CPU s, {share:.2f} ({type(network).__name__})"
            )
    return table


def compiled(model_name: str, steps: int, repeats: int) -> list[Table]:
    """Edits from picture to picture, and one block; each mode's first run is what compiling costs."""
    from torch._dynamo.utils import counters

    from reinvert.picturebook.draw import draw
    from reinvert.picturebook.scene import Scene, Thing

    scene = Scene((Thing("cat", "red"),), "grass")
    table = Table(
        f"Compiled on the CPU: {model_name}",
        f"Edits by direct inversion and p2p of {steps} steps with {model_name}, from picture to picture, inductor, "
        f"median of {repeats}; `first` is the edit that compiles. A graph is one shape of one block or of the network.",
    )
    edits: dict[str, Callable[[], Any]] = {}
    first: dict[str, tuple[float, int]] = {}
    shown: dict[str, Tensor] = {}
    for mode in ("off", "blocks", "whole"):
        model = reinvert.load(model_name, "cpu", "float32", compile=mode)
        picture, target = draw(scene, model.image_size), scene.with_thing(kind="dog").caption
        edits[mode] = partial(
            reinvert.edit, model, picture, source=scene.caption, target=target, steps=steps, force=True
        )
        counters.clear()
        seconds = spent(lambda mode=mode: shown.update({mode: edits[mode]().latents}))
        first[mode] = seconds, counters["stats"]["unique_graphs"]
        say(f"{mode}: the first edit took {seconds:.1f} CPU s, {first[mode][1]} graphs")
    counters.clear()
    seconds = medians(edits, repeats)
    assert not counters["stats"]["unique_graphs"], "a shape was compiled twice"
    for mode, taken in seconds.items():
        table.rows.append(
            {
                "mode": mode,
                "CPU s an edit": taken,
                "share": taken / seconds["off"],
                "first (CPU s)": first[mode][0],
                "graphs": first[mode][1],
                "largest difference": float((shown[mode] - shown["off"]).abs().max()),
            }
        )
    return [table, one_block(repeats)]


@torch.no_grad()
def one_block(repeats: int) -> Table:
    """The second block of Stable Diffusion 1.4's way down: two ResNets and two transformers of 640 channels."""
    import sd14
    from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D

    channels, rows, side = sd14.UNET["block_out_channels"], 2, 32
    torch.manual_seed(0)
    block = CrossAttnDownBlock2D(
        in_channels=channels[0],
        out_channels=channels[1],
        temb_channels=4 * channels[0],
        num_layers=sd14.UNET["layers_per_block"],
        num_attention_heads=sd14.UNET["attention_head_dim"],
        cross_attention_dim=sd14.UNET["cross_attention_dim"],
        add_downsample=True,
    )
    block.requires_grad_(False).eval()
    given = {
        "hidden_states": torch.randn(rows, channels[0], side, side),
        "temb": torch.randn(rows, 4 * channels[0]),
        "encoder_hidden_states": torch.randn(rows, sd14.TOKENS, sd14.UNET["cross_attention_dim"]),
    }
    runs: dict[str, Callable[[], Any]] = {"off": partial(block, **given)}
    for mode in ("blocks", "whole"):
        own = copy.deepcopy(block)
        runs[mode] = partial(Compiled(own, mode).running(own, ruled=False), **given)
    with room():
        shown = {mode: run()[0] for mode, run in runs.items()}
        seconds = medians(runs, repeats)
    table = Table(
        "A compiled block of Stable Diffusion 1.4's sizes",
        f"The second block of its way down ({channels[1]} channels, {rows} rows of {side} x {side}), inductor, median "
        f"of {repeats}.",
    )
    for mode, taken in seconds.items():
        apart = float((shown[mode] - shown["off"]).abs().max())
        table.rows.append(
            {"mode": mode, "CPU s a call": taken, "share": taken / seconds["off"], "largest difference": apart}
        )
        say(f"block, {mode}: {taken:.4f} CPU s, {apart:.1e} apart")
    return table


@torch.no_grad()
def overlap(model: StableDiffusion, side: int, repeats: int) -> Table:
    invert, edit = ROWS[0], ROWS[-1]
    sizes = sorted({invert, edit, invert + edit, 2 * invert, 2 * edit})
    calls = {str(rows): partial(model.unet, *inputs(model, rows, side, model.dtype)) for rows in sizes}
    t = {int(rows): seconds for rows, seconds in medians(calls, repeats).items()}
    each = {
        "one behind the other": t[invert] + t[edit],
        "one's inversion in the other's edit": t[invert + edit],
        "both together": (t[2 * invert] + t[2 * edit]) / 2,
    }
    table = Table(
        f"Two pictures on the CPU: {model.name}",
        f"CPU seconds of the network of {model.name} for one step of each picture's inversion ({invert} row) and edit "
        f"({edit} rows), one thread, median of {repeats}. Together is what `edit` does with a list.",
    )
    for name, seconds in each.items():
        table.rows.append({"two pictures": name, "CPU s": seconds, "share": seconds / each["one behind the other"]})
        say(f"{name}: {seconds:.4f} CPU s")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=["precision", "compile", "overlap"])
    parser.add_argument("--model", default="picturebook")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--side", type=int, help="cells of the latents a side [the model's own]")
    parser.add_argument("--out", type=Path, help="write the tables as JSON, too")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    given = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    command, tables = shlex.join(["python", "benchmarks/cpu.py", *given]), list[Table]()
    if {"precision", "overlap"} & set(args.tables):
        model = open_model(args.model)
        side = args.side or model.latent_shape[-1]
        tables += [precision(model, side, args.repeats)] if "precision" in args.tables else []
        tables += [overlap(model, side, args.repeats)] if "overlap" in args.tables else []
    if "compile" in args.tables:
        tables += compiled(args.model, args.steps, args.repeats)
    give(tables, command, args.write, args.out)


if __name__ == "__main__":
    main()
