"""picturebook's own CLIP tokenizer: byte-level BPE in CLIP's file format, with the world's words as merges.

Every word of the world is one token except the compounds of `COMPOUNDS`, which stay several on purpose: real
checkpoints split words, so the bundled model must too. Any other text falls back to single characters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from reinvert.picturebook import scene

COMPOUNDS = {"snowman": ("snow", "man"), "mushroom": ("mush", "room")}
MAX_LENGTH = 32
EXTRA_WORDS = ("picture", "photo", "with", "the", "two", "big", "small", "no", "without", "black", "gold")


def _byte_alphabet() -> list[str]:
    """GPT-2's reversible byte-to-letter table, in CLIP's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def _words(more: Sequence[str]) -> list[str]:
    values = (*scene.KINDS, *scene.COLORS, *scene.MATERIALS, *scene.WEARABLES, *scene.FACINGS)
    phrases = (*scene.PLACE.values(), *scene.STYLE_PREFIX.values(), "wearing facing and an a")
    stems = (stem for compound in COMPOUNDS.values() for stem in compound)
    return sorted({*values, *" ".join(phrases).split(), *EXTRA_WORDS, *stems, *more} - set(COMPOUNDS))


def _merged(pieces: list[str], rule: tuple[str, str]) -> list[str]:
    """The pieces after one BPE merge, from left to right."""
    made: list[str] = []
    for piece in pieces:
        if made and (made[-1], piece) == rule:
            made[-1] += piece
        else:
            made.append(piece)
    return made


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """BPE merges that make each word one token, then those that join the stems of the compounds.

    The most frequent pair goes first and the alphabet decides between equals (the trainer of `tokenizers` leaves
    that to chance, and two processes must agree on the numbers of the tokens).
    """
    merges: list[tuple[str, str]] = []
    spelt = [[*word[:-1], word[-1] + "</w>"] for word in words]
    while any(len(pieces) > 1 for pieces in spelt):
        counts = Counter(pair for pieces in spelt for pair in pairwise(pieces))
        rule = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(rule)
        spelt = [_merged(pieces, rule) for pieces in spelt]
    for stem, _ in COMPOUNDS.values():
        pieces = list(stem)
        for rule in merges:
            pieces = _merged(pieces, rule)
        merges += [("".join(pieces[:i]), pieces[i]) for i in range(1, len(pieces))]
    return merges


def build_tokenizer(folder: Path, more: Sequence[str] = (), length: int = MAX_LENGTH) -> CLIPTokenizer:
    """Write vocab.json and merges.txt to `folder` and load them. What is already there is kept: a model that is half
    trained needs the numbers it began with. `more` words are single tokens too; captions are cut at `length` tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    rules, numbers = folder / "merges.txt", folder / "vocab.json"
    if not (rules.exists() and numbers.exists()):
        letters = _byte_alphabet()
        merges = _merges(_words(more))
        pieces = [*letters, *(f"{c}</w>" for c in letters), *("".join(rule) for rule in merges)]
        vocabulary = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
        numbers.write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
        rules.write_text("\n".join(["#version: 0.2", *(" ".join(rule) for rule in merges)]) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length)
