"""Everybody at the page: their sessions and the folder that holds all files, which is gone when the server ends."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from reinvert.errors import ReinvertError
from reinvert.ui.jobs import Line
from reinvert.ui.session import Session
from reinvert.ui.shelf import Shelf

PREFIX: Final = "reinvert-studio-"


class House:
    """The sessions by the names that the server gives them.

    All files lie below `folder`: uploads in `uploads`, and what belongs to a session in a folder of its own, whose name
    cannot be guessed.
    """

    def __init__(self, models: Sequence[str], device: str = "auto", dtype: str = "auto") -> None:
        self.shelf, self.line = Shelf(models, device, dtype), Line()
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
        self.uploads = self.folder / "uploads"
        self.uploads.mkdir()
        self._sessions: dict[str, Session] = {}
        self._uploaded: dict[Path, set[str]] = {}
        self._shown = 0
        self._lock = threading.Lock()

    def session(self, name: str) -> Session:
        """The session of that name; a new one for a new name."""
        with self._lock:
            if name not in self._sessions:
                self._sessions[name] = Session(self.shelf, self.line, self.folder / secrets.token_urlsafe(16))
            return self._sessions[name]

    def __len__(self) -> int:
        return len(self._sessions)

    def leave(self, name: str) -> None:
        """End a session: stop what it does, and remove its files, and those that it uploaded and nobody else did."""
        with self._lock:
            session = self._sessions.pop(name, None)
            mine = [path for path, owners in self._uploaded.items() if name in owners]
            for path in mine:
                self._uploaded[path].discard(name)
            gone = [path for path in mine if not self._uploaded[path]]
            for path in gone:
                del self._uploaded[path]
        for path in gone:
            path.unlink(missing_ok=True)
        if session is not None:
            session.stop()
            shutil.rmtree(session.folder, ignore_errors=True)

    def uploaded(self, payload: Any, name: str) -> tuple[Path, str]:
        """The file that a browser uploaded, and what it is called there; refuses any other path."""
        given = payload if isinstance(payload, dict) else {}
        path = Path(str(given.get("path", ""))).resolve()
        if not path.is_relative_to(self.uploads) or not path.is_file():
            raise ReinvertError("this is no file that was uploaded here; choose a picture again")
        with self._lock:
            self._uploaded.setdefault(path, set()).add(name)
        return path, Path(str(given.get("orig_name") or path.name)).stem

    def show(self, name: str, picture: Image.Image) -> str:
        """A picture as a file of a session, which the page may show."""
        session = self.session(name)
        with self._lock:
            self._shown += 1
            path = session.folder / f"shown-{self._shown}.png"
        picture.save(path)  # as it is: what was painted is transparent
        return str(path)

    def close(self) -> None:
        """End all sessions and remove all files."""
        for name in list(self._sessions):
            self.leave(name)
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of servers of this user that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).split("-")[0]
        try:
            mine = folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.getuid()
        except (OSError, AttributeError):  # gone already; or Windows, which has no owners
            continue
        if mine and number.isdigit() and not _is_running(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
