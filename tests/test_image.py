"""image.py: what comes in is upright RGB or a clear error, and what was not edited comes back bit for bit."""

from __future__ import annotations

import inspect
import os
import struct
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reinvert.errors import ReinvertError
from reinvert.image import (
    Fit,
    as_rgb,
    atomic_write,
    contact_sheet,
    fit_image,
    fit_mask,
    open_image,
    open_mask,
    paste_back,
    plan_fit,
    save_image,
    to_image,
    to_tensor,
)

FIXTURES = Path(__file__).parent / "fixtures" / "parity"


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode and a.size == b.size and a.tobytes() == b.tobytes()


def stored(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def one_sentence(error: pytest.ExceptionInfo[ReinvertError]) -> str:
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert ". " not in message
    return message


# --- Every kind of picture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_a_lossless_file_opens_as_it_is(tmp_path, suffix):
    image = noise(7, 5)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    assert same(open_image(stored(image, tmp_path / f"a.{suffix}", **options)), image)


def test_a_jpeg_opens_nearly_as_it_is(tmp_path):
    flat = Image.new("RGB", (16, 16), (200, 30, 90))
    opened = open_image(stored(flat, tmp_path / "a.jpg", quality=100))
    assert np.abs(pixels(opened) - pixels(flat)).max() <= 3


@pytest.mark.parametrize(
    ("mode", "fill", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("I;16", 257 * 99, (99, 99, 99)),
        ("I;16", 65535, (255, 255, 255)),
    ],
)
def test_png_modes_become_rgb_on_white(tmp_path, mode, fill, expected):
    opened = open_image(stored(Image.new(mode, (3, 2), fill), tmp_path / "a.png"))
    assert (opened.mode, opened.size) == ("RGB", (3, 2))
    assert (pixels(opened) == expected).all()


@pytest.mark.parametrize(
    ("mode", "fill", "expected"),
    [
        ("I;16", 257 * 12, 12),
        ("I;16B", 257 * 12, 12),
        ("I", 257 * 200, 200),
        ("F", 1.0, 255),
        ("F", 0.2, 51),
        ("F", 254.0, 254),
        ("F", 65535.0, 255),
        ("F", 0.0, 0),
    ],
)
def test_tiff_with_many_grey_levels(tmp_path, mode, fill, expected):
    opened = open_image(stored(Image.new(mode, (3, 2), fill), tmp_path / "a.tiff"))
    assert (pixels(opened) == expected).all()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "jpeg"])
def test_tiff_compressions(tmp_path, compression):
    image = Image.new("RGB", (8, 8), (50, 100, 150))
    opened = open_image(stored(image, tmp_path / "a.tif", compression=compression))
    assert np.abs(pixels(opened) - pixels(image)).max() <= 3


def test_16_bit_levels_are_spread_evenly():
    levels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(1, -1)
    assert (pixels(as_rgb(Image.fromarray(levels)))[0, :, 0] == np.arange(256)).all()


@pytest.mark.parametrize("fill", [-1.0, 70000.0, float("nan"), float("inf")])
def test_float_values_that_mean_nothing_are_refused(tmp_path, fill):
    path = stored(Image.new("F", (3, 2), fill), tmp_path / "a.tiff")
    with pytest.raises(ReinvertError, match=r"a\.tiff has grey values from") as error:
        open_image(path)
    one_sentence(error)


@pytest.mark.parametrize("fill", [-5, 70000])
def test_integer_values_beyond_16_bits_are_refused(fill):
    with pytest.raises(ReinvertError, match="save it with 8 or 16 bits"):
        as_rgb(Image.new("I", (3, 2), fill))


def test_a_palette_is_looked_up(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((1, 0), 1)
    assert pixels(open_image(stored(image, tmp_path / "a.png"))).tolist() == [[[0, 0, 0], [10, 200, 30]]]


def test_a_transparent_palette_colour_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((1, 0), 1)
    path = stored(image, tmp_path / "a.png", transparency=0)
    assert pixels(open_image(path)).tolist() == [[[255, 255, 255], [10, 200, 30]]]


@pytest.mark.parametrize(
    ("mode", "transparent", "other"),
    [("L", 5, 6), ("RGB", (1, 2, 3), (1, 2, 4)), ("I;16", 257 * 5, 257 * 6), ("1", 0, 255)],
)
def test_a_transparent_colour_becomes_white(tmp_path, mode, transparent, other):
    image = Image.new(mode, (2, 1), transparent)
    image.putpixel((1, 0), other)
    opened = open_image(stored(image, tmp_path / "a.png", transparency=transparent))
    expected = {"L": (6, 6, 6), "RGB": (1, 2, 4), "I;16": (6, 6, 6), "1": (255, 255, 255)}[mode]
    assert pixels(opened).tolist() == [[[255, 255, 255], list(expected)]]


def test_cmyk_and_ycbcr(tmp_path):
    cyan = open_image(stored(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), tmp_path / "a.jpg", quality=100))
    assert np.abs(pixels(cyan) - (0, 255, 255)).max() <= 3
    # Pillow 12.3 cannot read a YCbCr TIFF without compression, its own neither
    grey = open_image(stored(Image.new("YCbCr", (8, 8), (90, 128, 128)), tmp_path / "a.tiff", compression="tiff_lzw"))
    assert np.abs(pixels(grey) - 90).max() <= 1


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "RGBX", "HSV", "CMYK", "I;16L"])
def test_as_rgb_takes_what_pillow_can_hold(mode):
    converted = as_rgb(Image.new(mode, (3, 2)))
    assert (converted.mode, converted.size) == ("RGB", (3, 2))


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_of_several_frames_the_first_is_taken(tmp_path, suffix):
    first, second = noise(4, 4, 1), noise(4, 4, 2)
    options = {"lossless": True} if suffix == "webp" else {}
    path = stored(first, tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **options)
    with Image.open(path) as check:
        assert check.n_frames == 2
    assert same(open_image(path), first)


# What the viewer must see of an array that is stored with the given EXIF orientation.
ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied_once(tmp_path, orientation, suffix):
    image = noise(6, 4)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    opened = open_image(stored(image, tmp_path / f"a.{suffix}", exif=exif, **options))
    assert np.array_equal(pixels(opened), ORIENTATIONS[orientation](pixels(image)))
    assert same(as_rgb(opened), opened)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_of_a_jpeg(tmp_path, orientation):
    image = Image.new("RGB", (16, 8))
    image.paste((250, 250, 250), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(stored(image, tmp_path / "a.jpg", exif=exif, quality=100))
    expected = ORIENTATIONS[orientation](pixels(image))
    assert opened.size == expected.shape[1::-1]
    assert np.abs(pixels(opened) - expected).max() <= 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_spoil_a_picture(tmp_path):
    image = noise(4, 4)
    path = stored(image, tmp_path / "a.png", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert same(open_image(path), image)


def test_only_an_rgb_colour_profile_is_kept_of_the_metadata(tmp_path):
    path = stored(noise(4, 4), tmp_path / "a.png", icc_profile=b"profile", dpi=(72, 72))
    assert open_image(path).info == {"icc_profile": b"profile"}
    path = stored(Image.new("L", (4, 4)), tmp_path / "b.png", icc_profile=b"grey profile")
    assert open_image(path).info == {}


def test_as_rgb_of_arrays_and_of_pictures_without_pixels():
    image = noise(5, 4)
    assert same(as_rgb(np.asarray(image)), image)
    assert same(as_rgb(np.asarray(image)[:, ::-1]), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    for array in (np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3), np.float32)):
        with pytest.raises(ReinvertError, match="pass uint8 of shape"):
            as_rgb(array)
    with pytest.raises(ReinvertError, match="no pixels"):
        as_rgb(Image.new("RGB", (0, 5)))


def test_as_rgb_returns_a_copy():
    image = noise(5, 4)
    before = image.tobytes()
    as_rgb(image).paste((1, 2, 3), (0, 0, 5, 4))
    assert image.tobytes() == before


# --- Files that are no pictures ----------------------------------------------------------------------------


def make_missing(folder: Path) -> Path:
    return folder / "missing.png"


def make_folder(folder: Path) -> Path:
    (folder / "folder.png").mkdir()
    return folder / "folder.png"


def make_empty(folder: Path) -> Path:
    (folder / "empty.png").touch()
    return folder / "empty.png"


def make_text(folder: Path) -> Path:
    (folder / "text.png").write_text("not a picture at all")
    return folder / "text.png"


def make_ico(folder: Path) -> Path:
    return stored(noise(16, 16), folder / "a.ico")


def make_disguised_ico(folder: Path) -> Path:
    return stored(noise(16, 16), folder / "ico.png", format="ICO")


def make_postscript(folder: Path) -> Path:
    return stored(noise(4, 4), folder / "a.eps")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_missing, "does not exist"),
        (make_folder, "is not a file"),
        (make_empty, "is not an image reinvert can read"),
        (make_text, "is not an image reinvert can read"),
        (make_ico, "is not an image reinvert can read"),
        (make_disguised_ico, "is not an image reinvert can read"),
        (make_postscript, "is not an image reinvert can read"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path, make, says):
    path = make(tmp_path)
    for opener in (open_image, open_mask):
        with pytest.raises(ReinvertError, match=says) as error:
            opener(path)
        assert path.name in one_sentence(error)


def test_a_path_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(ReinvertError, match="cannot be opened") as error:
        open_image(tmp_path / ("x" * 300))
    one_sentence(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ReinvertError, match="is not a file"):
        open_image(tmp_path / "pipe.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    whole = stored(noise(40, 30), tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ReinvertError, match=r"cut\.") as error:
        open_image(path)
    one_sentence(error)


def test_damaged_pixels_are_refused(tmp_path):
    path = stored(noise(40, 30), tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ReinvertError, match=r"a\.png is damaged or incomplete"):
        open_image(path)


def claim_size(path: Path, width: int, height: int) -> Path:
    """A PNG that says it is larger than its data."""
    data = bytearray(stored(noise(4, 4), path).read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (10_000, 10_000), (100_000, 100_000), (65_000, 1000)])
@pytest.mark.filterwarnings("error")
def test_size_is_checked_before_decoding(tmp_path, width, height):
    path = claim_size(tmp_path / "bomb.png", width, height)
    with pytest.raises(ReinvertError, match="pixels: make it smaller") as error:
        open_image(path)
    one_sentence(error)


def test_the_size_limit_is_inclusive(tmp_path):
    path = stored(noise(10, 10), tmp_path / "a.png")
    assert open_image(path, max_pixels=100).size == (10, 10)
    with pytest.raises(ReinvertError, match="10x10, more than 99 pixels"):
        open_image(path, max_pixels=99)


@pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd")
def test_no_file_stays_open(tmp_path):
    good = stored(noise(10, 10), tmp_path / "a.tiff", save_all=True, append_images=[noise(10, 10)])
    bad = tmp_path / "b.png"
    bad.write_bytes(stored(noise(40, 30), tmp_path / "c.png").read_bytes()[:900])
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [open_image(good) for _ in range(3)]
    failures = []
    for _ in range(3):
        with pytest.raises(ReinvertError) as error:
            open_image(bad)
        failures.append(error)  # a kept traceback keeps the frame, and a file in it, alive
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(kept) == len(failures) == 3


# --- Masks -------------------------------------------------------------------------------------------------


def test_a_mask_is_split_at_128(tmp_path):
    levels = np.array([[0, 1, 127, 128, 255]], np.uint8)
    mask = open_mask(stored(Image.fromarray(levels), tmp_path / "m.png"))
    assert mask.mode == "L"
    assert pixels(mask).tolist() == [[0, 0, 0, 255, 255]]


def test_a_mask_of_labels_counts_all_but_zero(tmp_path):
    labels = np.array([[0, 1, 2, 0]], np.uint8)
    assert pixels(open_mask(stored(Image.fromarray(labels), tmp_path / "m.png"))).tolist() == [[0, 255, 255, 0]]


def test_a_black_mask_and_a_one_bit_mask(tmp_path):
    assert pixels(open_mask(stored(Image.new("L", (3, 2)), tmp_path / "m.png"))).max() == 0
    bits = Image.fromarray(np.array([[True, False]]))
    assert pixels(open_mask(stored(bits, tmp_path / "b.png"))).tolist() == [[255, 0]]


def test_a_mask_with_transparent_parts_is_refused(tmp_path):
    opaque = Image.new("RGBA", (3, 2), (255, 255, 255, 255))
    assert pixels(open_mask(stored(opaque, tmp_path / "m.png"))).min() == 255
    opaque.putpixel((0, 0), (255, 255, 255, 254))
    grey16 = Image.new("I;16", (3, 2), 7)
    for path in (
        stored(opaque, tmp_path / "n.png"),
        stored(grey16, tmp_path / "o.png", transparency=7),
    ):
        with pytest.raises(ReinvertError, match="has transparent parts"):
            open_mask(path)


# --- Fitting -----------------------------------------------------------------------------------------------


def test_crop_is_the_published_load_512_bit_for_bit():
    image = open_image(FIXTURES / "inputs" / "img3_600x400.png")
    fitted, fit = fit_image(image, 512, 8)
    assert same(fitted, open_image(FIXTURES / "load512_img3_600x400.png"))
    assert fit == Fit("crop", (600, 400), (100, 0, 500, 400), (512, 512), (0, 0, 512, 512))


@pytest.mark.parametrize(
    ("size", "box"),
    [((7, 4), (1, 0, 5, 4)), ((4, 7), (0, 1, 4, 5)), ((8, 4), (2, 0, 6, 4)), ((4, 4), (0, 0, 4, 4))],
)
def test_an_odd_margin_is_smaller_at_the_left_and_top(size, box):
    assert plan_fit(size, 8, 8).box == box


def test_pad_shows_everything_and_repeats_the_edge():
    image = noise(16, 8)
    fitted, fit = fit_image(image, 32, 8, "pad")
    assert (fitted.size, fit.inner, fit.box) == ((32, 32), (0, 8, 32, 24), (0, 0, 16, 8))
    inside = image.resize((32, 16), Image.Resampling.BICUBIC)
    assert same(fitted.crop(fit.inner), inside)
    array = pixels(fitted)
    assert (array[:8] == array[8]).all()
    assert (array[24:] == array[23]).all()


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ((600, 400), (768, 512)),
        ((400, 600), (512, 768)),
        ((512, 512), (512, 512)),
        ((1000, 990), (520, 512)),
        ((516, 512), (520, 512)),
        ((64, 8), (4096, 512)),
    ],
)
def test_keep_scales_the_short_side_and_rounds_the_long_one(source, size):
    assert plan_fit(source, 512, 8, "keep").size == size


@pytest.mark.parametrize(
    ("mode", "size"), [("crop", (64, 64)), ("pad", (64, 64)), ("keep", (96, 64)), ("keep", (64, 200))]
)
def test_a_suitable_picture_is_not_resampled(mode, size):
    image = noise(*size)
    fitted, _ = fit_image(image, 64, 8, mode)
    assert same(fitted, image)


def test_bad_fits_are_refused():
    for size, multiple in ((510, 8), (0, 8), (-8, 8), (512, 0), (4, 8)):
        with pytest.raises(ReinvertError, match="is not a multiple"):
            plan_fit((600, 400), size, multiple)
    with pytest.raises(ReinvertError, match="use one of crop, pad, keep"):
        inspect.unwrap(plan_fit)((600, 400), 512, 8, "stretch")  # as a caller without a type checker would
    with pytest.raises(ReinvertError, match="too thin"):
        plan_fit((1, 60_000_000), 512, 8, "keep")
    assert plan_fit((1, 60_000_000), 512, 8, "pad").inner == (255, 0, 256, 512)


@pytest.mark.parametrize("mode", ["crop", "pad", "keep"])
def test_a_mask_follows_its_picture(mode):
    source = Image.new("RGB", (90, 60))
    source.paste((255, 255, 255), (30, 15, 60, 45))
    fitted, fit = fit_image(source, 64, 8, mode)
    mask = fit_mask(source.convert("L"), fit)
    assert (mask.mode, mask.size) == ("L", fitted.size)
    assert set(np.unique(pixels(mask))) == {0, 255}
    assert np.abs((pixels(mask) >= 128) * 255 - (pixels(fitted)[..., 0] >= 128) * 255).mean() < 12  # edges only


def test_a_masks_padding_is_kept_from_editing():
    fit = plan_fit((16, 8), 32, 8, "pad")
    mask = pixels(fit_mask(Image.new("L", (16, 8), 255), fit))
    assert mask[8:24].min() == 255
    assert mask[:8].max() == mask[24:].max() == 0


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ReinvertError, match="the mask is 8x16 but the picture is 16x8"):
        fit_mask(Image.new("L", (8, 16)), plan_fit((16, 8), 32, 8))


# --- Pasting back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["crop", "pad", "keep"])
def test_the_whole_box_is_replaced_and_nothing_else(mode):
    original = noise(90, 61)
    _, fit = fit_image(original, 64, 8, mode)
    back = paste_back(original, Image.new("RGB", fit.size, (9, 8, 7)), fit)
    left, top, right, bottom = fit.box
    changed = (pixels(back) == (9, 8, 7)).all(axis=-1)
    assert changed[top:bottom, left:right].all()
    outside = np.ones(changed.shape, bool)
    outside[top:bottom, left:right] = False
    assert (pixels(back)[outside] == pixels(original)[outside]).all()


@pytest.mark.parametrize("mode", ["crop", "pad", "keep"])
def test_a_smooth_picture_survives_fitting_and_pasting_back(mode):
    y, x = np.mgrid[0:60, 0:90]
    original = Image.fromarray(np.stack([x * 2, y * 3, x + y], axis=-1).astype(np.uint8))
    fitted, fit = fit_image(original, 64, 8, mode)
    assert np.abs(pixels(paste_back(original, fitted, fit)) - pixels(original)).max() <= 4


@pytest.mark.parametrize("make", [lambda a: a, lambda a: a.astype(np.float32), lambda a: Image.fromarray(a)])
def test_a_mask_of_the_models_size(make):
    original = noise(128, 64)
    fit = plan_fit(original.size, 64, 8, "crop")
    mask = np.zeros((64, 64), bool)
    mask[16:32, 16:32] = True
    back = paste_back(original, Image.new("RGB", (64, 64), (9, 8, 7)), fit, make(mask))
    expected = pixels(original)
    expected[16:32, 48:64] = (9, 8, 7)
    assert (pixels(back) == expected).all()


@pytest.mark.parametrize("mode", ["crop", "pad", "keep"])
def test_a_mask_of_the_originals_size_is_exact(mode):
    original = noise(150, 90)
    fit = plan_fit(original.size, 64, 8, mode)
    mask = np.zeros((90, 150), bool)
    mask[31:47, 62:81] = True
    back = paste_back(original, Image.new("RGB", fit.size, (9, 8, 7)), fit, mask)
    expected = pixels(original)
    expected[mask] = (9, 8, 7)
    assert (pixels(back) == expected).all()


def test_half_a_mask_is_half_an_edit():
    original = Image.new("RGB", (64, 64), (100, 100, 100))
    fit = plan_fit(original.size, 64, 8)
    back = paste_back(original, Image.new("RGB", (64, 64), (200, 200, 200)), fit, np.full((64, 64), 0.5))
    assert (pixels(back) == 150).all()


def test_feather_fades_inwards_evenly_and_not_at_the_pictures_border():
    original = Image.new("RGB", (64, 64))
    fit = plan_fit(original.size, 64, 8)
    mask = np.zeros((64, 64), bool)
    mask[:, 20:] = True
    back = pixels(paste_back(original, Image.new("RGB", (64, 64), "white"), fit, mask, feather=4))[..., 0]
    assert (back == back[0]).all()
    assert back[0, 18:27].tolist() == [0, 0, 51, 102, 153, 204, 255, 255, 255]
    assert (back[:, 26:] == 255).all()


def test_feather_hides_the_seam_of_a_crop():
    original = Image.new("RGB", (128, 64))
    fit = plan_fit(original.size, 64, 8)
    back = pixels(paste_back(original, Image.new("RGB", (64, 64), "white"), fit, feather=3))[5, :, 0]
    assert back[30:38].tolist() == [0, 0, 63, 127, 191, 255, 255, 255]


def test_a_thin_line_pales_but_stays():
    original = Image.new("RGB", (64, 64))
    mask = np.zeros((64, 64), bool)
    mask[:, 30] = True
    fit = plan_fit(original.size, 64, 8)
    back = pixels(paste_back(original, Image.new("RGB", (64, 64), "white"), fit, mask, feather=4))
    assert (back[:, 30] == 51).all()


def test_bad_pastes_are_refused():
    original, fit = noise(90, 60), plan_fit((90, 60), 64, 8)
    edited = noise(64, 64)
    bad: list[tuple[str, Callable[[], object]]] = [
        ("pass the picture that was fitted", lambda: paste_back(noise(60, 90), edited, fit)),
        ("pass the model's picture as it is", lambda: paste_back(original, noise(63, 64), fit)),
        ("feather -1 is negative", lambda: paste_back(original, edited, fit, feather=-1)),
        ("the mask is 5x4: make it 64x64", lambda: paste_back(original, edited, fit, np.zeros((4, 5)))),
        ("is not a mask", lambda: paste_back(original, edited, fit, np.zeros((64, 64), np.uint8))),
        ("is not a mask", lambda: paste_back(original, edited, fit, np.zeros((1, 64, 64)))),
        ("values outside 0..1", lambda: paste_back(original, edited, fit, np.full((64, 64), 1.01))),
        ("values outside 0..1", lambda: paste_back(original, edited, fit, np.full((64, 64), np.nan))),
    ]
    for says, call in bad:
        with pytest.raises(ReinvertError, match=says) as error:
            call()
        one_sentence(error)


# --- Tensors -----------------------------------------------------------------------------------------------


def test_to_tensor_is_the_published_formula():
    image = noise(5, 4)
    tensor = to_tensor(image)
    assert (tensor.shape, tensor.dtype) == ((1, 3, 4, 5), torch.float32)
    published = (torch.from_numpy(np.array(image)).float() / 127.5 - 1).permute(2, 0, 1)
    assert torch.equal(tensor[0], published)
    assert to_tensor(Image.new("RGB", (1, 1), "white")).max() == 1
    assert to_tensor(Image.new("RGB", (1, 1), "black")).min() == -1


def test_to_tensor_of_several():
    a, b = noise(5, 4, 1), noise(5, 4, 2)
    assert torch.equal(to_tensor([a, b]), torch.cat([to_tensor(a), to_tensor(b)]))
    with pytest.raises(ReinvertError, match="not of 4x5 and 5x4"):
        to_tensor([a, noise(4, 5)])
    with pytest.raises(ReinvertError, match="not of none"):
        to_tensor([])


def test_to_image_truncates_and_clamps():
    values = torch.tensor([-3.0, -1.0, 0.0, 2 * 254.99 / 255 - 1, 1.0, 7.0])
    image = to_image(values.expand(3, 1, 6))
    assert pixels(image)[0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_to_image_takes_half_precision_and_gradients():
    values = torch.linspace(-1, 1, 64).expand(3, 2, 64)
    full = to_image(values.bfloat16().float())
    assert same(to_image(values.bfloat16().requires_grad_()), full)
    assert same(to_image(values.double()), to_image(values))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_to_image_refuses_what_is_not_finite(value):
    tensor = torch.zeros(3, 4, 4)
    tensor[1, 2, 3] = value
    with pytest.raises(ReinvertError, match="not finite"):
        to_image(tensor)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4, 4), (1, 4, 4), (3, 0, 4)])
def test_to_image_refuses_other_shapes(shape):
    with pytest.raises(ReinvertError, match="is no picture"):
        to_image(torch.zeros(shape))


# --- Saving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_a_saved_picture_opens_again_and_is_the_same_every_time(tmp_path, suffix):
    image = Image.new("RGB", (16, 16), (200, 30, 90))
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    save_image(image, first)
    save_image(image, second)
    assert first.read_bytes() == second.read_bytes()
    assert np.abs(pixels(open_image(first)) - pixels(image)).max() <= (0 if suffix == ".png" else 4)
    with Image.open(first) as check:
        assert check.format == {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")


def test_saving_keeps_the_profile_and_nothing_else(tmp_path):
    image = noise(4, 4)
    image.info = {"icc_profile": b"profile", "transparency": (1, 2, 3), "comment": b"secret"}
    save_image(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as check:
        assert check.info == {"icc_profile": b"profile"}
    assert image.info["comment"] == b"secret"


def test_a_mask_is_saved_as_it_is(tmp_path):
    mask = Image.new("L", (4, 4), 255)
    mask.info = {"transparency": 255}
    save_image(mask, tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as check:
        assert check.mode == "L"
        assert check.info == {}


def test_unknown_suffixes_and_impossible_sizes_are_refused(tmp_path):
    for name in ("a.gif", "a", "a.png.txt"):
        with pytest.raises(ReinvertError, match=r"use \.png, \.jpg or \.webp") as error:
            save_image(noise(4, 4), tmp_path / name)
        one_sentence(error)
    for name in ("a.webp", "a.jpg"):
        with pytest.raises(ReinvertError) as error:
            save_image(Image.new("RGB", (70_000, 1)), tmp_path / name)
        one_sentence(error)
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_replaces_only_when_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    reader = path.open()

    def interrupted(draft: Path) -> None:
        draft.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, interrupted)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

    atomic_write(path, lambda draft: draft.write_text("new") and None)
    assert path.read_text() == "new"
    with reader:
        assert reader.read() == "old"  # replaced in one step, not written over
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_gives_ordinary_permissions_and_the_final_name(tmp_path):
    (tmp_path / "plain.txt").write_text("x")
    seen: list[str] = []

    def write(draft: Path) -> None:
        seen.append(draft.name)
        draft.write_text("x")

    atomic_write(tmp_path / "a.txt", write)
    assert seen == ["a.txt"]
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


def test_places_that_cannot_be_written_are_refused(tmp_path):
    def write(draft: Path) -> None:
        draft.write_text("x")

    def full_disk(draft: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file").touch()
    bad: list[tuple[Path, Callable[[Path], None], str]] = [
        (tmp_path / "no" / "a.txt", write, "does not exist: create it"),
        (tmp_path / "file" / "a.txt", write, "does not exist: create it"),
        (tmp_path, write, "is a folder"),
        (tmp_path / "a.txt", full_disk, "No space left on device"),
        (tmp_path / "a.txt", lambda draft: None, "cannot be written"),
        (tmp_path / ("x" * 300), write, "File name too long"),
    ]
    for path, writer, says in bad:
        with pytest.raises(ReinvertError, match=says) as error:
            atomic_write(path, writer)
        one_sentence(error)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ReinvertError, match="Permission denied"):
            save_image(noise(4, 4), tmp_path / "a.png")
    finally:
        tmp_path.chmod(0o700)


# --- Contact sheets ----------------------------------------------------------------------------------------


def colours(sheet: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.unique(pixels(sheet).reshape(-1, 3), axis=0)}


def test_a_contact_sheet_shows_every_picture_whole():
    red, green = Image.new("RGB", (512, 512), (255, 0, 0)), Image.new("RGB", (600, 400), (0, 255, 0))
    sheet = pixels(contact_sheet([[red, green]], column_titles=["a", "b"], cell=120))
    assert (sheet == (255, 0, 0)).all(axis=-1).sum() == 120 * 120
    assert (sheet == (0, 255, 0)).all(axis=-1).sum() == 120 * 80


def test_small_pictures_grow_by_whole_factors_without_new_colours():
    dots = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]] * 2, np.uint8)).resize(
        (50, 50), Image.Resampling.NEAREST
    )
    sheet = pixels(contact_sheet([[dots]], column_titles=[""], cell=120))
    red, blue = (sheet == (255, 0, 0)).all(axis=-1), (sheet == (0, 0, 255)).all(axis=-1)
    assert red.sum() == blue.sum() == 100 * 50
    middle = Image.new("RGB", (150, 150), (255, 0, 0))
    assert (pixels(contact_sheet([[middle]], column_titles=[""], cell=400)) == (255, 0, 0)).all(axis=-1).sum() == 150**2


def test_an_empty_cell_is_pale_and_titles_need_room():
    bare = contact_sheet([[None]], column_titles=[""], cell=64)
    titled = contact_sheet([[None]], column_titles=["title"], row_titles=["row"], cell=64)
    assert bare.getpixel((bare.width // 2, bare.height // 2)) == (243, 244, 246)
    assert len(colours(bare)) == 2
    assert len(colours(titled)) > 2
    assert titled.width > bare.width
    assert titled.height > bare.height


def test_long_titles_wrap_and_keep_the_grid():
    pictures = [[noise(64, 64), noise(64, 64)]]
    short = contact_sheet(pictures, column_titles=["a", "b"], cell=128)
    long = contact_sheet(pictures, column_titles=["many words " * 9, "x" * 70], cell=128)
    assert long.width == short.width
    assert long.height > short.height + 40
    wide = contact_sheet(pictures, column_titles=["a", "b"], row_titles=["a cat → a dog " * 30], cell=128)
    assert wide.height > short.height


def test_titles_are_spelt_in_the_fonts_own_signs():
    def title(text: str) -> Image.Image:
        return contact_sheet([[None]], column_titles=[text], cell=256)

    assert same(title("café → 2×"), title("cafe -> 2x"))
    assert not same(title("cat"), title("dog"))


def test_bad_contact_sheets_are_refused():
    bad: list[tuple[str, Callable[[], object]]] = [
        ("at least one row", lambda: contact_sheet([], column_titles=["a"])),
        ("at least one row", lambda: contact_sheet([[]], column_titles=[])),
        ("row 2 has 1 pictures", lambda: contact_sheet([[None, None], [None]], column_titles=["a", "b"])),
        ("give one per row", lambda: contact_sheet([[None]], column_titles=["a"], row_titles=["b", "c"])),
        ("cell 8 is too small", lambda: contact_sheet([[None]], column_titles=["a"], cell=8)),
    ]
    for says, call in bad:
        with pytest.raises(ReinvertError, match=says) as error:
            call()
        one_sentence(error)


def test_a_picture_read_from_memory_may_be_damaged_too():
    buffer = BytesIO()
    noise(40, 30).save(buffer, "PNG")
    with pytest.raises(ReinvertError, match="cannot be turned into RGB"):
        as_rgb(Image.open(BytesIO(buffer.getvalue()[:900])))
