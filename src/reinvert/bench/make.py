"""Writes a folder in PIE-Bench's own format from drawn scenes, so that everything can be tried on the real format.

Pictures, prompts with brackets, instructions, blend words and run-length masks are written as the original's are, with
its folders, its ids and its shares of the ten types. What the original does not have lies beside, so that the rest is
a valid PIE-Bench for any other program: the true edits in `true_edits`, losslessly, and `picturebook.json`, which says
how the folder was made and how large its pictures are.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final, Literal, get_args

from PIL import Image

from reinvert import __version__
from reinvert.bench.data.common import bracketed
from reinvert.bench.data.masks import encode_mask
from reinvert.bench.data.picturebook import NAME, Drawing, blend_of, check
from reinvert.bench.data.pie_bench import MADE, PICTURES, PIE, TRUE_EDITS
from reinvert.errors import ReinvertError
from reinvert.picturebook.draw import SIZE
from reinvert.picturebook.edits import Edit, sample_edits

Format = Literal["jpg", "png"]
Way = Literal["drawn", "enlarged"]

FOLDERS: Final = (
    "0_random_140", "1_change_object_80", "2_add_object_80", "3_delete_object_80", "4_change_attribute_content_40",
    "5_change_attribute_pose_40", "6_change_attribute_color_40", "7_change_attribute_material_40",
    "8_change_background_80", "9_change_style_80",
)  # fmt: skip
SHARES: Final = (140, 80, 80, 80, 40, 40, 40, 40, 80, 80)
LOOKS: Final = {1: "1_artificial", 2: "2_natural"}
SUBJECTS: Final = {1: "1_animal", 2: "2_human", 3: "3_indoor", 4: "4_outdoor"}


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
) -> Path:
    """Write the folder, whole or not at all, and return the path of its mapping file.

    `size` is the side of the pictures in pixels; the original's is 512, and only at 512 can the published evaluator
    read the masks. `way` "enlarged" draws at the bundled model's size and repeats pixels: much faster for large
    pictures, and `size` is then a multiple of 64. `pictures` "jpg" is lossy as the original is; with "png" the pictures
    equal the true edits outside of the masks.

    Raises `ReinvertError` if the folder is not empty or cannot be written, or a number cannot be.
    """
    check(count, size)
    counts, place = counts_of(count), Path(folder).expanduser().resolve()
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
            _fill(root, counts, seed, size, way, pictures)
            if place.exists():
                place.rmdir()
            root.replace(place)
    except OSError as error:
        raise ReinvertError(f"{place} cannot be written: {error.strerror or error}; choose another place") from error
    return place / PIE


def _fill(root: Path, counts: list[int], seed: int, size: int, way: Way, pictures: Format) -> None:
    records: dict[str, Any] = {}
    numbers = Counter[str]()
    for type_id, wanted in enumerate(counts):
        for edit in sample_edits(wanted, type_id, seed, unseen=True):
            prefix, place = place_of(edit)
            key = f"{prefix}{numbers[prefix]:0{12 - len(prefix)}d}"
            numbers[prefix] += 1
            drawing = Drawing(edit, size, way == "enlarged")
            records[key] = _case(root, drawing, f"{place}/{key}.{pictures}")
    about = {
        "data": f"{NAME}, {sum(counts)} cases, seed {seed}",
        "size": size, "count": sum(counts), "seed": seed, "way": way, "pictures": pictures, "reinvert": __version__,
    }  # fmt: skip
    (root / MADE).write_text(json.dumps(about, indent=1), encoding="utf-8")
    lines = [f"{json.dumps(key)}: {json.dumps(record)}" for key, record in sorted(records.items())]
    (root / PIE).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")  # a record a line


def place_of(edit: Edit) -> tuple[str, str]:
    """The first digits of an edit's id (type, look, subject) and its folder.

    Patterned things stand for the artificial pictures, plain ones for the natural; a snowman for a human. The
    original's random type has no such folders, and only zeros for digits.
    """
    thing, folder = edit.source.things[0], FOLDERS[edit.type_id]
    if edit.type_id == 0:
        return "0", folder
    look = 2 if thing.material == "plain" else 1
    by_kind = {"cat": 1, "dog": 1, "fish": 1, "snowman": 2}
    subject = by_kind.get(thing.kind, 3 if edit.source.background == "room" else 4)
    return f"{edit.type_id}{look}{subject}", f"{folder}/{LOOKS[look]}/{SUBJECTS[subject]}"


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
