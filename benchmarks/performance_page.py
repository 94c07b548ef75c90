"""Makes the tables of docs/performance.md again; the text around them is written by hand.

    python benchmarks/performance_page.py [--parts start loop together published gradients profile gpu ...]
                                          [--gpu FOLDER] [--before FILE.json] [--pnpinversion FOLDER] [--page PAGE]

Every part measures and puts its tables between their markers at once, each with the command that makes it alone, the
machine and its load: a run that is ended has what was measured. All together need an hour of one idle core, of which
`published-sd14` takes half. What only a GPU can measure comes from the folder that `gpu.py` wrote there (`--gpu`), and
says *not measured* where there is none; the programs themselves need a copy of their repository.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import against_published
import cpu
import edit_profile
import gpu
import overhead
import start
import torch
from overhead import open_model, place, put
from performance import Table, case_for, null_text_gradients
from real_sizes import MODELS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
NOT_MEASURED = "*Not measured*: no GPU was at hand."
GRADIENTS = "Null-text inversion: gradients"
SD14_ROWS = (
    "directinversion+p2p",
    "negative-prompt-inversion+p2p",
    "directinversion+masactrl",
    "directinversion+pnp",
    "edit-friendly-inversion+p2p",
    "edict+p2p",
)


@dataclass(frozen=True)
class Part:
    """Some tables of the page, by title, and what makes them."""

    titles: tuple[str, ...]
    make: Callable[[argparse.Namespace], None]


def starting(args: argparse.Namespace) -> None:
    start.main(["--python", str(args.python), "--write", str(args.page)])


def loop(args: argparse.Namespace) -> None:
    table = overhead.measure(open_model("picturebook"), 10, 9)
    put(args.page, table, "python benchmarks/overhead.py --write docs/performance.md")


def loop_sd14(args: argparse.Namespace) -> None:
    given = ["--model", "sd14-random", "--side", "32", "--steps", "2", "--repeats", "3", "--walks", "local_blend"]
    overhead.main([*given, "--write", str(args.page)])


def on_a_cpu(args: argparse.Namespace) -> None:
    cpu.main(["precision", "overlap", "--repeats", "7", "--write", str(args.page)])


def on_a_cpu_sd14(args: argparse.Namespace) -> None:
    given = ["precision", "--model", "sd14-random", "--side", "32", "--repeats", "2"]
    cpu.main([*given, "--write", str(args.page)])


def compiled(args: argparse.Namespace) -> None:
    cpu.main(["compile", "--write", str(args.page)])


def together(args: argparse.Namespace) -> None:
    table = overhead.batches(open_model("picturebook"), 10, 3)
    put(args.page, table, "python benchmarks/overhead.py --batches --write docs/performance.md")


def published(args: argparse.Namespace) -> None:
    against_published.main(["--schedules", "--write", str(args.page)])


def published_sd14(args: argparse.Namespace) -> None:
    given = ["--schedules", "--model", "sd14-random", "--latent", "32", "--steps", "3", "--repeats", "1"]
    against_published.main([*given, "--write", str(args.page), "--rows", *SD14_ROWS])


def programs(args: argparse.Namespace) -> None:
    if args.pnpinversion is not None:
        against_published.main(["--pnpinversion", str(args.pnpinversion), *args.programs, "--write", str(args.page)])


def gradients(args: argparse.Namespace) -> None:
    model = open_model("picturebook")
    table = null_text_gradients(model, *case_for(model, 50), 5)
    put(args.page, table, "python benchmarks/performance_page.py --parts gradients")


def profile(args: argparse.Namespace) -> None:
    before = ["--before", str(args.before)] if args.before else []
    edit_profile.main([*before, "--write", str(args.page)])


def on_a_gpu(args: argparse.Namespace) -> None:
    """The tables of a folder of results; a model of which there are none says so."""
    found: dict[str, Any] = (
        json.loads((args.gpu / "cells.json").read_text()) if args.gpu else {"cells": {}, "about": {}}
    )
    tables: dict[str, Table] = {table.title: table for table in gpu.tables(found["cells"], found["about"])}
    for title in GPU:
        table = tables.get(title)
        _, _, told = ("", "", f"{NOT_MEASURED}\n") if table is None else table.markdown().partition("\n\n")
        place(args.page, title, f"{told}\n`python benchmarks/gpu.py --out FOLDER`\n")


GPU = tuple(f"On a GPU: {name}" for name in MODELS)
PARTS = {
    "start": Part(("Before the work begins",), starting),
    "loop": Part(("The loop's own work",), loop),
    "loop-sd14": Part(("The loop's own work: sd14-random",), loop_sd14),
    "profile": Part(("Where an edit's time goes: picturebook",), profile),
    "together": Part(("Pictures together",), together),
    "published": Part(("Against the published schedules: picturebook",), published),
    "published-sd14": Part(("Against the published schedules: sd14-random",), published_sd14),
    "programs": Part(("Against the published programs: tiny-random-sd",), programs),
    "cpu": Part(("Precision and layout on the CPU: picturebook", "Two pictures on the CPU: picturebook"), on_a_cpu),
    "cpu-sd14": Part(("Precision and layout on the CPU: sd14-random",), on_a_cpu_sd14),
    "compile": Part(("Compiled on the CPU: picturebook", "A compiled block of Stable Diffusion 1.4's sizes"), compiled),
    "gradients": Part((GRADIENTS,), gradients),
    "gpu": Part(GPU, on_a_gpu),
}


def places(page: str) -> list[str]:
    """The titles of the tables that a page has a place for."""
    return re.findall(r"^<!-- table: (.*) -->$", page, re.MULTILINE)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--python", default=sys.executable, help="the environment whose start is measured")
    parser.add_argument("--gpu", type=Path, metavar="FOLDER", help="what gpu.py wrote where there was a GPU")
    parser.add_argument("--before", type=Path, metavar="FILE", help="an older edit_profile.py --out, to stand beside")
    parser.add_argument("--pnpinversion", type=Path, metavar="FOLDER", help="a copy of cure-lab/PnPInversion")
    parser.add_argument(
        "--programs", nargs="+", default=[], metavar="WORD", help="words for against_published.py beside it"
    )
    args = parser.parse_args(argv)
    args.page = Path(os.path.relpath(args.page))  # as the commands below the tables name it
    torch.set_num_threads(1)
    for part in args.parts:
        PARTS[part].make(args)


if __name__ == "__main__":
    main()
