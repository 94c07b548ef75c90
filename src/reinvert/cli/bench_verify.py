"""`reinvert bench verify DIR` renders and scores a run again; `reinvert bench board DIR...` sets runs side by side."""

from __future__ import annotations

import argparse
import secrets

from reinvert.cli.bench_report import add_networks, check_run, networks_of, progress
from reinvert.cli.terminal import say
from reinvert.errors import ReinvertError
from reinvert.models import check_device
from reinvert.values import positive, seed


def configure_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="the --out of a `reinvert bench run`, scored")
    parser.add_argument("--sample", type=positive, default=12, metavar="N", help="cells rendered again [12]")
    parser.add_argument("--seed", type=seed, metavar="N", help="of the sample [drawn anew, and told]")
    parser.add_argument("--data", metavar="DATA", help="the data of the run, if it lies elsewhere now")
    parser.add_argument("--model", metavar="FOLDER", help="the weights of the run, if they lie elsewhere now")
    add_networks(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run_verify(args: argparse.Namespace) -> int:
    """0 where the run is as it says; 2 where something is not, or nothing could be rendered again."""
    check_run(args.run)
    check_device(args.device)
    from pathlib import Path

    from reinvert.bench.data import open_data
    from reinvert.bench.score.scoring import open_run
    from reinvert.bench.score.success import Judge
    from reinvert.bench.verdict import VERDICT
    from reinvert.bench.verify import Verification

    spec = args.data or open_run(args.run).data
    if not spec:
        raise ReinvertError(f"{args.run} does not say what data it is of; name it with --data")
    data = open_data(spec)
    judge = Judge.bundled() if any(case.open_attributes is not None for case in data) else None
    drawn = secrets.randbelow(2**31) if args.seed is None else args.seed  # nobody can prepare for it
    verification = Verification(
        Path(args.run), data, args.sample, drawn, args.device, args.model or "", networks_of(args), judge
    )
    steps = verification.run()
    with progress("verifying", None, args.quiet) as step:
        while True:
            try:
                next(steps)
                step()
            except StopIteration as ended:
                verdict = ended.value
                break
    for why in verdict.skipped:
        say(f"not verified: {why}", error=True)
    for finding in verdict.findings[:20]:
        say(finding.said, error=True)
    if len(verdict.findings) > 20:
        say(f"and {len(verdict.findings) - 20} more, in {Path(args.run) / VERDICT}", error=True)
    if not verdict.holds:
        raise ReinvertError(verdict.said)
    say(verdict.said)
    return 0


def configure_board(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="DIR", help="the --out of `reinvert bench run`s, scored")
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the page, .html")
    parser.add_argument("--resamples", type=positive, default=2000, metavar="N", help="of the bootstrap [2000]")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the bootstrap [0]")


def run_board(args: argparse.Namespace) -> int:
    for folder in args.runs:
        check_run(folder)
    from pathlib import Path

    from reinvert.bench.report.side_by_side import write_board
    from reinvert.bench.report.table import Bootstrap

    write_board(args.runs, Path(args.out), Bootstrap(max(100, args.resamples), 0.95, args.seed))
    say(args.out)
    return 0
