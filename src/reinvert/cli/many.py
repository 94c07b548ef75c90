"""`reinvert edit` of several pictures: one model for all of them, and a run that goes on where it was stopped."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reinvert import __version__, recipes
from reinvert.cli.common import DEFAULT_MODEL
from reinvert.cli.flags import Chosen
from reinvert.cli.terminal import say
from reinvert.errors import ReinvertError, meant
from reinvert.files import shown
from reinvert.files.edits import EditLine, read_edits
from reinvert.legal import usual_inversion
from reinvert.models import usual_of
from reinvert.outputs import PICTURE_SUFFIXES, file_record, numbered, read_sidecar

OPENED: Final = (*PICTURE_SUFFIXES, ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")
"""Suffixes of what is taken of a folder."""
APART: Final = ("images", "image", "list", "output", "quiet", "device", "max_pixels", "command_line", "part")
"""Options that do not decide what a picture shows."""


@dataclass(frozen=True)
class Item:
    """One picture of many: how it is called, what is set for it alone, or what is wrong with it."""

    name: str
    image: str
    own: Mapping[str, Any] = field(default_factory=dict[str, Any])
    output: str | None = None
    error: ReinvertError | None = None


def is_many(args: argparse.Namespace) -> bool:
    return args.list is not None or len(args.images) > 1 or any(Path(given).is_dir() for given in args.images)


def items_of(args: argparse.Namespace) -> list[Item]:
    """The pictures that were named, those of the folders, and the lines of the list."""
    found = [item for given in args.images for item in _of_path(Path(given))]
    if args.list is not None:
        if args.target or args.blend or args.mask or args.region:
            raise ReinvertError("--list says target, blend words, mask and region line by line; leave the options out")
        found += [_of_line(Path(args.list).parent, name, line) for name, line in read_edits(args.list)]
    if not found:
        raise ReinvertError(f"there is no picture in {', '.join(map(shown, args.images))}")
    return found


def _of_path(path: Path) -> list[Item]:
    if not path.is_dir():
        return [Item(str(path), str(path))]
    inner = [file for file in sorted(path.iterdir()) if file.suffix.lower() in OPENED and file.name[0] != "."]
    return [Item(str(file), str(file)) for file in inner if "input" not in (read_sidecar(file) or {})]  # no results


def _of_line(folder: Path, name: str, line: EditLine | ReinvertError) -> Item:
    if isinstance(line, ReinvertError):
        return Item(name, "", error=line)
    own: dict[str, Any] = {"target": [line.target]}
    if line.source is not None:
        own["source"] = line.source
    if line.mask is not None:
        own["mask"] = str(folder / line.mask)
    if line.region is not None:
        own["region"] = line.region
    if line.blend_source is not None:
        own["blend"] = [line.blend_source, line.blend_target]
    return Item(f"{name} ({line.image})", str(folder / line.image), own, line.output)


def run(args: argparse.Namespace, edit_one: Callable[[argparse.Namespace, Mapping[str, Any]], Sequence[Path]]) -> int:
    """Edit all of them with `edit_one(options, what was asked)`, which returns the written paths.

    A picture that fails is told and passed over; 2 if there was one. What is there with the same settings is kept.
    """
    for option in ("compare", "explain"):
        if getattr(args, option):
            raise ReinvertError(f"--{option} takes one picture at a time")
    if args.output is None:
        raise ReinvertError("name the folder of the results with -o")
    if args.list is None and not args.target:
        raise ReinvertError('say what the pictures are to show: --target "a dog sitting on a bench"')
    items = items_of(args)
    _check_methods(args, items)
    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise ReinvertError(f"{shown(folder)} is a file; several pictures need a folder: name one with -o")
    folder.mkdir(parents=True, exist_ok=True)
    outputs, failed = _outputs(folder, items), 0
    for number, (item, output) in enumerate(zip(items, outputs, strict=True), 1):
        place = f"[{number}/{len(items)}] {item.name}"
        try:
            if item.error is not None:
                raise item.error
            mine = copy.copy(args)
            vars(mine).update(item.own, image=item.image, output=str(output))
            asked = asked_of(mine)
            paths = numbered(output, len(mine.target))
            kept = all(path.is_file() and (read_sidecar(path) or {}).get("asked") == asked for path in paths)
            if not kept:
                paths = edit_one(mine, asked)
            if not args.quiet:
                say(f"{place}: {'there already' if kept else 'edited'}", error=True)
            for path in paths:
                say(path)
        except (ReinvertError, OSError, MemoryError, RuntimeError) as error:
            failed += 1
            say(f"{place}: {_reason(error)}", error=True)
    if failed:
        raise ReinvertError(f"{failed} of {len(items)} pictures failed; the others are in {shown(folder)}")
    return 0


def _check_methods(args: argparse.Namespace, items: Sequence[Item]) -> None:
    """A mistake in what all of the pictures share is told once, before the first of them."""
    if args.recipe is not None:
        recipes.find(args.recipe)
        return
    usual = usual_of(args.model or DEFAULT_MODEL)
    if usual is None:
        return  # known when it is loaded, and the methods with it
    editors = [name.strip() for name in (args.editor or usual.editor).split("+")]
    if args.blend or args.mask or args.region or args.list:
        editors.append("local_blend")
    chosen = Chosen(args)
    chosen.foresee(inversion=args.inversion or usual_inversion(editors, usual.inversion), editors=editors)
    if not any(item.image.lower().endswith(".safetensors") for item in items):
        chosen.check()


def _reason(error: Exception) -> str:
    """One sentence for what ends one picture; a mistake of the program's own ends the run."""
    from reinvert.cli.program import NO_MEMORY
    from reinvert.errors import out_of_memory

    if isinstance(error, ReinvertError):
        return str(error)
    if out_of_memory(error):
        return NO_MEMORY
    if isinstance(error, OSError):
        return error.strerror or str(error)
    raise error


def asked_of(args: argparse.Namespace) -> dict[str, Any]:
    """What decides a result: the options, and what the files that they name hold."""
    options = {key: value for key, value in vars(args).items() if key not in APART and value is not None}
    told = json.loads(json.dumps(options, default=str).encode("utf-8", "backslashreplace"))
    for name in ("mask", "recipe"):
        if name in options and Path(options[name]).is_file():
            told[name] = file_record(Path(options[name]))["sha256"]
    if args.source is None:  # then it is what `reinvert draw` left beside the picture
        told["source"] = (read_sidecar(Path(args.image)) or {}).get("caption")
    return {"input": file_record(Path(args.image))["sha256"], "options": told, "reinvert": __version__}


def _outputs(folder: Path, items: Sequence[Item]) -> list[Path]:
    """A name for each result: the picture's own, and where two would share it, told apart by what is asked of them."""
    names = [item.output or f"{Path(item.image).name.split('.')[0] or 'picture'}.edit.png" for item in items]
    for item, name in zip(items, names, strict=True):
        if Path(name).name != name or not name.lower().endswith(PICTURE_SUFFIXES):
            hint = meant(Path(name).suffix, PICTURE_SUFFIXES, f"use {', '.join(PICTURE_SUFFIXES)}")
            raise ReinvertError(f"{item.name}: '{shown(name)}' is no file name of a picture; {hint}")
    shared = {name for name, count in Counter(name.lower() for name in names).items() if count > 1}
    made: list[Path] = []
    for item, name in zip(items, names, strict=True):
        if name.lower() in shared:
            if item.output is not None:
                raise ReinvertError(f"{item.name}: another line has the output {shown(name)} too; give each its own")
            told = json.dumps([item.image, dict(item.own)], sort_keys=True).encode("utf-8", "backslashreplace")
            name = name.replace(".edit.png", f"-{hashlib.sha256(told).hexdigest()[:8]}.edit.png")
        made.append(folder / name)
    return made
