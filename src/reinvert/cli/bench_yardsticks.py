"""`reinvert bench yardsticks DIR -o FOLDER`: do metrics tell the truth on a scored run of drawn cases?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reinvert.cli.bench_report import MODES, check_run
from reinvert.cli.terminal import say
from reinvert.values import positive, seed

SHOWN = 8
"""How many yardsticks' worst cases are shown: no case twice."""


def configure_yardsticks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="the --out of a `reinvert bench run` on drawn cases, scored")
    parser.add_argument("-o", "--out", required=True, metavar="FOLDER", help="gets yardsticks.md, .svg and .png")
    parser.add_argument("--mode", choices=MODES, default="compat", help="arithmetic [compat]")
    parser.add_argument("--data", metavar="DATA", help="the data of the run, if it lies elsewhere now")
    parser.add_argument("--resamples", type=positive, default=500, metavar="N", help="of the bootstrap [500]")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of the bootstrap [0]")


def run_yardsticks(args: argparse.Namespace) -> int:
    check_run(args.run)
    from reinvert.bench.data import open_data
    from reinvert.bench.report import yardsticks
    from reinvert.bench.report.table import Bootstrap
    from reinvert.bench.score.scoring import open_run, read_board
    from reinvert.image import save_image

    run = open_run(args.run)
    board = read_board(run, args.mode)
    made = yardsticks.correlations(board, Bootstrap(args.resamples, 0.95, args.seed))
    found = yardsticks.grid(board)
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    cases = {case.id: case for case in open_data(args.data or run.data)}
    wrong = [one for name in yardsticks.yardsticks(found) if (one := yardsticks.misled(board, name)) is not None]
    lines = [
        f"{len(found.cases)} cases of {board.data} (hash {board.hash}), {len(found.rows)} methods "
        f"({', '.join(found.rows)}), mode {board.mode}. {board.standing.said}",
        "",
        "![every yardstick's choice among edits of one picture, against both truths](yardsticks.svg)",
        "",
    ]
    for truth, title in yardsticks.TRUTHS.items():
        lines += [f"Rank correlation with {title}:", "", yardsticks.table(made, truth), ""]
    if wrong:
        lines += ["Where each is most wrong: the failure that it prefers, and the success that it rejects.", ""]
        lines += ["| yardstick | case | asked | prefers | rejects |", "| --- | --- | --- | --- | --- |"]
        lines += [_line(one, cases) for one in wrong]
        lines += ["", "![source, true edit, what is preferred, what is rejected](yardsticks.png)", ""]
        save_image(_sheet(run, _different(wrong)[:SHOWN], cases), folder / "yardsticks.png")
    (folder / "yardsticks.svg").write_text(yardsticks.figure(made), encoding="utf-8")
    (folder / "yardsticks.md").write_text("\n".join(lines), encoding="utf-8")
    say(folder / "yardsticks.md")
    return 0


def _different(wrong: Any) -> list[Any]:
    """The first yardstick of each case with its pair."""
    return list({(one.case, one.preferred, one.rejected): one for one in reversed(wrong)}.values())[::-1]


def _line(one: Any, cases: Any) -> str:
    from reinvert.bench.report.table import heading

    head = heading(one.yardstick)
    bad, good = (head.shown(value) for value in one.values)
    asked = cases[one.case].instruction if one.case in cases else ""
    return f"| {head.full} | {one.case} | {asked} | {one.preferred} ({bad}) | {one.rejected} ({good}) |"


def _plain(head: Any) -> str:
    """A heading without signs that the sheet's font may lack."""
    return head.said or head.title


def _sheet(run: Any, wrong: Any, cases: Any) -> Any:
    """A row a yardstick: source, true edit, the failure that it prefers, the success that it rejects."""
    from reinvert.bench.report.table import heading
    from reinvert.image import contact_sheet, open_image

    pictures = {(cell.row, cell.case): cell.picture for cell in run.of("edit")}
    rows = [
        [
            cases[one.case].picture(),
            cases[one.case].true_edit(),
            *(open_image(pictures[row, one.case]) for row in (one.preferred, one.rejected)),
        ]
        for one in wrong
        if one.case in cases
    ]
    titles = [
        f"{_plain(heading(one.yardstick))}: {cases[one.case].target_prompt}" for one in wrong if one.case in cases
    ]
    columns = ["source", "true edit", "preferred, failed", "rejected, succeeded"]
    return contact_sheet(rows, column_titles=columns, row_titles=titles, cell=128)
