"""The one exception that reinvert raises for what a user can put right, and its warnings."""

from __future__ import annotations

import difflib
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterable


def one_line(text: str) -> str:
    r"""A text on one line: breaks become spaces, what cannot be printed is spelt out (`\x1b`), half characters too."""
    if text.isprintable():
        return text
    plain = re.sub(r"[\t\n\r\v\f\u2028\u2029]+", " ", text)
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in plain)


def is_text(text: str) -> bool:
    """Whether a text can be written as UTF-8 and moves no cursor: it has no half and no control characters."""
    return all(unicodedata.category(sign) not in ("Cc", "Cs") for sign in text)


def meant(given: str, known: Iterable[str], otherwise: str, most: int = 1) -> str:
    """The end of a sentence about a name that there is not: what was probably meant, or what there is."""
    near = difflib.get_close_matches(given[:100], list(known), most, 0.6)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


class ReinvertError(ValueError):
    """Bad input: one clear sentence that says what to do.

    A sentence may repeat what a file or a user holds, so it is printable on one line, whatever that was: nothing in it
    moves a cursor or clears a screen.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


class ReinvertWarning(UserWarning):
    """Something that was done, but perhaps not as meant: one sentence, shown with the standard `warnings`.

    `warnings.simplefilter("ignore", reinvert.ReinvertWarning)` silences them, `"error"` makes exceptions of them.
    """


def warn(sentence: str) -> None:
    """Warn of something, at the line of the caller's own code that called into reinvert."""
    depth, frame = 2, sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "reinvert":
        depth, frame = depth + 1, frame.f_back
    warnings.warn(one_line(sentence), ReinvertWarning, stacklevel=depth)


class BusyError(ReinvertError):
    """Another thread is working on the model, which was loaded with `busy="raise"`."""

    def __init__(self) -> None:
        super().__init__('another thread is working on this model; try again later, or load it with busy="wait"')


class NonFiniteError(ReinvertError):
    """A latent became infinite or NaN; the message names the step, who was walking and what to try."""

    def __init__(self, index: int, steps: int, who: str) -> None:
        super().__init__(
            f"step {index + 1} of {steps} of {who} produced a latent that is not finite; "
            "try --dtype float32 (or bfloat16), a lower --guidance, or more --steps"
        )
        self.index = index


def out_of_memory(error: BaseException) -> bool:
    """Out of memory is a class of its own on CUDA, and a plain RuntimeError on the CPU and on MPS."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
