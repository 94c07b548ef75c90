"""Word arithmetic: the recorded maps, the worked examples, and the edited maps against naive loops."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTokenizer

from reinvert.errors import ReinvertError
from reinvert.words import (
    Compat,
    Kind,
    Link,
    Segment,
    Share,
    TokenizerLike,
    Words,
    align,
    changed_words,
    cross_windows,
    edit_matrices,
    equalizer,
    explain,
    explain_table,
    indicator,
    lost_words,
    mixing,
    pieces,
    refinement_map,
    refinement_matrix,
    replacement_map,
    self_window,
    token_ids,
    word_positions,
    word_spans,
)

PARITY = Path(__file__).parent / "fixtures" / "parity"
N_TOKENS = 77

PAIRS = {  # source, target, blend word of the source, blend word of the target
    "p1": ("a cat sitting on a table", "a dog sitting on a table", "cat", "dog"),
    "p2": ("a bicycle next to a river", "a rusty bicycle next to a river", "bicycle", "bicycle"),
    "p3": ("a horse standing on the beach", "a stormtrooper standing on the beach", "horse", "stormtrooper"),
    "p4": (
        "a stormtrooper and a cat on the beach",
        "a horse and a snowman on the beach",
        "stormtrooper",
        "snowman",
    ),
    "p5": ("a big red house near the river", "a small house near the river", "house", "house"),
}
EQUAL_WORDS = ("p1", "p3", "p4")
VOCABULARY = ("a", "cat", "dog", "stormtrooper", "snowman", "house", "red", "on", "the", "skateboard,")


class Toy:
    """A tokenizer of a given length, one token per word but for the words listed with their pieces."""

    def __init__(self, length: int = 12, split: Mapping[str, Sequence[str]] | None = None) -> None:
        self.model_max_length = length
        self.split = dict(split or {})
        self.known = ["<s>", "</s>"]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        parts = [part for word in text.split() for part in self.split.get(word, [word])]
        self.known += [part for part in dict.fromkeys(parts) if part not in self.known]
        ids = [self.known.index(part) for part in parts]
        return [0, *ids, 1] if add_special_tokens else ids

    def decode(self, token_ids: list[int]) -> str:
        return "".join(self.known[i] + "</w>" for i in token_ids)


class Spaced(Toy):
    """A tokenizer whose tokens run across spaces."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]


@cache
def clip() -> TokenizerLike:
    return cast(TokenizerLike, CLIPTokenizer.from_pretrained(PARITY / "tiny-random-sd" / "tokenizer"))


@cache
def tensors() -> dict[str, Tensor]:
    return load_file(PARITY / "unit.safetensors")


@cache
def records() -> dict[str, Any]:
    return json.loads((PARITY / "unit.json").read_text())


def gap(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return (a.double() - b.double()).abs().max().item()


def links(matrix: Tensor) -> list[tuple[int, int]]:
    return [(m, t) for m, t in matrix.nonzero().tolist()]


def maps(rows: int, n: int, seed: int) -> Tensor:
    """A random attention map in float64."""
    scores = torch.randn(rows, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return scores.softmax(-1)


# --- Tokens ------------------------------------------------------------------------------------------------


def test_tokens_and_pieces_are_the_recorded_ones() -> None:
    recorded = records()["prompts"]
    assert len(recorded) == 13
    for prompt, known in recorded.items():
        assert token_ids(clip(), prompt) == known["tokens"]
        assert pieces(clip(), prompt) == known["pieces"]


def test_decoding_a_single_token_gives_the_bare_piece() -> None:
    assert pieces(clip(), "Stormtrooper, cat")[1:-1] == ["storm", "troop", "er", ",", "cat"]


def test_the_end_of_word_mark_is_taken_off() -> None:
    assert Toy().decode([0]) == "<s></w>"
    assert pieces(Toy(), "a cat") == ["<s>", "a", "cat", "</s>"]


def test_long_prompts_are_cut_like_the_text_encoder_cuts_them() -> None:
    prompt = " ".join(["a cat on a stormtrooper"] * 20)
    tokenizer = cast(Any, clip())
    seen = tokenizer(prompt, truncation=True, max_length=N_TOKENS)["input_ids"]
    assert token_ids(clip(), prompt) == seen
    assert len(pieces(clip(), prompt)) == N_TOKENS


# --- Words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_blend_words_are_at_the_recorded_positions(pair: str) -> None:
    source, target, old, new = PAIRS[pair]
    known = records()["controllers"][pair]
    assert list(word_positions(clip(), source, old)) == known["word_inds_src"]
    assert list(word_positions(clip(), target, new)) == known["word_inds_tgt"]


@pytest.mark.parametrize(
    ("prompt", "word", "positions"),
    [
        ("a cat on a mat", "a", (1, 4)),
        ("a stormtrooper and a stormtrooper", "stormtrooper", (2, 3, 4, 7, 8, 9)),
        ("a big red house near a red house", "red house", (3, 4, 7, 8)),
        ("a big red house near a red car", "red house", (3, 4)),
        ("cat cat cat", "cat cat", (1, 2, 3)),
        ("a stormtrooper on the beach", "stormtrooper on", (2, 3, 4, 5)),
        ("a cat on a mat", 1, (2,)),
        ("a stormtrooper on the beach", 2, (5,)),
        ("a cat, a dog", "cat,", (2, 3)),
    ],
)
def test_positions_of_words_phrases_and_numbers(prompt: str, word: str | int, positions: Any) -> None:
    assert word_positions(clip(), prompt, word) == positions


@pytest.mark.parametrize(
    ("prompt", "word", "positions"),
    [  # the published code answers (3, 4) and nothing to the first two
        ("a  cat on a table", "cat", (2,)),
        (" a cat", "cat", (2,)),
        ("   a   stormtrooper  on a\tdog ", "stormtrooper", (2, 3, 4)),
        ("a\ncat on a\u00a0dog", "dog", (5,)),
        ("a  red   house", "red  house", (2, 3)),
        ("a  cat on a table", 1, (2,)),
    ],
)
def test_stray_spaces_do_not_move_positions(prompt: str, word: str | int, positions: Any) -> None:
    assert word_positions(clip(), prompt, word) == positions


def test_words_whose_tokens_are_no_whole_letters_have_positions() -> None:
    """Bytes of an accented or a Chinese letter decode to replacement marks, of which one may be too many."""
    prompt = "a café 猫 cat"
    spans = word_spans(clip(), prompt)
    assert [span.word for span in spans] == prompt.split()
    for before, after in pairwise(spans):
        assert before.tokens.stop == after.tokens.start
    ids = token_ids(clip(), prompt)
    for word, span in spans:
        assert [ids[i] for i in span] == token_ids(clip(), word)[1:-1]


def test_punctuation_is_overlooked_only_where_nothing_matches_exactly() -> None:
    assert word_positions(clip(), "a cat, a dog", "cat") == (2,)
    assert word_positions(clip(), "a cat, a cat", "cat") == (5,)
    assert word_positions(clip(), "a red, big house.", "big house") == (4, 5)
    assert word_positions(clip(), "a stormtrooper!!", "stormtrooper") == (2, 3, 4)
    for wrong in ("cat.", "Cat", "ca", "cat, a cat"):
        with pytest.raises(ReinvertError):
            word_positions(clip(), "a cat, a dog", wrong)


def test_a_word_that_shares_a_token_with_its_punctuation_keeps_it() -> None:
    tokenizer = Toy(split={"cat!": ["cat!"], "well?": ["we", "ll?"]})
    assert word_positions(tokenizer, "a well? dog", "well") == (2, 3)


def test_a_missing_word_lists_the_words_there_are() -> None:
    with pytest.raises(ReinvertError, match=r"'kat' does not occur in .*; the words are: a, cat, on, table\.$"):
        word_positions(clip(), "a cat on a table", "kat")
    for nothing in ("", "  "):
        with pytest.raises(ReinvertError, match="does not occur"):
            word_positions(clip(), "a cat", nothing)
    with pytest.raises(ReinvertError, match=r"\(none\)"):
        word_positions(clip(), "", "cat")
    for number in (-1, 2):
        with pytest.raises(ReinvertError, match=rf"number {number} .* 0\.\.1"):
            word_positions(clip(), "a cat", number)


def test_words_behind_the_cut_are_not_found_at_wrong_positions() -> None:
    toy = Toy(6, {"longword": ["lo", "ng", "wo", "rd"]})
    assert word_positions(toy, "one two longword four", "longword") == (3, 4)
    with pytest.raises(ReinvertError, match=r"'four', it stops after 6 tokens; shorten"):
        word_positions(toy, "one two longword four", "four")


def test_a_tokenizer_that_reads_across_spaces_is_refused() -> None:
    with pytest.raises(ReinvertError, match="does not split 'a b' at its spaces"):
        word_spans(Spaced(), "a b")


def published_positions(prompt: str, number: int) -> list[int]:
    """6.7 as stated: decode one by one, add up lengths until the word is complete. For tidy prompts only."""
    words, decoded = prompt.split(" "), pieces(clip(), prompt)[1:-1]
    found: list[int] = []
    length, word = 0, 0
    for position, piece in enumerate(decoded, 1):
        length += len(piece)
        if word == number:
            found.append(position)
        if length >= len(words[word]):
            length, word = 0, word + 1
    return found


@settings(deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=9))
def test_positions_agree_with_summed_lengths_on_tidy_prompts(words: list[str]) -> None:
    prompt = " ".join(words)
    for number, word in enumerate(words):
        assert list(word_positions(clip(), prompt, number)) == published_positions(prompt, number)
        same = [k for k, other in enumerate(words) if other == word]
        everywhere = sorted(position for k in same for position in published_positions(prompt, k))
        assert list(word_positions(clip(), prompt, word)) == everywhere


@settings(deadline=None)
@given(st.text(max_size=40))
def test_spans_cover_any_text_without_gaps(text: str) -> None:
    text = " ".join(text.split())
    spans = word_spans(clip(), text)
    assert [span.word for span in spans] == text.split()
    covered = [position for span in spans for position in span.tokens]
    assert covered == list(range(1, min(len(token_ids(clip(), text)), N_TOKENS) - 1))


def test_indicator_and_equalizer() -> None:
    prompt = "a stormtrooper and a red cat on a table"
    u = indicator(clip(), prompt, ["stormtrooper", "cat"])
    assert u.shape == (N_TOKENS,)
    assert u.nonzero().flatten().tolist() == [2, 3, 4, 8]
    assert u.sum().item() == 4
    assert gap(indicator(clip(), prompt, "red cat"), indicator(clip(), prompt, ["red", "cat"])) == 0
    assert indicator(clip(), prompt, []).sum().item() == 0
    g = equalizer(clip(), prompt, {"stormtrooper": 2, "cat": -0.5})
    known = torch.ones(N_TOKENS)
    known[2:5], known[8] = 2, -0.5
    assert gap(g, known) == 0
    assert gap(equalizer(clip(), prompt, {}), torch.ones(N_TOKENS)) == 0
    with pytest.raises(ReinvertError, match="'dog' does not occur"):
        equalizer(clip(), prompt, {"dog": 2})


# --- Alignment ---------------------------------------------------------------------------------------------

letters = st.lists(st.sampled_from("abc"), max_size=7)


def subsequences(items: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for length in range(len(items), -1, -1):
        yield from combinations(items, length)


@settings(deadline=None)
@given(letters, letters)
def test_aligner_finds_a_longest_common_subsequence(source: list[str], target: list[str]) -> None:
    common = set(subsequences(target))
    longest = next(len(part) for part in subsequences(source) if part in common)
    matched = align(source, target)
    assert len(matched) == len(target)
    assert sum(m >= 0 for m in matched) == longest
    assert all(source[m] == word for m, word in zip(matched, target, strict=True) if m >= 0)
    kept = [m for m in matched if m >= 0]
    assert all(a < b for a, b in pairwise(kept))


@settings(deadline=None)
@given(letters, letters)
def test_aligner_breaks_ties_like_the_scored_alignment(source: list[str], target: list[str]) -> None:
    """The published recurrence written out: gap 0, match 1, mismatch -1; left before up before diagonal."""
    scores = {(i, j): 0 for i in range(len(source) + 1) for j in range(len(target) + 1)}
    moves: dict[tuple[int, int], str] = {}
    for i in range(1, len(source) + 1):
        for j in range(1, len(target) + 1):
            left, up = scores[i, j - 1], scores[i - 1, j]
            diagonal = scores[i - 1, j - 1] + (1 if source[i - 1] == target[j - 1] else -1)
            scores[i, j] = max(left, up, diagonal)
            moves[i, j] = "left" if scores[i, j] == left else "up" if scores[i, j] == up else "diagonal"
    known = [-1] * len(target)
    i, j = len(source), len(target)
    while i > 0 and j > 0:
        move = moves[i, j]
        if move == "diagonal":
            known[j - 1] = i - 1
        i, j = i - (move != "left"), j - (move != "up")
    assert align(source, target) == known


def test_repeats_attach_to_the_earliest_target_occurrence() -> None:
    assert align("xab", "xabab") == [0, 1, 2, -1, -1]
    assert align("xabab", "xab") == [0, 1, 2]
    mapping, _ = refinement_map(clip(), "a cat", "a cat a cat")
    assert mapping[:6].tolist() == [0, 1, 2, -1, -1, 3]


def test_changed_words() -> None:
    assert changed_words("a cat on a table", "a dog on a table") == (("cat",), ("dog",))
    assert changed_words("a bicycle", "a rusty  bicycle ") == ((), ("rusty",))
    assert changed_words("a big red house near a river", "a small house") == (
        ("big", "red", "near", "a", "river"),
        ("small",),
    )
    assert changed_words("a cat", "a cat") == ((), ())
    assert changed_words("", "a cat") == ((), ("a", "cat"))


@settings(deadline=None)
@given(letters, letters)
def test_changed_words_are_what_the_alignment_leaves(source: list[str], target: list[str]) -> None:
    lost, new = changed_words(" ".join(source), " ".join(target))
    common = sum(m >= 0 for m in align(source, target))
    assert (len(lost), len(new)) == (len(source) - common, len(target) - common)
    assert lost in set(combinations(source, len(lost)))
    assert new in set(combinations(target, len(new)))


# --- Maps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_refinement_map_is_the_recorded_one(pair: str) -> None:
    source, target, *_ = PAIRS[pair]
    mapping, a = refinement_map(clip(), source, target)
    assert torch.equal(mapping, tensors()[f"map.{pair}.refine"][0])
    assert gap(a, tensors()[f"map.{pair}.alphas"][0]) == 0


@pytest.mark.parametrize("pair", EQUAL_WORDS)
def test_published_replacement_map_is_the_recorded_one(pair: str) -> None:
    source, target, *_ = PAIRS[pair]
    recorded = tensors()[f"map.{pair}.replace"][0]
    assert gap(replacement_map(clip(), source, target, compat="published"), recorded) == 0
    assert (gap(replacement_map(clip(), source, target), recorded) > 0.4) == (pair != "p1")


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair not in EQUAL_WORDS])
def test_replacing_needs_equally_many_words(pair: str) -> None:
    source, target, *_ = PAIRS[pair]
    assert "replace_error" in records()["controllers"][pair]
    counts = rf"{len(source.split())} and '.*' has {len(target.split())}; use the refine edit"
    with pytest.raises(ReinvertError, match=counts):
        replacement_map(clip(), source, target)


def test_refining_skips_an_inserted_word_and_leaves_a_substituted_one_alone() -> None:
    toy = Toy(20, {"slanted": ["sl", "anted"]})
    mapping, a = refinement_map(
        toy, "a slanted mountain bicycle on a road", "a slanted rusty mountain bicycle on a road"
    )
    assert mapping.tolist() == [0, 1, 2, 3, -1, 4, 5, 6, 7, 8, 9, *range(11, 20)]
    assert a.tolist() == [1, 1, 1, 1, 0, *[1] * 15]
    mapping, a = refinement_map(clip(), "a cat on a table", "a dog on a table")
    assert mapping.tolist() == [0, 1, -1, *range(3, N_TOKENS)]
    assert a.tolist() == [1, 1, 0, *[1] * (N_TOKENS - 3)]


def test_refining_to_a_shorter_prompt_reads_real_words_with_its_padding() -> None:
    mapping, a = refinement_map(Toy(9), "one two three four", "one four")
    assert mapping.tolist() == [0, 1, 4, 5, 4, 5, 6, 7, 8]
    assert a.min().item() == 1


@pytest.mark.parametrize(
    ("source", "target", "known"),
    [  # length 6: BOS, four words, EOS
        ("a b c d e f", "a b c d e f", [0, 1, 2, 3, 4, 5]),
        ("a b c d e f", "a b", [0, 1, 2, 5, 4, 5]),
        ("a b", "a b c d e f", [0, 1, 2, -1, -1, 3]),
        ("x y z a b", "a b x y z", [0, -1, -1, 1, 2, 5]),
        ("v w x y z", "z", [0, -1, 5, 3, 4, 5]),
    ],
)
def test_cut_prompts_match_only_what_the_model_reads(source: str, target: str, known: list[int]) -> None:
    mapping, a = refinement_map(Toy(6), source, target)
    assert mapping.tolist() == known
    assert a.tolist() == [float(m >= 0) for m in known]


def test_very_long_prompts_do_not_overflow() -> None:
    words = "a cat on a stormtrooper " * 20
    for source, target in ((words, words), (words, "a cat"), ("a cat", words), (words, "red " + words)):
        mapping, a = refinement_map(clip(), source, target)
        assert mapping.shape == a.shape == (N_TOKENS,)
        assert -1 <= mapping.min().item() <= mapping.max().item() < N_TOKENS
    assert gap(replacement_map(clip(), words, words), torch.eye(N_TOKENS)) == 0


def test_replacing_one_token_by_three() -> None:
    """Published, "sitting" at 5 reads the source's 5; correct, the source's "sitting" at 3."""
    prompts = "a cat sitting on a table", "a stormtrooper sitting on a table"
    right, wrong = replacement_map(clip(), *prompts), replacement_map(clip(), *prompts, compat="published")
    for matrix in (right, wrong):
        assert matrix[2, 2:5].tolist() == pytest.approx([1 / 3] * 3)
        assert matrix[:, 2:5].sum().item() == pytest.approx(1)
    assert right[:, 5].nonzero().flatten().tolist() == [3]
    assert wrong[:, 5].nonzero().flatten().tolist() == [5]
    assert links(right)[5:] == [(t - 2, t) for t in range(5, N_TOKENS)]
    assert gap(right.sum(0)[5:], torch.ones(N_TOKENS - 5)) == 0


def test_replacing_three_tokens_by_one() -> None:
    prompts = "a stormtrooper sitting on a table", "a cat sitting on a table"
    right, wrong = replacement_map(clip(), *prompts), replacement_map(clip(), *prompts, compat="published")
    for matrix in (right, wrong):
        assert matrix[:, 2].sum().item() == 3
        assert matrix[:, -2:].abs().max().item() == 0
        assert matrix[:, -3].sum().item() == 1
    assert links(right)[5:] == [(t + 2, t) for t in range(3, N_TOKENS - 2)]
    assert gap(right.sum(1), torch.ones(N_TOKENS)) == 0  # so no attention is lost
    assert wrong[3, 3] == 1


def test_replacing_several_words_and_equal_token_counts() -> None:
    toy = Toy(14, {"ab": ["a", "b"], "cd": ["c", "d"], "xyz": ["x", "y", "z"]})
    matrix = replacement_map(toy, "u ab v ab w", "u cd v xyz w")
    known = torch.zeros(14, 14)
    for i in range(5):  # BOS, u, ab -> cd piece by piece, v
        known[i, i] = 1
    known[5:7, 5:8] = 1 / 3
    for i in range(7, 13):
        known[i, i + 1] = 1
    assert gap(matrix, known) < 1e-7


@pytest.mark.parametrize("compat", ["correct", "published"])
def test_replacing_nothing_is_the_identity(compat: Compat) -> None:
    for prompt in ("", "a cat", "a stormtrooper on a table"):
        assert gap(replacement_map(clip(), prompt, prompt, compat=compat), torch.eye(N_TOKENS)) == 0


def test_replacing_beyond_the_cut_keeps_the_end_token() -> None:
    toy = Toy(6, {"xy": ["x", "y"]})
    assert links(replacement_map(toy, "a b c d e", "a xy c d e")) == [
        *[(0, 0), (1, 1), (2, 2), (2, 3), (3, 4)],  # "d" is cut off in the target
        (5, 5),
    ]
    assert links(replacement_map(toy, "a xy c d e", "a b c d e")) == [
        *[(0, 0), (1, 1), (2, 2), (3, 2), (4, 3)],  # "d" is cut off in the source
        (5, 5),
    ]


def test_a_kept_word_that_is_cut_in_one_prompt_pairs_what_is_left() -> None:
    toy = Toy(6, {"xy": ["x", "y"], "pqr": ["p", "q", "r"]})
    known = [(0, 0), (1, 1), (2, 2), (2, 3), (3, 4), (5, 5)]
    assert links(replacement_map(toy, "a b pqr", "a xy pqr")) == known


def test_refinement_matrix_picks_the_mapped_source() -> None:
    mapping, a = torch.tensor([0, -1, 1, 1]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    known = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]).float()
    assert gap(refinement_matrix(mapping, a), known) == 0


@settings(deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY), max_size=8), st.lists(st.sampled_from(VOCABULARY), max_size=8))
def test_refinement_maps_rise_and_pair_equal_tokens(source: list[str], target: list[str]) -> None:
    before, after = " ".join(source), " ".join(target)
    mapping, a = refinement_map(clip(), before, after)
    old, new = token_ids(clip(), before), token_ids(clip(), after)
    kept = [(t, m) for t, m in enumerate(mapping[: len(new)].tolist()) if a[t] == 1]
    assert all(one[1] < two[1] for one, two in pairwise(kept))
    assert all(old[m] == new[t] for t, m in kept)
    assert mapping[len(new) :].tolist() == list(range(len(new), N_TOKENS))
    assert torch.equal(a, (mapping != -1).float())
    assert refinement_matrix(mapping, a).sum(0).tolist() == a.tolist()


# --- Windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
def test_windows_by_word_are_the_recorded_ones(pair: str) -> None:
    _, target, _, word = PAIRS[pair]
    windows = cross_windows(clip(), target, 10, {"default_": 0.4, word: (0.2, 0.9)})
    assert gap(windows, tensors()[f"alpha.{pair}.default0.4_blend(0.2,0.9)"]) == 0


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("steps", [10, 50])
def test_default_windows_are_the_recorded_ones(pair: str, steps: int) -> None:
    recorded = records()["controllers"][pair][f"windows.N{steps}"]
    windows = cross_windows(clip(), PAIRS[pair][1], steps, 0.4)
    assert windows[:, 5].nonzero().flatten().tolist() == recorded["cross_steps"]
    assert list(self_window(steps, 0.6)) == recorded["self"]


@pytest.mark.parametrize(
    ("cross", "first", "stop"),
    [
        (0.4, 0, 20),
        (0.6, 0, 30),
        (0.8, 0, 40),
        (1.0, 0, 51),
        (1, 0, 51),
        (0, 0, 0),
        (0.0, 0, 0),
        ((0.2, 0.8), 10, 40),
        ((0, 1), 0, 51),
        ((0.4, 0.4), 20, 20),
    ],
)
def test_a_cross_window_counts_one_step_more_than_there_are(cross: Share, first: int, stop: int) -> None:
    windows = cross_windows(clip(), "a cat", 50, cross)
    known = torch.zeros(51, N_TOKENS)
    known[first:stop] = 1
    assert gap(windows, known) == 0


def test_windows_by_word() -> None:
    target = "a stormtrooper and a red cat"
    windows = cross_windows(clip(), target, 50, {"stormtrooper": 0, "default_": (0.2, 0.6), "cat": 1})
    assert windows[:, 2:5].abs().max().item() == 0
    assert windows[:, 8].min().item() == 1
    assert windows[:, [0, 1, 5, 6, 7, 9, 76]].sum(0).tolist() == [20] * 7
    assert windows[9:11, 1].tolist() == [0, 1]
    assert windows[29:31, 1].tolist() == [1, 0]
    whole = cross_windows(clip(), target, 50, {"cat": 0.5})
    assert whole.sum(0).tolist() == [51 if t != 8 else 25 for t in range(N_TOKENS)]
    with pytest.raises(ReinvertError, match="'dog' does not occur"):
        cross_windows(clip(), target, 50, {"dog": 0.5})


def test_of_overlapping_phrases_the_later_window_counts() -> None:
    target = "a red cat"
    one = cross_windows(clip(), target, 50, {"red cat": 0.2, "cat": 0.6})
    two = cross_windows(clip(), target, 50, {"cat": 0.6, "red cat": 0.2})
    assert one[:, 2:4].sum(0).tolist() == [10, 30]
    assert two[:, 2:4].sum(0).tolist() == [10, 10]


@pytest.mark.parametrize(
    ("share", "bounds"),
    [
        (0.6, (0, 30)),
        (0.4, (0, 20)),
        (0.58, (0, 28)),  # 0.58 * 50 = 28.999999999999996
        (0.29, (0, 14)),
        ((0.29, 0.58), (14, 28)),
        (1, (0, 50)),
        (0, (0, 0)),
    ],
)
def test_a_self_window_truncates_like_the_published_code(share: Share, bounds: tuple[int, int]) -> None:
    assert self_window(50, share) == bounds


@pytest.mark.parametrize("share", [1.2, -0.1, (0.6, 0.4), (0.0, 2), float("nan")])
def test_shares_outside_the_run_are_refused(share: Share) -> None:
    with pytest.raises(ReinvertError, match="rising pair"):
        self_window(50, share)
    with pytest.raises(ReinvertError, match="rising pair"):
        cross_windows(clip(), "a cat", 50, {"cat": share})


# --- The edited map ----------------------------------------------------------------------------------------


def edited(pair: str, kind: Kind, compat: Compat, w: Tensor, g: Tensor, a_s: Tensor, a_t: Tensor) -> Tensor:
    source, target, *_ = PAIRS[pair]
    p, d = edit_matrices(mixing(clip(), source, target, kind, compat=compat), w, g)
    return a_s @ p.to(a_s) + a_t * d.to(a_t)


@pytest.mark.parametrize(
    ("name", "pair"),
    [(name, pair) for name in ("refine", "refine_eq") for pair in PAIRS]
    + [(name, pair) for name in ("replace", "replace_eq") for pair in EQUAL_WORDS],
)
def test_edited_maps_are_those_of_the_recorded_controllers(name: str, pair: str) -> None:
    kind: Kind = "replace" if name.startswith("replace") else "refine"
    a_s, a_t = tensors()["ctl.cross_in"].double().unflatten(0, (2, 2))
    _, target, _, word = PAIRS[pair]
    g = equalizer(clip(), target, {word: 2} if name.endswith("_eq") else {})
    windows = cross_windows(clip(), target, 10, 0.4)
    checked = 0
    for s in range(10):
        e = edited(pair, kind, "published", windows[s], g, a_s, a_t)
        key = f"ctl.{pair}.{name}.N10.s{s}."
        for end, value in (("cross_tgt_colmean", e.mean(1)), ("cross_tgt_q0_32", e[:, :32])):
            if key + end in tensors():
                assert gap(value, tensors()[key + end]) < 1e-7
                checked += 1
    assert checked >= 3


def naive(kind: Kind, pair: str, w: Tensor, g: Tensor, a_s: Tensor, a_t: Tensor) -> Tensor:
    """6.3, entry by entry: R of the inner controller, times the equaliser, then the window."""
    source, target, *_ = PAIRS[pair]
    m = replacement_map(clip(), source, target).double() if kind == "replace" else None
    mapping, a = refinement_map(clip(), source, target)
    e = torch.empty_like(a_t)
    for q in range(a_s.shape[0]):
        for t in range(N_TOKENS):
            if m is not None:
                r = sum(a_s[q, k].item() * m[k, t].item() for k in range(N_TOKENS))
            elif kind == "refine":
                r = a_s[q, mapping[t]].item() if a[t] else a_t[q, t].item()
            else:
                r = a_s[q, t].item()
            e[q, t] = w[t].item() * g[t].item() * r + (1 - w[t].item()) * a_t[q, t].item()
    return e


@pytest.mark.parametrize("step", [0, 14, 15, 19, 20, 29, 30, 49])
@pytest.mark.parametrize(
    ("kind", "pair"),
    [
        ("replace", "p1"),
        ("replace", "p3"),
        ("replace", "p4"),
        ("refine", "p2"),
        ("refine", "p4"),
        (None, "p3"),
    ],
)
def test_edited_maps_are_those_of_naive_loops(kind: Kind, pair: str, step: int) -> None:
    _, target, _, word = PAIRS[pair]
    other = target.split()[-1]
    windows = cross_windows(clip(), target, 50, {"default_": 0.4, word: (0.3, 0.6)})
    g = equalizer(clip(), target, {word: 2, other: -0.5})
    a_s, a_t = maps(2, N_TOKENS, seed=step), maps(2, N_TOKENS, seed=100 + step)
    e = edited(pair, kind, "correct", windows[step], g, a_s, a_t)
    assert gap(e, naive(kind, pair, windows[step], g, a_s, a_t)) < 1e-8
    inside = windows[step].bool()
    assert inside.any().item() == (step < 30)
    for t in range(N_TOKENS):
        if not inside[t]:
            assert gap(e[:, t], a_t[:, t]) == 0


def test_no_gain_is_a_gain_of_one_and_all_steps_go_at_once() -> None:
    source, target, *_ = PAIRS["p4"]
    mix = mixing(clip(), source, target, "refine")
    windows = cross_windows(clip(), target, 10, {"default_": 0.4, "snowman": (0.2, 0.9)})
    g = equalizer(clip(), target, {"snowman": 2})
    together = edit_matrices(mix, windows, g)
    assert together.P.shape == (11, N_TOKENS, N_TOKENS)
    for s in range(11):
        alone = edit_matrices(mix, windows[s], g)
        assert gap(together.P[s], alone.P) == 0
        assert gap(together.D[s], alone.D) == 0
    plain, ones = edit_matrices(mix, windows[3]), edit_matrices(mix, windows[3], torch.ones(N_TOKENS))
    assert gap(plain.P, ones.P) == gap(plain.D, ones.D) == 0


@pytest.mark.parametrize("kind", ["replace", "refine", None])
def test_identity_prompts_give_the_source_map_inside_and_the_target_map_outside(kind: Kind) -> None:
    prompt = "a stormtrooper and a cat on the beach"
    mix = mixing(clip(), prompt, prompt, kind)
    inside, outside = edit_matrices(mix, torch.ones(N_TOKENS)), edit_matrices(mix, torch.zeros(N_TOKENS))
    assert gap(inside.P, torch.eye(N_TOKENS)) == 0
    assert inside.D.abs().max().item() == 0
    assert outside.P.abs().max().item() == 0
    assert gap(outside.D, torch.ones(N_TOKENS)) == 0


def test_replaced_rows_sum_to_one_only_with_equal_token_counts() -> None:
    a_s, a_t = maps(4, N_TOKENS, seed=1), maps(4, N_TOKENS, seed=2)
    w = g = torch.ones(N_TOKENS)
    equal = edited("p1", "replace", "correct", w, g, a_s, a_t).sum(-1)
    assert gap(equal, torch.ones(4)) < 1e-12
    longer = edited("p3", "replace", "correct", w, g, a_s, a_t).sum(-1)
    assert gap(longer, torch.ones(4)) > 1e-3


# --- Explaining --------------------------------------------------------------------------------------------


def test_explain_lists_what_every_target_token_reads() -> None:
    source, target = "a stormtrooper on a table", "a red cat on a table"
    assert explain(clip(), source, target, "refine") == [
        Link(0, "<|startoftext|>", 0, "<|startoftext|>", True),
        Link(1, "a", 1, "a", True),
        Link(2, "red", None, None, False),
        Link(3, "cat", None, None, False),
        Link(4, "on", 5, "on", True),
        Link(5, "a", 6, "a", True),
        Link(6, "table", 7, "table", True),
        Link(7, "<|endoftext|>", 8, "<|endoftext|>", True),
    ]
    with pytest.raises(ReinvertError, match="equally many words"):
        explain(clip(), source, target, "replace")


def test_explain_shows_every_source_token_of_a_replaced_word() -> None:
    rows = explain(clip(), "a stormtrooper", "a cat", "replace")
    assert rows[2:5] == [Link(2, "cat", m, piece, True) for m, piece in enumerate(("storm", "troop", "er"), 2)]
    rows = explain(clip(), "a cat", "a stormtrooper", "replace")
    assert [(row.target_piece, row.source_piece) for row in rows[2:5]] == [
        ("storm", "cat"),
        ("troop", "cat"),
        ("er", "cat"),
    ]
    assert explain(clip(), "a", "a cat", None)[-1] == Link(3, "<|endoftext|>", 3, "(padding)", True)


def test_explain_table_is_plain_text() -> None:
    table = explain_table(Toy(12), "a cat on a table", "a dog on a table", "refine")
    assert table.splitlines() == [
        "#  target  attention  #  source",
        "-  ------  ---------  -  ------",
        "0  <s>     source's   0  <s>",
        "1  a       source's   1  a",
        "2  dog     its own",
        "3  on      source's   3  on",
        "4  a       source's   4  a",
        "5  table   source's   5  table",
        "6  </s>    source's   6  </s>",
        "not read by any target token: 2 cat",
    ]
    assert "not read" not in explain_table(Toy(12), "a cat", "a cat", "refine")


# --- a token axis of several tokenizers ----------------------------------------------------------------------


class Plain(Toy):
    """A tokenizer without a token before the words, as T5's is; one piece more for "cat"."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids = super().encode(text, add_special_tokens=add_special_tokens)
        return ids[1:] if add_special_tokens else ids


def both() -> Words:
    """Two positions of nothing, a CLIP-like segment of 8, one of nothing, a T5-like segment of 9."""
    return Words((Segment(Toy(8), 2, 8), Segment(Plain(30, split={"cat": ["ca", "t"]}), 11, 9)), 20)


def test_a_word_has_tokens_in_every_segment() -> None:
    assert word_positions(both(), "a cat here", "cat") == (4, 12, 13)
    assert word_positions(both(), "a cat here", "here") == (5, 14)
    assert indicator(both(), "a cat here", "here").nonzero().flatten().tolist() == [5, 14]
    gain = equalizer(both(), "a cat", {"cat": 3})
    assert gain[[4, 12, 13]].tolist() == [3, 3, 3]
    assert int((gain != 1).sum()) == 3
    with pytest.raises(ReinvertError, match="'dog' does not occur"):
        word_positions(both(), "a cat", "dog")


def test_an_encoder_that_reads_further_has_the_word_alone() -> None:
    prompt = "a b c d e f big"
    assert word_positions(both(), prompt, "big") == (17,)
    with pytest.raises(ReinvertError, match="does not read as far"):
        word_positions(both(), f"{prompt} and then some more words", "words")


def test_segments_are_mixed_each_by_itself() -> None:
    source, target = "a cat here", "a dog here"
    for kind in ("refine", "replace"):
        reads = mixing(both(), source, target, kind)
        for segment in both().segments:
            alone = mixing(segment, source, target, kind)
            assert torch.equal(reads.source[segment.span, segment.span], alone.source)
            assert torch.equal(reads.own[segment.span], alone.own)
        linked = reads.source.nonzero()
        inside = [any(s.start <= a < s.span.stop and s.start <= b < s.span.stop for s in both().segments)
                  for a, b in linked.tolist()]  # fmt: skip
        assert [linked[i].tolist() for i, known in enumerate(inside) if not known] == [[0, 0], [1, 1], [10, 10]]
    replaced = mixing(both(), source, target, "replace").source
    assert replaced[[12, 13], 12].tolist() == [1, 1]  # the two pieces of "cat" are both dog's
    assert links(mixing(Plain(9), source, source, None).source) == [(i, i) for i in range(9)]


def test_windows_by_word_reach_every_segment() -> None:
    windows = cross_windows(both(), "a cat here", 4, {"default_": 0.0, "cat": 1.0})
    assert windows[0].nonzero().flatten().tolist() == [4, 12, 13]


def test_replacing_without_a_leading_token() -> None:
    """Position 0 is a word's."""
    plain = Plain(9)
    assert word_positions(plain, "a cat", "a") == (0,)
    matrix = replacement_map(plain, "a cat here", "the cat here")
    assert torch.equal(matrix, torch.eye(9))
    mapping, _ = refinement_map(plain, "a cat here", "a big cat here")
    assert mapping[:5].tolist() == [0, -1, 1, 2, 3]


# --- capitals, quotes, and what is cut off ------------------------------------------------------------------


def test_a_word_is_found_under_its_capital_and_before_its_s() -> None:
    assert word_positions(clip(), "Cat on a table", "cat") == (1,)
    assert word_positions(clip(), "the cat's hat", "cat") == (2,)
    assert word_positions(clip(), "the cat’s hat", "cat")[0] == 2
    assert word_positions(clip(), 'a "Red cat", sleeping', "red cat") == (3, 4)
    assert word_positions(clip(), "the CAT’S hat and a cat", "cat")[-1] == len(clip().encode("the CAT’S hat and a")) - 1
    # what is written as asked for comes first
    assert word_positions(clip(), "Cat and cat", "cat") == (3,)


def test_words_that_are_cut_off_are_named() -> None:
    toy = Toy(6, {"longword": ["lo", "ng", "wo", "rd"]})
    assert lost_words(toy, "one two three four") == ()
    assert lost_words(toy, "one two longword") == ("longword",)
    assert lost_words(toy, "one two longword four") == ("longword", "four")
    assert lost_words(toy, "") == ()


def test_only_what_no_tokenizer_reads_is_lost() -> None:
    words = Words((Segment(Toy(8), 0, 5), Segment(Toy(8), 5, 7)), 12)
    assert lost_words(words, "one two three four") == ()
    assert lost_words(words, "one two three four five six") == ("six",)
