"""A miniature is trained from nothing to a diffusers folder, resumed, loaded, evaluated and edited with."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

import reinvert
from reinvert.picturebook import evaluate
from reinvert.picturebook.draw import draw
from reinvert.picturebook.reader import Network, Reader
from reinvert.picturebook.scene import Scene, Thing, held_out
from reinvert.picturebook.train import Recipe, train, training_scenes

RECIPE = Recipe(
    scenes=40,
    size=32,
    vae_channels=(8, 16, 16),
    vae_batch=4,
    unet_channels=(32, 32, 64),
    unet_batch=4,
)
MINUTES = (0.02, 0.02, 0.01)


def read_clock(checkpoint: Path) -> tuple[int, float]:
    """Steps taken and minutes spent."""
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["step"]), float(file.metadata()["spent"]) / 60


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picturebook")
    train(RECIPE, folder, MINUTES, torch.device("cpu"))
    return folder


@pytest.fixture(scope="module")
def model(out):
    return reinvert.load(out / "model", device="cpu")


def test_training_sees_no_held_out_scene():
    assert not any(held_out(scene) for scene in training_scenes(300, 0))


def test_it_exports_a_folder_that_plain_diffusers_loads(out):
    pipe = StableDiffusionPipeline.from_pretrained(out / "model")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red cat on grass", num_inference_steps=2, guidance_scale=3.0).images[0]
    assert picture.size == (32, 32)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert not list((out / "model").rglob("*.bin"))
    with safe_open(out / "model" / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}


def test_reinvert_loads_it_and_reconstructs_exactly(model):
    cat = Scene((Thing("cat"),))
    picture = draw(cat, model.image_size)
    again = reinvert.reconstruct(model, picture, cat.caption, inversion="direct", steps=3)
    assert again.image.tobytes() == evaluate.round_trip(model, [picture])[0].tobytes()


def test_the_same_command_resumes(out):
    stages = ("vae", "unet", "decoder")
    before = {name: read_clock(out / f"{name}.ckpt.safetensors") for name in stages}
    assert min(step for step, _ in before.values()) >= 1
    model = (out / "model" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    longer = before["unet"][1] + 0.08
    train(RECIPE, out, (MINUTES[0], longer, MINUTES[2]), torch.device("cpu"))
    after = {name: read_clock(out / f"{name}.ckpt.safetensors") for name in stages}
    assert after["unet"][0] > before["unet"][0]
    assert after["unet"][1] >= longer
    # Where the budget is spent nothing moves.
    assert (after["vae"][0], after["decoder"][0]) == (before["vae"][0], before["decoder"][0])
    assert (out / "model" / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == model


# --- what is measured on a model ---------------------------------------------------------------------------------


def test_samples_depend_on_seed_and_place_but_not_on_the_batch(model):
    prompts = ["a red cat on grass", "a blue dog at night", "a green tree in snow"]
    together = evaluate.sample(model, prompts, steps=2, guidance=2.0, seed=1, batch=3)
    apart = evaluate.sample(model, prompts, steps=2, guidance=2.0, seed=1, batch=1)
    assert [a.size for a in together] == [(32, 32)] * 3
    assert all(evaluate.psnr(a, b) > 45 for a, b in zip(together, apart, strict=True))
    other = evaluate.sample(model, prompts[:1], steps=2, guidance=2.0, seed=2)
    assert evaluate.psnr(together[0], other[0]) < 45


def test_captions_of_the_sweep_are_not_those_reported():
    reported = evaluate.scenes_for(50, "singles 0", unseen=True)
    swept = evaluate.scenes_for(50, "sweep 0", unseen=False)
    assert not {s.caption for s in reported} & {s.caption for s in swept}
    assert all(len(s.things) == 1 and s.style == "drawn" and s.things[0].says_color for s in reported)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    torch.manual_seed(0)
    Reader(Network()).save(path)
    return path


def test_the_evaluation_writes_its_report_and_sheets(out, reader, tmp_path, capsys):
    sizes = {"captions": 3, "pairs": 2, "styles": 2, "scenes": 4, "steps": 2, "sweep-captions": 2}
    options = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    evaluate.main(
        ["--out", str(tmp_path), "--model", str(out / "model"), "--reader", str(reader), *options, "--sweep", "2", "3"]
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["vae"]["scenes"] == 4
    assert report["singles"]["captions"] == 3
    assert 0 <= report["singles"]["right"]["kind+color+background"] <= 1
    assert "pair.kind+color" in report["pairs"]["right"]
    assert "style" in report["styles"]["right"]
    assert report["settings"]["guidance"] in (2, 3)
    table = (tmp_path / "report.md").read_text()
    assert "| kind+color+background |" in table
    assert table.strip() in capsys.readouterr().out
    for name in ("vae", "singles", "pairs", "styles", "sweep-2"):
        assert (tmp_path / f"{name}.png").stat().st_size > 0


@pytest.mark.slow
def test_the_benchmark_of_edits_compares_inversions(out, reader, tmp_path, capsys):
    path = Path(__file__).parents[1] / "benchmarks" / "picturebook_edits.py"
    spec = importlib.util.spec_from_file_location("picturebook_edits", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    common = ["--model", str(out / "model"), "--reader", str(reader), "--steps", "2", "--batch", "2", "--inner", "1"]
    module.main([*common, "--count", "3", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "edits.json").read_text())
    assert len(report["edits"]) == 3
    assert set(module.INVERSIONS) <= set(report["edits"][0])
    cost = {name: spent["forwards"] for name, spent in report["cost"].items()}
    assert cost["direct"] < cost["ddim"] < cost["null_text"]
    assert report["cost"]["null_text"]["backwards"] == 3 * 2
    # What direct inversion reconstructs is what the VAE keeps.
    for edit in report["edits"]:
        assert edit["direct"]["reconstruction"] == pytest.approx(edit["vae"]["reconstruction"], abs=0.01)
    assert "Order of background PSNR, direct" in printed
    unblended = ["--types", "0", "2", "9", "--no-blend", "--inversions", "direct"]
    module.main([*common, "--count", "3", *unblended, "--out", str(tmp_path)])
    assert "local blend" in printed
    assert "local blend" not in capsys.readouterr().out
