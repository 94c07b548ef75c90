"""Trained editors that are flow transformers, on tiny random pipelines saved in diffusers format and loaded again."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import gap, make_picture
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    QwenImageEditPipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLImageProcessorPil
from transformers.convert_slow_tokenizer import bytes_to_unicode

import reinvert
from reinvert import cli
from reinvert.backbones import flux
from reinvert.errors import ReinvertError
from reinvert.image import to_image
from reinvert.trained.flux_kontext import FluxKontext, trained_size
from reinvert.trained.qwen_image_edit import PICTURE, QwenImageEdit, Sight, pictures_in_rows

INSTRUCTION = "turn the cat into a dog"
STEPS = 3


def shades(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of two pictures, of 255."""
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


# --- FLUX.1 Kontext --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kontext_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family's tiny networks, as Kontext's pipeline holds them."""
    model, folder = flux.FAMILY.tiny(), tmp_path_factory.mktemp("trained") / "tiny-kontext"
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    parts = {part: getattr(model, part) for part in flux.FAMILY.parts}
    FluxKontextPipeline(**parts, scheduler=scheduler).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer_2"][1] = "T5TokenizerFast"  # made in code, it is none by name
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def kontext(kontext_folder: Path):
    return FluxKontext(str(kontext_folder)).load("cpu", torch.float64)


def test_kontext_is_the_pipelines_own(kontext, picture) -> None:
    """Of a square, at a size that it was trained with, that of its authors and the pipeline is the same."""
    editor = FluxKontext("m", STEPS, 4.0, 32)
    result = editor.edit(kontext, picture, INSTRUCTION, seed=3)
    assert result.forwards == STEPS
    own = kontext(
        image=picture, prompt=INSTRUCTION, height=32, width=32, max_area=32 * 32, _auto_resize=False,
        num_inference_steps=STEPS, guidance_scale=4.0, generator=torch.Generator().manual_seed(3),
        output_type="pt",
    ).images  # fmt: skip
    own = to_image(2 * own[0] - 1)
    assert shades(result.image, own) == 0
    other = FluxKontext("m", STEPS, 4.5, 32).edit(kontext, picture, INSTRUCTION, seed=3)
    assert shades(other.image, own) > 0


@torch.no_grad()
def test_kontext_is_the_naive_form(kontext) -> None:
    """Euler's steps of a transformer that is shown the picture's tokens at index 1, written out; a wide picture."""
    picture = make_picture(1).resize((60, 24))
    width, height = trained_size(picture.size, 32, 4)
    assert width > height
    shown = torch.from_numpy(np.array(picture.resize((width, height), Image.Resampling.LANCZOS)))
    pixels = shown.double().permute(2, 0, 1)[None] / 255 * 2 - 1
    vae, h, w = kontext.vae, height // 2, width // 2

    def pack(x):
        rows = [x[0, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten() for r in range(h // 2) for c in range(w // 2)]
        return torch.stack(rows)[None]

    seen = pack((vae.encode(pixels).latent_dist.mean - vae.config.shift_factor) * vae.config.scaling_factor)
    x = pack(torch.randn(1, 4, h, w, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    places = [(k, r, c) for k in (0, 1) for r in range(h // 2) for c in range(w // 2)]
    length = 512
    ids = kontext.tokenizer_2(
        INSTRUCTION, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
    words = kontext.text_encoder_2(ids)[0]
    said = kontext.tokenizer(INSTRUCTION, padding="max_length", truncation=True, return_tensors="pt").input_ids
    pooled = kontext.text_encoder(said).pooler_output
    mu = 0.5 + (1.15 - 0.5) * (h // 2 * (w // 2) - 256) / (4096 - 256)
    sigmas = [math.exp(mu) / (math.exp(mu) + 1 / u - 1) for u in (1, 2 / 3, 1 / 3)] + [0.0]
    for now, then in pairwise(sigmas):
        v = kontext.transformer(
            hidden_states=torch.cat([x, seen], 1),
            timestep=torch.tensor([now], dtype=torch.float64),
            guidance=torch.tensor([2.5]),
            pooled_projections=pooled,
            encoder_hidden_states=words,
            txt_ids=torch.zeros(length, 3),
            img_ids=torch.tensor(places, dtype=torch.float64),
        ).sample[:, : x.shape[1]]
        x = x + (then - now) * v
    cells = torch.zeros(1, 4, h, w, dtype=torch.float64)
    for i, token in enumerate(x[0]):
        r, c = divmod(i, w // 2)
        cells[0, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = token.view(4, 2, 2)
    decoded = vae.decode(cells / vae.config.scaling_factor + vae.config.shift_factor).sample
    naive = to_image(decoded[0]).resize(picture.size, Image.Resampling.LANCZOS)
    result = FluxKontext("m", STEPS, 2.5, 32).edit(kontext, picture, INSTRUCTION, seed=5)
    assert result.image.size == picture.size
    assert shades(result.image, naive) <= 1  # the last bit


def test_kontexts_sizes_are_those_it_was_trained_with() -> None:
    assert trained_size((512, 512), 1024, 16) == (1024, 1024)
    assert trained_size((600, 400), 1024, 16) == (1248, 832)
    assert trained_size((300, 700), 1024, 16) == (672, 1568)
    assert trained_size((600, 400), 512, 16) == (624, 416)


def test_kontext_from_the_command_line(kontext_folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    make_picture(0).save("cat.png")
    said = ["instruct", "cat.png", INSTRUCTION, "--model", str(kontext_folder), "--steps", "2", "--size", "32"]
    assert cli.main([*said, "--recipe", "flux-kontext", "-o", "dog.png", "--quiet"]) == 0
    about = json.loads(Path("dog.png.json").read_text())
    assert about["forwards"] == 2
    assert about["settings"]["trained"]["text_guidance"] == 2.5
    assert "no words" not in capsys.readouterr().err


# --- Qwen-Image-Edit -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained") / "tiny-qwen"
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", PICTURE]
    words = {word: i for i, word in enumerate([*bytes_to_unicode().values(), *marks])}
    tokenizer = Qwen2Tokenizer(vocab=words, merges=[], additional_special_tokens=marks[1:])
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "num_key_value_heads": 2, "vocab_size": len(words), "max_position_embeddings": 128_000,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
                "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
            },
            vision_config={
                "depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 16,
                "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
            },
            image_token_id=words[PICTURE], vision_start_token_id=words["<|vision_start|>"],
            vision_end_token_id=words["<|vision_end|>"], video_token_id=words["<|endoftext|>"],
        )
    )  # fmt: skip
    with torch.no_grad():
        encoder.get_input_embeddings().weight.mul_(50)  # words that differ visibly
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0],
    )  # fmt: skip
    pictures = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=28 * 28 * 16)
    pipe = QwenImageEditPipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), vae, encoder, tokenizer, None, transformer
    )
    pipe.save_pretrained(folder)
    tokenizer.save_pretrained(folder / "processor")
    pictures.save_pretrained(folder / "processor")
    return folder


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path):
    return QwenImageEdit(str(qwen_folder)).load("cpu", torch.float64)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of 64 pixels where the pipeline would make them 1024."""
    real = pipeline_qwenimage_edit.calculate_dimensions
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda _, shape: real(64 * 64, shape))


@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_qwen_is_the_pipelines_own(qwen, picture, small, scale: float) -> None:
    result = QwenImageEdit("m", STEPS, scale).edit(qwen, picture, INSTRUCTION, seed=3)
    assert result.forwards == (2 if scale > 1 else 1) * STEPS

    def own(w: float):
        with pictures_in_rows(qwen.text_encoder):
            made = qwen(
                picture, INSTRUCTION, negative_prompt=" ", true_cfg_scale=w, num_inference_steps=STEPS,
                generator=torch.Generator().manual_seed(3), output_type="pt",
            ).images  # fmt: skip
        return to_image(2 * made[0] - 1).resize(picture.size, Image.Resampling.LANCZOS)

    assert shades(result.image, own(scale)) == 0
    assert shades(result.image, own(scale + 1)) > 0


@torch.no_grad()
def test_qwen_sees_the_picture_in_rows_and_columns(qwen, picture, small) -> None:
    """Its language model answers as for positions that are written out."""
    seen = picture.resize((84, 56))
    text = f"<|vision_start|>{PICTURE}<|vision_end|>a dog"
    given = dict(qwen.processor(text=[text], images=seen, padding=True, return_tensors="pt"))
    words, (_, rows, columns) = (
        given["input_ids"][0].tolist(),
        (int(n) // 2 for n in [2, *given["image_grid_thw"][0][1:]]),
    )
    assert words.count(qwen.text_encoder.config.image_token_id) == rows * columns
    # A text token stands one behind the largest place so far; the picture's at its row and column from there.
    places = [(0, 0, 0), *((1, 1 + r, 1 + c) for r in range(rows) for c in range(columns))]
    places += [(1 + max(rows, columns) + i,) * 3 for i in range(len(words) - len(places))]
    positions = torch.tensor(places).T[:, None]
    expected = qwen.text_encoder(**given, position_ids=positions, output_hidden_states=True).hidden_states[-1]
    with pictures_in_rows(qwen.text_encoder):
        found = qwen.text_encoder(**given, output_hidden_states=True).hidden_states[-1]
    assert gap(found, expected) < 1e-12
    line = qwen.text_encoder(**given, output_hidden_states=True).hidden_states[-1]
    assert gap(found, line) > 1e-3
    assert not qwen.text_encoder._forward_pre_hooks


def test_the_words_and_the_seed_of_qwen_matter(qwen, picture, small) -> None:
    editor = QwenImageEdit("m", 2)
    first = editor.edit(qwen, picture, INSTRUCTION, seed=1).image
    assert editor.edit(qwen, picture, INSTRUCTION, seed=1).image.tobytes() == first.tobytes()
    assert editor.edit(qwen, picture, INSTRUCTION, seed=2).image.tobytes() != first.tobytes()
    assert editor.edit(qwen, picture, "a red bird", seed=1).image.tobytes() != first.tobytes()
    assert isinstance(qwen.processor, Sight)
    with pytest.raises(ReinvertError, match=r"cannot hold <\|"):
        editor.edit(qwen, picture, f"a dog {PICTURE}")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_other_models_are_refused(kontext_folder: Path, qwen_folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReinvertError, match=r"tiny-qwen is a QwenImageEditPipeline, .* give a FluxKontextPipeline"):
        FluxKontext(str(qwen_folder)).load("cpu")
    with pytest.raises(ReinvertError, match=r"is a FluxKontextPipeline, .* give a QwenImageEditPipeline"):
        QwenImageEdit(str(kontext_folder)).load("cpu")
    with pytest.raises(ReinvertError, match="give a FluxKontextPipeline"):
        FluxKontext(str(tiny_folder)).load("cpu")
    with pytest.raises(ReinvertError, match=r"model_index\.json is missing"):
        FluxKontext(str(tmp_path)).load("cpu")
    with pytest.raises(ReinvertError, match="overflows in float16"):
        FluxKontext(str(kontext_folder)).load("cpu", "float16")


def test_pickles_and_strange_classes_are_refused(kontext_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(kontext_folder, tmp_path / "m")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ReinvertError, match="no safetensors weights in transformer"):
        FluxKontext(str(folder)).load("cpu")
    index = json.loads((folder / "model_index.json").read_text())
    index["text_encoder"] = ["os", "system"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ReinvertError, match=r"the text_encoder of .* is a system, not a CLIPTextModel"):
        FluxKontext(str(folder)).load("cpu")


def test_wrong_settings_are_refused() -> None:
    for made in (lambda: FluxKontext(steps=0), lambda: FluxKontext(size=8), lambda: QwenImageEdit(text_guidance=0.5)):
        with pytest.raises(ReinvertError):
            made()


def test_they_are_methods() -> None:
    assert {"flux_kontext", "qwen_image_edit"} <= {method.name for method in reinvert.methods("trained")}
