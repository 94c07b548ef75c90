"""Seconds, memory and share of the device's peak of whole edits on a GPU; one command, resumable.

    python benchmarks/gpu.py --out FOLDER [--minutes 9] [--models "SD 1.4" ...] [--methods "direct + p2p" ...]
                             [--modes off blocks whole] [--device cuda] [--dtype bfloat16] [--repeats 3]
    python benchmarks/gpu.py --rehearse --out FOLDER          everything in miniature, on the CPU
    python benchmarks/gpu.py --tests                          the tests that need a GPU (`make gpu`)

The models are random ones of the real sizes (`real_sizes.py`; nothing is downloaded), Stable Diffusion 1.4 at 512 px,
the others at 1024. Every cell (model, method, compilation, batch) is written to FOLDER/cells.json as soon as it is
measured; a second run goes on where the first one stopped, and FOLDER/cells.md has the tables of what there is. Cells
come in the order of the aims: direct + p2p on SD 1.4, FlowEdit on FLUX.1, then the rest. Batches double from 1 until
memory ends or a picture costs no less; a cell that cannot be says why and is not tried again.

`first (s)` is the first edit, with any compilation in it; `s an edit` the median of the later ones, by picture.
FLOPs are counted (torch.utils.flop_counter) during a first edit without compilation, VAE and text included, and the
share of the peak is those FLOPs over the seconds and over the device's dense peak of 16-bit products. `over bare` is an
edit's time over that of its own calls of the network alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import real_sizes
import torch
from performance import MIB, Call, Table, timed
from torch.utils.flop_counter import FlopCounterMode

import reinvert
from reinvert.backbones.base import Backbone
from reinvert.backbones.loading import pick_dtype
from reinvert.backbones.memory import free_cached
from reinvert.errors import ReinvertError, out_of_memory
from reinvert.image import atomic_write, to_image

SOURCE, TARGET = "a cat sitting on a table", "a dog sitting on a table"
METHODS: dict[str, dict[str, Any]] = {
    "direct + p2p": {"inversion": "direct", "editor": "p2p"},
    "flowedit": {"editor": "flowedit"},
    # No early stop: a random model would stop at will, and this is the most a fit can cost.
    "null_text + p2p": {"inversion": "null_text", "editor": "p2p", "early_stop": 0.0, "early_stop_slope": 0.0},
    "direct + p2plus": {"inversion": "direct", "editor": "p2plus"},
    "direct + masactrl": {"inversion": "direct", "editor": "masactrl"},
    "direct + pnp": {"inversion": "direct", "editor": "pnp"},
    "edict + p2p": {"inversion": "edict", "editor": "p2p"},
    "rf_solver": {"inversion": "rf_solver", "editor": "prompt"},
}
MODES = ("off", "blocks", "whole")
AIMS = {
    ("SD 1.4", "direct + p2p"): "<= 1.0 s alone, <= 0.4 s each at the best batch; share of peak >= 45 %",
    ("FLUX.1", "flowedit"): "<= 1.3 times its bare forwards",
}
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "L40": 181, "A10": 125, "4090": 165, "3090": 71}
"""Dense TFLOP/s of 16-bit products with 32-bit sums, by a part of the device's name."""
GAIN = 0.98
"""A larger batch goes on only if a picture then costs less than this share."""


@dataclass(frozen=True)
class Row:
    """What is measured with doubling batches."""

    model: str
    method: str
    mode: str

    def cell(self, batch: int) -> str:
        return f"{self.model} | {self.method} | {self.mode} | {batch}"


def plan(models: Sequence[str], methods: Sequence[str], modes: Sequence[str]) -> list[Row]:
    """All rows, those with an aim first; of one model and mode together, since building a model takes time."""
    rows = [Row(model, method, mode) for mode in modes for model in models for method in methods]
    aimed = [row for aim in AIMS for row in rows if (row.model, row.method) == aim]
    return aimed + [row for row in rows if row not in aimed]


@dataclass
class Cells:
    """The measured cells in FOLDER, which each new one joins at once."""

    folder: Path
    about: dict[str, Any]
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, about: dict[str, Any]) -> Cells:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "cells.json"
        return cls(folder, about, json.loads(file.read_text())["cells"] if file.exists() else {})

    def add(self, name: str, cell: dict[str, Any]) -> None:
        self.cells[name] = cell
        told = json.dumps({"about": self.about, "cells": self.cells}, indent=1)
        atomic_write(self.folder / "cells.json", lambda draft: draft.write_text(told))
        page = "\n".join(table.markdown() for table in tables(self.cells, self.about))
        atomic_write(self.folder / "cells.md", lambda draft: draft.write_text(page))
        print(name, cell, flush=True)


def pictures(model: Backbone, batch: int) -> list[Any]:
    side = model.image_size
    noise = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    return [to_image(2 * picture - 1) for picture in noise]


def edit(model: Backbone, method: str, batch: int, steps: int | None, shown: Sequence[Any] | None = None) -> None:
    reinvert.edit(
        model, list(shown or pictures(model, batch)), source=[SOURCE] * batch, target=[TARGET] * batch, steps=steps,
        batch_size=batch, any_words=True, force=True, **METHODS[method],
    )  # fmt: skip


def calls_of(model: Backbone, work: Callable[[], None]) -> list[Call]:
    """The calls of the network that `work` makes, without what this package sends along to the attention layers."""
    calls: list[Call] = []
    ours = ("cross_attention_kwargs", "joint_attention_kwargs")

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, {k: v for k, v in kwargs.items() if k not in ours}))

    handle = model.network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        work()
    finally:
        handle.remove()
    return calls


@torch.no_grad()
def again(model: Backbone, calls: Sequence[Call]) -> None:
    for args, kwargs in calls:
        model.network(*args, **kwargs)


def over_bare(model: Backbone, work: Callable[[], None], seconds: float, repeats: int) -> float | None:
    """An edit's seconds over those of its calls of the network alone; None for an edit that makes none."""
    calls = calls_of(model, work)
    if not calls:
        return None
    again(model, calls)
    return seconds / statistics.median(timed(partial(again, model, calls), model.device) for _ in range(repeats))


def measured(model: Backbone, row: Row, batch: int, steps: int | None, repeats: int) -> dict[str, Any]:
    """One cell; `why not` alone where it cannot be."""
    device, shown = model.device, pictures(model, batch)
    work = partial(edit, model, row.method, batch, steps, shown)
    cuda = device.type == "cuda"
    found: dict[str, Any] = {}
    before = model.tally.forwards
    gc.collect()
    free_cached(device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        if row.mode == "off" and batch == 1:
            with FlopCounterMode(display=False) as counter:
                found["first"] = timed(work, device)
            found["TFLOP"] = counter.get_total_flops() / 1e12
            found["forwards"] = model.tally.forwards - before
            taken = [timed(work, device) for _ in range(repeats)]
            if not METHODS[row.method].get("early_stop") == 0.0:  # whose gradients are no calls of their own
                found["over bare"] = over_bare(model, work, statistics.median(taken), repeats)
        else:
            found["first"] = timed(work, device) / batch
            found["forwards"] = (model.tally.forwards - before) / batch
            taken = [timed(work, device) for _ in range(repeats)]
    except ReinvertError as error:
        return {"why not": str(error)}
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return {"why not": "out of memory"}
    peak = torch.cuda.max_memory_allocated(device) / MIB if cuda else None
    return {**found, "seconds": statistics.median(taken) / batch, "peak MiB": peak}


def batches(cells: Cells, row: Row, most: int) -> Iterator[int]:
    """1, 2, 4, ...: the next one that is not measured, until memory ends or nothing is gained."""
    batch, former = 1, float("inf")
    while batch <= most:
        cell = cells.cells.get(row.cell(batch))
        if cell is None:
            yield batch
            cell = cells.cells[row.cell(batch)]
        if "why not" in cell or cell["seconds"] > GAIN * former:
            return
        former, batch = cell["seconds"], 2 * batch


# --- the tables -----------------------------------------------------------------------------------------------------


def peak_of(device: str) -> float | None:
    """Dense 16-bit FLOP/s of a device, by its name."""
    return next((1e12 * peak for part, peak in PEAKS.items() if part in device), None)


def tables(cells: dict[str, dict[str, Any]], about: dict[str, Any]) -> list[Table]:
    """One table a model: each method and mode alone, and at its best batch."""
    rows: dict[Row, dict[int, dict[str, Any]]] = {}
    for name, cell in cells.items():
        model, method, mode, batch = name.split(" | ")
        rows.setdefault(Row(model, method, mode), {})[int(batch)] = cell
    peak = about.get("peak") or peak_of(str(about.get("device", "")))
    out: dict[str, Table] = {}
    for row, sizes in rows.items():
        table = out.setdefault(row.model, Table(f"On a GPU: {row.model}", _meaning(about)))
        work = sizes.get(1, {}).get("TFLOP") or cells.get(Row(row.model, row.method, "off").cell(1), {}).get("TFLOP")
        done = {batch: cell for batch, cell in sizes.items() if "seconds" in cell}
        best = min(done, key=lambda batch: done[batch]["seconds"], default=1)
        for batch in sorted({1, best}):
            table.rows.append(_line(row, batch, sizes.get(batch, {}), work, peak))
    return list(out.values())


def _meaning(about: dict[str, Any]) -> str:
    steps = about.get("steps") or "as many as are usual for the model"
    where = f"{about.get('device')}, {about.get('dtype')}, steps: {steps}; torch {about.get('torch')}."
    return f"{where} {about.get('note', '')}".rstrip()


def _line(row: Row, batch: int, cell: dict[str, Any], work: float | None, peak: float | None) -> dict[str, Any]:
    seconds = cell.get("seconds")
    share = 1e12 * work / seconds / peak if work and seconds and peak else None
    return {
        "method": row.method,
        "compile": row.mode,
        "batch": batch,
        "s an edit": seconds,
        "first (s)": cell.get("first"),
        "peak (MiB)": cell.get("peak MiB"),
        "forwards": cell.get("forwards"),
        "TFLOP": work,
        "share of peak": None if share is None else f"{share:.0%}",
        "over bare": cell.get("over bare"),
        "aim": AIMS.get((row.model, row.method), ""),
        "why not": cell.get("why not", ""),
    }


# --- the run ----------------------------------------------------------------------------------------------------------


def opened(row: Row, device: torch.device, dtype: torch.dtype, miniature: bool, backend: str) -> Backbone:
    """The row's model, compiled as it says."""
    model: Any = real_sizes.miniature(row.model) if miniature else real_sizes.MODELS[row.model](device, dtype)
    if row.mode != "off":
        model.compile(row.mode, backend)
    return model


def run(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    until = time.monotonic() + 60 * args.minutes
    device = torch.device("cpu" if args.rehearse else args.device)
    dtype = pick_dtype("float64" if args.rehearse else args.dtype, device, torch.bfloat16)
    about = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, a rehearsal",
        "dtype": str(dtype).removeprefix("torch."),
        "steps": args.steps,
        "torch": torch.__version__,
        "peak": 1e12 * args.peak if args.peak else None,
        "note": "Miniatures: the figures mean nothing." if args.rehearse else "",
    }
    cells = Cells.of(args.out, about)
    rows = plan(args.models, args.methods, args.modes)
    for _, same in groupby(rows, key=lambda row: (row.model, row.mode)):
        model: Backbone | None = None
        for row in same:
            for batch in batches(cells, row, args.largest):
                if time.monotonic() > until:
                    return cells.cells
                if model is None:
                    model = opened(row, device, dtype, args.rehearse, args.backend)
                cells.add(row.cell(batch), measured(model, row, batch, args.steps, args.repeats))
        del model
        gc.collect()
        free_cached(device)
    return cells.cells


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, help="by default as many as are usual for each model")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no cell after so many minutes")
    parser.add_argument("--models", nargs="+", choices=real_sizes.MODELS, default=list(real_sizes.MODELS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--largest", type=int, default=64, help="no batch beyond this one")
    parser.add_argument("--peak", type=float, help="the device's dense 16-bit TFLOP/s, where its name does not say it")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--rehearse", action="store_true", help="in miniature, on the CPU")
    parser.add_argument("--tests", action="store_true", help="run the tests that need a GPU")
    args = parser.parse_args(argv)
    if args.tests:
        tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", "tests"]
        raise SystemExit(subprocess.run(tests, cwd=Path(__file__).parent.parent, check=False).returncode)
    if args.out is None:
        parser.exit(2, "name a folder for what is measured: --out FOLDER\n")
    if not args.rehearse and args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.exit(2, "there is no GPU that CUDA sees; --rehearse runs everything in miniature without one\n")
    return run(args)


if __name__ == "__main__":
    main()
