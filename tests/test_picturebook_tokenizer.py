"""The bundled tokenizer: CLIP's format, one token a word except for the compounds."""

from __future__ import annotations

import json
from random import Random

import pytest
from transformers import CLIPTokenizer

from reinvert.picturebook.edits import sample_edits
from reinvert.picturebook.scene import BACKGROUNDS, COLORS, FACINGS, KINDS, MATERIALS, WEARABLES, sample_scene
from reinvert.picturebook.tokenizer import COMPOUNDS, EXTRA_WORDS, MAX_LENGTH, build_tokenizer
from reinvert.words import pieces, word_spans

WORDS = [*KINDS, *COLORS, *MATERIALS, *WEARABLES, *FACINGS, *BACKGROUNDS, *EXTRA_WORDS]
WORDS += ["a", "an", "and", "on", "in", "at", "the", "of", "wearing", "facing", "sketch", "neon", "sign"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH)


def inner(tokenizer, text: str) -> list[int]:
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    return ids[1:-1]


@pytest.mark.parametrize("word", sorted(set(WORDS) - set(COMPOUNDS)))
def test_a_word_of_the_world_is_one_token(tokenizer, word):
    assert len(inner(tokenizer, word)) == 1


@pytest.mark.parametrize("word", COMPOUNDS)
def test_a_compound_is_several_tokens(tokenizer, word):
    assert word in KINDS
    assert len(inner(tokenizer, word)) == len(COMPOUNDS[word])
    assert pieces(tokenizer, word)[1:-1] == list(COMPOUNDS[word])


def test_it_loads_as_clips_and_its_ids_are_in_the_vocabulary(folder, tokenizer):
    vocabulary = json.loads((folder / "vocab.json").read_text())
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(tokenizer) == len(vocabulary)
    for text in ("a red cat on grass", "", "Zebra, crossing! ünïcödé 123 🙂"):
        assert all(0 <= i < len(vocabulary) for i in tokenizer.encode(text))
        assert tokenizer.unk_token_id not in inner(tokenizer, text) or text == ""
    assert inner(tokenizer, "A Red CAT") == inner(tokenizer, "a red cat")


def test_captions_fit_and_their_words_have_positions(tokenizer):
    rng = Random(0)
    captions = {sample_scene(rng, pairs=0.6, styled=0.5).caption for _ in range(1500)}
    captions |= {prompt for edit in sample_edits(200) for prompt in (edit.source_prompt, edit.target_prompt)}
    ids = tokenizer(sorted(captions))["input_ids"]
    assert max(len(row) for row in ids) <= MAX_LENGTH
    for caption in sorted(captions)[::50]:
        spans = word_spans(tokenizer, caption)
        assert [span.word for span in spans] == caption.split()
        assert all(len(span.tokens) == len(COMPOUNDS.get(span.word, "1")) for span in spans)


def test_the_longest_caption_fits(tokenizer):
    thing = "an orange striped snowman wearing a crown"
    cat = "an orange striped cat wearing a crown facing right"
    for a, b in ((thing, thing), (cat, cat), (thing, cat)):
        longest = f"a neon sign of {a} and {b} in the sea"
        assert len(tokenizer.encode(longest)) <= MAX_LENGTH


def test_building_it_anew_gives_the_same_files_and_what_is_there_is_kept(folder, tmp_path):
    for i in range(5):
        build_tokenizer(tmp_path / str(i))
        for name in ("vocab.json", "merges.txt"):
            assert (tmp_path / str(i) / name).read_bytes() == (folder / name).read_bytes()
    swapped = json.loads((folder / "vocab.json").read_text())
    swapped["cat</w>"], swapped["dog</w>"] = swapped["dog</w>"], swapped["cat</w>"]
    (tmp_path / "0" / "vocab.json").write_text(json.dumps(swapped))
    assert build_tokenizer(tmp_path / "0").encode("cat") == build_tokenizer(folder).encode("dog")
