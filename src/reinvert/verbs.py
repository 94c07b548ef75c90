"""The public verbs: edit, invert, reconstruct. Each takes one picture or a list of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, overload

import numpy as np
import torch
from annotated_types import Ge, Len
from PIL import Image
from pydantic import AfterValidator
from torch import Tensor

from reinvert import registry
from reinvert.backbones.base import Backbone
from reinvert.backbones.lock import exclusive
from reinvert.backbones.memory import at_once
from reinvert.display import line, png, quoted
from reinvert.editors.base import Case, Editor, bind_all, cells
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.files import check_value, shown
from reinvert.files.door import Says, Seed, whole_text
from reinvert.hooks import Hooks
from reinvert.image import (
    MAX_PIXELS,
    Fit,
    FitMode,
    Picturelike,
    contact_sheet,
    fit_image,
    fit_mask,
    is_picture,
    open_image,
    open_mask,
    to_image,
    to_tensor,
)
from reinvert.inversions.base import Inversion, Progress, Source
from reinvert.likeness import check_pictures
from reinvert.pairs import check_pair
from reinvert.prompts import check_words, warn_of_prompts
from reinvert.trajectory import Trajectory

Picture = Image.Image
Pictures = list[Picture] | list[str] | list[Path] | list[Any] | tuple[Picturelike, ...]
Watch = Callable[[Progress], None]
EditorLike = str | Editor | Sequence["str | Editor"]

_Text = Annotated[str, AfterValidator(whole_text)]
_Texts = Annotated[
    _Text | list[_Text] | tuple[_Text, ...] | None, Says("text without half characters, or a list of texts")
]
_Count = Annotated[int, Ge(1)]
_Pair = tuple[str, str] | Annotated[list[str], Len(2, 2)]
_Boost = Mapping[str, float]
_TYPES: Mapping[str, Any] = {
    "source": _Texts,
    "target": _Texts,
    "blend": Annotated[
        _Pair | Annotated[list[_Pair | None] | tuple[_Pair | None, ...], Len(1)] | None,
        Says("a pair of words such as ('cat', 'dog'), or a list of pairs"),
    ],
    "boost": Annotated[
        _Boost | list[_Boost | None] | tuple[_Boost | None, ...] | None,
        Says("a dictionary such as {'dog': 2.0}, or a list of them"),
    ],
    "max_pixels": _Count,
    "batch_size": Annotated[_Count | None, Says("a whole number of at least 1")],
    "any_words": bool,
    "force": bool,
}
"""What the arguments of the verbs take that have a plain type."""


@dataclass(frozen=True, repr=False)
class Result:
    """One edited picture.

    `images` has one picture per target prompt and `image` is the first. `reconstruction` is the source branch
    rendered again. `latents` is [branch, channel, h, w] with branch 0 the source. `forwards` and `backwards` count
    single-sample evaluations of the network, and `seconds` the wall clock, for the whole call that made it (all
    pictures of a batch together; inversion included unless a trajectory was given). `settings` says how it was made.
    """

    images: tuple[Picture, ...]
    reconstruction: Picture
    latents: Tensor
    forwards: int
    backwards: int
    seconds: float
    settings: Mapping[str, Any]
    fit: Fit | None = None

    @property
    def image(self) -> Picture:
        return self.images[0]

    def __repr__(self) -> str:
        how = [self.settings["inversion"]["name"], *(editor["name"] for editor in self.settings["editors"])]
        size, spent = "x".join(map(str, self.image.size)), f"{self.forwards} forwards, {self.seconds:g} s"
        return line(
            "Result", quoted(tuple(self.settings["target"]) or (self.settings["source"],)), size, " + ".join(how), spent
        )

    def _repr_png_(self) -> bytes:
        """The reconstruction and the edits side by side."""
        edits = (
            []
            if self.images == (self.reconstruction,)
            else list(zip(self.settings["target"], self.images, strict=True))
        )
        titles = ["reconstruction", *(target for target, _ in edits)]
        return png(contact_sheet([[self.reconstruction, *(image for _, image in edits)]], column_titles=titles))


@dataclass(frozen=True)
class Prepared:
    """Pictures as a model takes them: latents [case, channel, h, w] and how each picture was fitted."""

    latents: Tensor
    fits: tuple[Fit, ...]
    pictures: tuple[Picture, ...]

    def __getitem__(self, part: slice) -> Prepared:
        """Some of them."""
        return Prepared(self.latents[part], self.fits[part], self.pictures[part])


@exclusive
def prepare(
    model: Backbone, pictures: Sequence[Picturelike], fit: FitMode = "crop", max_pixels: int = MAX_PIXELS
) -> Prepared:
    """Open, fit and encode pictures. All of a batch must come out the same size."""
    fitted = [fit_image(open_image(p, max_pixels=max_pixels), model.image_size, model.multiple, fit) for p in pictures]
    if len({picture.size for picture, _ in fitted}) > 1:
        raise ReinvertError("pictures of one batch must come out the same size; use --fit crop, or one at a time")
    latents = torch.cat([model.encode(to_tensor(picture)) for picture, _ in fitted])  # a batch saves no time here
    return Prepared(latents, tuple(f for _, f in fitted), tuple(picture for picture, _ in fitted))


@exclusive
def invert(
    model: Backbone,
    image: Picturelike | Sequence[Picturelike],
    source: str | Sequence[str],
    *,
    inversion: str | Inversion = "direct",
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    fit: FitMode = "crop",
    max_pixels: int = MAX_PIXELS,
    batch_size: int | None = None,
    any_words: bool = False,
    force: bool = False,
    watch: Watch | None = None,
    **arguments: Any,
) -> Trajectory:
    """Invert one picture, or a list of them as one batch, and return the `Trajectory`.

    `inversion` is a registered name or an instance; further keyword arguments are fields of the named method.
    `guidance` is the scale of the edit to come (null-text inversion is fitted to it). `any_words` lets words through
    that a model of a small world was trained without, `force` pictures that are none of that world.
    `batch_size` pictures of a list are inverted together, by default as many as fit the memory (see `edit`). `watch` is
    called with each `Progress`.
    """
    _check_types(
        model,
        source=source,
        inversion=inversion,
        max_pixels=max_pixels,
        batch_size=batch_size,
        any_words=any_words,
        force=force,
        watch=watch,
    )
    pictures, sources = _batch(image, source)
    check_words(model.name, model.world, sources, any_words)
    method = _inversion(inversion, arguments)
    (steps, guidance), seed = usual(model, steps, guidance), checked_seed(seed)
    prepared = prepare(model, pictures, fit, max_pixels)
    check_pictures(model, prepared.pictures, prepared.latents, force)
    warn_of_prompts(model.name, model.words, sources)
    size = batch_size or _at_once(model, prepared.latents, 1, (method,))
    made = [
        _inverted(model, prepared[part], sources[part], method, steps, guidance, seed, seen)
        for part, seen in _parts(len(sources), size, watch)
    ]
    return Trajectory.join(made)


@overload
def edit(model: Backbone, image: Picturelike, *, target: str | Sequence[str], **options: Any) -> Result: ...
@overload
def edit(model: Backbone, image: Pictures, *, target: str | Sequence[str], **options: Any) -> list[Result]: ...
@overload
def edit(model: Backbone, image: Trajectory, *, target: str | Sequence[str], **options: Any) -> Any: ...
@exclusive
def edit(
    model: Backbone,
    image: Picturelike | Sequence[Picturelike] | Trajectory,
    *,
    target: str | Sequence[str],
    source: str | Sequence[str] | None = None,
    inversion: str | Inversion | None = None,
    editor: EditorLike = "p2p",
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    blend: tuple[str, str] | Sequence[tuple[str, str]] | None = None,
    boost: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    mask: Picturelike | Sequence[Picturelike] | None = None,
    fit: FitMode = "crop",
    max_pixels: int = MAX_PIXELS,
    batch_size: int | None = None,
    any_words: bool = False,
    force: bool = False,
    watch: Watch | None = None,
    **arguments: Any,
) -> Any:
    """Edit a picture with words; returns a `Result`, or a list of them for a list of pictures (for a trajectory, by the
    number of its cases).

    `image` is a picture in any form that `reinvert.image.open_image` takes (a path, bytes, an open file, PIL, numpy or
    torch), a list of pictures, or a `Trajectory` (then source, inversion and steps are the trajectory's). For one
    picture `target` may be a list: several edits that share the inversion. For a list of pictures, `source` and
    `target` have one prompt per picture.

    `inversion` and `editor` are registered names, "+"-joined names ("p2p+proximal"), instances, or lists of editors;
    the inversion is "direct" if none is named, or "none" where an editor begins from noise of its own.
    `blend=("cat", "dog")` adds local_blend on those words; `mask` (white = edit) replaces the words; `boost` is P2P's.
    For a list of pictures each of the three may be a list, one per picture.
    Further keyword arguments are fields of the inversion or of an editor. `steps` and `guidance` default to what
    is usual for the model (its `usual`). `seed` feeds the
    methods that draw noise; those of this package's P2P family draw none. `max_pixels` bounds the pictures that are
    decoded. `batch_size` pictures of a list go through the model together; by default as many as fit half of the free
    memory, at most eight. `any_words` lets words through that a model of a small world was trained without,
    `force` pictures that are none of that world.

    Raises `ReinvertError` (one sentence) for bad input before anything is computed, and `NonFiniteError`.
    """
    _check_types(model, source=source, target=target, editor=editor, blend=blend, boost=boost)
    _check_types(
        model,
        inversion=inversion or "",
        max_pixels=max_pixels,
        batch_size=batch_size,
        any_words=any_words,
        force=force,
        watch=watch,
    )
    started, tally = time.perf_counter(), model.tally.copy()
    trajectory = image if isinstance(image, Trajectory) else None
    asked, (steps, guidance), seed = steps, usual(model, steps, guidance, trajectory), checked_seed(seed)
    if inversion is None:
        named = editor_names(editor)
        inversion = usual_inversion([registry.find("editors", e) if isinstance(e, str) else e for e in named])
    for_inversion, for_editors = _sort_arguments(inversion, editor, arguments)
    cases = len(image.prompts) if isinstance(image, Trajectory) else len(_listed(image))
    own = _own(blend, boost, cases)
    editors = _editors(editor, for_editors, blend is not None, mask is not None, boost is not None)
    if isinstance(image, Trajectory):
        if source is not None and tuple([source] if isinstance(source, str) else source) != image.prompts:
            raise ReinvertError(f"this trajectory was made for {image.prompts[0]!r}; leave --source out")
        image.check(model)
        image.check_steps(asked)
        method, sources = _maker(image), image.prompts
        check_pair(method, editors, masked=mask is not None, guidance=guidance, model=model)
        trajectory, prepared, latents = image, None, image.start
        single = len(trajectory.prompts) == 1
        targets = _targets(target, len(trajectory.prompts))
        edited = [prompt for branch in targets for prompt in branch]
        check_words(model.name, model.world, [*edited, *_own_prompts(editors)], any_words)
        masked = mask is not None
        _check_words(model, editors, trajectory.prompts, targets, trajectory.path, trajectory.steps, own, masked)
        masks = _mask(mask, None, trajectory, max_pixels)
        warn_of_prompts(model.name, model.words, edited)
        of_methods: tuple[Any, ...] = editors
    else:
        if source is None:
            raise ReinvertError("say what the picture shows: source=... (--source)")
        single = is_picture(image)
        pictures, sources = _batch(image, source)
        targets = _targets(target, len(sources))
        edited = [prompt for branch in targets for prompt in branch]
        check_words(model.name, model.world, [*sources, *edited, *_own_prompts(editors)], any_words)
        method = _inversion(inversion, for_inversion)
        check_pair(method, editors, masked=mask is not None, guidance=guidance, model=model)
        model.times(steps, model.latent_shape[1:])
        prepared = prepare(model, pictures, fit, max_pixels)
        check_pictures(model, prepared.pictures, prepared.latents, force)
        _check_words(model, editors, sources, targets, prepared.latents[None], steps, own, mask is not None)
        masks = _mask(mask, prepared, None, max_pixels)
        warn_of_prompts(model.name, model.words, [*sources, *edited])
        latents, of_methods = prepared.latents, (method, *editors)
    size = batch_size or _at_once(model, latents, 1 + len(targets), of_methods)
    results: list[Result] = []
    for part, seen in _parts(cases, size, watch):
        if trajectory is not None:
            path = trajectory.cases(part)
        else:
            assert prepared is not None
            path = _inverted(model, prepared[part], sources[part], method, steps, guidance, seed, seen)
        prompts, mine = tuple(branch[part] for branch in targets), own[part]
        path, hooks = prepared_edit(model, path, editors, prompts, None if masks is None else masks[part], seed, mine)
        x = path.start.expand(1 + len(targets), *path.start.shape)  # the result if no step is walked
        for moment, state in path.walk(model, prompts, hooks, guidance):
            x = state.x
            if seen is not None:
                seen(Progress("editing", moment.index + 1, moment.steps))
        settings = _settings(model, path, editors, prompts, guidance, seed, mine)
        results += _results(model, x, prompts, settings, None if prepared is None else prepared[part])
    spent = model.tally.since(tally)
    seconds = time.perf_counter() - started
    results = [
        replace(r, forwards=spent.forwards, backwards=spent.backwards, seconds=round(seconds, 3)) for r in results
    ]
    return results[0] if single else results


@overload
def reconstruct(model: Backbone, image: Picturelike, source: str, **options: Any) -> Result: ...
@overload
def reconstruct(model: Backbone, image: Pictures, source: Sequence[str], **options: Any) -> list[Result]: ...
@overload
def reconstruct(model: Backbone, image: Trajectory, source: str | None = None, **options: Any) -> Any: ...
@exclusive
def reconstruct(
    model: Backbone,
    image: Picturelike | Sequence[Picturelike] | Trajectory,
    source: str | Sequence[str] | None = None,
    *,
    inversion: str | Inversion = "direct",
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    fit: FitMode = "crop",
    max_pixels: int = MAX_PIXELS,
    batch_size: int | None = None,
    any_words: bool = False,
    force: bool = False,
    watch: Watch | None = None,
    **arguments: Any,
) -> Any:
    """Invert and render the source again, with no edit; a `Result` (or a list) whose `image` is the reconstruction."""
    _check_types(
        model,
        source=source,
        inversion=inversion,
        max_pixels=max_pixels,
        batch_size=batch_size,
        any_words=any_words,
        force=force,
        watch=watch,
    )
    started, tally = time.perf_counter(), model.tally.copy()
    trajectory = image if isinstance(image, Trajectory) else None
    asked, (steps, guidance), seed = steps, usual(model, steps, guidance, trajectory), checked_seed(seed)
    prepared, method = None, None
    if isinstance(image, Trajectory):
        image.check_steps(asked)
        single, sources, latents = len(image.prompts) == 1, image.prompts, image.start
    else:
        if source is None:
            raise ReinvertError("say what the picture shows: source=... (--source)")
        single = is_picture(image)
        pictures, sources = _batch(image, source)
        check_words(model.name, model.world, sources, any_words)
        prepared = prepare(model, pictures, fit, max_pixels)
        check_pictures(model, prepared.pictures, prepared.latents, force)
        method, latents = _inversion(inversion, arguments), prepared.latents
        warn_of_prompts(model.name, model.words, sources)
    size = batch_size or _at_once(model, latents, 1, () if method is None else (method,))
    results: list[Result] = []
    for part, seen in _parts(len(sources), size, watch):
        if trajectory is not None:
            path = trajectory.cases(part)
        else:
            assert prepared is not None
            assert method is not None
            path = _inverted(model, prepared[part], sources[part], method, steps, guidance, seed, seen)
        x = path.start[None]
        for moment, state in path.walk(model, (), Hooks(), guidance):
            x = state.x
            if seen is not None:
                seen(Progress("reconstructing", moment.index + 1, moment.steps))
        settings = _settings(model, path, (), (), guidance, seed)
        results += _results(model, x, (), settings, None if prepared is None else prepared[part])
    spent = model.tally.since(tally)
    seconds = round(time.perf_counter() - started, 3)
    made = [
        replace(r, images=(r.reconstruction,), forwards=spent.forwards, backwards=spent.backwards, seconds=seconds)
        for r in results
    ]
    return made[0] if single else made


def usual(
    model: Backbone, steps: int | None, guidance: float | None, trajectory: Trajectory | None = None
) -> tuple[int, float]:
    """Steps and guidance scale: as given, or what the trajectory was fitted to, or what is usual for the model.

    Raises `ReinvertError` for anything that is no number of steps or no scale.
    """
    steps = check_value(int | None, _plain(steps), "steps")
    guidance = check_value(float | None, _plain(guidance), "guidance")
    if guidance is None and trajectory is not None:
        guidance = trajectory.guidance
    return model.usual.steps if steps is None else steps, model.usual.guidance if guidance is None else guidance


def _check_types(model: Any, **given: Any) -> None:
    """Raise `ReinvertError` for a value of another type than its argument takes, before anything else looks at it."""
    if not hasattr(model, "tally"):
        raise ReinvertError("the first argument is the model itself: model = reinvert.load('picturebook')")
    for name, value in given.items():
        if name in ("inversion", "editor"):
            of, kind = ("an inversion", Inversion) if name == "inversion" else ("an editor", Editor)
            inner: list[Any] = list(value) if name == "editor" and isinstance(value, list | tuple) else [value]
            if not inner or not all(isinstance(item, str | kind) for item in inner):
                raise ReinvertError(f"{name} is {shown(repr(value))}; it takes the name of {of}, or {of} itself")
        elif name == "watch":
            if value is not None and not callable(value):
                raise ReinvertError("watch takes a function, which is called with each Progress")
        else:
            check_value(_TYPES[name], value, name)


def _at_once(model: Backbone, latents: Tensor, branches: int, methods: Sequence[Any]) -> int:
    """How many cases go through the model together, where nobody says so."""
    h, w = latents.shape[-2:]
    gradients = any(method.takes_gradients for method in methods)
    return at_once(model, (h, w), branches * (2 if model.null_side else 1), gradients)


def _parts(cases: int, size: int, watch: Watch | None) -> Iterator[tuple[slice, Watch | None]]:
    """The cases of each batch, and who watches it: of several batches each says which one it is."""
    batches = -(-cases // size)

    def seen(number: int, watch: Watch | None = watch) -> Watch | None:
        if watch is None or batches == 1:
            return watch
        return lambda step: watch(replace(step, stage=f"{step.stage}, batch {number + 1} of {batches}"))

    for number in range(batches):
        yield slice(number * size, min(cases, (number + 1) * size)), seen(number)


def checked_seed(seed: Any) -> int:
    """The seed, or a `ReinvertError` for what is none."""
    return check_value(Seed, _plain(seed), "seed")


def _plain(number: Any) -> Any:
    """A number of numpy's or of torch's as Python's own."""
    return number.item() if isinstance(number, np.generic | Tensor) and not number.shape else number


# --- the parts ---------------------------------------------------------------------------------------------------


@exclusive
def prepared_edit(
    model: Backbone,
    trajectory: Trajectory,
    editors: Sequence[Editor],
    targets: tuple[tuple[str, ...], ...],
    masks: Tensor | None = None,
    seed: int = 0,
    own: tuple[Mapping[str, Any], ...] = (),
) -> tuple[Trajectory, Hooks]:
    """The trajectory as the editors want to walk it, and their hooks bound to it."""

    def case() -> Case:
        path, steps = trajectory.path.to(model.device), trajectory.walked
        mask = None if masks is None else cells(masks, (path.shape[-2], path.shape[-1]))
        grid, kept = trajectory.steps, trajectory.kept
        return Case(model, trajectory.prompts, targets, steps, path, mask, masks, seed, grid, own, kept)

    for editor in editors:
        trajectory = editor.prepare(trajectory, case())
    return trajectory, bind_all(editors, case())


def _maker(trajectory: Trajectory) -> Inversion:
    made = trajectory.maker
    assert isinstance(made, Inversion)
    return made


def _listed(image: Any) -> list[Picturelike]:
    return [image] if is_picture(image) else list(image)


def _own(blend: Any, boost: Any, cases: int) -> tuple[dict[str, Any], ...]:
    """What belongs to each case alone: its blend words and its boosts, as fields of editors."""
    blends = [blend] * cases if blend is None or isinstance(blend[0], str) else list(blend)
    boosts = [boost] * cases if boost is None or isinstance(boost, Mapping) else list(boost)
    if len(blends) != cases or len(boosts) != cases:
        raise ReinvertError(f"{cases} pictures need {cases} blends and boosts, or one for all")
    own: list[dict[str, Any]] = []
    for words, boosted in zip(blends, boosts, strict=True):
        mine: dict[str, Any] = {} if boosted is None else {"boost": dict(boosted)}
        if words is not None:
            mine |= {"source_words": _words(words[0]), "target_words": _words(words[1])}
        own.append(mine)
    return tuple(own)


def _batch(image: Any, source: str | Sequence[str]) -> tuple[list[Picturelike], tuple[str, ...]]:
    pictures = _listed(image)
    sources = (source,) if isinstance(source, str) else tuple(source)
    if len(pictures) != len(sources):
        hint = "; give several pictures as a list" if is_picture(image) else ""
        raise ReinvertError(f"{len(pictures)} pictures need {len(pictures)} source prompts, not {len(sources)}{hint}")
    if not pictures:
        raise ReinvertError("give at least one picture")
    return pictures, sources


def _targets(target: str | Sequence[str] | None, cases: int) -> tuple[tuple[str, ...], ...]:
    """[target branch][case]: a list is several edits of one picture, or one edit for each of several."""
    prompts = (target,) if isinstance(target, str) else tuple(target or ())
    if not prompts:
        raise ReinvertError("give a target prompt (--target)")
    if cases == 1:
        return tuple((prompt,) for prompt in prompts)
    if len(prompts) != cases:
        raise ReinvertError(f"{cases} pictures need {cases} target prompts, not {len(prompts)}")
    return (prompts,)


def _inversion(inversion: str | Inversion, arguments: Mapping[str, Any]) -> Inversion:
    if isinstance(inversion, Inversion):
        if arguments:
            raise ReinvertError(f"set {', '.join(arguments)} on the inversion itself, or name it by a string")
        return inversion
    return registry.make("inversions", inversion, arguments)


def editor_names(editor: EditorLike) -> list[str | Editor]:
    """ "p2p+proximal" or a list, as a list."""
    if isinstance(editor, str):
        return [name.strip() for name in editor.split("+")]
    return [editor] if isinstance(editor, Editor) else [n for e in editor for n in editor_names(e)]


def _sort_arguments(
    inversion: str | Inversion, editor: EditorLike, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Which keyword belongs to the inversion and which to an editor; an unknown one is an error."""
    inverts = type(inversion) if isinstance(inversion, Inversion) else registry.find("inversions", inversion)
    edits = [type(e) if isinstance(e, Editor) else registry.find("editors", e) for e in editor_names(editor)]
    own = {f.name for f in registry.arguments(inverts)}
    theirs = {f.name for cls in [*edits, LocalBlend] for f in registry.arguments(cls)}
    for name in arguments:
        if name not in own | theirs:
            raise ReinvertError(
                f"neither the inversion nor the editor has an argument {name!r}; they have "
                f"{', '.join(sorted(own | theirs))}"
            )
    return (
        {n: v for n, v in arguments.items() if n in own},
        {n: v for n, v in arguments.items() if n in theirs and n not in own},
    )


def usual_inversion(editors: Sequence[Editor | type[Editor]]) -> str:
    """The inversion that is meant where none is named."""
    if any(editor.draws_start for editor in editors):
        return "none"
    return next((e.usual_inversion for e in editors if e.usual_inversion != "direct"), "direct")


def wants_blend(editors: Sequence[Editor], blended: bool, masked: bool) -> bool:
    """Whether local_blend is to be added: for blend words, or for a mask that no editor takes itself."""
    if any(isinstance(editor, LocalBlend) for editor in editors):
        return False
    return blended or (masked and not any(editor.takes_mask or editor.needs_mask for editor in editors))


def blended(
    editors: Sequence[Editor],
    words: tuple[str, str] | None,
    masked: bool,
    make: Callable[[], LocalBlend] = LocalBlend,
) -> tuple[Editor, ...]:
    """The editors, and local_blend (as `make` gives it) where blend words or a mask ask for it, with those words."""
    added = [*editors, make()] if wants_blend(editors, words is not None, masked) else list(editors)
    if words is None:
        return tuple(added)
    before, after = map(_words, words)
    mine = [replace(e, source_words=before, target_words=after) if isinstance(e, LocalBlend) else e for e in added]
    return tuple(mine)


def _editors(
    editor: EditorLike, arguments: Mapping[str, Any], blended: bool, masked: bool, boosted: bool
) -> tuple[Editor, ...]:
    """The editors in order, local_blend last where blend words or a mask ask for it."""
    made: list[Editor] = []
    for item in editor_names(editor):
        if isinstance(item, Editor):
            made.append(item)
            continue
        fields = {a.name for a in registry.arguments(registry.find("editors", item))}
        own = {n: v for n, v in arguments.items() if n in fields}
        made.append(registry.make("editors", item, own))
    if boosted and not any(isinstance(e, P2P) for e in made):
        raise ReinvertError("boost belongs to p2p; choose --editor p2p")
    if wants_blend(made, blended, masked):
        fields = {a.name for a in registry.arguments(LocalBlend)}
        made.append(LocalBlend(**{n: v for n, v in arguments.items() if n in fields}))
    return tuple(made)


def _words(given: str) -> tuple[str, ...]:
    """ "cat" -> ("cat",); "" -> (); words separated by commas are several."""
    return tuple(word.strip() for word in given.split(",") if word.strip())


def _own_prompts(editors: Sequence[Editor]) -> list[str]:
    """The prompts that editors were given beside the targets; their defaults are the methods' own."""
    given = [(f, getattr(e, f.name)) for e in editors for f in fields(e) if f.name in e.prompts]
    typed = [value for f, value in given if f.default is MISSING or value != f.default]
    texts = [text for value in typed for text in ([value] if isinstance(value, str) else value)]
    return [text for text in texts if not text.startswith("@")]  # a bank's file, which the editor opens


def _check_words(
    model: Backbone,
    editors: Sequence[Editor],
    sources: Sequence[str],
    targets: tuple[tuple[str, ...], ...],
    path: Tensor,
    steps: int,
    own: tuple[Mapping[str, Any], ...],
    masked: bool,
) -> None:
    """Bind once before anything is computed, so that a word that does not occur is an error now."""
    stand_in = torch.zeros(1, len(sources), 1, *path.shape[-2:])
    case = Case(model, tuple(sources), targets, steps, stand_in, grid_steps=steps, own=own)
    for e in editors:
        wordless = isinstance(e, LocalBlend) and not any(
            e.at(case, i).source_words or e.at(case, i).target_words for i in range(len(sources))
        )
        if not (wordless and masked):
            e.bind(case)


def _mask(
    mask: Any, prepared: Prepared | None, trajectory: Trajectory | None, max_pixels: int = MAX_PIXELS
) -> Tensor | None:
    """A user's mask over the fitted pictures, [case, 1, H, W] of 0 and 1."""
    if mask is None:
        return None
    if prepared is not None:
        fits = prepared.fits
    else:
        assert trajectory is not None
        if "fits" not in trajectory.info:
            raise ReinvertError("this trajectory does not tell how its pictures were fitted; leave the mask out")
        fits = tuple(Fit(**_fit_fields(f)) for f in trajectory.info["fits"])
    masks = [mask] * len(fits) if is_picture(mask) else list(mask)
    if len(masks) != len(fits):
        raise ReinvertError(f"{len(fits)} pictures need {len(fits)} masks, or one for all")
    opened = [open_mask(m, max_pixels=max_pixels) for m in masks]
    fitted = [fit_mask(picture, fit) for picture, fit in zip(opened, fits, strict=True)]
    stacked = torch.stack([torch.from_numpy(np.asarray(m, dtype=np.float32) / 255) for m in fitted])
    return stacked[:, None].round()


def _fit_fields(saved: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}


def _inverted(
    model: Backbone,
    prepared: Prepared,
    sources: tuple[str, ...],
    method: Inversion,
    steps: int,
    guidance: float,
    seed: int,
    watch: Watch | None,
) -> Trajectory:
    reason = method.lacks(model)
    if reason is not None:
        raise ReinvertError(reason)
    model.times(steps, (prepared.latents.shape[-2], prepared.latents.shape[-1]))  # refuses a number that is none
    pictures = to_tensor(prepared.pictures)
    stages = method.stages(Source(model, prepared.latents, sources, steps, guidance, seed, pictures))
    while True:
        try:
            progress = next(stages)
        except StopIteration as stop:
            trajectory: Trajectory = stop.value
            fits = [{k: getattr(f, k) for k in f.__dataclass_fields__} for f in prepared.fits]
            return replace(trajectory, info={**trajectory.info, "fits": fits, "seed": seed})
        if watch is not None:
            watch(progress)


def _settings(
    model: Backbone,
    trajectory: Trajectory,
    editors: Sequence[Editor],
    targets: tuple[tuple[str, ...], ...],
    guidance: float,
    seed: int,
    own: tuple[Mapping[str, Any], ...] = (),
) -> dict[str, Any]:
    """What is told about a run; "editors" has one list per case (a batch's cases may have fields of their own)."""
    cases = len(trajectory.prompts)
    stand_in = Case(model, trajectory.prompts, targets, trajectory.steps, trajectory.path, seed=seed, own=own)
    edited = [[{"name": e.name, **e.at(stand_in, i).settings} for e in editors] for i in range(cases)]
    return {
        "model": model.name,
        **model.additions,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "source": list(trajectory.prompts),
        "target": [list(t) for t in targets],
        "inversion": {"name": trajectory.inversion, **trajectory.settings},
        "editors": edited,
        "steps": trajectory.steps,
        "guidance": guidance,
        "seed": seed,
    }


def _results(
    model: Backbone,
    x: Tensor,
    targets: tuple[tuple[str, ...], ...],
    settings: dict[str, Any],
    prepared: Prepared | None,
) -> Iterator[Result]:
    """One result per case from the final latents [branch, case, channel, h, w]."""
    for i in range(x.shape[1]):
        pictures = [to_image(picture) for picture in model.decode(x[:, i].float())]
        own = {
            **settings,
            "source": settings["source"][i],
            "target": [t[i] for t in targets],
            "editors": settings["editors"][i],
        }
        fit = None if prepared is None else prepared.fits[i]
        yield Result(tuple(pictures[1:]), pictures[0], x[:, i].cpu(), 0, 0, 0.0, own, fit)


__all__ = ["Prepared", "Result", "edit", "editor_names", "invert", "prepare", "reconstruct"]
