"""Everything of the world in full detail is trained in miniature: every part, its weights, its figures."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from safetensors import safe_open

import reinvert
from reinvert.picturebook import clip, flow
from reinvert.picturebook.draw import draw
from reinvert.picturebook.reader import Network, Reader
from reinvert.picturebook.scene import held_out
from reinvert.picturebook.train import (
    SHARP,
    Draws,
    caption_tokens,
    new_text_encoder,
    new_tokenizer,
    new_unet,
    new_vae,
    read_latents,
    training_scenes,
)
from reinvert.picturebook.train_all import (
    LARGEST_MB,
    TOWERS,
    Counts,
    Minutes,
    Plan,
    aims_table,
    calibration_error,
    run,
)
from reinvert.picturebook.wording import words

TINY = Plan(
    recipe=replace(
        SHARP, scenes=24, size=32, vae_channels=(8, 16, 16), latent_channels=6, vae_batch=4, unet_channels=(32, 32, 64),
        unet_batch=4, flow_width=32, flow_heads=2, flow_blocks=2, flow_text=16, flow_batch=4,
    ),
    towers=clip.ClipRecipe(scenes=16, size=32, patch=8, steps=2, pairs=2, wrong=1),
    minutes=Minutes(*[0.01] * 6),
    counts=Counts(2, 2, 2, 2, 6, 1, 1, (2.0,), 1, 2, 2, 2),
    judge_scenes=8,
    judge_batch=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    run(TINY, folder, torch.device("cpu"))
    return folder


def test_every_part_writes_its_weights_and_its_table(out):
    weights = out / "weights"
    assert Reader.load(weights / "judge.safetensors").network.size == 32
    assert clip.load_clip(weights / "towers").size == 32
    for name in ("picturebook", "picturebook-flow"):
        for path in (weights / name).rglob("*.safetensors"):
            with safe_open(path, "pt") as file:
                assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}, path
        table = (out / "tables" / f"{name}.md").read_text()
        assert "| VAE round trip |" in table
        assert "singles: color" in table
        assert (out / "tables" / name / "singles.png").stat().st_size > 0
    assert "calibration error" in (out / "tables" / "judge.md").read_text()
    assert "| 5 change pose |" in (out / "tables" / "clip.md").read_text()
    assert ": fits)" in (out / "tables" / "weights.md").read_text()


@pytest.mark.parametrize(
    ("name", "pipeline", "without"),
    [
        ("picturebook", StableDiffusionPipeline, {}),
        ("picturebook-flow", StableDiffusion3Pipeline, {"text_encoder_3": None, "tokenizer_3": None}),
    ],
)
def test_plain_diffusers_and_reinvert_load_both_models(out, name, pipeline, without):
    pipe = pipeline.from_pretrained(out / "weights" / name, **without)
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a red kitten on grass", num_inference_steps=2, guidance_scale=3.0, height=32, width=32).images[0]
    assert picture.size == (32, 32)
    model = reinvert.load(out / "weights" / name, device="cpu", dtype="float32")
    assert model.latent_shape == (6, 8, 8)
    assert {"kitten", "cat"} <= model.world.words


def test_the_same_command_goes_on_and_stops_where_the_time_is_spent(out):
    with safe_open(out / "flow.ckpt.safetensors", "pt") as file:
        before = int(file.metadata()["step"])
    recipe, device = TINY.recipe, torch.device("cpu")
    scenes = training_scenes(recipe.scenes, recipe.seed, wide=True)
    tokenizer = new_tokenizer(recipe, out / "tokenizer-0")
    given = (recipe, read_latents(new_vae(recipe), out), *caption_tokens(recipe, scenes, tokenizer), tokenizer, out)
    steps = list[int]()
    for minutes in (TINY.minutes.flow, 0.03):
        transformer, _ = flow.train_flow(*given, minutes * 60, device)
        with safe_open(out / "flow.ckpt.safetensors", "pt") as file:
            steps.append(int(file.metadata()["step"]))
    assert steps[0] == before < steps[1]
    assert not any(isinstance(p, flow.ZerosProcessor) for p in transformer.attn_processors.values())


def test_one_zero_token_stands_for_all_that_the_pipeline_puts_in_the_place_of_t5():
    torch.manual_seed(0)
    transformer = flow.new_transformer(TINY.recipe, 8)
    for p in transformer.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.1)
    text, pooled = torch.randn(2, 12, 32), torch.randn(2, 32)
    given = {"hidden_states": torch.randn(2, 6, 8, 8), "timestep": torch.tensor([300.0, 700.0])}

    def ask(tokens: int) -> torch.Tensor:
        padded = F.pad(text, (0, 0, 0, tokens))
        with torch.no_grad():
            return transformer(**given, encoder_hidden_states=padded, pooled_projections=pooled).sample

    all_zeros, none = ask(flow.ZEROS), ask(0)
    transformer.set_attn_processor(flow.ZerosProcessor())
    assert (ask(1) - all_zeros).abs().max() < 1e-5
    assert (none - all_zeros).abs().max() > 1e-3


def test_all_bundled_weights_stay_within_their_megabytes(tmp_path):
    tokenizer = new_tokenizer(SHARP, tmp_path)
    with torch.device("meta"):
        vae, unet, transformer = new_vae(SHARP), new_unet(SHARP, 16), flow.new_transformer(SHARP, 16)
        encoders = [new_text_encoder(tokenizer), *(flow.new_encoder(SHARP, tokenizer) for _ in range(2))]
        others = [clip.new_clip(TOWERS, clip.read_tokenizer()), Network(SHARP.size)]
    parts = [vae, vae, unet, transformer, *encoders, *others]
    assert sum(p.numel() for part in parts for p in part.parameters()) * 2 / 1e6 < LARGEST_MB


def test_wide_scenes_say_more_and_show_nothing_held_out():
    scenes = training_scenes(400, 0, wide=True)
    assert not any(held_out(scene) for scene in scenes)
    pairs = [scene for scene in scenes if len(scene.things) == 2]
    assert sum(a.kind == b.kind for a, b in (scene.things for scene in pairs)) > 0.2 * len(pairs)
    assert sum(len(s.things) == 1 and abs(s.things[0].x - 0.5) > 0.12 for s in scenes) > 20
    assert scenes == training_scenes(400, 0, wide=True)
    assert scenes[:40] != training_scenes(40, 0)


def test_a_batch_has_any_caption_of_its_scenes_and_now_and_then_none(tmp_path):
    recipe, scenes = replace(SHARP, captions=3), training_scenes(5, 0, wide=True)
    tokenizer = new_tokenizer(recipe, tmp_path)
    tokens, empty = caption_tokens(recipe, scenes, tokenizer)
    assert tokens.shape == (5, 3, recipe.tokens)
    assert tokenizer.decode(tokens[0, 0], skip_special_tokens=True).split() == scenes[0].caption.split()
    assert {"kitten", "azure"} <= set(words())
    draws = Draws(torch.zeros(5, 1, 2, 2), tokens, empty, torch.device("cpu"), 0)
    seen = [tuple(row) for _ in range(200) for row in draws(np.array([1, 3]))[1].tolist()]
    known = {tuple(row) for scene in (1, 3) for row in tokens[scene].tolist()}
    assert set(seen) == known | {tuple(empty[0].tolist())}
    assert 10 < seen.count(tuple(empty[0].tolist())) < 80
    shares = draws.even(16)
    assert (shares.sort().values * 16).long().tolist() == list(range(16))


def test_a_reader_of_large_pictures_is_kept_with_their_size(tmp_path):
    torch.manual_seed(0)
    Reader(Network(128)).save(tmp_path / "judge.safetensors", torch.float16)
    judge = Reader.load(tmp_path / "judge.safetensors")
    assert judge.network.size == 128
    scenes = training_scenes(2, 0)
    weighed = judge.weigh([draw(scene, 128) for scene in scenes])
    assert all(torch.allclose(shares.sum(-1), torch.ones(2)) for shares in weighed.values())


def test_the_calibration_error_is_what_is_said_too_much():
    sure, right = np.array([0.95] * 10 + [0.55] * 10), np.array([True] * 10 + [True] * 3 + [False] * 7)
    assert calibration_error(sure, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.25)


def test_a_missed_figure_says_by_how_much():
    report = {
        "vae": {"psnr_mean": 30.5}, "reader": {"vae_round_trip": {"color": 0.99}}, "singles": {"right": {"kind": 0.9}},
    }  # fmt: skip
    table = aims_table(report)
    assert "missed by 1.50 dB" in table
    assert "| color after the VAE | 99.0% | 98% | reached |" in table
    assert "missed by 8.0 points" in table


def test_the_prepared_script_is_the_command():
    path = Path(__file__).parents[1] / "benchmarks" / "train_picturebook.py"
    spec = importlib.util.spec_from_file_location("train_picturebook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
