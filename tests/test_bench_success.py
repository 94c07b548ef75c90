"""Edit success: the true edit succeeds, the source has not changed, and a wrong colour has not been kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench_runs import write_run

from reinvert.bench.data import fixed
from reinvert.bench.report import formats, judged
from reinvert.bench.report.page import page
from reinvert.bench.report.table import make_table
from reinvert.bench.score.columns import Networks
from reinvert.bench.score.scoring import Setup, open_run, read_board, score_run
from reinvert.bench.score.success import COLUMNS, Judge, question, values
from reinvert.picturebook.draw import draw
from reinvert.picturebook.edits import Edit, sample_edits
from reinvert.picturebook.reader import HEADS, truth
from reinvert.picturebook.scene import COLORS, Scene, Thing

CAT = Thing("cat", "red")
STAR = Thing("star", "blue", wearing="hat", x=0.73, size=0.19)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.bundled()


def of(edit: Edit) -> tuple[dict[str, str], dict[str, str]]:
    return truth(edit.source), truth(edit.target)


# --- the question --------------------------------------------------------------------------------------------------


def test_all_that_the_edit_leaves_alone_is_kept() -> None:
    before = Scene((CAT,), "grass")
    asked = question(truth(before), truth(before.with_thing(color="blue")))
    assert asked.asked == {"only.color": "blue"}
    assert set(asked.kept) == {
        "background",
        "style",
        "count",
        *(f"only.{n}" for n in ("kind", "material", "wearing", "facing")),
    }


def test_a_thing_that_gets_company_is_kept() -> None:
    alone, both = Scene((replace(CAT, x=0.27, size=0.19),)), Scene((replace(CAT, x=0.27, size=0.19), STAR))
    added = question(truth(alone), truth(both))
    assert added.asked == {
        "count": "2", "right.kind": "star", "right.color": "blue", "right.material": "plain", "right.wearing": "hat",
    }  # fmt: skip
    assert added.kept["left.kind"] == "cat"
    gone = question(truth(both), truth(alone))
    assert gone.asked == {"count": "1"}
    assert gone.kept["only.color"] == "red"
    assert all(name in HEADS for name in (*added.asked, *added.kept, *gone.kept))


def test_every_edit_of_the_fixed_set_asks_for_something() -> None:
    for _, edit in fixed.edits_of("v1"):
        asked = question(*of(edit))
        assert asked.asked
        assert asked.kept
        assert {**asked.asked, **asked.kept} == truth(edit.target)


# --- what is read --------------------------------------------------------------------------------------------------


def test_values_of_single_attributes() -> None:
    alone, both = Scene((CAT,)), Scene((replace(CAT, x=0.27, size=0.19), STAR))
    found = values(
        question(truth(alone), truth(both)), {**truth(both), "right.color": "green", "left.material": "metal"}
    )
    assert (found["success"], found["changed"], found["kept"]) == (0, 0, 0)
    assert (found["changed_color"], found["changed_kind"], found["kept_color"], found["kept_material"]) == (0, 1, 1, 0)
    assert "changed_background" not in found
    assert set(found) <= set(COLUMNS)


EDITS = [edit for edit in sample_edits(40, seed=2) if len(edit.source.things) == len(edit.target.things) == 1]


def test_the_true_edit_succeeds(judge: Judge) -> None:
    found = judge.read([(edit.truth()[0], question(*of(edit))) for edit in EDITS])
    assert sum(made["success"] for made in found) >= 0.9 * len(EDITS)
    assert all(made["changed"] == 1 for made in found if made["success"])


def test_the_source_has_kept_everything_and_changed_nothing(judge: Judge) -> None:
    found = judge.read([(edit.picture(), question(*of(edit))) for edit in EDITS])
    assert sum(made["changed"] for made in found) == 0
    assert sum(made["kept"] for made in found) >= 0.9 * len(EDITS)
    assert sum(made["success"] for made in found) == 0


def test_a_wrong_colour_has_not_been_kept(judge: Judge) -> None:
    moved = [edit for edit in sample_edits(12, 8, seed=4) if len(edit.target.things) == 1]
    wrong = []
    for edit in moved:
        color = next(c for c in COLORS if c not in (edit.target.things[0].color, "white"))
        wrong.append((draw(edit.target.with_thing(color=color)), question(*of(edit))))
    found = judge.read(wrong)
    assert [made["kept_color"] for made in found] == [0] * len(found)
    assert sum(made["kept"] + made["success"] for made in found) == 0
    assert sum(made["changed"] for made in found) >= 0.9 * len(found)
    assert sum(made["kept_kind"] for made in found) >= 0.9 * len(found)


def test_the_bundled_judge_knows_this_world(judge: Judge) -> None:
    """It is stale where the world is drawn otherwise: `python -m reinvert.picturebook.reader` trains it again."""
    assert len(judge.digest) == 16


# --- in a run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, judge: Judge):
    folder = tmp_path_factory.mktemp("judged")
    cases = write_run(folder, count=4, side=64, rows=("copy", "true-edit", "direct+p2p"), suffix=" <b>")
    edits = {f"{i:012d}": sample_edits(i + 1, seed=5)[-1] for i in range(4)}
    cases = {key: replace(case, open_attributes=lambda key=key: of(edits[key])) for key, case in cases.items()}
    setup = Setup("strict", columns=("psnr_unedit_part", "psnr_true_edit"), networks=judge.describe())
    list(score_run(open_run(folder), cases, setup, Networks(), judge))
    return folder, cases, read_board(open_run(folder), "strict")


def test_success_stands_first(board) -> None:
    table = make_table(board[2])
    assert [head.name for head in table.headings][:4] == ["success", "changed", "kept", "psnr_true_edit"]
    by_row = {row.name: row.figures["success"].mean for row in table.of()}
    assert by_row["copy"] == 0
    assert by_row["true-edit"] == 1
    assert "judge: picturebook sha256:" in "\n".join(table.notes)
    assert any(f"hash {board[2].hash}." in note for note in table.notes)
    assert {line["data hash"] for line in formats.table_rows(table)} == {board[2].hash}


def test_reports_have_it_before_everything(board) -> None:
    folder, cases, made = board
    grids = judged.grids(made)
    assert grids[0].heads[:2] == ("row", "all")
    assert dict(zip(grids[0].heads, grids[0].rows[0], strict=True))["all"] == "0 (0 to 0, n=4)"
    table = make_table(made)
    text = page(open_run(folder), [(table, made)], cases)
    assert text.index("Is the edit right?") < text.index('id="table-title"')
    formats.write_markdown(table, folder / "t.md", grids)
    assert (folder / "t.md").read_text().startswith("**Is the edit right?**")


def test_without_a_judge_nothing_is_said(tmp_path: Path) -> None:
    cases = write_run(tmp_path / "run", count=2)
    list(score_run(open_run(tmp_path / "run"), cases, Setup("strict", columns=("psnr_true_edit",)), Networks()))
    made = read_board(open_run(tmp_path / "run"), "strict")
    assert judged.grids(made) == ()
    assert judged.as_html(()) == judged.as_markdown(()) == ""
