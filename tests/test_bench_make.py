"""A PIE-Bench-shaped folder of drawn scenes: what is written, and that it reads back as it was drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from reinvert.bench.data import open_data
from reinvert.bench.data.fixed import FOLDERS, place_of
from reinvert.bench.data.masks import with_border
from reinvert.bench.data.picturebook import Drawing, blend_of, case_of
from reinvert.bench.make import counts_of, write
from reinvert.errors import ReinvertError
from reinvert.picturebook.edits import sample_edits

FIELDS = {
    "image_path", "original_prompt", "editing_prompt", "editing_instruction", "editing_type_id", "blended_word", "mask",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "pie"
    assert write(folder, 16, seed=1, pictures="png") == folder / "mapping_file.json"
    return folder


def test_the_shares_are_the_original_ones() -> None:
    assert counts_of(700) == [140, 80, 80, 80, 40, 40, 40, 40, 80, 80]
    assert counts_of(35) == [7, 4, 4, 4, 2, 2, 2, 2, 4, 4]
    assert counts_of(10) == [1] * 10
    for count in range(10, 141):
        counts = counts_of(count)
        assert sum(counts) == count
        assert min(counts) >= 1
    with pytest.raises(ReinvertError, match="at least 10"):
        counts_of(9)


def test_the_format_is_the_published_one(made: Path) -> None:
    """Read here without our reader, by the published description."""
    records = json.loads((made / "mapping_file.json").read_text())
    assert list(records) == sorted(records)
    for key, record in records.items():
        assert set(record) == FIELDS
        assert re.fullmatch(r"\d{12}", key)
        parts = record["image_path"].split("/")
        assert parts[-1] == f"{key}.png"
        assert parts[0] in FOLDERS
        assert record["editing_type_id"] == key[0] == parts[0][0]
        if key[0] == "0":
            assert len(parts) == 2
            assert key.startswith("000000000")
        else:
            look, subject = parts[1:3]
            assert (look, key[1]) in {("1_artificial", "1"), ("2_natural", "2")}
            assert (subject, key[2]) in {("1_animal", "1"), ("2_human", "2"), ("3_indoor", "3"), ("4_outdoor", "4")}
        assert (made / "annotation_images" / record["image_path"]).is_file()
        assert isinstance(record["mask"], list)
        assert all(type(n) is int for n in record["mask"])
        assert len(record["blended_word"].split(" ")) in (1, 2)
        assert record["blended_word"] != " "
        assert "[" in record["original_prompt"] + record["editing_prompt"]
    assert {key[0] for key in records} == set("0123456789")
    looks = {key[1] for key in records if key[0] != "0"}
    assert looks == {"1", "2"}


def test_it_reads_back_as_it_was_drawn(made: Path) -> None:
    data = open_data(made)
    assert data.name == "picturebook, 16 cases, seed 1 in the format of PIE-Bench"
    assert data.about["size"] == 64
    assert not data.problems
    assert len(data) == 16
    edits = [edit for type_id, n in enumerate(counts_of(16)) for edit in sample_edits(n, type_id, 1, unseen=True)]
    found = {(case.type_id, case.source_prompt, case.target_prompt): case for case in data}
    assert len(found) == 16
    for edit in edits:
        case = found[str(edit.type_id), edit.source_prompt, edit.target_prompt]
        direct = case_of(Drawing(edit), case.id)
        assert case.instruction == edit.instruction
        assert case.blend == direct.blend == blend_of(edit)
        assert (case.source_marked, case.target_marked) == (direct.source_marked, direct.target_marked)
        true, mask = edit.truth()
        assert np.array_equal(case.mask(), mask)
        assert case.picture().tobytes() == edit.picture().tobytes()
        truth = case.true_edit()
        assert truth is not None
        assert truth.tobytes() == true.convert("RGB").tobytes()
        assert case.id.startswith(place_of(edit)[0])
        assert case.attributes() == direct.attributes()


def test_the_same_seed_writes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    write(tmp_path / "again", 16, seed=1, pictures="png")
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for name in files:
        assert (made / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert open_data(made).fingerprint == open_data(tmp_path / "again").fingerprint


def test_jpegs_are_near_and_masks_exact(tmp_path: Path) -> None:
    write(tmp_path / "pie", 10)
    for case in open_data(tmp_path / "pie"):
        edit = next(e for e in sample_edits(1, int(case.type_id), 0, unseen=True))
        true, mask = edit.truth()
        gap = np.abs(np.asarray(case.picture(), dtype=float) - np.asarray(edit.picture(), dtype=float))
        assert gap.mean() < 2  # of 255; JPEG at quality 95
        assert np.array_equal(case.mask(), mask)
        truth = case.true_edit()
        assert truth is not None
        assert truth.tobytes() == true.convert("RGB").tobytes()


def test_enlarged_pictures_repeat_the_model_s_pixels(tmp_path: Path) -> None:
    write(tmp_path / "pie", 10, size=512, way="enlarged", pictures="png")
    data = open_data(tmp_path / "pie")
    for case in data:
        edit = next(e for e in sample_edits(1, int(case.type_id), 0, unseen=True))
        picture, mask = np.asarray(case.picture()), case.mask()
        assert mask is not None
        assert picture.shape == (512, 512, 3)
        assert np.array_equal(picture[::8, ::8], np.asarray(edit.picture()))
        assert np.array_equal(picture[7::8, 7::8], np.asarray(edit.picture()))
        assert np.array_equal(mask[3::8, 3::8], edit.truth()[1])
        assert np.array_equal(picture[~mask], np.asarray(case.true_edit())[~mask])
    # at 512 the published evaluator reads the folder too: without picturebook.json ours is nothing but PIE-Bench
    masks = [with_border(case.mask()) for case in data if case.open_mask]  # pyright: ignore
    (tmp_path / "pie" / "picturebook.json").unlink()
    plain = open_data(tmp_path / "pie")
    assert plain.name == "PIE-Bench"
    assert not plain.problems
    assert all(np.array_equal(with_border(case.mask()), mask) for case, mask in zip(plain, masks, strict=True))  # pyright: ignore


def test_any_size_can_be_drawn(tmp_path: Path) -> None:
    write(tmp_path / "pie", 10, size=40)
    assert {case.picture().size for case in open_data(tmp_path / "pie")} == {(40, 40)}


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(ReinvertError, match="not empty"):
        write(tmp_path / "full", 10)
    with pytest.raises(ReinvertError, match="multiple"):
        write(tmp_path / "odd", 10, size=100, way="enlarged")
    with pytest.raises(ReinvertError, match="pixels"):
        write(tmp_path / "odd", 10, size=4)
    with pytest.raises(ReinvertError, match="cannot be written"):
        write(tmp_path / "full" / "a" / "b", 10)

    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reinvert.bench.make._save", broken)
    with pytest.raises(ReinvertError, match="No space left"):
        write(tmp_path / "new", 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_blend_words_cover_what_changes() -> None:
    """One word a side; none for style, for a second thing, and for a thing together with the background."""
    for type_id in range(10):
        for edit in sample_edits(8, type_id, 5):
            words = blend_of(edit)
            if type_id == 9 or len(edit.source.things) != len(edit.target.things):
                assert words is None
            elif type_id == 8:
                assert words == (edit.source_words[0], edit.target_words[0])
            elif type_id in (1, 4, 5, 6, 7):
                assert words == (edit.source_words[0], edit.target_words[0])
            elif type_id == 2:
                assert words == (edit.source.things[0].kind, edit.target.things[0].wearing)
            elif type_id == 3:
                assert words == (edit.source.things[0].wearing, edit.source.things[0].kind)
            elif edit.source.background != edit.target.background:
                assert words is None
            else:
                assert words is not None
                assert words[0] in edit.source_prompt.split()
                assert words[1] in edit.target_prompt.split()
