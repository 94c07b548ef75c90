"""What a preset gains: its success on a scored run, against a row of another run on the same cases, case by case.

    python benchmarks/presets.py RUN OTHER [--row directinversion+p2p] [--preset auto]

RUN holds the rows of the recipes that the preset chooses from; for each case the row is taken that it would choose.
"""

from __future__ import annotations

import argparse

from reinvert import presets
from reinvert.bench.case import content_hash
from reinvert.bench.data import open_data
from reinvert.bench.records import Records
from reinvert.bench.report.table import figure, paired, values_of
from reinvert.bench.score.scoring import open_run, read_board
from reinvert.bench.score.success import SUCCESS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("other")
    parser.add_argument("--row", default="directinversion+p2p")
    parser.add_argument("--preset", default="auto")
    args = parser.parse_args(argv)
    run, other = open_run(args.run), open_run(args.other)
    board, beside = read_board(run, "strict"), read_board(other, "strict")
    asked, asked_beside = (
        {told["case"]: told["fingerprint"] for told in Records(folder).refresh().values() if told["recipe"] in rows}
        for folder, rows in ((args.run, board.rows), (args.other, (args.row,)))
    )
    shared = {case: mark for case, mark in asked.items() if asked_beside.get(case) == mark}
    chosen: dict[str, float | None] = {}
    forwards: list[float] = []
    for case in open_data(run.data):
        if case.id not in shared:
            continue
        row = presets.choose(args.preset, case.source_prompt, case.target_prompt).recipe
        cells = [cell for cell in board.cells if cell.row == row and cell.case == case.id]
        for cell in cells:
            chosen[case.id] = board.value(cell, SUCCESS)
            forwards.append(float(cell.forwards or 0))
    against = {case: value for case, value in values_of(beside, args.row, SUCCESS).items() if case in shared}
    gain = paired(chosen, against, "higher").difference
    costs = [cell.forwards or 0 for cell in beside.cells if cell.row == args.row and cell.case in shared]
    print(f"{len(shared)} cases of {board.data} (hash {content_hash(shared)})")
    for name, values, cost in ((f"--preset {args.preset}", chosen, forwards), (args.row, against, costs)):
        made = figure(list(values.values()))
        print(f"{name}: {_percent(made)}, {sum(cost) / max(1, len(cost)):.0f} forwards a picture")
    for row in board.rows:
        made = figure([value for case, value in values_of(board, row, SUCCESS).items() if case in shared])
        print(f"  {row}: {_percent(made)}")
    print(f"difference: {_percent(gain)} points")


def _percent(made) -> str:
    ends = "" if made.low is None else f" ({100 * made.low:.1f} to {100 * made.high:.1f})"
    return f"{100 * (made.mean or 0):.1f} %{ends}"


if __name__ == "__main__":
    main()
