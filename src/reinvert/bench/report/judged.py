"""What a report says first where it is known whether edits are right: success by type of edit and by attribute."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from reinvert.bench.report.table import Bootstrap, Figure, Table, figure
from reinvert.bench.score.scoring import Board, Cell
from reinvert.bench.score.success import ATTRIBUTES, CHANGED, KEPT, SUCCESS

TITLE = "Is the edit right?"
NOTE = (
    "Read by picturebook's judge, in percent of the cases. An edit succeeds if everything that was asked has "
    "changed and everything else has been kept. The row true-edit is the judge on perfect answers: the ceiling of "
    "every other row."
)


@dataclass(frozen=True)
class Grid:
    """A small table as text: heads, and rows of as many cells."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def grids(board: Board, how: Bootstrap | None = None) -> tuple[Grid, ...]:
    """Success by type of edit, and what changed and what was kept by attribute; nothing where no judge has looked."""
    if SUCCESS not in board.columns:
        return ()
    made = [_by_kind(board, how or Bootstrap())]
    for what, title in (
        (CHANGED, "What was asked has changed, by attribute"),
        (KEPT, "All else is kept, by attribute"),
    ):
        names = [name for name in ATTRIBUTES if f"{what}_{name}" in board.columns]
        rows = [(row, *(_cell(board, _of(board, row), f"{what}_{name}") for name in names)) for row in board.rows]
        made.append(Grid(title, ("row", *names), tuple(rows)))
    return tuple(made)


def first_grids(tables: Iterable[tuple[Table, Board]]) -> tuple[Grid, ...]:
    """The grids of the first board that has any: modes differ in nothing that a judge reads."""
    return next((made for table, board in tables if (made := grids(board, table.how))), ())


def _by_kind(board: Board, how: Bootstrap) -> Grid:
    rows: list[tuple[str, ...]] = []
    for row in board.rows:
        cells = _of(board, row)
        whole = figure([board.value(cell, SUCCESS) for cell in cells], how)
        kinds = [_cell(board, [cell for cell in cells if cell.kind == kind], SUCCESS) for kind in board.kinds]
        rows.append((row, _interval(whole), *kinds))
    return Grid("Success by type of edit", ("row", "all", *board.kinds), tuple(rows))


def _of(board: Board, row: str) -> list[Cell]:
    return [cell for cell in board.cells if cell.row == row and cell.key in board.lines]


def _cell(board: Board, cells: Sequence[Cell], name: str) -> str:
    """`83 (n=12)`; nothing where no case has a value."""
    found = figure([board.value(cell, name) for cell in cells])
    return "" if found.mean is None else f"{100 * found.mean:.0f} (n={found.n})"


def _interval(found: Figure) -> str:
    """`83 (70 to 93, n=30)`."""
    if found.mean is None:
        return ""
    if found.low is None or found.high is None:
        return f"{100 * found.mean:.0f} (n={found.n})"
    return f"{100 * found.mean:.0f} ({100 * found.low:.0f} to {100 * found.high:.0f}, n={found.n})"


def as_rich(grid: Grid) -> RichTable:
    """For a terminal."""
    table = RichTable(title=Text(grid.title), title_justify="left")
    for index, head in enumerate(grid.heads):
        table.add_column(Text(head), justify="left" if index == 0 else "right", overflow="fold")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table


def as_markdown(made: Sequence[Grid]) -> str:
    """For a page on the web or in a repository; empty without grids."""
    if not made:
        return ""
    lines = [f"**{TITLE}** {NOTE}", ""]
    for grid in made:
        lines += [f"{grid.title}:", "", _line(grid.heads), _line(["---", *["---:"] * (len(grid.heads) - 1)])]
        lines += [*map(_line, grid.rows), ""]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def as_html(made: Sequence[Grid]) -> str:
    """A section of the report's page; empty without grids."""
    if not made:
        return ""
    parts = [f'<section id="success" aria-labelledby="success-title"><h2 id="success-title">{TITLE}</h2>']
    parts.append(f'<p class="hint">{html.escape(NOTE)}</p>')
    for grid in made:
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in grid.heads)
        parts.append(f'<h3>{html.escape(grid.title)}</h3><div class="scroll" tabindex="0"><table>')
        parts.append(f"<thead><tr>{head}</tr></thead><tbody>")
        for first, *rest in grid.rows:
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in rest)
            parts.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
        parts.append("</tbody></table></div>")
    return "".join([*parts, "</section>"])
