"""Where the outputs recorded from the authors' programs on SDXL, SD3 and FLUX are, and their tiny checkpoints.

The whole set lies in `shared/parity-flow` beside a clone, where somebody put that folder there; the repository carries
a part of it in `fixtures/parity-flow`, without the autoencoders' weights. A test that needs more than is at hand is
skipped and says so.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file

import reinvert

CARRIED = Path(__file__).parent / "fixtures" / "parity-flow"
BESIDE = Path(__file__).parents[2] / "shared" / "parity-flow"
ELSEWHERE = {
    "tiny-random-sd3/tokenizer": "tiny-random-flux-dev/tokenizer",
    "tiny-random-sd3/text_encoder_3": "tiny-random-flux-dev/text_encoder_2",
    "tiny-random-sd3/tokenizer_3": "tiny-random-flux-dev/tokenizer_2",
}
"""Parts of the carried checkpoints that stand in the other one."""


def find(name: str) -> Path:
    """A file or folder of the recorded set; skips the test where it is not at hand."""
    for folder in (BESIDE, CARRIED):
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"{name} is not in this repository; it is in shared/parity-flow, which does not lie beside it")


def needs_everything() -> None:
    """Skips the test where only the carried part is at hand."""
    find("unit.safetensors")


@cache
def folder(name: str) -> Path:
    """One of the recorded checkpoints in diffusers format. Where it is the carried one its autoencoder is another, of
    the same shape: the recorded runs begin and end with latents."""
    given = find(name)
    if given.parent == BESIDE:
        return given
    whole = Path(tempfile.mkdtemp(prefix="parity-flow-")) / name
    whole.mkdir()
    for part in json.loads((given / "model_index.json").read_text()):
        standing = CARRIED / ELSEWHERE.get(f"{name}/{part}", f"{name}/{part}")
        if part != "vae" and standing.exists():
            (whole / part).symlink_to(standing)
    (whole / "model_index.json").symlink_to(given / "model_index.json")
    torch.manual_seed(0)
    AutoencoderKL.from_config(AutoencoderKL.load_config(given / "vae")).save_pretrained(whole / "vae")
    return whole


@cache
def load(name: str, dtype: torch.dtype = torch.float32):
    """One of the recorded checkpoints, as a backbone on the CPU; shared by all tests of a process."""
    return reinvert.load(folder(name), device="cpu", dtype=dtype)


@cache
def settings(name: str = "recorded.json") -> dict:
    return json.loads(find(name).read_text())


@cache
def tensors(name: str = "recorded.safetensors") -> dict[str, torch.Tensor]:
    return load_file(find(name))


def case(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and tensors of one recorded (or unit) case."""
    kind = "unit" if name.startswith("unit_") else "recorded"
    prefix = f"{name}/"
    own = {k.removeprefix(prefix): v for k, v in tensors(f"{kind}.safetensors").items() if k.startswith(prefix)}
    if not own:
        pytest.skip(f"{name} is not in this repository; it is in shared/parity-flow, which does not lie beside it")
    return settings(f"{kind}.json")[name], own


def picture(name: str) -> torch.Tensor:
    """[1, 3, H, W] in -1..1, in the memory order of diffusers' pipelines (the flat parts of these pictures are
    delicate: another order takes other kernels, and moves the tiny autoencoders' latents by up to 0.04)."""
    image = Image.open(find(f"inputs/{name}")).convert("RGB")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float()
    return (pixels.view(1, image.height, image.width, 3) / 127.5 - 1).permute(0, 3, 1, 2)
