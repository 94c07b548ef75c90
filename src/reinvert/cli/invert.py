"""`reinvert invert`: write the inversion of a picture to a file, to edit it any number of times."""

from __future__ import annotations

import argparse
from pathlib import Path

from reinvert.cli.common import (
    add_inversion,
    add_model_options,
    add_run_options,
    check_model_options,
    load_model,
    open_given,
    open_mask_of,
    output_path,
    tell,
    usual_inversion_of,
)
from reinvert.cli.flags import Chosen, add_method_flags
from reinvert.cli.progress import progress_bar
from reinvert.errors import ReinvertError
from reinvert.files.trajectory import SUFFIX
from reinvert.image import write_together
from reinvert.outputs import (
    check_outputs,
    device_name,
    file_record,
    memory_record,
    provenance,
    sidecar_of,
    sidecar_writer,
)


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert invert`."""
    parser.usage = f"reinvert invert IMAGE --source TEXT [-o FILE{SUFFIX}] [options]"
    parser.add_argument("image", metavar="IMAGE", help="a picture")
    add_run_options(parser)
    add_inversion(parser)
    parser.add_argument(
        "--mask", metavar="FILE", help="the region that is to be edited, white, for an inversion that asks for it"
    )
    parser.add_argument("--half", action="store_true", help="half the size on disk, in float16")
    parser.add_argument("-o", "--output", metavar="FILE", help=f"[IMAGE{SUFFIX} here]")
    add_model_options(parser)
    add_method_flags(parser, ("inversions",))


def run(args: argparse.Namespace) -> int:
    if args.image.lower().endswith(".safetensors"):
        raise ReinvertError(f"{args.image} is a trajectory already; give it to reinvert edit")
    check_model_options(args)
    given = open_given(args)
    output = output_path(args, given.stem + SUFFIX)
    # The suffix is how `reinvert edit` tells a trajectory from a picture.
    check_outputs([output], [given.path, None if args.mask is None else Path(args.mask)], (".safetensors",))
    mask = open_mask_of(args, given)
    chosen = Chosen(args)
    inverts = args.inversion or usual_inversion_of(args, given)
    chosen.values("inversions", inverts)
    chosen.check()
    from reinvert import verbs
    from reinvert.backbones.meter import Meter

    inversion = chosen.make("inversions", inverts)
    model = load_model(args, given, [inversion])
    meter = Meter(model.tally)
    with progress_bar(args.quiet) as watch:
        trajectory = verbs.invert(
            model,
            given.image,
            given.source,
            inversion=inversion,
            mask=mask,
            **given.options(args, model),
            watch=watch,
        )
    spent = meter.spent()
    settings = {
        "model": model.name,
        **model.additions,
        "dtype": str(model.dtype).removeprefix("torch."),
        "source": given.source,
        "inversion": {"name": inversion.name, **inversion.settings},
        "steps": trajectory.steps,
        "guidance": given.guidance(args.guidance, model),
        "seed": args.seed,
        "fit": args.fit or "crop",
        "half": args.half,
    }
    about = {
        "input": given.record(),
        "mask": None if args.mask is None else file_record(Path(args.mask)),
        "settings": settings,
        "device": device_name(model.device),
        **memory_record(model.device),
        **vars(spent),
        **provenance(args.command_line),
    }
    write_together({output: trajectory.writer(half=args.half), sidecar_of(output): sidecar_writer(output, about)})
    tell([output])
    return 0
