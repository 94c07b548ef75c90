"""A progress bar on stderr while a picture is inverted and edited; nothing at all where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reinvert.inversions.base import Progress
    from reinvert.verbs import Watch


@contextmanager
def progress_bar(quiet: bool) -> Generator[Watch]:
    """What a verb is to call after every step. One line per stage: inverting, fitting, editing."""
    if quiet or not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:>14}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)

        def watch(progress: Progress) -> None:
            bars.update(task, description=progress.stage, completed=progress.done, total=progress.total)

        yield watch


@contextmanager
def waiting(what: str, quiet: bool) -> Generator[None]:
    """A spinner for work that has no steps, such as loading a model."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
