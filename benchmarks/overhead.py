"""What a walk costs beside its calls of the network, in CPU time.

    python benchmarks/overhead.py [--model picturebook|FOLDER|sd14-random] [--steps 10] [--repeats 9] [--batches]
                                  [--side CELLS] [--walks END ...] [--out FILE.json] [--write docs/performance.md]

Every walk is paired with the same number of bare `unet(...)` calls with the same batch shapes and the model's own
attention; the two are taken in turn, in alternating order, one thread, and the median of the pairs' ratios is told
with the quartiles. CPU time, not wall time: other programs on the machine take wall time from one more than from
another. A first walk is not counted. Preparation (checks, word alignment, text encoding) is a column of its own.
With `--batches` whole edits of eight pictures are measured too, 1, 2, 4 and 8 at a time. `--write` puts the tables into
a page, between their markers, with the command, the machine and its load.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from performance import Table, case_for, editors_for, recorded_calls, say

import reinvert
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.editors.base import Case, Editor, bind_all
from reinvert.inversions.base import Source
from reinvert.inversions.direct import Direct
from reinvert.loop import State, walk
from reinvert.steps import ddim
from reinvert.trajectory import source_conditioning


def walks_of(model: StableDiffusion, steps: int, side: int | None = None) -> dict[str, Callable[[], Iterator[Any]]]:
    """The walks that are measured, by name: each starts one."""
    x0, asked = case_for(model, steps)
    x0 = x0 if side is None else x0[..., :side, :side].contiguous()
    trajectory = Direct().invert(Source(model, x0, (asked.source,), asked.steps, asked.guidance))
    targets = ((asked.target,),)
    case = Case(model, trajectory.prompts, targets, asked.steps, trajectory.path.to(model.device))

    def upwards() -> Iterator[Any]:
        said = source_conditioning(model, (asked.source,))
        times = tuple(reversed(model.times(asked.steps)))
        return walk(model, times, State((x0[None],)), said, guidance=(1.0,), step=ddim)

    def edit(editors: Sequence[Editor]) -> Iterator[Any]:
        return trajectory.walk(model, targets, bind_all(editors, case), asked.guidance)

    return {
        "invert": upwards,
        "edit: direct, no editor": partial(edit, []),
        "edit: direct + p2p": partial(edit, editors_for(asked, blend=False)),
        "edit: direct + p2p + local_blend": partial(edit, editors_for(asked)),
        "reconstruct: ddim, guided": partial(
            replace(trajectory, pulled=None, inversion="ddim").walk, model, guidance=asked.guidance
        ),
    }


def spent(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def measure(
    model: StableDiffusion, steps: int, repeats: int, side: int | None = None, wanted: Sequence[str] = ()
) -> Table:
    table = Table(
        "The loop's own work",
        f"CPU seconds of a walk of {steps} steps over those of the same bare calls of the network, one thread, "
        f"median of {repeats} pairs taken in turn. Aim: at most 1.05.",
    )
    for name, start in walks_of(model, steps, side).items():
        if wanted and not any(name.endswith(end) for end in wanted):
            continue
        calls = recorded_calls(model, start)

        def loop(start: Callable[[], Iterator[Any]] = start) -> tuple[float, float]:
            once: list[Iterator[Any]] = []
            prepared = spent(lambda: once.append(start()))
            return prepared, spent(lambda: [None for _ in once[0]])

        def bare(calls: Sequence[Any] = calls) -> None:
            with torch.no_grad():
                for args, kwargs in calls:
                    model.unet(*args, **kwargs)

        bare()
        pairs: list[tuple[float, float, float]] = []
        for turn in range(repeats):
            if turn % 2:
                without = spent(bare)
                pairs.append((*loop(), without))
            else:
                pairs.append((*loop(), spent(bare)))
        ratios = [walked / without for _, walked, without in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        table.rows.append(
            {
                "walk": name,
                "calls": len(calls),
                "rows": sum(len(args[0]) for args, _ in calls),
                "walk (CPU s)": statistics.median(walked for _, walked, _ in pairs),
                "bare calls (CPU s)": statistics.median(without for *_, without in pairs),
                "ratio": middle,
                "quartiles": f"{low:.3f} to {high:.3f}",
                "preparation (CPU s)": statistics.median(prepared for prepared, *_ in pairs),
            }
        )
        say(f"{name}: {middle:.3f} ({low:.3f} to {high:.3f})")
    return table


def batches(model: StableDiffusion, steps: int, repeats: int) -> Table:
    """Whole edits of pictures, some at a time: what a picture costs."""
    from reinvert.picturebook.draw import draw
    from reinvert.picturebook.scene import Scene, Thing

    scenes = [Scene((Thing("cat", color),), "grass") for color in ("red", "blue", "green", "yellow")] * 2
    pictures = [draw(scene, model.image_size) for scene in scenes]
    said = {
        "source": [scene.caption for scene in scenes],
        "target": [scene.with_thing(kind="dog").caption for scene in scenes],
    }
    table = Table(
        "Pictures together",
        f"Edits of {len(scenes)} pictures by direct inversion and p2p in {steps} steps, from picture to picture, "
        f"`batch_size` of them at a time: median of {repeats} rounds, taken in turn, one thread.",
    )
    seconds: dict[int, list[float]] = {size: [] for size in (1, 2, 4, 8)}
    for turn in range(repeats + 1):  # the first round warms up
        for size in list(seconds)[:: 1 if turn % 2 else -1]:
            taken = spent(lambda size=size: reinvert.edit(model, pictures, **said, steps=steps, batch_size=size))
            if turn:
                seconds[size].append(taken)
    for size, taken in seconds.items():
        ratios = [mine / alone for mine, alone in zip(taken, seconds[1], strict=True)]
        each = statistics.median(taken) / len(scenes)
        table.rows.append(
            {
                "pictures at a time": size,
                "CPU seconds a picture": each,
                "pictures a CPU second": 1 / each,
                "against one at a time": statistics.median(ratios),
            }
        )
        say(f"{size} at a time: {each:.3f} CPU s a picture")
    return table


def section(table: Table, command: str) -> str:
    """The table as a page has it, with where it comes from."""
    return f"## {table.title}\n\n{body(table, command)}"


def body(table: Table, command: str) -> str:
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {table.threads}"
    _, _, told = table.markdown().partition("\n\n")
    return f"{told}\n`{command}` ({date.today()}; {machine}; load {load})\n"


def put(page: Path, table: Table, command: str) -> None:
    """Write a table between its markers in a page; a page without them gets a section at its end."""
    place(page, table.title, body(table, command))


def give(tables: Sequence[Table], command: str, page: Path | None, out: Path | None) -> None:
    """Print tables; write them into a page, and with the machine's load as JSON, where either is named."""
    for table in tables:
        print(section(table, command))
        if page:
            put(page, table, command)
    if out:
        out.write_text(json.dumps([{**vars(table), "load": os.getloadavg()} for table in tables], indent=1))


def place(page: Path, title: str, told: str) -> None:
    begin, end = f"<!-- table: {title} -->\n", "<!-- end -->\n"
    text = page.read_text(encoding="utf-8")
    if begin not in text:
        text = f"{text.rstrip()}\n\n## {title}\n\n{begin}{end}"
    before, _, behind = text.partition(begin)
    _, _, rest = behind.partition(end)
    page.write_text(f"{before}{begin}{told}{end}{rest}", encoding="utf-8")


def open_model(name: str) -> StableDiffusion:
    if name == "sd14-random":
        import sd14

        return sd14.build()
    model = reinvert.load(name, "cpu", "float32")
    assert isinstance(model, StableDiffusion)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="picturebook")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--side", type=int, help="cells of the latents a side, at most the model's own [those]")
    parser.add_argument("--walks", nargs="+", default=(), metavar="END", help="only walks whose names end so")
    parser.add_argument("--batches", action="store_true", help="measure edits of several pictures at a time, too")
    parser.add_argument("--out", type=Path, help="write the tables as JSON, too")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into a page")
    given = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    model, command = open_model(args.model), shlex.join(["python", "benchmarks/overhead.py", *given])
    tables = [measure(model, args.steps, args.repeats, args.side, args.walks)]
    if args.model != "picturebook":
        tables[0].title += f": {model.name}"
    if args.batches:
        tables.append(batches(model, args.steps, max(1, args.repeats // 3)))
    give(tables, command, args.write, args.out)


if __name__ == "__main__":
    main()
