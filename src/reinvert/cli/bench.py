"""`reinvert bench`: check data, make data, run recipes over it, see how far a run is, score and report it."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from reinvert.cli.bench_report import configure_report, configure_score, run_report, run_score
from reinvert.cli.bench_verify import configure_board, configure_verify, run_board, run_verify
from reinvert.cli.bench_yardsticks import configure_yardsticks, run_yardsticks
from reinvert.cli.terminal import console, say
from reinvert.errors import ReinvertError
from reinvert.files import expanded, real
from reinvert.models import check_device, check_dtype
from reinvert.values import number, positive, seed, steps, whole

if TYPE_CHECKING:
    from reinvert.bench.run.plan import Plan

DATA_HELP = "a folder (PIE-Bench, PIE-Bench++, TI2I, COCO captions, your own), picturebook:v1, or picturebook:100"
RECENT = 20
"""How many of the newest records tell how fast a run is going."""


@dataclass(frozen=True)
class Part:
    """A command under `bench`."""

    help: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def configure(parser: argparse.ArgumentParser) -> None:
    """The commands under `reinvert bench`."""
    chosen = parser.add_subparsers(dest="part", metavar="COMMAND", title="commands", parser_class=type(parser))
    for name, part in PARTS.items():
        part.configure(chosen.add_parser(name, help=part.help, description=part.help, allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    if args.part is None:
        raise ReinvertError(f"say which: reinvert bench {', '.join(PARTS)}")
    return PARTS[args.part].run(args)


# --- run -----------------------------------------------------------------------------------------------------------


def configure_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="DATA", help=DATA_HELP)
    parser.add_argument(
        "--recipes", nargs="+", default=[], metavar="NAME", help="rows of the table: bundled names, or TOML files"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where pictures and records go; gone on with")
    parser.add_argument(
        "--task",
        choices=("edit", "reconstruct"),
        default="edit",
        help="reconstruct: the recipes' inversions (all, if none is named) with and without text and guidance [edit]",
    )
    parser.add_argument("--model", metavar="NAME", help="in place of the recipes' own (not of trained editors)")
    parser.add_argument("--steps", type=steps, metavar="N", help="in place of the recipes' own; told in the records")
    parser.add_argument("--guidance", type=number, metavar="X", help="in place of the recipes' own; told as well")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first cases")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="cases made together [4]")
    parser.add_argument(
        "--workers",
        default="1",
        metavar="N|ray|ADDRESS",
        help="so many processes, or Ray: one worker per GPU, here or on the cluster at the address [1]",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    parser.add_argument("--dtype", default="auto", help="auto, float64, float32, bfloat16 or float16 [auto]")
    parser.add_argument("--retry-failed", action="store_true", help="do the cells again that have failed")
    parser.add_argument(
        "--any-version", action="store_true", help="go on with a run of another version of reinvert's code"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def check_data(given: str) -> None:
    """Tell of data that is not there before torch is loaded."""
    if not given.startswith("picturebook:") and not expanded(given).exists():
        from reinvert.bench.data import open_data

        open_data(given)


def run_run(args: argparse.Namespace) -> int:
    """0 also where cells failed: they are recorded, and told at the end."""
    check_device(args.device)
    check_dtype(args.dtype)
    check_data(args.data)
    from reinvert.bench.run import ray_workers
    from reinvert.bench.run.plan import Asked, open_plan
    from reinvert.bench.run.runner import Job

    out = Path(args.out)
    asked = Asked(tuple(args.recipes), args.task, args.model, args.steps, args.guidance, args.limit, args.batch)
    count = int(args.workers) if re.fullmatch(r"-?\d+", args.workers) else None
    if count is not None and count < 1:
        raise ReinvertError(f"--workers {count} is too few: use 1 or more, or ray")

    def job(device: str) -> Job:
        plan = open_plan(out, args.data, asked, device=device, dtype=args.dtype, any_version=args.any_version)
        for warning in plan.warnings:
            say(warning, error=True)
        return Job(plan, real(out), device, args.retry_failed)

    if count is not None:
        made = job(args.device)
        with _progress(made.plan, out, args) as seen:
            for _ in ray_workers.work_here(made, count):
                seen()
    else:
        with ray_workers.connected(None if args.workers == "ray" else args.workers) as device:
            made = job(device if args.device == "auto" else args.device)
            with _progress(made.plan, out, args) as seen:
                for _ in ray_workers.work_on_ray(made):
                    seen()
    return _told(made.plan, out)


@contextmanager
def _progress(plan: Plan, out: Path, args: argparse.Namespace) -> Generator[Callable[[], None]]:
    """A function that looks at what is done and shows it: cells, rate and time left, failures."""
    if args.quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from reinvert.bench.records import Records

    records, keys = Records(out), {cell.key for cell in plan.cells}
    before, started = len(keys & records.refresh().keys()), time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[told]}"), console=console(error=True), transient=True) as bars:
        bar = bars.add_task(plan.asked.task, total=len(keys), completed=before, told="")

        def seen() -> None:
            found = records.refresh()
            done = keys & found.keys()
            failed = sum(bool(found[key].get("error")) for key in done)
            told = pace(len(done) - before, time.monotonic() - started, len(keys) - len(done))
            bars.update(bar, completed=len(done), told=told + (f", {failed} failed" if failed else ""))

        seen()
        yield seen


def pace(done: int, seconds: float, left: int) -> str:
    """Rate and time left: "12.5 a minute, 0:03:20 left"."""
    if done < 1 or seconds <= 0:
        return ""
    total = round(left * seconds / done)
    return f"{60 * done / seconds:.1f} a minute, {total // 3600}:{total // 60 % 60:02}:{total % 60:02} left"


def _told(plan: Plan, out: Path) -> int:
    """The folder on stdout; failures by their reason, and what is missing, on stderr."""
    from reinvert.bench.records import Records

    found, cells = Records(out).refresh(), plan.cells
    failures: dict[str, list[str]] = {}
    for cell in cells:
        error = found.get(cell.key, {}).get("error")
        if error:
            failures.setdefault(error, []).append(f"{cell.row.name} on {cell.case.id}")
    for error, names in failures.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        say(f"failed: {shown}: {error}", error=True)
    missing = sum(cell.key not in found for cell in cells)
    if missing:
        raise ReinvertError(f"{missing} of {len(cells)} cells are not done, for workers died; run it again to go on")
    say(out)
    return 0


# --- status --------------------------------------------------------------------------------------------------------


def configure_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="the --out of a `reinvert bench run`")


@dataclass
class Tale:
    """What became of one row."""

    cells: int = 0
    done: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list[float])


def run_status(args: argparse.Namespace) -> int:
    """How far every row is; while somebody works at it, how fast, and how long it will take."""
    from rich.table import Table
    from rich.text import Text

    from reinvert.bench.records import Records, is_running, read_about

    folder = Path(args.run)
    about = read_about(folder)
    if not about:
        raise ReinvertError(f"{folder} is no run; name the --out of a `reinvert bench run`")
    found = Records(folder).refresh()
    tales: dict[tuple[str, str], Tale] = {
        (task, row): Tale(count) for task, rows in about.get("cells", {}).items() for row, count in rows.items()
    }
    for told in found.values():
        tale = tales.setdefault((told["task"], told["recipe"]), Tale())
        tale.done += not told.get("error")
        tale.failed += bool(told.get("error"))
        if isinstance(told.get("seconds"), int | float):  # an infinite number is written as a word
            tale.seconds.append(told["seconds"])
    table = Table(title=Text(f"{folder}: {about.get('data', '')}"), title_justify="left")
    for title in ("task", "row", "cells", "done", "failed", "left", "seconds each"):
        table.add_column(title, justify="left" if title in ("task", "row") else "right", overflow="fold")
    for (task, row), tale in tales.items():
        each = f"{sum(tale.seconds) / len(tale.seconds):.2f}" if tale.seconds else ""
        counts = (tale.cells, tale.done, tale.failed, max(0, tale.cells - tale.done - tale.failed))
        table.add_row(task, Text(row), *map(str, counts), each)
    out = console()
    out.print(table)
    left = sum(max(0, tale.cells - tale.done - tale.failed) for tale in tales.values())
    if not left:
        out.print("done")
    else:
        state = f"running, {_recent_pace(found, left)}" if is_running(folder) else "not running"
        out.print(f"{left} cells are left; {state}".rstrip(", "), soft_wrap=True)
    return 0


def _recent_pace(found: Mapping[str, Mapping[str, Any]], left: int) -> str:
    """The pace of the newest records, to this moment."""
    newest = sorted(str(told["finished"]) for told in found.values() if told.get("finished"))[-RECENT:]
    if len(newest) < 2:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(newest[0])).total_seconds()
    return pace(len(newest) - 1, seconds, left)


# --- data ----------------------------------------------------------------------------------------------------------


def configure_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help=DATA_HELP)
    parser.add_argument("--fast", action="store_true", help="do not open pictures, masks and true edits")


def run_check(args: argparse.Namespace) -> int:
    """0 also where there are problems: they are told, and the rest can be used. 2 if nothing can."""

    from reinvert.bench.check import check
    from reinvert.bench.data import open_data

    report = check(open_data(args.data), pictures=not args.fast)
    console().print(report.shown, soft_wrap=not sys.stdout.isatty())
    if not report.total.cases:
        raise ReinvertError(f"{args.data} holds no case that can be used")
    return 0


def configure_make(parser: argparse.ArgumentParser) -> None:
    from reinvert.bench import make
    from reinvert.bench.data import fixed

    parser.add_argument("out", metavar="OUT", help="a new folder")
    parser.add_argument("--set", choices=fixed.SETS, help="700 cases that never change; without it, drawn by a seed")
    parser.add_argument("--count", type=positive, metavar="N", help="how many cases, of all ten types [100]")
    parser.add_argument("--seed", type=seed, metavar="N", help="which scenes [0]")
    parser.add_argument("--size", type=whole, default=make.SIZE, metavar="PIXELS", help=f"side [{make.SIZE}]")
    parser.add_argument(
        "--way",
        choices=get_args(make.Way),
        default="drawn",
        help="drawn at that size, or at the bundled model's and enlarged [drawn]",
    )
    parser.add_argument("--pictures", choices=get_args(make.Format), default="jpg", help="[jpg]")


def run_make(args: argparse.Namespace) -> int:
    from reinvert.bench import make

    if args.set and (args.count, args.seed) != (None, None):
        raise ReinvertError(f"the set {args.set} is always the same; leave --count and --seed out")
    more: dict[str, Any] = {"size": args.size, "way": args.way, "pictures": args.pictures, "fixed": args.set or ""}
    make.write(args.out, args.count or 100, seed=args.seed or 0, **more)
    say(args.out)
    return 0


PARTS = {
    "run": Part("run recipes over a benchmark's cases; killed, it goes on where it was", configure_run, run_run),
    "status": Part("how far a run is", configure_status, run_status),
    "check": Part("what a benchmark's data holds, and what is wrong with it", configure_check, run_check),
    "make": Part("write a folder of drawn scenes in PIE-Bench's own format", configure_make, run_make),
    "score": Part("score what a run has made", configure_score, run_score),
    "verify": Part(
        "render and score a run again on this machine, and say whether it holds", configure_verify, run_verify
    ),
    "report": Part("the tables of a scored run", configure_report, run_report),
    "yardsticks": Part("whether metrics tell the truth, on drawn cases", configure_yardsticks, run_yardsticks),
    "board": Part("several scored runs on one static page, with what is verified", configure_board, run_board),
}
