"""`reinvert edit --compare A B C`: one contact sheet of several inversions or editors on one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from reinvert import registry, verbs
from reinvert.cli.common import load_model, model_name, tell
from reinvert.cli.explain import check_words
from reinvert.cli.flags import Chosen
from reinvert.cli.output import provenance, write_picture
from reinvert.cli.progress import progress_bar
from reinvert.editors.base import Editor
from reinvert.errors import ReinvertError
from reinvert.image import contact_sheet
from reinvert.inversions.base import Inversion
from reinvert.trajectory import Trajectory

if TYPE_CHECKING:
    from reinvert.cli.edit import Job


@dataclass(frozen=True)
class Column:
    """One method combination of the sheet."""

    name: str
    inversion: Inversion
    editors: tuple[Editor, ...]


def columns(job: Job, chosen: Chosen) -> list[Column]:
    """What each name stands for: an inversion, editors, or both; the part it does not name is the command's own."""
    inversions, editors = registry.names("inversions"), registry.names("editors")
    made: list[Column] = []
    for name in job.args.compare:
        parts = [part.strip() for part in name.split("+")]
        for part in parts:
            if part not in (*inversions, *editors):
                raise ReinvertError(
                    f"there is no method {part!r} to compare; the inversions are {', '.join(inversions)}, "
                    f"the editors {', '.join(editors)}"
                )
        inverts = [part for part in parts if part in inversions]
        edits = [part for part in parts if part not in inversions]
        if len(inverts) > 1:
            raise ReinvertError(f"{name!r} names two inversions; an edit has one")
        if inverts and job.given.trajectory is not None:
            raise ReinvertError("a trajectory has been inverted already; compare editors, or give the picture itself")
        inversion = inverts[0] if inverts else job.args.inversion
        made.append(Column(name, *job.methods(chosen, inversion, "+".join(edits) or job.args.editor or "p2p")))
    chosen.check(("editors",) if job.given.trajectory is not None else ("inversions", "editors"))
    return made


def run(job: Job, chosen: Chosen, output: Path) -> int:
    """Rows: the reconstruction, then one per target. An inversion that several columns share is run once."""
    compared, args = columns(job, chosen), job.args
    name = model_name(args, job.given)
    for column in compared:
        check_words(name, job.given.source, job.targets, column.editors)
    model = load_model(args, job.given)
    results: list[verbs.Result] = []
    trajectories: dict[str, Trajectory] = {}
    inverted: list[dict[str, Any]] = []
    with progress_bar(args.quiet) as watch:
        for column in compared:
            key = repr(column.inversion)
            if job.given.trajectory is not None:
                trajectories[key] = job.given.trajectory
            elif key not in trajectories:
                before = model.tally.copy()
                trajectories[key] = verbs.invert(
                    model,
                    job.given.image,
                    job.given.source,
                    inversion=column.inversion,
                    steps=verbs.DEFAULT_STEPS if args.steps is None else args.steps,
                    guidance=job.given.guidance(args.guidance),
                    seed=args.seed,
                    fit=args.fit or "crop",
                    watch=watch,
                )
                spent = model.tally.since(before)
                inverted.append({"inversion": column.inversion.name, **vars(spent)})
            results.append(job.edit(model, trajectories[key], column.inversion, column.editors, watch))
    sheet = _sheet(job, compared, results)
    runs = [{"name": c.name, **job.about(r, model)} for c, r in zip(compared, results, strict=True)]
    shared = {"input", "mask", "device", *provenance(args)}
    about = {k: v for k, v in job.about(results[0], model).items() if k in shared}
    own = [{k: v for k, v in r.items() if k not in shared} for r in runs]
    write_picture(sheet, output, {**about, "inversions": inverted, "compared": own})
    tell([output])
    return 0


def _sheet(job: Job, compared: list[Column], results: list[verbs.Result]) -> Image.Image:
    source = job.given.picture
    rows: list[list[Image.Image | None]] = [[source, *(r.reconstruction for r in results)]]
    rows += [[None, *(r.images[i] for r in results)] for i in range(len(job.targets))]
    return contact_sheet(
        rows,
        column_titles=["source", *(column.name for column in compared)],
        row_titles=["reconstruction", *job.targets],
    )
