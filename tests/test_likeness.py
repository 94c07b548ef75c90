"""Photographs are told from the drawn world, and drawings never taken for photographs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import skimage
import torch
from conftest import SOURCE
from PIL import Image

import reinvert
from reinvert.cli import main
from reinvert.errors import ReinvertError
from reinvert.image import fit_image, to_image, to_tensor
from reinvert.likeness import check_pictures, plain_area
from reinvert.models import BUNDLED
from reinvert.picturebook.draw import draw
from reinvert.picturebook.notes import notes
from reinvert.picturebook.scene import sample_scene

PHOTOGRAPHS = ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png")
PHOTOGRAPHS += ("gravel.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "retina.jpg", "ihc.png")


@pytest.fixture(scope="module")
def model():
    return reinvert.load("picturebook", device="cpu", dtype="float32")


def saved_as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def drawings(count: int, seed: int, large: int = 192) -> list[Image.Image]:
    """Drawn, enlarged, made smaller and saved as JPEG, in turn."""
    rng, made = Random(seed), []
    for i in range(count):
        scene = sample_scene(rng, pairs=0.3, styled=0.4)
        kind, sampling = i % 6, rng.choice((0, 1, 2, 3))
        drawn = draw(scene, {1: large, 2: 2 * 64, 5: 2 * 64}.get(kind, 64), "simple")
        if kind in (2, 3):
            drawn = saved_as_jpeg(drawn, rng.choice((30, 50, 90) if kind == 2 else (50, 75, 95)))
        if kind in (4, 5):
            drawn = drawn.resize((rng.randint(90, 400) if kind == 4 else 50,) * 2, sampling if kind == 4 else 1)
        made.append(drawn)
    return made


def photographs() -> list[Image.Image]:
    folder, rng, made = Path(skimage.__file__).parent / "data", Random(0), []
    for name in PHOTOGRAPHS:
        with Image.open(folder / name) as file:
            picture = file.convert("RGB")
        width, height = picture.size
        made.append(picture)
        for _ in range(3):
            side = rng.randint(min(width, height) // 4, min(width, height))
            x, y = rng.randint(0, width - side), rng.randint(0, height - side)
            made.append(picture.crop((x, y, x + side, y + side)))
    noise = np.random.default_rng(0)
    down, across = np.mgrid[0:256, 0:256, 0:1][:2] / 255
    for i in range(12):  # skies, walls, fog: slopes of two colours with the noise of a sensor
        a, b = noise.uniform(0, 255, (2, 3))
        slope = (
            a + (b - a) * (down if i % 2 else (down + across) / 2) + noise.normal(0, (3, 8, 20)[i % 3], (256, 256, 3))
        )
        made.append(Image.fromarray(slope.clip(0, 255).astype(np.uint8)))
    return made


def refused(model, pictures: list[Image.Image]) -> list[bool]:
    fitted = [fit_image(picture, model.image_size, model.multiple)[0] for picture in pictures]
    found = []
    with torch.no_grad():
        latents = model.encode(to_tensor(fitted))
    for picture, latent in zip(fitted, latents, strict=True):
        try:
            check_pictures(model, [picture], latent[None])
            found.append(False)
        except ReinvertError:
            found.append(True)
    return found


def test_no_drawing_is_taken_for_a_photograph(model) -> None:
    assert not any(refused(model, [*drawings(66, seed=7), *drawings(12, seed=11)]))


@pytest.mark.slow
def test_no_drawing_of_many_is_taken_for_a_photograph(model) -> None:
    for seed in range(10, 16):
        assert not any(refused(model, drawings(120, seed, large=512)))


def test_what_the_model_renders_is_of_its_world(model) -> None:
    with torch.no_grad():
        rendered = model.decode(model.encode(to_tensor(drawings(24, seed=8)[::6] + drawings(24, seed=9)[::6])))
    assert not any(refused(model, [to_image(picture) for picture in rendered]))


def test_photographs_are_refused(model) -> None:
    found = refused(model, photographs())
    assert len(found) > 60
    assert sum(found) / len(found) >= 0.97


def test_a_refusal_says_why_and_force_goes_on(model) -> None:
    with Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png") as file:
        photograph = file.convert("RGB")
    before = model.tally.copy()
    told = r"this picture does not look like picturebook's drawn world \(.* dB\); .*, or --force \(force=True\)"
    words = {"source": "a red cat on grass", "steps": 2}
    for call in (
        lambda **more: reinvert.edit(model, photograph, target="a red dog on grass", **words, **more),
        lambda **more: reinvert.reconstruct(model, photograph, **words, **more),
        lambda **more: reinvert.invert(model, photograph, **words, **more),
    ):
        with pytest.raises(ReinvertError, match=told):
            call()
        assert model.tally == before
        assert call(force=True) is not None
        before = model.tally.copy()


def test_a_model_that_says_nothing_takes_any_picture(tiny, picture) -> None:
    assert tiny.world is None
    assert reinvert.reconstruct(tiny, picture, SOURCE, steps=1).images


@pytest.mark.parametrize("command", ["edit", "many"])
def test_the_command_line_refuses_a_photograph_without_force(
    command: str, tiny_folder: Path, tmp_path, picture, capsys
):
    folder = tmp_path / "drawn"
    folder.mkdir()
    for item in tiny_folder.iterdir():
        (folder / item.name).symlink_to(item)
    told = json.loads((BUNDLED["picturebook"] / "reinvert.json").read_text())
    (folder / "reinvert.json").write_text(json.dumps({"pictures": told["pictures"]}))
    for name in ("a.png", "b.png"):
        picture.save(tmp_path / name)
    given = [str(tmp_path / name) for name in (("a.png",) if command == "edit" else ("a.png", "b.png"))]
    out = tmp_path / ("out.png" if command == "edit" else "out")
    line = ["edit", *given, "--model", str(folder), "--source", SOURCE, "--target", SOURCE, "--steps", "1"]
    line += ["-o", str(out)]
    assert main(line) == 2
    assert "does not look like drawn's drawn world" in capsys.readouterr().err
    assert not out.is_file()
    assert main([*line, "--force"]) == 0


@pytest.mark.slow
def test_the_bundled_folder_says_what_the_drawings_say() -> None:
    assert json.loads((BUNDLED["picturebook"] / "reinvert.json").read_text()) == notes()


def test_a_plain_area_has_neighbours_like_itself() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0, 0] = 50
    plain = plain_area(pixels)
    assert not plain[0, 0]
    assert not plain[0, 1]
    assert not plain[1, 0]
    assert plain.sum() == 13
