"""`reinvert instruct`: edit with a trained editor: follow an instruction, or redraw a mask, without inversion."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reinvert import recipes, registry
from reinvert.cli.common import add_max_pixels, check_model_options, output_path, tell
from reinvert.cli.progress import progress_bar, waiting
from reinvert.errors import ReinvertError
from reinvert.image import open_image, open_mask
from reinvert.outputs import PICTURE_SUFFIXES, check_outputs, device_name, file_record, provenance, write_picture
from reinvert.values import flag_of, kind_of, seed, text

if TYPE_CHECKING:
    from reinvert.trained.base import Trained

PREFIX = "trained:"
"""Of the settings' names in the namespace."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert instruct`; the settings are the fields of the trained editors."""
    parser.usage = 'reinvert instruct IMAGE "turn the cat into a dog" [--editor NAME] [options]'
    parser.add_argument("image", metavar="IMAGE", help="a picture")
    parser.add_argument(
        "text", type=text, metavar="TEXT", help="an instruction; for inpainting what the picture is to show"
    )
    names = registry.names("trained")
    parser.add_argument("--editor", choices=names, help="[instruct_pix2pix]")
    parser.add_argument("--recipe", metavar="NAME", help="a row of the comparison, or FILE.toml")
    parser.add_argument("--mask", metavar="FILE", help="for inpainting: redraw what is white in this picture")
    parser.add_argument("--seed", type=seed, metavar="N", help="of the noise [0]")
    add_max_pixels(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    parser.add_argument("--dtype", default="auto", help="auto, float64, float32, bfloat16 or float16 [auto]")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("-o", "--output", metavar="FILE", help="[IMAGE.edit.png here]")
    added = set[str]()
    for name in names:
        for argument in registry.schema("trained", name):
            if argument.name not in added:
                kind = kind_of(argument.type)
                parser.add_argument(
                    flag_of(argument.name), dest=PREFIX + argument.name, default=argparse.SUPPRESS, type=kind.read,
                    metavar=kind.metavar, help=argument.help.replace("%", "%%"),
                )  # fmt: skip
                added.add(argument.name)


def editor_of(args: argparse.Namespace) -> Trained:
    """The chosen editor with its recipe's settings and, above them, the typed ones."""
    given: dict[str, Any] = {}
    name = args.editor or "instruct_pix2pix"
    if args.recipe is not None:
        if args.editor is not None:
            raise ReinvertError("the recipe names the editor; leave --editor or --recipe out")
        recipe = recipes.find(args.recipe)
        if not recipe.trained:
            raise ReinvertError(f"recipe {recipe.name} is none of a trained editor; run it with `reinvert edit`")
        name, given = recipe.trained["name"], recipe.trained_arguments
        args.seed = recipe.seed if args.seed is None else args.seed
    if args.mask is None and registry.variable("trained", name, "needs_mask"):
        raise ReinvertError(f"{name} needs a mask (--mask)")
    typed = {key.removeprefix(PREFIX): value for key, value in vars(args).items() if key.startswith(PREFIX)}
    made: Trained = registry.make("trained", name, {**given, **typed})
    return made


def run(args: argparse.Namespace) -> int:
    check_model_options(args)
    path = Path(args.image)
    picture = open_image(path, max_pixels=args.max_pixels)
    mask = None if args.mask is None else open_mask(args.mask, max_pixels=args.max_pixels)
    editor = editor_of(args)
    output = output_path(args, f"{path.stem}.edit.png")
    check_outputs([output], [path, *([] if args.mask is None else [Path(args.mask)])], PICTURE_SUFFIXES)
    with waiting(f"loading {editor.model}", args.quiet):
        pipe = editor.load(args.device, args.dtype)
    with progress_bar(args.quiet) as watch:
        result = editor.edit(pipe, picture, args.text, mask=mask, seed=args.seed or 0, watch=watch)
    about = {
        "input": file_record(path),
        "mask": None if args.mask is None else file_record(Path(args.mask)),
        "settings": dict(result.settings),
        "device": device_name(pipe.device),
        "seconds": result.seconds,
        "forwards": result.forwards,
        **provenance(args.command_line),
    }
    write_picture(result.image, output, about)
    tell([output])
    return 0
