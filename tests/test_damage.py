"""The law over readers of files from outside, beside those of test_files.py: data sets, lists of edits, scenes."""

from __future__ import annotations

import csv
import io
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_data import CASES, COLUMNS
from conftest import make_picture
from damage import Specimen
from test_files import EXAMPLES, law

from reinvert.bench.data import open_data
from reinvert.cli.draw import chosen_scene
from reinvert.errors import ReinvertError
from reinvert.files.edits import read_edits
from reinvert.picturebook.caption import read_scene
from reinvert.picturebook.draw import draw


def _json(name: str, value: Any) -> bytes:
    return json.dumps(value).encode()


def _json_lines(name: str, value: Any) -> bytes:
    return b"".join(_json(name, line) + b"\n" for line in value)


def _csv(name: str, value: Any) -> bytes:
    """A list of rows; a cell that is no text is written as Python writes it."""
    file = io.StringIO()
    csv.writer(file).writerows(row if isinstance(row, list) else [row] for row in value)
    return file.getvalue().encode()


def _png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    make_picture(seed).save(file, "png")
    return file.getvalue()


def read_data(folder: Path) -> None:
    """All cases with their pictures, masks and true edits, as `bench check` reads them."""
    data = open_data(folder)
    for problem in data.problems:
        assert (problem.id + problem.what).isprintable(), problem
        assert len(problem.what) <= 300, problem
    for case in data.cases:
        for read in (case.open_picture, case.open_mask, case.open_true_edit, case.open_bytes, case.open_attributes):
            said = _sentence(read) if read is not None else ""
            assert said.isprintable()
            assert len(said) <= 300, said


def _sentence(read: Callable[[], object]) -> str:
    try:
        read()
    except ReinvertError as error:
        return str(error)
    return ""


PIE = {
    f"00000{n}": {
        "image_path": f"{n}.png",
        "original_prompt": "a [cat] on a mat",
        "editing_prompt": "a [dog] on a mat",
        "editing_instruction": "make it a dog",
        "editing_type_id": "1",
        "blended_word": "cat dog",
        "mask": [0, 40, 100, 30],
    }
    for n in (1, 2)
}
ROWS = [dict(zip(COLUMNS, (c[0], f"{c[0]}.png", *c[1:]), strict=True)) for c in CASES[:2]]
PNG = {"one.png": _png(), "two.png": _png(1)}
TABLE = [list(COLUMNS), *([row[column] for column in COLUMNS] for row in ROWS)]
COCO = {
    "images": [{"id": 1, "file_name": "one.png"}, {"id": 2, "file_name": "two.png"}],
    "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}, {"id": 2, "image_id": 2, "caption": "a hat"}],
}
PIE_FILES = {f"{where}/{n}.png": _png(n) for where in ("annotation_images", "true_edits") for n in (1, 2)}
ABOUT = {"data": "picturebook", "size": 32}
SHOWN = {f"00000{n}": {"before": {"only.kind": "cat"}, "after": {"only.kind": "dog"}} for n in (1, 2)}
PLUS = [
    {
        "image": f"{name}.png",
        "id": name,
        "source_prompt": "a [cat] on a mat",
        "target_prompt": "a [dog] on a mat",
        "blended_words": '["cat,dog"]',
        "mask": mask,
    }
    for name, mask in (("one", ""), ("two", "[]"), ("three", "0 32 64 5"))
]


def _parquet(name: str, value: Any) -> bytes:
    """Rows as a table; a column of several types is written as text."""
    pa, file = pytest.importorskip("pyarrow"), io.BytesIO()
    from pyarrow import parquet

    rows = [row if isinstance(row, dict) else {"id": row} for row in value]
    columns: dict[str, Any] = {}
    for column in dict.fromkeys(str(key) for row in rows for key in row):
        cells = [row.get(column) for row in rows]
        if column == "image":
            cells = [_png() if str(cell).endswith("png") else cell for cell in cells]
        try:
            columns[column] = pa.array(cells)
        except Exception:  # no type holds them all
            columns[column] = pa.array([json.dumps(cell, default=str) for cell in cells])
    parquet.write_table(pa.table(columns), file, row_group_size=2)
    return file.getvalue()


DATA = {
    "pie": Specimen(
        "pie",
        {"mapping_file.json": PIE, "picturebook.json": ABOUT, "attributes.json": SHOWN},
        _json,
        read_data,
        PIE_FILES,
    ),
    "csv": Specimen("csv", {"cases.csv": TABLE}, _csv, read_data, PNG),
    "jsonl": Specimen("jsonl", {"cases.jsonl": ROWS}, _json_lines, read_data, PNG),
    "coco": Specimen("coco", {"annotations/captions_val.json": COCO}, _json, read_data, PNG),
    "parquet": Specimen("parquet", {"1_change_object_80/a.parquet": PLUS}, _parquet, read_data),
}


@pytest.mark.parametrize("which", sorted(DATA))
def test_benchmark_data(which: str) -> None:
    """One bad case is told, and the others are read."""
    law(DATA[which], EXAMPLES * 4)


EDITS = [["image", "target", "source", "mask", "output"], ["one.png", "a dog", "a cat", "two.png", "x.png"]]


def read_list(folder: Path) -> None:
    for _, line in read_edits(folder / "edits.csv"):
        if isinstance(line, ReinvertError):
            raise line


def test_lists_of_edits() -> None:
    law(Specimen("edits", {"edits.csv": EDITS}, _csv, read_list, PNG, ("edits.csv",)), EXAMPLES * 4)


SCENE = {
    "things": [{"kind": "cat", "color": "red", "wearing": "hat", "x": 0.4, "says_color": True}],
    "background": "grass",
    "style": "drawn",
    "seed": 3,
}


def test_scenes() -> None:
    def read(folder: Path) -> None:
        scene = chosen_scene(Namespace(random=False, scene=str(folder / "scene.json")))
        draw(scene, 32)
        assert scene.caption.isprintable()

    law(Specimen("scene", {"scene.json": SCENE}, _json, read, {}, ("scene.json",)), EXAMPLES * 4)


@pytest.mark.parametrize("scene", ["[" * 100_000, '{"a":' * 100_000, '{"things": "' + "x" * 90_000 + '"}'])
def test_a_scene_is_refused_in_a_short_sentence(scene: str) -> None:
    with pytest.raises(ReinvertError) as caught:
        read_scene(scene)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("name", ["~nobody-of-that-name/x", "x" * 5000, "a\0b", "a \ud800"])
def test_a_name_that_no_data_can_have_is_refused(name: str) -> None:
    with pytest.raises(ReinvertError) as caught:
        open_data(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300
