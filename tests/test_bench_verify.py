"""Verification of a run: what holds, and that a tampered picture, record or score does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_data import P2P, write_data, write_recipe
from PIL import Image

from reinvert.bench import verify
from reinvert.bench.data import open_data
from reinvert.bench.report.table import make_table
from reinvert.bench.run import runner
from reinvert.bench.run.plan import Asked, open_plan
from reinvert.bench.run.runner import Job, work
from reinvert.bench.score.columns import Networks
from reinvert.bench.score.scoring import Setup, open_run, read_board, score_run
from reinvert.bench.verdict import Verdict, read_verdict, standing
from reinvert.bench.verify import Verification
from reinvert.cli import main
from reinvert.errors import ReinvertError

NONE = Networks(reasons=dict.fromkeys(("lpips", "structure", "clip"), "no networks were asked for"))


@pytest.fixture(scope="module")
def model(tiny, tiny_folder: Path):
    """The tiny model, which is not loaded again for each verification."""
    load = runner.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "load", lambda name, *more: tiny if name == str(tiny_folder) else load(name, *more))
        yield tiny_folder


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run: a recipe in batches of two, with the trivial rows."""
    root = tmp_path_factory.mktemp("verify")
    data, recipe = write_data(root / "data"), write_recipe(root, "p2p", model, P2P)
    plan = open_plan(root / "run", data, Asked((recipe,), batch=2, limit=2), device="cpu")
    list(work(Job(plan, root / "run", "cpu")))
    run, cases = open_run(root / "run"), {case.id: case for case in open_data(data)}
    list(score_run(run, cases, Setup("strict", networks=NONE.describe()), NONE))
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def verdict(folder: Path, made: Path, sample: int = 99, **more: Any) -> Verdict:
    steps = Verification(folder, open_data(made / "data"), sample, networks=NONE, device="cpu", **more).run()
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return ended.value


def changed(folder: Path, where: str, change: Callable[[dict[str, Any]], None], row: str = "p2p") -> None:
    """Change the first line of a row."""
    lines = [json.loads(line) for line in (folder / where).read_text().splitlines()]
    keys = {
        told["key"]
        for told in map(json.loads, (folder / "records.jsonl").read_text().splitlines())
        if told["recipe"] == row
    }
    change(next(told for told in lines if told["key"] in keys))
    (folder / where).write_text("".join(json.dumps(told) + "\n" for told in lines))


def test_a_run_that_is_as_it_says(folder: Path, made: Path) -> None:
    found = verdict(folder, made)
    assert found.holds, found.said
    assert (found.rendered, found.same, found.cells) == (6, 6, 6)  # copy, vae and p2p on two cases
    assert found.scored == 6
    assert not found.skipped
    assert read_verdict(folder) == found
    assert standing(folder).verified
    table = make_table(read_board(open_run(folder), "strict"))
    assert any(note.startswith("Verified 20") for note in table.notes)


def test_a_sample_is_drawn_by_its_seed(folder: Path, made: Path) -> None:
    first, again = verdict(folder, made, 3, seed=1), verdict(folder, made, 3, seed=1)
    assert first.rendered == again.rendered == 3
    assert first.said == again.said


def test_a_verdict_stands_only_for_what_it_saw(folder: Path, made: Path) -> None:
    assert not standing(folder).verified
    verdict(folder, made, 2)
    assert standing(folder).verified
    picture = next((folder / "images").rglob("*.png"))
    Image.new("RGB", (32, 32)).save(picture)
    assert not standing(folder).verified
    assert "have changed since" in standing(folder).said


def test_a_tampered_picture_is_told(folder: Path, made: Path) -> None:
    path = folder / "images" / "p2p" / "two.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[5, 7, 1] ^= 1  # one level of one pixel
    Image.fromarray(pixels).save(path)
    found = verdict(folder, made)
    assert not found.holds
    pictures = [finding for finding in found.findings if finding.what == "picture"]
    assert [(finding.row, finding.case) for finding in pictures] == [("p2p", "two")]
    assert "in the same environment" in pictures[0].why


def test_another_environment_has_a_tolerance(folder: Path, made: Path) -> None:
    def elsewhere(told: dict[str, Any]) -> None:
        told["environment"]["machine"] = "another, 96 threads"

    path = folder / "images" / "p2p" / "one.png"
    changed(folder, "records.jsonl", elsewhere)
    pixels = np.asarray(Image.open(path)).copy()
    pixels[5, 7, 1] ^= 1
    Image.fromarray(pixels).save(path)
    found = verdict(folder, made)
    assert not [finding for finding in found.findings if finding.what == "picture"]
    assert found.near == 1
    assert found.worst is not None
    assert found.worst > verify.NEAR
    pixels[:4, :4] = 255 - pixels[:4, :4]
    Image.fromarray(pixels).save(path)
    [finding] = [f for f in verdict(folder, made).findings if f.what == "picture"]
    assert finding.case == "one"
    assert "with other machine" in finding.why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda told: told.update(forwards=1), "its forwards are 1"),
        (lambda told: told.update(fingerprint="0" * 16), "fingerprint"),
        (lambda told: told["settings"].update(guidance=9.0), "its key is"),
        (lambda told: told["environment"].update(weights="0" * 16), "its key is"),
        (lambda told: told.update(blend_used=False), "its blend_used is"),
        (lambda told: told.update(case="four"), "its fingerprint is"),
        (lambda told: told.update(image="images/copy/one.png"), "its image is"),
    ],
)
def test_a_tampered_record_is_told(folder: Path, made: Path, change: Callable[..., None], why: str) -> None:
    changed(folder, "records.jsonl", change)
    found = verdict(folder, made, 99 if "forwards" in why else 1)
    assert not found.holds
    assert any(finding.what == "record" and why in finding.why for finding in found.findings), found.findings


def test_a_tampered_score_is_told(folder: Path, made: Path) -> None:
    changed(folder, "scores-strict.jsonl", lambda told: told["values"].update(psnr=told["values"]["psnr"] * 1.01))
    found = verdict(folder, made, 2)
    assert [(finding.what, finding.row) for finding in found.findings] == [("score", "p2p")]
    assert "its psnr in strict is" in found.findings[0].why


def test_what_cannot_be_verified_is_told(folder: Path, made: Path) -> None:
    about = json.loads((folder / "run.json").read_text())
    about["models"] = {}
    (folder / "run.json").write_text(json.dumps(about))
    found = verdict(folder, made, 1)
    assert not found.holds
    assert not found.findings
    assert "name it with --model" in found.skipped[0]
    assert verdict(
        folder, made, 1, model=next(iter(json.loads((made / "run" / "run.json").read_text())["models"]))
    ).holds
    other = Verification(folder, open_data(made / "data"), 1, networks=Networks(), device="cpu")
    list(other.run())
    assert any("other networks" in why for why in other.skipped)


def test_the_command(folder: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "verify", str(folder), "--sample", "2", "--seed", "3", "--networks", "none", "--device", "cpu"]
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("Verified 20")
    changed(folder, "records.jsonl", lambda told: told.update(mask_used=True))
    assert main([*command, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "record of p2p, case one: its mask_used is True" in said
    assert "NOT as it says" in said


def test_a_damaged_verdict_is_no_verdict(folder: Path) -> None:
    (folder / "verification.json").write_text('{"when": 3}')
    with pytest.raises(ReinvertError):
        read_verdict(folder)
    assert not standing(folder).verified
