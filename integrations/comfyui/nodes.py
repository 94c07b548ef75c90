"""The nodes, each of which calls one of reinvert's verbs.

ComfyUI caches what they give by their inputs, so a picture is inverted once, however often its target is changed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

import reinvert
from reinvert import ReinvertError, Trajectory
from reinvert.image import FitMode, contact_sheet, open_image
from reinvert.models import DTYPES, check_name
from reinvert.regions import SEGMENTER, THRESHOLD, load_segmenter

from . import host, methods
from .pictures import image_of, mask_of, masks_of, pictures_of

MODEL, TRAJECTORY, INVERSION, EDITOR = "REINVERT_MODEL", "REINVERT_TRAJECTORY", "REINVERT_INVERSION", "REINVERT_EDITOR"
LARGEST_SEED = 2**53 - 1
"""The largest whole number that a browser keeps exactly."""
FITS = list(get_args(FitMode))

Inputs = dict[str, Any]


def _text(tooltip: str, default: str = "", *, multiline: bool = False) -> tuple[str, Inputs]:
    return "STRING", {"default": default, "multiline": multiline, "tooltip": tooltip}


def _run() -> Inputs:
    """Steps, guidance and seed of a run; the first two default to what is usual for the model."""
    return {
        "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "sampling steps; 0 is the model's usual"}),
        "guidance": ("FLOAT", {
            "default": -1.0, "min": -1.0, "max": 100.0, "step": 0.5, "tooltip": "scale; -1 is the model's usual",
        }),
        "seed": ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED, "tooltip": "for methods that draw noise"}),
    }  # fmt: skip


def _world() -> Inputs:
    """What lets words and pictures through that a model of a small world was trained without."""
    return {
        "any_words": ("BOOLEAN", {"default": False, "tooltip": "take words that picturebook was trained without"}),
        "force": ("BOOLEAN", {"default": False, "tooltip": "take photographs for picturebook"}),
    }


def _usual(steps: int, guidance: float) -> Inputs:
    return {"steps": steps or None, "guidance": None if guidance < 0 else guidance}


def _for_all(text: str, count: int) -> Any:
    """One prompt for each picture of a batch."""
    return text if count == 1 else [text] * count


class LoadModel:
    """Load a model for reinvert's other nodes."""

    TITLE = "reinvert Load Model"
    DESCRIPTION = (
        "picturebook (bundled), a folder in diffusers format, a .safetensors file (of ComfyUI's checkpoints too), or a "
        "Hub id such as org/model."
    )
    CATEGORY = "reinvert"
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "name": _text(cls.DESCRIPTION, "picturebook"),
                "device": (["auto", *host.KNOWN_DEVICES], {"default": "auto", "tooltip": "auto is ComfyUI's own"}),
                "dtype": (["auto", *dict.fromkeys(DTYPES.values())], {"default": "auto"}),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, name: str | None = None) -> bool | str:
        """ComfyUI leaves out what another node gives, which is not known yet; that is checked when the node runs."""
        if name is None:
            return True
        try:
            check_name(host.checkpoint(name))
        except ReinvertError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, name: str | None = None, **_: Any) -> str:
        """What a local model's files are now: other files of the same name are loaded again."""
        place = Path(host.checkpoint(name or ""))
        files = [place] if place.is_file() else sorted(place.rglob("*")) if name and place.is_dir() else []
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        return hashlib.sha256(json.dumps(stats).encode("utf-8", "backslashreplace")).hexdigest()

    def load(self, name: str, device: str, dtype: str) -> tuple[Any]:
        with host.as_usual():
            return (reinvert.load(host.checkpoint(name), host.device(device), dtype),)


class Draw:
    """Draw a picturebook scene, to have a picture to edit."""

    TITLE = "reinvert Draw"
    DESCRIPTION = "Draw a picturebook scene from its caption: a picture that the bundled model can edit."
    CATEGORY = "reinvert"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "caption")
    FUNCTION = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "caption": _text("such as: a red cat wearing a hat on grass", "a red cat on grass"),
                "seed": ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED, "tooltip": "what the words leave open"}),
                "size": ("INT", {"default": 64, "min": 16, "max": 4096, "tooltip": "pixels a side"}),
            }
        }

    def draw(self, caption: str, seed: int, size: int) -> tuple[Tensor, str]:
        return image_of([reinvert.draw(caption, seed=seed, size=size)]), caption


class Invert:
    """Invert pictures, to edit them many times."""

    TITLE = "reinvert Invert"
    DESCRIPTION = "Invert a picture, or a batch, into the model; the trajectory can be edited any number of times."
    CATEGORY = "reinvert"
    RETURN_TYPES = (TRAJECTORY,)
    RETURN_NAMES = ("trajectory",)
    FUNCTION = "invert"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        names = list(dict.fromkeys(methods.split(pair)[0] for pair in methods.legal_pairs()))
        return {
            "required": {
                "model": (MODEL, {}),
                "image": ("IMAGE", {}),
                "source": _text("what the picture shows", multiline=True),
                "inversion": (names, {"default": names[0], "tooltip": "see `reinvert methods`"}),
                **_run(),
                "fit": (FITS, {"default": FITS[0], "tooltip": "what becomes of a picture that is not square"}),
                **_world(),
            },
            "optional": {"inversion_settings": (INVERSION, {"tooltip": "takes the place of the name above"})},
        }

    def invert(
        self,
        model: Any,
        image: Tensor,
        source: str,
        inversion: str,
        steps: int,
        guidance: float,
        seed: int,
        fit: Any,
        any_words: bool,
        force: bool,
        inversion_settings: Any = None,
    ) -> tuple[Trajectory]:
        pictures = pictures_of(image)
        with host.as_usual():
            path = reinvert.invert(
                model,
                pictures,
                [source] * len(pictures),
                inversion=inversion_settings or inversion,
                **_usual(steps, guidance),
                seed=seed,
                fit=fit,
                any_words=any_words,
                force=force,
                watch=host.watcher(),
            )
        return (path,)


class _Edits:
    """What the two editing nodes share."""

    CATEGORY = "reinvert"
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("edited", "reconstruction", "settings")
    OUTPUT_TOOLTIPS = ("", "the source rendered again", "how it was made, as JSON")
    FUNCTION = "edit"
    BLEND: ClassVar[Inputs] = {
        "blend_source": _text("change only where this word of the source looks (local_blend); may be empty"),
        "blend_target": _text("change only where this word of the target looks (local_blend); may be empty"),
    }
    MORE: ClassVar[Inputs] = {
        "mask": ("MASK", {"tooltip": "change only what is white; of the picture's size"}),
        "editor_settings": (EDITOR, {"tooltip": "takes the place of the name above"}),
    }

    @staticmethod
    def _blend(source: str, target: str) -> tuple[str, str] | None:
        return (source, target) if source.strip() or target.strip() else None

    @staticmethod
    def _outputs(results: Any) -> tuple[Tensor, Tensor, str]:
        each = results if isinstance(results, list) else [results]
        settings = [dict(result.settings) for result in each]
        told = json.dumps(settings[0] if len(settings) == 1 else settings, indent=2, ensure_ascii=False, default=str)
        return image_of([r.image for r in each]), image_of([r.reconstruction for r in each]), told


class Edit(_Edits):
    """Edit pictures with words: inversion and edit in one."""

    TITLE = "reinvert Edit"
    DESCRIPTION = "Edit a picture, or a batch, with words. Only pairs of methods that can run together are offered."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": (MODEL, {}),
                "image": ("IMAGE", {}),
                "source": _text("what the picture shows", multiline=True),
                "target": _text("what it is to show", multiline=True),
                "pair": (
                    [methods.OF_THE_MODEL, *methods.legal_pairs()],
                    {"default": methods.OF_THE_MODEL, "tooltip": "inversion + editor"},
                ),
                **_run(),
                "fit": (FITS, {"default": FITS[0], "tooltip": "what becomes of a picture that is not square"}),
                **cls.BLEND,
                **_world(),
            },
            "optional": {
                **cls.MORE,
                "inversion_settings": (INVERSION, {"tooltip": "takes the place of the name above"}),
            },
        }

    def edit(
        self,
        model: Any,
        image: Tensor,
        source: str,
        target: str,
        pair: str,
        steps: int,
        guidance: float,
        seed: int,
        fit: Any,
        blend_source: str,
        blend_target: str,
        any_words: bool,
        force: bool,
        mask: Tensor | None = None,
        editor_settings: tuple[Any, ...] = (),
        inversion_settings: Any = None,
    ) -> tuple[Tensor, Tensor, str]:
        pictures = pictures_of(image)
        inversion, editor = (None, None) if pair == methods.OF_THE_MODEL else methods.split(pair)
        with host.as_usual():
            results = reinvert.edit(
                model,
                pictures,
                source=[source] * len(pictures),
                target=_for_all(target, len(pictures)),
                inversion=inversion_settings or inversion,
                editor=list(editor_settings) or editor,
                mask=masks_of(mask, len(pictures)),
                blend=self._blend(blend_source, blend_target),
                **_usual(steps, guidance),
                seed=seed,
                fit=fit,
                any_words=any_words,
                force=force,
                watch=host.watcher(),
            )
        return self._outputs(results)


class EditTrajectory(_Edits):
    """Edit what was inverted: nothing is inverted again."""

    TITLE = "reinvert Edit Trajectory"
    DESCRIPTION = "Edit an inverted picture, or a batch, with words; changing the words inverts nothing again."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        editors = list(methods.editors_of_trajectories())
        return {
            "required": {
                "model": (MODEL, {}),
                "trajectory": (TRAJECTORY, {}),
                "target": _text("what it is to show", multiline=True),
                "editor": (editors, {"default": editors[0], "tooltip": "see `reinvert methods`"}),
                **{name: widget for name, widget in _run().items() if name != "steps"},
                **cls.BLEND,
                "any_words": _world()["any_words"],
            },
            "optional": dict(cls.MORE),
        }

    def edit(
        self,
        model: Any,
        trajectory: Trajectory,
        target: str,
        editor: str,
        guidance: float,
        seed: int,
        blend_source: str,
        blend_target: str,
        any_words: bool,
        mask: Tensor | None = None,
        editor_settings: tuple[Any, ...] = (),
    ) -> tuple[Tensor, Tensor, str]:
        count = len(trajectory.prompts)
        with host.as_usual():
            results = reinvert.edit(
                model,
                trajectory,
                target=_for_all(target, count),
                editor=list(editor_settings) or editor,
                mask=masks_of(mask, count),
                blend=self._blend(blend_source, blend_target),
                guidance=_usual(0, guidance)["guidance"],
                seed=seed,
                any_words=any_words,
                watch=host.watcher(),
            )
        return self._outputs(results)


class Compare:
    """One sheet of several pairs of methods on one picture."""

    TITLE = "reinvert Compare"
    DESCRIPTION = "Edit one picture with several pairs of methods: a sheet, and the edits as a batch in its order."
    CATEGORY = "reinvert"
    RETURN_TYPES = ("IMAGE", "IMAGE")
    RETURN_NAMES = ("sheet", "edited")
    FUNCTION = "compare"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "model": (MODEL, {}),
                "image": ("IMAGE", {}),
                "source": _text("what the picture shows", multiline=True),
                "target": _text("what it is to show", multiline=True),
                "pairs": _text(
                    "inversion + editor, one pair a line; editors may be joined: direct + p2p + proximal",
                    f"{methods.USUAL}\nddim + p2p\nedit_friendly + prompt",
                    multiline=True,
                ),
                **_run(),
                "fit": (FITS, {"default": FITS[0], "tooltip": "what becomes of a picture that is not square"}),
                **_world(),
            },
            "optional": {"mask": _Edits.MORE["mask"]},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, pairs: str | None = None) -> bool | str:
        if pairs is None:
            return True
        listed = methods.lines(pairs)
        if not listed:
            return f"name the pairs to compare, one a line, such as {methods.USUAL}"
        reasons = (f"{pair}: {why}" for pair in listed if (why := methods.why_not(pair)) is not None)
        return next(reasons, True)

    def compare(
        self,
        model: Any,
        image: Tensor,
        source: str,
        target: str,
        pairs: str,
        steps: int,
        guidance: float,
        seed: int,
        fit: Any,
        any_words: bool,
        force: bool,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        pictures, listed = pictures_of(image), methods.lines(pairs)
        if len(pictures) != 1:
            raise ReinvertError(f"Compare takes one picture at a time, not {len(pictures)}")
        run: Inputs = {**_usual(steps, guidance), "seed": seed, "any_words": any_words, "watch": host.watcher()}
        masks, paths, results = masks_of(mask, 1), dict[str, Trajectory](), list[Any]()
        with host.as_usual():
            for inversion, editor in map(methods.split, listed):
                if inversion not in paths:  # pairs of one inversion share it
                    paths[inversion] = reinvert.invert(
                        model, pictures[0], source, inversion=inversion, fit=fit, force=force, **run
                    )
                results.append(reinvert.edit(model, paths[inversion], target=target, editor=editor, mask=masks, **run))
        rows = [[open_image(pictures[0]), *(r.reconstruction for r in results)], [None, *(r.image for r in results)]]
        sheet = contact_sheet(rows, column_titles=["source", *listed], row_titles=["reconstruction", target])
        return image_of([sheet]), image_of([r.image for r in results])


class Region:
    """The mask of what words name in pictures."""

    TITLE = "reinvert Region"
    DESCRIPTION = (
        "Name what may change, such as: the cat. The mask of it, for the mask input of reinvert's other nodes."
    )
    CATEGORY = "reinvert"
    RETURN_TYPES = ("MASK",)
    RETURN_NAMES = ("mask",)
    FUNCTION = "find"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {
                "image": ("IMAGE", {}),
                "words": _text("what may change, such as: the red cat", "the cat"),
                "name": _text(
                    f"picturebook finds it in its drawings; for photographs {SEGMENTER}, or a folder of a CLIPSeg",
                    "picturebook",
                ),
                "threshold": ("FLOAT", {
                    "default": THRESHOLD, "min": 0.0, "max": 1.0, "step": 0.05,
                    "tooltip": "for photographs: less of it makes a larger region",
                }),
            }
        }  # fmt: skip

    @classmethod
    def VALIDATE_INPUTS(cls, words: str | None = None) -> bool | str:
        return words is None or bool(words.strip()) or "name what may change, such as: the cat"

    def find(self, image: Tensor, words: str, name: str, threshold: float) -> tuple[Tensor]:
        with host.as_usual():
            segmenter = load_segmenter(name, threshold=threshold, device=host.device("auto"))
            masks = [reinvert.region(picture, words, model=segmenter) for picture in pictures_of(image)]
        return (torch.cat([mask_of(mask) for mask in masks]),)


NODES = (LoadModel, Draw, Invert, Edit, EditTrajectory, Compare, Region)
