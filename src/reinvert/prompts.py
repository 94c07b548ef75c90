"""What a model cannot know of a prompt: words that it never met, words behind its last token, weights in brackets."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence

from reinvert.backbones.base import World
from reinvert.errors import ReinvertError, warn
from reinvert.words import Reader, bare_word, lost_words

_WEIGHT = re.compile(r"\(+\s*([^():]{1,100}?)\s*:\s*(\d+(?:\.\d+)?)\s*\)+")
"""(word:1.3), as other programs have it."""
MOST_NAMED = 60
"""How many words a sentence names at most."""


def check_words(name: str, world: World | None, prompts: Sequence[str], any_words: bool = False) -> None:
    """Raise `ReinvertError` for a word that is none of the model's world, naming the nearest that is."""
    if world is None or not world.words or any_words:
        return
    for prompt in dict.fromkeys(prompts):
        unknown = [word for word in dict.fromkeys(prompt.split()) if not _is_known(word, world.words)]
        for weight in _WEIGHT.finditer(prompt):
            # the word within the brackets may be known: what is unknown is the notation
            if any(word in unknown for word in weight.group().split()):
                raise ReinvertError(f"{_no_weight(weight)} (--any-words, any_words=True, lets it through)")
        if unknown:
            raise ReinvertError(_sentence(name, bare_word(unknown[0]) or unknown[0], prompt, world.words))


def _is_known(word: str, words: frozenset[str]) -> bool:
    bare = bare_word(word).lower()
    return not any(sign.isalnum() for sign in word) or bare in words


def _sentence(name: str, word: str, prompt: str, words: frozenset[str]) -> str:
    near = difflib.get_close_matches(word.lower()[:100], sorted(words), 1, 0.5)
    known = sorted(words)[:MOST_NAMED]
    more = f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else ""
    hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}{more}"
    return (
        f"{name} was trained without the word {_short(word)!r} of {_short(prompt)!r}; {hint} "
        "(--any-words, any_words=True, lets it through)"
    )


def _no_weight(weight: re.Match[str]) -> str:
    word, factor = weight.groups()
    flag = f"--boost {shlex.quote(f'{word}={factor}')}"
    return (
        f"'{_short(weight.group())}' is plain text here, no weight: write {word!r} alone, and {flag} "
        f"(boost={{{word!r}: {factor}}}) for a word of the target"
    )


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"


def warn_of_prompts(name: str, words: Reader, prompts: Sequence[str]) -> None:
    """Warn of words behind the last token that the model reads, and of weights, which are plain text here."""
    for prompt in dict.fromkeys(prompts):
        for weight in _WEIGHT.finditer(prompt):
            warn(_no_weight(weight))
        lost = lost_words(words, prompt)
        if lost:
            warn(f"{name} does not read all of {_short(prompt)!r}; these words are cut off: {_short(' '.join(lost))}")
