"""Seconds and memory of whole edits on a GPU, by method, batch and compilation; one command, a few minutes, resumable.

    python benchmarks/gpu.py --out FOLDER [--model sd14-random|FOLDER] [--device cuda] [--dtype bfloat16] [--minutes 9]

The model is a random one of Stable Diffusion 1.4's sizes (`sd14.py`; nothing is downloaded) or a folder. Every cell
is written to FOLDER/cells.json as soon as it is measured; a second run goes on where the first one stopped (after
`--minutes`, or because it was ended), and FOLDER/cells.md is the table of what there is. A cell whose memory is not
enough, or whose method the model cannot serve, says so and is not tried again. Warmed up by one edit; the median of
`--repeats` is told, with the seconds of the first edit, which has the compilation in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from performance import MIB, Table, clock

import reinvert
from reinvert.backbones.loading import pick_dtype
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.errors import ReinvertError, out_of_memory
from reinvert.image import atomic_write, to_image

METHODS: dict[str, dict[str, Any]] = {
    "direct + p2p": {"inversion": "direct", "editor": "p2p"},
    "direct + p2plus": {"inversion": "direct", "editor": "p2plus"},
    "direct + masactrl": {"inversion": "direct", "editor": "masactrl"},
    "direct + pnp": {"inversion": "direct", "editor": "pnp"},
    "edict + p2p": {"inversion": "edict", "editor": "p2p"},
    "null_text + p2p": {"inversion": "null_text", "editor": "p2p"},
}
MODES = ("off", "blocks", "whole")
SOURCE, TARGET = "a cat sitting on a table", "a dog sitting on a table"


def open_model(name: str, device: str, dtype: torch.dtype, mode: str) -> StableDiffusion:
    if name == "sd14-random":
        import sd14

        model = sd14.build(device, dtype)
        if mode != "off":
            model.compile("blocks" if mode == "blocks" else "whole")
        return model
    model = reinvert.load(name, device, dtype, compile=mode)
    assert isinstance(model, StableDiffusion)
    return model


def measured(model: StableDiffusion, method: str, batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """One cell: seconds of the first edit and of the later ones, a picture; the peak of the device's memory."""
    side, device = model.image_size, model.device
    noise = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    pictures = [to_image(2 * picture - 1) for picture in noise]

    def edit() -> float:
        before = clock(device)
        reinvert.edit(
            model, pictures, source=[SOURCE] * batch, target=[TARGET] * batch, steps=steps, batch_size=batch,
            **METHODS[method],
        )  # fmt: skip
        return (clock(device) - before) / batch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = model.tally.forwards
    try:
        first = edit()
        forwards = model.tally.forwards - before
        later = [edit() for _ in range(repeats)]
    except ReinvertError as error:
        return {"why not": str(error)}
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return {"why not": "out of memory"}
    peak = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else None
    return {"first": first, "seconds": statistics.median(later), "forwards": forwards / batch, "peak MiB": peak}


def table(cells: dict[str, dict[str, Any]], about: str) -> Table:
    out = Table("Edits on a GPU", about)
    for name, cell in cells.items():
        method, mode, batch = name.split(" | ")
        figures = {"first (s)": "first", "s a picture": "seconds", "forwards": "forwards", "peak (MiB)": "peak MiB"}
        out.rows.append(
            {"method": method, "compile": mode, "batch": batch}
            | {head: cell.get(key) for head, key in figures.items()}
            | {"why not": cell.get("why not", "")}
        )
    return out


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="sd14-random")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no cell after so many minutes")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 8])
    args = parser.parse_args(argv)
    began, device = time.monotonic(), torch.device(args.device)
    dtype = pick_dtype(args.dtype, device, torch.bfloat16)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "cells.json"
    cells: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    about = (
        f"{args.model}, {args.dtype}, {args.steps} steps, {where}, torch {torch.__version__}; seconds of wall clock."
    )
    for mode in args.modes:
        wanted = {f"{m} | {mode} | {b}": (m, b) for b in args.batch for m in args.methods}
        todo = {name: cell for name, cell in wanted.items() if name not in cells}
        if not todo or time.monotonic() - began > 60 * args.minutes:
            continue
        model = open_model(args.model, args.device, dtype, mode)
        for name, (method, batch) in todo.items():
            if time.monotonic() - began > 60 * args.minutes:
                break
            cells[name] = measured(model, method, batch, args.steps, args.repeats)
            atomic_write(file, lambda draft: draft.write_text(json.dumps(cells, indent=1)))
            print(name, cells[name], flush=True)
        del model
    page = table(cells, about).markdown()
    atomic_write(args.out / "cells.md", lambda draft: draft.write_text(page))
    return cells


if __name__ == "__main__":
    main()
