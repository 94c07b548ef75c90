"""One person at the page: a picture, the edits made of it, and their files, which end with the session.

session = Session(Shelf(["picturebook"]), Line(), folder)
session.draw("a red cat on grass")
for update in session.edit(Request(source="a red cat on grass", target="a red dog on grass")):
    ...                        # Waiting, Working with a preview, and last Done with the Edit
"""

from __future__ import annotations

import threading
import time
import warnings
from argparse import ArgumentTypeError
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reinvert import captions, legal, regions, registry, verbs
from reinvert.backbones import Backbone
from reinvert.backbones.meter import Meter
from reinvert.differences import edited_region, pasted
from reinvert.editors.base import Editor
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError, ReinvertWarning
from reinvert.files.trajectory import SUFFIX
from reinvert.image import (
    MAX_PIXELS,
    Fit,
    Picturelike,
    contact_sheet,
    open_image,
    open_mask,
    paste_back,
    save_image,
    to_image,
    write_together,
)
from reinvert.inversions.base import Inversion, Progress
from reinvert.level import Moment
from reinvert.models import Usual, usual_of
from reinvert.outputs import device_name, file_record, memory_record, provenance, sidecar_of, write_picture
from reinvert.picturebook.caption import read_caption
from reinvert.picturebook.draw import draw as draw_scene
from reinvert.picturebook.draw import true_edit
from reinvert.picturebook.scene import Scene
from reinvert.prepared import saved_fits
from reinvert.regions import Region
from reinvert.request import Watch
from reinvert.script import Asked, Script
from reinvert.trajectory import Trajectory
from reinvert.ui.forms import Field, fields_of
from reinvert.ui.jobs import Clock, Line, Tell, Update, Working, serve
from reinvert.ui.shelf import Choices, Shelf
from reinvert.values import number
from reinvert.word_maps import WordMaps, word_maps
from reinvert.words import Link, align, explain

KEPT: Final = 8
"""Inversions that a session keeps in memory."""
MOST: Final = 24
"""Edits of one comparison."""
BETWEEN: Final = 0.4
"""Seconds between two previews at least."""
COST: Final = 0.05
"""The share of the time that decoding previews may take: on a slow machine there are fewer of them."""


@dataclass(frozen=True)
class Request(Asked):
    """What a person asks for: everything that decides an edit but the picture."""

    masked: bool = False
    """Whether the session's mask is used."""
    region: str = ""
    """The words that the mask was named by."""

    @property
    def asked_inversion(self) -> str:
        """The inversion that is meant."""
        return self.inversion or legal.usual_inversion(self.editors, (usual_of(self.model) or Usual()).inversion)

    @property
    def title(self) -> str:
        return " + ".join((self.asked_inversion, *self.editors))


@dataclass(frozen=True)
class Given:
    """A picture that was opened: as it is, its file, and, where it was drawn, its scene."""

    number: int
    picture: Image.Image
    path: Path
    scene: Scene | None = None

    @property
    def caption(self) -> str:
        return "" if self.scene is None else self.scene.caption


@dataclass(frozen=True)
class Edit:
    """One edit of the history."""

    number: int
    request: Request
    given: Given
    picture: Image.Image
    """What the person gets: the model's picture, or pasted back into the original."""
    result: verbs.Result
    trajectory: Trajectory
    mask: Image.Image | None
    inverted: bool
    """Whether the picture was inverted for it; False where an inversion that was kept was rendered again."""
    notes: tuple[str, ...]
    """Warnings."""
    links: tuple[Link, ...]
    """Which token of the source each token of the target takes its attention from; none where no editor shares
    attention by words."""
    special: int
    """How many tokens stand before the words."""
    files: tuple[Path, ...]
    script: Script

    @property
    def path(self) -> Path:
        return self.files[0]

    @property
    def fit(self) -> Fit:
        return saved_fits(self.trajectory.info)[0]

    def full(self, picture: Image.Image) -> Image.Image:
        """A picture of the model's as large as the one that was given, where that was pasted back."""
        return paste_back(self.given.picture, picture, self.fit) if self.request.paste_back else picture

    @property
    def before(self) -> Image.Image:
        """The part of the original that the edit shows."""
        if self.request.paste_back:
            return self.given.picture
        fit = self.fit
        part = self.given.picture.crop(fit.box).resize(
            (fit.inner[2] - fit.inner[0], fit.inner[3] - fit.inner[1]), Image.Resampling.BICUBIC
        )
        if part.size == fit.size:
            return part
        padded = Image.new("RGB", fit.size, "white")
        padded.paste(part, fit.inner[:2])
        return padded

    @property
    def truth(self) -> Image.Image | None:
        """The true edit of a drawn scene, if the target describes one."""
        if self.given.scene is None:
            return None
        try:
            target = read_caption(self.request.target, self.given.scene.seed)
        except ReinvertError:
            return None
        picture, _ = true_edit(self.given.scene, target, self.given.picture.width)
        return picture

    def region(self) -> tuple[NDArray[np.bool_], str]:
        """What was allowed to change, [height, width] of `result.image`, and how that is known."""
        region, origin = edited_region(self.result)
        if origin == "changed pixels":
            return region, "what changed visibly, since nothing kept this edit to a part"
        return region, "the cells of your mask" if self.mask is not None else "the cells that were let change"

    @property
    def summary(self) -> str:
        """One line: whether the picture was inverted, how long it took, what it cost."""
        how = "inverted and rendered" if self.inverted else "rendered from the kept inversion, without inverting again"
        result = self.result
        return f"{how} in {result.seconds:.1f} s ({result.forwards} network evaluations)"


class Session:
    """What one person has on the page. Its methods that work on a model are iterators of `Update`."""

    def __init__(self, shelf: Shelf, line: Line, folder: Path, max_pixels: int = MAX_PIXELS) -> None:
        self.shelf, self.line, self.folder, self.max_pixels = shelf, line, folder, max_pixels
        self.given: Given | None = None
        self.mask: Image.Image | None = None
        self.history: list[Edit] = []
        self.settings: dict[str, dict[str, Any]] = {}
        """Fields of methods that the person has set, by method: those of the next request."""
        self.methods_shown: tuple[str, ...] = ()
        """The inversion and the editors whose settings the page shows."""
        self._maps: dict[int, WordMaps] = {}
        self._regions: dict[tuple[int, str, str], Region] = {}
        self._stop = threading.Event()
        self._opened = 0
        self._kept: OrderedDict[tuple[Any, ...], Trajectory] = OrderedDict()
        folder.mkdir(parents=True, exist_ok=True)

    # --- the picture ------------------------------------------------------------------------------------------------

    def open(self, picture: Picturelike, name: str = "picture") -> Given:
        """Take a picture from outside. Raises `ReinvertError`, and keeps the one before, for what is none."""
        return self._take(open_image(picture, max_pixels=self.max_pixels), name)

    def draw(self, caption: str, seed: int = 0, size: int = 64) -> Given:
        """Draw a picturebook scene from its caption."""
        scene = read_caption(caption, seed)
        return self._take(draw_scene(scene, size), caption, scene)

    def _take(self, picture: Image.Image, name: str, scene: Scene | None = None) -> Given:
        self._opened += 1
        folder = self.folder / f"picture-{self._opened}"
        folder.mkdir()
        path = folder / f"{_file_name(name)}.png"
        save_image(picture, path)
        self.given, self.mask = Given(self._opened, picture, path, scene), None
        return self.given

    def set_mask(self, mask: Picturelike | None, words: str | None = None, model: str = "picturebook") -> None:
        """The region that may change, white on black, of the picture's size, or what `words` name; None takes it away.

        Raises `ReinvertError` for both at once, and for words that name nothing.
        """
        named = bool(words and words.strip())
        if mask is None:
            self.mask = self.region(words or "", model).mask if named else None
            return
        if named:
            raise ReinvertError("a region is painted and another one named; clear one of them")
        opened = open_mask(mask, max_pixels=self.max_pixels)
        size = self._picture().picture.size
        if opened.size != size:
            opened = opened.resize(size, Image.Resampling.NEAREST)
        self.mask = opened if opened.getextrema() != (0, 0) else None

    def region(self, words: str, model: str) -> Region:
        """What the words name in the picture, found once."""
        given, who = self._picture(), regions.usual_segmenter(model)
        key = (given.number, words.strip(), who)
        if key not in self._regions:
            self._regions[key] = regions.find_region(given.picture, words, regions.load_segmenter(who))
        return self._regions[key]

    def _mask_record(self, mask: Image.Image | None, path: Path) -> dict[str, Any]:
        """What a sidecar tells of a mask: its file, and the words that it was named by."""
        named = (found.record() for found in self._regions.values() if found.mask is mask)
        return {**file_record(path), "file": path.name, **next(named, {})}

    def caption(self, model: str) -> str:
        """What a model says that the picture shows."""
        return captions.caption(self._picture().picture, model=captions.usual_captioner(model))

    def _picture(self) -> Given:
        if self.given is None:
            raise ReinvertError("choose a picture first: drop one, take an example, or draw a scene")
        return self.given

    def set(self, field: Field, given: Any) -> None:
        """Set a field of a method to what was entered; raises `ReinvertError` for what it does not take."""
        value = field.read(given)
        if isinstance(value, str) and value != field.default and ("/" in value or value.startswith("@")):
            raise ReinvertError(f"{field.label} names a file or a network: the page takes none; use the command line")
        mine = self.settings.setdefault(field.method, {})
        if value == field.default:
            mine.pop(field.name, None)
        else:
            mine[field.name] = value

    def value_of(self, field: Field) -> Any:
        """What a field is set to."""
        return self.settings.get(field.method, {}).get(field.name, field.default)

    # --- edits ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop what is being done, within a step."""
        self._stop.set()

    def edit(self, request: Request) -> Iterator[Update]:
        """Edit the picture; the last update is `Done` with the `Edit`, which is in the history then."""
        given, mask = self._picture(), self._mask_for(request)
        return self._serve(partial(self._edit, given, mask, request))

    def compare(self, requests: Sequence[Request]) -> Iterator[Update]:
        """Several edits of the picture; the last update is `Done` with a list of `Edit`."""
        given = self._picture()
        if not requests:
            raise ReinvertError("choose what to compare")
        masks = [self._mask_for(request) for request in requests]

        def work(tell: Tell) -> list[Edit]:
            made: list[Edit] = []
            for place, (request, mask) in enumerate(zip(requests, masks, strict=True), 1):
                who = f"{place} of {len(requests)}, "
                made.append(self._edit(given, mask, request, lambda w, who=who: tell(replace(w, stage=who + w.stage))))
            return made

        return self._serve(work)

    def words(self, edit: Edit) -> Iterator[Update]:
        """Where the network looks for each word of an edit; the last update is `Done` with the `WordMaps`."""

        def work(tell: Tell) -> WordMaps:
            if edit.number not in self._maps:
                model = self._model(edit.request.model, tell)
                _, editors = self.methods(edit.request, edit.mask is not None)
                clock = Clock()
                self._maps[edit.number] = word_maps(
                    model,
                    edit.trajectory,
                    edit.request.target,
                    editors,
                    guidance=edit.request.guidance,
                    seed=edit.request.seed,
                    mask=edit.mask,
                    any_words=edit.request.any_words,
                    watch=lambda p: tell(Working("looking inside", p.done, p.total, clock.left(p))),
                )
            return self._maps[edit.number]

        return self._serve(work)

    def _model(self, name: str, tell: Tell) -> Backbone:
        """The model, loaded if it is not held."""
        if not self.shelf.is_held(name):
            tell(Working(f"loading {name}"))
        return self.shelf.get(name)

    def _serve(self, work: Any) -> Iterator[Update]:
        self._stop.set()  # one thing at a time: what this person asked for before is not wanted any more
        self._stop = stop = threading.Event()
        return serve(self.line, work, stop)

    def _mask_for(self, request: Request) -> Image.Image | None:
        if request.masked and self.mask is None:
            raise ReinvertError("paint the region that may change first, or leave the mask out")
        return self.mask if request.masked else None

    def _edit(self, given: Given, mask: Image.Image | None, request: Request, tell: Tell) -> Edit:
        if not request.source.strip():
            raise ReinvertError("say what the picture shows")
        if not request.target.strip():
            raise ReinvertError("say what the picture is to show")
        model = self._model(request.model, tell)
        meter = Meter(model.tally)
        inversion, editors = self.methods(request, mask is not None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", ReinvertWarning)
            key = _key(model, given, request, inversion)
            kept = self._kept.get(key)
            asked = verbs.Request.of(
                model,
                given.picture if kept is None else kept,
                request.source,
                request.target,
                inversion=inversion if kept is None else None,
                editor=editors,
                arguments={},
                steps=request.steps,
                guidance=request.guidance,
                seed=request.seed,
                mask=mask,
                fit=request.fit,
                max_pixels=self.max_pixels,
                any_words=request.any_words,
                force=request.force,
                watch=_watch(model, tell),
            )
            trajectory, inverted = asked.trajectory() if kept is None else kept, kept is None
            self._kept[key] = trajectory
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            (result,) = replace(asked, given=trajectory).results()
        result = replace(result, **vars(meter.spent()))
        notes = tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, ReinvertWarning)))
        edit = self._record(model, given, mask, request, result, trajectory, inverted, notes)
        self.history.append(edit)
        return edit

    def methods(self, request: Request, masked: bool) -> tuple[Inversion, tuple[Editor, ...]]:
        """The methods with their settings, and local_blend where blend words or a mask ask for it."""
        made = [registry.make("editors", name, request.settings.get(name)) for name in request.editors]
        add = partial(registry.make, "editors", "local_blend", request.settings.get("local_blend"))
        editors = verbs.blended(made, request.blend, masked, add)
        name = request.asked_inversion
        return registry.make("inversions", name, request.settings.get(name)), editors

    def _links(self, model: Backbone, request: Request, masked: bool) -> tuple[tuple[Link, ...], int]:
        """`Edit.links` and `Edit.special`."""
        _, editors = self.methods(request, masked)
        p2p = next((editor for editor in editors if isinstance(editor, P2P)), None)
        if p2p is None:
            return (), 0
        found = explain(model.tokenizer, request.source, request.target, p2p.kind_for(request.source, request.target))
        return tuple(found), max(0, len(model.tokenizer.encode("")) - 1)

    def load(self, name: str) -> Iterator[Update]:
        """Load a model and find out what it can run; the last update is `Done` with its `Choices`."""

        def work(tell: Tell) -> Choices:
            self._model(name, tell)
            return self.shelf.choices(name)

        return self._serve(work)

    def partner(self, edit: Edit, word: int, of_source: bool) -> int | None:
        """The word of the other prompt that a word answers to, by their numbers: the aligned one, else None."""
        source, target = edit.request.source.split(), edit.request.target.split()
        matched = [(at, place) for place, at in enumerate(align(source, target)) if at >= 0]
        if len(source) == len(target):  # a replaced word answers to the one in its place
            lone = {i for i in range(len(source)) if (i, i) not in matched}
            taken = {i for pair in matched for i in pair}
            matched += [(i, i) for i in lone if i not in taken]
        found = [b for a, b in matched if a == word] if of_source else [a for a, b in matched if b == word]
        return found[0] if found else None

    def variants(
        self, base: Request, what: str, named: Sequence[str], targets: str, setting: str, values: str
    ) -> list[tuple[str, Request]]:
        """The requests of a comparison, with their titles: several methods ("direct + p2p"), several targets (one a
        line), or several values of one setting ("guidance", "p2p.cross")."""
        match what:
            case "methods":
                made = [(name, _with_methods(base, name)) for name in named]
            case "targets":
                lines = [line.strip() for line in targets.splitlines() if line.strip()]
                made = [(line, replace(base, target=line)) for line in lines]
            case _:
                given = [value.strip() for value in values.split(",") if value.strip()]
                made = [(f"{setting} {value}", _with_value(base, setting, value)) for value in given]
        if not made:
            raise ReinvertError("choose what to compare: two methods, targets or values at least")
        if len(made) > MOST:
            raise ReinvertError(f"{len(made)} edits are too many for one sheet; compare at most {MOST}")
        return made

    def take_up(self, edit: Edit) -> Request:
        """Set all settings to those of an older edit, and take its picture and mask again; its request."""
        self.given, self.mask = edit.given, edit.mask
        self.settings = {name: dict(values) for name, values in edit.request.settings.items()}
        return edit.request

    # --- files ------------------------------------------------------------------------------------------------------

    def _record(
        self,
        model: Backbone,
        given: Given,
        mask: Image.Image | None,
        request: Request,
        result: verbs.Result,
        trajectory: Trajectory,
        inverted: bool,
        notes: tuple[str, ...],
    ) -> Edit:
        """The edit with its files: picture and sidecar, the trajectory, and what the same command needs."""
        number = len(self.history) + 1
        folder = self.folder / f"edit-{number}-{time.monotonic_ns()}"
        folder.mkdir()
        stem = given.path.stem
        source, output = folder / given.path.name, folder / f"{stem}.edit.png"
        path, mask_path = folder / f"{stem}{SUFFIX}", None if mask is None else folder / f"{stem}.mask.png"
        script = self._script(request, source.name, output.name, None if mask_path is None else mask_path.name)
        picture, region = result.image, None
        if request.paste_back:
            picture, region = pasted(given.picture, result, 0, saved_fits(trajectory.info)[0], mask)
        save_image(given.picture, source)
        if mask is not None and mask_path is not None:
            save_image(mask, mask_path)
        write_together({path: trajectory.writer()})
        settings = {**result.settings, "target": request.target, "fit": request.fit, "paste_back": request.paste_back}
        about = {
            "input": {**file_record(source), "file": source.name},
            "mask": None if mask_path is None else self._mask_record(mask, mask_path),
            "settings": {**settings, "region": region},
            "device": device_name(model.device),
            **memory_record(model.device),
            "seconds": result.seconds,
            "forwards": result.forwards,
            "backwards": result.backwards,
            "inverted": inverted,
            **provenance(script.command()),
        }
        write_picture(picture, output, about)
        files = (output, sidecar_of(output), path, source, *([] if mask_path is None else [mask_path]))
        links, special = self._links(model, request, mask is not None)
        return Edit(
            number, request, given, picture, result, trajectory, mask, inverted, notes, links, special, files, script
        )

    def _script(self, request: Request, picture: str, output: str, mask: str | None) -> Script:
        settings = {name: values for name, values in request.settings.items() if values}
        names = {request.asked_inversion, *request.editors}
        blended = request.blend is not None or mask is not None
        settings = {n: v for n, v in settings.items() if n in names or (n == "local_blend" and blended)}
        asked = {each.name: getattr(request, each.name) for each in fields(Asked)}
        asked |= {"inversion": request.asked_inversion, "settings": settings}
        return Script(
            **asked, picture=picture, output=output, mask=mask, device=self.shelf.device, dtype=self.shelf.dtype
        )

    def find(self, number: int) -> Edit:
        """An edit of the history."""
        return self.history[number - 1]


def _key(model: Backbone, given: Given, request: Request, inversion: Inversion) -> tuple[Any, ...]:
    """Whatever decides an inversion of a picture."""
    steps, guidance = verbs.usual(model, request.steps, request.guidance)
    fitted = guidance if inversion.fits_guidance else None
    return model.name, given.number, request.source, repr(inversion), steps, request.seed, request.fit, fitted


def swept(inversion: str, editors: Sequence[str]) -> list[str]:
    """The settings that can be swept: those of the run, and the fields of the methods."""
    fields = [*fields_of("inversions", inversion), *(f for name in editors for f in fields_of("editors", name))]
    return ["guidance", "steps", "seed", *(f"{field.method}.{field.name}" for field in fields)]


def _with_methods(base: Request, name: str) -> Request:
    inversion, *editors = (part.strip() for part in name.split("+"))
    return replace(base, inversion=inversion, editors=tuple(editors))


def _with_value(base: Request, setting: str, value: str) -> Request:
    match setting:
        case "guidance":
            return replace(base, guidance=_number(setting, value))
        case "steps" | "seed":
            number = _number(setting, value)
            if number != int(number) or number < (setting == "steps"):
                raise ReinvertError(f"{setting} takes whole numbers, not {value!r}")
            return replace(base, **{setting: int(number)})
        case _:
            method, _, name = setting.partition(".")
            group: registry.Group = "inversions" if method == base.asked_inversion else "editors"
            field = next((f for f in fields_of(group, method) if f.name == name), None)
            if field is None:
                raise ReinvertError(f"{method} has no setting {name!r}")
            settings = {n: dict(v) for n, v in base.settings.items()}
            settings.setdefault(method, {})[name] = field.read(value)
            return replace(base, settings=settings)


def _number(setting: str, value: str) -> float:
    try:
        return number(value)
    except ArgumentTypeError as error:
        raise ReinvertError(f"{setting} {error}") from error


def sheet(edits: Sequence[Edit], titles: Sequence[str]) -> Image.Image:
    """Several edits of one picture beside their source, as one picture."""
    row = [edits[0].before, *(edit.picture for edit in edits)]
    return contact_sheet([row], column_titles=["source", *titles])


def _watch(model: Backbone, tell: Tell) -> Watch:
    """Tells every step, with the time left, and now and then a preview."""
    clock = Clock()
    last: list[Tensor | None] = [None]
    due = [time.monotonic() + BETWEEN]

    def watch(progress: Progress) -> None:
        preview = None
        if progress.latents is not None and progress.moment is not None:
            now, before = time.monotonic(), last[0]
            if before is not None and now >= due[0] and not progress.moment.last:
                preview = to_image(model.decode(estimate(before[-1], progress.latents[-1], progress.moment).float())[0])
                took = time.monotonic() - now
                due[0] = now + took + max(BETWEEN, took / COST)
            last[0] = progress.latents
        tell(Working(progress.stage, progress.done, progress.total, clock.left(progress), preview))

    return watch


def estimate(before: Tensor, after: Tensor, moment: Moment) -> Tensor:
    """What a step of a deterministic sampler took for the clean latents, told from the latents before and after it.

    x_t = signal_t clean + noise_t eps,  x_s = signal_s clean + noise_s eps
    """
    (signal_t, noise_t), (signal_s, noise_s) = moment.level, moment.next_level
    scale = signal_s * noise_t - signal_t * noise_s
    return after if abs(scale) < 1e-6 else (noise_t * after - noise_s * before) / scale


def _file_name(name: str) -> str:
    """A name that a file may have everywhere, made of a picture's."""
    plain = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "-_") else "-" for sign in name.strip())
    return "-".join(part for part in plain.split("-") if part)[:60] or "picture"


__all__ = ["Edit", "Given", "Request", "Session", "sheet", "swept"]
