"""Pictures at the border of the package: open, fit, paste back, convert, save, lay out.

Inside the package a picture is an RGB `PIL.Image` (uint8, 0..255) or a float32 tensor `[n, 3, h, w]` in
-1..1. Everything that comes from outside passes through here once, and every failure is a `ReinvertError`.
"""

from __future__ import annotations

import os
import tempfile
import unicodedata
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, cast, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from reinvert.errors import ReinvertError
from reinvert.files import shown

if TYPE_CHECKING:
    from torch import Tensor
    from torch import dtype as Dtype

Picture: TypeAlias = Image.Image
"""A PIL picture; what the functions below return is always mode RGB, masks are mode L."""

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels (PIL's order)."""

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""

FitMode: TypeAlias = Literal["crop", "pad", "keep"]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@runtime_checkable
class Readable(Protocol):
    """A file that is open for reading in binary mode."""

    def read(self, size: int = -1, /) -> bytes: ...


Picturelike: TypeAlias = "Image.Image | str | os.PathLike[str] | bytes | Readable | NDArray[Any] | Tensor"
"""One picture from outside, as `open_image` takes it."""

FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
"""What Pillow may read; HEIC comes through pillow-heif."""
HEIF_BRANDS: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1"))
MAX_PIXELS: Final = 64_000_000
"""Width times height that is decoded unless a caller asks for more."""
MAX_SIDE: Final = 65_535
"""Pixels a side, the most that JPEG can hold. Pillow keeps a pointer to every line: a picture of one by millions would
take a hundred times its pixels."""
BAND: Final = 4_000_000
"""Pixels that are worked on at a time, where that can be chosen."""
CHANNELS: Final = (1, 3, 4)
ARRAYS: Final = "[h, w], [h, w, 3] or [h, w, 4] (a tensor channels first), uint8 in 0..255 or float in 0..1"
TAKEN: Final = "a path, bytes, an open binary file, a PIL picture, a numpy array or a torch tensor"
MAX_ASPECT: Final = 8
"""Longest side over shortest side beyond which "keep" would ask the model for an absurd picture."""


# --- Opening -----------------------------------------------------------------------------------------------


def open_image(picture: Picturelike, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Any picture from outside as an upright RGB picture.

    Taken are

    * a path, the bytes of a file, or an open binary file: PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF, and HEIC where
      pillow-heif is installed (`pip install 'reinvert[heic]'`). A file object is read from where it stands and left
      open; of several frames the first is taken;
    * a PIL picture of any mode;
    * a numpy array `[h, w]`, `[h, w, 3]` or `[h, w, 4]`, uint8 in 0..255 or float in 0..1;
    * a torch tensor `[3, h, w]` (also 1 or 4 channels, or `[h, w]`), uint8 in 0..255 or float in 0..1, as torchvision
      has it; `[h, w, 3]` is taken too, where the first axis cannot be channels.

    EXIF orientation is applied, transparency is laid on white, 16-bit and float greys are scaled to 0..255 (see
    `as_rgb`). The size is checked before anything is decoded: at most `max_pixels` (width times height) of what is not
    in memory yet, and `MAX_SIDE` pixels a side.

    Raises `ReinvertError` for a file that is missing, not one of these formats, damaged, empty or too large, and for
    anything else that is no picture.
    """
    opened, name = _opened(picture, max_pixels)
    return _rgb(opened, name)


def open_mask(mask: Picturelike, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """A mask, given as `open_image` takes it or as an array of bools, in mode L with only 0 (keep) and 255 (edit).

    A pixel of 128 (of 0.5 in an array of floats) or more is "edit". A mask without any pixel of 128 or more holds
    labels (0 and 1, say) rather than white, and there every pixel that is not 0 is "edit"; floats are no labels.

    Raises `ReinvertError` as `open_image` does, and for a mask with transparent parts: some tools edit what
    is transparent, others what is painted, so guessing would edit the wrong half.
    """
    opened, name = _opened(mask, max_pixels)
    with _converting(opened, name):
        has_holes = _has_holes(opened)
    if has_holes:
        raise ReinvertError(f"{name} has transparent parts: save the mask as white (edit) on black (keep).")
    grey = np.asarray(opened if opened.mode == "L" and not opened.info else _rgb(opened, name).convert("L"))
    threshold = 128 if grey.max() >= 128 or _is_float(mask) else 1
    return Image.fromarray((grey >= threshold).astype(np.uint8) * np.uint8(255))


def is_picture(given: object) -> bool:
    """Whether this is to be one picture rather than a list of them; `open_image` tells whether it can be read.

    Only lists and tuples are several: an array, a tensor or an open file could be gone through as well.
    """
    return not isinstance(given, list | tuple)


def as_rgb(image: Picture | NDArray[Any]) -> Picture:
    """An RGB copy of any PIL picture, or of a uint8 array `[h, w, 3]`, as `open_image` would have given it.

    16-bit greys (modes I;16 and I) are divided by 257. Float greys (mode F) are read as 0..1, 0..255 or
    0..65535: the smallest of the three ranges that holds them all. An RGB colour profile is kept in
    `info["icc_profile"]`, so that a saved picture still looks right; the pixel values are not converted, and
    no other metadata is kept.

    Raises `ReinvertError` for an array of another shape or type, a picture without pixels, values outside
    those ranges, or a colour mode with no conversion to RGB.
    """
    if isinstance(image, Image.Image):
        return _rgb(image, name="the picture")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ReinvertError(
            f"an array of shape {tuple(image.shape)} and type {image.dtype} is not a picture: "
            "pass uint8 of shape [height, width, 3]."
        )
    return Image.fromarray(np.ascontiguousarray(image))


def _plain(picture: Picture) -> Picture:
    """`as_rgb`, without a copy of a picture that is so already; for those who do not change it.

    A file's own class, or anything in `info`, may turn it or hold transparency.
    """
    is_plain = type(picture) is Image.Image and picture.mode == "RGB" and picture.info.keys() <= {"icc_profile"}
    return picture if is_plain and min(picture.size) > 0 else as_rgb(picture)


def _opened(given: Any, max_pixels: int) -> tuple[Picture, str]:
    """The decoded picture, no file held open, and what a sentence calls it."""
    if isinstance(given, str | os.PathLike):
        path = Path(cast("str | os.PathLike[str]", given))
        return _load(path, max_pixels), shown(path.name)
    name = "the picture"
    if isinstance(given, Image.Image):
        _check_pixels(given.size, name, max_pixels if getattr(given, "tile", None) else None)  # lazily opened
        return given, name
    if isinstance(given, bytes | bytearray | memoryview):
        return _decode(BytesIO(given), name, max_pixels), name
    if callable(getattr(given, "read", None)):
        try:
            data = given.read()
        except (OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
            raise ReinvertError(f'the file object cannot be read ({error}): open it with mode "rb".') from error
        if not isinstance(data, bytes):
            raise ReinvertError('a file that is open as text holds no picture: open it with mode "rb".')
        return _decode(BytesIO(data), name, max_pixels), name
    if isinstance(given, np.ndarray):
        array = cast("NDArray[Any]", given)
    elif hasattr(given, "detach") and hasattr(given, "permute"):  # a tensor, told without importing torch
        array = _channels_last(given)
    else:
        raise ReinvertError(f"{_told(given)} is no picture: give {TAKEN}.")
    return _from_array(array), name


def _told(given: object) -> str:
    return "None" if given is None else f"a value of type {type(given).__name__} ({shown(repr(given), 30)})"


def _channels_last(tensor: Any) -> NDArray[Any]:
    """A tensor's values with its channels last, where numpy has them."""
    values = tensor.detach().cpu()
    values = values.float() if values.is_floating_point() else values  # numpy has no bfloat16
    if values.ndim == 3 and (values.shape[0] in CHANNELS or values.shape[2] not in CHANNELS):
        values = values.permute(1, 2, 0)
    return values.numpy()


def _from_array(array: NDArray[Any]) -> Picture:
    """A picture from values `[h, w]` or `[h, w, channel]`."""
    is_mask = array.dtype == np.bool_ and array.ndim == 2
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in CHANNELS)
    if not shaped or not (is_mask or array.dtype == np.uint8 or array.dtype.kind == "f"):
        axes = ", ".join(map(str, array.shape))
        raise ReinvertError(
            f"an array or tensor [{axes}] of {array.dtype} is no picture: give {ARRAYS}; several pictures as a list."
        )
    _check_pixels((array.shape[1], array.shape[0]), "the picture", None)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())  # NaN anywhere makes both NaN
        if not (low >= 0 and high <= 1):
            raise ReinvertError(
                f"the picture's values lie between {low:g} and {high:g}: give floats in 0..1, or uint8 in 0..255."
            )
        array = np.rint(array * array.dtype.type(255))
    elif is_mask:
        array = array * 255
    levels = np.ascontiguousarray(array, dtype=np.uint8)
    return Image.fromarray(levels[:, :, 0] if levels.ndim == 3 and levels.shape[2] == 1 else levels)


def _is_float(given: Any) -> bool:
    return "float" in str(getattr(given, "dtype", ""))


def _load(path: Path, max_pixels: int) -> Picture:
    """The decoded first frame of a file, its file handle closed."""
    try:
        if not path.exists():
            raise ReinvertError(f"{path} does not exist: check the path.")
        if not path.is_file():  # a folder; also a pipe or a device, on which reading could wait for ever
            raise ReinvertError(f"{path} is not a file: give the path of an image file.")
        file = path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        if isinstance(error, ReinvertError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ReinvertError(f"{shown(path)} cannot be opened ({reason}): check the path and permissions.") from error
    with file:
        return _decode(file, path.name, max_pixels)


def _decode(file: BufferedReader | BytesIO, name: str, max_pixels: int) -> Picture:
    try:
        if _is_heif(file.read(64)):
            return _decode_heif(file, name, max_pixels)
        file.seek(0)
        with warnings.catch_warnings():
            # Pillow's warning of large pictures repeats the check below with a limit of its own.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(file, formats=FORMATS)
        _check_pixels(picture.size, name, max_pixels)
        picture.load()
        return picture
    except ReinvertError:
        raise
    except Image.DecompressionBombError as error:
        raise ReinvertError(f"{name} has far too many pixels: make it smaller.") from error
    except UnidentifiedImageError as error:
        raise ReinvertError(
            f"{name} is not an image reinvert can read (PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF, HEIC): convert it first."
        ) from error
    except Exception as error:  # on a damaged file Pillow raises nearly anything: OSError, struct.error ...
        raise ReinvertError(f"{name} is damaged or incomplete: export or download it again.") from error


def _is_heif(head: bytes) -> bool:
    """Whether a file's first box names a brand of HEIC, and none of AVIF (which Pillow reads itself)."""
    if head[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[i : i + 4] for i in range(16, length - 3, 4))}
    return not brands & {b"avif", b"avis"} and bool(brands & HEIF_BRANDS)


def _decode_heif(file: BufferedReader | BytesIO, name: str, max_pixels: int) -> Picture:
    """The primary picture of a HEIC file, upright. Pillow's own list of formats is left as it is."""
    try:
        pillow_heif: Any = import_module("pillow_heif")
    except ImportError as error:
        raise ReinvertError(
            f"{name} is a HEIC picture, which needs pillow-heif: pip install 'reinvert[heic]', or convert it to JPEG."
        ) from error
    file.seek(0)
    heif = pillow_heif.open_heif(file, convert_hdr_to_8bit=True)
    _check_pixels(heif.size, name, max_pixels)
    picture: Picture = heif.to_pillow()  # libheif has turned it upright, and the plug-in has told its EXIF so
    return picture


def _check_pixels(size: Size, name: str, max_pixels: int | None) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ReinvertError(f"{name} has no pixels ({_text(size)}): choose another picture.")
    if max_pixels is not None and width * height > max_pixels:
        raise ReinvertError(
            f"{name} is {_text(size)}, more than {max_pixels:,} pixels: make it smaller or raise max_pixels "
            "(--max-pixels)."
        )
    if max(size) > MAX_SIDE:
        raise ReinvertError(f"{name} is {_text(size)}, a side of more than {MAX_SIDE:,} pixels: crop it first.")


@contextmanager
def _converting(picture: Picture, name: str) -> Generator[None]:
    """One sentence for what Pillow raises where colours cannot be converted: a missing palette, an index beyond it."""
    try:
        yield
    except ReinvertError:
        raise
    except Exception as error:
        raise ReinvertError(
            f"{name} (colour mode {picture.mode}) cannot be turned into RGB: save it as an 8-bit RGB picture."
        ) from error


def _rgb(picture: Picture, name: str) -> Picture:
    """`as_rgb` for a PIL picture that error messages call `name`."""
    if picture.width < 1 or picture.height < 1:
        raise ReinvertError(f"{name} has no pixels ({_text(picture.size)}): choose another picture.")
    with _converting(picture, name):  # a lazily opened file is decoded here, see _load
        profile = _rgb_profile(picture)
        upright = _upright(picture)
        if upright.mode == "RGB" and upright is not picture and not upright.has_transparency_data:
            colours = upright  # a copy already
        else:
            colours = _flatten(upright, name)
    colours.info = {} if profile is None else {"icc_profile": profile}
    return colours


def _rgb_profile(picture: Picture) -> bytes | None:
    """The colour profile, if it still describes the picture after conversion to RGB."""
    profile: Any = picture.info.get("icc_profile")
    still_fits = picture.mode in ("RGB", "RGBA", "P")
    return profile if still_fits and isinstance(profile, bytes) and profile else None


def _upright(picture: Picture) -> Picture:
    picture.load()  # so that what is caught below is the metadata's fault, not the pixels'
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # broken EXIF is common in good photographs; they are then taken as they lie
        return picture


def _flatten(picture: Picture, name: str) -> Picture:
    """An RGB copy in which transparent parts are white."""
    if picture.mode.startswith(("I", "F")):
        return _grey8(picture, name).convert("RGB")
    if picture.mode in ("La", "RGBa"):  # premultiplied alpha
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
    if picture.has_transparency_data:
        return _by_bands("RGB", picture.size, lambda box: _on_white(picture.crop(box)))
    return picture.convert("RGB")


def _on_white(part: Picture) -> Picture:
    return Image.alpha_composite(Image.new("RGBA", part.size, "white"), part.convert("RGBA")).convert("RGB")


def _by_bands(mode: str, size: Size, make: Callable[[Box], Picture]) -> Picture:
    """A picture made some rows at a time: what is needed on the way is never as large as the whole."""
    width, height = size
    whole, rows = Image.new(mode, size), max(1, BAND // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        whole.paste(make(box), box)
    return whole


def _grey8(picture: Picture, name: str) -> Picture:
    """A mode L picture from 16-bit integers or floats, see `as_rgb`."""
    values = np.asarray(picture)
    low, high = float(values.min()), float(values.max())  # NaN anywhere makes both NaN
    ranges = (1, 255, 65535) if picture.mode.startswith("F") else (65535,)
    full = next((top for top in ranges if low >= 0 and high <= top), None)
    if full is None:
        raise ReinvertError(f"{name} has grey values from {low:g} to {high:g}: save it with 8 or 16 bits.")
    transparent: Any = picture.info.get("transparency")

    def grey(box: Box) -> Picture:
        part = values[box[1] : box[3]].astype(np.float64)
        levels = np.rint(part * (255 / full)).astype(np.uint8)
        if isinstance(transparent, int):  # PNG's one transparent grey, which Pillow itself ignores at 16 bits
            levels[part == transparent] = 255
        return Image.fromarray(levels)

    return _by_bands("L", picture.size, grey)


def _has_holes(picture: Picture) -> bool:
    if not picture.has_transparency_data:
        return False
    if picture.mode.startswith("I"):
        return bool((np.asarray(picture) == picture.info["transparency"]).any())
    alpha = np.asarray(picture.convert("RGBA"))[:, :, 3]
    return bool(alpha.min() < 255)


# --- Fitting to the model and back -------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How a picture was fitted: its part `box` became the part `inner` of the model's picture."""

    mode: FitMode
    source_size: Size
    """Width and height of the original, in pixels."""
    box: Box
    """The part of the original that the model sees, in the original's pixels; always inside it."""
    size: Size
    """Width and height of the model's picture, in pixels."""
    inner: Box
    """Where `box` lies in the model's picture, in its pixels; what is around it is padding."""


def plan_fit(source_size: Size, size: int, multiple: int, mode: FitMode = "crop") -> Fit:
    """Work out how a picture of `source_size` (width, height) is fitted to a model.

    * crop: the centre square, scaled to `size` x `size` (published `load_512`: offset floor((w - h) / 2)).
    * pad: the whole picture, its longer side scaled to `size`, in the centre of a `size` x `size` square.
    * keep: the whole picture, its shorter side scaled to `size`, both then rounded to a `multiple`.

    Raises `ReinvertError` for an unknown mode, a `size` that is not a multiple of `multiple`, and for "keep"
    of a picture more than `MAX_ASPECT` times as long as wide.
    """
    width, height = source_size
    if mode not in get_args(FitMode):
        raise ReinvertError(f"fit {mode!r} is unknown: use one of {', '.join(get_args(FitMode))}.")
    if multiple < 1 or size < 1 or size % multiple:
        below = max(multiple, 1) * max(size // max(multiple, 1), 1)
        raise ReinvertError(f"size {size} is not a multiple of the model's {multiple}: use {below}, say.")
    if mode == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return Fit(mode, source_size, (left, top, left + side, top + side), (size, size), (0, 0, size, size))
    if mode == "pad":
        inner_width, inner_height = (max(1, _scaled(side, size, max(source_size))) for side in source_size)
        left, top = (size - inner_width) // 2, (size - inner_height) // 2
        inner = (left, top, left + inner_width, top + inner_height)
        return Fit(mode, source_size, (0, 0, width, height), (size, size), inner)
    if max(source_size) > MAX_ASPECT * min(source_size):
        raise ReinvertError(f"a picture of {width}x{height} is too thin for fit 'keep': use crop or pad.")
    units = min(source_size) * multiple
    new_width, new_height = (multiple * _scaled(side, size, units) for side in source_size)
    new_size = new_width, new_height
    return Fit(mode, source_size, (0, 0, width, height), new_size, (0, 0, *new_size))


def fit_image(image: Picture, size: int, multiple: int, mode: FitMode = "crop") -> tuple[Picture, Fit]:
    """Fit a picture to a model, by bicubic scaling, and say how; the modes are those of `plan_fit`.

    Padding repeats the picture's edge. A picture that already suits the model is not resampled.
    """
    picture = _plain(image)
    fit = plan_fit(picture.size, size, multiple, mode)
    part = picture.crop(fit.box).resize(_size_of(fit.inner), Image.Resampling.BICUBIC)
    if part.size == fit.size:
        return part, fit
    left, top, right, bottom = fit.inner
    around = ((top, fit.size[1] - bottom), (left, fit.size[0] - right), (0, 0))
    return Image.fromarray(np.pad(np.asarray(part), around, mode="edge")), fit


def fit_mask(mask: Picture, fit: Fit) -> Picture:
    """Give a mask (mode L, of the original's size) the geometry of `fit`, by nearest pixel; padding is 0.

    Raises `ReinvertError` if the mask does not have the original's size.
    """
    if mask.size != fit.source_size:
        raise ReinvertError(
            f"the mask is {_text(mask.size)} but the picture is {_text(fit.source_size)}: make them one size."
        )
    part = mask.convert("L").crop(fit.box).resize(_size_of(fit.inner), Image.Resampling.NEAREST)
    fitted = Image.new("L", fit.size, 0)
    fitted.paste(part, fit.inner)
    return fitted


def paste_back(
    original: Picture,
    edited: Picture,
    fit: Fit,
    mask: Picture | NDArray[Any] | None = None,
    feather: int = 0,
) -> Picture:
    """Undo `fit`: put the edited picture (of the model's size) back into the original, at full resolution.

    `mask` says what to take from the edit: a mode L picture, or an array `[h, w]` of bools or floats in 0..1,
    of the model's size or of the original's; None takes all that the model saw. Where the mask, brought to
    the original's size (bilinear), is 0, and everywhere outside `fit.box`, the original's pixels are kept bit
    for bit. `feather` fades the edit in over that many of the original's pixels, inwards, so that promise
    still holds.

    Raises `ReinvertError` if a size does not match, a mask is not in 0..1, or `feather` is negative.
    """
    background, picture = _plain(original), _plain(edited)
    if background.size != fit.source_size:
        raise ReinvertError(
            f"the original is {_text(background.size)} but the fit was made for {_text(fit.source_size)}: "
            "pass the picture that was fitted."
        )
    if picture.size != fit.size:
        raise ReinvertError(
            f"the edited picture is {_text(picture.size)} but the fit made {_text(fit.size)}: "
            "pass the model's picture as it is."
        )
    if feather < 0:
        raise ReinvertError(f"feather {feather} is negative: use 0 or more pixels.")
    share = _fade(_share(mask, fit), feather)
    part = picture.crop(fit.inner).resize(_size_of(fit.box), Image.Resampling.BICUBIC)
    pasted = background.copy()
    pasted.paste(part, fit.box, share if share.size == part.size else share.crop(fit.box))
    return pasted


def _share(mask: Picture | NDArray[Any] | None, fit: Fit) -> Picture:
    """The share of the edit in each of the original's pixels, before feathering: mode L, 255 is all."""
    share = Image.new("L", fit.source_size, 0)
    if mask is None:
        share.paste(255, fit.box)
        return share
    grey = mask.convert("L") if isinstance(mask, Image.Image) else _mask_picture(mask)
    if grey.size == fit.size:
        share.paste(grey.crop(fit.inner).resize(_size_of(fit.box), Image.Resampling.BILINEAR), fit.box)
    elif grey.size == fit.source_size:
        share.paste(grey.crop(fit.box), fit.box)
    else:
        raise ReinvertError(
            f"the mask is {_text(grey.size)}: make it {_text(fit.size)} (the model's picture) "
            f"or {_text(fit.source_size)} (the original)."
        )
    return share


def _mask_picture(mask: NDArray[Any]) -> Picture:
    """A mode L picture from an array of bools or of floats in 0..1."""
    if mask.ndim != 2 or mask.dtype.kind not in "bf" or mask.size == 0:
        raise ReinvertError(
            f"an array of shape {tuple(mask.shape)} and type {mask.dtype} is not a mask: "
            "pass bools or floats of shape [height, width]."
        )
    if not ((mask >= 0) & (mask <= 1)).all():  # also false for NaN
        raise ReinvertError("the mask has values outside 0..1: scale it to 0 (keep) to 1 (edit).")
    return Image.fromarray(np.rint(mask.astype(np.float64) * 255).astype(np.uint8))


def _fade(share: Picture, feather: int) -> Picture:
    """The mean of the mask eroded 0, 1, ..., `feather` times: 0 stays 0, and a thin part pales but never
    vanishes.

    Erosion sees the picture's own border as more of the same, so an edit that reaches it does not fade there.
    """
    if feather == 0:
        return share

    def faded(box: Box) -> Picture:
        left, top, right, bottom = box
        above, below = min(feather, top), min(feather, share.height - bottom)  # rows that reach into the band
        eroded = np.asarray(share.crop((left, top - above, right, bottom + below)))
        total = eroded.astype(np.uint32)
        for _ in range(feather):
            eroded = _eroded(eroded)
            total += eroded
        levels = (total // (feather + 1)).astype(np.uint8)
        return Image.fromarray(levels[above : len(levels) - below])

    return _by_bands("L", share.size, faded)


def _eroded(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The least of each pixel's 3x3 neighbourhood (PIL's MinFilter is twenty times slower)."""
    framed = np.pad(grey, 1, mode="edge")
    rows = np.minimum(np.minimum(framed[:-2], framed[1:-1]), framed[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _scaled(length: int, numerator: int, denominator: int) -> int:
    """length * numerator / denominator to the nearest integer, halves up, in exact arithmetic."""
    return (2 * length * numerator + denominator) // (2 * denominator)


def _size_of(box: Box) -> Size:
    left, top, right, bottom = box
    return right - left, bottom - top


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


# --- Pictures and tensors ----------------------------------------------------------------------------------


def to_tensor(images: Picture | Sequence[Picture], dtype: Dtype | None = None) -> Tensor:
    """Pictures of one size as `[n, 3, h, w]` in -1..1, by value / 127.5 - 1 as published; float32 unless `dtype` says
    otherwise.

    Raises `ReinvertError` for an empty list or pictures of different sizes.
    """
    import torch  # here, for only tensors need it: drawing and every refusal answer before it is loaded

    pictures = [as_rgb(image) for image in ([images] if isinstance(images, Image.Image) else images)]
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) != 1:
        found = " and ".join(_text(size) for size in sizes) or "none"
        raise ReinvertError(f"pictures of one size are needed, not of {found}: fit them to the model first.")
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # [n, h, w, 3]
    return (pixels.to(dtype or torch.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()


def to_image(tensor: Tensor) -> Picture:
    """One tensor `[3, h, w]` in -1..1 as a picture; values outside are clamped.

    (x / 2 + 0.5) * 255 is truncated, not rounded, to uint8: the published convention, kept so that metrics
    agree with published ones. A round trip through `to_tensor` can therefore be one level darker.

    Raises `ReinvertError` for another shape or for values that are not finite.
    """
    import torch

    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.numel() == 0:
        raise ReinvertError(f"a tensor of shape {list(tensor.shape)} is no picture: pass [3, height, width].")
    values = tensor.detach().cpu()
    values = values if values.dtype == torch.float64 else values.float()  # half cannot hold 255 levels
    if not bool(torch.isfinite(values).all()):
        raise ReinvertError("the picture is not finite: use float32 or a lower guidance scale.")
    levels = (values / 2 + 0.5).clamp(0, 1) * 255
    return Image.fromarray(levels.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


# --- Saving ------------------------------------------------------------------------------------------------


Write: TypeAlias = Callable[[Path], None]
"""Makes a file at the path that it is given."""


def atomic_write(path: str | os.PathLike[str], write: Write) -> None:
    """Let `write` make a file, and show it at `path` only when it is whole; an older file stays until then.

    `write` gets a path with the same name in a temporary folder beside `path`, and must create that file. (A
    folder rather than a temporary file: the new file then gets the user's ordinary permissions, and keeps its
    suffix.)

    Raises `ReinvertError` if the folder is missing or not writable or the disk full; other exceptions of
    `write` pass through. Either way nothing is left behind.
    """
    write_together({Path(path): write})


def write_together(files: Mapping[Path, Write]) -> None:
    """The same for several files that belong together: they appear when all of them are whole, or none does."""
    target, new = Path(), list[Path]()
    try:
        with ExitStack() as folders:
            drafts: dict[Path, Path] = {}
            for index, (target, write) in enumerate(files.items()):
                if not target.parent.is_dir():
                    raise ReinvertError(f"the folder {target.parent} does not exist: create it or choose another.")
                if target.is_dir():
                    raise ReinvertError(f"{target} is a folder: give the name of a file.")
                made = tempfile.TemporaryDirectory(prefix=f".reinvert-{index}-", dir=target.parent)
                drafts[target] = Path(folders.enter_context(made)) / target.name
                write(drafts[target])
            for target, draft in drafts.items():
                known = target.exists()
                draft.replace(target)
                new += [] if known else [target]
            new.clear()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReinvertError(f"{target} cannot be written ({reason}): choose another place.") from error
    finally:
        for path in new:
            path.unlink(missing_ok=True)


def save_image(image: Picture, path: str | os.PathLike[str]) -> None:
    """Save a picture atomically as PNG, JPEG (quality 95) or WebP (quality 95), by the path's suffix.

    The same picture gives the same bytes; of its metadata only an RGB colour profile is written.

    Raises `ReinvertError` for another suffix, or where `atomic_write` does.
    """
    atomic_write(path, picture_writer(image, path))


def picture_writer(image: Picture, path: str | os.PathLike[str]) -> Write:
    """What writes a picture as `save_image` does, for `write_together`."""
    target = Path(path)
    options = _save_options(target)
    picture = image.copy() if image.mode == "L" else _plain(image)
    profile = _rgb_profile(picture)
    if picture is not image:
        picture.info = {}  # Pillow would write some of it: a transparent colour, a comment

    def write(draft: Path) -> None:
        try:
            picture.save(draft, icc_profile=profile, **options)
        except (ValueError, SystemError) as error:  # sides beyond what the format can hold
            raise ReinvertError(
                f"{target.name} cannot hold a picture of {_text(picture.size)}: save it as PNG."
            ) from error

    return write


def _save_options(path: Path) -> dict[str, Any]:
    """Pillow's arguments for the format that a suffix names."""
    match path.suffix.lower():
        case ".png":
            return {"format": "PNG"}
        case ".jpg" | ".jpeg":
            return {"format": "JPEG", "quality": 95, "subsampling": 0}
        case ".webp":
            return {"format": "WEBP", "quality": 95}
        case suffix:
            raise ReinvertError(f"{path.name} has the suffix {suffix!r}: use .png, .jpg or .webp.")


# --- Contact sheets ----------------------------------------------------------------------------------------

INK: Final = (32, 33, 36)
EMPTY: Final = (243, 244, 246)
SMALL: Final = 128
"""Pictures of at most this many pixels a side are enlarged by whole factors, pixel by pixel."""
ASCII_SIGNS: Final = {"→": "->", "←": "<-", "—": "-", "–": "-", "×": "x", "≥": ">=", "≤": "<=", "’": "'"}


def contact_sheet(
    rows: Sequence[Sequence[Picture | None]],
    *,
    column_titles: Sequence[str],
    row_titles: Sequence[str] | None = None,
    cell: int = 256,
) -> Picture:
    """A labelled grid of pictures on white; None leaves a pale cell.

    Each picture is centred in a square of `cell` pixels: small ones (up to 128 pixels a side) enlarged by a
    whole factor without smoothing, large ones reduced. Titles wrap to the width they have; signs that
    Pillow's built-in font lacks are spelt in ASCII.

    Raises `ReinvertError` if titles and pictures differ in number, there is no picture at all, or `cell` is
    below 32.
    """
    _check_grid(rows, column_titles, row_titles, cell)
    font = ImageFont.load_default(max(13, round(cell / 15)))
    line = _line_height(font)
    gap = max(6, cell // 24)
    heads = [_wrap(title, font, cell) for title in column_titles]
    sides = [_wrap(title, font, round(0.7 * cell)) for title in row_titles or [""] * len(rows)]

    side_width = round(max((font.getlength(text) for lines in sides for text in lines), default=0))
    left = 2 * gap + (side_width + 2 * gap if side_width else 0)
    head_height = max(len(lines) for lines in heads) * line
    top = 2 * gap + (head_height + gap if head_height else 0)
    row_heights = [max(cell, len(lines) * line) for lines in sides]
    width = left + len(heads) * (cell + gap) + gap
    sheet = Image.new("RGB", (width, top + sum(row_heights) + gap * len(rows) + gap), "white")
    draw = ImageDraw.Draw(sheet)

    for column, lines in enumerate(heads):  # titles stand on the pictures
        x, y = left + column * (cell + gap), 2 * gap + head_height - len(lines) * line
        _write_lines(draw, lines, font, [x + round(cell - font.getlength(text)) // 2 for text in lines], y)
    y = top
    for row, lines, height in zip(rows, sides, row_heights, strict=True):
        _write_lines(draw, lines, font, [2 * gap] * len(lines), y + (height - len(lines) * line) // 2)
        for column, picture in enumerate(row):
            x = left + column * (cell + gap)
            _place(sheet, picture, (x, y + (height - cell) // 2), cell)
        y += height + gap
    return sheet


def _check_grid(
    rows: Sequence[Sequence[Picture | None]],
    column_titles: Sequence[str],
    row_titles: Sequence[str] | None,
    cell: int,
) -> None:
    if not rows or not column_titles:
        raise ReinvertError("a contact sheet needs at least one row and one column: pass some pictures.")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(column_titles):
            raise ReinvertError(
                f"row {number} has {len(row)} pictures for {len(column_titles)} column titles: "
                "give one per column, None for an empty cell."
            )
    if row_titles is not None and len(row_titles) != len(rows):
        raise ReinvertError(f"there are {len(row_titles)} row titles for {len(rows)} rows: give one per row.")
    if cell < 32:
        raise ReinvertError(f"cell {cell} is too small to see: use 32 pixels or more.")


def _place(sheet: Picture, picture: Picture | None, corner: Size, cell: int) -> None:
    """Put a picture in the middle of its cell, or paint the cell pale."""
    x, y = corner
    if picture is None:
        sheet.paste(EMPTY, (x, y, x + cell, y + cell))
        return
    shown = _shown(as_rgb(picture), cell)
    sheet.paste(shown, (x + (cell - shown.width) // 2, y + (cell - shown.height) // 2))


def _shown(picture: Picture, cell: int) -> Picture:
    """A picture as large as a cell can show it without inventing detail."""
    longest = max(picture.size)
    if longest > cell:
        width, height = (max(1, _scaled(side, cell, longest)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)
    factor = cell // longest if longest <= SMALL else 1
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _write_lines(draw: ImageDraw.ImageDraw, lines: Sequence[str], font: Font, lefts: Sequence[int], top: int) -> None:
    for number, (text, left) in enumerate(zip(lines, lefts, strict=True)):
        draw.text((left, top + number * _line_height(font)), text, fill=INK, font=font)


def _line_height(font: Font) -> int:
    left_top_right_bottom = font.getbbox("Ajg|")  # tallest capital and deepest descender
    return round(1.2 * left_top_right_bottom[3])


def _wrap(title: str, font: Font, width: int) -> list[str]:
    """A title in lines of at most `width` pixels, broken between words, within a word only where it must."""
    lines: list[str] = []
    for paragraph in _ascii(title).splitlines():
        current = ""
        for word in paragraph.split():
            joined = f"{current} {word}" if current else word
            if font.getlength(joined) <= width:
                current = joined
                continue
            lines += [current] if current else []
            *full, current = _pieces(word, font, width)
            lines += full
        lines += [current] if current else []
    return lines


def _ascii(title: str) -> str:
    """A title in the signs that Pillow's built-in font has; what cannot be spelt with them becomes "?"."""
    for sign, spelling in ASCII_SIGNS.items():
        title = title.replace(sign, spelling)
    bare = (sign for sign in unicodedata.normalize("NFKD", title) if not unicodedata.combining(sign))
    return "".join(bare).encode("ascii", "replace").decode("ascii")


def _pieces(word: str, font: Font, width: int) -> list[str]:
    """A word cut into pieces of at most `width` pixels (at least one letter each)."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces
