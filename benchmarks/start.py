"""How long a person waits before the work begins: seconds of new processes, from nothing.

    python benchmarks/start.py [--repeats 5] [--python PYTHON] [--write docs/performance.md]

Every line is a process of its own, on all cores, median of `--repeats`; one of them says how long loading picturebook
takes once torch is there. `--python` names the environment: one that holds the tools for tests too (scipy, peft) starts
a second later, since diffusers and transformers import what they find.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from overhead import give
from performance import Table

import reinvert

EDIT = ["edit", "cat.png", "--source", "a red cat on grass", "--target", "a red dog on grass", "-o", "dog.png"]
COMMANDS: tuple[tuple[str, str, list[str]], ...] = (
    ("edit --help", "0.5", ["edit", "--help"]),
    ("methods", "0.5", ["methods"]),
    ("a wrong word", "0.5", ["edti"]),
    ("a missing file", "0.5", ["edit", "missing.png", "--source", "a", "--target", "b"]),
    ("draw a scene", "", ["draw", "a red cat on grass", "-o", "cat.png"]),
    ("the first edit with picturebook", "6", EDIT),
)
LOAD = """
import time, torch
begin = time.perf_counter()
import reinvert
reinvert.load("picturebook")
print(time.perf_counter() - begin)
"""


def seconds(python: str, command: Sequence[str], folder: str) -> tuple[float, str]:
    """Wall time of a process, and what it printed."""
    path = str(Path(reinvert.__file__).parents[1])
    begin = time.perf_counter()
    done = subprocess.run(
        [python, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return time.perf_counter() - begin, done.stdout


def measure(python: str, repeats: int) -> Table:
    table = Table(
        "Before the work begins",
        f"Seconds of a new process, median of {repeats} (least to most).",
        threads="all cores",
    )
    taken: dict[str, list[float]] = {name: [] for name, _, _ in COMMANDS}
    loads: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            for name, _, command in COMMANDS[-2:] + COMMANDS[:-2]:
                taken[name].append(seconds(python, ["-m", "reinvert", *command], folder)[0])
            loads.append(float(seconds(python, ["-c", LOAD], folder)[1]))
    rows = [(name, aim, taken[name]) for name, aim, _ in COMMANDS]
    rows.insert(-1, ("load picturebook, after torch", "2", loads))
    for name, aim, all_of_it in rows:
        table.rows.append(
            {
                "what": name,
                "seconds": f"{statistics.median(all_of_it):.2f} ({min(all_of_it):.2f} to {max(all_of_it):.2f})",
                "aim": aim,
            }
        )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args(argv)
    command = f"python benchmarks/start.py --repeats {args.repeats}"
    give([measure(args.python, args.repeats)], command, args.write, args.out)


if __name__ == "__main__":
    main()
