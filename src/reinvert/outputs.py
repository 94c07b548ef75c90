"""Files that are written for a user: a picture or a trajectory, each with a JSON sidecar that says how it was made."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, cast

from PIL import Image

from reinvert import __version__
from reinvert.errors import ReinvertError, is_text
from reinvert.files import read_json, real, shown
from reinvert.image import Write, picture_writer, write_together

PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
LONGEST_NAME: Final = 255
"""Bytes of a file's name, on nearly every file system."""


def sidecar_of(path: Path) -> Path:
    """OUT.png.json beside OUT.png: OUT.jpg and the user's own OUT.json have names of their own."""
    return path.with_name(f"{path.name}.json")


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """What the sidecar of the file at `path` holds; None where there is none, or a file of another kind."""
    try:
        held: Any = read_json(sidecar_of(path))
    except ReinvertError:
        return None
    is_ours = isinstance(held, dict) and held.get("output") == path.name and "versions" in held
    return cast("dict[str, Any]", held) if is_ours else None


def numbered(path: Path, count: int) -> list[Path]:
    """The path itself, or with several outputs one path each: out-1.png, out-2.png ..."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path | None], suffixes: tuple[str, ...]) -> None:
    """Refuse, before anything is computed, a place that cannot be written to or that would overwrite an input.

    An older output of the same name is replaced with its sidecar; a JSON file that is no sidecar is not.
    """
    taken = [real(path) for path in inputs if path is not None]
    for output in outputs:
        _check_name(output)
        if not output.name.lower().endswith(suffixes):
            raise ReinvertError(f"{shown(output)} must end in {' or '.join(suffixes)}; choose another name with -o")
        if not output.parent.is_dir():
            raise ReinvertError(
                f"the folder {shown(output.parent)} does not exist; create it or choose another with -o"
            )
        if not os.access(output.parent, os.W_OK):
            raise ReinvertError(f"the folder {shown(output.parent)} cannot be written to; choose another with -o")
        for path in (output, sidecar_of(output)):
            if path.is_dir():
                raise ReinvertError(f"{shown(path)} is a folder; choose another name with -o")
            if real(path) in taken:
                raise ReinvertError(f"{shown(path)} is an input and would be overwritten; choose another name with -o")
        if sidecar_of(output).exists() and read_sidecar(output) is None:
            raise ReinvertError(
                f"{shown(sidecar_of(output))} was not written by reinvert and would be overwritten; "
                "choose another name with -o"
            )


def _check_name(output: Path) -> None:
    """A name must be text, for the sidecar tells it, and must not steer the terminal that it is printed to."""
    if is_text(str(output)):
        try:
            length = len(os.fsencode(sidecar_of(output).name))
        except ValueError:  # no name at all, such as "."
            return
        if length > LONGEST_NAME:
            raise ReinvertError(f"{shown(output)} is too long a name; choose another with -o")
        return
    raise ReinvertError(
        f"the name {shown(output)} is not UTF-8 text without control characters; choose another name with -o"
    )


def write_picture(picture: Image.Image, path: Path, about: Mapping[str, Any]) -> None:
    """The picture and its sidecar: both of them whole, or neither."""
    write_pictures([(picture, path, about)])


def write_pictures(made: Iterable[tuple[Image.Image, Path, Mapping[str, Any]]]) -> None:
    """The pictures of one call with their sidecars: all of them, or, where one cannot be written, none."""
    files: dict[Path, Write] = {}
    for picture, path, about in made:
        files[path] = picture_writer(picture, path)
        files[sidecar_of(path)] = sidecar_writer(path, {"size": list(picture.size), **about})
    write_together(files)


def sidecar_writer(path: Path, about: Mapping[str, Any]) -> Write:
    """What writes the sidecar of the file at `path`, for `write_together`."""
    text = json.dumps(_plain({"output": path.name, **about}), indent=2, ensure_ascii=False) + "\n"

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    return write


def _plain(value: Any) -> Any:
    """JSON knows no infinity and no paths, and UTF-8 no half characters (an input's file name may have some)."""
    if isinstance(value, Mapping):
        return {_plain(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int | float | bool | None):
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


def provenance(command: str) -> dict[str, Any]:
    """A command line and the versions of everything that decides its result."""
    packages = ("torch", "diffusers", "transformers", "numpy", "pillow")
    versions = {"reinvert": __version__, "python": platform.python_version()}
    return {"command": command, "versions": versions | {name: _version(name) for name in packages}}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def device_name(device: Any) -> str:
    """ "cuda:0 (NVIDIA H200)"; of a CPU its architecture and how many threads torch takes."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def memory_record(device: Any) -> dict[str, float]:
    """The most memory that the process has held so far, in GB: of the GPU that it ran on, else of the machine."""
    from reinvert.backbones.placement import GIB, peak_memory

    used = peak_memory(device)
    return {} if used is None else {"peak_memory_gb": round(used / GIB, 3)}


def file_record(path: Path) -> dict[str, str]:
    """A file's name and what it held."""
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
