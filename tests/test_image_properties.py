"""image.py: laws that hold for any picture, any size and any file, looked for with hypothesis."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from reinvert.errors import ReinvertError
from reinvert.image import (
    as_rgb,
    fit_image,
    fit_mask,
    open_image,
    open_mask,
    paste_back,
    plan_fit,
    to_image,
    to_tensor,
)

relaxed = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)

modes = st.sampled_from(["crop", "pad", "keep"])
sides = st.integers(12, 80)
pictures = st.builds(
    lambda width, height, seed: Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ),
    sides,
    sides,
    st.integers(0, 9),
)


def encoded(form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, form, **({} if form in ("BMP", "GIF") else {"exif": exif}), **options)
    return buffer.getvalue()


FILES = [
    encoded("PNG"),
    encoded("JPEG"),
    encoded("JPEG", progressive=True),
    encoded("WEBP"),
    encoded("BMP"),
    encoded("TIFF"),
    encoded("TIFF", compression="tiff_lzw"),
    encoded("GIF"),
    encoded("AVIF"),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file with some bytes changed and perhaps its end cut off."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 6))):
        # The first bytes are header and tables, where a change can mislead a decoder most.
        data[draw(st.integers(0, min(120, len(data) - 1)) | st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


def opens_or_explains(path: Path) -> None:
    for opener, mode in ((open_image, "RGB"), (open_mask, "L")):
        try:
            opened = opener(path, max_pixels=1_000_000)
        except ReinvertError as error:
            message = str(error)
        else:
            assert opened.mode == mode
            assert opened.width * opened.height > 0
            continue
        assert message.endswith(".")
        assert path.name in message


@relaxed
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(
    data=st.binary(max_size=300)
    | st.builds(lambda head, tail: head[:30] + tail, st.sampled_from(FILES), st.binary(max_size=200))
)
def test_arbitrary_bytes_never_escape_the_one_exception(tmp_path, data):
    (tmp_path / "any.png").write_bytes(data)
    opens_or_explains(tmp_path / "any.png")


@settings(relaxed, max_examples=400)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(data=damaged())
def test_damaged_files_never_escape_the_one_exception(tmp_path, data):
    (tmp_path / "damaged.png").write_bytes(data)
    opens_or_explains(tmp_path / "damaged.png")


@relaxed
@given(
    data=st.data(),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"]),
)
def test_any_pixels_of_any_mode_become_rgb_of_the_same_size(data, mode):
    width, height = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    blank = Image.new(mode, (width, height))
    raw = data.draw(st.binary(min_size=len(blank.tobytes()), max_size=len(blank.tobytes())))
    try:
        converted = as_rgb(Image.frombytes(mode, (width, height), raw))
    except ReinvertError:
        assert mode in ("I", "F")  # the only modes that can hold values with no meaning as a grey
    else:
        assert (converted.mode, converted.size) == ("RGB", (width, height))


@relaxed
@given(
    source=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    units=st.integers(1, 12),
    multiple=st.sampled_from([1, 8, 16, 64]),
    mode=modes,
)
def test_a_plan_has_sides_of_the_multiple_and_boxes_inside_their_pictures(source, units, multiple, mode):
    size = units * multiple
    try:
        fit = plan_fit(source, size, multiple, mode)
    except ReinvertError:
        assert mode == "keep"
        assert max(source) > 8 * min(source)
        return
    assert all(side >= multiple and side % multiple == 0 for side in fit.size)
    for (left, top, right, bottom), (width, height) in ((fit.box, source), (fit.inner, fit.size)):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    if mode == "keep":
        assert min(fit.size) == size
        exact = max(source) * size / min(source)
        assert abs(max(fit.size) - exact) <= multiple / 2
    else:
        assert fit.size == (size, size)


@relaxed
@given(image=pictures, mode=modes, units=st.integers(1, 8), seed=st.integers(0, 9), feather=st.integers(0, 3))
def test_an_empty_mask_gives_the_original_back(image, mode, units, seed, feather):
    _, fit = fit_image(image, 8 * units, 8, mode)
    edited = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*fit.size[::-1], 3), dtype=np.uint8))
    for mask in (np.zeros(fit.size[::-1], bool), Image.new("L", fit.size), np.zeros(image.size[::-1])):
        assert paste_back(image, edited, fit, mask, feather).tobytes() == image.tobytes()


@relaxed
@given(image=pictures, mode=modes, seed=st.integers(0, 9), feather=st.integers(0, 3))
def test_outside_a_mask_of_the_originals_size_nothing_changes(image, mode, seed, feather):
    _, fit = fit_image(image, 32, 8, mode)
    mask = np.random.default_rng(seed).random(image.size[::-1]) < 0.5
    inverted = Image.eval(image, lambda level: 255 - level)
    edited, _ = fit_image(inverted, 32, 8, mode)
    back = np.asarray(paste_back(image, edited, fit, mask, feather))
    assert (back[~mask] == np.asarray(image)[~mask]).all()


@relaxed
@given(image=pictures, mode=modes)
def test_a_fitted_mask_has_the_fitted_pictures_size_and_no_new_levels(image, mode):
    fitted, fit = fit_image(image, 24, 8, mode)
    mask = Image.fromarray(np.where(np.asarray(image)[:, :, 0] >= 128, 255, 0).astype(np.uint8))
    placed = fit_mask(mask, fit)
    assert placed.size == fitted.size == fit.size
    assert set(np.unique(np.asarray(placed))) <= {0, 255}


@relaxed
@given(levels=arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
def test_tensor_and_back_loses_at_most_one_level(levels):
    back = np.asarray(to_image(to_tensor(Image.fromarray(levels))[0])).astype(int)
    lost = levels.astype(int) - back
    assert lost.min() >= 0
    assert lost.max() <= 1
