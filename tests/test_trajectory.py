"""Trajectories as files and as promises: what was saved comes back, and what does not belong is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SOURCE, TARGET, build_tiny, load_tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import reinvert
from reinvert.errors import ReinvertError
from reinvert.trajectory import Trajectory

STEPS = 3


@pytest.fixture(scope="module")
def fitted(tiny, picture) -> Trajectory:
    """Has everything that a trajectory can have but an anchor."""
    return reinvert.invert(tiny, picture, SOURCE, inversion="null_text", inner=1, steps=STEPS, guidance=3.0, seed=7)


@pytest.fixture(scope="module")
def pair(tiny, picture, other_picture) -> Trajectory:
    """Two cases, anchored."""
    return reinvert.invert(tiny, [picture, other_picture], [SOURCE, TARGET], every=2, steps=STEPS)


@pytest.mark.parametrize("which", ["fitted", "pair"])
def test_saving_and_loading_keeps_everything(request, tmp_path: Path, which: str) -> None:
    made: Trajectory = request.getfixturevalue(which)
    made.save(tmp_path / "a.trajectory.safetensors")
    read = Trajectory.load(tmp_path / "a.trajectory.safetensors")
    assert torch.equal(read.path, made.path)
    assert (read.null is None) == (made.null is None)
    if made.null is not None and read.null is not None:
        assert torch.equal(read.null.tokens, made.null.tokens)
    for name in ("prompts", "steps", "inversion", "schedule", "model", "null_for_targets", "guidance"):
        assert getattr(read, name) == getattr(made, name), name
    assert dict(read.settings) == dict(made.settings)
    assert read.pulled == made.pulled
    assert json.loads(json.dumps(made.info)) == read.info


def test_the_header_says_how_it_was_made(fitted, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a.trajectory.safetensors")
    with safe_open(tmp_path / "a.trajectory.safetensors", "pt") as file:
        header = file.metadata()
    assert header["inversion"] == "null_text"
    assert json.loads(header["settings"])["inner"] == 1
    assert json.loads(header["prompts"]) == [SOURCE]
    assert json.loads(header["guidance"]) == 3.0
    assert json.loads(header["info"])["seed"] == 7


def test_half_precision_files_are_half_as_large_and_rounded_once(fitted, tmp_path: Path) -> None:
    full, half = tmp_path / "full.trajectory.safetensors", tmp_path / "half.trajectory.safetensors"
    fitted.save(full)
    fitted.save(half, half=True)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    read = Trajectory.load(half)
    assert read.path.dtype == torch.float32
    assert torch.equal(read.path, fitted.path.half().float())  # rounding to float16, and nothing else
    assert read.null is not None
    assert torch.equal(read.null.tokens, fitted.null.tokens.half().float())


def test_float64_survives(fitted, tmp_path: Path) -> None:
    replace(fitted, path=fitted.path.double()).save(tmp_path / "a.trajectory.safetensors")
    assert Trajectory.load(tmp_path / "a.trajectory.safetensors").path.dtype == torch.float64


def test_cases_can_be_taken_out(tiny, pair) -> None:
    for i, prompt in enumerate((SOURCE, TARGET)):
        one = pair.case(i)
        assert one.prompts == (prompt,)
        assert torch.equal(one.path[:, 0], pair.path[:, i])
        assert torch.equal(one.start[0], pair.start[i])
        reinvert.edit(tiny, one, target="a red house", editor="prompt")


# --- what does not belong ------------------------------------------------------------------------------------


def test_another_model_is_refused(fitted, tiny_v64, parity_model) -> None:
    for other in (tiny_v64, parity_model):
        with pytest.raises(ReinvertError, match=r"was made with tiny-eps, not with .*; load that model, or invert"):
            reinvert.edit(other, fitted, target=TARGET, guidance=3.0)


def test_the_same_architecture_with_other_weights_is_refused(fitted, tmp_path: Path) -> None:
    other = load_tiny(build_tiny(tmp_path / "other", seed=5))
    with pytest.raises(ReinvertError, match="was made with"):
        reinvert.reconstruct(other, fitted, guidance=3.0)


def test_the_same_weights_in_another_precision_are_not(fitted, tiny64) -> None:
    assert reinvert.reconstruct(tiny64, fitted, guidance=3.0).latents.isfinite().all()


def test_another_schedule_is_refused(tiny, fitted) -> None:
    for wrong in ("{}", tiny.schedule.replace("epsilon", "v_prediction"), tiny.schedule.replace("0.012", "0.013")):
        assert wrong != tiny.schedule
        with pytest.raises(ReinvertError, match="another noise schedule than that of tiny-eps; invert again"):
            reinvert.edit(tiny, replace(fitted, schedule=wrong), target=TARGET, guidance=3.0)


def test_other_steps_are_refused(tiny, fitted) -> None:
    with pytest.raises(ReinvertError, match="this trajectory has 3 steps, not 4"):
        reinvert.edit(tiny, fitted, target=TARGET, steps=4, guidance=3.0)
    with pytest.raises(ReinvertError, match="this trajectory has 3 steps, not 4"):
        reinvert.reconstruct(tiny, fitted, steps=4, guidance=3.0)


def test_another_guidance_than_the_null_text_was_fitted_to_is_refused(tiny, fitted, pair) -> None:
    with pytest.raises(ReinvertError, match=r"fitted to guidance 3 and falls apart at 7.5; edit with --guidance 3"):
        reinvert.edit(tiny, fitted, target=TARGET, guidance=7.5)
    assert reinvert.edit(tiny, fitted, target=TARGET).settings["guidance"] == 3.0  # where none is named
    for guidance in (1.0, 2.0):  # nothing was fitted here
        reinvert.reconstruct(tiny, pair, guidance=guidance)


def test_another_source_is_refused(tiny, fitted) -> None:
    with pytest.raises(ReinvertError, match=f"this trajectory was made for '{SOURCE}'; leave --source out"):
        reinvert.edit(tiny, fitted, source=TARGET, target=TARGET, guidance=3.0)


# --- files that are no trajectories --------------------------------------------------------------------------


def test_files_that_are_no_trajectories_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.trajectory.safetensors"
    with pytest.raises(ReinvertError, match="does not exist; write one with `reinvert invert`"):
        Trajectory.load(path)
    for content in (b"", b"hello", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04" + b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(ReinvertError, match="damaged or not a reinvert trajectory"):
            Trajectory.load(path)
    save_file({"path": torch.zeros(2, 1, 1, 2, 2)}, path)
    with pytest.raises(ReinvertError, match="not a reinvert trajectory"):
        Trajectory.load(path)


WRONG = {
    "steps": ["x", "4", "-1", "0", ""],
    "prompts": ["5", '["a", "b"]', "[]", "[1]", '"abc"', "null", "{"],
    "settings": ["[]", "5", "null"],
    "model": ["5", "{}", '{"config": "a", "probe": null}', '{"config": 3, "probe": ["a"]}'],
    "pulled": ["5", '{"strengti": 1}', '{"strength": "much"}', '{"every": 0}', '{"carry": "x"}', "[]"],
    "guidance": ['"high"', "[]", "{}"],
    "null_for_targets": ["3", '"yes"'],
    "info": ["[]", "7"],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in WRONG.items() for v in values])
def test_headers_that_make_no_sense_are_refused(fitted, tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "x.trajectory.safetensors"
    fitted.save(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    save_file(tensors, path, header | {field: value})
    with pytest.raises(ReinvertError, match="damaged or not a reinvert trajectory"):
        Trajectory.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"path": torch.zeros(3, 1, 3, 16, 16)},  # a step too few
        {"path": torch.zeros(4, 3, 16, 16)},  # no case axis
        {"path": torch.zeros(4, 2, 3, 16, 16)},  # a case too many
        {"path": torch.zeros(4, 1, 3, 16, 16, dtype=torch.int32)},
        {"null": torch.zeros(2, 1, 16, 12)},  # neither one for every step nor one for all
        {"null": torch.zeros(3, 2, 16, 12)},
        {"null": torch.zeros(3, 16, 12)},
    ],
    ids=lambda change: str({k: (*v.shape, v.dtype) for k, v in change.items()}),
)
def test_tensors_that_make_no_sense_are_refused(fitted, tmp_path: Path, change) -> None:
    path = tmp_path / "x.trajectory.safetensors"
    fitted.save(path)
    with safe_open(path, "pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    save_file(tensors | change, path, header)
    with pytest.raises(ReinvertError, match="damaged or not a reinvert trajectory"):
        Trajectory.load(path)


@pytest.fixture(scope="module")
def written(fitted, tmp_path_factory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("fuzz")
    fitted.save(folder / "good.trajectory.safetensors")
    return folder / "bad.trajectory.safetensors", (folder / "good.trajectory.safetensors").read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_raise_anything_else(tiny, written, data) -> None:
    """Bytes of the header are changed, and sometimes the end is cut off: the file is refused in one sentence, or read,
    where the damage made another valid header; and then using it is refused or works."""
    path, good = written
    damaged = bytearray(good)
    header = 8 + int.from_bytes(good[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(good))))
    path.write_bytes(bytes(damaged[:cut]))
    refused = ""
    try:
        trajectory = Trajectory.load(path)
        trajectory.check_steps(STEPS)
        next(trajectory.walk(tiny, ((TARGET,),), None, 3.0))
    except ReinvertError as error:
        refused = str(error)
    assert "\n" not in refused.replace(str(path), "")


def test_what_is_no_file_s_name_is_refused_in_a_sentence() -> None:
    """In a process of its own, without the type checks of the tests."""
    program = """
from reinvert.errors import ReinvertError
from reinvert.trajectory import Trajectory
for wrong in (5, None, b"a", ["a"]):
    try:
        Trajectory.load(wrong)
    except ReinvertError as error:
        assert "a trajectory is loaded from a file's name, not from " in str(error)
    else:
        raise AssertionError(wrong)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
