"""`reinvert reconstruct`: invert and render again without an edit, and say what was lost on the way."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from PIL import Image

from reinvert.cli.common import (
    Given,
    add_inversion,
    add_model_options,
    add_run_options,
    check_model_options,
    load_model,
    open_given,
    output_path,
    round_trip,
    tell,
    usual_inversion_of,
)
from reinvert.cli.flags import Chosen, add_method_flags
from reinvert.cli.progress import progress_bar
from reinvert.cli.terminal import say
from reinvert.differences import psnr
from reinvert.image import to_image
from reinvert.outputs import PICTURE_SUFFIXES, check_outputs, device_name, memory_record, provenance, write_picture

if TYPE_CHECKING:
    from reinvert import verbs
    from reinvert.backbones import Backbone


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert reconstruct`."""
    parser.usage = "reinvert reconstruct IMAGE --source TEXT [-o OUT.png] [options]"
    parser.add_argument("image", metavar="IMAGE", help="a picture, or a FILE.trajectory.safetensors")
    add_run_options(parser)
    add_inversion(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="[IMAGE.reconstruction.png here]")
    add_model_options(parser)
    add_method_flags(parser, ("inversions",))


def run(args: argparse.Namespace) -> int:
    check_model_options(args)
    given = open_given(args)
    output = output_path(args, f"{given.stem}.reconstruction.png")
    check_outputs([output], [given.path], PICTURE_SUFFIXES)
    chosen = Chosen(args)
    inverts = args.inversion or usual_inversion_of(args, given)
    chosen.values("inversions", inverts)
    chosen.check(() if given.trajectory is not None else ("inversions",))
    from reinvert import verbs

    inversion = chosen.make("inversions", inverts)
    model = load_model(args, given, [inversion] if given.trajectory is None else [])
    fresh = given.trajectory is None
    with progress_bar(args.quiet) as watch:
        result: verbs.Result = verbs.reconstruct(
            model,
            given.image,
            given.source if fresh else None,
            inversion=inversion,
            **given.options(args, model),
            watch=watch,
        )
    told = {name: psnr(result.image, other) for name, other in _references(model, given, args).items()}
    about = {
        "input": given.record(),
        "settings": {**result.settings, "fit": args.fit or "crop"},
        "psnr": told,
        "device": device_name(model.device),
        **memory_record(model.device),
        "seconds": result.seconds,
        "forwards": result.forwards,
        "backwards": result.backwards,
        **provenance(args.command_line),
    }
    write_picture(result.image, output, about)
    tell([output])
    for name, value in told.items():
        say(f"PSNR to {name:22}{'identical' if math.isinf(value) else f'{value:6.2f} dB'}")
    return 0


def _references(model: Backbone, given: Given, args: argparse.Namespace) -> dict[str, Image.Image]:
    """What a reconstruction is held against. A trajectory knows the latents it began with, but not the picture."""
    if given.picture is not None:
        fitted, rendered = round_trip(model, given.picture, args.fit or "crop")
        return {"the input": fitted, "the VAE's round trip": rendered}
    assert given.trajectory is not None
    return {"the VAE's round trip": to_image(model.decode(given.trajectory.path[0])[0])}
