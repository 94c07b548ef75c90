"""The public verbs: edit, invert, reconstruct. Each takes one picture or a list of them, makes a `Request`, and carries
it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from PIL import Image

from reinvert.backbones.base import Backbone
from reinvert.backbones.lock import exclusive
from reinvert.backbones.meter import Meter
from reinvert.image import MAX_PIXELS, FitMode, Picturelike
from reinvert.inversions.base import Inversion
from reinvert.prepared import Prepared, prepare
from reinvert.request import (
    EditorLike,
    Request,
    Watch,
    blended,
    check_model,
    editor_names,
    prepared_edit,
    usual,
    usual_inversion,
    wants_blend,
)
from reinvert.result import Result
from reinvert.trajectory import Trajectory

Picture = Image.Image
Pictures = list[Picture] | list[str] | list[Path] | list[Any] | tuple[Picturelike, ...]


@exclusive
def invert(
    model: Backbone,
    image: Picturelike | Sequence[Picturelike],
    source: str | Sequence[str],
    *,
    inversion: str | Inversion | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    mask: Picturelike | Sequence[Picturelike] | None = None,
    fit: FitMode = "crop",
    max_pixels: int = MAX_PIXELS,
    batch_size: int | None = None,
    any_words: bool = False,
    force: bool = False,
    watch: Watch | None = None,
    **arguments: Any,
) -> Trajectory:
    """Invert one picture, or a list of them as one batch, and return the `Trajectory`.

    `inversion` is a registered name or an instance, by default the model's usual one; further keyword arguments are
    fields of the named method.
    `guidance` is the scale of the edit to come (null-text inversion is fitted to it), `mask` (white = edit) its region,
    for methods that invert for one (kv_inv with `separate`). `any_words` lets words through
    that a model of a small world was trained without, `force` pictures that are none of that world.
    `batch_size` pictures of a list are inverted together, by default as many as fit the memory (see `edit`). `watch` is
    called with each `Progress`.
    """
    request = Request.of(
        model,
        image,
        source,
        inversion=inversion,
        arguments=arguments,
        steps=steps,
        guidance=guidance,
        seed=seed,
        mask=mask,
        fit=fit,
        max_pixels=max_pixels,
        batch_size=batch_size,
        any_words=any_words,
        force=force,
        watch=watch,
    )
    return request.trajectory()


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
    editor: EditorLike | None = None,
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
    those that are not named are the model's usual ones (its `usual`: "direct" and "p2p" on diffusion models, "flowedit"
    on flows), or the inversion that is the editor's own, "none" where it begins from noise.
    `blend=("cat", "dog")` adds local_blend on those words; `mask` (white = edit) replaces the words; `boost` is P2P's.
    For a list of pictures each of the three may be a list, one per picture.
    Further keyword arguments are fields of the inversion or of an editor. `steps` and `guidance` default to what is
    usual for the model. `seed` feeds the methods that draw noise; those of this package's P2P family draw none.
    `max_pixels` bounds the pictures that are decoded. `batch_size` pictures of a list go through the model together; by
    default as many as fit half of the free memory, at most eight. `any_words` lets words through that a model of a
    small world was trained without, `force` pictures that are none of that world.

    Raises `ReinvertError` (one sentence) for bad input before anything is computed, and `NonFiniteError`.
    """
    check_model(model)
    meter = Meter(model.tally)
    request = Request.of(
        model,
        image,
        source,
        target or (),  # without one it is refused, not rendered again
        inversion=inversion,
        editor=editor,
        arguments=arguments,
        steps=steps,
        guidance=guidance,
        seed=seed,
        blend=blend,
        boost=boost,
        mask=mask,
        fit=fit,
        max_pixels=max_pixels,
        batch_size=batch_size,
        any_words=any_words,
        force=force,
        watch=watch,
    )
    return _measured(request, meter)


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
    inversion: str | Inversion | None = None,
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
    check_model(model)
    meter = Meter(model.tally)
    request = Request.of(
        model,
        image,
        source,
        inversion=inversion,
        arguments=arguments,
        steps=steps,
        guidance=guidance,
        seed=seed,
        fit=fit,
        max_pixels=max_pixels,
        batch_size=batch_size,
        any_words=any_words,
        force=force,
        watch=watch,
    )
    return _measured(request, meter)


def _measured(request: Request, meter: Meter) -> Any:
    """The results with what they took: one for one picture, else a list."""
    results = request.results()
    spent = vars(meter.spent())
    results = [replace(result, **spent) for result in results]
    return results[0] if request.single else results


__all__ = [
    "Prepared",
    "Request",
    "Result",
    "blended",
    "edit",
    "editor_names",
    "invert",
    "prepare",
    "prepared_edit",
    "reconstruct",
    "usual",
    "usual_inversion",
    "wants_blend",
]
