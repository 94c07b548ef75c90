"""`reinvert edit`: edit a picture, or a trajectory, with words."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from reinvert import verbs
from reinvert.backbones import Backbone
from reinvert.cli import compare, explain
from reinvert.cli.common import (
    Given,
    add_model_options,
    add_run_options,
    load_model,
    model_name,
    open_given,
    output_path,
    tell,
)
from reinvert.cli.flags import Chosen, add_method_flags
from reinvert.cli.output import (
    PICTURE_SUFFIXES,
    check_outputs,
    device_name,
    file_record,
    numbered,
    provenance,
    write_pictures,
)
from reinvert.cli.progress import progress_bar
from reinvert.cli.recipe import defaults_of, settle
from reinvert.differences import edited_region
from reinvert.editors.base import Editor
from reinvert.editors.local_blend import LocalBlend
from reinvert.errors import ReinvertError
from reinvert.image import open_mask, paste_back
from reinvert.inversions.base import Inversion
from reinvert.recipes import Recipe


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert edit`."""
    parser.usage = "reinvert edit IMAGE --source TEXT --target TEXT [--target TEXT ...] [options]"
    parser.add_argument(
        "image", metavar="IMAGE", help="a picture, or a FILE.trajectory.safetensors (which needs no --source)"
    )
    add_run_options(parser)
    parser.add_argument("--target", action="append", metavar="TEXT", help="what it is to show; may be repeated")
    parser.add_argument("--inversion", metavar="NAME", help="see reinvert methods [direct]")
    parser.add_argument("--editor", metavar="NAME", help='or several, as in "p2p+proximal" [p2p]')
    parser.add_argument(
        "--recipe", metavar="NAME", help="a row of the comparison, or FILE.toml; see reinvert methods --recipes"
    )
    parser.add_argument(
        "--blend",
        nargs=2,
        metavar=("WORD", "WORD"),
        help="change only where this word of the source and this word of the target look (local_blend)",
    )
    parser.add_argument("--mask", metavar="FILE", help="change only what is white in this picture")
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
    parser.add_argument(
        "--explain", action="store_true", help="show which tokens keep the source's attention, and stop"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="[IMAGE.edit.png here]")
    add_model_options(parser)
    add_method_flags(parser)


@dataclass(frozen=True)
class Job:
    """An edit as it was asked for, everything about it checked that needs no model."""

    args: argparse.Namespace
    given: Given
    targets: tuple[str, ...]
    mask: Image.Image | None
    recipe: Recipe | None = None

    @property
    def source(self) -> str:
        """What the source is told; a recipe may keep it empty."""
        return self.given.source if self.recipe is None else self.recipe.source_of(self.given.source)

    def methods(self, chosen: Chosen, inversion: str | None, editor: str) -> tuple[Inversion, tuple[Editor, ...]]:
        """The inversion, and the editors with local_blend where blend words or a mask ask for it."""
        names = [str(name) for name in verbs.editor_names(editor)]
        editors: list[Editor] = [chosen.make("editors", name) for name in names]
        inverts: Inversion = chosen.make("inversions", inversion or verbs.usual_inversion(editors))
        if verbs.wants_blend(editors, self.args.blend is not None, self.mask is not None):
            editors.append(chosen.make("editors", "local_blend"))
        if self.args.blend is not None:
            before, after = (tuple(w.strip() for w in given.split(",") if w.strip()) for given in self.args.blend)
            editors = [
                replace(e, source_words=before, target_words=after) if isinstance(e, LocalBlend) else e for e in editors
            ]
        return inverts, tuple(editors)

    def edit(
        self,
        model: Backbone,
        image: Any,
        inversion: Inversion,
        editors: tuple[Editor, ...],
        watch: verbs.Watch,
    ) -> verbs.Result:
        """Run it; `image` is the given one, or a trajectory made from it."""
        args, fresh = self.args, image is self.given.picture
        return verbs.edit(
            model,
            image,
            source=self.source if fresh else None,
            target=self.targets,
            inversion=inversion,
            editor=editors,
            steps=args.steps,
            guidance=self.given.guidance(args.guidance),
            seed=args.seed,
            mask=self.mask,
            fit=args.fit or "crop",
            watch=watch,
        )

    def about(self, result: verbs.Result, model: Backbone) -> dict[str, Any]:
        """What a sidecar tells about one result."""
        args = self.args
        return {
            "input": self.given.record(),
            "mask": None if args.mask is None else file_record(Path(args.mask)),
            "settings": {**result.settings, "fit": args.fit or "crop", "paste_back": args.paste_back},
            "device": device_name(model.device),
            "seconds": result.seconds,
            "forwards": result.forwards,
            "backwards": result.backwards,
            **({} if self.recipe is None else {"recipe": self.recipe.name}),
            **provenance(args),
        }


def open_job(args: argparse.Namespace) -> Job:
    """Check and open everything that is given."""
    recipe = None if args.recipe is None else settle(args)
    if not args.target:
        raise ReinvertError('say what the picture is to show: --target "a dog sitting on a bench"')
    given = open_given(args)
    mask = None if args.mask is None else open_mask(args.mask)
    if mask is not None and given.picture is not None and mask.size != given.picture.size:
        raise ReinvertError(
            f"the mask is {mask.width}x{mask.height} but the picture is {given.picture.width}x{given.picture.height}; "
            "make them one size"
        )
    if args.paste_back and given.picture is None:
        raise ReinvertError("--paste-back needs the picture itself, which a trajectory does not hold")
    if args.paste_back and args.compare:
        raise ReinvertError("--compare lays out what the model made; leave --paste-back out")
    return Job(args, given, tuple(args.target), mask, recipe)


def run(args: argparse.Namespace) -> int:
    job = open_job(args)
    kind = "compare" if args.compare else "edit"
    output = output_path(args, f"{job.given.stem}.{kind}.png")
    outputs = [output] if args.compare else numbered(output, len(job.targets))
    inputs = [job.given.path, None if args.mask is None else Path(args.mask)]
    check_outputs(outputs if not args.explain else [], inputs, PICTURE_SUFFIXES)
    chosen = Chosen(args, None if job.recipe is None else defaults_of(job.recipe, args))
    if args.compare:
        return compare.run(job, chosen, output)
    inversion, editors = job.methods(chosen, args.inversion, args.editor or "p2p")
    # A trajectory's inversion is over: its flags would do nothing.
    chosen.check(("editors",) if job.given.trajectory is not None else ("inversions", "editors"))
    explain.check_words(model_name(args, job.given), job.given.source, job.targets, editors)
    if args.explain:
        return explain.run(model_name(args, job.given), job.given, job.targets, editors, args.steps)
    model = load_model(args, job.given)
    with progress_bar(args.quiet) as watch:
        result = job.edit(model, job.given.image, inversion, editors, watch)
    about = job.about(result, model)
    made: list[tuple[Image.Image, Path, dict[str, Any]]] = []
    for index, path in enumerate(outputs):
        picture, region = _picture(job, result, index)
        settings = {**about["settings"], "target": job.targets[index], "region": region}
        made.append((picture, path, {**about, "settings": settings}))
    write_pictures(made)
    tell(outputs)
    return 0


def _picture(job: Job, result: verbs.Result, index: int) -> tuple[Image.Image, dict[str, Any] | None]:
    """The picture to write, and with --paste-back where it was edited and how that is known."""
    edited = result.images[index]
    if not job.args.paste_back:
        return edited, None
    assert job.given.picture is not None
    assert result.fit is not None
    if job.mask is not None:
        region, origin = job.mask, "the given mask"
        share = sum(region.histogram()[128:]) / (region.width * region.height)
    else:
        region, origin = edited_region(result, index)
        share = float(region.mean())
    return paste_back(job.given.picture, edited, result.fit, region), {
        "from": origin,
        "share": round(share, 4),
    }
