"""The report as one HTML file without external resources: tables, scatter, pairs, and every case side by side.

The page's own script draws everything from data that is embedded as JSON; whatever comes from prompts and names reaches
it as text, never as markup. Pictures are WebP thumbnails, as large as fits into the size that is asked for.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any, Final

from PIL import Image

from reinvert.bench.case import EditCase
from reinvert.bench.report import judged
from reinvert.bench.report.formats import filled_headings, notes_of
from reinvert.bench.report.published import against_published
from reinvert.bench.report.table import ALL, Figure, Heading, Paired, Row, Table, paired, values_of
from reinvert.bench.score.scoring import Board, Run
from reinvert.errors import ReinvertError
from reinvert.image import Picture, atomic_write, open_image

SIDES: Final = (320, 256, 192, 128, 96)
"""Longest sides of thumbnails in pixels, the first that fits is taken."""
QUALITY: Final = 82
BY_KIND: Final = 12
"""Rows up to which two of them are compared within each type of edit, too."""
FILES: Final = Path(__file__).parent / "page_files"


def write_page(
    run: Run,
    tables: Sequence[tuple[Table, Board]],
    cases: Mapping[str, EditCase],
    path: Path,
    *,
    title: str = "Benchmark of edits",
    megabytes: int = 40,
    against: bool = False,
) -> None:
    """Write the page of a run's tables. `cases` may lack some or all: their sources and masks are then not shown.

    `megabytes` limits the pictures, `against` adds the published table where a table has a row of it. Raises
    `ReinvertError` without any table.
    """
    text = page(run, tables, cases, title=title, megabytes=megabytes, against=against)
    atomic_write(path, lambda draft: _put(draft, text))


def _put(draft: Path, text: str) -> None:
    draft.write_text(text, encoding="utf-8")


def page(
    run: Run,
    tables: Sequence[tuple[Table, Board]],
    cases: Mapping[str, EditCase],
    *,
    title: str = "Benchmark of edits",
    megabytes: int = 40,
    against: bool = False,
) -> str:
    """The page's HTML; see `write_page`."""
    if not tables:
        raise ReinvertError("there is no table to show: score the run first")
    data = page_data(run, tables, cases, megabytes=megabytes, against=against)
    modes = ", ".join(dict.fromkeys(table.mode for table, _ in tables))
    first, board = tables[0]
    named = Path(run.data).name if run.data else "not told"  # a page is sent to others: no paths of this machine
    parts = {
        "title": html.escape(title),
        "summary": html.escape(
            f"{len(data['cases'])} cases, {len(first.of())} rows, modes: {modes}. Data: {named}, hash {board.hash}. "
            f"{board.standing.said}"
        ),
        "style": (FILES / "page.css").read_text(encoding="utf-8"),
        "success": judged.as_html(judged.first_grids(tables)),
        "static": static_table(first),
        "data": _embedded(data),
        "script": (FILES / "page.js").read_text(encoding="utf-8"),
    }
    told = (FILES / "page.html").read_text(encoding="utf-8")
    before, *rest = told.split("{{")
    made = [before]
    for piece in rest:  # one pass: what is put in is never looked at again
        name, _, after = piece.partition("}}")
        made += [parts[name], after]
    return "".join(made)


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def static_table(table: Table) -> str:
    """The table of all types as plain HTML, for a browser without scripts."""
    heads = filled_headings(table)
    lines = [_line("th", ["Row", "Cases", *(head.full for head in heads)])]
    for row in table.of():
        shown = [head.shown(row.figures[head.name].mean) for head in heads]
        lines.append(_line("td", [row.name, str(row.cells), *shown]))
    return f"<table>{''.join(lines)}</table>"


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"


# --- data --------------------------------------------------------------------------------------------------------


def page_data(
    run: Run,
    tables: Sequence[tuple[Table, Board]],
    cases: Mapping[str, EditCase],
    *,
    megabytes: int = 40,
    against: bool = False,
) -> dict[str, Any]:
    """What the page's script draws from; infinities are the words inf and -inf."""
    names = list(dict.fromkeys(cell.case for _, board in tables for cell in board.cells))
    index = {name: i for i, name in enumerate(names)}
    kinds = {cell.case: cell.kind for _, board in tables for cell in board.cells}
    pictures, said = thumbnails(run, names, cases, megabytes)
    return {
        "level": tables[0][0].how.level,
        "boards": [_board(table, board, index, against) for table, board in tables],
        "cases": [_case(name, kinds[name], cases.get(name)) for name in names],
        "pictures": pictures,
        "thumbnails": said,
        "failures": {
            board.task: {f"{index[cell.case]} {cell.row}": cell.failure for cell in board.cells if cell.failure}
            for _, board in tables
        },
    }


def _case(name: str, kind: str, case: EditCase | None) -> dict[str, Any]:
    told: dict[str, Any] = {"id": name, "kind": kind, "source": "", "target": "", "instruction": ""}
    if case is not None:
        told |= {"source": case.source_prompt, "target": case.target_prompt, "instruction": case.instruction or ""}
    return told


def _board(table: Table, board: Board, index: Mapping[str, int], against: bool) -> dict[str, Any]:
    filled = {head.name for head in filled_headings(table)}
    values: dict[str, dict[str, list[Any]]] = {}
    for cell in board.cells:
        if cell.key not in board.lines:
            continue
        row = values.setdefault(cell.row, {name: [None] * len(index) for name in sorted(filled)})
        for name in filled:
            row[name][index[cell.case]] = _number(board.value(cell, name))
    return {
        "task": table.task,
        "mode": table.mode,
        "headings": [_heading(head, head.name not in filled) for head in table.headings],
        "rows": {kind: [_row(row) for row in table.of(kind)] for kind in table.kinds},
        "notes": list(notes_of(table)),
        "values": values,
        "pairs": _pairs(table, board, sorted(values), sorted(filled)),
        "cases": sorted({index[cell.case] for cell in board.cells}),
        "published": _published(table) if against else None,
    }


def _pairs(
    table: Table, board: Board, rows: Sequence[str], columns: Sequence[str]
) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """Every two rows compared on the cases that both have: by type, column and the two names (the first in the
    alphabet first, joined by a line break) the mean difference, its interval, the share of wins, and n."""
    heads = [head for head in table.headings if head.name in columns]
    kinds = table.kinds if len(rows) <= BY_KIND else [kind for kind in table.kinds if kind == ALL]
    found: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for kind, head in product(kinds, heads):
        values = {row: values_of(board, row, head.name, kind) for row in rows}
        found.setdefault(kind, {})[head.name] = {
            f"{first}\n{second}": _compared(paired(values[first], values[second], head.direction, table.how))
            for first, second in combinations(rows, 2)
        }
    return found


def _compared(made: Paired) -> list[Any]:
    gap, wins = _figure(made.difference), made.wins
    return [gap["mean"], gap["low"], gap["high"], None if wins is None else round(wins, 4), gap["n"]]


def _heading(head: Heading, empty: bool) -> dict[str, Any]:
    names = ("name", "title", "group", "direction", "factor", "scale", "digits", "reason", "text", "full")
    return {name: getattr(head, name) for name in names} | {"empty": empty}


def _row(row: Row) -> dict[str, Any]:
    names = ("name", "cells", "failed", "unscored", "environment", "uses", "trivial")
    figures = {name: _figure(made) for name, made in row.figures.items()}
    return {name: getattr(row, name) for name in names} | {"figures": figures}


def _figure(made: Figure) -> dict[str, Any]:
    return {"mean": _number(made.mean), "low": _number(made.low), "high": _number(made.high), "n": made.n}


def _number(value: float | None) -> float | str | None:
    """Six digits: more than any column shows."""
    if value is None or math.isfinite(value):
        return None if value is None else float(f"{value:.6g}")
    return "inf" if value > 0 else "-inf"


def _published(table: Table) -> dict[str, Any] | None:
    try:
        made = against_published(table)
    except ReinvertError:  # another mode, or no row in common
        return None
    heads = {cell.head.name: _heading(cell.head, False) for cell in made.cells}
    rows: list[dict[str, Any]] = []
    for name in made.rows:
        cells = [
            {
                "printed": _number(cell.printed),
                "ours": _number(cell.ours.mean),
                "difference": _number(cell.difference),
                "within": cell.within,
            }
            for cell in made.cells
            if cell.row == name
        ]
        rows.append({"name": name, "cells": cells})
    source = f"{made.printed.title}, {made.printed.source}"
    told = {"columns": list(made.printed.columns), "heads": heads, "rows": rows, "source": source}
    return told | {"summary": made.summary, "warnings": list(made.warnings)}


# --- pictures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shot:
    """A picture of a case that the page shows."""

    case: str
    name: str
    path: Path | None = None

    def open(self, cases: Mapping[str, EditCase]) -> Picture | None:
        """The picture, None where there is none or it cannot be read."""
        try:
            if self.path is not None:
                return open_image(self.path)
            if self.name == "source":
                return cases[self.case].picture()
            mask = cases[self.case].mask()
            return None if mask is None else Image.fromarray(mask).convert("L")
        except (ReinvertError, OSError):
            return None


def thumbnails(
    run: Run, names: Sequence[str], cases: Mapping[str, EditCase], megabytes: int
) -> tuple[dict[str, dict[str, str]], str]:
    """Data URIs by the case's index and then by name (source, mask, or a row), and a sentence on what is left out.

    The largest of `SIDES` is taken with which all pictures fit, judged by the first of them; if none does, cases at
    the end go without.
    """
    limit = megabytes * 2**20
    shots = {name: list(_shots(run, name, cases)) for name in names}
    count = sum(len(found) for found in shots.values())
    sample = [shot for name in names[:: max(1, len(names) // 5)] for shot in shots[name]][:60]
    side = SIDES[-1]
    opened = [picture for shot in sample if (picture := shot.open(cases)) is not None]
    for tried in SIDES:
        used = sum(len(thumbnail(picture, tried)) for picture in opened)
        if opened and used / len(opened) * count <= limit:
            side = tried
            break
    made: dict[str, dict[str, str]] = {}
    spent = 0
    for index, name in enumerate(names):
        found = {shot.name: thumbnail(p, side) for shot in shots[name] if (p := shot.open(cases)) is not None}
        spent += sum(map(len, found.values()))
        if spent > limit:
            return made, f"Pictures of {index} of {len(names)} cases fit into {megabytes} MiB, at {side} pixels."
        made[str(index)] = found
    return made, f"Pictures are compressed, at most {side} pixels a side."


def _shots(run: Run, name: str, cases: Mapping[str, EditCase]) -> Iterator[_Shot]:
    if name in cases:
        yield _Shot(name, "source")
        yield _Shot(name, "mask")
    for cell in run.by_case.get(name, ()):
        if cell.picture is not None:
            yield _Shot(name, cell.row, cell.picture)


def thumbnail(picture: Picture, side: int) -> str:
    """A picture of at most `side` pixels as a WebP data URI; masks without loss."""
    shown = picture.copy()
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    stored = io.BytesIO()
    mask = shown.mode == "L"
    shown.convert("RGB").save(stored, format="WEBP", quality=QUALITY, lossless=mask, method=2)
    return f"data:image/webp;base64,{base64.b64encode(stored.getvalue()).decode()}"
