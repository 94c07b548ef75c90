"""What a run leaves behind: append-only records, pictures that are whole, and claims that die with their process.

    DIR/run.json             what is run: data, models, how many cells each row has
    DIR/records.jsonl        one line per finished cell, appended once its picture is in place
    DIR/images/ROW/CASE.png  the pictures, lossless
    DIR/drafts/KEY.png       a picture that is being written, moved when it is whole
    DIR/claims/KEY.lock      a cell in work, locked by the process that does it
    DIR/running/ID.lock      a process that works at the run, locked by it
    DIR/records.lock         locked while a line is appended

Nothing here is ever rewritten but `run.json`, so that a run can be killed at any instant, and several processes can
share a folder, also on several machines where the file system hands out locks.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

from filelock import BaseFileLock, FileLock, Timeout
from PIL import Image

from reinvert.errors import ReinvertError
from reinvert.files import check, read_json, refusal, shown, writing
from reinvert.files.run import AboutFile, RecordLine, own_file, read_line
from reinvert.image import as_rgb, atomic_write

RECORDS: Final = "records.jsonl"
ABOUT: Final = "run.json"
FULL: Final = "make room, or what else it takes, and start again: what is done stays"
"""What to do where a file cannot be written."""
IMAGES, DRAFTS, CLAIMS, RUNNING = "images", "drafts", "claims", "running"

Task = Literal["edit", "reconstruct"]
COPY, ROUND_TRIP, TRUE_EDIT = "copy", "vae", "true-edit"
TRIVIAL: Final = (COPY, ROUND_TRIP, TRUE_EDIT)
"""The rows that are always there: the unedited source, the VAE's round trip, and the true edit where there is one."""


@dataclass(frozen=True)
class Record:
    """A finished cell: one row's result on one case, or the reason why there is none.

    Costs are per case: what a batch took is shared out evenly. `seconds`, `forwards` and `backwards` have the inversion
    in them even if it was made once for several rows, as if the row had been run alone; `inversion_seconds` is its
    part. `memory` is the peak of the device in bytes while the batch was made, None where it is not known (CPU).
    """

    key: str
    case: str
    type: str
    recipe: str
    """The row's name."""
    task: str
    settings: Mapping[str, Any]
    fingerprint: str
    """Of the case."""
    image: str | None = None
    """The picture's path in the folder; None where the cell failed."""
    error: str = ""
    seconds: float | None = None
    inversion_seconds: float | None = None
    forwards: int | float | None = None
    backwards: int | float | None = None
    memory: int | None = None
    attempts: int = 1
    batch: int = 1
    """How many cases were made together."""
    together: tuple[str, ...] = ()
    """Their ids, in order: whoever makes the same batch again gets the same bits."""
    mask_used: bool = False
    blend_used: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What was asked for in place of the recipe's own settings."""
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])
    finished: str = ""
    """UTC."""

    @property
    def told(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


class Records:
    """The records of a folder, read as they come.

    A line that is not whole was torn by a kill, or is just being written: it is left alone, and read again later.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.path = self.folder / RECORDS
        self.by_key: dict[str, dict[str, Any]] = {}
        """The newest record of each cell; a failure does not replace a success."""
        self._offset = 0

    def refresh(self) -> dict[str, dict[str, Any]]:
        """Read what was appended since; `by_key`."""
        if not own_file(self.path):
            return self.by_key
        with self.path.open("rb") as file:
            file.seek(self._offset)
            lines = file.read().split(b"\n")
        for index, line in enumerate(lines):
            last = index == len(lines) - 1
            told = read_line(RecordLine, line, f"a record of {shown(self.path)}")
            if told is not None:
                former = self.by_key.get(told["key"])
                if former is None or former.get("error") or not told.get("error"):
                    self.by_key[told["key"]] = told
            if not last:
                self._offset += len(line) + 1  # a last line without its end is read again
        return self.by_key

    def append(self, records: Iterable[Record]) -> None:
        """Append records with one write and see them on the disk. A torn line before them is ended first."""
        text = "".join(json.dumps(_plain(record.told), ensure_ascii=False) + "\n" for record in records).encode()
        if not text:
            return
        with writing(self.path, FULL), FileLock(self.path.with_suffix(".lock")):  # or two could end the same torn line
            append_lines(self.path, text)


def append_lines(path: Path, text: bytes) -> None:
    """Append whole lines, and see them on the disk, or none of them. A torn line before them is ended first. Nobody
    else may append meanwhile."""
    with writing(path, FULL), path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end > 0:
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else b"\n" + text
        try:
            while text:
                text = text[file.write(text) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def _plain(value: Any) -> Any:
    """JSON knows no infinity."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast("list[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


class Claims:
    """Which cells this process works at. The kernel drops a process's claims when it dies, however it dies.

    A claim is a lock on a file of its own, which goes with it: no clocks, no names of processes.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder) / CLAIMS
        self._held: dict[str, BaseFileLock] = {}

    def take(self, keys: Collection[str]) -> bool:
        """Claim all of these cells, or none of them if another process has one."""
        self._folder.mkdir(exist_ok=True)
        taken: list[str] = []
        for key in sorted(set(keys)):
            lock = FileLock(self._folder / f"{key}.lock", thread_local=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                self.drop(taken)
                return False
            self._held[key] = lock
            taken.append(key)
        return True

    def drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self._held:
                _release(self._held.pop(key))

    def close(self) -> None:
        """Drop everything."""
        self.drop(list(self._held))


def _release(lock: BaseFileLock) -> None:
    """Let go of a lock and of its file. Who has opened the file meanwhile finds it gone, and opens a new one."""
    with suppress(OSError):  # Windows removes no open file; it goes with the next claim, or stays, empty
        os.unlink(lock.lock_file)  # noqa: PTH108
    lock.release()


@contextmanager
def running(folder: Path) -> Generator[None]:
    """While this is open, `is_running` says so, in every process."""
    (folder / RUNNING).mkdir(exist_ok=True)
    lock = FileLock(folder / RUNNING / f"{uuid.uuid4().hex}.lock", thread_local=False)
    lock.acquire()
    try:
        yield
    finally:
        _release(lock)


def is_running(folder: Path) -> bool:
    """Whether some process works at this run."""
    for path in sorted((folder / RUNNING).glob("*.lock")):
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return True
        _release(lock)  # a process that was killed has left it
    return False


def write_image(folder: Path, name: str, key: str, picture: Image.Image) -> None:
    """Put a picture at `name` in the folder, whole and on the disk.

    The same picture gives the same bytes. The draft has the cell's own name, so that a kill leaves at most a file that
    the next attempt overwrites and moves (`image.atomic_write` would leave a folder).
    """
    draft, path = folder / DRAFTS / f"{key}.png", folder / name
    for place in (draft.parent, path.parent):
        with writing(place, FULL):
            place.mkdir(parents=True, exist_ok=True)
    clean = as_rgb(picture)
    clean.info = {}
    with writing(path, FULL):
        try:
            with draft.open("wb") as file:
                clean.save(file, format="PNG")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def read_about(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `run.json` says; empty where there is none."""
    path = Path(folder) / ABOUT
    if not own_file(path):
        return {}
    advice = "choose another folder (--out)"
    try:
        told = read_json(path, missing=advice)
    except ReinvertError as error:
        if advice in str(error):
            raise
        raise refusal(str(error), advice) from error
    check(AboutFile, told, shown(path), advice=advice)
    return cast("dict[str, Any]", told)


def write_about(folder: Path, told: Mapping[str, Any]) -> None:
    text = json.dumps(_plain(told), indent=1, ensure_ascii=False) + "\n"

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    if not (folder / ABOUT).is_file() or (folder / ABOUT).read_text(encoding="utf-8") != text:
        atomic_write(folder / ABOUT, write)
