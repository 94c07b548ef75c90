"""Valid files, damaged in their bytes, their structure and their values; and a watch on what is opened meanwhile.

A `Specimen` writes a valid folder and reads it as the program does. `harm` draws one to three damages of it.
"""

from __future__ import annotations

import copy
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from reinvert.errors import ReinvertError

SECRET = b"a secret that no reader may open"
DEEP: Any = json.loads("[" * 900 + "]" * 900)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 10**9, 10**30, -(10**30), 0.5, -0.1, 1e300, float("nan"), float("inf"), "", "x",
    "0", "a cat", "\x1b[2J\x1b[31m", "a\nb | c\r\n", "\u202egnp.exe", "\ud800", "\0", "x" * 6000,
    "../outside/secret.png", "/etc/passwd", "~/.profile", "link/secret.png", "loop", "pipe", "org/model", "C:\\x",
    "@/etc/passwd", "@../outside/secret.png", [], [1], [[]], ["x", "y"], [None, {}], {}, {"x": 1}, {"": {}},
    {"name": 5}, [0] * 300, DEEP,
)  # fmt: skip
"""What a field may hold instead of what belongs there."""


@dataclass(frozen=True)
class Specimen:
    """`values` are the folder's files by name, as plain values; `write` puts one of them into bytes."""

    name: str
    values: dict[str, Any]
    write: Callable[[str, Any], bytes]
    read: Callable[[Path], object]
    raw: dict[str, bytes] = field(default_factory=dict)
    """Files that are damaged in their bytes only."""
    given: tuple[str, ...] = ()
    """The files that the user names himself: these may be links to wherever he likes."""


@dataclass(frozen=True)
class Damage:
    """The damaged files: bytes, or a word for what lies there instead ("outside", "loop", "folder", "missing")."""

    files: dict[str, bytes | str]

    def put(self, folder: Path) -> None:
        """Write them into `folder/in`, with a secret beside it and links to it inside."""
        inside, outside = folder / "in", folder / "outside"
        inside.mkdir()
        outside.mkdir()
        for name in ("secret.png", "secret.json"):
            (outside / name).write_bytes(SECRET)
        (inside / "link").symlink_to(outside)
        (inside / "loop").symlink_to("loop")
        os.mkfifo(inside / "pipe")
        for name, content in self.files.items():
            path = inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            match content:
                case bytes():
                    path.write_bytes(content)
                case "outside":
                    path.symlink_to(outside / "secret.png")
                case "loop":
                    path.symlink_to(path.name)
                case "folder":
                    path.mkdir()
                case "pipe":
                    os.mkfifo(path)
                case _:
                    pass


def harm(specimen: Specimen) -> st.SearchStrategy[Damage]:
    """One to three damages of a specimen's files."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Damage:
        values = copy.deepcopy(specimen.values)
        files: dict[str, bytes | str] = dict(specimen.raw)
        names, kinds = sorted([*values, *files]), ("value", "value", "value", "structure", "bytes", "file")
        changes = [(draw(st.sampled_from(names)), draw(st.sampled_from(kinds))) for _ in range(draw(st.integers(1, 3)))]
        for name, kind in changes:
            if name in values and kind in ("value", "structure"):
                values[name] = _changed(draw, values[name], kind)
        for name, value in values.items():
            try:
                files[name] = specimen.write(name, value)
            except Exception:  # the format cannot hold it
                files[name] = b"\xff"
        for name, kind in changes:
            content = files[name]
            if kind == "file":
                links = () if name in specimen.given else ("outside", "outside")
                files[name] = draw(st.sampled_from((*links, "loop", "folder", "pipe", "missing")))
            elif isinstance(content, bytes) and (kind == "bytes" or name not in values):
                files[name] = _broken(draw, content)
        return Damage(files)

    return drawn()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _places(inner, (*path, key))


def _changed(draw: st.DrawFn, value: Any, kind: str) -> Any:
    """The value with something else at one place, or with a key too few, too many or of another name."""
    places = list(_places(value))
    if not places:
        return copy.deepcopy(draw(st.sampled_from(VALUES)))
    # The outer places first, or a long list would take nearly all of the damage.
    *way, last = draw(st.sampled_from(sorted(places, key=len)[:120]))
    holder = value
    for step in way:
        holder = holder[step]
    if kind == "value":
        holder[last] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    elif isinstance(holder, dict):
        taken = holder.pop(last)
        other = draw(st.sampled_from(["", "x", "name", "../x", "a\x1b[2Jb", "\ud800", None]))
        if other is not None:
            holder[other] = taken
    else:
        taken = holder.pop(last)
        holder += draw(st.sampled_from(([], [taken, copy.deepcopy(taken)], [[taken]])))
    return value


def _broken(draw: st.DrawFn, content: bytes) -> bytes:
    if not content:
        return b"\xfe\xff"
    start = draw(st.integers(0, len(content) - 1))
    match draw(st.sampled_from(("cut", "flip", "flip", "drop", "insert", "repeat", "deep", "zero", "empty"))):
        case "cut":
            return content[:start]
        case "flip":
            return content[:start] + bytes([content[start] ^ draw(st.integers(1, 255))]) + content[start + 1 :]
        case "drop":
            return content[:start] + content[start + draw(st.integers(1, 40)) :]
        case "insert":
            return content[:start] + draw(st.binary(min_size=1, max_size=12)) + content[start:]
        case "repeat":
            return content[:start] + content[max(0, start - 200) : start] + content[start:]
        case "deep":
            return draw(st.sampled_from((b"[" * 50_000, b'{"a":' * 5000, b"a=" + b"[" * 5000, b"a" + b".a" * 3000)))
        case "zero":
            return content[:start] + b"\0" * min(64, len(content) - start) + content[start + 64 :]
        case _:
            return b""


# --- pictures -------------------------------------------------------------------------------------------------------


def hostile_pictures(folder: Path, count: int) -> Iterator[Path]:
    """Files that are no pictures though they say so: cut off, of no size, of far too many pixels, of other kinds."""
    file = BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    whole, huge = file.getvalue(), file.getvalue()[:16] + struct.pack(">II", 60_000, 60_000)
    huge += file.getvalue()[24:29] + struct.pack(">I", zlib.crc32(b"IHDR" + huge[16:24] + file.getvalue()[24:29]))
    none = huge[:16] + bytes(8) + huge[24:]
    kinds = [b"", b"GIF89a", b"<svg onload='alert(1)'/>", b"\x80\x04K\x01.", b"%PDF-1.7", b"PK\x03\x04", huge, none]
    rng = np.random.default_rng(0)
    for i in range(count):
        head = whole[: int(rng.integers(1, 60))] if i % 2 else kinds[i // 2 % len(kinds)]
        path = folder / f"{i}.png"
        path.write_bytes(head + (rng.bytes(30) if i > 2 * len(kinds) else b""))
        yield path


# --- the watch ------------------------------------------------------------------------------------------------------

_watching: list[tuple[tuple[str, ...], list[str]]] = []
_SYSTEM = (sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), "/proc", "/sys", "/dev/null")


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watching or not isinstance(arguments[0], str | bytes):
        return
    allowed, seen = _watching[-1]
    path = os.path.realpath(os.fsdecode(arguments[0]))
    if not path.startswith(allowed):
        seen.append(path)


sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """The paths that are opened outside of a folder (and of Python and this repository's sources) meanwhile."""
    here = os.path.realpath(Path(__file__).parent.parent)
    seen: list[str] = []
    _watching.append(((os.path.realpath(folder) + os.sep, here, *_SYSTEM), seen))
    try:
        yield seen
    finally:
        _watching.pop()


def holds(specimen: Specimen, damage: Damage, folder: Path) -> str:
    """Read a damaged specimen; the sentence of its refusal, empty where it was read. Anything else is a failure."""
    damage.put(folder)
    said = ""
    with watched(folder / "in") as opened:
        try:
            specimen.read(folder / "in")
        except ReinvertError as error:
            said = str(error)
            assert said, specimen.name
            assert said.isprintable(), f"{specimen.name}: {said!r}"
            assert len(said) <= 300, f"{specimen.name}: {len(said)} characters: {said}"
    assert not opened, f"{specimen.name} opened {opened}"
    return said
