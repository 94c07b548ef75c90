"""picturebook's own CLIP tokenizer: byte-level BPE in CLIP's file format, with the world's words as merges.

Every word of the world is one token except the compounds of `COMPOUNDS`, which stay several on purpose: real
checkpoints split words, so the bundled model must too. Any other text falls back to single characters.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import BpeTrainer
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


def _words() -> list[str]:
    values = (*scene.KINDS, *scene.COLORS, *scene.MATERIALS, *scene.WEARABLES, *scene.FACINGS)
    phrases = (*scene.PLACE.values(), *scene.STYLE_PREFIX.values(), "wearing facing and an a")
    stems = (stem for compound in COMPOUNDS.values() for stem in compound)
    return sorted({*values, *" ".join(phrases).split(), *EXTRA_WORDS, *stems} - set(COMPOUNDS))


def _merges(words: list[str]) -> list[tuple[str, str]]:
    """BPE merges that make each word one token, then those that join the stems of the compounds."""
    bpe = Tokenizer(BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    trainer = BpeTrainer(vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator(words, trainer)
    merges = [(left, right) for left, right in json.loads(bpe.to_str())["model"]["merges"]]
    for stem, _ in COMPOUNDS.values():
        pieces = list(stem)
        for left, right in merges:
            for i in range(len(pieces) - 1, 0, -1):
                if (pieces[i - 1], pieces[i]) == (left, right):
                    pieces[i - 1 : i + 1] = [left + right]
        for i in range(1, len(pieces)):
            merges.append(("".join(pieces[:i]), pieces[i]))
    return merges


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json and merges.txt to `folder` and load them."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = _byte_alphabet()
    merges = _merges(_words())
    pieces = [*letters, *(f"{c}</w>" for c in letters), *("".join(rule) for rule in merges)]
    vocabulary = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(rule) for rule in merges)]) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH)
