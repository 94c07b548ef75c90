"""What edit, invert and reconstruct share: options, opening what is given, loading the model."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from PIL import Image

from reinvert import captions
from reinvert.cli.progress import waiting
from reinvert.cli.terminal import say
from reinvert.errors import ReinvertError
from reinvert.files import shown
from reinvert.files.trajectory import SUFFIX
from reinvert.image import MAX_PIXELS, FitMode, open_image, open_mask, to_image
from reinvert.models import BUNDLED, Usual, check_device, check_dtype, check_name, check_steps, loras_of, usual_of
from reinvert.outputs import file_record, read_sidecar
from reinvert.values import number, positive, seed, steps, text

if TYPE_CHECKING:  # they import torch: wrong arguments and missing files are answered before
    from reinvert.backbones import Backbone
    from reinvert.trajectory import Trajectory

DEFAULT_MODEL: Final = "picturebook"
AUTO: Final = "auto"
"""The source prompt that a model is to say."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="picturebook, a folder in diffusers format, FILE.safetensors, or a Hub id [picturebook]",
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE[:X]",
        help="add a LoRA (.safetensors) to the model, X times as strongly [1]; may be given several times",
    )
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="CLIP's tokenizer, for a checkpoint in one file where it is not found"
    )
    parser.add_argument("--vae", metavar="FOLDER", help="another VAE in diffusers format")
    parser.add_argument(
        "--offload",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let whole parts of the model take turns on the GPU [where it would not fit]",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "full", "fp8"),
        default="auto",
        help="keep weights as they are or in 8 bits [full; fp8 where it would not fit]",
    )
    parser.add_argument("--tile-vae", action="store_true", help="encode and decode large pictures in tiles")
    parser.add_argument(
        "--compile",
        choices=("off", "blocks", "whole"),
        default="off",
        help="compile the network: the first picture waits for it, many of one size gain by it [off]",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps [auto]")
    parser.add_argument("--dtype", default="auto", help="auto, float64, float32, bfloat16 or float16 [auto]")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def check_model_options(args: argparse.Namespace) -> None:
    """Refuse names of models, devices and dtypes that there cannot be, before torch is loaded."""
    if getattr(args, "model", None) is not None:
        check_name(args.model)
    check_device(args.device)
    check_dtype(args.dtype)
    args.lora = loras_of(getattr(args, "lora", []))
    check_steps(getattr(args, "model", None) or DEFAULT_MODEL, getattr(args, "steps", None))


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Source, steps, guidance, seed, fit; what is left out is told apart from what is typed."""
    parser.add_argument("--source", type=text, metavar="TEXT", help="what the picture shows; auto: a model says it")
    parser.add_argument(
        "--caption-model",
        metavar="NAME",
        help="who says it: a folder or Hub id of a BLIP",
    )
    usual = usual_for(parser)
    parser.add_argument("--steps", type=steps, metavar="N", help=f"sampling steps [{usual('steps')}]")
    parser.add_argument(
        "--guidance", type=number, metavar="X", help=f"guidance scale of the edit [{usual('guidance')}]"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="for methods that draw noise [0]")
    parser.add_argument(
        "--any-words",
        action="store_true",
        help="take words that picturebook was trained without",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="take photographs for picturebook",
    )
    modes = get_args(FitMode)
    parser.add_argument("--fit", choices=modes, metavar="HOW", help=f"{', '.join(modes)}, if it is not square [crop]")
    add_max_pixels(parser)


def usual_for(parser: argparse.ArgumentParser) -> Callable[[str], str]:
    """How help says what is usual for the typed model: "picturebook's usual: 50" for "steps"."""
    chosen = getattr(parser, "model", None) or DEFAULT_MODEL
    usual, whose = usual_of(chosen), f"{chosen}'s usual" if chosen in BUNDLED else "the model's usual"

    def told(field: str) -> str:
        value = None if usual is None else getattr(usual, field)
        return whose if value is None else f"{whose}: {value:g}" if isinstance(value, float) else f"{whose}: {value}"

    return told


def add_inversion(parser: argparse.ArgumentParser) -> None:
    """The inversion of a command that does not edit."""
    parser.add_argument("--inversion", metavar="NAME", help=f"see reinvert methods [{usual_for(parser)('inversion')}]")


def usual_inversion_of(args: argparse.Namespace, given: Given) -> str:
    """The inversion that is usual for the chosen model."""
    return (usual_of(model_name(args, given)) or Usual()).inversion


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """How large a picture may be that is opened."""
    parser.add_argument(
        "--max-pixels",
        type=positive,
        metavar="N",
        default=MAX_PIXELS,
        help=f"refuse pictures of more, width times height [{MAX_PIXELS}]",
    )


@dataclass(frozen=True)
class Given:
    """What is to be edited: a picture with its prompt, or a trajectory."""

    path: Path
    picture: Image.Image | None
    trajectory: Trajectory | None
    source: str
    captioned_by: str | None = None
    """Who said what it shows, where that was asked for."""

    @property
    def image(self) -> Any:
        return self.trajectory if self.trajectory is not None else self.picture

    @property
    def stem(self) -> str:
        """The name that default outputs begin with."""
        return self.path.name.removesuffix(SUFFIX) if self.trajectory is not None else self.path.stem

    def guidance(self, typed: float | None, model: Backbone) -> float:
        """The typed scale; else the one that the trajectory was fitted to; else what is usual for the model."""
        from reinvert import verbs

        return verbs.usual(model, None, typed, self.trajectory)[1]

    def options(self, args: argparse.Namespace, model: Backbone) -> dict[str, Any]:
        """The keyword arguments that `invert`, `reconstruct` and `edit` share, as they were typed."""
        return {
            "steps": args.steps,
            "guidance": self.guidance(args.guidance, model),
            "seed": args.seed,
            "fit": args.fit or "crop",
            "any_words": args.any_words,
            "force": args.force,
        }

    def record(self) -> dict[str, str]:
        return file_record(self.path) | ({} if self.captioned_by is None else {"captioned_by": self.captioned_by})


def open_given(args: argparse.Namespace) -> Given:
    """Open what is to be edited, before anything slow is done."""
    args.seed = args.seed or 0
    path = Path(args.image)
    if not path.name.lower().endswith(".safetensors"):
        picture = open_image(path, max_pixels=args.max_pixels)
        if args.source == AUTO:
            return Given(path, picture, None, *_captioned(args, picture, path))
        return Given(path, picture, None, args.source or _drawn_caption(path))
    for option in ("fit", "inversion"):
        if getattr(args, option, None) is not None:
            raise ReinvertError(f"--{option} was settled when {path.name} was made; leave it out, or invert again")
    if not path.is_file():
        raise ReinvertError(f"{shown(path)} does not exist; write one with `reinvert invert`")
    from reinvert.trajectory import Trajectory

    trajectory = Trajectory.load(path)
    if len(trajectory.prompts) != 1:
        raise ReinvertError(f"{path.name} holds {len(trajectory.prompts)} pictures; here it takes one of them")
    if args.source is not None and args.source != trajectory.prompts[0]:
        raise ReinvertError(f"{path.name} was made for {trajectory.prompts[0]!r}; leave --source out, or invert again")
    return Given(path, None, trajectory, trajectory.prompts[0])


def _captioned(args: argparse.Namespace, picture: Image.Image, path: Path) -> tuple[str, str]:
    """What a model says that the picture shows, which is told, and who said it."""
    where = args.caption_model or captions.usual_captioner(args.model or DEFAULT_MODEL)
    with waiting(f"reading {path.name}", args.quiet):
        captioner = _captioner(where, args.device)
        said = captioner.describe(picture)
    say(f"{path.name} shows: {said}", error=True)
    return said, captioner.name


@lru_cache(maxsize=1)
def _captioner(where: str, device: str) -> captions.Captioner:
    """Loaded once for many pictures."""
    return captions.load_captioner(where, device=device)


def open_mask_of(args: argparse.Namespace, given: Given) -> Image.Image | None:
    """What `--mask` names; refused where it does not fit the picture."""
    if args.mask is None:
        return None
    mask, picture = open_mask(args.mask, max_pixels=args.max_pixels), given.picture
    if picture is not None and mask.size != picture.size:
        raise ReinvertError(
            f"the mask is {mask.width}x{mask.height} but the picture is {picture.width}x{picture.height}; "
            "make them one size"
        )
    return mask


def _drawn_caption(path: Path) -> str:
    """The caption that `reinvert draw` left beside its picture."""
    caption = (read_sidecar(path) or {}).get("caption")
    if not isinstance(caption, str):
        raise ReinvertError(f'say what {path.name} shows: --source "a cat sitting on a bench"')
    return caption


def model_name(args: argparse.Namespace, given: Given | None = None) -> str:
    """The chosen model; for a trajectory that of its maker, if it is a bundled one."""
    if args.model is not None or given is None or given.trajectory is None:
        return args.model or DEFAULT_MODEL
    made = str(given.trajectory.info.get("model", ""))
    if made not in BUNDLED:
        # A file must not decide what is fetched from the Hub.
        raise ReinvertError(f"{given.path.name} was made with {made or 'another model'}; name it with --model")
    return made


def load_model(args: argparse.Namespace, given: Given | None = None, methods: Sequence[Any] = ()) -> Backbone:
    """Load the chosen model, in a precision in which the methods work."""
    from reinvert.backbones import load

    name = model_name(args, given)
    with waiting(f"loading {name}", args.quiet):
        model = load(
            name,
            args.device,
            args.dtype,
            lora=args.lora,
            vae=args.vae,
            tokenizer=args.tokenizer,
            offload=args.offload,
            weights=args.weights,
            tile_vae=args.tile_vae,
            compile=args.compile,
            gradients=any(method.takes_gradients for method in methods),
        )
    return model


def round_trip(model: Backbone, picture: Image.Image, fit: FitMode) -> tuple[Image.Image, Image.Image]:
    """The picture as the model is given it, and what the VAE alone makes of it."""
    from reinvert import verbs

    prepared = verbs.prepare(model, [picture], fit)
    return prepared.pictures[0], to_image(model.decode(prepared.latents)[0])


def output_path(args: argparse.Namespace, default: str) -> Path:
    """-o, or the default name in the working directory."""
    return Path(args.output) if args.output else Path(default)


def tell(paths: Sequence[Path]) -> None:
    """The results' names are all that stdout gets, so that they can be piped on."""
    for path in paths:
        say(path)
