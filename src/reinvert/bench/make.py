"""Writes a folder in PIE-Bench's own format from drawn scenes, so that everything can be tried on the real format.

Pictures, prompts with brackets, instructions, blend words and run-length masks are written as the original's are, with
its folders and shares of the ten types; the true edits lie beside in `true_edits`, losslessly.
"""

from __future__ import annotations

import json
import shutil
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

from reinvert.bench.data.common import encode_mask
from reinvert.bench.data.pie_bench import PICTURES, TRUE_EDITS
from reinvert.errors import ReinvertError
from reinvert.picturebook.draw import SIZE
from reinvert.picturebook.edits import Edit, sample_edits

FOLDERS = (
    "0_random_140", "1_change_object_80", "2_add_object_80", "3_delete_object_80", "4_change_attribute_content_40",
    "5_change_attribute_pose_40", "6_change_attribute_color_40", "7_change_attribute_material_40",
    "8_change_background_80", "9_change_style_80",
)  # fmt: skip
SHARES = (140, 80, 80, 80, 40, 40, 40, 40, 80, 80)
SUBJECTS = {"cat": 1, "dog": 1, "fish": 1, "snowman": 2}
"""1 animal, 2 human, 3 indoor, 4 outdoor."""
SUBJECT_FOLDERS = {1: "1_animal", 2: "2_human", 3: "3_indoor", 4: "4_outdoor"}


def counts_of(count: int) -> list[int]:
    """How many cases each type gets: the original's shares, at least one each, `count` in all."""
    if count < len(SHARES):
        raise ReinvertError(f"a benchmark of all ten types needs at least {len(SHARES)} cases, not {count}")
    found = [max(1, count * share // sum(SHARES)) for share in SHARES]
    for i in range(count - sum(found)):
        found[i % len(found)] += 1
    while sum(found) > count:
        found[found.index(max(found))] -= 1
    return found


def write(
    folder: Path, count: int = 100, *, seed: int = 0, size: int = SIZE, pictures: Literal["jpg", "png"] = "jpg"
) -> Path:
    """Write the folder and return the path of its mapping file. Raises `ReinvertError` if the folder is not empty."""
    if folder.exists() and any(folder.iterdir()):
        raise ReinvertError(f"{folder} is not empty; name a new folder")
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    records: dict[str, Any] = {}
    for type_id, wanted in enumerate(counts_of(count)):
        for number, edit in enumerate(sample_edits(wanted, type_id, seed, unseen=True)):
            key, record = _case(unfinished, edit, number, size, pictures)
            records[key] = record
    (unfinished / "mapping_file.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    unfinished.replace(folder)
    return folder / "mapping_file.json"


def _case(root: Path, edit: Edit, number: int, size: int, suffix: str) -> tuple[str, dict[str, Any]]:
    """Write one case's pictures; its id and its record."""
    subject = SUBJECTS.get(edit.source.things[0].kind, 3 if edit.source.background == "room" else 4)
    key = f"{edit.type_id}1{subject}{number:09d}"
    place = FOLDERS[edit.type_id]
    if edit.type_id > 0:
        place = f"{place}/1_artificial/{SUBJECT_FOLDERS[subject]}"
    name = f"{place}/{key}.{suffix}"
    true, mask = edit.truth(size)
    picture, truth = root / PICTURES / name, (root / TRUE_EDITS / name).with_suffix(".png")
    for path in (picture, truth):
        path.parent.mkdir(parents=True, exist_ok=True)
    finest: dict[str, Any] = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {}
    edit.picture(size).save(picture, **finest)
    true.save(truth)
    before, after = bracketed(edit.source_prompt, edit.target_prompt)
    words = [" ".join(words[:1]) for words in (edit.source_words, edit.target_words)]
    return key, {
        "image_path": name,
        "original_prompt": before,
        "editing_prompt": after,
        "editing_instruction": edit.instruction,
        "editing_type_id": str(edit.type_id),
        "blended_word": " ".join(words) if all(words) else "",
        "mask": encode_mask(mask),
    }


def bracketed(source: str, target: str) -> tuple[str, str]:
    """Both prompts with the words that differ in brackets, as the original has them."""
    one, two = source.split(" "), target.split(" ")
    first, second = list[str](), list[str]()
    for kind, a, b, c, d in SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        same = kind == "equal"
        first += one[a:b] if same or a == b else [f"[{' '.join(one[a:b])}]"]
        second += two[c:d] if same or c == d else [f"[{' '.join(two[c:d])}]"]
    return " ".join(first), " ".join(second)
