"""One model, several threads: whoever works on a model holds its lock, and the others wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from functools import wraps
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, get_args

from reinvert.errors import BusyError, ReinvertError

P = ParamSpec("P")
R = TypeVar("R")

Busy: TypeAlias = Literal["wait", "raise"]
"""What happens where another thread is working on the model."""


class ModelLock:
    """Held by one thread at a time, which may enter it again.

    A network, its attention processors, its tokenizer and its scheduler have a state that an edit changes on its way;
    two threads in them at once would ruin both edits. `edit`, `invert`, `reconstruct` and `prepare` hold the lock for
    the whole call, a walk for each of its steps. Code of your own that calls a model's methods from several threads
    does it inside `with model.lock:`.
    """

    def __init__(self, busy: Busy = "wait") -> None:
        self.busy: Busy = busy
        self._lock = threading.RLock()

    def __enter__(self) -> ModelLock:
        if not self._lock.acquire(blocking=self.busy == "wait"):
            raise BusyError
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    @contextmanager
    def patient(self) -> Generator[None]:
        """Hold it to put something back, which has to wait even where a beginning would be refused."""
        with self._lock:
            yield

    def __reduce__(self) -> tuple[type[ModelLock], tuple[Busy]]:
        """A copy of a model (copied, or sent to another process) has a lock of its own."""
        return ModelLock, (self.busy,)


def exclusive(verb: Callable[P, R]) -> Callable[P, R]:
    """The function, which holds the lock of the model among its arguments."""

    @wraps(verb)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        locks: list[Any] = [getattr(given, "lock", None) for given in (*args, *kwargs.values())]
        held = next((lock for lock in locks if isinstance(lock, ModelLock)), nullcontext())
        with held:  # without a model, the function itself says what is wrong
            return verb(*args, **kwargs)

    return locked


def lock_of(pipe: Any) -> ModelLock:
    """The lock of a pipeline, which whoever asks first gives it."""
    lock: ModelLock = vars(pipe).setdefault("lock", ModelLock())
    return lock


def check_busy(busy: str) -> None:
    """Raise `ReinvertError` unless it is one of the two words."""
    if busy not in get_args(Busy):
        raise ReinvertError(f"busy is 'wait' or 'raise', not {busy!r}")
