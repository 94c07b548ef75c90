"""Tables as a terminal shows them, as CSV, parquet, LaTeX and Markdown, each with mode, cases and environment.

The HTML page is in `bench.report.page`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from reinvert.bench.report.judged import Grid, as_markdown
from reinvert.bench.report.published import Beside, Comparison, elsewhere
from reinvert.bench.report.table import ALL, Figure, Heading, Row, Table
from reinvert.bench.score.scoring import Board
from reinvert.bench.score.success import SUCCESS
from reinvert.errors import ReinvertError
from reinvert.image import atomic_write

ROW_WIDTH = 12
"""Of the column of rows' names, which are folded."""
TITLES = {"edit": "Edits", "reconstruct": "Reconstructions"}

# --- terminal ----------------------------------------------------------------------------------------------------


def show(table: Table, console: Console, *, kinds: bool = False, intervals: bool = True) -> None:
    """Print a table; with `kinds` one for each type of edit too. The best mean of a column is bold."""
    for kind in table.kinds if kinds else (ALL,):
        rows = table.of(kind)
        for heads in _fitting(rows, _parts(filled_headings(table)), intervals, console.width):
            of = "all types" if kind == ALL else kind
            title = f"{TITLES[table.task]}, mode {table.mode}, {of}"
            grid = RichTable(title=title, title_justify="left", show_lines=intervals)
            grid.add_column("row", overflow="fold", min_width=ROW_WIDTH)
            grid.add_column("cases", justify="right", no_wrap=True)
            for head in heads:
                grid.add_column(_stacked(head), justify="right", no_wrap=True)
            winners = _winners(rows, heads)
            for row in rows:
                made = [(row.figures[head.name], head, row.name in winners[head.name]) for head in heads]
                cells = [_cell(cell, head, intervals, bold, row.cells) for cell, head, bold in made]
                grid.add_row(Text(f"{_broken(row.name)}{_mark(row)}"), str(row.cells), *cells)
            console.print(grid)
    for note in notes_of(table):
        console.print(Text(f"- {note}"))


def _fitting(
    rows: Sequence[Row], parts: Sequence[Sequence[Heading]], intervals: bool, width: int
) -> Iterator[list[Heading]]:
    """The columns, in as many tables as a console of this width needs: no figure is ever cut."""
    frame = (ROW_WIDTH + 3) + (len("cases") + 3) + 1
    for heads in parts:
        taken: list[Heading] = []
        used = frame
        for head in heads:
            cells = [_cell(row.figures[head.name], head, intervals, False, row.cells) for row in rows]
            lines = [line for text in (_stacked(head), *cells) for line in text.plain.split("\n")]
            needs = max(map(len, lines)) + 3
            if taken and used + needs > width:
                yield taken
                taken, used = [], frame
            taken.append(head)
            used += needs
        yield taken


def _broken(name: str) -> str:
    """A row's name on lines that a narrow column has room for: "ddim+" above "p2p"."""
    return name.replace("+", "+\n")


def _parts(heads: Sequence[Heading]) -> list[list[Heading]]:
    """The paper's columns, then those to what the answer should be: a terminal has no room for both side by side.
    Where it is known whether edits are right, that comes first."""
    apart = ("is the edit right", "nearness to the true edit", "against the VAE's round trip")
    paper = [head for head in heads if head.group not in apart]
    truth = [head for head in heads if head.group in apart]
    judged = any(head.name == SUCCESS for head in heads)
    return [part for part in ((truth, paper) if judged else (paper, truth)) if part]


def filled_headings(table: Table) -> list[Heading]:
    """The columns that hold at least one value; the others are in the notes with their reasons."""
    return [head for head in table.headings if any(row.figures[head.name].mean is not None for row in table.rows)]


def best(rows: Sequence[Row], head: Heading) -> set[str]:
    """The rows with the best mean, the trivial ones left out: to copy the source is no edit."""
    means = {row.name: row.figures[head.name].mean for row in rows if not row.trivial}
    told = [mean for mean in means.values() if mean is not None]
    if len(told) < 2:
        return set()
    top = max(told) if head.direction == "higher" else min(told)
    return {name for name, mean in means.items() if mean is not None and head.shown(mean) == head.shown(top)}


def _winners(rows: Sequence[Row], heads: Sequence[Heading]) -> dict[str, set[str]]:
    """The best rows of every column."""
    return {head.name: best(rows, head) for head in heads}


def notes_of(table: Table) -> tuple[str, ...]:
    """The notes of a table, what its rows were told, and what they were made with."""
    how = table.how
    return (
        *table.notes,
        f"Intervals: {how.level:.0%} percentile bootstrap over cases, {how.resamples} resamples, seed {how.seed}.",
        *(f"{row.name} was given: {row.uses}." for row in table.of() if row.uses),
        *_environments(table.of()),
    )


def _environments(rows: Sequence[Row]) -> list[str]:
    """What the rows were made with; rows made with the same are told together."""
    told: dict[str, list[str]] = {}
    for row in rows:
        told.setdefault(row.environment, []).append(row.name)
    return [f"{', '.join(names)}: {made}." for made, names in told.items() if made]


def _stacked(head: Heading) -> Text:
    said = (head.said or head.title).removesuffix(" to the true edit").replace(", ", ",\n")
    return Text(f"{said}\n{head.factor} {head.arrow}".replace("\n ", "\n"))


def _cell(made: Figure, head: Heading, intervals: bool, bold: bool, cells: int) -> Text:
    text = Text(head.shown(made.mean), style="bold" if bold else "")
    if intervals and made.low is not None:
        text.append(f"\n{head.shown(made.low)} {head.shown(made.high)}", style="dim")
    if intervals and made.mean is not None and made.n != cells:
        text.append(f"\nn={made.n}", style="dim")
    return text


def _mark(row: Row) -> str:
    """A star beside a row that was given the true mask."""
    return " *" if "true mask" in row.uses else ""


def show_published(made: Comparison, console: Console) -> None:
    """Print the published rows beside ours: theirs, ours, the difference, and whether it is within tolerance."""
    grid = RichTable(title=f"Against {made.printed.title}", title_justify="left", show_lines=True)
    grid.add_column("row", overflow="fold")
    heads = {cell.head.name: cell.head for cell in made.cells}
    for head in heads.values():
        grid.add_column(_stacked(head), justify="right")
    for name in made.rows:
        cells = [cell for cell in made.cells if cell.row == name]
        grid.add_row(Text(_broken(name)), *(Text(_beside(cell), style=_style(cell.within)) for cell in cells))
    console.print(grid)
    tolerance = ", ".join(f"{heads[name].said} {share:.0%}" for name, share in made.printed.tolerance.items())
    console.print(Text("Each cell: published, ours, difference. Within tolerance is a published value inside our"))
    console.print(Text(f"interval, or a difference of at most {tolerance}."))
    for warning in made.warnings:
        console.print(Text(f"- {warning}"))
    console.print(Text(f"{made.summary}."))


def show_elsewhere(table: Table, console: Console) -> bool:
    """Print what every paper printed for the rows of a table, where `published` has none; whether there is any."""
    names = {row.name for row in table.of()}
    lines = [row for row in elsewhere() if row.recipe in names]
    if lines:
        console.print(Text("Printed by other papers, which do not agree (not judged: another protocol each):"))
    for line in sorted(lines, key=lambda line: line.recipe):
        console.print(Text(f"- {line.recipe}: {line.said}"))
    return bool(lines)


def _beside(cell: Beside) -> str:
    if cell.refused:
        return f"{cell.head.shown(cell.printed)}\n{cell.head.shown(cell.ours.mean)}\nnot compared"
    if cell.difference is None:
        return f"{cell.head.shown(cell.printed)}\n-"
    sign = "+" if cell.difference >= 0 else ""
    verdict = "within" if cell.within else "outside"
    ours = f"{cell.head.shown(cell.ours.mean)}"
    return f"{cell.head.shown(cell.printed)}\n{ours}\n{sign}{cell.head.shown(cell.difference)} ({verdict})"


def _style(within: bool | None) -> str:
    return {True: "green", False: "red", None: "dim"}[within]


# --- files -------------------------------------------------------------------------------------------------------


def table_rows(table: Table) -> list[dict[str, Any]]:
    """One mapping per row and type of edit: scaled means, the ends of their intervals, and n; None where empty."""
    made: list[dict[str, Any]] = []
    for row in table.rows:
        told: dict[str, Any] = {"task": table.task, "mode": table.mode, "kind": row.kind, "row": row.name}
        told |= {"cases": row.cells, "failed": row.failed, "unscored": row.unscored}
        for head in table.headings:
            cell = row.figures[head.name]
            told[head.name] = _scaled(cell.mean, head)
            told[f"{head.name} low"], told[f"{head.name} high"] = _scaled(cell.low, head), _scaled(cell.high, head)
            told[f"{head.name} n"] = cell.n
        told |= {"told": row.uses, "data": table.data, "data hash": table.hash, "environment": row.environment}
        told["scored with"] = "; ".join(f"{key}: {value}" for key, value in _setup(table).items())
        made.append(told)
    return made


def case_rows(board: Board) -> list[dict[str, Any]]:
    """One mapping per case and row: every value, unscaled, as the metric gives it."""
    costs = ("seconds", "forwards", "backwards", "memory")
    made: list[dict[str, Any]] = []
    for cell in board.cells:
        told: dict[str, Any] = {"task": board.task, "mode": board.mode, "case": cell.case, "kind": cell.kind}
        told |= {"row": cell.row, "key": cell.key, "failure": cell.failure}
        told |= {name: board.value(cell, name) for name in (*board.columns, *costs)}
        made.append(told)
    return made


def published_rows(made: Comparison) -> list[dict[str, Any]]:
    """One mapping per cell: published, ours with its interval, difference, verdict; scaled."""
    return [
        {
            "row": cell.row,
            "column": cell.head.name,
            "published": _scaled(cell.printed, cell.head),
            "ours": _scaled(cell.ours.mean, cell.head),
            "low": _scaled(cell.ours.low, cell.head),
            "high": _scaled(cell.ours.high, cell.head),
            "n": cell.ours.n,
            "difference": _scaled(cell.difference, cell.head),
            "tolerance": cell.tolerance,
            "within": cell.within,
            "refused": cell.refused,
        }
        for cell in made.cells
    ]


def _scaled(value: float | None, head: Heading) -> float | None:
    # rounded where float noise begins: 0.1 * 1000 is not 100.00000000000001 to a reader
    return None if value is None else value if math.isinf(value) else float(f"{value * head.scale:.10g}")


def _setup(table: Table) -> dict[str, Any]:
    return {
        key: value
        for key, value in table.setup.items()
        if key in ("jpeg75", "size", "networks", "libraries", "version")
    }


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as CSV (UTF-8); None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell_safe(value) for key, value in row.items()} for row in rows)
    _write(path, lambda draft: draft.write_text(text.getvalue(), encoding="utf-8"))


def _cell_safe(value: Any) -> Any:
    """A spreadsheet must not take a text for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write rows as parquet. Raises `ReinvertError` where pyarrow is not installed."""
    try:
        import pyarrow as arrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ReinvertError("parquet needs pyarrow: pip install 'reinvert[bench]', or leave parquet out") from error
    _write(path, lambda draft: parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows]), draft))


def write_latex(table: Table, path: Path, kind: str = ALL) -> None:
    """Write a table for the booktabs package; the best mean of a column is bold."""
    text = latex(table, kind)
    _write(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def latex(table: Table, kind: str = ALL) -> str:
    """The LaTeX of a table: means, below them half the width of the interval, notes as comments."""
    heads, rows = filled_headings(table), table.of(kind)
    groups: list[tuple[str, int]] = []
    for head in heads:
        last = groups[-1] if groups else ("", 0)
        groups = [*groups[:-1], (last[0], last[1] + 1)] if last[0] == head.group else [*groups, (head.group, 1)]
    spans, rules, start = [""], [], 2
    for group, width in groups:
        spans.append(rf"\multicolumn{{{width}}}{{c}}{{{_tex(group)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    lines = [f"% {chr(32).join(note.split())}" for note in notes_of(table)]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule"]
    lines += [" & ".join(spans) + r" \\", "".join(rules)]
    titles = [_tex(" ".join(p for p in (h.title, h.factor) if p)) + _ARROWS[h.direction] for h in heads]
    lines += [" & ".join(["Method", *titles]) + r" \\", r"\midrule"]
    winners = _winners(rows, heads)
    for row in rows:
        cells = [_tex_cell(row.figures[head.name], head, row.name in winners[head.name]) for head in heads]
        lines.append(" & ".join([_tex(row.name) + (r"$^\ast$" if _mark(row) else ""), *cells]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def write_markdown(table: Table, path: Path, grids: Sequence[Grid] = ()) -> None:
    """Write a table for a page on the web or in a repository, the `grids` of `bench.report.judged` before it."""
    text = as_markdown(grids) + markdown(table)
    _write(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def markdown(table: Table, kind: str = ALL) -> str:
    """The Markdown of a table: means with half the width of their interval, n where it is not all; then the notes."""
    heads, rows = filled_headings(table), table.of(kind)
    winners = _winners(rows, heads)
    titles = [f"{head.said or head.title} {head.factor} {head.arrow}".replace("  ", " ") for head in heads]
    lines = [_line(["", "cases", *titles]), _line(["---", *["---:"] * (1 + len(heads))])]
    for row in rows:
        made = [(row.figures[head.name], head, row.name in winners[head.name]) for head in heads]
        lines.append(_line([row.name + _mark(row).replace("*", "\\*"), str(row.cells), *(
            _markdown_cell(cell, head, bold, row.cells) for cell, head, bold in made)]))  # fmt: skip
    return "\n".join([*lines, "", *(f"* {note}" for note in notes_of(table)), ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _markdown_cell(made: Figure, head: Heading, bold: bool, cells: int) -> str:
    if made.mean is None:
        return ""
    text = f"**{head.shown(made.mean)}**" if bold else head.shown(made.mean)
    if made.low is not None and made.high is not None and made.high > made.low:
        text += f" ± {head.shown((made.high - made.low) / 2)}"
    return text if made.n == cells else f"{text} (n={made.n})"


_ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$"}


def _tex_cell(made: Figure, head: Heading, bold: bool) -> str:
    if made.mean is None:
        return "--"
    text = r"$\infty$" if math.isinf(made.mean) else head.shown(made.mean)
    text = rf"\textbf{{{text}}}" if bold else text
    if made.low is not None and made.high is not None:
        text += rf" {{\scriptsize $\pm${head.shown((made.high - made.low) / 2)}}}"
    return text


def _tex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    signs |= {"×": r"$\times$", "²": "$^2$", "³": "$^3$", "⁴": "$^4$"}
    return "".join(signs.get(sign, sign) for sign in text)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    def written(draft: Path) -> None:
        write(draft)

    atomic_write(path, written)
