"""`reinvert edit`: edit a picture, or a trajectory, with words."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from reinvert import legal
from reinvert.cli import compare, many
from reinvert.cli.common import (
    Given,
    add_model_options,
    add_run_options,
    check_model_options,
    load_model,
    model_name,
    output_path,
    tell,
    usual_for,
)
from reinvert.cli.flags import Chosen, add_method_flags
from reinvert.cli.job import open_job, picture_of
from reinvert.cli.progress import progress_bar
from reinvert.cli.recipe import defaults_of
from reinvert.errors import ReinvertError
from reinvert.outputs import PICTURE_SUFFIXES, check_outputs, numbered, write_pictures
from reinvert.registry import Group
from reinvert.values import text

if TYPE_CHECKING:
    from reinvert.backbones import Backbone


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert edit`."""
    parser.usage = (
        "reinvert edit IMAGE --source TEXT --target TEXT [--target TEXT ...] [options]\n"
        "       reinvert edit IMAGE|FOLDER ... --source TEXT --target TEXT -o FOLDER [options]\n"
        "       reinvert edit --list FILE.csv -o FOLDER [options]"
    )
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="a picture, or a FILE.trajectory.safetensors (which needs no --source); or several, or a folder of them",
    )
    parser.add_argument(
        "--list", metavar="FILE", help="a CSV file with an edit in each line: image,source,target (see docs/files.md)"
    )
    add_run_options(parser)
    parser.add_argument(
        "--target", action="append", type=text, metavar="TEXT", help="what it is to show; may be repeated"
    )
    whose = usual_for(parser)
    parser.add_argument(
        "--inversion", metavar="NAME", help=f"see reinvert methods [the editor's usual, or {whose('inversion')}]"
    )
    parser.add_argument("--editor", metavar="NAME", help=f'or several, as in "p2p+proximal" [{whose("editor")}]')
    parser.add_argument(
        "--recipe", metavar="NAME", help="a row of the comparison, or FILE.toml; see reinvert methods --recipes"
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="auto or fast: the recipe found best for the kind of edit that the prompts ask"
    )
    parser.add_argument(
        "--blend",
        nargs=2,
        type=text,
        metavar=("WORD", "WORD"),
        help="change only where this word of the source and this word of the target look (local_blend)",
    )
    parser.add_argument("--mask", metavar="FILE", help="change only what is white in this picture")
    parser.add_argument("--region", type=text, metavar="WORDS", help='change only what these words name: "the cat"')
    parser.add_argument(
        "--region-model",
        metavar="NAME",
        help="who finds it: a folder or Hub id of a CLIPSeg",
    )
    parser.add_argument(
        "--paste-back",
        action="store_true",
        help="give the edit at the original's resolution, with the original's own pixels around it",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="NAME",
        help='one sheet of several methods: inversions, editors, or both as in "ddim+p2p"',
    )
    parser.add_argument("--explain", action="store_true", help="show which tokens keep whose attention, and stop")
    parser.add_argument("-o", "--output", metavar="FILE", help="[IMAGE.edit.png here]; of several pictures a folder")
    add_model_options(parser)
    add_method_flags(parser)


def run(args: argparse.Namespace) -> int:
    check_model_options(args)
    load = Loaded()
    if many.is_many(args):
        return many.run(args, lambda mine, asked: edit_one(mine, load, {"asked": asked}))
    if not args.images:
        raise ReinvertError("name the picture to edit: reinvert edit IMAGE --source TEXT --target TEXT")
    args.image = args.images[0]
    tell(edit_one(args, load))
    return 0


class Loaded:
    """The model, loaded when the first edit needs it and kept for the others."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, bool], Backbone] = {}

    def __call__(self, args: argparse.Namespace, given: Given, methods: Sequence[Any] = ()) -> Backbone:
        name, gradients = model_name(args, given), any(method.takes_gradients for method in methods)
        if (name, gradients) not in self._models:
            self._models.pop((name, not gradients), None)  # in another precision: room for this one
            self._models[name, gradients] = load_model(args, given, methods)
        return self._models[name, gradients]


def edit_one(args: argparse.Namespace, load: Loaded, more: Mapping[str, Any] | None = None) -> list[Path]:
    """Edit one picture or trajectory; the paths of what was written. `more` is added to the sidecars."""
    job = open_job(args, load)
    kind = "compare" if args.compare else "edit"
    output = output_path(args, f"{job.given.stem}.{kind}.png")
    outputs = [output] if args.compare else numbered(output, len(job.targets))
    inputs = [job.given.path, None if args.mask is None else Path(args.mask)]
    check_outputs(outputs if not args.explain else [], inputs, PICTURE_SUFFIXES)
    chosen = Chosen(args, None if job.recipe is None else defaults_of(job.recipe, args))
    # A trajectory's inversion is over: its flags would do nothing.
    groups: tuple[Group, ...] = ("editors",) if job.given.trajectory is not None else ("inversions", "editors")
    if args.compare:
        compare.run(job.with_region(), chosen, output)
        return [output]
    names = job.editor_names(job.editor)
    inverts = job.inversion_for(names, args.inversion)
    chosen.foresee(inversion=inverts, editors=names)
    if job.given.trajectory is None:
        legal.check_names(inverts, names, masked=job.masked, guidance=args.guidance)
    chosen.check(groups)
    from reinvert.backbones.loading import load_tokenizer
    from reinvert.cli import explain
    from reinvert.editors.base import check_words

    inversion, editors = job.methods(chosen, inverts, job.editor)
    chosen.check(groups)
    name = model_name(args, job.given)
    check_words(partial(load_tokenizer, name, tokenizer=args.tokenizer), job.given.source, job.targets, editors)
    if args.explain:
        explain.run(name, job.given, job.targets, editors, args.steps, args.any_words, args.tokenizer)
        return []
    job = job.with_region()
    model = load(args, job.given, editors if job.given.trajectory is not None else (inversion, *editors))
    with progress_bar(args.quiet) as watch:
        result = job.edit(model, job.given.image, inversion, editors, watch)
    about = job.about(result, model)
    made: list[tuple[Image.Image, Path, dict[str, Any]]] = []
    for index, path in enumerate(outputs):
        picture, region = picture_of(job, result, index)
        settings = {**about["settings"], "target": job.targets[index], "region": region}
        made.append((picture, path, {**about, "settings": settings, **(more or {})}))
    write_pictures(made)
    return outputs
