"""`reinvert edit --compare A B C`: one contact sheet of several inversions or editors on one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from reinvert import legal, registry
from reinvert.cli.common import load_model, model_name
from reinvert.cli.flags import Chosen
from reinvert.cli.progress import progress_bar
from reinvert.errors import ReinvertError, meant
from reinvert.files import shown
from reinvert.image import contact_sheet
from reinvert.outputs import provenance, write_picture
from reinvert.registry import Group

if TYPE_CHECKING:  # they import torch
    from reinvert import verbs
    from reinvert.cli.job import Job
    from reinvert.editors.base import Editor
    from reinvert.inversions.base import Inversion
    from reinvert.trajectory import Trajectory


@dataclass(frozen=True)
class Column:
    """One method combination of the sheet."""

    name: str
    inversion: Inversion
    editors: tuple[Editor, ...]


def parts_of(job: Job) -> list[tuple[str, str, str]]:
    """(name, inversion, editors) of each column; the part that a name leaves out is the command's own."""
    inversions, editors = registry.names("inversions"), registry.names("editors")
    found: list[tuple[str, str, str]] = []
    for name in job.args.compare:
        parts = [part.strip() for part in name.split("+")]
        for part in parts:
            if part not in (*inversions, *editors):
                hint = meant(part, (*inversions, *editors), "`reinvert methods` lists them", 2)
                raise ReinvertError(f"there is no method '{shown(part)}' to compare; {hint}")
        inverts = [part for part in parts if part in inversions]
        edits = [part for part in parts if part not in inversions]
        if len(inverts) > 1:
            raise ReinvertError(f"'{shown(name)}' names two inversions; an edit has one")
        if inverts and job.given.trajectory is not None:
            raise ReinvertError("a trajectory has been inverted already; compare editors, or give the picture itself")
        editor = "+".join(edits) or job.editor
        named = inverts[0] if inverts else job.args.inversion
        found.append((name, job.inversion_for(job.editor_names(editor), named), editor))
    return found


def columns(job: Job, chosen: Chosen) -> list[Column]:
    """What each name stands for: an inversion, editors, or both."""
    groups: tuple[Group, ...] = ("editors",) if job.given.trajectory is not None else ("inversions", "editors")
    parts = parts_of(job)
    for _, inversion, editor in parts:
        names = job.editor_names(editor)
        chosen.foresee(inversion=inversion, editors=names)
        if job.given.trajectory is None:
            legal.check_names(inversion, names, masked=job.masked, guidance=job.args.guidance)
    chosen.check(groups)
    made = [Column(name, *job.methods(chosen, inversion, editor)) for name, inversion, editor in parts]
    chosen.check(groups)
    return made


def run(job: Job, chosen: Chosen, output: Path) -> None:
    """Rows: the reconstruction, then one per target. An inversion that several columns share is run once."""
    compared, args = columns(job, chosen), job.args
    from reinvert import verbs
    from reinvert.backbones.loading import load_tokenizer
    from reinvert.editors.base import check_words

    name = model_name(args, job.given)
    for column in compared:
        check_words(
            lambda: load_tokenizer(name, tokenizer=args.tokenizer), job.given.source, job.targets, column.editors
        )
    given = job.given.trajectory is not None
    used = [m for column in compared for m in (*([] if given else [column.inversion]), *column.editors)]
    model = load_model(args, job.given, used)
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
                    **job.given.options(args, model),
                    watch=watch,
                )
                spent = model.tally.since(before)
                inverted.append({"inversion": column.inversion.name, **vars(spent)})
            results.append(job.edit(model, trajectories[key], column.inversion, column.editors, watch))
    sheet = _sheet(job, compared, results)
    runs = [{"name": c.name, **job.about(r, model)} for c, r in zip(compared, results, strict=True)]
    shared = {"input", "mask", "device", *provenance(args.command_line)}
    about = {k: v for k, v in job.about(results[0], model).items() if k in shared}
    own = [{k: v for k, v in r.items() if k not in shared} for r in runs]
    write_picture(sheet, output, {**about, "inversions": inverted, "compared": own})


def _sheet(job: Job, compared: list[Column], results: list[verbs.Result]) -> Image.Image:
    source = job.given.picture
    rows: list[list[Image.Image | None]] = [[source, *(r.reconstruction for r in results)]]
    rows += [[None, *(r.images[i] for r in results)] for i in range(len(job.targets))]
    return contact_sheet(
        rows,
        column_titles=["source", *(column.name for column in compared)],
        row_titles=["reconstruction", *job.targets],
    )
