"""The bundled model itself."""

from __future__ import annotations

import numpy as np
import pytest

import reinvert
from reinvert.backbones.loading import BUNDLED
from reinvert.picturebook.draw import draw
from reinvert.picturebook.evaluate import psnr, round_trip, sample
from reinvert.picturebook.scene import Scene, Thing
from reinvert.picturebook.tokenizer import COMPOUNDS

FOLDER = BUNDLED["picturebook"]
pytestmark = pytest.mark.skipif(
    not FOLDER.exists(), reason="the bundled model is not there; train it with python -m reinvert.picturebook.train"
)


@pytest.fixture(scope="module")
def model():
    return reinvert.load("picturebook", device="cpu")


def test_it_is_small_and_holds_no_pickles():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40_000_000
    assert {path.suffix for path in files} <= {".json", ".txt", ".safetensors"}


def test_plain_diffusers_loads_it():
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(FOLDER)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red cat on grass", num_inference_steps=2, guidance_scale=3.0).images[0]
    assert picture.size == (pipe.vae_scale_factor * pipe.unet.config.sample_size,) * 2


def test_it_has_what_the_methods_need(model):
    assert model.multiple <= 16
    grids = {layer.part for layer in model.layers()}
    assert grids == {"down", "mid", "up"}
    for word, stems in COMPOUNDS.items():
        assert len(model.tokenizer.encode(word)) == 2 + len(stems)


def test_the_vae_keeps_a_drawing(model):
    pictures = [draw(Scene((Thing(kind, color),), place), model.image_size) for kind, color, place in (
        ("cat", "orange", "sand"), ("dog", "red", "grass"), ("snowman", "blue", "night"),
    )]  # fmt: skip
    values = [psnr(a, b) for a, b in zip(pictures, round_trip(model, pictures), strict=True)]
    assert min(values) > 25


@pytest.mark.slow
def test_a_red_cat_on_grass_is_red_on_green(model):
    pictures = sample(model, ["a red cat on grass"] * 3, steps=20, guidance=3.0, seed=0)
    for picture in pictures:
        pixels = np.asarray(picture.resize((64, 64))).astype(int)
        red, green, blue = (pixels[..., i] for i in range(3))
        middle = (slice(20, 56), slice(16, 48))
        reddish = (red > green + 50) & (red > blue + 50)
        assert reddish[middle].mean() > 0.25
        corner = (slice(44, 64), slice(0, 10))
        assert ((green > red + 10) & (green > blue + 10))[corner].mean() > 0.6
        assert reddish[corner].mean() < 0.1


def test_direct_inversion_reconstructs_exactly(model):
    cat = Scene((Thing("cat", "blue"),), "grass")
    picture = draw(cat, model.image_size)
    again = reinvert.reconstruct(model, picture, cat.caption, inversion="direct", steps=10, guidance=7.5)
    assert again.image.tobytes() == round_trip(model, [picture])[0].tobytes()
