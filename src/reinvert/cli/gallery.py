"""`reinvert gallery`: every method on every type of edit of the drawn world, on one sheet."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from PIL import Image

from reinvert import registry
from reinvert.cli.common import add_model_options, check_model_options, load_model, tell
from reinvert.cli.progress import progress_bar
from reinvert.errors import ReinvertError, meant
from reinvert.files import shown
from reinvert.image import contact_sheet, open_image
from reinvert.legal import usual_inversion
from reinvert.outputs import PICTURE_SUFFIXES, check_outputs, device_name, provenance, read_sidecar, write_picture
from reinvert.picturebook.edits import EDIT_TYPES, Edit, sample_edit
from reinvert.values import number, positive, seed, steps

if TYPE_CHECKING:
    from reinvert import verbs
    from reinvert.backbones import Backbone

OF_THE_WORLD: dict[str, dict[str, Any]] = {"pnp": {"negative": ""}}
"""Arguments for the drawn world, whose model has never heard the words of the default."""


@dataclass(frozen=True)
class Row:
    """One method as it is usually run: an inversion and the editors that go with it."""

    method: str
    inversion: str
    editor: str

    @property
    def title(self) -> str:
        return f"{self.inversion}\n{self.editor}".replace("_", " ").replace("+", " + ")


def rows(methods: Sequence[str] = (), editor: str = "p2p") -> tuple[Row, ...]:
    """A row per inversion (with `editor`) and per editor (with its usual inversion), or only those named."""
    made: list[Row] = []
    for name in registry.names("inversions"):
        if registry.variable("inversions", name, "finds_noise"):
            made.append(Row(name, name, editor))
    for name in registry.names("editors"):
        if name not in (editor, "local_blend"):
            together = (*registry.variable("editors", name, "usual_with"), name)
            made.append(Row(name, usual_inversion([name]), "+".join(together)))
    known = [row.method for row in made]
    for name in methods:
        if name not in known:
            hint = meant(name, known, f"it has {', '.join(known)}", 2)
            raise ReinvertError(f"the gallery has no method '{shown(name)}'; {hint}")
    return tuple(row for row in made if not methods or row.method in methods)


def runnable(model: Backbone, methods: Sequence[str] = ()) -> tuple[Row, ...]:
    """The rows that a model can run; one that was named and cannot be run is refused.

    Its inversions stand with the target prompt alone where it does not have the attention that Prompt-to-Prompt needs.
    """
    from reinvert import pairs

    def why_not(row: Row) -> str | None:
        editors = [registry.make("editors", name) for name in row.editor.split("+")]
        return pairs.why_not(registry.make("inversions", row.inversion), editors, model=model)

    editor = "p2p" if registry.make("editors", "p2p").lacks(model) is None else "prompt"
    found = {row: why_not(row) for row in rows(methods, editor)}
    for reason in found.values():
        if methods and reason is not None:
            raise ReinvertError(reason)
    return tuple(row for row, reason in found.items() if reason is None)


def edits_of(seed: int) -> list[Edit]:
    """One edit of every type, in the order of their numbers, except that mixtures (0) come last."""
    return [sample_edit(Random(seed + i), i) for i in (*range(1, len(EDIT_TYPES)), 0)]


def made(
    model: Backbone, row: Row, edit: Edit, *, steps: int, guidance: float, watch: verbs.Watch | None = None
) -> verbs.Result:
    """One cell: the edit as that method does it, with the true mask only where the method needs one."""
    editors = row.editor.split("+")
    needs_mask = any(registry.variable("editors", name, "needs_mask") for name in editors)
    worded = bool(edit.source_words or edit.target_words) and "p2p" in editors
    arguments: dict[str, Any] = {"mask": Image.fromarray(edit.truth(model.image_size)[1])} if needs_mask else {}
    for name in editors:
        arguments |= OF_THE_WORLD.get(name, {})
    if worded:
        arguments["blend"] = (",".join(edit.source_words), ",".join(edit.target_words))
    from reinvert import verbs

    found: verbs.Result = verbs.edit(
        model,
        edit.picture(model.image_size),
        source=edit.source_prompt,
        target=edit.target_prompt,
        inversion=row.inversion,
        editor=row.editor,
        steps=steps,
        guidance=guidance,
        watch=watch,
        **arguments,
    )
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert gallery`."""
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="only these rows [all]")
    parser.add_argument("--steps", type=steps, default=25, metavar="N", help="sampling steps [25]")
    parser.add_argument("--guidance", type=number, metavar="X", help="guidance scale [the model's usual]")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="which edits [0]")
    parser.add_argument("--cell", type=positive, default=128, metavar="PIXELS", help="side of a picture [128]")
    parser.add_argument("--cells", metavar="FOLDER", help="keep every picture there, and take those that are there")
    parser.add_argument("-o", "--output", metavar="FILE", default="gallery.png", help="[gallery.png]")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    check_model_options(args)
    output = Path(args.output)
    check_outputs([output], [], PICTURE_SUFFIXES)
    wanted, edits = rows(args.methods), edits_of(args.seed)
    if args.cells is not None and Path(args.cells).is_dir():
        cells = [_cell_path(args.cells, row, index) for row in wanted for index in range(len(edits))]
        check_outputs(cells, [], PICTURE_SUFFIXES)
    from reinvert import verbs

    model = load_model(args)
    wanted = runnable(model, args.methods)
    args.guidance = verbs.usual(model, args.steps, args.guidance)[1]
    sheet: list[list[Image.Image | None]] = [
        [edit.picture(model.image_size) for edit in edits],
        [edit.truth(model.image_size)[0] for edit in edits],
    ]
    told: list[dict[str, Any]] = []
    about = {"device": device_name(model.device), **provenance(args.command_line)}
    with progress_bar(args.quiet) as watch:
        for row in wanted:
            cells = [_cell(model, row, index, edit, args, about, watch) for index, edit in enumerate(edits)]
            sheet.append([picture for picture, _ in cells])
            told.append({"method": row.method, "cells": [record for _, record in cells]})
    picture = contact_sheet(
        sheet,
        column_titles=[f"{edit.type_name.replace('_', ' ')}: {_short(edit)}" for edit in edits],
        row_titles=["source", "true edit", *(row.title for row in wanted)],
        cell=args.cell,
    )
    prompts = [{"source": edit.source_prompt, "target": edit.target_prompt} for edit in edits]
    write_picture(picture, output, {"edits": prompts, "rows": told, **about})
    tell([output])
    return 0


def _cell(
    model: Backbone,
    row: Row,
    index: int,
    edit: Edit,
    args: argparse.Namespace,
    about: Mapping[str, Any],
    watch: verbs.Watch,
) -> tuple[Image.Image, dict[str, Any]]:
    """One picture with what it cost; read back where it was kept under the same settings."""
    asked = {"row": row.title, "prompts": [edit.source_prompt, edit.target_prompt], "model": model.name}
    asked |= {"steps": args.steps, "guidance": args.guidance}
    path = None if args.cells is None else _cell_path(args.cells, row, index)
    if path is not None and path.is_file():
        record = read_sidecar(path) or {}
        if record.get("asked") == asked:
            return open_image(path), {name: record[name] for name in ("settings", "forwards", "seconds")}
    result = made(model, row, edit, steps=args.steps, guidance=args.guidance, watch=watch)
    spent = {"settings": result.settings, "forwards": result.forwards, "seconds": result.seconds}
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(result.image, path, {"asked": asked, **spent, **about})
    return result.image, spent


def _cell_path(folder: str, row: Row, index: int) -> Path:
    return Path(folder) / f"{row.method}-{index}.png"


def _short(edit: Edit) -> str:
    """What is asked, without the words that both prompts share at either end."""
    before, after = edit.source_prompt.split(), edit.target_prompt.split()
    while before and after and before[0] == after[0]:
        before, after = before[1:], after[1:]
    while before and after and before[-1] == after[-1]:
        before, after = before[:-1], after[:-1]
    return f"{' '.join(before)} -> {' '.join(after)}".strip()
