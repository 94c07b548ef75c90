"""Trained editors, one per file; the file's name is the editor's name. `instruct` is their verb."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reinvert import registry
from reinvert.errors import ReinvertError
from reinvert.image import MAX_PIXELS, Picturelike

if TYPE_CHECKING:
    from reinvert.trained.base import Trained, TrainedResult, Watch


def instruct(
    model: Any,
    image: Picturelike,
    text: str,
    *,
    editor: str | Trained = "instruct_pix2pix",
    mask: Picturelike | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    max_pixels: int = MAX_PIXELS,
    watch: Watch | None = None,
    **arguments: Any,
) -> TrainedResult:
    """Edit a picture with a network that was trained for it: follow an instruction, or redraw a mask. No inversion.

    `model` is a folder in diffusers format, a Hub id, None for the editor's own, or the pipeline that the `load` of an
    editor gave (to edit many pictures). `text` is an instruction ("turn the cat into a dog"), for inpainting what the
    picture is to show. `editor` is a name ("instruct_pix2pix", "instruct_diffusion", "inpainting") or an instance;
    further keyword arguments are fields of the named one. Pictures are taken as by `edit`.

    Raises `ReinvertError` before anything is computed, and for a result that is not finite.
    """
    from reinvert.trained.base import Trained

    if model is None or isinstance(model, str) or hasattr(model, "__fspath__"):
        arguments = {**({} if model is None else {"model": str(model)}), **arguments}
        model = None
    chosen: Any = registry.make("trained", editor, arguments) if isinstance(editor, str) else editor
    if not isinstance(chosen, Trained) or (chosen is editor and arguments):
        raise ReinvertError(
            "editor is the name of a trained editor, or one with its settings, which then takes no more"
        )
    if model is not None and not hasattr(model, "scheduler"):
        raise ReinvertError(
            f"model is a folder, a Hub id, None or the pipeline that {chosen.name}'s load gave, not a "
            f"{type(model).__name__}"
        )
    pipe = chosen.load(device, dtype) if model is None else model
    return chosen.edit(pipe, image, text, mask=mask, seed=seed, max_pixels=max_pixels, watch=watch)


__all__ = ["instruct"]
