"""The bundled flow model."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import reinvert
from reinvert.backbones.loading import BUNDLED
from reinvert.picturebook import reader
from reinvert.picturebook.draw import draw
from reinvert.picturebook.evaluate import psnr, round_trip, sample
from reinvert.picturebook.reader import Reader
from reinvert.picturebook.scene import Scene, Thing

FOLDER = BUNDLED["picturebook-flow"]


@pytest.fixture(scope="module")
def model():
    return reinvert.load("picturebook-flow", device="cpu")


def test_it_is_small_and_holds_no_pickles():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors"}
    own, other = (json.loads((BUNDLED[n] / "reinvert.json").read_text()) for n in ("picturebook-flow", "picturebook"))
    assert own == other | {"usual": {"steps": 28, "guidance": 3.0}}


def test_plain_diffusers_loads_it():
    from diffusers import StableDiffusion3Pipeline

    pipe = StableDiffusion3Pipeline.from_pretrained(FOLDER, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red cat on grass", num_inference_steps=2, guidance_scale=3.0, height=64, width=64).images[0]
    assert picture.size == (64, 64)


def test_its_pictures_are_those_of_the_other_model(model):
    """One autoencoder: a picture's latents and its round trip are the same in both."""
    other = reinvert.load("picturebook", device="cpu")
    picture = draw(Scene((Thing("cat", "blue"),), "grass"), model.image_size)
    assert round_trip(model, [picture])[0].tobytes() == round_trip(other, [picture])[0].tobytes()
    assert model.world == other.world


def test_uni_inversion_reconstructs(model):
    cat = Scene((Thing("cat", "blue"),), "grass")
    picture = draw(cat, model.image_size)
    again = reinvert.reconstruct(model, picture, cat.caption, inversion="uni_inv", steps=10, guidance=1.0)
    assert psnr(again.image, round_trip(model, [picture])[0]) > 30


@pytest.mark.slow
def test_it_draws_what_its_captions_say(model):
    captions = ["a red cat on grass", "a blue car in snow", "a yellow fish in the sea"]
    read = Reader.load(reader.BUNDLED).read(sample(model, captions, steps=28, guidance=3.0, seed=0))
    assert [(r["only.kind"], r["only.color"]) for r in read] == [("cat", "red"), ("car", "blue"), ("fish", "yellow")]


@pytest.mark.slow
def test_flowedit_turns_a_cat_into_a_dog(model):
    before, after = Scene((Thing("cat", "red"),), "grass"), Scene((Thing("dog", "red"),), "grass")
    picture = draw(before, model.image_size)
    edit = reinvert.edit(
        model, picture, source=before.caption, target=after.caption, inversion="none", editor="flowedit"
    )
    assert isinstance(edit.image, Image.Image)
    assert Reader.load(reader.BUNDLED).read([edit.image])[0]["only.kind"] == "dog"
