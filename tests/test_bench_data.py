"""The readers of benchmark data: the formats as they are, and every kind of damage, by id."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import PARITY, make_picture
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from reinvert.bench.check import report
from reinvert.bench.data import open_data
from reinvert.bench.data.common import decode_mask, encode_mask
from reinvert.bench.data.pie_bench_pp import literal
from reinvert.bench.make import FOLDERS, bracketed, counts_of, write
from reinvert.errors import ReinvertError
from reinvert.picturebook.edits import sample_edits


@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_masks_come_back_from_their_runs(mask) -> None:
    assert np.array_equal(decode_mask(encode_mask(mask), *mask.shape), mask)


def test_runs_are_rows_and_are_cut_at_the_end() -> None:
    assert decode_mask([], 4, 5).sum() == 0
    assert decode_mask([0, 20], 4, 5).all()
    assert decode_mask([18, 99], 4, 5).sum() == 2
    assert decode_mask([5, 3, 6, 4], 4, 5).sum() == 5  # what overlaps counts once
    with pytest.raises(ReinvertError, match="pairs"):
        decode_mask([1, 2, 3], 4, 5)


@pytest.mark.parametrize("name", ["sample", "empty", "full"])
def test_recorded_sums_of_masks(name: str) -> None:
    """The authors' decoding, whose border rule is the metrics' business and is put on here."""
    told = json.loads((PARITY / "metrics.json").read_text())
    mask = decode_mask(told["mask_runs"][name], 512, 512)
    mask[[0, -1]] = True
    mask[:, [0, -1]] = True
    assert int(mask.sum()) == told["mask_sum"][name]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "pie"
    write(folder, 14, pictures="png")
    return folder


def test_a_written_folder_reads_back_as_it_was_drawn(made: Path) -> None:
    data = open_data(made)
    assert data.name == "PIE-Bench"
    assert not data.problems
    assert len(data.cases) == 14
    assert {case.type_id for case in data.cases} == set("0123456789")
    by_type = {type_id: [case for case in data.cases if case.type_id == str(type_id)] for type_id in range(10)}
    for type_id, cases in by_type.items():
        for case, edit in zip(cases, sample_edits(len(cases), type_id, 0, unseen=True), strict=True):
            assert (case.source_prompt, case.target_prompt) == (edit.source_prompt, edit.target_prompt)
            assert case.instruction == edit.instruction
            true, mask = edit.truth()
            assert np.array_equal(case.mask(), mask)
            assert case.picture().tobytes() == edit.picture().tobytes()
            assert case.true_edit().tobytes() == true.convert("RGB").tobytes()
    record = json.loads((made / "mapping_file.json").read_text())[data.cases[3].id]
    assert set(record) == {
        "image_path", "original_prompt", "editing_prompt", "editing_instruction", "editing_type_id", "blended_word",
        "mask",
    }  # fmt: skip
    assert record["image_path"].split("/")[0] in FOLDERS
    assert "[" in record["editing_prompt"] or "[" in record["original_prompt"]
    assert len({case.fingerprint for case in data.cases}) == 14
    assert "14 cases" in report(data)


def test_the_original_shares() -> None:
    assert counts_of(700) == [140, 80, 80, 80, 40, 40, 40, 40, 80, 80]
    assert sum(counts_of(100)) == 100
    with pytest.raises(ReinvertError, match="at least 10"):
        counts_of(9)


def test_brackets_are_around_what_differs() -> None:
    assert bracketed("a red cat on grass", "a red dog on grass") == ("a red [cat] on grass", "a red [dog] on grass")
    assert bracketed("a cat on grass", "a cat wearing a hat on grass")[1] == "a cat [wearing a hat] on grass"


def test_damage_is_told_by_id_and_the_rest_goes_on(made: Path, tmp_path: Path) -> None:
    records = json.loads((made / "mapping_file.json").read_text())
    keys = list(records)
    damage = {
        keys[0]: {"image_path": "nowhere.png"}, keys[1]: {"image_path": "../../secret.png"}, keys[2]: {"mask": "x"},
        keys[3]: {"mask": [1]}, keys[4]: {"blended_word": "unicorn dragon"},
    }  # fmt: skip
    for key, change in damage.items():
        records[key] |= change
    del records[keys[5]]["editing_prompt"]
    records["x"] = 3
    shutil.copytree(made / "annotation_images", tmp_path / "annotation_images")
    (tmp_path / "annotation_images" / records[keys[6]]["image_path"]).write_bytes(b"no picture")
    (tmp_path / "secret.png").write_bytes(b"")
    (tmp_path / "mapping_file.json").write_text(json.dumps(records))
    data = open_data(tmp_path)
    told = {problem.id: problem.what for problem in data.problems}
    assert set(told) == {*keys[:7], "x"}
    assert "does not exist" in told[keys[0]]
    assert "outside" in told[keys[1]]
    assert "pairs" in told[keys[2]]
    assert "pairs" in told[keys[3]]
    assert "does not occur" in told[keys[4]]
    assert "editing_prompt" in told[keys[5]]
    # blend words that do not occur are taken away; the case itself is fine
    assert [case.id for case in data.cases] == [keys[4], *keys[7:]]
    assert data.cases[0].blend is None
    assert "8 problems" in report(data)
    (tmp_path / "mapping_file.json").write_text("[1")
    with pytest.raises(ReinvertError, match="JSON"):
        open_data(tmp_path)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    make_picture(0).save(tmp_path / "a.png")
    Image.new("L", (32, 32), 255).save(tmp_path / "m.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "small.png")
    rows = [
        {"image": "a.png", "source": "a cat", "target": "a dog", "mask": "m.png", "blend_source": "cat",
         "blend_target": "dog"},
        {"image": "a.png", "source": "a cat", "mask": "small.png"},
        {"image": "a.png"},
        {"image": "../a.png", "source": "x"},
    ]  # fmt: skip
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "source", "target", "mask", "blend_source", "blend_target"])
        writer.writeheader()
        writer.writerows(rows)
    data = open_data(tmp_path)
    assert [case.id for case in data.cases] == ["00001"]
    assert data.cases[0].blend == ("cat", "dog")
    assert data.cases[0].mask().all()
    assert {p.id for p in data.problems} == {"00002", "00003", "00004"}
    (tmp_path / "cases.csv").unlink()
    lines = [json.dumps({"image": "a.png", "source": "a cat", "id": "one"}), "{", "3"]
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    data = open_data(tmp_path)
    assert [case.id for case in data.cases] == ["one"]
    assert len(data.problems) == 2


def test_coco_captions(tmp_path: Path) -> None:
    make_picture(0).save(tmp_path / "1.png")
    told = {
        "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
        "annotations": [{"id": 9, "image_id": 1, "caption": "late"}, {"id": 3, "image_id": 1, "caption": " a cat "}],
    }
    (tmp_path / "captions_val2017.json").write_text(json.dumps(told))
    data = open_data(tmp_path)
    assert [(case.id, case.source_prompt, case.target_prompt) for case in data.cases] == [("1", "a cat", "")]
    assert [p.id for p in data.problems] == ["2"]


def test_pie_bench_pp(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    make_picture(0).save(tmp_path / "a.png")
    picture = {"bytes": (tmp_path / "a.png").read_bytes(), "path": "a.png"}
    rows = [
        {"image": picture, "id": "1", "source_prompt": "a [cat]", "target_prompt": "a [dog]", "mask": "0 32 64 5",
         "blended_words": '["cat,dog"]'},
        {"image": picture, "id": "2", "source_prompt": "a cat", "target_prompt": "a dog", "mask": "",
         "blended_words": "[]"},
        {"image": {"bytes": b"no", "path": ""}, "id": "3", "source_prompt": "x", "target_prompt": "y", "mask": "",
         "blended_words": ""},
    ]  # fmt: skip
    folder = tmp_path / "1_change_object_80"
    folder.mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), folder / "V1-00000.parquet")
    data = open_data(tmp_path)
    one, two = data.cases
    assert (one.source_prompt, one.blend, one.type_id, int(one.mask().sum())) == ("a cat", ("cat", "dog"), "1", 37)
    assert two.mask() is None
    assert two.blend is None
    assert [p.id for p in data.problems] == ["3"]
    assert literal("[1, 2]") == literal("1 2") == [1, 2]
    assert literal("{'a': 1}") == {"a": 1}
    assert literal("cat,dog") == "cat,dog"


def test_picturebook_is_drawn_on_the_fly() -> None:
    data = open_data("picturebook:12?seed=3")
    assert len(data.cases) == 12
    assert data.has_true_edits
    again = open_data("picturebook:12?seed=3")
    assert data.fingerprint == again.fingerprint != open_data("picturebook:12?seed=4").fingerprint
    for wrong in ("picturebook:0", "picturebook:x", "nowhere"):
        with pytest.raises(ReinvertError):
            open_data(wrong)


def test_a_folder_of_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReinvertError, match=r"mapping_file\.json"):
        open_data(tmp_path)
