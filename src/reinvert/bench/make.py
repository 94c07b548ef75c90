"""Writes a folder in PIE-Bench's own format from drawn scenes, so that everything can be tried on the real format.

Pictures, prompts with brackets, instructions, blend words and run-length masks are written as the original's are, with
its folders, its ids and its shares of the ten types. What the original does not have lies beside, so that the rest is
a valid PIE-Bench for any other program: the true edits in `true_edits`, losslessly, `attributes.json` with what every
picture and its true edit show, and `picturebook.json`, which says how the folder was made and how large its pictures
are.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import Image

from reinvert import __version__
from reinvert.bench.data.common import bracketed
from reinvert.bench.data.fixed import SHARES, edits_of, place_of, with_ids
from reinvert.bench.data.masks import encode_mask
from reinvert.bench.data.picturebook import NAME, Drawing, blend_of, check
from reinvert.bench.data.pie_bench import ATTRIBUTES, MADE, PICTURES, PIE, TRUE_EDITS
from reinvert.errors import ReinvertError
from reinvert.files import expanded, real
from reinvert.picturebook.draw import SIZE
from reinvert.picturebook.edits import Edit, sample_edits

Format = Literal["jpg", "png"]
Way = Literal["drawn", "enlarged"]


def counts_of(count: int) -> list[int]:
    """How many cases each type gets: the original's shares by largest remainder, at least one each, `count` in all."""
    if count < len(SHARES):
        raise ReinvertError(f"a benchmark of all ten types needs at least {len(SHARES)} cases, not {count}")
    whole = sum(SHARES)
    found = [max(1, count * share // whole) for share in SHARES]
    rest = [count * share / whole - n for share, n in zip(SHARES, found, strict=True)]
    while sum(found) != count:
        step = 1 if sum(found) < count else -1
        chosen = max(range(len(SHARES)), key=lambda i: rest[i] * step if found[i] + step > 0 else -float("inf"))
        found[chosen] += step
        rest[chosen] -= step
    return found


def write(
    folder: str | os.PathLike[str],
    count: int = 100,
    *,
    seed: int = 0,
    size: int = SIZE,
    way: Way = "drawn",
    pictures: Format = "jpg",
    fixed: str = "",
) -> Path:
    """Write the folder, whole or not at all, and return the path of its mapping file.

    `fixed` names a set that never changes ("v1", "v1-heldout"; `bench.data.fixed`), and then `count` and `seed` decide
    nothing.
    `size` is the side of the pictures in pixels; the original's is 512, and only at 512 can the published evaluator
    read the masks. `way` "enlarged" draws at the bundled model's size and repeats pixels: much faster for large
    pictures, and `size` is then a multiple of 64. `pictures` "jpg" is lossy as the original is; with "png" the pictures
    equal the true edits outside of the masks.

    Raises `ReinvertError` if the folder is not empty or cannot be written, or a number cannot be.
    """
    check(count, size)
    place = real(expanded(folder))
    named = edits_of(fixed) if fixed else _sampled(count, seed)
    called = f"{NAME}:{fixed}" if fixed else f"{NAME}, {count} cases, seed {seed}"
    if way not in get_args(Way) or pictures not in get_args(Format):
        raise ReinvertError(f"{way} {pictures} is unknown: pictures are drawn or enlarged, and saved as jpg or png")
    if way == "enlarged" and size % SIZE:
        raise ReinvertError(f"pictures are enlarged to a multiple of {SIZE} pixels, not to {size}")
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ReinvertError(f"{place} is not empty; name a new folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
            root = Path(temporary) / place.name
            _fill(root, called, named, size, way, pictures)
            if place.exists():
                place.rmdir()
            root.replace(place)
    except OSError as error:
        raise ReinvertError(f"{place} cannot be written: {error.strerror or error}; choose another place") from error
    return place / PIE


def _sampled(count: int, seed: int) -> list[tuple[str, Edit]]:
    counts = counts_of(count)
    return with_ids([edit for type_id, n in enumerate(counts) for edit in sample_edits(n, type_id, seed, unseen=True)])


def _fill(root: Path, called: str, named: Sequence[tuple[str, Edit]], size: int, way: Way, pictures: Format) -> None:
    records: dict[str, Any] = {}
    shown: dict[str, Any] = {}
    for key, edit in named:
        drawing = Drawing(edit, size, way == "enlarged")
        records[key] = _case(root, drawing, f"{place_of(edit)[1]}/{key}.{pictures}")
        shown[key] = dict(zip(("before", "after"), drawing.attributes(), strict=True))
    about = {"data": called, "size": size, "count": len(named), "way": way, "pictures": pictures}
    (root / MADE).write_text(json.dumps({**about, "reinvert": __version__}, indent=1), encoding="utf-8")
    for name, told in ((PIE, records), (ATTRIBUTES, shown)):
        lines = [f"{json.dumps(key)}: {json.dumps(record)}" for key, record in sorted(told.items())]
        (root / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")  # a record a line


def _case(root: Path, drawing: Drawing, name: str) -> dict[str, Any]:
    """Write one case's pictures; its record."""
    edit, (true, mask) = drawing.edit, drawing.truth()
    _save(drawing.picture(), root / PICTURES / name)
    _save(true, (root / TRUE_EDITS / name).with_suffix(".png"))
    before, after = bracketed(edit.source_prompt, edit.target_prompt)
    return {
        "image_path": name,
        "original_prompt": before,
        "editing_prompt": after,
        "editing_instruction": edit.instruction,
        "editing_type_id": str(edit.type_id),
        "blended_word": " ".join(blend_of(edit) or ()),
        "mask": encode_mask(mask),
    }


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    finest: dict[str, Any] = {} if path.suffix == ".png" else {"quality": 95, "subsampling": 0}
    picture.save(path, **finest)
