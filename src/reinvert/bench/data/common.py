"""What the readers share: types, prompts in brackets, sizes of pictures, and one place where whatever is wrong with a
case becomes a `Problem` and the rest goes on. What their files hold is described in `reinvert.files.data`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from PIL import Image

from reinvert.bench.case import TYPES, EditCase, Problem
from reinvert.errors import ReinvertError
from reinvert.files import refusal, shown
from reinvert.image import FORMATS, MAX_PIXELS, MAX_SIDE, Size, open_image

TRAILING: Final = ".,;:!?)]}\"'…’”"
"""Punctuation behind a word of a prompt, which blend words may leave out."""
TURNED: Final = (5, 6, 7, 8)
"""EXIF orientations in which width and height change places."""


@dataclass
class Draft:
    """A case as its record tells it, before it is checked."""

    case: EditCase
    size: Size
    """Of the picture."""
    mask_size: Size | None = None
    notes: list[str] = field(default_factory=list[str])
    """What is wrong without making the case useless."""


@dataclass
class Collection:
    """Cases and problems as they are found."""

    cases: list[EditCase] = field(default_factory=list[EditCase])
    problems: list[Problem] = field(default_factory=list[Problem])
    ids: set[str] = field(default_factory=set[str])

    def problem(self, key: str, what: str, *, left_out: bool = True) -> None:
        """Both come from a file: what is kept is short and printable."""
        self.problems.append(Problem(shown(key, 200), str(refusal(what)), left_out))

    def take(self, key: str, make: Callable[[], Draft]) -> None:
        """Add the case that `make` reads; if it raises, the reason becomes the problem of `key`."""
        try:
            if not re.fullmatch(r"\w[\w.+ -]{0,199}", key):  # results are files of that name
                raise ReinvertError("its id is no name of a file: use letters, digits, '-', '_' and '.'")
            if key in self.ids:
                raise ReinvertError("its id occurs more than once; only the first is used")
            draft = make()
            if draft.mask_size not in (None, draft.size):
                raise ReinvertError(f"its picture is {_by(draft.size)}, but its mask is for {_by(draft.mask_size)}")
        except (ReinvertError, OSError) as error:
            return self.problem(key, str(error))
        self.ids.add(key)
        case, note = _blended(draft.case)
        self.cases.append(case)
        for what in [*draft.notes, *([note] if note else [])]:
            self.problem(key, what, left_out=False)


# --- fields ------------------------------------------------------------------------------------------------------


def type_of(told: int | str | None, *, own: bool = False) -> str:
    """The id of an edit type, from its number or name; `own` allows others. Missing is empty."""
    name = "" if told is None else str(told).strip()
    for key, title in TYPES.items():
        if name in (key, title, title.replace(" ", "_")):
            return key
    if name and not own:
        raise ReinvertError(f"its type is {name!r}; the types are 0 to {len(TYPES) - 1}")
    return name


# --- files -------------------------------------------------------------------------------------------------------


def size_of(file: Path | bytes, name: str) -> Size:
    """Width and height of a picture once it is upright, from the head of its file; nothing is decoded."""
    try:
        opened: BinaryIO = BytesIO(file) if isinstance(file, bytes) else file.open("rb")
        with opened, Image.open(opened, formats=FORMATS) as picture:
            (width, height), turn = picture.size, picture.getexif().get(274, 1)
    except Exception as error:  # on a damaged file Pillow raises nearly anything
        raise ReinvertError(f"its picture {shown(name)} is damaged, or no picture that reinvert can read") from error
    if width * height > MAX_PIXELS:
        raise ReinvertError(f"its picture {shown(name)} is {width}x{height}, more than {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_SIDE:
        raise ReinvertError(f"its picture {shown(name)} is {width}x{height}, a side of more than {MAX_SIDE:,} pixels")
    return (height, width) if turn in TURNED else (width, height)


def opener(path: Path) -> partial[Image.Image]:
    """Opens the picture. A `partial`, not a lambda, so that cases can be sent to other processes."""
    return partial(open_image, path)


# --- words -------------------------------------------------------------------------------------------------------


def unbracketed(prompt: str) -> str:
    """The prompt without the brackets around what differs; spaces stay as they are."""
    return prompt.replace("[", "").replace("]", "")


def marked(prompt: str) -> tuple[str, ...]:
    """What stands in the brackets of a prompt."""
    return tuple(part.strip() for part in re.findall(r"\[([^\[\]]*)\]", prompt) if part.strip())


def bracketed(source: str, target: str) -> tuple[str, str]:
    """Both prompts with what differs in brackets, word by word, as PIE-Bench has them."""
    one, two = source.split(" "), target.split(" ")
    first, second = list[str](), list[str]()
    for kind, a, b, c, d in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        same = kind == "equal"
        first += one[a:b] if same or a == b else [f"[{' '.join(one[a:b])}]"]
        second += two[c:d] if same or c == d else [f"[{' '.join(two[c:d])}]"]
    return " ".join(first), " ".join(second)


def bracket_notes(*prompts: str) -> list[str]:
    """Brackets that do not pair. They are stripped all the same."""
    odd = [prompt for prompt in prompts if set("[]") & set(re.sub(r"\[[^\[\]]*\]", "", prompt))]
    return [f"the brackets in {prompt!r} do not pair; they are left out" for prompt in odd]


def spelling(prompt: str, phrase: str) -> str | None:
    """A word or phrase as the prompt writes it, or None where it does not occur.

    As the editors look words up: whole words, where punctuation behind the prompt's words may be left out. Here
    capitals may differ too; what is returned can be found by the editors.
    """
    words, wanted = prompt.split(), phrase.lower().split()
    for seen in (words, [word.rstrip(TRAILING) for word in words]):
        for start in range(len(seen) - len(wanted) + 1) if wanted else ():
            found = seen[start : start + len(wanted)]
            if [word.lower() for word in found] == wanted:
                return " ".join(found)
    return None


def _blended(case: EditCase) -> tuple[EditCase, str | None]:
    """The case with its blend words as its prompts spell them; without them and with a note where they do not occur."""
    if case.blend is None:
        return case, None
    prompts = (case.source_prompt, case.target_prompt)
    found = [spelling(prompt, word) for prompt, word in zip(prompts, case.blend, strict=True)]
    for prompt, word, seen in zip(prompts, case.blend, found, strict=True):
        if seen is None:
            note = f"its blend word {word!r} does not occur in {prompt!r}; it is used without blend words"
            return replace(case, blend=None), note
    return replace(case, blend=(found[0], found[1])), None


def _by(size: Size | None) -> str:
    return "x".join(map(str, size or ()))
