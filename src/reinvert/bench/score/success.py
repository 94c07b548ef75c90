"""Whether an edit is right: what was asked for has changed, and everything else has been kept.

picturebook knows what every picture shows before and after its edit. A judge, an attribute reader trained on drawings
alone (`picturebook.reader`), looks at the result; what it reads is held against what the true edit shows:

* `changed` is 1 where every attribute that the edit asks for is read as asked;
* `kept` is 1 where every other attribute is read as it was;
* `success` is 1 where both are; `changed_color`, `kept_material` ... say the same of one attribute (of two things, the
  mean).

The judge errs too: the row of the true edits is what it makes of perfect answers, and the ceiling of every other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from reinvert.bench.case import Attributes
from reinvert.errors import ReinvertError
from reinvert.image import Picture
from reinvert.picturebook import reader
from reinvert.picturebook.reader import SLOTS, Reader

SUCCESS, CHANGED, KEPT = "success", "changed", "kept"
ATTRIBUTES: Final = ("kind", "color", "material", "facing", "wearing", "background", "style", "count")
COLUMNS: Final = (SUCCESS, CHANGED, KEPT, *(f"{what}_{name}" for what in (CHANGED, KEPT) for name in ATTRIBUTES))
"""Every column: those of the whole edit, then those of an attribute, which only some cases have."""


@dataclass(frozen=True)
class Question:
    """What must be read in a result, by the judge's heads: what the edit asks for, and all that it leaves alone."""

    asked: Attributes
    kept: Attributes


def question(before: Attributes, after: Attributes) -> Question:
    """The question that an edit poses, from what its picture and its true edit show.

    A thing that gets company or loses it is read in another place; it is kept, and the other one is asked for.
    """
    moved = {name: value for slot in SLOTS for name, value in _moved(before, after, slot).items()}
    known = {**before, **moved}
    kept = {name: value for name, value in after.items() if known.get(name) == value}
    return Question({name: value for name, value in after.items() if name not in kept}, kept)


def _moved(before: Attributes, after: Attributes, slot: str) -> Attributes:
    """What a thing shows that stands at `slot` after the edit, and stood at another place before; else nothing."""
    new = _thing(after, slot)
    if not new or _thing(before, slot):
        return {}
    found = any(_thing(before, other) == new for other in SLOTS)
    return {f"{slot}.{name}": value for name, value in new.items()} if found else {}


def _thing(shown: Attributes, slot: str) -> dict[str, str]:
    return {name.removeprefix(f"{slot}."): value for name, value in shown.items() if name.startswith(f"{slot}.")}


@dataclass(frozen=True)
class Judge:
    """A reader, and a hash of its weights."""

    reader: Reader
    digest: str = ""

    @classmethod
    def bundled(cls) -> Judge:
        """The one that comes with picturebook. Raises `ReinvertError` where it does not know this world."""
        found = Reader.load(reader.BUNDLED)
        if found is None:
            raise ReinvertError(
                "picturebook's judge is missing, or was trained on other drawings: install reinvert again, or train it "
                "with `python -m reinvert.picturebook.reader`"
            )
        return cls(found, hashlib.sha256(reader.BUNDLED.read_bytes()).hexdigest()[:16])

    def describe(self) -> dict[str, str]:
        """For the record of a run, beside `score.Networks.describe`."""
        return {"judge": f"picturebook sha256:{self.digest}"}

    def read(self, results: Sequence[tuple[Picture, Question]]) -> list[dict[str, float]]:
        """The columns of every result; those of attributes that a case does not have are left out."""
        answers = self.reader.read([picture for picture, _ in results])
        return [values(asked, answer) for (_, asked), answer in zip(results, answers, strict=True)]


def values(asked: Question, answer: Attributes) -> dict[str, float]:
    """The columns of one result, from what the judge reads in it."""
    parts = {CHANGED: asked.asked, KEPT: asked.kept}
    right = {what: [answer.get(name) == value for name, value in part.items()] for what, part in parts.items()}
    made = {what: float(all(found)) for what, found in right.items()}
    made[SUCCESS] = min(made.values())
    for what, part in parts.items():
        for attribute, share in _shares(part, answer):
            made[f"{what}_{attribute}"] = share
    return made


def _shares(part: Attributes, answer: Attributes) -> Iterator[tuple[str, float]]:
    hits: dict[str, list[bool]] = {}
    for name, value in part.items():
        hits.setdefault(name.rpartition(".")[2], []).append(answer.get(name) == value)
    for attribute, found in hits.items():
        if attribute in ATTRIBUTES:
            yield attribute, sum(found) / len(found)


def title_of(name: str) -> str:
    """What heads a column: `success`, `changed, color`."""
    what, _, attribute = name.partition("_")
    return f"{what}, {attribute}" if attribute else what


def question_of(attributes: tuple[Attributes, Attributes] | None) -> Question | None:
    """The question of a case; None where nobody knows what its pictures show."""
    return None if attributes is None else question(*attributes)


__all__ = ["COLUMNS", "Judge", "Question", "question", "question_of", "title_of", "values"]
