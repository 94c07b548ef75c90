"""A run's folder: `run.json`, a line of `records.jsonl`, and a line of `scores-MODE.jsonl`."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

from annotated_types import Ge, Le, Len, MaxLen
from pydantic import Field

from reinvert.files.door import (
    Entry,
    Inside,
    Line,
    Name,
    OpenEntry,
    Prose,
    Says,
    check,
    linked_inside,
    parse_json,
    refusal,
    shown,
)

LONGEST_LINE: Final = 2**20
"""Bytes of a record or of a line of scores."""

Task = Literal["edit", "reconstruct"]
Number = Annotated[float, Ge(0), Le(1e18)]
Cost = Annotated[Number | Literal["inf", "-inf", "nan"], Says("a number from 0, inf, -inf or nan")]
Table = Annotated[dict[str, Any], Says("a table")]
Texts = Annotated[dict[Line, Prose], Says("a table of texts")]
Score = Annotated[float | Literal["inf", "-inf", "nan"] | None, Says("a number, inf, -inf, nan or null")]


class AboutFile(OpenEntry):
    """`run.json`: what a run is made of."""

    data: Line = ""
    """As `--data` takes it."""
    name: Line = ""
    """What the data is called, wherever it lies."""
    dtype: Line = ""
    """The type that the network computes in."""
    code: Line = ""
    """The version of the code that began the run."""
    plain: Line = ""
    """The model of the trivial rows."""
    models: dict[Line, Line] = Field(default_factory=dict)
    """A hash of the weights of each model."""
    cells: dict[Task, dict[Name, Annotated[int, Ge(0), Le(10**9)]]] = Field(default_factory=dict)
    """How many cells each row has, by task."""


class RecordSettings(OpenEntry):
    """What of a record's settings a report reads."""

    model: Line | None = None
    """The row's model."""


class RecordEnvironment(OpenEntry):
    """What of a record's environment is read."""

    weights: Line | None = None
    """A hash of the model's weights."""
    device: Line | None = None
    """What it was computed on."""
    machine: Line | None = None
    """The processor and its threads, where they decide the bits."""
    dtype: Line | None = None
    """The type that the network computed in."""
    versions: Annotated[dict[Line, Line | None] | None, Says("a table of texts")] = None
    """The libraries' versions."""


class RecordLine(OpenEntry):
    """A line of `records.jsonl`: one row's result on one case, or why there is none."""

    key: Line
    """The cell's key: a hash of all that decides its result."""
    case: Annotated[Line, Len(1, 500)]
    """The case's id."""
    recipe: Name
    """The row's name."""
    task: Task
    """What was done."""
    type: Line = ""
    """The type of the edit."""
    settings: RecordSettings = RecordSettings()
    """All that decides the row's results."""
    fingerprint: Line = ""
    """A hash of the case."""
    image: Inside | Literal[""] | None = None
    """The picture's path in the run's folder; null where there is none."""
    error: Annotated[str, MaxLen(20_000)] | None = ""
    """Why there is none."""
    seconds: Cost | None = None
    """Per case."""
    inversion_seconds: Cost | None = None
    """The inversion's part."""
    forwards: Cost | None = None
    """Forwards of the network for one picture."""
    backwards: Cost | None = None
    """The same for its gradients."""
    memory: Cost | None = None
    """Peak memory in bytes."""
    attempts: Annotated[int, Ge(1), Le(10**6)] = 1
    """How often it was tried."""
    batch: Annotated[int, Ge(1), Le(10**6)] = 1
    """How many cases were computed together."""
    together: Annotated[list[Annotated[Line, Len(1, 500)]], MaxLen(10_000)] = Field(default_factory=list)
    """Their ids, in order."""
    mask_used: bool = False
    """Whether the method was given the true mask."""
    blend_used: bool = False
    """Whether it was given the blend words."""
    overrides: Table = Field(default_factory=dict)
    """What was asked for in place of the recipe's own settings."""
    environment: RecordEnvironment = RecordEnvironment()
    """Weights, device, versions."""
    finished: Annotated[str, MaxLen(100)] = ""
    """When, in UTC."""


class SetupTable(OpenEntry):
    """How a score was made."""

    mode: Literal["strict", "compat"]
    """The arithmetic."""
    jpeg75: bool = False
    """Whether results went through JPEG of quality 75 first."""
    size: Annotated[int, Ge(16), Le(65_536)] | None = None
    """The side in pixels that larger results were brought down to; left out in files of before 0.2."""
    libraries: Table = Field(default_factory=dict)
    """Where versions of the evaluator's libraries differ."""
    networks: Texts = Field(default_factory=dict)
    """Names and digests of the networks, or why there is none."""
    columns: Annotated[list[Line], MaxLen(10_000)] = Field(default_factory=list)
    """The columns asked for."""
    version: Line = ""
    """Of the code that scores."""


class ScoreLine(OpenEntry):
    """A line of `scores-MODE.jsonl`: a set-up (`about`), or one record's values in one."""

    key: Line
    """The record's key; empty for a set-up."""
    setup: Line
    """The set-up's key."""
    about: SetupTable | None = None
    """The set-up."""
    values: Annotated[dict[Line, Score] | None, Says("a table of numbers")] = None
    """By column."""
    reasons: Texts = Field(default_factory=dict)
    """Why a column has no value."""


class FindingEntry(Entry):
    """Something that is not as a run says."""

    what: Literal["picture", "record", "score"]
    """What is not."""
    row: Name
    """The row."""
    case: Annotated[Line, Len(1, 500)]
    """The case's id."""
    why: Annotated[Prose, MaxLen(20_000)]
    """What is wrong with it."""


class VerdictFile(Entry):
    """`verification.json`: what `reinvert bench verify` found."""

    when: Annotated[Line, MaxLen(100)]
    """When, in UTC."""
    code: Line
    """The version that verified."""
    where: Line
    """Device and machine."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)]
    """Of the sample."""
    cells: Annotated[int, Ge(0), Le(10**9)]
    """How many cells the run has."""
    rendered: Annotated[int, Ge(0), Le(10**9)] = 0
    """How many of them were rendered again."""
    same: Annotated[int, Ge(0), Le(10**9)] = 0
    """How many gave the same bits."""
    near: Annotated[int, Ge(0), Le(10**9)] = 0
    """How many differ within the tolerance."""
    worst: float | None = None
    """The least PSNR of these."""
    scored: Annotated[int, Ge(0), Le(10**9)] = 0
    """How many lines of scores were computed again."""
    findings: Annotated[list[FindingEntry], MaxLen(10**6)] = Field(default_factory=list)
    """What is not as the run says."""
    skipped: Annotated[list[Prose], MaxLen(10_000)] = Field(default_factory=list)
    """What could not be verified, and why."""
    contents: Texts = Field(default_factory=dict)
    """Hashes of what was verified."""


def read_line(kind: type[Entry], line: bytes, name: str) -> dict[str, Any] | None:
    """The values of one line of a file of lines, or None for a line that was torn by a kill.

    A part of a JSON object is never valid JSON, so that a torn line cannot be mistaken. Raises `ReinvertError` for a
    whole line that is not as `kind` describes it.
    """
    if len(line) > LONGEST_LINE:
        raise refusal(f"{name} has a line of {len(line):,} bytes; at most {LONGEST_LINE:,} are read")
    with suppress(RecursionError):  # which `parse_json` puts into words
        try:
            json.loads(line)
        except ValueError:
            return None
    value = parse_json(line, name)
    check(kind, value, name)
    return cast("dict[str, Any]", value)


def own_file(path: Path) -> bool:
    """Whether a run's folder has this file of its own. Raises `ReinvertError` for a link to outside of the folder."""
    if not path.is_file():
        return False
    if not linked_inside(path.parent, path):
        raise refusal(f"{shown(path)} is a link to outside of the folder", "copy the file into it")
    return True


def inside_run(folder: Path, image: str) -> Path:
    """The path of a picture that a record names, there or not; links are followed, and may not lead out."""
    path = folder / image
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # links in a ring
        raise refusal(f"a record's picture {shown(image)} is no name of a file") from error
    if not within:
        raise refusal(f"a record's picture {shown(image)} lies outside of the folder {shown(folder)}")
    return path


__all__ = ["AboutFile", "RecordLine", "ScoreLine", "VerdictFile", "inside_run", "own_file", "read_line"]
