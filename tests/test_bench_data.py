"""The readers of benchmark data: the formats as they are, and every kind of damage, by id."""

from __future__ import annotations

import csv
import json
import pickle
import re
import struct
import sys
import zlib
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PARITY, make_picture
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from reinvert.bench.case import TYPES, Data, EditCase
from reinvert.bench.check import before_a_run, check
from reinvert.bench.data import open_data
from reinvert.bench.data import pie_bench_pp as pp
from reinvert.bench.data.common import bracketed, marked, size_of, spelling, unbracketed
from reinvert.bench.data.masks import check_runs, decode_mask, encode_mask, with_border
from reinvert.errors import ReinvertError

# --- masks -------------------------------------------------------------------------------------------------------


def naive_mask(runs: list[int], height: int, width: int) -> np.ndarray:
    """The published loop over pixels, with its border rule."""
    flat = [0] * (height * width)
    for start, length in zip(runs[0::2], runs[1::2], strict=True):
        for k in range(length):
            if start + k < len(flat):
                flat[start + k] = 1
    mask = np.array(flat).reshape(height, width)
    mask[0, :] = mask[-1, :] = 1
    mask[:, 0] = mask[:, -1] = 1
    return mask.astype(bool)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(arrays.arrays(bool, shapes))
def test_masks_come_back_from_their_runs(mask: np.ndarray) -> None:
    assert np.array_equal(decode_mask(encode_mask(mask), *mask.shape), mask)


@given(st.lists(st.integers(0, 99), max_size=8), shapes)
def test_runs_of_any_kind_are_decoded_as_published(numbers: list[int], shape: tuple[int, int]) -> None:
    """Overlapping, unsorted, empty and over-long runs among them."""
    runs = numbers[: len(numbers) // 2 * 2]
    assert np.array_equal(with_border(decode_mask(runs, *shape)), naive_mask(runs, *shape))


@pytest.mark.parametrize("name", ["sample", "empty", "full"])
def test_recorded_sums_of_masks(name: str) -> None:
    """Of the authors' decoding of 512 x 512."""
    told = json.loads((PARITY / "metrics.json").read_text())
    assert int(with_border(decode_mask(told["mask_runs"][name], 512, 512)).sum()) == told["mask_sum"][name]


def test_the_border_is_a_copy_and_2044_pixels() -> None:
    empty = decode_mask([], 512, 512)
    assert with_border(empty).sum() == 2044
    assert not empty.any()


@pytest.mark.parametrize(
    "told", [None, "1 2", 3, [1], [1, 2, 3], [-1, 2], [1.0, 2], [True, 2], ["1", "2"], [[1, 2]], [1, 2**70], {"a": 1}]
)
def test_what_is_no_list_of_runs_is_refused(told: object) -> None:
    with pytest.raises(ReinvertError, match="pairs"):
        check_runs(told)


# --- words -------------------------------------------------------------------------------------------------------


def test_brackets() -> None:
    assert bracketed("a red cat on grass", "a red dog on grass") == ("a red [cat] on grass", "a red [dog] on grass")
    assert bracketed("a cat on grass", "a cat wearing a hat on grass")[1] == "a cat [wearing a hat] on grass"
    assert unbracketed("a [red  cat] on  [grass") == "a red  cat on  grass"
    assert marked("a [red  cat] on [] [grass]") == ("red  cat", "grass")


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_bracketed_prompts_come_back(one: list[str], two: list[str]) -> None:
    prompts = " ".join(one), " ".join(two)
    assert tuple(map(unbracketed, bracketed(*prompts))) == prompts


@pytest.mark.parametrize(
    ("prompt", "word", "found"),
    [
        ("a Cat, asleep", "cat", "Cat"),
        ("a cat, asleep", "cat,", "cat,"),
        ("a red cat", "red cat", "red cat"),
        ("two cats", "cat", None),
        ("a cat", "", None),
    ],
)
def test_words_are_found_as_the_editors_find_them(prompt: str, word: str, found: str | None) -> None:
    assert spelling(prompt, word) == found


# --- PIE-Bench and TI2I ------------------------------------------------------------------------------------------

RECORD: dict[str, Any] = {
    "image_path": "1_change_object_80/1_artificial/1_animal/111000000000.jpg",
    "original_prompt": "a [cat] on a  table",
    "editing_prompt": "a [dog] on a  table",
    "editing_instruction": "turn the cat into a dog",
    "editing_type_id": "1",
    "blended_word": "cat dog",
    "mask": [0, 5, 1000, 700],
}


def write_pie(root: Path, records: dict[str, Any], name: str = "mapping_file.json", side: int = 512) -> Path:
    for record in records.values():
        if isinstance(record, dict) and not (root / "annotation_images" / record["image_path"]).exists():
            path = root / "annotation_images" / record["image_path"]
            if path.resolve().is_relative_to(root.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (side, side), "white").save(path)
    (root / name).write_text(json.dumps(records))
    return root


def test_pie_bench(tmp_path: Path) -> None:
    data = open_data(write_pie(tmp_path, {"111000000000": RECORD}))
    (case,) = data
    assert (data.name, data.problems, data.has_true_edits) == ("PIE-Bench", (), False)
    assert (case.id, case.type_id, case.type_name) == ("111000000000", "1", "change object")
    assert (case.source_prompt, case.target_prompt) == ("a cat on a  table", "a dog on a  table")  # spaces untouched
    assert (case.source_marked, case.target_marked, case.blend) == (("cat",), ("dog",), ("cat", "dog"))
    assert case.instruction == "turn the cat into a dog"
    assert case.picture().size == (512, 512)
    mask = case.mask()
    assert mask is not None
    assert mask.shape == (512, 512)
    assert mask.sum() == 705
    assert mask[0, :5].all()
    assert mask.reshape(-1)[1000:1700].all()
    assert case.true_edit() is None


def test_damage_is_told_by_id_and_the_rest_goes_on(tmp_path: Path) -> None:
    damage: dict[str, tuple[dict[str, Any], str]] = {
        "missing": ({"image_path": "nowhere.jpg"}, "does not exist"),
        "above": ({"image_path": "../../secret.jpg"}, "leads out of the folder"),
        "absolute": ({"image_path": str(tmp_path / "secret.jpg")}, "leads out of the folder"),
        "small": ({"image_path": "small.jpg"}, "256x256, but its mask is for 512x512"),
        "no picture": ({"image_path": "text.jpg"}, "damaged"),
        "odd mask": ({"mask": [1]}, "pairs"),
        "text mask": ({"mask": "x"}, "pairs"),
        "no mask": ({"mask": None}, "pairs"),
        "type": ({"editing_type_id": "12"}, "its type is '12'"),
        "prompt": ({"editing_prompt": 3}, "editing_prompt is 3; it takes text"),
        "empty prompt": ({"original_prompt": " "}, "no original_prompt"),
        "cursor": ({"editing_prompt": "a \x1b[2J"}, r"mapping_file.json: editing_prompt is .* \(it has a control char"),
        "long": (
            {"editing_instruction": "x" * 2001},
            r"takes text without control characters \(1 to 2,000 characters\)",
        ),
        "negative": ({"mask": [0, -1]}, r"mask\[1\] is -1; it takes a whole number from 0 to 2,147,483,647"),
        "nul": ({"image_path": "a\0b"}, "control character"),
        "../id": ({}, "id is no name"),
    }
    noted: dict[str, tuple[dict[str, Any], str]] = {
        "unicorn": ({"blended_word": "unicorn dog"}, "'unicorn' does not occur in 'a cat on a  table'"),
        "plural": ({"blended_word": "cat dogs"}, "'dogs' does not occur"),
        "single": ({"blended_word": "cat"}, "single word"),
        "bracket": ({"editing_prompt": "a [dog on a table"}, "do not pair"),
    }
    records: dict[str, Any] = {key: RECORD | change for key, (change, _) in (damage | noted).items()}
    records |= {"number": 3, "good": RECORD, "third": RECORD | {"blended_word": "cat dog house"}}
    records["fields"] = {"image_path": RECORD["image_path"]}
    pictures = tmp_path / "data" / "annotation_images"
    pictures.mkdir(parents=True)
    Image.new("RGB", (512, 512)).save(tmp_path / "secret.jpg")
    Image.new("RGB", (256, 256)).save(pictures / "small.jpg")
    (pictures / "text.jpg").write_text("no picture")
    (pictures / "nowhere.jpg").mkdir()
    made = {"111000000000": RECORD}
    write_pie(tmp_path / "data", made)
    (tmp_path / "data" / "mapping_file.json").write_text(json.dumps(records))
    data = open_data(tmp_path / "data")
    told = {problem.id: problem for problem in data.problems}
    assert set(told) == {*damage, *noted, "number", "fields"}
    for key, (_, why) in (damage | noted).items():
        assert re.search(why, told[key].what), (key, told[key].what)
        assert told[key].left_out == (key in damage)
    assert "no record" in told["number"].what
    assert "has no original_prompt" in told["fields"].what
    assert [case.id for case in data] == [*noted, "good", "third"]
    blends = {case.id: case.blend for case in data}
    assert blends["unicorn"] is blends["plural"] is blends["single"] is None
    assert blends["good"] == blends["third"] == blends["bracket"] == ("cat", "dog")
    report = check(data)
    assert report.left_out == len(damage) + 2
    assert f"{len(told)} problems; {len(damage) + 2} cases are left out" in report.text


@pytest.mark.parametrize("text", ["[1", "[1]", "3", "[" * 100_000])
def test_a_mapping_file_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "mapping_file.json").write_text(text)
    with pytest.raises(ReinvertError, match=r"JSON|object"):
        open_data(tmp_path)


def test_a_damaged_picture_is_found_by_check(tmp_path: Path) -> None:
    """Its head is read when the data is opened, its pixels are not."""
    write_pie(tmp_path, {"a": RECORD, "b": RECORD | {"image_path": "cut.jpg"}})
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    path = tmp_path / "annotation_images" / "cut.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:20_000])
    data = open_data(tmp_path)
    assert not data.problems
    report = check(data)
    assert [problem.id for problem in report.problems] == ["b"]
    assert report.total.cases == 1
    assert report.sizes == {(512, 512): 1}
    assert check(data, pictures=False).total.cases == 2


def test_ti2i_has_no_masks_and_few_fields(tmp_path: Path) -> None:
    record = {"image_path": "ti2i_benchmark/a.png", "editing_prompt": "a [dog]"}
    write_pie(tmp_path, {"7": record}, "mapping_file_ti2i_benchmark.json", side=40)
    data = open_data(tmp_path)
    assert data.name == "TI2I"
    assert not data.problems
    (case,) = data
    assert (case.source_prompt, case.target_prompt, case.type_id, case.mask()) == ("", "a dog", "other", None)
    # beside PIE-Bench, as published, the file's own path chooses it
    write_pie(tmp_path, {"1": RECORD})
    assert open_data(tmp_path).name == "PIE-Bench"
    assert [c.id for c in open_data(tmp_path / "mapping_file_ti2i_benchmark.json")] == ["7"]


# --- one's own folder --------------------------------------------------------------------------------------------


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    make_picture(0).save(tmp_path / "a.png")
    region = np.zeros((32, 32), np.uint8)
    region[:4] = 255
    Image.fromarray(region).save(tmp_path / "m.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "small.png")
    rows = [
        {"image": "a.png", "source": "a cät", "target": "a [dog]", "mask": "m.png", "blend_source": "cät",
         "blend_target": "Dog", "type": "change color", "instruction": "go", "id": "mine"},
        {"image": "a.png", "source": "a cat", "mask": "small.png"},
        {"image": "a.png"},
        {"image": "../a.png", "source": "x"},
        {"image": "a.png", "source": "a cat", "type": "seasons", "blend_source": "cat", "note": "?"},
        {"image": "a.png", "source": "a cat", "id": "mine"},
        {"image": "a.png", "source": "a cat", "mask": "none.png"},
    ]  # fmt: skip
    write_csv(tmp_path / "cases.csv", rows)
    data = open_data(tmp_path)
    mine, other = data
    assert (mine.id, mine.source_prompt, mine.target_prompt, mine.blend) == ("mine", "a cät", "a dog", ("cät", "dog"))
    assert (mine.type_name, mine.instruction, mine.has_target) == ("change color", "go", True)
    assert np.array_equal(mine.mask(), region > 0)
    assert mine.picture().tobytes() == make_picture(0).tobytes()
    assert (other.id, other.type_name, other.blend, other.has_target) == ("00005", "seasons", None, False)
    told = {problem.id: problem.what for problem in data.problems}
    assert set(told) == {"00002", "00003", "00004", "00005", "mine", "00007", ""}
    assert "32x32, but its mask is for 8x8" in told["00002"]
    assert "has no source" in told["00003"]
    assert "leads out of the folder" in told["00004"]
    assert "one blend word" in told["00005"]
    assert "more than once" in told["mine"]
    assert "mask none.png does not exist" in told["00007"]
    assert "note" in told[""]


def test_json_lines(tmp_path: Path) -> None:
    make_picture(0).save(tmp_path / "a.png")
    lines = [json.dumps({"image": "a.png", "source": "a cat", "id": 7}), "", "{", "3", '{"image": ["a.png"]}']
    (tmp_path / "cases.jsonl").write_text("\n".join(lines))
    data = open_data(tmp_path)
    assert [case.id for case in data] == ["7"]
    assert {problem.id for problem in data.problems} == {"00003", "00004", "00005"}
    assert open_data(tmp_path / "cases.jsonl").cases[0].fingerprint == data.cases[0].fingerprint


def test_files_that_are_not_utf8_or_ragged(tmp_path: Path) -> None:
    make_picture(0).save(tmp_path / "a.png")
    (tmp_path / "cases.csv").write_text("image,source\na.png,a cat,more\n")
    assert "more cells" in open_data(tmp_path).problems[0].what
    (tmp_path / "cases.csv").write_bytes("image,source\na.png,a c\xe4t\n".encode("latin-1"))
    with pytest.raises(ReinvertError, match="UTF-8"):
        open_data(tmp_path)


# --- COCO --------------------------------------------------------------------------------------------------------


def test_coco_captions(tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    make_picture(0).save(tmp_path / "val2017" / "1.jpg")
    make_picture(0).save(tmp_path / "4.jpg")
    told = {
        "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}, {"id": 3, "file_name": "1.jpg"},
                   {"id": 4, "file_name": "../4.jpg"}, 5, {"id": 6}],
        "annotations": [{"id": 9, "image_id": 1, "caption": "late"}, {"id": 3, "image_id": 1, "caption": " a  cat\n"},
                        {"id": 4, "image_id": 2, "caption": "x"}, {"id": 5, "image_id": 4, "caption": "x"}, "?"],
    }  # fmt: skip
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")  # its pictures are not here
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(told))
    data = open_data(tmp_path)
    assert [(case.id, case.source_prompt, case.has_target) for case in data] == [("1", "a cat", False)]
    problems = {problem.id: problem.what for problem in data.problems}
    assert set(problems) == {"2", "3", "4", "5", "6"}
    assert "no caption" in problems["3"]
    assert "leads out of the folder" in problems["4"]
    with pytest.raises(ReinvertError, match="COCO"):
        open_data(tmp_path / "annotations" / "captions_train2017.json")


# --- PIE-Bench++ -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("pp") / "a.jpg"
    Image.new("RGB", (512, 512), "red").save(path)
    return path.read_bytes()


def test_pie_bench_pp(tmp_path: Path, jpeg: bytes) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    small = tmp_path / "small.png"
    make_picture(0).save(small)
    good: dict[str, Any] = {
        "image": {"bytes": jpeg, "path": "a.jpg"}, "source_prompt": "a [cat]", "target_prompt": "a [dog]",
        "edit_action": "{}", "aspect_mapping": "{}", "mask": "0 32 64 5", "blended_words": '["cat,dog", "x,y"]',
    }  # fmt: skip
    changes: dict[str, dict[str, Any]] = {
        "json": {},
        "python": {"blended_words": "['cat,dog']", "mask": "[0, 32, 64, 5]"},
        "pairs": {"blended_words": "[('cat', 'dog')]", "mask": "0,32,64,5"},
        "plain": {"blended_words": "cat,dog"},
        "two": {"blended_words": "['cat', 'dog']"},
        "nothing": {"blended_words": "[]", "mask": ""},
        "no words": {"blended_words": "{'cat': 1}"},
        "bytes": {"image": {"bytes": b"no", "path": ""}},
        "empty": {"image": {"bytes": None, "path": "a.jpg"}},
        "size": {"image": {"bytes": small.read_bytes(), "path": "a.png"}},
        "mask": {"mask": "none"},
        "odd": {"mask": "1 2 3"},
        "prompt": {"target_prompt": None},
    }
    rows = [good | {"id": key} | change for key, change in changes.items()]
    folder = tmp_path / "1_change_object_80"
    folder.mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), folder / "V1-00000-of-00001.parquet", row_group_size=3)
    (tmp_path / "9_change_style_80.parquet").write_bytes(b"no parquet")
    data = open_data(tmp_path)
    used = ["json", "python", "pairs", "plain", "two", "nothing", "no words"]
    assert [case.id for case in data] == used
    for case in data.cases[:5]:
        assert (case.source_prompt, case.blend, case.type_id) == ("a cat", ("cat", "dog"), "1"), case.id
        mask = case.mask()
        assert mask is not None
        assert np.flatnonzero(mask).tolist() == [*range(32), *range(64, 69)], case.id
        assert case.picture().getpixel((0, 0)) == (254, 0, 0)
    assert data.cases[5].mask() is None
    assert data.cases[5].blend is data.cases[6].blend is None
    told = {problem.id: problem for problem in data.problems}
    assert set(told) == {"no words", "bytes", "empty", "size", "mask", "odd", "prompt", ""}
    assert not told["no words"].left_out
    assert "32x32, but its mask is for 512x512" in told["size"].what
    assert "9_change_style_80.parquet" in told[""].what
    # one config alone, by its folder or its file
    assert [case.type_id for case in open_data(folder)] == ["1"] * 7
    assert [case.type_id for case in open_data(folder / "V1-00000-of-00001.parquet")] == ["1"] * 7


def test_only_one_group_of_pictures_is_in_memory(tmp_path: Path, jpeg: bytes) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"image": {"bytes": jpeg, "path": ""}, "id": str(i), "source_prompt": "a", "target_prompt": "b"}
            for i in range(6)]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "0_random_140.parquet", row_group_size=2)
    data = open_data(tmp_path)
    assert len(data) == 6
    assert len(pickle.dumps(data)) < len(jpeg)
    pp._pictures.cache_clear()
    for case in data:
        assert case.picture().size == (512, 512)
    assert pp._pictures.cache_info().misses == 3
    assert pp._pictures.cache_info().currsize == 1


def test_without_pyarrow_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ReinvertError, match=r"reinvert\[bench\]"):
        open_data(tmp_path)


@given(st.text(max_size=30))
def test_any_text_is_read_somehow(text: str) -> None:
    pp.literal(text)
    pp._blend(pp.literal(text))


# --- picturebook -------------------------------------------------------------------------------------------------


def test_picturebook_is_drawn_on_the_fly() -> None:
    data = open_data("picturebook:10?seed=3")
    assert (len(data), data.has_true_edits, data.problems) == (10, True, ())
    few = open_data("picturebook:2?seed=3")
    assert [case.fingerprint for case in few] == [case.fingerprint for case in data.cases[:2]]
    assert few.fingerprint != open_data("picturebook:2?seed=4").fingerprint
    for case in data:
        picture, mask, truth = np.asarray(case.picture()), case.mask(), case.true_edit()
        assert mask is not None
        assert truth is not None
        assert np.array_equal(picture[~mask], np.asarray(truth)[~mask])  # the mask is exact
        assert case.type_name == TYPES[case.type_id]
        for prompt, word in zip((case.source_prompt, case.target_prompt), case.blend or (), strict=False):
            assert spelling(prompt, word) == word
        for words, prompt in ((case.source_marked, case.source_prompt), (case.target_marked, case.target_prompt)):
            assert all(word in prompt for word in words)
    assert {case.type_id for case in open_data("picturebook:6?types=1,6")} == {"1", "6"}
    assert open_data("picturebook:1?size=96").cases[0].picture().size == (96, 96)


@pytest.mark.parametrize(
    "spec",
    ["picturebook:0", "picturebook:x", "picturebook:3?seed=x", "picturebook:3?size=9999", "picturebook:3?types=12",
     "picturebook:3?speed=1", "nowhere"],
)  # fmt: skip
def test_a_name_of_nothing_is_refused(spec: str) -> None:
    with pytest.raises(ReinvertError):
        open_data(spec)


def test_a_folder_of_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReinvertError, match=r"mapping_file\.json"):
        open_data(tmp_path)
    (tmp_path / "mapping_file.json").write_text("{}")
    with pytest.raises(ReinvertError, match="no cases"):
        open_data(tmp_path)


# --- cases -------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_everything_that_is_asked(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        told: dict[str, Any] = {"id": "a", "source_prompt": "a cat", "target_prompt": "a dog"}
        case = EditCase(**(told | {"open_picture": lambda: make_picture(0)} | changes))
        assert case.fingerprint == case.fingerprint
        return case.fingerprint

    def mask(side: int) -> Any:
        return lambda: np.zeros((side, 256 // side), dtype=bool)

    changes: list[dict[str, Any]] = [
        {}, {"id": "b"}, {"source_prompt": "x"}, {"target_prompt": "x"}, {"blend": ("cat", "dog")},
        {"instruction": "go"}, {"type_id": "3"}, {"open_picture": lambda: make_picture(1)}, {"open_mask": mask(16)},
        {"open_mask": mask(8)}, {"open_bytes": lambda: b"1"},
    ]  # fmt: skip
    assert len({fingerprint(**change) for change in changes}) == len(changes)
    assert fingerprint() == fingerprint()


def test_cases_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    data = open_data(write_pie(tmp_path, {"a": RECORD}))
    for sent in (data, open_data("picturebook:2")):
        again: Data = pickle.loads(pickle.dumps(sent))
        assert again.fingerprint == sent.fingerprint


def test_check_counts(tmp_path: Path) -> None:
    write_pie(tmp_path, {"a": RECORD, "b": RECORD | {"editing_type_id": "9", "blended_word": "", "mask": []}})
    report = check(open_data(tmp_path))
    assert list(report.counts) == ["1", "9"]
    assert report.total.row == (2, 2, 2, 1, 2, 0)
    assert [(p.id, p.left_out) for p in report.problems] == [("b", False)]  # nothing may be edited
    assert "1 change object" in report.text
    assert "pictures: 512x512 (2)" in report.text
    assert "b: its mask is empty" in report.text


def test_a_picture_of_one_by_millions_is_refused_by_its_head() -> None:
    data = BytesIO()
    Image.new("RGB", (1, 1)).save(data, "PNG")
    head = bytearray(data.getvalue())
    head[16:24] = struct.pack(">II", 1, 60_000_000)
    head[29:33] = struct.pack(">I", zlib.crc32(head[12:29]))
    with pytest.raises(ReinvertError, match=r"1x60000000, a side of more than 65,535 pixels"):
        size_of(bytes(head), "a.png")


def test_a_link_that_loops_loses_one_case_only(tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text("id,image,source,target\n1,a.png,a cat,a dog\n2,b.png,a cat,a dog\n")
    (tmp_path / "a.png").symlink_to("a.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    data = open_data(tmp_path)
    assert [case.id for case in data.cases] == ["2"]
    assert [problem.id for problem in data.problems] == ["1"]


def test_a_mask_of_five_thousand_digits_is_a_text() -> None:
    """Python refuses to read such a number; it is no mask, and ends no data set."""
    assert pp.literal("1" * 5000) == "1" * 5000
    assert pp.literal("1 2,3") == [1, 2, 3]


def test_a_run_tells_first_what_is_left_out_and_which_blend_words_do_not_occur(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg)
    lines = [
        "id,image,source,target,blend_source,blend_target",
        "one,a.jpg,a Cat on grass,a dog on grass,cat,dog",
        "two,a.jpg,a cat on grass,a dog on grass,cat,wolf",
        "three,missing.jpg,a cat,a dog,,",
    ]
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    data = open_data(tmp_path)
    left_out, without = before_a_run(data)
    assert left_out.startswith("1 cases of ")
    assert "(three: " in left_out
    assert "(two: " in without
    assert "wolf" in without
    assert before_a_run(open_data("picturebook:10")) == ()


# --- the folder's own files --------------------------------------------------------------------------------------


def data_set(kind: str, folder: Path, jpeg: bytes) -> str:
    """A small data set of a format; the name of the file that it is read by."""
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(jpeg)
    match kind:
        case "pie":
            write_pie(folder, {"111": RECORD})
            return "mapping_file.json"
        case "csv":
            (folder / "cases.csv").write_text("image,source\na.jpg,a cat\n")
            return "cases.csv"
        case "coco":
            told = {"images": [{"id": 1, "file_name": "a.jpg"}],
                    "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}  # fmt: skip
            (folder / "captions_val.json").write_text(json.dumps(told))
            return "captions_val.json"
        case _:
            pa = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            row = {"image": jpeg, "source_prompt": "a cat", "target_prompt": "a dog"}
            parquet.write_table(pa.Table.from_pylist([row]), folder / "a.parquet")
            return "a.parquet"


@pytest.mark.parametrize("kind", ["pie", "csv", "coco", "parquet"])
def test_a_folder_from_elsewhere_does_not_choose_what_is_read(kind: str, tmp_path: Path, jpeg: bytes) -> None:
    """A link to outside of the folder is refused; the user may name such a file himself."""
    name = data_set(kind, tmp_path / "set", jpeg)
    assert len(open_data(tmp_path / "set")) == 1
    (tmp_path / "set" / name).rename(tmp_path / name)
    (tmp_path / "set" / name).symlink_to(tmp_path / name)
    try:
        (problem,) = open_data(tmp_path / "set").problems  # of many parquet files the others are read
        told = f"{problem.id}: {problem.what}"
    except ReinvertError as error:
        told = str(error)
    assert re.search(f"{name}.* is a link to outside of the folder.*; name the file itself", told)
    assert len(open_data(tmp_path / "set" / name)) == 1


@pytest.mark.parametrize("name", ["picturebook.json", "attributes.json", "annotation_images", "true_edits"])
def test_what_lies_beside_a_mapping_file_is_no_link_to_elsewhere(name: str, tmp_path: Path, jpeg: bytes) -> None:
    data_set("pie", tmp_path / "set", jpeg)
    truth = (tmp_path / "set" / "true_edits" / RECORD["image_path"]).with_suffix(".png")
    truth.parent.mkdir(parents=True)
    make_picture(0).save(truth)
    (tmp_path / "set" / "picturebook.json").write_text('{"size": 512}')
    (tmp_path / "set" / "attributes.json").write_text("{}")
    assert open_data(tmp_path / "set").has_true_edits
    (tmp_path / "set" / name).rename(tmp_path / name)
    (tmp_path / "set" / name).symlink_to(tmp_path / name)
    if name == "true_edits":  # they may be missing
        assert not open_data(tmp_path / "set").has_true_edits
        return
    with pytest.raises(ReinvertError) if name.endswith(".json") else nullcontext() as caught:
        data = open_data(tmp_path / "set")
        assert not data.cases
        assert "outside of the folder" in data.problems[0].what
    assert caught is None or "is a link to outside of the folder" in str(caught.value)


@pytest.mark.parametrize("kind", ["pie", "csv", "coco", "parquet"])
def test_a_snapshot_in_the_hubs_cache_is_made_of_links(kind: str, tmp_path: Path, jpeg: bytes) -> None:
    snapshot = tmp_path / "datasets--a--b" / "snapshots" / "1234"
    data_set(kind, snapshot, jpeg)
    blobs = tmp_path / "datasets--a--b" / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(p for p in snapshot.rglob("*") if p.is_file())):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert len(open_data(snapshot)) == 1
    assert not open_data(snapshot).problems
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")  # these are no links of the cache
    with pytest.raises(ReinvertError) if kind != "parquet" else nullcontext():
        assert not open_data(snapshot).cases


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"size": "512"}, "picturebook.json: size is '512'; it takes a whole number from 16 to 1,024"),
        ({"size": 10**9}, "picturebook.json: size is 1000000000; it takes a whole number from 16 to 1,024"),
        ({}, "picturebook.json has no size: it takes a whole number"),
        ([512], "picturebook.json is a list of 1, not a table of size"),
        ({"size": 512, "data": "a\x1b[2J"}, "data is .*it takes one line of text"),
    ],
)
def test_what_a_made_folder_says_of_itself_is_checked(about: Any, sentence: str, tmp_path: Path) -> None:
    write_pie(tmp_path, {"111": RECORD})
    (tmp_path / "picturebook.json").write_text(json.dumps(about))
    with pytest.raises(ReinvertError, match=sentence + ".*; make the folder again"):
        open_data(tmp_path)


def test_a_line_that_cannot_be_read_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    make_picture(0).save(tmp_path / "a.png")
    long = "x" * 140_000  # more than the csv module takes in a field
    line = "a.png,a cat\u2028on a mat,\n"  # a separator that is no end of a line here
    (tmp_path / "cases.csv").write_text(f'image,source,target\na.png,{long},\n{line}"a.png"x,b,\n{line}')
    data = open_data(tmp_path)
    assert [case.id for case in data] == ["00002", "00004"]
    assert [problem.id for problem in data.problems] == ["00001", "00003"]
    assert all("is not a CSV file that can be read (line" in problem.what for problem in data.problems)
    (tmp_path / "cases.csv").write_text("image,source,source\na.png,a,b\n")
    with pytest.raises(ReinvertError, match="two columns 'source'"):
        open_data(tmp_path)
    (tmp_path / "cases.csv").write_text("picture,source\na.png,a\n")
    with pytest.raises(ReinvertError, match="has no column image; its first line names the columns: image,source"):
        open_data(tmp_path)


def test_a_caption_that_cannot_be_used_is_said_with_its_picture(tmp_path: Path, jpeg: bytes) -> None:
    data_set("coco", tmp_path / "set", jpeg)
    told = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": "x", "image_id": 1, "caption": "a"}]}
    (tmp_path / "set" / "captions_val.json").write_text(json.dumps(told))
    (problem,) = open_data(tmp_path / "set").problems
    assert (
        problem.what
        == "a caption of captions_val.json: id is 'x'; it takes a whole number from 0 to 1,000,000,000,000,000,000"
    )


def test_a_small_parquet_file_of_much_text_takes_little_memory(tmp_path: Path, jpeg: bytes) -> None:
    """A thousand times the same megabyte: stored once, and never unpacked together."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    count = 1000
    long = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array(["x" * 2**20]))
    table = pa.table({"image": [b""] * count, "source_prompt": long, "target_prompt": ["a dog"] * count})
    parquet.write_table(table, tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 2 * 2**20
    before = pa.total_allocated_bytes()
    data = open_data(tmp_path)
    assert len(data.problems) == count
    assert pa.default_memory_pool().max_memory() - before < 200 * 2**20
