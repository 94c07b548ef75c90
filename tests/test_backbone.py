"""The Stable Diffusion backbone and its loading: nothing typed in, and one sentence for whatever is missing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import PARITY, SOURCE, TARGET, gap, load_tiny, make_picture, relative_l2
from diffusers import StableDiffusionPipeline

import reinvert
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.direct import Direct
from reinvert.level import Moment
from reinvert.text import Text
from reinvert.verbs import prepare


def test_sizes_come_from_the_model(tiny, parity_model) -> None:
    assert (tiny.image_size, tiny.factor, tiny.multiple) == (32, 2, 4)
    assert (parity_model.image_size, parity_model.factor, parity_model.multiple) == (512, 8, 64)
    assert tiny.encode_text([SOURCE, ""]).tokens.shape == (2, 16, 12)
    assert tiny.encode(torch.zeros(2, 3, 32, 48)).shape == (2, 3, 16, 24)
    assert tiny.decode(torch.zeros(2, 3, 16, 24)).shape == (2, 3, 32, 48)


def test_layers_are_in_the_order_of_execution(tiny) -> None:
    seen: list[str] = []
    names = [layer.name for layer in tiny.layers()]
    handles = [
        tiny.unet.get_submodule(name).register_forward_pre_hook(lambda m, args, name=name: seen.append(name))
        for name in names
    ]
    tiny.answer(torch.zeros(1, 1, 3, 16, 16), Text(torch.zeros(1, 1, 16, 12)), 1, None)
    for handle in handles:
        handle.remove()
    assert seen == names
    assert [layer.part for layer in tiny.layers()] == ["down"] * 4 + ["mid"] * 2 + ["up"] * 8
    for kind in ("attn1", "attn2"):
        assert [layer.index for layer in tiny.layers() if layer.name.endswith(kind)] == list(range(7))


def test_predictions_are_the_network_s(tiny64, tiny_v64) -> None:
    x = torch.randn(2, 1, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for model in (tiny64, tiny_v64):
        text = model.encode_text([SOURCE, TARGET]).tokens[:, None]
        with torch.no_grad():
            out = model.unet(x[:, 0], 501, encoder_hidden_states=text[:, 0].double()).sample[:, None]
        level = model.level(501)
        noise = out if model is tiny64 else level.signal * out + level.noise * x
        answer, moment = model.answer(x, Text(text), 501, None), Moment(0, 1, 501, 401, level, model.level(401))
        assert gap(answer, out) < 1e-12
        assert gap(model.split(x, answer, moment).noise, noise) < 1e-12


def test_the_text_is_cut_and_padded_to_the_model_s_length(tiny) -> None:
    long = " ".join(["cat"] * 100)
    assert torch.equal(tiny.encode_text([long]).tokens, tiny.encode_text([" ".join(["cat"] * 14)]).tokens)


def test_pictures_are_encoded_as_diffusers_does(tiny, tiny_folder) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None, requires_safety_checker=False)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mean = pipeline.vae.encode(picture).latent_dist.mean * 2.5
        back = pipeline.vae.decode(mean / 2.5).sample
    assert gap(tiny.encode(picture), mean) < 1e-6
    assert gap(tiny.decode(mean), back) < 1e-5


def test_parameters_are_frozen(tiny) -> None:
    for network in (tiny.unet, tiny.vae, tiny.text_encoder):
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_another_text_length_and_vocabulary(tiny, parity_model) -> None:
    assert tiny.tokenizer.model_max_length == 16
    assert parity_model.tokenizer.model_max_length == 77


def test_a_prediction_type_that_is_unknown_is_refused(tiny) -> None:
    parts = {name: getattr(tiny, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    with pytest.raises(ReinvertError, match="predicts 'sample'; reinvert reads epsilon and v_prediction models"):
        StableDiffusion(**parts, scheduler={"prediction_type": "sample"})


def test_the_pipeline_s_scheduler_settings_are_enforced(tiny) -> None:
    """diffusers' pipelines rewrite steps_offset to 1 and clip_sample to False; a bare configuration says neither."""
    parts = {name: getattr(tiny, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    bare = StableDiffusion(**parts, scheduler=betas)
    assert bare.times(50) == tiny.times(50)
    assert bare.level(-1) == tiny.level(-1)


def test_another_schedule_is_taken_from_the_model(tiny) -> None:
    parts = {name: getattr(tiny, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    linear = StableDiffusion(
        **parts, scheduler={"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "set_alpha_to_one": True}
    )
    assert linear.level(-1) == (1.0, 0.0)
    abar = torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000), 0)
    assert linear.level(500).signal ** 2 == pytest.approx(abar[500].item(), rel=1e-5)
    trailing = StableDiffusion(**parts, scheduler={"timestep_spacing": "trailing"})
    assert trailing.times(10)[0] == 999
    assert trailing.schedule != tiny.schedule


# --- loading -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refused(folder: Path | str, said: str) -> None:
    with pytest.raises(ReinvertError, match=said) as caught:
        load_tiny(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer"])
def test_a_missing_component_is_named(folder: Path, part: str) -> None:
    shutil.rmtree(folder / part)
    refused(folder, f"not a complete model in diffusers format: the folder {part} is missing")


def test_a_missing_index_or_scheduler_is_named(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").unlink()
    refused(folder, r"scheduler.scheduler_config.json is missing")
    (folder / "model_index.json").unlink()
    refused(folder, "model_index.json is missing")
    (folder / "model_index.json").write_text("{")
    refused(folder, "model_index.json cannot be read")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickles_are_never_read(folder: Path, part: str) -> None:
    for file in (folder / part).glob("*.safetensors"):
        torch.save({}, file.with_suffix(".bin"))
        file.unlink()
    refused(folder, f"has no safetensors weights in {part}; reinvert never loads pickles")


def test_broken_weights_are_one_sentence(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    refused(folder, "the unet of .* cannot be loaded: ")


def rewrite(folder: Path, **changes) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | changes))


def test_other_model_classes_are_refused(folder: Path) -> None:
    rewrite(folder, text_encoder_2=["transformers", "CLIPTextModelWithProjection"])
    refused(
        folder, "has a text_encoder_2, which a Stable Diffusion 1.x and 2.x model does not have; reinvert reads .*XL"
    )
    rewrite(folder, text_encoder_2=None, unet=["diffusers", "UNet3DConditionModel"])
    refused(folder, "the unet of .* is a UNet3DConditionModel, not a UNet2DConditionModel")
    rewrite(folder, unet=None, _class_name="PixArtAlphaPipeline")
    refused(folder, "has no unet: it is a PixArtAlphaPipeline")
    rewrite(folder, unet=None, _class_name="FluxPipeline")
    refused(folder, "has no transformer: it is a FluxPipeline")


def test_names_that_are_no_models_are_refused(tmp_path: Path) -> None:
    refused("nosuchmodel", "there is no model 'nosuchmodel'; give picturebook, a folder")
    refused("./a/b/c", "there is no model")
    (tmp_path / "sd.ckpt").write_bytes(b"x")
    refused(
        tmp_path / "sd.ckpt", r"sd\.ckpt is a pickle, which can run any program when it is opened, so reinvert never"
    )


def test_an_offline_hub_is_one_sentence() -> None:
    """conftest sets HF_HUB_OFFLINE, so nothing is asked of the network here."""
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    refused("reinvert-tests/no-such-model", "not in the local cache and the Hub cannot be reached; give a local folder")


def test_devices_and_dtypes_that_do_not_exist_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(
        ReinvertError, match="there is no dtype 'float8'; use auto, float64, float32, bfloat16 or float16"
    ):
        reinvert.load(tiny_folder, device="cpu", dtype="float8")
    with pytest.raises(ReinvertError, match="there is no device 'gpu9'"):
        reinvert.load(tiny_folder, device="gpu9")
    if not torch.cuda.is_available():
        with pytest.raises(ReinvertError, match="no CUDA device can be used here"):
            reinvert.load(tiny_folder, device="cuda")


def test_a_plain_pipeline_reads_the_same_folder(tiny_folder: Path) -> None:
    assert load_tiny(str(tiny_folder)).fingerprint() == load_tiny(tiny_folder).fingerprint()  # type: ignore[arg-type]


# --- half precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.bfloat16, 0.15), (torch.float16, 0.05)])
def test_half_precision_agrees_loosely(tiny: StableDiffusion, tiny_folder: Path, dtype, allowed: float) -> None:
    """The scheduler's arithmetic and the trajectory stay in float32 (the source is exact to the bit); the network's
    rounding (8 bits of mantissa in bfloat16, 11 in float16) shows in the target, and a blend's border may move."""
    path = Direct().invert(Source(tiny, prepare(tiny, [make_picture(0)]).latents, (SOURCE,), 4))
    settings = {"target": TARGET, "guidance": 2.0, "blend": ("cat", "dog")}
    wanted = reinvert.edit(tiny, path, **settings).latents
    half = load_tiny(tiny_folder, dtype)
    assert half.dtype == dtype
    got = reinvert.edit(half, path, **settings)
    assert got.latents.dtype == torch.float32
    assert torch.equal(got.latents[0], path.path[0, 0])
    assert relative_l2(got.latents[1], wanted[1]) < allowed
    again = reinvert.edit(half, make_picture(0), source=SOURCE, steps=4, **settings)
    assert again.latents.isfinite().all()


# --- real sizes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_sizes_of_stable_diffusion_1_4() -> None:
    """860 million random weights, 512 x 512 pixels, two steps of direct + p2p: shapes, memory and the 16 layers fit."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(PARITY / "tiny-random-sd" / "tokenizer")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
        sample_size=512,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    assert 850e6 < sum(p.numel() for p in unet.parameters()) < 870e6
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    model = StableDiffusion(unet=unet, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=betas)
    assert (model.image_size, model.multiple) == (512, 64)
    assert len(model.layers()) == 32
    picture = PARITY / "inputs" / "img1_512.png"
    result = reinvert.edit(
        model, picture, source=SOURCE, target=TARGET, steps=2, blend=("cat", "dog"), boost={"dog": 2.0}
    )
    assert result.forwards == 2 + 2 * 3
    assert result.image.size == (512, 512)
    assert result.latents.isfinite().all()
    assert (result.latents[1] != result.latents[0]).any()
