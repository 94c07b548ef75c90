"""`reinvert bench score DIR` and `reinvert bench report DIR`: figures of a run, and what shows them."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reinvert.cli.terminal import console, say
from reinvert.errors import ReinvertError
from reinvert.files import shown
from reinvert.values import positive, seed

if TYPE_CHECKING:
    from reinvert.bench.report.table import Table
    from reinvert.bench.score.scoring import Run
    from reinvert.metrics.base import Mode

MODES: tuple[Mode, ...] = ("compat", "strict")
FORMATS = ("csv", "parquet", "latex", "markdown", "html")


def configure_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="the --out of a `reinvert bench run`")
    parser.add_argument("--mode", choices=(*MODES, "both"), default="both", help="arithmetic [both]")
    parser.add_argument("--data", metavar="DATA", help="the data of the run, if it lies elsewhere now")
    add_networks(parser)
    parser.add_argument("--jpeg75", action="store_true", help="compress results first, as the published programs did")
    parser.add_argument("--size", type=positive, default=512, metavar="PIXELS",
        help="larger results are brought down to this first, bicubic [512]")  # fmt: skip
    parser.add_argument("--of-the-paper", action="store_true", help="compat as the evaluator's libraries were in 2023")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    parser.add_argument("--batch", type=positive, default=16, metavar="N", help="results scored together [16]")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def add_networks(parser: argparse.ArgumentParser) -> None:
    """`--networks`: what scores are computed with."""
    parser.add_argument(
        "--networks",
        metavar="PLACE",
        default="picturebook",
        help="picturebook (bundled), none, hub, or a folder with dino-vitb8, clip-vit-large-patch14, lpips-squeeze "
        "[picturebook]",
    )


def check_run(given: str) -> None:
    """Tell of a run that is not there before torch is loaded."""
    if not Path(given).is_dir():
        raise ReinvertError(f"{shown(given)} is no folder; name the --out of a `reinvert bench run`")


def run_score(args: argparse.Namespace) -> int:
    """Score what is not scored yet. 0 also where some records could not be scored: they are told."""
    check_run(args.run)
    from reinvert.bench.data import open_data
    from reinvert.bench.score.columns import CURRENT, OF_THE_PAPER
    from reinvert.bench.score.scoring import Setup, open_run, scores_path
    from reinvert.bench.score.success import Judge

    run = open_run(args.run)
    if args.of_the_paper and args.mode != "compat":
        raise ReinvertError("--of-the-paper is a matter of the published arithmetic: add --mode compat")
    if args.batch < 1:
        raise ReinvertError(f"--batch {args.batch} is too small: score at least one result at a time")
    spec = args.data or run.data
    if not spec:
        raise ReinvertError(f"{run.folder} does not say what data it is of; name it with --data")
    cases = {case.id: case for case in open_data(spec).cases}
    networks, judge = networks_of(args), None
    if any(case.open_attributes is not None for case in cases.values()):
        judge = Judge.bundled()
    described = networks.describe() | ({} if judge is None else judge.describe())
    libraries = OF_THE_PAPER if args.of_the_paper else CURRENT
    for mode in MODES if args.mode == "both" else (args.mode,):
        setup = Setup(mode, args.jpeg75 and mode == "compat", libraries, described, size=args.size)
        failures = _score(run, cases, setup, networks, judge, args)
        for key, why in failures.items():
            say(f"not scored: {run.cells[key].row}, case {run.cells[key].case}: {why}", error=True)
        say(scores_path(run.folder, mode))
    for need, why in networks.reasons.items():
        say(f"columns of {need} are empty: {why}", error=True)
    return 0


def networks_of(args: argparse.Namespace) -> Any:
    """What `--networks` names, on `--device`."""
    from reinvert.bench.score.columns import Networks

    if args.networks == "none":
        reason = "no networks were asked for"
        return Networks(reasons={"lpips": reason, "structure": reason, "clip": reason})
    if args.networks == "picturebook":
        return Networks.picturebook(args.device)
    return Networks.load(None if args.networks == "hub" else args.networks, device=args.device)


def _score(run: Run, cases: Any, setup: Any, networks: Any, judge: Any, args: argparse.Namespace) -> dict[str, str]:
    """Score in one mode under a progress bar; what could not be scored, by key."""
    from reinvert.bench.score.scoring import score_run

    failures: dict[str, str] = {}
    total = sum(cell.picture is not None for cell in run.cells.values())
    with progress(f"scoring {setup.mode}", total, args.quiet) as step:
        for line in score_run(run, cases, setup, networks, judge, batch=args.batch):
            if line.failure:
                failures[line.key] = line.failure
            step()
    return failures


def progress(what: str, total: int | None, quiet: bool) -> Any:
    """A bar that a function moves on; none where nobody looks."""
    if quiet or not sys.stderr.isatty():
        return nullcontext(lambda: None)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Bar(Progress):
        def __enter__(self) -> Any:
            super().__enter__()
            task = self.add_task(what, total=total)
            return lambda: self.advance(task)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, console=console(error=True), transient=True)


def configure_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="the --out of a `reinvert bench run`, scored")
    parser.add_argument("--mode", choices=(*MODES, "both"), default="both", help="arithmetic [both]")
    parser.add_argument("--kinds", action="store_true", help="in the terminal, a table for each type of edit too")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="other columns than the paper's")
    parser.add_argument("--against", choices=("published",), help="the published rows beside ours")
    parser.add_argument(
        "--write", nargs="+", choices=FORMATS, default=[], metavar="FORMAT", help=f"files: {', '.join(FORMATS)}"
    )
    parser.add_argument("-o", "--out", metavar="DIR", help="where the files go [DIR/report]")
    parser.add_argument("--resamples", type=positive, default=2000, metavar="N", help="of the bootstrap [2000]")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the bootstrap [0]")
    parser.add_argument(
        "--data", metavar="DATA", help="the data of the run (pictures of the page), if it lies elsewhere"
    )
    parser.add_argument("--megabytes", type=positive, default=40, metavar="N", help="of pictures in the page [40]")
    parser.add_argument("--width", type=positive, metavar="N", help="characters of a terminal line")


def run_report(args: argparse.Namespace) -> int:
    """Print the tables of every mode that is scored, and write what is asked for."""
    check_run(args.run)
    from reinvert.bench.report import formats, judged
    from reinvert.bench.report.published import against_published, published
    from reinvert.bench.report.table import Bootstrap, make_table
    from reinvert.bench.score.scoring import open_run

    run = open_run(args.run)
    if args.resamples < 100:
        raise ReinvertError(f"--resamples {args.resamples} is too small for an interval: use 100 or more")
    out = console(width=args.width)
    how = Bootstrap(args.resamples, 0.95, args.seed)
    tables: list[tuple[Table, Any]] = []
    for board in _boards(run, args.mode):
        tables.append((make_table(board, args.columns, how), board))
    written = _written(run, tables, args)  # before anything is shown: a reader such as `head` may close the pipe
    for grid in judged.first_grids(tables):
        out.print(judged.as_rich(grid))
    for table, _ in tables:
        formats.show(table, out, kinds=args.kinds)
        if _comparable(table, args):
            printed = formats.show_elsewhere(table, out)
            if not printed or any(row.name in published().rows for row in table.of()):
                formats.show_published(against_published(table), out)
    for path in written:
        say(path)
    return 0


def _comparable(table: Table, args: argparse.Namespace) -> bool:
    """Whether the published table is asked for beside this one; of two modes only its own is compared."""
    from reinvert.bench.report.published import published

    return bool(args.against) and table.task == "edit" and (args.mode != "both" or table.mode == published().mode)


def _boards(run: Run, mode: str) -> list[Any]:
    """The boards of every task in the modes that are asked for; with `both`, in those that are there."""
    from reinvert.bench.score.scoring import read_board, scores_path

    modes = [m for m in MODES if mode == m or (mode == "both" and scores_path(run.folder, m).is_file())]
    if not modes:
        raise ReinvertError(f"{run.folder} is not scored; run `reinvert bench score {run.folder}` first")
    return [read_board(run, m, task) for m in modes for task in run.tasks]


def _written(run: Run, tables: list[tuple[Table, Any]], args: argparse.Namespace) -> list[Path]:
    """Write the files that are asked for; modes and tasks each have their own."""
    from reinvert.bench.report import formats, judged
    from reinvert.bench.report.published import against_published

    if not args.write:
        return []
    folder = Path(args.out) if args.out else run.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []

    def at(name: str) -> Path:
        made.append(folder / name)
        return made[-1]

    for table, board in tables:
        named = f"{table.task}-{table.mode}"
        if "csv" in args.write:
            formats.write_csv(formats.table_rows(table), at(f"table-{named}.csv"))
            formats.write_csv(formats.case_rows(board), at(f"cases-{named}.csv"))
            if _comparable(table, args):
                formats.write_csv(formats.published_rows(against_published(table)), at(f"published-{named}.csv"))
        if "parquet" in args.write:
            formats.write_parquet(formats.table_rows(table), at(f"table-{named}.parquet"))
            formats.write_parquet(formats.case_rows(board), at(f"cases-{named}.parquet"))
        if "latex" in args.write:
            formats.write_latex(table, at(f"table-{named}.tex"))
        if "markdown" in args.write:
            formats.write_markdown(table, at(f"table-{named}.md"), judged.grids(board, table.how))
    if "html" in args.write:
        from reinvert.bench.data import open_data
        from reinvert.bench.report.page import write_page

        spec = args.data or run.data
        cases = {case.id: case for case in open_data(spec).cases} if spec else {}
        write_page(run, tables, cases, at("report.html"), megabytes=args.megabytes, against=bool(args.against))
    return made
