"""One edit of the command line: what was asked for, checked and opened; running it; what its sidecar tells."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from reinvert import regions, registry
from reinvert.cli.common import AUTO, Given, model_name, open_given, open_mask_of
from reinvert.cli.progress import waiting
from reinvert.cli.recipe import settle, settle_preset
from reinvert.differences import pasted
from reinvert.errors import ReinvertError
from reinvert.legal import usual_inversion
from reinvert.models import Usual, usual_of
from reinvert.outputs import device_name, file_record, memory_record, provenance
from reinvert.recipes import Recipe
from reinvert.regions import Region

if TYPE_CHECKING:  # they import torch: wrong arguments and missing files are answered before
    from reinvert import verbs
    from reinvert.backbones import Backbone
    from reinvert.cli.flags import Chosen
    from reinvert.editors.base import Editor
    from reinvert.inversions.base import Inversion


@dataclass(frozen=True)
class Job:
    """An edit as it was asked for, everything about it checked that needs no model."""

    args: argparse.Namespace
    given: Given
    targets: tuple[str, ...]
    mask: Image.Image | None
    usual: Usual
    """What is meant by what was left out."""
    recipe: Recipe | None = None
    region: Region | None = None
    """What `--region` named, once it is found."""

    @property
    def masked(self) -> bool:
        """Whether a mask is given, or will be when its region is found."""
        return self.mask is not None or self.args.region is not None

    def with_region(self) -> Job:
        """With the mask of what `--region` names, if it is asked for."""
        args, picture = self.args, self.given.picture
        if args.region is None or picture is None:
            return self
        where = args.region_model or regions.usual_segmenter(model_name(args, self.given))
        with waiting(f"looking for {args.region}", args.quiet):
            found = regions.find_region(picture, args.region, _segmenter(where, args.device))
        return replace(self, mask=found.mask, region=found)

    @property
    def editor(self) -> str:
        """The editors that were named, joined by "+", or the usual one."""
        return self.args.editor or self.usual.editor

    def inversion_for(self, editors: Sequence[str], named: str | None) -> str:
        """The inversion that was named, or the one that is usual for these editors on this model."""
        return named or usual_inversion(editors, self.usual.inversion)

    @property
    def source(self) -> str:
        """What the source is told; a recipe may keep it empty."""
        return self.given.source if self.recipe is None else self.recipe.source_of(self.given.source)

    def methods(self, chosen: Chosen, inversion: str, editor: str) -> tuple[Inversion, tuple[Editor, ...]]:
        """The inversion, and the editors with local_blend where blend words or a mask ask for it."""
        from reinvert import verbs

        names = [str(name) for name in verbs.editor_names(editor)]
        editors: list[Editor] = [chosen.make("editors", name) for name in names]
        inverts: Inversion = chosen.make("inversions", inversion)
        words = None if self.args.blend is None else (self.args.blend[0], self.args.blend[1])
        make = partial(chosen.make, "editors", "local_blend")
        return inverts, verbs.blended(editors, words, self.masked, make)

    def editor_names(self, editor: str) -> list[str]:
        """The editors that will be used: those that were named, and local_blend where words or a mask ask for it."""
        names = [name.strip() for name in editor.split("+")]
        taken = any(
            registry.variable("editors", name, which) for name in names for which in ("takes_mask", "needs_mask")
        )
        blended = self.args.blend is not None or (self.masked and not taken)
        return [*names, *(["local_blend"] if blended and "local_blend" not in names else [])]

    def edit(
        self,
        model: Backbone,
        image: Any,
        inversion: Inversion,
        editors: tuple[Editor, ...],
        watch: verbs.Watch,
    ) -> verbs.Result:
        """Run it; `image` is the given one, or a trajectory made from it."""
        from reinvert import verbs

        fresh = image is self.given.picture
        return verbs.edit(
            model,
            image,
            source=self.source if fresh else None,
            target=self.targets,
            inversion=inversion,
            editor=editors,
            mask=self.mask,
            **self.given.options(self.args, model),
            watch=watch,
        )

    def _mask_record(self) -> Mapping[str, Any] | None:
        if self.region is not None:
            return self.region.record()
        return None if self.args.mask is None else file_record(Path(self.args.mask))

    def about(self, result: verbs.Result, model: Backbone) -> dict[str, Any]:
        """What a sidecar tells about one result."""
        args = self.args
        return {
            "input": self.given.record(),
            "mask": self._mask_record(),
            "settings": {**result.settings, "fit": args.fit or "crop", "paste_back": args.paste_back},
            "device": device_name(model.device),
            **memory_record(model.device),
            "seconds": result.seconds,
            "forwards": result.forwards,
            "backwards": result.backwards,
            **({} if self.recipe is None else {"recipe": self.recipe.name}),
            **({} if args.preset is None else {"preset": args.preset}),
            **provenance(args.command_line),
        }


@lru_cache(maxsize=1)
def _segmenter(where: str, device: str) -> regions.Segmenter:
    """Loaded once for many pictures."""
    return regions.load_segmenter(where, device=device)


def open_job(args: argparse.Namespace, load: Callable[[argparse.Namespace, Given], Backbone]) -> Job:
    """Check and open everything that is given. `load` is asked only where no file tells what is usual for the model."""
    if args.region is not None and args.mask is not None:
        raise ReinvertError("a region and a mask both say what may change; leave --region or --mask out")
    if args.preset is not None and args.source == AUTO:
        raise ReinvertError("a preset reads the kind of edit from what you say that the picture shows; write --source")
    if args.preset is not None:
        settle_preset(args)
    recipe = None if args.recipe is None else settle(args)
    if not args.target:
        raise ReinvertError('say what the picture is to show: --target "a dog sitting on a bench"')
    given = open_given(args)
    mask = open_mask_of(args, given)
    if args.region is not None and given.picture is None:
        raise ReinvertError(
            "--region is looked for in the picture itself, which a trajectory does not hold; give --mask"
        )
    if args.paste_back and given.picture is None:
        raise ReinvertError("--paste-back needs the picture itself, which a trajectory does not hold")
    if args.paste_back and args.compare:
        raise ReinvertError("--compare lays out what the model made; leave --paste-back out")
    usual = usual_of(model_name(args, given)) or load(args, given).usual
    return Job(args, given, tuple(args.target), mask, usual, recipe)


def picture_of(job: Job, result: verbs.Result, index: int) -> tuple[Image.Image, dict[str, Any] | None]:
    """The picture to write, and with --paste-back where it was edited and how that is known."""
    if not job.args.paste_back:
        return result.images[index], None
    assert job.given.picture is not None
    assert result.fit is not None
    return pasted(job.given.picture, result, index, result.fit, job.mask)
