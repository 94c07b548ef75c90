"""Prompt arithmetic of the Prompt-to-Prompt family: which token of one prompt answers to which of another.

Every controller edits the target's attention map with matrices that live on the token axis only,

    E = A_S P + A_T diag(D),    P[m, t] = w[t] g[t] mixing[m, t],    D[t] = w[t] g[t] own[t] + 1 - w[t]

where A_S, A_T are the source's and the target's maps, w the window of the step, g the equaliser, and
(mixing, own) says what the controller reads: Replace (M, 0), Refine (P0, 1 - a), Reweight alone (I, 0).

Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or, "Prompt-to-Prompt Image Editing with Cross Attention
Control", ICLR 2023, arXiv 2208.01626. Where this departs from google/prompt-to-prompt (9c472e4):

* words are split at any white space and each is tokenised by itself; the published code splits at single
  spaces and adds up decoded lengths, so a leading or a double space shifts its positions, and so can an
  accented letter;
* a word may be a phrase, and a missing word is an error, not an empty index that silently erases the edit;
* the replacement map keeps the prompts in step behind the last replaced word (`compat="published"` does not);
* windows of single words work (the published constructors lose the tokenizer), and an int is a float;
* prompts longer than the model reads are aligned in full and cut afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reinvert.errors import ReinvertError
from reinvert.fields import DEFAULT, Number, Share

Kind: TypeAlias = Literal["replace", "refine"] | None
"""How the target reads the source's maps: word by word, by aligned token, or (None) position by position."""

Compat: TypeAlias = Literal["correct", "published"]

_TRAILING = ".,;:!?)]}\"'…’”"
_LEADING = "([{\"'‘“"
_OWNED = ("'s", "’s")


@runtime_checkable
class TokenizerLike(Protocol):
    """What is asked of a tokenizer; transformers' `CLIPTokenizer` qualifies."""

    @property
    def model_max_length(self) -> int: ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: list[int]) -> str | list[str]: ...


@dataclass(frozen=True)
class Segment:
    """A stretch of a model's token axis that one tokenizer fills, `length` positions from `start` on.

    It is asked like the tokenizer itself; its own `length` may be less than the tokenizer could read.
    """

    tokenizer: TokenizerLike
    start: int
    length: int

    @property
    def model_max_length(self) -> int:
        return self.length

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: list[int]) -> str | list[str]:
        return self.tokenizer.decode(token_ids)

    @property
    def span(self) -> slice:
        """Its positions on the model's token axis."""
        return slice(self.start, self.start + self.length)


@dataclass(frozen=True)
class Words:
    """Where a prompt's words lie on a model's token axis of `length` positions.

    Where several text encoders are joined one behind the other, a word has tokens in each of their segments; positions
    of no segment hold no words.
    """

    segments: tuple[Segment, ...]
    length: int

    @classmethod
    def of(cls, tokenizer: TokenizerLike, length: int | None = None) -> Words:
        """The words of a single tokenizer, whose positions are the whole token axis."""
        length = tokenizer.model_max_length if length is None else length
        return cls((Segment(tokenizer, 0, length),), length)


Reader: TypeAlias = TokenizerLike | Words
"""A single tokenizer, or what a model makes of several."""


def _words(reader: Reader) -> Words:
    return reader if isinstance(reader, Words) else Words.of(reader)


class Span(NamedTuple):
    """A word and the positions of its tokens, as far as the model reads them (of CLIP, BOS is position 0)."""

    word: str
    tokens: range


class Mixing(NamedTuple):
    """What the target reads inside its window: R = A_S source + A_T diag(own)."""

    source: Float[Tensor, "n n"]
    own: Float[Tensor, " n"]


class EditMatrices(NamedTuple):
    """E = A_S P + A_T diag(D)."""

    P: Float[Tensor, "*steps n n"]
    D: Float[Tensor, "*steps n"]


class Link(NamedTuple):
    """One target token and one source token it reads, or none."""

    target: int
    target_piece: str
    source: int | None
    source_piece: str | None
    keeps_source: bool


# --- Tokens and words --------------------------------------------------------------------------------------


def token_ids(tokenizer: TokenizerLike, prompt: str) -> list[int]:
    """Token ids as the text encoder sees them: perhaps BOS, tokens, EOS, at most n in all; without padding."""
    ids = tokenizer.encode(prompt)
    n = tokenizer.model_max_length
    return ids if len(ids) <= n else [*ids[: n - 1], ids[-1]]


def pieces(tokenizer: TokenizerLike, prompt: str) -> list[str]:
    """The text of each of `token_ids`, without the end-of-word mark that some tokenizers show."""
    return [str(tokenizer.decode([i])).replace("</w>", "").strip() for i in token_ids(tokenizer, prompt)]


def word_spans(tokenizer: TokenizerLike, prompt: str) -> list[Span]:
    """The words of the prompt with their token positions; a word that the model no longer reads has none."""
    words = prompt.split()
    ids = [_ids(tokenizer, word) for word in words]
    if [i for word in ids for i in word] != _ids(tokenizer, prompt):
        raise ReinvertError(
            f"This tokenizer does not split {prompt!r} at its spaces, so its words have no positions of "
            "their own; use a model with a CLIP tokenizer."
        )
    last = tokenizer.model_max_length - 1
    ends = [_leading(tokenizer)]
    for word in ids:
        ends.append(ends[-1] + len(word))
    cuts = [min(end, last) for end in ends]
    return [Span(word, range(a, b)) for word, (a, b) in zip(words, pairwise(cuts), strict=True)]


def word_positions(reader: Reader, prompt: str, word: str | int) -> tuple[int, ...]:
    """Token positions of every occurrence of a word or phrase, or of the word with this number (from 0).

    Words match as they are written, capitals and punctuation included. Only if a word is found nowhere, punctuation
    behind the prompt's words is overlooked: "cat" then finds that of "cat,", without the comma. If it still is not,
    capitals of the prompt, brackets and quotes before its words and the 's behind them are overlooked too: "cat" finds
    "Cat" and the cat of "cat's".
    """
    found, errors = list[int](), list[ReinvertError]()
    for segment in _words(reader).segments:
        try:
            found += [segment.start + position for position in _positions(segment, prompt, word)]
        except ReinvertError as error:  # one encoder may read further than another
            errors.append(error)
    if not found:
        raise errors[0]
    return tuple(found)


def _leading(tokenizer: TokenizerLike) -> int:
    """How many special tokens stand before the words: CLIP has one, T5 none."""
    return max(0, len(tokenizer.encode("")) - 1)


def _positions(tokenizer: TokenizerLike, prompt: str, word: str | int) -> tuple[int, ...]:
    spans = word_spans(tokenizer, prompt)
    if isinstance(word, int):
        if not 0 <= word < len(spans):
            raise ReinvertError(f"No word has the number {word} in {prompt!r}: they run 0..{len(spans) - 1}.")
        found = [spans[word]]
    else:
        found = (
            _matches(spans, word)
            or _matches([_bare(tokenizer, span) for span in spans], word)
            or _matches([_core(tokenizer, span) for span in spans], word)
        )
        if not found:
            known = ", ".join(dict.fromkeys(prompt.split())) or "(none)"
            raise ReinvertError(f"{word!r} does not occur in {prompt!r}; the words are: {known}.")
    positions = tuple(sorted({position for span in found for position in span.tokens}))
    if not positions:
        raise ReinvertError(
            f"The model does not read as far as {word!r}, it stops after {tokenizer.model_max_length} "
            "tokens; shorten the prompt."
        )
    return positions


def indicator(reader: Reader, prompt: str, words: str | Sequence[str]) -> Float[Tensor, " n"]:
    """1 at the tokens of the words (one word or phrase, or several), 0 elsewhere."""
    chosen = torch.zeros(_words(reader).length)
    for word in [words] if isinstance(words, str) else words:
        chosen[list(word_positions(reader, prompt, word))] = 1.0
    return chosen


def equalizer(
    reader: Reader, target: str, boosts: Mapping[str, Number], dtype: torch.dtype = torch.float32
) -> Float[Tensor, " n"]:
    """The factor of each target token's map: 1, except at the words that `boosts` names."""
    gain = torch.ones(_words(reader).length, dtype=dtype)
    for word, factor in boosts.items():
        gain[list(word_positions(reader, target, word))] = float(factor)
    return gain


def _ids(tokenizer: TokenizerLike, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _matches(spans: Sequence[Span], phrase: str) -> list[Span]:
    wanted = phrase.split()
    starts = range(len(spans) - len(wanted) + 1) if wanted else range(0)
    runs = [spans[start : start + len(wanted)] for start in starts]
    return [span for run in runs if [s.word for s in run] == wanted for span in run]


def _bare(tokenizer: TokenizerLike, span: Span) -> Span:
    """The span without the punctuation behind its word."""
    return _part(tokenizer, span, span.word.rstrip(_TRAILING))


def _core(tokenizer: TokenizerLike, span: Span) -> Span:
    """The span of the word alone, in small letters, without all that stands around it."""
    part = _part(tokenizer, span, bare_word(span.word))
    return Span(part.word.lower(), part.tokens)


def bare_word(word: str) -> str:
    """A word of a prompt without punctuation around it and without the 's behind it."""
    word = word.strip(_TRAILING + _LEADING)
    return next((word.removesuffix(end) for end in _OWNED if word.lower().endswith(end)), word)


def _part(tokenizer: TokenizerLike, span: Span, word: str) -> Span:
    """A word that lies within the span's, with its own tokens where the tokenizer keeps them apart."""
    if word == span.word or not word:
        return span
    ids, whole = _ids(tokenizer, word), _ids(tokenizer, span.word)
    for start in range(len(whole) - len(ids) + 1):
        if whole[start : start + len(ids)] == ids:
            return Span(word, span.tokens[start : start + len(ids)])
    return Span(word, span.tokens)


def lost_words(reader: Reader, prompt: str) -> tuple[str, ...]:
    """The words of the prompt that are cut off, at least in part: those that no tokenizer of the model reads whole."""
    words = prompt.split()
    lost = [_cut(segment, prompt, words) for segment in _words(reader).segments]
    return tuple(words[i] for i in sorted(set[int].intersection(*lost))) if lost else ()


def _cut(tokenizer: TokenizerLike, prompt: str, words: Sequence[str]) -> set[int]:
    """The numbers of the words behind the last token that is read."""
    full, room = tokenizer.encode(prompt), tokenizer.model_max_length
    if len(full) <= room:
        return set()
    ends, end = list[int](), len(tokenizer.encode(""))  # the special tokens have their places too
    for word in words:
        end += len(_ids(tokenizer, word))
        ends.append(end)
    # Where the words by themselves have fewer tokens than the prompt, the last one is cut at least.
    return {i for i, end in enumerate(ends) if end > room} or {len(words) - 1}


# --- From one prompt to the other --------------------------------------------------------------------------


def align(source: Sequence[object], target: Sequence[object]) -> list[int]:
    """For each target item the source item it is matched with in a longest common subsequence, or -1.

    Global alignment with match 1, mismatch -1, gap 0: a substitution never pays. Where paths tie, the
    backward trace skips a target item first, then a source item: repeats attach to the earliest target
    occurrence.
    """
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, a in enumerate(source, 1):
        for j, b in enumerate(target, 1):
            best[i][j] = best[i - 1][j - 1] + 1 if a == b else max(best[i][j - 1], best[i - 1][j])
    matched = [-1] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            matched[j] = i
    return matched


def changed_words(source: str, target: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of the source that the target lost, and the words of the target that are new."""
    before, after = source.split(), target.split()
    matched = align(before, after)
    lost = tuple(word for i, word in enumerate(before) if i not in matched)
    return lost, tuple(word for word, i in zip(after, matched, strict=True) if i < 0)


def replacement_map(
    tokenizer: TokenizerLike,
    source: str,
    target: str,
    *,
    compat: Compat = "correct",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "n n"]:
    """M of R = A_S M: a replaced word of i tokens gives each of the j new tokens 1/j of all its maps.

    With i == j the tokens pair up one by one. Behind the last word, the padding pairs up until one side ends;
    so for j > i the last j - i source positions are lost, and for j < i the last i - j columns are empty.

    `compat="published"` pairs equal *positions* behind the last replaced word, as `seq_aligner.py` does: for
    i != j every later word then reads a neighbour's map.
    """
    before, after = word_spans(tokenizer, source), word_spans(tokenizer, target)
    if len(before) != len(after):
        raise ReinvertError(
            f"Replacing word by word needs prompts with equally many words, but {source!r} has {len(before)} "
            f"and {target!r} has {len(after)}; use the refine edit."
        )
    pairs = list(zip(before, after, strict=True))
    if compat == "published":
        pairs = pairs[: max((k for k, (a, b) in enumerate(pairs, 1) if a.word != b.word), default=0)]
    n = tokenizer.model_max_length
    matrix = torch.zeros(n, n, dtype=dtype)
    i = j = _leading(tokenizer)
    matrix[:i, :i] = torch.eye(i)
    for (old, rows), (new, columns) in pairs:
        if old == new or len(rows) == len(columns):
            matrix[list(rows)[: len(columns)], list(columns)[: len(rows)]] = 1.0
        elif columns:
            matrix[rows.start : rows.stop, columns.start : columns.stop] = 1 / len(columns)
        i, j = rows.stop, columns.stop
    tail = torch.arange(n - max(i, j))
    matrix[tail + (j if compat == "published" else i), tail + j] = 1.0
    return matrix


def refinement_map(tokenizer: TokenizerLike, source: str, target: str) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """(map, a) of R[t] = a_t A_S[map(t)] + (1 - a_t) A_T[t]: each target token's source token, and 1 if any.

    Fresh tokens have map -1 and a 0; a substituted word is fresh too. Padding maps to its own position.
    """
    n = tokenizer.model_max_length
    full_source, full_target = tokenizer.encode(source), tokenizer.encode(target)
    matched = align(full_source, full_target)
    if max(len(full_source), len(full_target)) > n:
        # Cut off, and the last position that the model reads is EOS in place of a word.
        words = [m if m < n - 1 else -1 for m in matched[: min(len(full_target), n) - 1]]
        matched = [*words, min(len(full_source), n) - 1]
    mapping = torch.tensor([*matched, *range(len(matched), n)])
    return mapping, (mapping >= 0).float()


def refinement_matrix(mapping: Int[Tensor, " n"], a: Float[Tensor, " n"]) -> Float[Tensor, "n n"]:
    """P0[m, t] = a_t [m = map(t)]."""
    positions = torch.arange(len(mapping), device=mapping.device)
    return (positions[:, None] == mapping[None, :]) * a[None, :]


def mixing(
    reader: Reader,
    source: str,
    target: str,
    kind: Kind,
    *,
    compat: Compat = "correct",
    dtype: torch.dtype = torch.float32,
) -> Mixing:
    """What `kind` reads of the two prompts' maps; the same at every step. No segment reads another's tokens."""
    words = _words(reader)
    matrix, own = torch.eye(words.length, dtype=dtype), torch.zeros(words.length, dtype=dtype)
    for segment in words.segments:
        part = _mixing(segment, source, target, kind, compat, dtype)
        matrix[segment.span, segment.span], own[segment.span] = part.source, part.own
    return Mixing(matrix, own)


def _mixing(
    tokenizer: TokenizerLike, source: str, target: str, kind: Kind, compat: Compat, dtype: torch.dtype
) -> Mixing:
    n = tokenizer.model_max_length
    match kind:
        case "replace":
            return Mixing(replacement_map(tokenizer, source, target, compat=compat, dtype=dtype), torch.zeros(n))
        case "refine":
            mapping, a = refinement_map(tokenizer, source, target)
            return Mixing(refinement_matrix(mapping, a), 1 - a)
        case None:
            return Mixing(torch.eye(n), torch.zeros(n))


def edit_matrices(
    mix: Mixing, window: Float[Tensor, "*steps n"], gain: Float[Tensor, " n"] | None = None
) -> EditMatrices:
    """(P, D) of E = A_S P + A_T diag(D) for one row of `cross_windows`, or for all of them at once.

    `gain` is the `equalizer`. It acts inside the window only, and nothing is normalised again.
    """
    inside = window if gain is None else window * gain
    return EditMatrices(mix.source * inside[..., None, :], inside * mix.own + (1 - window))


# --- Windows: at which steps -------------------------------------------------------------------------------


def cross_windows(
    reader: Reader, target: str, steps: int, cross: Share | Mapping[str, Share]
) -> Float[Tensor, "{steps+1} n"]:
    """w: 1 where a target token follows the edit at a step, else 0; rows are steps in sampling order.

    A share (lo, hi) is the steps int(lo (N + 1)) .. int(hi (N + 1)) - 1. The N + 1 is the published code's:
    of 50 steps 0.4 means the first 20. Row N is never reached by a run of N steps. Shares given by word
    overwrite the "default_" one, which is the whole run if left out; of overlapping phrases the later counts.
    """
    shares = cross if isinstance(cross, Mapping) else {DEFAULT: cross}
    windows = torch.zeros(steps + 1, _words(reader).length)
    start, stop = _bounds(shares.get(DEFAULT, 1), steps + 1)
    windows[start:stop] = 1.0
    for word, share in shares.items():
        if word == DEFAULT:
            continue
        start, stop = _bounds(share, steps + 1)
        positions = list(word_positions(reader, target, word))
        windows[:, positions] = 0.0
        windows[start:stop, positions] = 1.0
    return windows


def self_window(steps: int, self_: Share) -> tuple[int, int]:
    """The steps start .. stop - 1 at which self-attention is the source's: int(N lo), int(N hi). Not N + 1.

    The products are truncated as Python's floats give them, like in the published code: 0.58 of 50 steps is
    28 and not 29, because 0.58 * 50 = 28.999999999999996.
    """
    return _bounds(self_, steps)


def _bounds(share: Share, count: int) -> tuple[int, int]:
    lo, hi = (0, share) if isinstance(share, int | float) else share
    if not 0 <= lo <= hi <= 1:
        raise ReinvertError(f"A share of the run is a number or a rising pair within 0..1, not {share!r}.")
    return int(count * lo), int(count * hi)


# --- Explaining --------------------------------------------------------------------------------------------


def explain(tokenizer: TokenizerLike, source: str, target: str, kind: Kind) -> list[Link]:
    """The source token that gives each target token its map inside the window; several make several rows."""
    old, new = pieces(tokenizer, source), pieces(tokenizer, target)
    reads = mixing(tokenizer, source, target, kind).source
    rows: list[Link] = []
    for t, piece in enumerate(new):
        sources: list[int] = reads[:, t].nonzero().flatten().tolist()
        rows += [Link(t, piece, m, old[m] if m < len(old) else "(padding)", True) for m in sources]
        rows += [] if sources else [Link(t, piece, None, None, False)]
    return rows


def explain_table(tokenizer: TokenizerLike, source: str, target: str, kind: Kind) -> str:
    """`explain` as plain text, with the source tokens that nothing reads in a last line."""
    rows = explain(tokenizer, source, target, kind)
    read = {row.source for row in rows}
    unread = [f"{m} {piece}" for m, piece in enumerate(pieces(tokenizer, source)) if m not in read]
    cells = [("#", "target", "attention", "#", "source")]
    for row in rows:
        where, piece = ("", "") if row.source is None else (str(row.source), str(row.source_piece))
        follows = "source's" if row.keeps_source else "its own"
        cells.append((str(row.target), row.target_piece, follows, where, piece))
    widths = [max(len(line[k]) for line in cells) for k in range(5)]
    lines = [_line(line, widths) for line in cells]
    rule = "  ".join("-" * width for width in widths)
    last = [f"not read by any target token: {', '.join(unread)}"] if unread else []
    return "\n".join([lines[0], rule, *lines[1:], *last])


def _line(cells: tuple[str, ...], widths: Sequence[int]) -> str:
    """Numbers to the right, words to the left."""
    aligned = zip("><<><", cells, widths, strict=True)
    return "  ".join(f"{cell:{side}{width}}" for side, cell, width in aligned).rstrip()
