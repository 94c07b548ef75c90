"""What a data set holds: counts per edit type, and every problem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from reinvert.bench.case import TYPES, Data, EditCase, Problem
from reinvert.errors import ReinvertError


@dataclass(frozen=True)
class Count:
    """How many cases there are, and how many of them have what."""

    cases: int = 0
    targets: int = 0
    masks: int = 0
    blends: int = 0
    instructions: int = 0
    true_edits: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(*(a + b for a, b in zip(self.row, other.row, strict=True)))

    @property
    def row(self) -> tuple[int, ...]:
        return self.cases, self.targets, self.masks, self.blends, self.instructions, self.true_edits


TITLES = ("cases", "target", "mask", "blend words", "instruction", "true edit")


@dataclass(frozen=True)
class Report:
    """The result of `check`."""

    name: str
    counts: Mapping[str, Count]
    """By the id of the edit type, sorted."""
    sizes: Mapping[tuple[int, int], int]
    """How many pictures there are of each width and height; empty if pictures were not opened."""
    problems: tuple[Problem, ...]

    @property
    def total(self) -> Count:
        return sum(self.counts.values(), Count())

    @property
    def left_out(self) -> int:
        """How many cases cannot be used."""
        return len({problem.id for problem in self.problems if problem.left_out})

    @property
    def shown(self) -> Group:
        """What rich prints."""
        table = Table(title=Text(self.name), title_justify="left")
        table.add_column("type")
        for title in TITLES:
            table.add_column(title, justify="right")
        for key, count in self.counts.items():
            table.add_row(Text(f"{key} {TYPES[key]}" if key in TYPES else key), *map(str, count.row))
        table.add_section()
        table.add_row("all", *map(str, self.total.row))
        return Group(table, *map(Text, self._lines))

    @property
    def _lines(self) -> list[str]:
        lines: list[str] = []
        if self.sizes:
            listed = sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))
            shown = ", ".join(f"{width}x{height} ({n})" for (width, height), n in listed[:5])
            lines.append(f"pictures: {shown}{f' and {len(listed) - 5} other sizes' if len(listed) > 5 else ''}")
        if not self.problems:
            return [*lines, "no problems"]
        number = len(self.problems)
        lines.append(f"{number} problem{'s' * (number != 1)}; {self.left_out} cases are left out")
        return [*lines, *(f"  {problem.id or self.name}: {problem.what}" for problem in self.problems)]

    @property
    def text(self) -> str:
        """The same without colours, in lines of any length."""
        console = Console(file=StringIO(), width=10_000, color_system=None)
        with console.capture() as captured:
            console.print(self.shown, soft_wrap=True)
        return captured.get()


def check(data: Data, *, pictures: bool = True) -> Report:
    """Count the cases and list what is wrong. `pictures`: open all pictures, masks and true edits, a case at a time."""
    counts, sizes, problems = dict[str, Count](), Counter[tuple[int, int]](), list(data.problems)
    for case in data:
        try:
            if pictures:
                sizes[_opened(case, problems)] += 1
        except (ReinvertError, OSError) as error:
            problems.append(Problem(case.id, str(error)))
            continue
        counts[case.type_id] = counts.get(case.type_id, Count()) + _count(case)
    return Report(data.name, dict(sorted(counts.items())), dict(sizes), tuple(problems))


def _opened(case: EditCase, problems: list[Problem]) -> tuple[int, int]:
    """Open all that belongs to a case, and return the picture's width and height."""
    picture, mask, truth = case.picture(), case.mask(), case.true_edit()
    size = f"{picture.width}x{picture.height}"
    if mask is not None and mask.shape != (picture.height, picture.width):
        raise ReinvertError(f"its mask is {mask.shape[1]}x{mask.shape[0]}, its picture {size}")
    if mask is not None and not mask.any():
        problems.append(Problem(case.id, "its mask is empty; columns of the edited part are too", left_out=False))
    if truth is not None and truth.size != picture.size:
        raise ReinvertError(f"its true edit is {truth.width}x{truth.height}, its picture {size}")
    return picture.size


def _count(case: EditCase) -> Count:
    return Count(
        1,
        int(case.has_target),
        int(case.open_mask is not None),
        int(case.blend is not None),
        int(case.instruction is not None),
        int(case.open_true_edit is not None),
    )


def before_a_run(data: Data) -> tuple[str, ...]:
    """What is to be known before a run begins: cases that are left out, and cases that are used without a part of
    theirs (blend words that do not occur, a mask that cannot be read). One sentence each; the first case is named."""
    told: list[str] = []
    for left_out, what in ((True, "are left out"), (False, "are used with a lack")):
        found = [problem for problem in data.problems if problem.left_out is left_out]
        if found:
            first = f"{found[0].id}: {found[0].what}" if found[0].id else found[0].what
            count = len({problem.id for problem in found})
            told.append(f"{count} cases of {data.name} {what} ({first}); `reinvert bench check` lists them")
    return tuple(told)
