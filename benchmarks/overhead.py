"""What a walk costs beside its calls of the network, in CPU time.

    python benchmarks/overhead.py [--model picturebook|FOLDER|sd14-random] [--steps 10] [--repeats 9] [--out FILE.json]

Every walk is paired with the same number of bare `unet(...)` calls with the same batch shapes and the model's own
attention; the two are taken in turn, in alternating order, one thread, and the median of the pairs' ratios is told
with the quartiles. CPU time, not wall time: other programs on the machine take wall time from one more than from
another. A first walk is not counted. Preparation (checks, word alignment, text encoding) is a column of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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
from reinvert.loop import walk
from reinvert.steps import ddim
from reinvert.trajectory import source_conditioning


def walks_of(model: StableDiffusion, steps: int) -> dict[str, Callable[[], Iterator[Any]]]:
    """The walks that are measured, by name: each starts one."""
    x0, asked = case_for(model, steps)
    trajectory = Direct().invert(Source(model, x0, (asked.source,), asked.steps, asked.guidance))
    targets = ((asked.target,),)
    case = Case(model, trajectory.prompts, targets, asked.steps, trajectory.path.to(model.device))

    def upwards() -> Iterator[Any]:
        from reinvert.loop import State

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


def measure(model: StableDiffusion, steps: int, repeats: int) -> Table:
    table = Table(
        "The loop's own work",
        f"CPU seconds of a walk of {steps} steps over those of the same bare calls of the network, one thread, "
        f"median of {repeats} pairs taken in turn. Aim: at most 1.05.",
    )
    for name, start in walks_of(model, steps).items():
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


def open_model(name: str) -> StableDiffusion:
    if name == "sd14-random":
        import sd14

        return sd14.random_model(torch.device("cpu"), torch.float32)
    model = reinvert.load(name, "cpu", "float32")
    assert isinstance(model, StableDiffusion)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="picturebook")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, help="write the table as JSON, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = measure(open_model(args.model), args.steps, args.repeats)
    print(table.markdown())
    if args.out:
        record = {"title": table.title, "meaning": table.meaning, "rows": table.rows, "load": os.getloadavg()}
        args.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
