"""The published table beside ours: the difference cell by cell, and which cells are within tolerance.

A cell is within tolerance if our interval holds the printed value, or if our mean is within the column's relative
tolerance of it (both are in `published.toml`, beside the figures and their source). Figures of another network are
another column and are not compared.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reinvert.bench.report.table import ALL, Figure, Heading, Row, Table, heading
from reinvert.errors import ReinvertError


@dataclass(frozen=True)
class Published:
    """A printed table; values are unscaled, as the metrics give them."""

    title: str
    source: str
    data: str
    mode: str
    """The mode whose arithmetic the figures were made with."""
    model: str
    """The Hub id of the model that the rows were made with."""
    columns: tuple[str, ...]
    tolerance: Mapping[str, float]
    """Relative, by column."""
    rows: Mapping[str, Mapping[str, float]]
    """By the recipe that reproduces the row, then by column."""


@cache
def published() -> Published:
    """Table 1 of the Direct Inversion paper."""
    told = tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))
    columns = tuple(told["columns"])
    rows = {
        name: {column: float(value) / heading(column).scale for column, value in zip(columns, values, strict=True)}
        for name, values in told["rows"].items()
    }
    about = (told["title"], told["source"], told["data"], told["mode"], told["model"])
    return Published(*about, columns, {name: float(told["tolerance"][name]) for name in columns}, rows)


@dataclass(frozen=True)
class Elsewhere:
    """A row as a later paper printed it, with that paper's table; values are unscaled, as the metrics give them."""

    table: str
    source: str
    data: str
    backbone: str
    method: str
    recipe: str
    """The bundled recipe of the row, empty where there is none."""
    values: Mapping[str, float]

    @property
    def said(self) -> str:
        """`LayerVerse, 620 pictures: PSNR 21.92, ...`, in the units of the published table."""
        told = (f"{heading(column).said} {heading(column).shown(value)}" for column, value in self.values.items())
        return f"{self.table} ({self.data}), {self.backbone}, {self.method}: {', '.join(told)}"


@cache
def elsewhere() -> tuple[Elsewhere, ...]:
    """The flow methods' rows of every table that prints them: papers disagree on the same row, so all are here."""
    told = tomllib.loads((Path(__file__).parent / "published_flows.toml").read_text(encoding="utf-8"))
    return tuple(
        Elsewhere(
            table["key"],
            table["source"],
            table["data"],
            row["backbone"],
            row["method"],
            row["recipe"],
            {c: float(v) / heading(c).scale for c, v in zip(table["columns"], row["values"], strict=True)},
        )
        for table in told["tables"]
        for row in table["rows"]
    )


@dataclass(frozen=True)
class Beside:
    """One cell: the printed value, ours, and their difference (ours minus theirs); unscaled."""

    row: str
    head: Heading
    printed: float
    ours: Figure
    tolerance: float
    refused: str = ""
    """Why the two cannot be compared; empty where they can."""

    @property
    def difference(self) -> float | None:
        return None if self.ours.mean is None or self.refused else self.ours.mean - self.printed

    @property
    def in_interval(self) -> bool:
        low, high = self.ours.low, self.ours.high
        return low is not None and high is not None and low <= self.printed <= high

    @property
    def relative(self) -> float | None:
        """The difference as a share of the printed value."""
        return None if self.difference is None else self.difference / abs(self.printed)

    @property
    def within(self) -> bool | None:
        """Whether the cell is within tolerance; None where we have no value, or none that can be compared."""
        if self.relative is None:
            return None
        return self.in_interval or abs(self.relative) <= self.tolerance


@dataclass(frozen=True)
class Comparison:
    """All cells that both tables have, and what has to be known about comparing them."""

    cells: tuple[Beside, ...]
    warnings: tuple[str, ...]
    printed: Published

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def summary(self) -> str:
        """`5 of 7 cells are within tolerance, 1 has no value`."""
        judged = [cell.within for cell in self.cells if cell.within is not None]
        refused = sum(bool(cell.refused) for cell in self.cells)
        empty = len(self.cells) - len(judged) - refused
        told = f"{sum(judged)} of {len(judged)} cells are within tolerance"
        told = f"{told}, {empty} without a value" if empty else told
        return f"{told}, {refused} not compared" if refused else told


def against_published(table: Table) -> Comparison:
    """Put the published rows beside a table's.

    The published names of the rows are the recipes'. What makes the comparison less than like for like is in
    `warnings`: lossless results, a subset of the cases. The cells of a row that was made with another model are
    refused, each with its reason. Raises `ReinvertError` for a table of another mode or of other data, where no row is
    in common, and where no row can be compared.
    """
    printed = published()
    if table.mode != printed.mode:
        raise ReinvertError(
            f"the published figures are made in {printed.mode}: compare them with --mode {printed.mode}"
        )
    ours = {row.name: row for row in table.of(ALL)}
    shared = [name for name in printed.rows if name in ours]
    if table.task != "edit" or not shared:
        raise ReinvertError(
            f"this run has no row of the published table; its rows are {', '.join(printed.rows)}: run one of them"
        )
    name = printed.data.partition(",")[0]
    if table.data != name:
        raise ReinvertError(
            f"the published figures are over {printed.data}, and this run is on {table.data or 'data without a name'}: "
            "they are not compared; leave --against out"
        )
    refused = {row: _other_model(ours[row], printed) for row in shared}
    if all(refused.values()):
        raise ReinvertError(f"{next(iter(refused.values()))}; leave --against out")
    heads = {head.name: head for head in table.headings}
    nothing = Figure(None, None, None, 0)
    cells = tuple(
        Beside(
            name,
            heads.get(column) or heading(column),
            printed.rows[name][column],
            ours[name].figures.get(column, nothing),
            printed.tolerance[column],
            refused[name],
        )
        for name in shared
        for column in printed.columns
    )
    warnings = [why for why in dict.fromkeys(refused.values()) if why]
    warnings += _warnings(table, printed, max(ours[name].cells for name in shared))
    return Comparison(cells, tuple(warnings), printed)


def _other_model(row: Row, printed: Published) -> str:
    """Why a row's model is not the published one's; empty if it is (of a folder only its name is known)."""
    theirs = {printed.model, printed.model.rpartition("/")[2]}
    if row.models and theirs.issuperset(row.models):
        return ""
    made = " and ".join(row.models) or "a model that is not named"
    return f"{row.name} was made with {made}, and the published row with {printed.model}: they are not compared"


def _warnings(table: Table, printed: Published, cases: int) -> list[str]:
    told: list[str] = []
    if not table.setup.get("jpeg75"):
        told.append("the published results were saved as JPEG of quality 75; score with --jpeg75 to do the same")
    if cases != 700:
        told.append(f"the published means are over {printed.data}, these over {cases} cases")
    named = [head.name for head in table.headings if "[" in head.name]
    if named:
        told.append(f"columns of other networks are not compared: {', '.join(named)}")
    changed = [row.name for row in table.of() if row.name in printed.rows and "overrides (" in row.environment]
    if changed:
        told.append(f"the run changed the recipes' own settings or model: {', '.join(changed)}")
    return told
