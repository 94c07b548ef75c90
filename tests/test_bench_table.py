"""Scoring a run, and its tables: what is averaged, what is left out, intervals, pairs; kills and resumption."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from bench_runs import cases, record, result, write_run
from PIL import Image

from reinvert.bench.report.table import ALL, Bootstrap, environment, figure, heading, make_table, paired, values_of
from reinvert.bench.score.columns import OF_THE_PAPER, PAPER, Networks, score
from reinvert.bench.score.scoring import Setup, open_run, read_board, read_lines, score_run, scores_path
from reinvert.errors import ReinvertError

NONE = Networks()
PIXELS = ("psnr_unedit_part", "mse_unedit_part", "psnr_true_edit", "psnr")


def scored(folder: Path, mode: str = "strict", columns: tuple[str, ...] = PIXELS, **more):
    made = write_run(folder, **more)
    setup = Setup(mode, columns=columns)
    return made, list(score_run(open_run(folder), made, setup, NONE, batch=4))


# --- scoring -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["compat", "strict"])
def test_every_record_has_the_values_that_score_gives(tmp_path, mode) -> None:
    wanted = ("psnr_unedit_part", "mse_edit_part", "ssim_unedit_part", "psnr_true_edit_inside", "lpips_unedit_part")
    made, lines = scored(tmp_path / "run", mode, wanted, count=3, rows=("copy", "ddim+p2p"), failing="ddim+p2p")
    run = open_run(tmp_path / "run")
    assert len(lines) == 3 * 2 - 1
    board = read_board(run, mode)
    for cell in run.cells.values():
        if cell.picture is None:
            assert cell.failure == "out of memory"
            continue
        case = made[cell.case]
        edited = Image.open(cell.picture)
        truth = (case.source_prompt, case.target_prompt, mode, NONE)
        mask = Image.fromarray(case.mask())
        alone = score(case.picture(), edited, mask, *truth, case.true_edit(), columns=wanted)
        for name in wanted:
            assert board.value(cell, name) == alone.values[name], name  # pixels only: not a digit may differ
            assert board.lines[cell.key].reasons.get(name) == alone.reasons.get(name)


def test_nothing_is_scored_twice_and_a_torn_line_is_scored_again(tmp_path) -> None:
    made, lines = scored(tmp_path / "run")
    path = scores_path(tmp_path / "run", "strict")
    whole = path.read_bytes()
    again = list(score_run(open_run(tmp_path / "run"), made, Setup("strict", columns=PIXELS), NONE))
    assert again == []
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-25])  # as a kill in the middle of a write leaves it
    [last] = score_run(open_run(tmp_path / "run"), made, Setup("strict", columns=PIXELS), NONE)
    assert last == lines[-1]
    assert read_board(open_run(tmp_path / "run"), "strict").lines == {line.key: line for line in lines}


def test_scoring_killed_at_any_line_goes_on(tmp_path) -> None:
    made = write_run(tmp_path / "run")
    run, setup = open_run(tmp_path / "run"), Setup("strict", columns=("psnr",))
    for stop in (1, 7, 12):
        child = os.fork()
        if child == 0:  # pragma: no cover
            for index, _ in enumerate(score_run(run, made, setup, NONE, batch=3)):
                if index == stop:
                    os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    list(score_run(run, made, setup, NONE))
    keys = [told["key"] for told in read_lines(scores_path(run.folder, "strict")) if "values" in told]
    assert sorted(keys) == sorted(run.cells)  # each once


def test_two_processes_do_not_score_at_once(tmp_path) -> None:
    made = write_run(tmp_path / "run")
    first = score_run(open_run(tmp_path / "run"), made, Setup("strict", columns=("psnr",)), NONE, batch=2)
    next(first)
    with pytest.raises(ReinvertError, match="another process"):
        next(score_run(open_run(tmp_path / "run"), made, Setup("strict", columns=("psnr",)), NONE))
    next(score_run(open_run(tmp_path / "run"), made, Setup("compat", columns=("psnr",)), NONE))  # a file of its own


def test_modes_and_setups_never_meet(tmp_path) -> None:
    made, lines = scored(tmp_path / "run", "compat")
    run = open_run(tmp_path / "run")
    with pytest.raises(ReinvertError, match="no scores in strict"):
        read_board(run, "strict")
    compressed = Setup("compat", jpeg75=True, columns=PIXELS)
    list(score_run(run, made, compressed, NONE))
    board = read_board(run, "compat")
    assert board.setup["jpeg75"]
    assert board.others == len(lines)
    assert board.lines != {line.key: line for line in lines}
    assert any("other set-ups" in note for note in make_table(board).notes)
    list(score_run(run, made, Setup("compat", columns=PIXELS), NONE))  # nothing to compute: only what is shown
    assert read_board(run, "compat").lines == {line.key: line for line in lines}


def test_what_cannot_be_read_is_said_and_the_rest_is_scored(tmp_path) -> None:
    made = write_run(tmp_path / "run")
    broken = tmp_path / "run" / "images" / "copy-000000000002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    del made["000000000003"]
    run = open_run(tmp_path / "run")
    lines = list(score_run(run, made, Setup("strict", columns=("psnr",)), NONE))
    failed = {line.key: line.failure for line in lines if line.failure}
    assert len(failed) == 1 + 5
    assert "--data" in failed["copy/000000000003"]
    table = make_table(read_board(run, "strict"), ["psnr"])
    assert {row.name: row.unscored for row in table.of()}["copy"] == 2


@pytest.mark.parametrize(
    "words", [{"mode": "strict", "libraries": OF_THE_PAPER}, {"mode": "strict", "columns": ("psnrr",)}]
)
def test_bad_settings_are_refused(words) -> None:
    with pytest.raises(ReinvertError):
        Setup(**words)


def test_an_empty_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ReinvertError, match="no records"):
        open_run(tmp_path)
    with pytest.raises(ReinvertError, match="no folder"):
        open_run(tmp_path / "none")


def test_a_success_replaces_the_failure_before_it(tmp_path) -> None:
    made = write_run(tmp_path / "run", rows=["copy"], failing="copy")
    last = list(made.values())[-1]
    result(last, "copy", 0).save(tmp_path / "run" / "images" / "late.png")
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write(json.dumps(record(last, "copy", "images/late.png")) + "\n" + '{"key": "torn')
    run = open_run(tmp_path / "run")
    assert len(run.cells) == len(made)
    assert all(cell.picture is not None for cell in run.cells.values())


def test_a_newer_run_of_a_row_replaces_the_older(tmp_path) -> None:
    made = write_run(tmp_path / "run", rows=["copy", "vae"])
    case = next(iter(made.values()))
    newer = record(case, "vae", f"images/copy-{case.id}.png", key="newer", settings={"seed": 7})
    failed = record(case, "copy", "", key="newest", error="out of memory")
    with (tmp_path / "run" / "records.jsonl").open("a") as file:
        file.write(json.dumps(newer) + "\n" + json.dumps(failed) + "\n")
    run = open_run(tmp_path / "run")
    assert (len(run.cells), run.superseded) == (12, 2)
    assert "newer" in run.cells
    assert "newest" not in run.cells  # an older picture is worth more than a newer failure
    text = environment([cell for cell in run.of("edit") if cell.row == "vae"])
    assert text.startswith("5 cases: ")  # and mixed settings are told
    assert text.count("settings ") == 2


def test_results_of_another_size_are_compared_with_the_picture_the_model_saw(tmp_path) -> None:
    made = write_run(tmp_path / "run", rows=["copy"], side=32)
    large = cases(len(made), 64)
    lines = list(score_run(open_run(tmp_path / "run"), large, Setup("strict", columns=("psnr",)), NONE))
    assert all(line.values["psnr"] > 20 for line in lines)
    shrunk = made["000000000000"].picture()
    for path in (tmp_path / "run" / "images").iterdir():
        shrunk.resize((32, 16)).save(path)
    lines = list(score_run(open_run(tmp_path / "run"), large, Setup("strict", columns=("ssim",)), NONE))
    assert all("square" in line.failure for line in lines)


def test_results_of_larger_models_are_scored_at_one_size(tmp_path) -> None:
    """A result of twice the size is brought down, bicubic: its score is that of the small one, not of the large."""
    made = write_run(tmp_path / "run", rows=["copy", "direct+p2p"], side=32)
    run, columns = open_run(tmp_path / "run"), ("psnr", "ssim")
    small = {line.key: line.values for line in score_run(run, made, Setup("strict", columns=columns, size=32), NONE)}
    for path in (tmp_path / "run" / "images").iterdir():
        picture = Image.open(path)
        picture.resize((64, 64), Image.Resampling.NEAREST).save(path)
    lines = list(score_run(run, made, Setup("compat", columns=columns, size=32), NONE))
    board = read_board(run, "compat")
    assert board.setup["size"] == 32
    by_hand = Image.open(run.cells[lines[0].key].picture).resize((32, 32), Image.Resampling.BICUBIC)
    case = made[run.cells[lines[0].key].case]
    truth = score(case.picture(), by_hand, None, "", "", "compat", NONE, columns=columns)
    assert lines[0].values["psnr"] == truth.values["psnr"]
    large = {line.key: line.values for line in score_run(run, made, Setup("strict", columns=columns, size=64), NONE)}
    assert any(large[key]["ssim"] != small[key]["ssim"] for key in large)
    with pytest.raises(ReinvertError, match="between 16 and"):
        Setup("strict", size=8)


def test_reconstructions_are_compared_with_the_picture_and_with_the_round_trip(tmp_path) -> None:
    made = write_run(tmp_path / "run", rows=["vae", "direct+p2p"])
    path = tmp_path / "run" / "records.jsonl"
    told = [json.loads(line) for line in path.read_text().splitlines()]
    for line in told:
        line["task"] = "reconstruct"
    path.write_text("".join(json.dumps(line) + "\n" for line in told))
    run = open_run(tmp_path / "run")
    assert run.tasks == ("reconstruct",)
    list(score_run(run, made, Setup("strict"), NONE))
    board = read_board(run, "strict", "reconstruct")
    cell = next(cell for cell in board.cells if cell.row == "direct+p2p")
    trip = Image.open(tmp_path / "run" / f"images/vae-{cell.case}.png")
    edited = Image.open(tmp_path / "run" / f"images/direct+p2p-{cell.case}.png")
    for name, first in (("mse", made[cell.case].picture()), ("mse_round_trip", trip)):
        gap = (np.asarray(first) / 255 - np.asarray(edited) / 255) ** 2
        assert board.value(cell, name) == pytest.approx(gap.mean(), rel=1e-5)  # float32
    heads = [head.name for head in make_table(board).headings]
    assert heads.index("psnr") < heads.index("psnr_round_trip")
    assert "psnr_unedit_part" not in heads


# --- figures -----------------------------------------------------------------------------------------------------


def test_the_published_rule_leaves_out_what_has_no_value() -> None:
    made = figure([1.0, None, 3.0, math.nan])
    assert (made.mean, made.n, made.missing) == (2.0, 2, 2)
    empty = figure([None, None])
    assert (empty.mean, empty.n, empty.low) == (None, 0, None)


def test_infinite_values_are_counted_and_left_out_unless_all_are() -> None:
    made = figure([math.inf, 20.0, 30.0])
    assert (made.mean, made.n, made.infinite) == (25.0, 2, 1)
    assert figure([math.inf, math.inf]).mean == math.inf
    assert heading("psnr").shown(math.inf) == "∞"


def test_the_interval_is_the_textbook_one() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(5.0, 2.0, 200)
    made = figure(values.tolist(), Bootstrap(4000))
    half = 1.96 * values.std() / math.sqrt(200)  # the normal approximation of the same interval
    assert made.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert made.high == pytest.approx(values.mean() + half, abs=0.15 * half)
    naive = np.random.default_rng(1)
    means = [values[naive.integers(200, size=200)].mean() for _ in range(4000)]
    assert made.low == pytest.approx(np.quantile(means, 0.025), abs=0.15 * half)


def test_intervals_are_seeded_and_hold_what_they_promise() -> None:
    values = np.random.default_rng(2).normal(size=40).tolist()
    assert figure(values) == figure(values)
    assert figure(values) != figure(values, Bootstrap(seed=1))
    assert (figure([0.1, 0.1, 0.1]).low, figure([0.1, 0.1, 0.1]).high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert figure([4.0]).low is None
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        made = figure(rng.normal(0.0, 1.0, 60).tolist(), Bootstrap(500))
        inside += made.low <= 0.0 <= made.high
    assert 0.88 < inside / 200 <= 0.99  # 95 % wanted; the standard error of 200 trials is 1.5 %


def test_pairs_are_compared_case_by_case() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(20.0, 6.0, 80)  # cases differ far more than the rows do
    first = {str(i): float(v + 0.5 + rng.normal(0, 0.2)) for i, v in enumerate(hard)}
    second = {str(i): float(v) for i, v in enumerate(hard)}
    first["only here"], second["0"], first["1"] = 99.0, None, math.inf
    made = paired(first, second, "higher")
    assert made.difference.n == 78
    assert made.difference.mean == pytest.approx(np.mean([first[str(i)] - second[str(i)] for i in range(2, 80)]))
    assert made.clear
    assert made.wins > 0.9
    assert paired(first, second, "lower").wins == pytest.approx(1 - made.wins)
    back = paired(second, first, "higher")
    assert back.difference.mean == pytest.approx(-made.difference.mean)
    assert figure(list(v for v in first.values() if math.isfinite(v))).high > 21  # unpaired, the same rows overlap


def test_a_row_paired_with_itself_is_a_draw() -> None:
    same = {"a": 1.0, "b": 2.0, "c": 7.0}
    made = paired(same, same, "lower")
    assert (made.difference.mean, made.wins, made.clear) == (0.0, 0.5, False)
    assert paired(same, {"d": 1.0}, "lower").wins is None


# --- tables ------------------------------------------------------------------------------------------------------


def test_a_table_holds_the_means_of_all_and_of_each_type(tmp_path) -> None:
    made, _ = scored(tmp_path / "run", count=11, failing="ddim+p2p")
    board = read_board(open_run(tmp_path / "run"), "strict")
    table = make_table(board)
    assert [row.name for row in table.of()] == ["copy", "vae", "true-edit", "ddim+p2p", "direct+p2p"]
    assert set(table.kinds) == {ALL, *(case.type_name for case in made.values())}
    values = values_of(board, "ddim+p2p", "psnr_unedit_part")
    there = [value for value in values.values() if value is not None]
    [row] = [row for row in table.of() if row.name == "ddim+p2p"]
    cell = row.figures["psnr_unedit_part"]
    assert cell.mean == pytest.approx(np.mean(there))
    assert cell.n == len(there) < row.cells == 11  # drawn changes of style have no background
    assert (row.failed, row.unscored) == (1, 0)
    assert sum(r.cells for kind in table.kinds if kind != ALL for r in table.of(kind) if r.name == "copy") == 11
    truth = next(row for row in table.of() if row.name == "true-edit").figures["psnr_true_edit"]
    assert (truth.mean, truth.infinite) == (math.inf, 11)


def test_every_row_says_with_what_it_was_made(tmp_path) -> None:
    scored(tmp_path / "run")
    table = make_table(read_board(open_run(tmp_path / "run"), "strict"))
    rows = {row.name: row for row in table.of()}
    for told in ("weights 1a2b3c", "device cpu", "dtype float32", "seed 0", "torch 2.13"):
        assert told in rows["direct+p2p"].environment
    assert rows["ddim+p2p"].uses == "true mask"
    assert rows["direct+p2p"].uses == "blend words"
    assert rows["copy"].uses == ""
    assert "strict" in table.notes[0]


def test_a_missing_network_leaves_its_columns_with_the_reason(tmp_path) -> None:
    scored(tmp_path / "run", "compat", PAPER)
    table = make_table(read_board(open_run(tmp_path / "run"), "compat"))
    [head] = [head for head in table.headings if head.name == "lpips_unedit_part"]
    assert "LPIPS network" in head.reason
    assert head.text == "LPIPS ×10³ ↓"
    assert all(row.figures[head.name].mean is None for row in table.rows)
    assert any("LPIPS ×10³ ↓ is empty" in note for note in table.notes)


def test_rows_made_in_different_ways_say_so(tmp_path) -> None:
    write_run(tmp_path / "run", rows=["copy"])
    path = tmp_path / "run" / "records.jsonl"
    told = [json.loads(line) for line in path.read_text().splitlines()]
    told[0]["environment"]["device"] = "cuda:0"
    path.write_text("".join(json.dumps(line) + "\n" for line in told))
    text = environment(open_run(tmp_path / "run").of("edit"))
    assert text.startswith("5 cases: ")
    assert "1 cases: " in text
    assert "device cuda:0" in text
