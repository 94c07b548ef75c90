"""Work that is watched and can be stopped, one at a time: the line before it, its steps, its result."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import Empty, Queue
from typing import Any, Final

from PIL import Image

from reinvert.errors import ReinvertError
from reinvert.inversions.base import Progress

TICK: Final = 0.25
"""Seconds between two looks at the line, or at a job that has nothing to tell."""
PACE: Final = 0.3
"""Seconds between two steps that are shown at least: to show one costs the page and the browser as much as a step of a
small network, on the same cores."""


class Stopped(ReinvertError):
    """The person stopped the work."""

    def __init__(self) -> None:
        super().__init__("stopped")


@dataclass(frozen=True)
class Waiting:
    """So many others are served first."""

    before: int


@dataclass(frozen=True)
class Working:
    """One step done. `left` is the time that the stage still takes, in seconds, None while that is not known."""

    stage: str
    done: int = 0
    total: int = 0
    left: float | None = None
    preview: Image.Image | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Done:
    """The end of a job."""

    result: Any


Update = Waiting | Working | Done


class Line:
    """People wait in the order in which they came; one is served."""

    def __init__(self) -> None:
        self._people: deque[object] = deque()
        self._moved = threading.Condition()

    def __len__(self) -> int:
        return len(self._people)

    @contextmanager
    def place(self) -> Generator[Callable[[float], int]]:
        """A place in line while this is open; asked with a time to wait, it tells how many stand before (0: served)."""
        me = object()
        with self._moved:
            self._people.append(me)

        def before(wait: float = 0.0) -> int:
            with self._moved:
                if wait and self._people[0] is not me:
                    self._moved.wait(wait)
                return self._people.index(me)

        try:
            yield before
        finally:
            with self._moved:
                self._people.remove(me)
                self._moved.notify_all()


Tell = Callable[[Working], None]
Work = Callable[[Tell], Any]


def serve(line: Line, work: Work, stop: threading.Event) -> Iterator[Update]:
    """Wait in line, do the work in a thread of its own, and yield what there is to tell; `Done` comes last.

    `stop` is looked at whenever the work tells something: a step is never left half done. Raises what the work raises,
    and `Stopped`. Whoever leaves the iterator stops the work, and it ends before the next one's begins.
    """
    with line.place() as before:
        shown = -1
        while (ahead := before(TICK)) > 0:
            if stop.is_set():
                raise Stopped
            if ahead != shown:
                shown = ahead
                yield Waiting(ahead)
        told: Queue[Working | Done | BaseException] = Queue()

        def tell(step: Working) -> None:
            if stop.is_set():
                raise Stopped
            told.put(step)

        def run() -> None:
            try:
                told.put(Done(work(tell)))
            except BaseException as error:
                told.put(error)

        thread = threading.Thread(target=run, daemon=True, name="reinvert-studio-job")
        thread.start()
        shown_at = -PACE
        try:
            while True:
                match _latest(told, shown_at + PACE):
                    case None:
                        continue
                    case BaseException() as error:
                        raise error
                    case Done() as done:
                        yield done
                        return
                    case step:
                        shown_at = time.monotonic()
                        yield step
        finally:
            if thread.is_alive():
                stop.set()
                thread.join()


def _latest(told: Queue[Working | Done | BaseException], due: float) -> Working | Done | BaseException | None:
    """The newest thing told, with the newest preview: not every step is shown, and none before it is due. An end is
    told at once."""
    try:
        newest = told.get(timeout=TICK)
    except Empty:
        return None
    while isinstance(newest, Working):
        try:
            following = told.get(timeout=max(0.0, due - time.monotonic()))
        except Empty:
            break
        if isinstance(following, Working) and following.preview is None:
            following = replace(following, preview=newest.preview)
        newest = following
    return newest


class Clock:
    """Tells how long a stage still takes, from how long its steps took."""

    def __init__(self) -> None:
        self._stage, self._began, self._first = "", 0.0, 0

    def left(self, progress: Progress) -> float | None:
        """Seconds until the stage is done, once two steps are known."""
        now = time.monotonic()
        if progress.stage != self._stage or progress.done <= self._first:
            self._stage, self._began, self._first = progress.stage, now, progress.done
            return None
        return (now - self._began) / (progress.done - self._first) * (progress.total - progress.done)
