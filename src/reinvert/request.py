"""What is to be done with pictures or with a trajectory: one value, checked before anything of it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from annotated_types import Ge, Len
from pydantic import AfterValidator
from torch import Tensor

from reinvert import registry
from reinvert.backbones.base import Backbone
from reinvert.backbones.lock import exclusive
from reinvert.backbones.memory import Trial, at_once, free_cached, largest
from reinvert.editors.base import Case, Editor, bind_all, cells
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError, out_of_memory, warn
from reinvert.files import check_value, shown
from reinvert.files.door import Says, Seed, whole_text
from reinvert.hooks import Hooks
from reinvert.image import MAX_PIXELS, Fit, FitMode, Picturelike, is_picture, to_image
from reinvert.inversions.base import Inversion, Progress, Source
from reinvert.likeness import check_pictures
from reinvert.pairs import check_pair
from reinvert.precision import around
from reinvert.prepared import Prepared, fitted_masks, pixels, prepare, saved_fits
from reinvert.prompts import check_words, warn_of_prompts
from reinvert.result import Result
from reinvert.trajectory import Trajectory

Watch = Callable[[Progress], None]
T = TypeVar("T")
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
"""What the arguments of a request take that have a plain type."""


@dataclass(frozen=True)
class Request:
    """An inversion, a reconstruction or an edit that can be carried out.

    `Request.of` makes it and raises `ReinvertError` for whatever is wrong, so that the only errors left are those of
    the computation itself. `given` are the pictures, fitted and encoded, or a trajectory made from them. `sources` has
    a prompt per case, `targets` [target branch][case]; without targets the source is rendered again. `masks` are
    [case, 1, H, W] of 0 and 1, and `own` has the blend words and boosts of each case.
    """

    model: Backbone
    given: Prepared | Trajectory
    sources: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    inversion: Inversion
    editors: tuple[Editor, ...]
    steps: int
    guidance: float
    seed: int
    batch_size: int
    single: bool
    """Whether one picture was given, not a list of them."""
    masks: Tensor | None = None
    own: tuple[Mapping[str, Any], ...] = ()
    watch: Watch | None = None
    largest: int = 0
    """Where `batch_size` is only a first guess: how far a larger one is tried. 0: it is what was asked for."""

    @classmethod
    @exclusive
    def of(
        cls,
        model: Backbone,
        image: Picturelike | Sequence[Picturelike] | Trajectory,
        source: str | Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        *,
        inversion: str | Inversion | None = None,
        editor: EditorLike | None = None,
        arguments: Mapping[str, Any],
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
    ) -> Request:
        """The arguments of `reinvert.edit`, checked; with neither `target` nor `editor` those of `invert` and
        `reconstruct`. Methods that are not named are the model's usual ones."""
        check_model(model)
        if editor is None and target is not None:
            editor = model.usual.editor
        _check_types(source=source, target=target, blend=blend, boost=boost)
        _check_types(max_pixels=max_pixels, batch_size=batch_size, any_words=any_words, force=force)
        _check_methods(inversion or model.usual.inversion, "" if editor is None else editor)
        if watch is not None and not callable(watch):
            raise ReinvertError("watch takes a function, which is called with each Progress")
        trajectory = image if isinstance(image, Trajectory) else None
        asked, (steps, guidance), seed = steps, usual(model, steps, guidance, trajectory), checked_seed(seed)

        if editor is None:
            inversion, for_inversion, for_editors = inversion or model.usual.inversion, arguments, {}
        else:
            inversion = inversion or usual_inversion(_named(editor), model.usual.inversion)
            for_inversion, for_editors = _sort_arguments(inversion, editor, arguments)
        own: tuple[Mapping[str, Any], ...] = ()
        editors: tuple[Editor, ...] = ()
        if editor is not None:
            own = _own(blend, boost, len(trajectory.prompts if trajectory is not None else _listed(image)))
            editors = _editors(editor, for_editors, blend is not None, mask is not None, boost is not None)

        pictures: list[Picturelike] = []
        if trajectory is not None:
            if source is not None and tuple([source] if isinstance(source, str) else source) != trajectory.prompts:
                raise ReinvertError(f"this trajectory was made for {trajectory.prompts[0]!r}; leave --source out")
            trajectory.check(model)
            trajectory.check_steps(asked)
            sources, single = trajectory.prompts, len(trajectory.prompts) == 1
        elif source is None:
            raise ReinvertError("say what the picture shows: source=... (--source)")
        else:
            pictures, sources = _batch(image, source)
            single = is_picture(image)
        targets = () if editor is None else _targets(target, len(sources))
        prompts = [*([] if trajectory is not None else sources), *(prompt for branch in targets for prompt in branch)]
        check_words(model.name, model.world, [*prompts, *_own_prompts(editors)], any_words)
        method = _inversion(inversion, for_inversion) if trajectory is None else _maker(trajectory)
        if editors:
            check_pair(method, editors, masked=mask is not None, guidance=guidance, model=model)
        elif trajectory is None and (reason := method.lacks(model)) is not None:
            raise ReinvertError(reason)
        elif mask is not None and not method.takes_mask:
            raise ReinvertError(f"inversion {method.name} has no use for a mask here; give it to the edit")

        if trajectory is None:
            model.times(steps, model.latent_shape[1:])  # refuses a number that is none
            given = prepare(model, pictures, fit, max_pixels, encode=method.encode, seed=seed)
            check_pictures(model, given.pictures, given.latents, force)
            path, latents, walked = given.latents[None], given.latents, steps
        else:
            given, path, latents, walked = trajectory, trajectory.path, trajectory.start, trajectory.steps
        if editors:
            _check_bound(model, editors, sources, targets, path, walked, own, mask is not None)
        masks = None
        if mask is not None:
            fits = given.fits if isinstance(given, Prepared) else saved_fits(given.info)
            masks = fitted_masks(mask, fits, max_pixels)
        warn_of_prompts(model.name, model.words, prompts)
        methods = editors if trajectory is not None else (method, *editors)
        _warn_of_precision(model, methods)
        size = batch_size or _at_once(model, latents, 1 + len(targets), methods)
        return cls(
            model, given, sources, targets, method, editors, steps, guidance, seed, size, single, masks, own, watch,
            0 if batch_size else largest(model.device, size),
        )  # fmt: skip

    def trajectory(self) -> Trajectory:
        """All cases, inverted."""
        return Trajectory.join(list(self._in_batches(self._inverted)))

    def results(self) -> list[Result]:
        """Every case rendered to its targets. The counts and the seconds of each are those of all together."""
        stage = "editing" if self.targets else "reconstructing"

        def rendered(part: slice, watch: Watch | None) -> list[Result]:
            path, targets, own = self._inverted(part, watch), tuple(b[part] for b in self.targets), self.own[part]
            masks, hooks = None if self.masks is None else self.masks[part], Hooks()
            if self.editors:
                path, hooks = prepared_edit(self.model, path, self.editors, targets, masks, self.seed, own)
            x = path.start.expand(1 + len(targets), *path.start.shape)  # the result if no step is walked
            with closing(path.walk(self.model, targets, hooks, self.guidance)) as walked:
                for moment, state in walked:
                    x = state.x
                    if watch is not None:
                        watch(Progress(stage, moment.index + 1, moment.steps, x, moment))
            fits = self.given.fits[part] if isinstance(self.given, Prepared) else None
            return list(self._rendered(x, targets, self._settings(path, targets, own), fits))

        return [result for batch in self._in_batches(rendered) for result in batch]

    def _in_batches(self, work: Callable[[slice, Watch | None], T]) -> Iterator[T]:
        """The work on all cases, batch by batch. Where nobody chose the size it is found by trial: after a batch for
        which the memory is not enough come halves of it, after one that went through a larger one."""
        cases, done, number = len(self.sources), 0, 0
        trial = Trial(self.batch_size, self.largest)
        while done < cases:
            size = min(trial.size, cases - done)
            batches = number + -(-(cases - done) // trial.size)
            try:
                result = work(slice(done, done + size), _numbered(self.watch, number, batches))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error) or not trial.halve(size):
                    raise
                result = None
            # Outside of the `except`, whose error holds on to all that the failed batch had allocated.
            if result is None:
                free_cached(self.model.device)
                continue
            yield result
            done, number = done + size, number + 1
            trial.double(size)

    def _inverted(self, part: slice, watch: Watch | None) -> Trajectory:
        """Some cases' trajectory: what was given, or computed now."""
        if isinstance(self.given, Trajectory):
            return self.given.cases(part)
        given = self.given[part]
        pictures, (h, w) = pixels(self.model, given.pictures), given.latents.shape[-2:]
        mask = None if self.masks is None else cells(self.masks[part], (h, w))
        source = Source(self.model, given.latents, self.sources[part], self.steps, self.guidance, self.seed, pictures)
        with closing(self.inversion.stages(replace(source, mask=mask, drawn=self.inversion.drawn))) as stages:
            while True:
                try:
                    progress = next(stages)
                except StopIteration as stop:
                    trajectory: Trajectory = stop.value
                    fits = [vars(fit) for fit in given.fits]
                    return replace(trajectory, info={**trajectory.info, "fits": fits, "seed": self.seed})
                if watch is not None:
                    watch(progress)

    def _settings(
        self, path: Trajectory, targets: tuple[tuple[str, ...], ...], own: tuple[Mapping[str, Any], ...]
    ) -> dict[str, Any]:
        """A batch's settings; "editors" has one list per case (cases may have fields of their own)."""
        stand_in = Case(self.model, path.prompts, targets, path.steps, path.path, seed=self.seed, own=own)
        cases = range(len(path.prompts))
        edited = [[{"name": e.name, **e.at(stand_in, i).settings} for e in self.editors] for i in cases]
        return {
            "model": self.model.name,
            **self.model.additions,
            "device": str(self.model.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "source": list(path.prompts),
            "target": [list(t) for t in targets],
            "inversion": {"name": path.inversion, **path.settings},
            "editors": edited,
            "steps": path.steps,
            "guidance": self.guidance,
            "seed": self.seed,
        }

    def _rendered(
        self, x: Tensor, targets: tuple[tuple[str, ...], ...], settings: dict[str, Any], fits: tuple[Fit, ...] | None
    ) -> Iterator[Result]:
        """One result per case from the final latents [branch, case, channel, h, w]."""
        for i in range(x.shape[1]):
            first, *rest = (to_image(picture) for picture in self.model.decode(x[:, i]))
            own = {
                **settings,
                "source": settings["source"][i],
                "target": [t[i] for t in targets],
                "editors": settings["editors"][i],
            }
            fit = None if fits is None else fits[i]
            yield Result(tuple(rest) if targets else (first,), first, x[:, i].cpu(), 0, 0, 0.0, own, fit)


def _numbered(watch: Watch | None, number: int, batches: int) -> Watch | None:
    """Who watches one of several batches is told which one it is."""
    if watch is None or batches == 1:
        return watch
    return lambda step: watch(replace(step, stage=f"{step.stage}, batch {number + 1} of {batches}"))


def check_model(model: Any) -> None:
    """Raise `ReinvertError` for what is no model."""
    if not hasattr(model, "tally"):
        raise ReinvertError("the first argument is the model itself: model = reinvert.load('picturebook')")


def _check_types(**given: Any) -> None:
    """Raise `ReinvertError` for a value of another type than its argument takes, before anything else looks at it."""
    for name, value in given.items():
        check_value(_TYPES[name], value, name)


def _check_methods(inversion: Any, editor: Any) -> None:
    """Raise `ReinvertError` for what is neither a method nor a method's name."""
    edits: list[Any] = list(editor) if isinstance(editor, list | tuple) else [editor]
    for name, of, kind, given, value in (
        ("inversion", "an inversion", Inversion, [inversion], inversion),
        ("editor", "an editor", Editor, edits, editor),
    ):
        if not given or not all(isinstance(item, str | kind) for item in given):
            raise ReinvertError(f"{name} is {shown(repr(value))}; it takes the name of {of}, or {of} itself")


def _warn_of_precision(model: Backbone, methods: Sequence[Any]) -> None:
    learning = [method.name for method in methods if method.takes_gradients]
    if learning and model.dtype == torch.float16:
        warn(
            f"{learning[0]} takes gradients through the network, which vanish in float16; load the model with "
            "dtype='float32' (--dtype float32)"
        )


def _at_once(model: Backbone, latents: Tensor, branches: int, methods: Sequence[Any]) -> int:
    """How many cases go through the model together, where nobody says so."""
    h, w = latents.shape[-2:]
    gradients = any(method.takes_gradients for method in methods)
    return at_once(model, (h, w), branches * (2 if model.null_side else 1), gradients)


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


def checked_seed(seed: Any) -> int:
    """The seed, or a `ReinvertError` for what is none."""
    return check_value(Seed, _plain(seed), "seed")


def _plain(number: Any) -> Any:
    """A number of numpy's or of torch's as Python's own."""
    return number.item() if isinstance(number, np.generic | Tensor) and not number.shape else number


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
    if around(model.dtype) == torch.float64:
        trajectory = trajectory.widened()

    def case() -> Case:
        path, steps = trajectory.path.to(model.device), trajectory.walked
        mask = None if masks is None else cells(masks, (path.shape[-2], path.shape[-1]))
        grid, kept, drawn = trajectory.steps, trajectory.kept, _maker(trajectory).drawn
        return Case(model, trajectory.prompts, targets, steps, path, mask, masks, seed, grid, own, kept, drawn)

    for editor in editors:
        trajectory = editor.prepare(trajectory, case())
    return trajectory, bind_all(editors, case())


def _maker(trajectory: Trajectory) -> Inversion:
    made = trajectory.maker
    assert isinstance(made, Inversion)
    return made


def _named(editor: EditorLike) -> list[Editor | type[Editor]]:
    return [registry.find("editors", e) if isinstance(e, str) else e for e in editor_names(editor)]


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
    edits = [type(e) if isinstance(e, Editor) else e for e in _named(editor)]
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


def usual_inversion(editors: Sequence[Editor | type[Editor]], usual: str = "direct") -> str:
    """The inversion that is meant where none is named; `usual` is the model's, for editors without one of their own."""
    if any(editor.draws_start for editor in editors):
        return "none"
    return next((e.usual_inversion for e in editors if e.usual_inversion), usual)


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
    return [text for value in typed for text in ([value] if isinstance(value, str) else value)]


def _check_bound(
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
