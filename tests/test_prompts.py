"""What a model cannot know of a prompt is told: unknown words, weights, and what is cut off."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from conftest import SOURCE, TARGET, TOKENS

import reinvert
from reinvert.backbones.base import World
from reinvert.backbones.loading import load_world
from reinvert.cli import main
from reinvert.errors import ReinvertError, ReinvertWarning
from reinvert.models import BUNDLED
from reinvert.picturebook.scene import caption_words, sample_scene
from reinvert.prompts import check_words, warn_of_prompts

LONG = " ".join(["a cat on a table"] * 4)


@pytest.fixture
def small(tiny, monkeypatch):
    """A tiny model that knows the words of the two prompts and no others."""
    monkeypatch.setattr(tiny, "world", World(frozenset(f"{SOURCE} {TARGET}".split())))
    return tiny


@pytest.fixture(scope="module")
def small_folder(tiny_folder: Path, tmp_path_factory) -> Path:
    """The same as a folder that says so."""
    folder = tmp_path_factory.mktemp("small") / "small"
    folder.mkdir()
    for item in tiny_folder.iterdir():
        (folder / item.name).symlink_to(item)
    words = sorted(set(f"{SOURCE} {TARGET}".split()))
    (folder / "reinvert.json").write_text(json.dumps({"words": words, "usual": {"steps": 2, "guidance": 2.5}}))
    return folder


def test_an_unknown_word_is_refused_by_every_verb_and_names_the_nearest(small, picture) -> None:
    path = reinvert.invert(small, picture, SOURCE, steps=1)
    before = small.tally.copy()
    wrong = "a dgo sitting on a table"
    for call in (
        lambda: reinvert.edit(small, picture, source=SOURCE, target=wrong, blend=("cat", "dgo"), steps=1),
        lambda: reinvert.edit(small, picture, source=wrong, target=TARGET, steps=1),
        lambda: reinvert.edit(small, picture, source=SOURCE, target=[TARGET, wrong], steps=1),
        lambda: reinvert.edit(small, path, target=wrong),
        lambda: reinvert.invert(small, picture, wrong, steps=1),
        lambda: reinvert.reconstruct(small, picture, wrong, steps=1),
    ):
        with pytest.raises(ReinvertError, match=r"tiny-eps was trained without the word 'dgo' of 'a dgo sitting on"):
            call()
        with pytest.raises(ReinvertError, match=r"did you mean dog\? \(--any-words, any_words=True, lets it through\)"):
            call()
    assert small.tally == before
    assert reinvert.edit(small, picture, source=SOURCE, target=wrong, steps=1, any_words=True).images
    assert reinvert.edit(small, path, target=wrong, any_words=True).images
    assert reinvert.reconstruct(small, picture, wrong, steps=1, any_words=True).images


def test_an_editors_own_prompts_are_read_too(small, picture) -> None:
    words = {"source": SOURCE, "target": TARGET, "steps": 1}
    for editor, given in (
        ("pnp", {"negative": "a dgo"}),
        ("ledits", {"concepts": {"dgo": 2.0}}),
        ("pix2pix_zero", {"source_bank": ("a cat", "a dgo"), "target_bank": ("a dog", "a dog")}),
    ):
        with pytest.raises(ReinvertError, match="without the word 'dgo'"):
            reinvert.edit(small, picture, **words, editor=editor, **given)
    assert reinvert.edit(small, picture, **words, editor="pnp").images  # a method's default is its own business


def test_capitals_punctuation_and_the_empty_prompt_are_known() -> None:
    world = World(frozenset({"a", "cat", "dog"}))
    for prompt in ("", "A Cat", "a cat, a dog.", "(a 'cat')", "a cat's dog", "a cat - a dog", "!"):
        check_words("it", world, [prompt])
    for prompt, word in (("a cät", "cät"), ("a 3 cat", "3"), ("a cat-dog", "cat-dog"), ("(dgo:x)", "dgo:x")):
        with pytest.raises(ReinvertError, match=f"without the word '{word}'"):
            check_words("it", world, [prompt])
    with pytest.raises(ReinvertError, match="it knows a, cat, dog "):
        check_words("it", world, ["zebra"])
    check_words("it", None, ["zebra"])
    check_words("it", World(), ["zebra"])


def test_the_bundled_model_knows_the_words_of_its_captions_and_no_others() -> None:
    from random import Random

    world = load_world("picturebook")
    assert world is not None
    assert world.words == set(caption_words())
    rng = Random(0)
    captions = [sample_scene(rng, pairs=0.5, styled=0.5).caption for _ in range(2000)]
    check_words("picturebook", world, captions)
    assert {word for caption in captions for word in caption.split()} == world.words
    assert load_world(BUNDLED["picturebook"]) == world


@pytest.mark.parametrize("command", ["edit", "invert", "reconstruct", "explain", "compare", "many"])
def test_every_command_refuses_an_unknown_word(command: str, small_folder: Path, picture, tmp_path: Path, capsys):
    given, out = tmp_path / "given.png", tmp_path / "out.png"
    picture.save(given)
    line = ["edit" if command in ("explain", "compare", "many") else command, str(given), "--model", str(small_folder)]
    line += ["--source", "a cat sitting on a tabel" if command in ("invert", "reconstruct") else SOURCE, "--steps", "1"]
    if command == "many":
        picture.save(tmp_path / "other.png")
        line, out = [line[0], str(tmp_path / "other.png"), *line[1:]], tmp_path / "results"
    if line[0] == "edit":
        line += ["--target", "a cat sitting on a tabel"]
        line += {"explain": ["--explain"], "compare": ["--compare", "ddim", "direct"]}.get(command, [])
    if command == "invert":
        out = tmp_path / "out.trajectory.safetensors"
    line += ["-o", str(out)]
    assert main(line) == 2
    told = capsys.readouterr().err
    assert "small was trained without the word 'tabel'" in told.replace(str(small_folder), "small")
    assert "did you mean table?" in told
    assert not out.is_file()
    assert main([*line, "--any-words"]) == 0
    assert "trained without" not in capsys.readouterr().err


def test_a_prompt_that_is_cut_is_told_with_the_words_that_are_lost(
    tiny, picture, tiny_folder, tmp_path, capsys
) -> None:
    assert len(tiny.tokenizer.encode(LONG)) > TOKENS
    lost = " ".join(LONG.split()[TOKENS - 2 :])
    for call in (
        lambda: reinvert.edit(tiny, picture, source=SOURCE, target=LONG, steps=1, kind="refine"),
        lambda: reinvert.invert(tiny, picture, LONG, steps=1),
        lambda: reinvert.reconstruct(tiny, picture, LONG, steps=1),
    ):
        with pytest.warns(ReinvertWarning, match=f"tiny-eps does not read all of .*; these words are cut off: {lost}$"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, steps=1)
    given = tmp_path / "given.png"
    picture.save(given)
    line = ["edit", given, "--model", tiny_folder, "--source", LONG, "--target", LONG, "--steps", 1]
    assert main([*map(str, line), "-o", str(tmp_path / "out.png")]) == 0
    err = capsys.readouterr().err.splitlines()
    assert [row for row in err if "cut off" in row] == [
        f"reinvert: tiny-eps does not read all of {LONG!r}; these words are cut off: {lost}"
    ]


def test_a_weight_is_told_to_be_plain_text_with_the_boost_that_does_it(tiny) -> None:
    told = (
        r"'\(red cat:1.3\)' is plain text here, no weight: write 'red cat' alone, and --boost 'red cat=1.3' "
        r"\(boost=\{'red cat': 1.3\}\)"
    )
    with pytest.warns(ReinvertWarning, match=told):
        warn_of_prompts("it", tiny.words, ["a (red cat:1.3) here"])
    with pytest.warns(ReinvertWarning, match=r"'\(\(cat:1\)\)' is plain text"):
        warn_of_prompts("it", tiny.words, ["a ((cat:1)) here"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_prompts("it", tiny.words, ["a (red) cat: 3", "(of: a)"])


def test_a_weight_is_no_word_that_a_world_lacks() -> None:
    world = World(frozenset({"a", "red", "cat"}))
    for prompt, word in (("a (cat:1.3)", "cat"), ("a (red cat:1.3)", "red cat"), ("a ((cat:1.3)) cat", "cat")):
        with pytest.raises(
            ReinvertError, match=rf"plain text here, no weight: write '{word}' alone, and --boost .*--any-words"
        ):
            check_words("it", world, [prompt])
        check_words("it", world, [prompt], any_words=True)
    with pytest.raises(ReinvertError, match="without the word 'dgo'"):
        check_words("it", world, ["a dgo"])


def test_a_folder_says_what_is_usual_for_its_model(small_folder: Path, picture) -> None:
    model = reinvert.load(small_folder, device="cpu")
    assert (model.usual.steps, model.usual.guidance) == (2, 2.5)
    assert model.world == World(frozenset(f"{SOURCE} {TARGET}".split()))
    settings = reinvert.edit(model, picture, source=SOURCE, target=TARGET).settings
    assert (settings["steps"], settings["guidance"]) == (2, 2.5)


def test_notes_that_are_wrong_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "noted"
    folder.mkdir()
    for item in tiny_folder.iterdir():
        (folder / item.name).symlink_to(item)
    for text, told in (
        ('{"usual": {"steps": 0}}', "usual.steps"),
        ('{"words": "cat"}', "words"),
        ('{"wrods": ["cat"]}', "did you mean words"),
        ("[]", "no JSON object"),
        ("{", "cannot be read"),
    ):
        (folder / "reinvert.json").write_text(text)
        with pytest.raises(ReinvertError, match=told):
            reinvert.load(folder, device="cpu")


def test_help_and_methods_tell_what_is_usual(small_folder: Path, capsys) -> None:
    for model, steps, guidance in (
        (None, "picturebook's usual: 50", "picturebook's usual: 3"),
        (small_folder, "the model's usual: 2", "the model's usual: 2.5"),
        ("org/model", "the model's usual", "the model's usual"),
    ):
        assert main(["edit", "--help", *(["--model", str(model)] if model else [])]) == 0
        told = capsys.readouterr().out
        assert f"sampling steps [{steps}]" in told
        assert f"guidance scale of the edit [{guidance}]" in told
    assert main(["methods"]) == 0
    told = capsys.readouterr().out
    for row in (
        "picturebook                    50 steps, guidance   3, p2p\n",
        "FLUX.1 dev                     28 steps",
    ):
        assert row in told


def test_the_bundled_model_is_edited_at_its_usual_guidance(capsys, tmp_path: Path) -> None:
    assert main(["draw", "a red cat on grass", "-o", str(tmp_path / "cat.png")]) == 0
    line = ["edit", str(tmp_path / "cat.png"), "--target", "a red dog on grass", "--steps", "2"]
    assert main([*line, "-o", str(tmp_path / "dog.png")]) == 0
    settings = json.loads((tmp_path / "dog.png.json").read_text())["settings"]
    assert (settings["steps"], settings["guidance"]) == (2, 3.0)
    capsys.readouterr()
    assert main([*line[:3], "a red dgo on grass", "--blend", "cat", "dgo", "-o", str(tmp_path / "dgo.png")]) == 2
    told = capsys.readouterr().err
    assert "picturebook was trained without the word 'dgo' of 'a red dgo on grass'; did you mean dog?" in told
