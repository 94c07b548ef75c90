"""Every form in which a picture can be given, and the one sentence for everything else."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from io import BytesIO
from itertools import count, product
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SOURCE, TARGET
from PIL import Image

import reinvert
from reinvert import image as image_module
from reinvert.errors import ReinvertError
from reinvert.image import is_picture, open_image, open_mask, paste_back, plan_fit

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def levels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


FORMS = {
    "PIL": Image.fromarray(LEVELS),
    "bytes": png(Image.fromarray(LEVELS)),
    "bytearray": bytearray(png(Image.fromarray(LEVELS))),
    "uint8": LEVELS,
    "float64": LEVELS / 255,
    "float32": (LEVELS / 255).astype(np.float32),
    "a view": LEVELS[::-1][::-1],
    "a tensor": torch.from_numpy(LEVELS).permute(2, 0, 1),
    "a float tensor": torch.from_numpy(LEVELS).permute(2, 0, 1) / 255,
    "a tensor with gradients": (torch.from_numpy(LEVELS).permute(2, 0, 1) / 255).requires_grad_(),
    "a tensor, channels last": torch.from_numpy(LEVELS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(form):
    assert is_picture(FORMS[form])
    assert np.array_equal(levels(open_image(FORMS[form])), LEVELS)


def test_paths_and_open_files(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(FORMS["bytes"])
    for given in (path, str(path)):
        assert np.array_equal(levels(open_image(given)), LEVELS)
    with path.open("rb") as file:
        assert np.array_equal(levels(open_image(file)), LEVELS)
        assert not file.closed
    with path.open() as file, pytest.raises(ReinvertError, match="open it with mode"):
        open_image(file)


def test_greys_and_transparency_of_arrays():
    grey = LEVELS[:, :, 0]
    for given in (grey, grey[:, :, None], grey / 255, torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert (levels(open_image(given)) == grey[:, :, None]).all()
    half = np.dstack([LEVELS, np.full((5, 7), 0, np.uint8)])
    half[0, :, 3] = 255
    opened = levels(open_image(half))
    assert np.array_equal(opened[0], LEVELS[0])
    assert (opened[1:] == 255).all()
    assert np.array_equal(levels(open_image(torch.from_numpy(half).permute(2, 0, 1))), opened)


def test_half_precision_is_rounded_to_the_nearest_level():
    for dtype in (torch.float16, torch.bfloat16):
        tensor = (torch.from_numpy(LEVELS).permute(2, 0, 1) / 255).to(dtype)
        assert np.abs(levels(open_image(tensor)) - LEVELS).max() <= (0 if dtype == torch.float16 else 1)


@pytest.mark.parametrize(
    ("given", "says"),
    ids=count(),
    argvalues=[
        (np.zeros((2, 5, 7, 3), np.uint8), r"\[2, 5, 7, 3\] of uint8 is no picture.*as a list"),
        (torch.zeros(2, 3, 5, 7), r"\[2, 5, 7, 3\]|\[2, 3, 5, 7\]"),
        (np.zeros((3, 5, 7), np.uint8), r"\[3, 5, 7\] of uint8"),
        (np.zeros((5, 7, 3), np.int64), "of int64 is no picture"),
        (np.zeros((5, 7, 3), np.uint16), "of uint16 is no picture"),
        (np.zeros((5, 7, 3), np.complex64), "of complex64 is no picture"),
        (np.array("cat"), "is no picture"),
        (np.zeros((0, 7, 3), np.uint8), "no pixels"),
        (LEVELS.astype(float), r"between \d+ and \d+: give floats in 0\.\.1"),
        (torch.from_numpy(LEVELS).permute(2, 0, 1) / 127.5 - 1, r"between -1 and"),
        (np.full((5, 7, 3), np.nan), r"give floats in 0\.\.1"),
        (b"", "is not an image reinvert can read"),
        (BytesIO(b"no picture"), "is not an image reinvert can read"),
        ("no\0name.png", "does not exist"),
    ],
)
def test_what_is_no_picture_is_told_apart(given, says):
    for opener in (open_image, open_mask):
        with pytest.raises(ReinvertError, match=says):
            opener(given)


@pytest.mark.parametrize(
    "mask",
    ids=count(),
    argvalues=[
        Image.fromarray(np.array([[0, 200], [255, 9]], np.uint8)),
        np.array([[0, 200], [255, 9]], np.uint8),
        np.array([[False, True], [True, False]]),
        np.array([[0, 0.5], [1, 0.49]]),
        torch.tensor([[0, 0.6], [1, 0.3]]),
        torch.tensor([[False, True], [True, False]]),
        np.array([[0, 1], [2, 0]], np.uint8),
        png(Image.fromarray(np.array([[0, 200], [255, 9]], np.uint8))),
    ],
)
def test_every_form_of_a_mask(mask):
    assert np.asarray(open_mask(mask)).tolist() == [[0, 255], [255, 0]]


def test_faint_floats_are_no_labels():
    assert np.asarray(open_mask(np.full((2, 2), 0.3))).max() == 0


def palette_png(palette: bytes | None, transparency: bytes | None) -> bytes:
    """A palette PNG of index 1, with the chunks that it is to have."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 255, 255, 255] * 2)
    whole = png(image, transparency=b"\xff\x80")
    out, at = whole[:8], 8
    while at < len(whole):
        length = int.from_bytes(whole[at : at + 4], "big")
        kind, chunk = whole[at + 4 : at + 8], whole[at : at + 12 + length]
        if kind in (b"PLTE", b"tRNS"):
            data = palette if kind == b"PLTE" else transparency
            chunk = b"" if data is None else _chunk(kind, data)
        out, at = out + chunk, at + 12 + length
    return out


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


DAMAGED = tuple(product((None, b"", b"\0\0\0", b"\0" * 6), (None, b"", b"\xff", b"\x80\x10", b"\xff" * 300)))


@pytest.mark.parametrize(("palette", "transparency"), DAMAGED, ids=count())
def test_damaged_palettes_of_files(palette, transparency):
    data = palette_png(palette, transparency)
    for opener in (open_image, open_mask):
        with suppress(ReinvertError):  # versions of Pillow differ; nothing else may come out
            assert opener(data).size == (4, 4)


def test_a_picture_of_one_by_millions_is_refused_before_it_is_decoded():
    data = bytearray(png(Image.new("RGB", (1, 1))))
    data[16:24] = struct.pack(">II", 1, 60_000_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ReinvertError, match=r"1x60000000, a side of more than 65,535 pixels"):
        open_image(bytes(data))


def test_max_pixels_holds_for_what_is_not_decoded_yet(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(FORMS["bytes"])
    for opener in (open_image, open_mask):
        for given in (path, FORMS["bytes"], Image.open(path)):
            with pytest.raises(ReinvertError, match=r"more than 34 pixels: .*max_pixels \(--max-pixels\)"):
                opener(given, max_pixels=34)
            assert opener(given, max_pixels=35).size == (7, 5)
        assert opener(LEVELS, max_pixels=34).size == (7, 5)


def test_what_is_made_in_bands_is_what_is_made_whole(monkeypatch):
    rng = np.random.default_rng(0)
    clear = Image.fromarray(rng.integers(0, 256, (37, 23, 4), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (37, 23), dtype=np.uint16))
    floats = Image.fromarray(rng.random((37, 23), dtype=np.float32))
    original, edited = Image.fromarray(LEVELS).resize((50, 37)), Image.new("RGB", (32, 32), "red")
    fit = plan_fit(original.size, 32, 8)
    mask = np.pad(rng.random((20, 20)), 6)

    def made():
        return [open_image(p) for p in (clear, deep, floats)] + [paste_back(original, edited, fit, mask, feather=4)]

    whole = made()
    monkeypatch.setattr(image_module, "BAND", 100)
    for one, other in zip(whole, made(), strict=True):
        assert np.array_equal(levels(one), levels(other))


@pytest.mark.parametrize("form", ["GIF", "AVIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(form):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    data = png(frames[0], form, save_all=True, append_images=frames[1:], **({"quality": 100} if form == "AVIF" else {}))
    assert np.abs(levels(open_image(data)) - (250, 0, 0)).max() <= 6


def test_a_transparent_gif_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((1, 0), 1)
    assert levels(open_image(png(image, "GIF", transparency=0))).tolist() == [[[255] * 3, [10, 200, 30]]]


# The head of a HEIC file, as an iPhone writes it.
HEIC_HEAD = b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHBMiHEMiPrmiafheic" + b"\0" * 40


def test_heic_without_its_plug_in_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ReinvertError, match=r"needs pillow-heif: pip install 'reinvert\[heic\]'"):
        open_image(HEIC_HEAD)


def test_heic_is_turned_upright_and_leaves_pillow_as_it_was():
    pillow_heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 48), (200, 30, 90))
    image.paste((20, 220, 60), (0, 0, 32, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter to the right
    buffer = BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=95, exif=exif.tobytes())
    before = set(Image.OPEN)
    opened = open_image(buffer.getvalue())
    assert opened.size == (48, 64)
    assert np.abs(levels(opened)[8, 24] - (20, 220, 60)).max() <= 12
    assert np.abs(levels(opened)[56, 24] - (200, 30, 90)).max() <= 12
    assert set(Image.OPEN) == before
    with pytest.raises(ReinvertError, match="more than 3,000 pixels"):
        open_image(buffer.getvalue(), max_pixels=3000)
    for cut in (40, 200, len(buffer.getvalue()) - 20):
        with pytest.raises(ReinvertError, match="damaged or incomplete"):
            open_image(buffer.getvalue()[:cut])


def test_an_avif_of_brand_mif1_is_left_to_pillow():
    assert not image_module._is_heif(b"\0\0\0\x20ftypmif1\0\0\0\0avifmif1miafMA1B" + b"\0" * 40)
    assert image_module._is_heif(HEIC_HEAD)
    assert not image_module._is_heif(b"\x89PNG")


# --- the verbs -------------------------------------------------------------------------------------------------

WRONG_CALLS = r"""
import json, sys
import numpy as np
from PIL import Image
import reinvert

model, picture = reinvert.load(sys.argv[1]), Image.new("RGB", (32, 32))
heavy = ("diffusers.pipelines.", "transformers.models.t5.model", "diffusers.schedulers.scheduling_flow")
imported = [name for name in sys.modules if name.startswith(heavy)]
source, target = sys.argv[2:]
path = reinvert.invert(model, picture, source, steps=2)
right = dict(image=picture, source=source, target=target, steps=np.int64(2), guidance=np.float32(3))
wrong = [
    dict(steps="20"), dict(steps=2.5), dict(steps=True), dict(steps=0), dict(steps=10**30), dict(guidance="7"),
    dict(guidance=float("nan")), dict(guidance=[7.5]), dict(seed=1.5), dict(seed=-1), dict(seed=2**64), dict(seed="0"),
    dict(image=5), dict(image=None), dict(image={}), dict(image=[5]), dict(image=np.zeros((2, 32, 32, 3), np.uint8)),
    dict(image=(p for p in [picture])), dict(image=Image.Image), dict(mask=5), dict(mask=[5]), dict(source=5),
    dict(source=[None]), dict(target=5), dict(target=[5]), dict(target=None), dict(target=b"a dog"),
    dict(target="a \udc80 dog"), dict(blend=5), dict(blend="cat"), dict(blend=("cat", "dog", "x")), dict(blend=()),
    dict(blend=(1, 2)), dict(boost=5), dict(boost={"dog": "2"}), dict(boost={5: 2.0}), dict(inversion=5),
    dict(inversion=reinvert.edit), dict(editor=5), dict(editor=[5]), dict(editor=[]), dict(fit=5),
    dict(max_pixels="5"), dict(max_pixels=0), dict(batch_size=0), dict(batch_size="2"),
    dict(watch=5), dict(model=None), dict(model="picturebook"),
    dict(image=path, source=5), dict(image=path, source=None, mask=5),
]
told = []
for change in wrong:
    call = {"model": model, **right, **change}
    before = model.tally.copy()
    for verb in (reinvert.edit, reinvert.invert, reinvert.reconstruct):
        taken = ("model", "image", "source", "steps", "guidance", "seed", "inversion", "fit", "max_pixels", "watch")
        taken += ("batch_size",)
        if verb is reinvert.invert and call["image"] is path:
            continue
        if verb is reinvert.edit or set(change) <= set(taken) and "mask" not in change:
            given = call if verb is reinvert.edit else {k: v for k, v in call.items() if k in taken}
            try:
                verb(**given)
                told.append([verb.__name__, str(change), "nothing", True])
            except Exception as error:
                fine = isinstance(error, reinvert.ReinvertError) and isinstance(error, ValueError)
                told.append([verb.__name__, str(change), str(error), fine and model.tally == before])
reinvert.edit(model, **right)
print(json.dumps([told, imported]))
"""


def test_values_of_other_types_are_answered_in_a_sentence(tiny_folder):
    # In a process of its own: here the types in the signatures are checked, as they are not for users.
    done = subprocess.run(
        [sys.executable, "-c", WRONG_CALLS, tiny_folder, SOURCE, TARGET], capture_output=True, text=True, check=True
    )
    told, imported = json.loads(done.stdout)
    assert imported == [], "loading a model imports what belongs to other families"
    assert len(told) > 80
    for verb, change, sentence, fine in told:
        assert fine, (verb, change, sentence)
        assert "\n" not in sentence
        assert len(sentence) <= 300


def test_a_numpy_picture_is_one_picture(tiny, picture):
    array = np.asarray(picture)
    expected = reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, steps=2)
    for given in (array, torch.from_numpy(array.copy()).permute(2, 0, 1), png(picture)):
        result = reinvert.edit(tiny, given, source=SOURCE, target=TARGET, steps=2)
        assert torch.equal(result.latents, expected.latents)
    several = reinvert.edit(tiny, [array, picture], source=[SOURCE] * 2, target=[TARGET] * 2, steps=2)
    assert len(several) == 2


def test_a_numpy_mask_is_one_mask(tiny, picture):
    mask = np.zeros((32, 32), bool)
    mask[4:16, 8:20] = True
    one, two = (
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, steps=2, mask=given)
        for given in (mask, Image.fromarray(mask))
    )
    assert torch.equal(one.latents, two.latents)
