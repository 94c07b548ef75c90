"""Files that the commands write: a picture or a trajectory, each with a JSON sidecar that says how it was made."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from PIL import Image

from reinvert import __version__
from reinvert.errors import ReinvertError
from reinvert.image import atomic_write, save_image

PICTURE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")


def sidecar_of(path: Path) -> Path:
    """OUT.json beside OUT.png."""
    return path.with_suffix(".json")


def numbered(path: Path, count: int) -> list[Path]:
    """The path itself, or with several outputs one path each: out-1.png, out-2.png ..."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path | None], suffixes: tuple[str, ...]) -> None:
    """Refuse, before anything is computed, a place that cannot be written to or that would overwrite an input.

    An older output of the same name is replaced.
    """
    taken = [path.resolve() for path in inputs if path is not None]
    for output in outputs:
        if not output.name.lower().endswith(suffixes):
            raise ReinvertError(f"{output} must end in {' or '.join(suffixes)}; choose another name with -o")
        if not output.parent.is_dir():
            raise ReinvertError(f"the folder {output.parent} does not exist; create it or choose another with -o")
        if not os.access(output.parent, os.W_OK):
            raise ReinvertError(f"the folder {output.parent} cannot be written to; choose another with -o")
        for path in (output, sidecar_of(output)):
            if path.is_dir():
                raise ReinvertError(f"{path} is a folder; choose another name with -o")
            if path.resolve() in taken:
                raise ReinvertError(f"{path} is an input and would be overwritten; choose another name with -o")


def write_picture(picture: Image.Image, path: Path, about: Mapping[str, Any]) -> None:
    """The picture, then its sidecar; each of them whole or not at all."""
    save_image(picture, path)
    write_sidecar(path, {"size": list(picture.size), **about})


def write_sidecar(path: Path, about: Mapping[str, Any]) -> None:
    """What is told about the file at `path`."""
    text = json.dumps(_plain({"output": path.name, **about}), indent=2, ensure_ascii=False) + "\n"

    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")

    atomic_write(sidecar_of(path), write)


def _plain(value: Any) -> Any:
    """JSON knows no infinity and no paths."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    """The command line and the versions of everything that decides its result."""
    packages = ("torch", "diffusers", "transformers", "numpy", "pillow")
    versions = {"reinvert": __version__, "python": platform.python_version()}
    return {"command": args.command_line, "versions": versions | {name: _version(name) for name in packages}}


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


def file_record(path: Path) -> dict[str, str]:
    """A file's name and what it held."""
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
