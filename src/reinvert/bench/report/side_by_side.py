"""The board: rows of several runs on one static page, each with its data's hash, what made it, and the verdict on it.

Rows stand in one table only where they were asked the same: the same cases (by their hash), task and mode. What papers
printed stands on the same page, marked as what nobody can verify. The page has no script and loads nothing.
"""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reinvert.bench.report.formats import TITLES, best, filled_headings
from reinvert.bench.report.published import elsewhere, published
from reinvert.bench.report.table import Bootstrap, Figure, Heading, Row, Table, heading, make_table
from reinvert.bench.score.scoring import MODES, Board, open_run, read_board, scores_path
from reinvert.errors import ReinvertError
from reinvert.image import atomic_write

FILES: Final = Path(__file__).parent / "page_files"
NO: Final = "not verifiable"
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Entry:
    """A run's table of one task in one mode."""

    run: str
    """What the run is called: its folder's name."""
    table: Table
    board: Board

    @property
    def asked(self) -> tuple[str, str, str]:
        """Entries that agree in this are in one table."""
        return self.table.task, self.table.mode, self.board.hash


def entries(folders: Sequence[str | os.PathLike[str]], how: Bootstrap | None = None) -> list[Entry]:
    """Every scored table of some runs. Raises `ReinvertError` for a folder that is no run, or is not scored."""
    found: list[Entry] = []
    names: list[str] = []
    for folder in folders:
        run = open_run(folder)
        name = Path(folder).resolve().name
        names.append(name)
        label = name if names.count(name) == 1 else f"{name} ({names.count(name)})"
        modes = [mode for mode in MODES if scores_path(run.folder, mode).is_file()]
        if not modes:
            raise ReinvertError(f"{run.folder} is not scored; run `reinvert bench score {run.folder}` first")
        for mode in modes:
            for task in run.tasks:
                board = read_board(run, mode, task)
                found.append(Entry(label, make_table(board, how=how, kinds=False), board))
    return found


def write_board(
    folders: Sequence[str | os.PathLike[str]],
    path: Path,
    how: Bootstrap | None = None,
    *,
    title: str = "Board of edits",
) -> None:
    """Write the page. Raises `ReinvertError` as `entries` does."""
    text = page(entries(folders, how), title)
    atomic_write(path, lambda draft: _put(draft, text))


def _put(draft: Path, text: str) -> None:
    draft.write_text(text, encoding="utf-8")


def page(found: Sequence[Entry], title: str = "Board of edits") -> str:
    """The page's HTML."""
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in found:
        groups.setdefault(entry.asked, []).append(entry)
    runs = dict.fromkeys(entry.run for entry in found)
    intro = (
        f"{len(runs)} runs. A row is verified where `reinvert bench verify` has rendered a random sample of its run "
        "again, held every record against its case, and computed all scores again, and nothing has changed since; the "
        "verdict is the word of whoever ran it. Only rows of one table were asked the same. Means with their interval."
    )
    parts = [f"<header><div><h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p></div></header><main>"]
    parts += [_section(group) for group in groups.values()]
    parts += [_published(), *_elsewhere(), "</main>"]
    style = "".join((FILES / name).read_text(encoding="utf-8") for name in ("page.css", "board.css"))
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{html.escape(title)}</title><style>{style}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _section(group: Sequence[Entry]) -> str:
    """One table: the rows of all runs that were asked the same."""
    first = group[0]
    heads = list({head.name: head for entry in group for head in filled_headings(entry.table)}.values())
    data = ", ".join(dict.fromkeys(entry.board.data or "data that is not told" for entry in group))
    title = f"{TITLES[first.table.task]} of {data}, mode {first.table.mode}"
    rows = [(entry, row) for entry in group for row in entry.table.of()]
    winners = {head.name: best([row for _, row in rows], head) for head in heads}
    lines = [_head(["Row", "Run", "Verified", "Cases", "Was given", *(head.full for head in heads), "Made with"])]
    for entry, row in rows:
        figures = [_figure(row.figures.get(head.name), head, row.name in winners[head.name]) for head in heads]
        said = entry.board.standing
        mark = '<span class="yes">yes</span>' if said.verified else '<span class="no">no</span>'
        cells = [
            f'<td class="text">{html.escape(entry.run)}</td>',
            f'<td class="text">{mark}<details><summary>how</summary>{html.escape(said.said)}</details></td>',
            f"<td>{row.cells}{_failed(row)}</td>",
            f'<td class="text">{html.escape(row.uses or "picture and prompts")}</td>',
            *figures,
            f'<td class="text"><details><summary>environment</summary>{html.escape(row.environment)}</details></td>',
        ]
        kind = ' class="trivial"' if row.trivial else ""
        lines.append(f'<tr{kind}><th scope="row">{html.escape(row.name)}</th>{"".join(cells)}</tr>')
    note = f"Cases: hash <code>{html.escape(first.board.hash)}</code>."
    return _framed(title, note, "".join(lines))


def _failed(row: Row) -> str:
    left = [f"{count} {what}" for count, what in ((row.failed, "failed"), (row.unscored, "not scored")) if count]
    return f'<span class="interval outside">{", ".join(left)}</span>' if left else ""


def _figure(found: Figure | None, head: Heading, is_best: bool) -> str:
    if found is None or found.mean is None:
        return "<td>-</td>"
    text = f'<span class="best">{head.shown(found.mean)}</span>' if is_best else head.shown(found.mean)
    if found.low is not None and found.high is not None:
        text += f'<span class="interval">{head.shown(found.low)} … {head.shown(found.high)}</span>'
    return f"<td>{text}</td>"


def _published() -> str:
    """The paper's own table."""
    printed = published()
    heads = [heading(column) for column in printed.columns]
    lines = [_head(["Row", "Verified", *(head.full for head in heads)])]
    for name, values in printed.rows.items():
        figures = "".join(f"<td>{head.shown(values[head.name])}</td>" for head in heads)
        lines.append(f'<tr><th scope="row">{html.escape(name)}</th><td class="no">{NO}</td>{figures}</tr>')
    note = html.escape(
        f"{printed.source}; {printed.data}, mode {printed.mode}, {printed.model}. No results to look at."
    )
    return _framed(f"Printed: {printed.title}", note, "".join(lines))


def _elsewhere() -> list[str]:
    """What later papers printed of the flow methods, a table for each."""
    made: list[str] = []
    for key in dict.fromkeys(row.table for row in elsewhere()):
        rows = [row for row in elsewhere() if row.table == key]
        heads = [heading(name) for name in dict.fromkeys(name for row in rows for name in row.values)]
        lines = [_head(["Method", "Backbone", "Verified", *(head.full for head in heads)])]
        for row in rows:
            figures = "".join(f"<td>{head.shown(row.values.get(head.name))}</td>" for head in heads)
            named = f'<th scope="row">{html.escape(row.method)}</th><td class="text">{html.escape(row.backbone)}</td>'
            lines.append(f'<tr>{named}<td class="no">{NO}</td>{figures}</tr>')
        made.append(_framed(f"Printed: {key}", html.escape(f"{rows[0].source}; {rows[0].data}."), "".join(lines)))
    return made


TEXTS: Final = ("Run", "Verified", "Was given", "Made with", "Backbone")
"""Columns that hold words."""


def _head(cells: Sequence[str]) -> str:
    kinds = [' class="text"' if cell in TEXTS else "" for cell in cells]
    made = "".join(f'<th scope="col"{kind}>{html.escape(cell)}</th>' for cell, kind in zip(cells, kinds, strict=True))
    return f"<thead><tr>{made}</tr></thead>"


def _framed(title: str, note: str, lines: str) -> str:
    """A section; `note` and `lines` are HTML already."""
    return (
        f'<section><h2>{html.escape(title)}</h2><p class="hint">{note}</p>'
        f'<div class="scroll" tabindex="0"><table>{lines}</table></div></section>'
    )


__all__ = ["Entry", "entries", "page", "write_board"]
