"""A trajectory: `NAME.trajectory.safetensors`, the inversion of one or several pictures.

A safetensors file of the tensors `path` [level, case, channel, h, w], perhaps `null` [step or 1, case, token, dim] and
what else its inversion needs again (`kept.NAME` [step, case, ...]); the header's values are JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Le, Len, MaxLen

from reinvert.files.door import MIB, Entry, Line, Name, OpenEntry, Prose, Says, Seed, Share, check, parse_json, refusal

FORMAT: Final = "reinvert-trajectory-1"
SUFFIX: Final = ".trajectory.safetensors"
PLAIN: Final = ("format", "steps", "inversion", "schedule")
"""Header values that are no JSON."""
LARGEST: Final = 16 * MIB
"""Bytes of a header."""

Side = Annotated[int, Ge(1), Le(65_535)]
Corner = Annotated[int, Ge(0), Le(65_535)]
Time = Annotated[float, Ge(-1), Le(1_000_000)]
Guidance = Annotated[float, Ge(-1000), Le(1000)]


class ModelMark(Entry):
    """What tells two models apart."""

    config: Annotated[str, Len(1, 100)]
    """A hash of the networks' shapes."""
    probe: Annotated[list[float], MaxLen(1000)]
    """Mean magnitudes of some weights."""


class Pull(Entry):
    """How the source is held on its path."""

    strength: Share
    """Of the correction."""
    every: Annotated[int, Ge(1), Le(1_000_000)]
    """Only every so many-th step is corrected."""
    carry: Literal["none", "source", "target"]
    """What the targets share of it."""


class FitEntry(Entry):
    """How a picture was fitted to the model (`reinvert.image.Fit`)."""

    mode: Literal["crop", "pad", "keep"]
    """Whether it was cropped, padded or kept."""
    source_size: Annotated[list[Side], Len(2, 2)]
    """Its own width and height."""
    box: Annotated[list[Corner], Len(4, 4)]
    """Left, top, right and bottom of the part that was taken."""
    size: Annotated[list[Side], Len(2, 2)]
    """Width and height that the model is given."""
    inner: Annotated[list[Corner], Len(4, 4)]
    """Where in them the part lies."""


class Info(OpenEntry):
    """What is told about it and decides nothing but how a mask is fitted."""

    model: Line = ""
    """The name of the model that made it."""
    seed: Seed | None = None
    """Of the noise."""
    fits: Annotated[list[FitEntry], Len(1, 10_000)] | None = None
    """One for each picture."""


class TrajectoryHeader(OpenEntry):
    """The header's values, read as JSON."""

    format: Literal["reinvert-trajectory-1"]
    """This format."""
    prompts: Annotated[list[Prose], Len(1, 10_000)]
    """What each picture shows."""
    steps: Annotated[int, Ge(1), Le(100_000)]
    """Of the whole grid."""
    inversion: Name
    """The inversion's name."""
    settings: Annotated[dict[str, Any], Says("a table of the inversion's arguments")]
    """The inversion's arguments."""
    schedule: Annotated[str, MaxLen(200_000)]
    """The model's noise schedule."""
    model: ModelMark
    """Which model made it."""
    null_for_targets: bool
    """Whether the targets have the null side of the tensor `null` too."""
    pulled: Pull | None
    """How the source is held on its path."""
    guidance: Guidance | None
    """The scale that it was fitted to, if any."""
    source_guidance: Guidance | None
    """The source's own scale, where it differs from the targets'."""
    info: Info
    """What is told about it."""
    times: Annotated[list[Time], MaxLen(100_001)]
    """The times that are walked, from noise to clean; empty for the model's whole grid."""


def read_header(stored: Mapping[str, str], name: str) -> tuple[TrajectoryHeader, dict[str, Any]]:
    """A file's header as it is described, and its plain values."""
    if sum(map(len, stored.values())) > LARGEST:
        raise refusal(f"{name} has a header of more than {LARGEST:,} bytes")
    values: dict[str, Any] = {
        key: value if key in PLAIN else parse_json(value, f"{key} of {name}")
        for key, value in stored.items()
        if key in TrajectoryHeader.model_fields
    }
    steps = str(values.get("steps", ""))
    if steps.isascii() and steps.isdigit() and len(steps) < 10:
        values["steps"] = int(steps)
    header = check(TrajectoryHeader, values, name)
    if header.info.fits is not None and len(header.info.fits) != len(header.prompts):
        raise refusal(f"{name} tells of {len(header.info.fits)} pictures, but has {len(header.prompts)} prompts")
    for fit in header.info.fits or []:
        if not (_lies(fit.box, fit.source_size) and _lies(fit.inner, fit.size)):
            raise refusal(f"{name} fits a part of its picture that lies outside of it")
    return header, values


def _lies(box: list[int], size: list[int]) -> bool:
    """Whether a box (left, top, right, bottom) holds something and lies inside of a size."""
    left, top, right, bottom = box
    return left < right <= size[0] and top < bottom <= size[1]


__all__ = ["FORMAT", "TrajectoryHeader", "read_header"]
