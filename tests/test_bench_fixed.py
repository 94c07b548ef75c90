"""The fixed sets of picturebook: what they hold, and that they stay what they are."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from reinvert.bench import make
from reinvert.bench.data import fixed, open_data
from reinvert.errors import ReinvertError
from reinvert.picturebook.edits import Edit
from reinvert.picturebook.scene import held_out

FIRST = {"v1": "24e6248c7e261fde", "v1-heldout": "3f9fac2f70de9be0"}
"""Hashes of the first 20 cases. A set never changes: whoever changes the world or its words makes a v2 beside it."""


@pytest.mark.parametrize("name", fixed.SETS)
def test_a_set_stays_what_it_is(name: str) -> None:
    first = json.dumps([[key, asdict(edit)] for key, edit in fixed.edits_of(name)[:20]], sort_keys=True)
    assert hashlib.sha256(first.encode()).hexdigest()[:16] == FIRST[name]


@pytest.mark.parametrize("name", fixed.SETS)
def test_a_set_has_the_original_s_proportions(name: str) -> None:
    edits = [edit for _, edit in fixed.edits_of(name)]
    assert Counter(edit.type_id for edit in edits) == dict(enumerate((140, 80, 80, 80, 40, 40, 40, 40, 80, 80)))
    assert len({key for key, _ in fixed.edits_of(name)}) == 700
    # a part of it has about the same
    first = Counter(edit.type_id for edit in edits[:35])
    assert first == {0: 7, 1: 4, 2: 4, 3: 4, 4: 2, 5: 2, 6: 2, 7: 2, 8: 4, 9: 4}
    two = Counter(edit.type_id for edit in edits if _things(edit) == 2)
    assert all(two[type_id] >= count // 6 for type_id, count in enumerate(fixed.SHARES))
    assert sum(two.values()) < 350
    # one word of the prompt names one thing, and training has seen neither picture
    for edit in edits:
        for scene in (edit.source, edit.target):
            assert len({thing.kind for thing in scene.things}) == len(scene.things)
            assert held_out(scene)
        assert edit.source != edit.target


def _things(edit: Edit) -> int:
    return max(len(edit.source.things), len(edit.target.things))


def test_nothing_is_asked_twice() -> None:
    asked = [(edit.source_prompt, edit.target_prompt) for name in fixed.SETS for _, edit in fixed.edits_of(name)]
    assert len(set(asked)) == 1400


def test_an_edit_of_two_things_changes_one_of_them() -> None:
    pairs = [e for _, e in fixed.edits_of("v1") if len(e.source.things) == len(e.target.things) == 2 and e.type_id < 8]
    assert len(pairs) > 50
    for edit in pairs:
        same = [a == b for a, b in zip(edit.source.things, edit.target.things, strict=True)]
        assert sorted(same) == [False, True]
        changed = edit.source.things[same.index(False)]
        other = edit.source.things[same.index(True)]
        worn = [thing.wearing for thing in (changed, edit.target.things[same.index(False)])]
        named = {word for word in (changed.kind, *worn) if word and word in edit.instruction.split()}
        assert named - {other.kind, other.wearing}
    moved = [e for _, e in fixed.edits_of("v1") if len(e.source.things) == 2 and e.type_id == 8]
    assert moved
    assert all(thing.kind in edit.instruction for edit in moved for thing in edit.source.things)


def test_it_is_read_and_written() -> None:
    data = open_data("picturebook:v1?size=32")
    assert (len(data), data.name, data.about["content"]) == (700, "picturebook:v1?size=32", fixed.content("v1"))
    key, edit = fixed.edits_of("v1")[3]
    case = data.cases[3]
    assert (case.id, case.source_prompt, case.instruction) == (key, edit.source_prompt, edit.instruction)
    assert np.array_equal(np.asarray(case.picture()), np.asarray(edit.picture(32)))
    before, after = case.attributes() or ({}, {})
    assert before["background"] == edit.source.background
    assert after != before


def test_bench_make_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = fixed.edits_of("v1")[:12]
    monkeypatch.setattr(make, "edits_of", lambda name: few if name == "v1" else ())
    make.write(tmp_path / "v1", fixed="v1", size=32, pictures="png")
    data = open_data(tmp_path / "v1")
    assert data.name == "picturebook:v1 in the format of PIE-Bench"
    drawn = {case.id: case for case in open_data("picturebook:v1?size=32").cases[:12]}
    assert {case.id for case in data} == set(drawn)
    for case in data:
        own = drawn[case.id]
        assert case.picture().tobytes() == own.picture().tobytes()
        assert (case.blend, case.instruction, case.attributes()) == (own.blend, own.instruction, own.attributes())


@pytest.mark.parametrize("spec", ["picturebook:v2", "picturebook:v1?seed=3", "picturebook:v1?size=2", "picturebook:V1"])
def test_what_is_no_set_is_refused(spec: str) -> None:
    with pytest.raises(ReinvertError):
        open_data(spec)
