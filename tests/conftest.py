"""Tiny random models, built in code and loaded the way a user loads one; and what the authors' programs recorded."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist fills the cores; programs that tests start inherit it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# On some virtual machines bfloat16 matrix products crash, because the processor says AMX and the machine does not let
# it be used; oneDNN reads this when it is first needed.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")

import long
import pytest
import shapes
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, CLIPVisionConfig, CLIPVisionModel

import reinvert
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.verbs import prepare, prepared_edit

torch.set_num_threads(1)
gc.disable()  # until all tests are imported and collected


def pytest_runtest_setup() -> None:
    shapes.begin_test()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long.mark(items)
    whole_files = not any("::" in arg for arg in config.args)
    if whole_files and (unknown := list(long.missing(items))):
        raise pytest.UsageError(f"tests/long.py names tests that do not exist: {', '.join(unknown)}")


def pytest_collection_finish() -> None:
    """What has been imported stays: the collector need not look at it again and again (0.5 s each time)."""
    gc.collect()
    gc.freeze()
    gc.enable()


PARITY = Path(__file__).parent / "fixtures" / "parity"
SOURCE, TARGET = "a cat sitting on a table", "a dog sitting on a table"
TOKENS = 16
"""Text length of the tiny models: not 77, so that nothing can rely on it."""


def build_tiny(folder: Path, prediction: str = "epsilon", seed: int = 0) -> Path:
    """A Stable-Diffusion-shaped model of 16x16 latents with 3 (not 4) channels and 32x32 pixels, in diffusers format.

    Two levels with cross-attention in both, so that attention happens on 16x16 and 8x8 grids (and 8x8 in the middle).
    The weights of attention are scaled up so that the maps are peaked and the text moves the prediction.
    """
    tokenizer = CLIPTokenizer.from_pretrained(PARITY / "tiny-random-sd" / "tokenizer", model_max_length=TOKENS)
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=2.5,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=12,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    with torch.no_grad():
        for name, weight in text_encoder.named_parameters():
            if "token_embedding" in name:
                weight.mul_(20)
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight.mul_(5.0 if "attn2" in name else 2.5)
            if name.endswith(("to_out.0.weight", "proj_out.weight")):
                weight.mul_(2.0)
            if name == "conv_out.weight":
                weight.mul_(0.6)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def build_tower(folder: Path) -> Path:
    """A CLIP vision tower of 16-pixel pictures and 17 tokens, of another width than the tiny models' text."""
    torch.manual_seed(0)
    CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        )
    ).save_pretrained(folder)
    return folder


def load_tiny(folder: Path, dtype: str | torch.dtype = "float32") -> StableDiffusion:
    model = reinvert.load(folder, device="cpu", dtype=dtype)
    assert isinstance(model, StableDiffusion)
    return model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("tiny") / "tiny-eps")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> StableDiffusion:
    """Predicts the noise."""
    return load_tiny(tiny_folder)


@pytest.fixture(scope="session")
def tiny64(tiny_folder: Path) -> StableDiffusion:
    """The same in float64. A guided walk through a random network multiplies a rounding error several times a step
    (1e-7 becomes 1e-2 of the latents in ten steps), so equalities of whole runs are only meaningful here."""
    return load_tiny(tiny_folder, torch.float64)


@pytest.fixture(scope="session")
def tiny_v64(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    """Predicts v, in float64."""
    return load_tiny(build_tiny(tmp_path_factory.mktemp("tiny") / "tiny-v", "v_prediction", seed=1), torch.float64)


@pytest.fixture(scope="session")
def parity_model() -> StableDiffusion:
    """The checkpoint on which the authors' programs were recorded."""
    return load_tiny(PARITY / "tiny-random-sd")


@pytest.fixture(scope="session")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "recorded.safetensors")


@pytest.fixture(scope="session")
def recorded_json() -> dict:
    return json.loads((PARITY / "recorded.json").read_text())


@pytest.fixture(scope="session")
def unit() -> dict[str, torch.Tensor]:
    return load_file(PARITY / "unit.safetensors")


@pytest.fixture(scope="session")
def unit_json() -> dict:
    return json.loads((PARITY / "unit.json").read_text())


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """32x32, smooth, of many colours."""
    return make_picture(0)


@pytest.fixture(scope="session")
def other_picture() -> Image.Image:
    return make_picture(1)


def make_picture(seed: int) -> Image.Image:
    noise = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, (32, 32), mode="bicubic").clamp(0, 1)
    return Image.fromarray((smooth[0].permute(1, 2, 0) * 255).byte().numpy())


@pytest.fixture(scope="session")
def clean(tiny: StableDiffusion, picture: Image.Image, other_picture: Image.Image) -> torch.Tensor:
    """Latents of two pictures, [case, channel, h, w] in float64; the walk keeps the dtype it is given."""
    return prepare(tiny, [picture, other_picture]).latents.double()


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest absolute difference, as a share of the largest value (if that is above 1)."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.double() - b.double()).abs().max() / max(1.0, float(b.abs().max())))


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    """What the recorded runs' tolerances are stated in."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a.double() - b.double()).norm() / b.double().norm())


def watch_walk(
    model, trajectory, targets=(), editors=(), guidance: float = 7.5, mask=None, seed: int = 0
) -> list[torch.Tensor]:
    """[branch, case, channel, h, w] after every step of an edit (of a mere reconstruction without targets)."""
    targets = tuple((t,) if isinstance(t, str) else tuple(t) for t in targets)
    hooks = None
    if editors:
        trajectory, hooks = prepared_edit(model, trajectory, tuple(editors), targets, mask, seed)
    return [state.x for _, state in trajectory.walk(model, targets, hooks, guidance)]
