"""The runner: its pictures are those of the verbs, it survives every kill, and failures stay with their cells."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_data import BLENDED, DDIM, MASACTRL, P2P, write_data, write_recipe
from conftest import build_tiny, make_picture
from PIL import Image
from test_bench_records import ended, forked

from reinvert import recipes, verbs
from reinvert.backbones.loading import families
from reinvert.bench.data import open_data
from reinvert.bench.records import Records, is_running
from reinvert.bench.run import plan as planning
from reinvert.bench.run import runner
from reinvert.bench.run.plan import Asked, Plan, code_version, folder_of, make_plan, open_plan, weights_of
from reinvert.bench.run.runner import Job, Share, work
from reinvert.errors import NonFiniteError, ReinvertError
from reinvert.image import fit_image, to_image

VARYING = ("seconds", "inversion_seconds", "finished")
"""What differs between two runs of the same."""


@dataclass(frozen=True)
class Place:
    """Data and recipes on the tiny model, which is not loaded again for each run."""

    root: Path
    model: Path
    data: Path
    recipes: dict[str, str]

    def asked(self, *names: str, **more: Any) -> Asked:
        return Asked(tuple(self.recipes[name] for name in names), **{"batch": 2, **more})

    def plan(self, out: Path, *names: str, **more: Any) -> Plan:
        return open_plan(out, self.data, self.asked(*names, **more), device="cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Place:
    root = tmp_path_factory.mktemp("runner")
    bodies = {"p2p": P2P, "masactrl": MASACTRL, "ddim": DDIM, "blended": BLENDED}
    made = {name: write_recipe(root, name, tiny_folder, body) for name, body in bodies.items()}
    return Place(root, tiny_folder, write_data(root / "data"), made)


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, tiny, tiny_folder: Path) -> None:
    """The tiny model in float32 is there already, also in the children of this process."""
    load = runner.load

    def find(name: str, device: Any, dtype: Any) -> Any:
        return tiny if name == str(tiny_folder) and dtype == "float32" else load(name, device, dtype)

    monkeypatch.setattr(runner, "load", find)


def done(plan: Plan, out: Path, **more: Any) -> list[Any]:
    return list(work(Job(plan, out, "cpu", **more)))


def images(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted((out / "images").rglob("*.png"))}


def told(out: Path) -> dict[str, dict[str, Any]]:
    """The records by key without what varies; there must be one of each."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines() if _is_json(line)]
    assert max(Counter(line["key"] for line in lines).values()) == 1
    return {line["key"]: {name: value for name, value in line.items() if name not in VARYING} for line in lines}


def _is_json(line: str) -> bool:
    """Not so are lines that a kill has torn."""
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def row(records: Iterable[Any], name: str) -> dict[str, Any]:
    return {record.case: record for record in records if record.recipe == name}


def picture(out: Path, record: Any) -> np.ndarray:
    return np.asarray(Image.open(out / record.image))


# --- what is made --------------------------------------------------------------------------------------------------


def test_pictures_and_costs_are_those_of_the_verbs(place: Place, tiny, tmp_path: Path) -> None:
    plan = place.plan(tmp_path, "p2p", "masactrl", "ddim", "blended")
    records = done(plan, tmp_path)
    assert len(records) == len(plan.cells) == 6 * 4
    cases = {case.id: case for case in open_data(place.data)}
    one, two = cases["one"], cases["two"]
    expected = verbs.edit(
        tiny, [one.picture(), two.picture()], source=[one.source_prompt, two.source_prompt],
        target=[one.target_prompt, two.target_prompt], blend=[("cat", "dog"), ("red", "blue")], inversion="direct",
        editor="p2p", cross=0.4, steps=2, guidance=3.0, seed=7,
    )  # fmt: skip
    for result, record in zip(expected, (row(records, "p2p")["one"], row(records, "p2p")["two"]), strict=True):
        assert np.array_equal(picture(tmp_path, record), np.asarray(result.image))
        assert record.forwards == result.forwards / 2  # of the batch
        assert record.blend_used
        assert record.attempts == 1
    alone = verbs.edit(
        tiny, cases["four"].picture(), source="a man", target="an old man", inversion="direct", editor="masactrl",
        steps=2, guidance=3.0, seed=7,
    )  # fmt: skip
    record = row(records, "masactrl")["four"]
    assert np.array_equal(picture(tmp_path, record), np.asarray(alone.image))
    assert record.forwards == alone.forwards
    assert not record.blend_used
    masked = row(records, "blended")
    assert masked["three"].mask_used
    assert "needs a mask" in masked["one"].error
    assert masked["one"].image is None


def test_a_row_never_mixes_edits_with_a_region_and_without(place: Place, tiny_folder: Path, tmp_path: Path) -> None:
    # Prompt-to-Prompt could do without a mask; told to use it, it is left out where there is none.
    body = P2P.replace("blend = true", "mask = true")
    assert body != P2P
    told = {**place.recipes, "local": write_recipe(tmp_path, "local", tiny_folder, body)}
    records = done(replace(place, recipes=told).plan(tmp_path / "out", "local", "p2p"), tmp_path / "out")
    masks = {case.id: case.open_mask is not None for case in open_data(place.data)}
    assert set(masks.values()) == {True, False}
    for case, record in row(records, "local").items():
        assert record.mask_used is masks[case] is (record.image is not None)
        assert masks[case] or f"needs a mask of every case, and {case} has none" in record.error
    assert not any(record.mask_used for record in row(records, "p2p").values())


def test_trivial_rows(place: Place, tiny, tmp_path: Path) -> None:
    records = done(place.plan(tmp_path, "ddim", limit=1), tmp_path)
    shown = fit_image(open_data(place.data).cases[0].picture(), tiny.image_size, tiny.multiple)[0]
    copy, trip = row(records, "copy")["one"], row(records, "vae")["one"]
    assert np.array_equal(picture(tmp_path, copy), np.asarray(shown))
    with torch.no_grad():
        expected = to_image(tiny.decode(verbs.prepare(tiny, [shown]).latents)[0])
    assert np.array_equal(picture(tmp_path, trip), np.asarray(expected))
    assert [r.forwards for r in (copy, trip)] == [0, 0]
    assert "true-edit" not in {record.recipe for record in records}


def test_the_true_edit_is_a_row_where_there_is_one(place: Place, tmp_path: Path) -> None:
    plan = open_plan(tmp_path, "picturebook:1?size=32", place.asked("masactrl"), device="cpu")
    record = row(done(plan, tmp_path), "true-edit")["000000"]
    assert np.array_equal(picture(tmp_path, record), np.asarray(open_data(plan.data).cases[0].true_edit()))


def test_a_batch_gives_what_its_cases_give_alone(place: Place, tmp_path: Path) -> None:
    """Up to rounding: of 255 levels at most one, for two steps in float32."""
    for size in (1, 4):
        done(place.plan(tmp_path / f"{size}", "p2p", "ddim", batch=size), tmp_path / f"{size}")
    together, alone = images(tmp_path / "4"), images(tmp_path / "1")
    assert together.keys() == alone.keys()
    for name in alone:
        one, other = (np.asarray(Image.open(tmp_path / size / name)).astype(int) for size in ("1", "4"))
        assert np.abs(one - other).max() <= 1
    keys = [set(told(tmp_path / size)) for size in ("1", "4")]
    assert keys[0] == keys[1]


def test_one_inversion_serves_every_recipe_that_shares_it(
    place: Place, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert, seen = recipes.Recipe.invert, list[tuple[str, int]]()

    def watched(recipe: Any, model: Any, pictures: Any, *more: Any) -> Any:
        seen.append((recipe.inversion["name"], len(pictures)))
        return invert(recipe, model, pictures, *more)

    monkeypatch.setattr(recipes.Recipe, "invert", watched)
    before = tiny.tally.copy()
    records = done(place.plan(tmp_path, "p2p", "masactrl", "ddim"), tmp_path)
    assert sorted(seen) == [("ddim", 1), ("ddim", 1), ("ddim", 2), ("direct", 1), ("direct", 1), ("direct", 2)]
    # Each row is told the inversion as if it were run alone: 2 steps of one row a case, for 4 cases.
    assert sum(record.forwards for record in records) == tiny.tally.since(before).forwards + 2 * 4


def test_a_model_of_larger_pictures_works_at_its_own_size_and_copies_are_copies(
    place: Place, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_data(place.data).cases[0].picture()
    monkeypatch.setattr(tiny, "image_size", 2 * min(source.size))
    records = done(place.plan(tmp_path, "ddim", limit=1), tmp_path)
    assert picture(tmp_path, row(records, "ddim")["one"]).shape == (tiny.image_size, tiny.image_size, 3)
    copy = picture(tmp_path, row(records, "copy")["one"])
    assert copy.shape[:2] == (min(source.size),) * 2
    if source.width == source.height:
        assert np.array_equal(copy, np.asarray(source))


def test_cases_with_and_without_words_or_masks_are_not_mixed(place: Place) -> None:
    plan = make_plan(open_data(place.data), "data", place.asked("ddim", batch=4), "float32")
    assert [[case.id for case in unit.cases] for unit in plan.units[::2]] == [["one", "two"], ["three"], ["four"]]


def test_trained_editors(place: Place, tiny_folder: Path, tmp_path: Path) -> None:
    from test_trained import build

    model = build(tmp_path / "eight", tiny_folder, 8)
    body = '[trained]\nname = "instruct_pix2pix"'
    path = write_recipe(tmp_path, "instruct", model, body.replace("guidance = 3.0\n", ""))
    asked = Asked((path, place.recipes["ddim"]), batch=4)
    out = tmp_path / "out"
    records = done(open_plan(out, place.data, asked, device="cpu"), out)
    made = row(records, "instruct")
    assert not made["one"].error
    assert not made["four"].error
    assert "no instruction" in made["two"].error
    assert made["one"].environment["weights"] == weights_of(str(model)) != made["one"].environment["code"]
    assert picture(out, made["one"]).shape == picture(out, row(records, "copy")["one"]).shape
    assert row(records, "copy")["one"].environment["weights"] == weights_of(str(tiny_folder))
    assert made["one"].forwards == 2 * 3


# --- reconstruction ------------------------------------------------------------------------------------------------


def test_reconstruction_with_and_without_text_and_guidance(place: Place, tiny, tmp_path: Path) -> None:
    plan = place.plan(tmp_path, "p2p", "masactrl", "ddim", task="reconstruct", limit=1)
    records = done(plan, tmp_path)
    names = [f"{inv}, {text}, guidance {g}" for inv in ("direct", "ddim") for text in ("prompt", "empty") for g in "31"]
    assert [record.recipe for record in records] == ["copy", "vae", *names]
    assert {record.task for record in records} == {"reconstruct"}
    source = open_data(place.data).cases[0].picture()
    for text, prompt in (("prompt", "a cat on a mat"), ("empty", "")):
        for g in (3.0, 1.0):
            alone = verbs.reconstruct(tiny, source, prompt, inversion="ddim", steps=2, guidance=g, seed=7)
            record = row(records, f"ddim, {text}, guidance {g:g}")["one"]
            assert np.array_equal(picture(tmp_path, record), np.asarray(alone.image))
            assert record.forwards == alone.forwards
            assert record.settings["guidance"] == g


def test_reconstruction_of_every_inversion(place: Place) -> None:
    asked = Asked(task="reconstruct", model=str(place.model), steps=2)
    plan = make_plan(open_data(place.data), "data", asked, "float32")
    found = {cell.row.name.split(",")[0] for cell in plan.cells}
    assert {"direct", "ddim", "null_text", "edict", "copy", "vae"} <= found
    assert "none" not in found


def test_an_inversion_for_one_region_is_given_the_true_mask(place: Place, tmp_path: Path) -> None:
    """As a row that edits and as one that reconstructs, and both tell that they were."""
    (tmp_path / "kv.toml").write_text(
        'about = "KV-Edit"\nmodel = "x"\nsteps = 2\nguidance = 3.0\n[inversion]\nname = "kv_inv"\nseparate = true\n'
        "[editors.kv_edit]\n[case]\nmask = true\n"
    )
    recipe = recipes.find(str(tmp_path / "kv.toml"))
    model, picture = families()["stable_diffusion_3"].tiny(), make_picture(0)
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, picture.width // 2, picture.height))
    made = recipe.invert(model, [picture], ["a cat"], [mask])
    alone = verbs.invert(model, picture, "a cat", inversion="kv_inv", separate=True, steps=2, guidance=3.0, mask=mask)
    assert torch.equal(made.path, alone.path)
    with pytest.raises(ReinvertError, match="inverts for one region"):
        recipe.invert(model, [picture], ["a cat"])

    blind = replace(recipe, case=recipes.Use())
    assert blind.inversion_key != recipe.inversion_key  # or it would be handed the inversion that knows the region
    asked = Asked((str(tmp_path / "kv.toml"), "ddim+p2p"), task="reconstruct", model=str(place.model))
    rows = {cell.row.name: cell.row.recipe for cell in make_plan(open_data(place.data), "data", asked, "float32").cells}
    told = {name.split(",")[0]: row.case.mask for name, row in rows.items() if row is not None}
    assert told == {"kv_inv": True, "ddim": False}


# --- kills ---------------------------------------------------------------------------------------------------------

ROWS = ("p2p", "masactrl", "ddim", "blended")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_line(records: Records, batch: list[Any]) -> None:
    """Dies in the midst of writing a batch: after its first line and a half."""
    text = "".join(json.dumps(record.told) + "\n" for record in batch).encode()
    with records.path.open("ab") as file:
        tail = b"\n" if file.tell() and not records.path.read_bytes().endswith(b"\n") else b""
        file.write(tail + text[: len(text) * 3 // 4])
    die()


def worst_moments(moment: str) -> Callable[[], None]:
    """Let this (child) process die at that moment of its second row."""
    count = iter(range(1, 1000))

    def patch() -> None:
        append, replaced = Records.append, Path.replace

        def at_append(records: Records, batch: list[Any]) -> None:
            if next(count) < 2:
                return append(records, batch)
            if moment == "before the records":
                die()
            if moment == "in the records":
                half_a_line(records, batch)
            append(records, batch)
            die()

        def at_move(path: Path, target: Path) -> Path:
            if path.suffix == ".png" and next(count) > 2:
                die()
            return replaced(path, target)

        if moment == "before a picture":
            Path.replace = at_move  # type: ignore[method-assign]
        else:
            Records.append = at_append  # type: ignore[method-assign]

    return patch


@pytest.mark.parametrize("kills", [6, pytest.param(24, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_ends_as_if_undisturbed(place: Place, tmp_path: Path, kills: int) -> None:
    """Kills of a real process: one at each of the four worst moments, the others at random ones."""
    calm, out = tmp_path / "calm", tmp_path / "killed"
    plan = place.plan(calm, *ROWS)
    started = time.monotonic()
    done(plan, calm)
    each = (time.monotonic() - started) / len(plan.units)
    assert [cell.key for cell in place.plan(out, *ROWS).cells] == [cell.key for cell in plan.cells]
    rng = random.Random(0)
    killed = 0
    moments = ["before the records", "in the records", "before a picture", "after the records"]

    def run(before: Callable[[], None]) -> Callable[[], None]:
        def body() -> None:
            before()
            done(plan, out)

        return body

    worst = dict(zip(range(kills - 1, -1, -(kills // 4)), reversed(moments), strict=False))
    assert len(worst) == len(moments)
    for turn in range(kills):
        if turn in worst:
            child = forked(run(worst_moments(worst[turn])))
        else:
            child = forked(run(lambda: None))
            time.sleep(rng.uniform(0, each))
            os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(ended(child))
    left = len(plan.cells) - len(Records(out).refresh())
    assert killed == kills
    assert 0 < left < len(plan.cells)  # or the kills did not fall within the work
    assert is_running(out) is False
    done(plan, out)
    assert images(out) == images(calm)
    assert told(out) == told(calm)
    assert len(told(out)) == len(plan.cells)
    assert not list((out / "drafts").iterdir())
    assert done(plan, out) == []


def test_two_processes_share_the_work_and_never_a_cell(place: Place, tmp_path: Path) -> None:
    calm, out = tmp_path / "calm", tmp_path / "shared"
    plan = place.plan(calm, "p2p", "ddim")
    done(plan, calm)
    place.plan(out, "p2p", "ddim")

    def worker(index: int) -> Callable[[], None]:
        def body() -> None:
            mine = [record.key for record in work(Job(plan, out, "cpu"), Share(index, 2))]
            (out / f"by-{index}").write_text("\n".join(mine))

        return body

    for child in [forked(worker(index)) for index in range(2)]:
        assert ended(child) == 0
    shares = [(out / f"by-{index}").read_text().split() for index in range(2)]
    assert sorted(shares[0] + shares[1]) == sorted(cell.key for cell in plan.cells)
    assert all(shares)  # both had some
    assert told(out) == told(calm)
    assert images(out) == images(calm)


def test_a_dead_worker_s_part_is_done_by_the_others(place: Place, tmp_path: Path) -> None:
    """One process is stopped in the midst of its first unit; the other does the rest, waits, and takes over."""
    out = tmp_path / "out"
    plan = place.plan(out, "ddim", limit=2)

    def stopped() -> None:
        runner.write_image = lambda *_: os.kill(os.getpid(), signal.SIGSTOP)  # type: ignore[assignment]
        done(plan, out)

    first = forked(stopped)
    assert os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1])
    second = forked(lambda: done(plan, out) and None)
    deadline = time.monotonic() + 30
    others = [key for unit in plan.units[1:] for key in unit.keys]
    while not set(others) <= Records(out).refresh().keys():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not set(plan.units[0].keys) & Records(out).refresh().keys()
    assert os.waitpid(second, os.WNOHANG) == (0, 0)  # it waits
    os.kill(first, signal.SIGKILL)
    ended(first)
    assert ended(second) == 0
    assert len(told(out)) == len(plan.cells)


# --- failures ------------------------------------------------------------------------------------------------------


def failing_edit(monkeypatch: pytest.MonkeyPatch, fails: Callable[..., Exception | None]) -> None:
    edit = recipes.Recipe.edit

    def tried(recipe: Any, model: Any, trajectory: Any, targets: Any, *more: Any) -> Any:
        error = fails(model, targets)
        if error is not None:
            raise error
        return edit(recipe, model, trajectory, targets, *more)

    monkeypatch.setattr(recipes.Recipe, "edit", tried)


def test_out_of_memory_is_tried_again_in_smaller_batches(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, out = tmp_path / "alone", tmp_path / "out"
    done(place.plan(alone, "masactrl", batch=1), alone)
    plan = place.plan(out, "masactrl", batch=2)
    failing_edit(monkeypatch, lambda m, ts: torch.OutOfMemoryError("CUDA out of memory") if len(ts) > 1 else None)
    made = row(done(plan, out), "masactrl")
    assert {name: record.attempts for name, record in made.items()} == {"one": 2, "two": 2, "three": 1, "four": 1}
    assert {record.batch for record in made.values()} == {1}
    assert not any(record.error for record in made.values())
    for name, data in images(alone).items():
        if name.startswith("images/masactrl"):
            assert images(out)[name] == data


def test_what_is_not_finite_is_tried_again_in_float32(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = place.asked("masactrl", limit=2)
    plan = open_plan(tmp_path, place.data, asked, device="cpu", dtype="float16")
    failing_edit(monkeypatch, lambda m, ts: NonFiniteError(0, 2, "it") if m.dtype != torch.float32 else None)
    records = done(plan, tmp_path)
    made = row(records, "masactrl")
    assert {(r.attempts, r.environment["dtype"], r.error) for r in made.values()} == {(3, "float32", "")}
    assert {r.environment["dtype"] for r in row(records, "vae").values()} == {"float16"}


def test_what_fails_is_recorded_and_the_run_goes_on(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = place.plan(tmp_path, "masactrl", "ddim")
    with monkeypatch.context() as patch:
        failing_edit(patch, lambda m, ts: RuntimeError("an  odd\nfailure") if "an old man" in ts else None)
        records = done(plan, tmp_path)
    assert len(records) == len(plan.cells)
    failed = [record for record in records if record.error]
    assert [(r.recipe, r.case, r.error, r.image) for r in failed] == [
        ("masactrl", "four", "RuntimeError: an odd failure", None),
        ("ddim", "four", "RuntimeError: an odd failure", None),
    ]
    assert done(plan, tmp_path) == []  # a failure is a result
    again = done(plan, tmp_path, again=True)
    assert [(r.recipe, r.case, r.error) for r in again] == [("masactrl", "four", ""), ("ddim", "four", "")]
    assert not any(found["error"] for found in Records(tmp_path).refresh().values())


def test_guidance_beyond_all_numbers_fails_by_itself(place: Place, tmp_path: Path) -> None:
    made = row(done(place.plan(tmp_path, "ddim", limit=2, guidance=1e38), tmp_path), "ddim")
    assert all("not finite" in record.error for record in made.values())
    assert {record.overrides["guidance"] for record in made.values()} == {1e38}


def test_a_damaged_picture_fails_in_every_row(place: Place, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    make_picture(1).save(data / "two.png", "JPEG", quality=95)  # torn, as only decoding shows
    whole = (data / "two.png").read_bytes()
    (data / "two.png").write_bytes(whole[:-150])
    out = tmp_path / "out"
    records = done(open_plan(out, data, place.asked("p2p"), device="cpu"), out)
    assert {(record.recipe, record.case) for record in records if record.error} == {
        ("copy", "two"), ("vae", "two"), ("p2p", "two"),
    }  # fmt: skip
    assert all("damaged" in record.error for record in records if record.error)
    assert not row(records, "p2p")["one"].error


def test_a_full_disk_stops_the_run(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    plan = place.plan(tmp_path, "ddim", limit=1)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "write_image", full)
        with pytest.raises(OSError, match="No space"):
            done(plan, tmp_path)
    assert Records(tmp_path).refresh() == {}
    assert len(done(plan, tmp_path)) == len(plan.cells)


# --- keys and folders ----------------------------------------------------------------------------------------------


def test_a_key_is_what_decides_the_result(place: Place, tmp_path: Path) -> None:
    def keys(asked: Asked, dtype: str = "float32", code: str = "1") -> set[str]:
        plan = make_plan(open_data(place.data), "data", asked, dtype, code)
        return {cell.key for cell in plan.cells if cell.row.recipe is not None}

    asked = place.asked("ddim")
    base = keys(asked)
    assert keys(replace(asked, batch=1)) == base
    assert keys(replace(asked, limit=2)) < base
    other = build_tiny(tmp_path / "other", seed=3)
    for changed in (
        keys(replace(asked, steps=3)),
        keys(replace(asked, guidance=2.0)),
        keys(replace(asked, model=str(other))),
        keys(asked, "float16"),
        keys(asked, code="2"),
    ):
        assert not changed & base
    moved = tmp_path / "moved"
    moved.symlink_to(place.model)
    assert keys(replace(asked, model=str(moved))) == base  # the weights count, not where they lie


def test_a_folder_holds_one_run(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    done(place.plan(out, "ddim", limit=1), out)
    place.plan(out, "ddim", "masactrl")  # more rows and cases are welcome
    with pytest.raises(ReinvertError, match="other settings"):
        place.plan(out, "ddim", steps=3)
    with pytest.raises(ReinvertError, match="go on with --dtype float32"):
        open_plan(out, place.data, place.asked("ddim"), device="cpu", dtype="float16")
    with pytest.raises(ReinvertError, match="is a run on"):
        open_plan(out, "picturebook:3", place.asked("ddim"), device="cpu")
    other = build_tiny(tmp_path / "other", seed=3)
    with pytest.raises(ReinvertError, match="other weights"):
        place.plan(out, "ddim", model=str(other))
    monkeypatch.setattr(planning, "code_version", lambda: "9.9")
    with pytest.raises(ReinvertError, match="--any-version"):
        place.plan(out, "ddim", limit=1)
    plan = open_plan(out, place.data, place.asked("ddim", limit=1), device="cpu", any_version=True)
    assert done(plan, out) == []


def test_changed_data_is_noticed(place: Place, tmp_path: Path) -> None:
    data, out = write_data(tmp_path / "data", 1), tmp_path / "out"
    done(open_plan(out, data, place.asked("ddim"), device="cpu"), out)
    table = data / "cases.csv"
    table.write_text(table.read_text().replace("a dog on", "a cow on"))
    with pytest.raises(ReinvertError, match="other data"):
        open_plan(out, data, place.asked("ddim"), device="cpu")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"batch": 0}, "--batch 0 is too small"),
        ({"limit": 0}, "--limit 0 is too small"),
        ({"steps": 0}, "--steps 0 is too small"),
        ({"recipes": ()}, "at least one recipe"),
    ],
)
def test_what_cannot_be_is_refused(place: Place, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ReinvertError, match=said):
        make_plan(open_data(place.data), "data", replace(place.asked("ddim"), **more), "float32")


def test_a_row_is_named_once(place: Place) -> None:
    with pytest.raises(ReinvertError, match="two rows"):
        make_plan(open_data(place.data), "data", place.asked("ddim", "ddim"), "float32")


def test_the_code_s_version_is_of_what_makes_pictures() -> None:
    assert code_version() == code_version()
    assert "+" in code_version()


def test_every_row_has_a_folder_of_its_own() -> None:
    names = [
        "a b",
        "a_b",
        "A_b",
        "a.b",
        "...",
        "reconstruct",
        "direct+p2p",
        "ddim, prompt, guidance 1",
        "é",
        "e",
        "a/b",
    ]
    folders = [folder_of(name) for name in names]
    assert len({folder.lower() for folder in folders}) == len(names)
    assert folder_of("direct+p2p") == "direct+p2p"
    for folder in folders:
        assert "/" not in folder
        assert folder.strip(".") == folder != "reconstruct"


def test_recipes_of_like_names_keep_their_pictures_apart(tmp_path: Path) -> None:
    text = 'base = "ddim+p2p"\nmodel = "picturebook"\nsteps = {}\n'
    for steps, name in enumerate(("a b.toml", "a_b.toml"), 3):
        (tmp_path / name).write_text(text.format(steps))
    asked = Asked((str(tmp_path / "a b.toml"), str(tmp_path / "a_b.toml")), limit=1)
    plan = make_plan(open_data("picturebook:10"), "picturebook:10", asked, "float32")
    images = [cell.row.image(cell.case.id) for cell in plan.cells]
    assert len(set(images)) == len(images) == 5
