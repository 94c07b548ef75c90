"""A progress bar on stderr while a picture is inverted and edited; nothing at all where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from reinvert.cli.terminal import console

if TYPE_CHECKING:
    from reinvert.inversions.base import Progress
    from reinvert.verbs import Watch


@contextmanager
def progress_bar(quiet: bool) -> Generator[Watch]:
    """What a verb is to call after every step. One line per stage: inverting, fitting, editing."""
    if quiet or not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:>14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console(error=True), transient=True) as bars:
        stages: list[tuple[str, TaskID]] = []

        def watch(progress: Progress) -> None:
            # A task of its own per stage: rich's time left follows from when a task began and how fast it went.
            # (A stage that begins again, for the next target or column, begins at its first step.)
            if not stages or stages[-1][0] != progress.stage or progress.done < bars.tasks[0].completed:
                for _, task in stages:
                    bars.remove_task(task)
                stages[:] = [(progress.stage, bars.add_task(progress.stage, total=progress.total))]
            bars.update(stages[-1][1], completed=progress.done, total=progress.total)

        yield watch


@contextmanager
def waiting(what: str, quiet: bool) -> Generator[None]:
    """A spinner for work that has no steps, such as loading a model."""
    if quiet or not sys.stderr.isatty():
        yield
        return

    with console(error=True).status(what):
        yield
