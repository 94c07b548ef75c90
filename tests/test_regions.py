"""Regions and captions: picturebook's by drawing again, photographs' with tiny networks of the published kinds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

import reinvert
from reinvert import ReinvertError, regions
from reinvert.picturebook.draw import Detail, draw, draw_thing, thing_masks, worn_masks
from reinvert.picturebook.fitting import FOREIGN, fit_scene
from reinvert.picturebook.naming import named_mask
from reinvert.picturebook.scene import Scene, Thing, sample_scene

TWO = Scene(
    (
        Thing("cat", "red", "plain", "right", "hat", 0.29, 0.86, 0.2),
        Thing("dog", "blue", "striped", "left", None, 0.72, 0.85, 0.19, says_facing=True),
    ),
    "grass",
)


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    return float((found & true).sum() / (found | true).sum())


# --- picturebook: the scene is found again --------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "detail"), [(64, "simple"), (128, "fine")])
def test_the_region_of_a_thing_is_its_true_mask(size, detail):
    scene = Scene((Thing("fish", "yellow", "dotted", "left", "crown", 0.46, 0.87, 0.3),), "sea", seed=5)
    picture = draw(scene, size, detail)
    found = np.asarray(reinvert.region(picture, "the fish")) > 0
    assert found.shape == (size, size)
    assert overlap(found, thing_masks(scene, size, detail)[0]) >= 0.9


def test_fresh_scenes_are_found_with_their_looks_and_places():
    rng = Random("tests of regions")
    for scene in [sample_scene(rng, pairs=0.5) for _ in range(2)]:
        fit = fit_scene(draw(scene))
        true = sorted(scene.things, key=lambda thing: thing.x)
        assert [t.kind for t in fit.scene.things] == [t.kind for t in true]
        assert (fit.scene.background, fit.scene.style) == (scene.background, scene.style)
        masks = zip(thing_masks(fit.scene), thing_masks(replace(scene, things=tuple(true))), strict=True)
        assert min(overlap(found, mask) for found, mask in masks) >= 0.85
        for found, true_worn in zip(worn_masks(fit.scene), worn_masks(replace(scene, things=tuple(true))), strict=True):
            assert not true_worn.any() or overlap(found, true_worn) >= 0.8


def test_a_picture_that_is_not_square_is_read_in_its_middle():
    wide = Image.new("RGB", (160, 64), (120, 120, 120))
    wide.paste(draw(Scene((Thing("star", "pink"),), "night")), (48, 0))
    found = np.asarray(reinvert.region(wide, "the star")) > 0
    assert found.shape == (64, 160)
    assert found.any()
    assert not found[:, :48].any()
    assert not found[:, 112:].any()


def test_a_photograph_is_refused_with_what_to_do():
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    refused = r"does not look like picturebook's drawn world.*name another model"
    with pytest.raises(ReinvertError, match=refused):
        reinvert.region(noise, "the cat")
    with Image.open(Path(skimage.__file__).parent / "data" / "camera.png") as photograph:
        coat = photograph.convert("RGB").crop((37, 169, 215, 347))
    assert fit_scene(coat).error < FOREIGN  # near to a night, but nearer to its own colour
    with pytest.raises(ReinvertError, match=refused):
        reinvert.caption(coat)


@pytest.mark.parametrize(("style", "detail"), [("neon", "simple"), ("neon", "fine"), ("sketch", "fine")])
def test_dark_and_pale_drawings_are_none(style: str, detail: Detail):
    fit = fit_scene(draw(Scene((Thing("mushroom", "purple", "dotted"),), "night", style, seed=3), 128, detail))
    assert fit.is_scene
    assert fit.scene.things[0].kind == "mushroom"


# --- what words name ------------------------------------------------------------------------------------------------


def masks_of(words: str, scene: Scene = TWO) -> np.ndarray:
    return named_mask(words, scene, 64, "simple")


def test_words_name_things_by_what_captions_say_of_them():
    cat, dog = thing_masks(TWO)
    for words in ("the cat", "the red cat", "a kitten", "the cat wearing a hat", "the cat on the left", "the left one"):
        assert (masks_of(words) == cat).all(), words
    for words in ("the dog", "the striped dog", "the puppy facing left", "the right thing", "the blue dog"):
        assert (masks_of(words) == dog).all(), words
    for words in ("the cat and the dog", "the things", "both objects"):
        assert (masks_of(words) == (cat | dog)).all(), words


def test_words_name_what_is_worn_and_what_lies_behind():
    cat, dog = thing_masks(TWO)
    hat = worn_masks(TWO)[0]
    for words in ("the hat", "the cat's hat", "the hat of the cat", "the party hat", "the hat on the left"):
        assert (masks_of(words) == hat).all(), words
    for words in ("grass", "the grass", "the background", "the sky", "a meadow"):
        assert (masks_of(words) == ~(cat | dog)).all(), words
    assert (masks_of("the dog and the hat") == (dog | hat)).all()


@pytest.mark.parametrize(
    "words", ["the boat", "the green cat", "the dog's hat", "the cat on the right", "the sea", "banana", "the big cat"]
)
def test_words_that_name_nothing_are_told_what_there_is(words):
    with pytest.raises(ReinvertError) as told:
        masks_of(words)
    assert str(told.value) == f"nothing in this picture is called '{words}'; it shows {TWO.caption}"


def test_what_is_worn_covers_what_its_drawing_changes():
    for kind, worn in (("cat", "hat"), ("star", "crown")):
        thing = Thing(kind, "green", wearing=worn)
        blank = [Image.new("RGB", (256, 256), (90, 90, 90)) for _ in range(2)]
        draw_thing(blank[0], thing, "drawn")
        draw_thing(blank[1], replace(thing, wearing=None), "drawn")
        differs = (np.asarray(blank[0]) != np.asarray(blank[1])).any(-1).reshape(64, 4, 64, 4).any((1, 3))
        assert (worn_masks(Scene((thing,)))[0] == differs).all()
    assert not worn_masks(TWO)[1].any()


def test_empty_words_are_refused():
    with pytest.raises(ReinvertError, match="name what is to change"):
        reinvert.region(draw(TWO), "  ")


# --- captions -------------------------------------------------------------------------------------------------------


def test_the_caption_of_a_drawing_is_that_of_its_scene():
    caption = "a green metal car facing left in snow"
    assert reinvert.caption(reinvert.draw(caption, seed=3)) == caption


# --- photographs: networks of transformers --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory) -> Path:
    """A tiny random CLIPSeg in a folder, as the Hub has them."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer

    folder = tmp_path_factory.mktemp("models") / "clipseg"
    tokenizer = CLIPTokenizer.from_pretrained(Path(reinvert.__file__).parent / "picturebook" / "model" / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**small, **ends, "vocab_size": 49408, "max_position_embeddings": 12, "projection_dim": 8},
        vision_config={**small, "image_size": 16, "patch_size": 4, "projection_dim": 8},
        projection_dim=8,
        reduce_dim=8,
        extract_layers=[0, 1],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=8,
        conditional_layer=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPSegForImageSegmentation(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}}))
    return folder


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """A tiny random BLIP in a folder."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

    folder = tmp_path_factory.mktemp("models") / "blip"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "on", "grass", "red", "dog"]
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={**small, "vocab_size": len(words) + 2, "encoder_hidden_size": 16, "max_position_embeddings": 64,
                     "bos_token_id": len(words), "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0},
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BlipForConditionalGeneration(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 16, "width": 16}}))
    return folder


def test_a_clipseg_gives_a_mask_of_the_pictures_size(clipseg):
    picture = draw(TWO).resize((50, 40))
    segmenter = regions.load_segmenter(clipseg, device="cpu")
    shares = segmenter.shares(picture, "a cat")
    assert shares.shape == (40, 50)
    middle = float(np.median(shares))
    mask = np.asarray(reinvert.region(picture, "a cat", model=clipseg, threshold=middle, device="cpu")) > 0
    assert (mask == (shares >= middle)).all()
    other = segmenter.shares(picture, "a dog on grass")
    assert np.abs(shares - other).max() > 1e-6  # the words are read


def test_a_clipseg_is_read_as_transformers_own_pipeline_reads_it(clipseg):
    """The same numbers from the network called by hand on a picture of its own size."""
    from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

    picture = draw(TWO, 32)
    network = CLIPSegForImageSegmentation.from_pretrained(clipseg).eval()
    tokens = CLIPTokenizer.from_pretrained(clipseg)(["a cat"], return_tensors="pt")
    mean, std = (np.array(c) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = torch.from_numpy(((np.asarray(picture) / 255 - mean) / std).transpose(2, 0, 1)).float()[None]
    with torch.no_grad():
        theirs = network(**tokens, pixel_values=pixels).logits.sigmoid().reshape(32, 32).numpy()
    ours = regions.load_segmenter(clipseg, device="cpu").shares(picture, "a cat")
    assert np.abs(ours - theirs).max() < 1e-5


def test_a_clipseg_that_finds_nothing_says_how_sure_it_was(clipseg):
    with pytest.raises(ReinvertError, match="clipseg finds no 'a cat' in this picture: its surest pixel has 0"):
        reinvert.region(draw(TWO), "a cat", model=clipseg, threshold=1.0, device="cpu")


def test_a_blip_captions_and_does_so_always_alike(blip):
    picture = draw(TWO)
    said = reinvert.caption(picture, model=blip, device="cpu")
    assert said
    assert set(said.split()) <= {"a", "cat", "on", "grass", "red", "dog"}
    assert reinvert.caption(picture, model=str(blip), device="cpu") == said


@pytest.mark.parametrize("verb", ["region", "caption"])
def test_pickles_and_other_networks_are_refused(tmp_path, clipseg, blip, verb):
    own, other = (clipseg, blip) if verb == "region" else (blip, clipseg)

    def asked(where: Path):
        picture = draw(TWO)
        if verb == "region":
            return reinvert.region(picture, "a cat", model=where, device="cpu")
        return reinvert.caption(picture, model=where, device="cpu")

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((own / "config.json").read_bytes())
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ReinvertError, match="is a pickle, which reinvert never loads"):
        asked(pickled)
    with pytest.raises(ReinvertError, match=r"is not a (CLIPSeg|BLIP) in transformers format"):
        asked(other)
    with pytest.raises(ReinvertError, match="there is no"):
        asked(tmp_path / "nowhere")


def test_anything_that_finds_can_be_the_model():
    class Left:
        name = "left"

        def find(self, picture, words):
            mask = np.zeros((picture.height, picture.width), bool)
            mask[:, : picture.width // 2] = True
            return mask

    found = regions.find_region(draw(TWO), "half of it", Left())
    assert found.record() == {"region": "half of it", "model": "left", "share": 0.5}
    assert reinvert.region(draw(TWO), "half of it", model=Left()).histogram()[255] == 2048
