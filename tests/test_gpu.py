"""What only a GPU can show; `make gpu` runs these and `benchmarks/gpu.py --tests` does too.

Without a GPU they are skipped. REINVERT_TEST_DEVICE=cpu rehearses them there, but for what a CPU does not have.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SOURCE, TARGET, load_tiny, make_picture

import reinvert
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.verbs import prepare

DEVICE = os.environ.get("REINVERT_TEST_DEVICE", "cuda")
RUN = {"source": SOURCE, "target": TARGET, "steps": 4, "editor": "p2p"}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="needs a GPU that CUDA sees"
    ),
]
on_cuda = pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="a CPU has no memory of its own to measure")
MIB = 2**20


def loaded(folder: Path, dtype: str = "float32", **more) -> StableDiffusion:
    model = reinvert.load(folder, DEVICE, dtype, **more)
    assert isinstance(model, StableDiffusion)
    return model


def edited(model, seed: int = 0, **changed) -> torch.Tensor:
    return reinvert.edit(model, make_picture(seed), **(RUN | changed)).latents


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def on_cpu(tiny_folder: Path) -> torch.Tensor:
    """The edit in float32 on the CPU, which everything here is held against."""
    return edited(load_tiny(tiny_folder))


# The rounding of one answer of some thirty layers, to 24, 11 and 8 bits. A whole edit is no yardstick for half
# precision: this model's attention is as peaked as can be, and takes a difference tenfold further in four steps.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 8e-2)])
def test_every_dtype_gives_the_answer_and_the_picture_back(tiny_folder: Path, dtype: str, tolerance: float) -> None:
    exact, model = load_tiny(tiny_folder), loaded(tiny_folder, dtype)
    x = torch.randn(1, 2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    told = exact.answer(x, exact.encode_text([SOURCE, TARGET])[None], 500, None)
    found = model.answer(x.to(DEVICE), model.encode_text([SOURCE, TARGET])[None], 500, None)
    assert apart(found.cpu(), told) < tolerance
    latents = edited(model)
    assert latents.isfinite().all()
    # direct inversion ends at the picture's own latents, whatever the network answers
    encoded = prepare(model, [make_picture(0)]).latents
    torch.testing.assert_close(latents[:1], encoded.cpu(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["blocks", "whole"])
def test_a_compiled_network_gives_the_edit(tiny_folder: Path, on_cpu, mode: str) -> None:
    torch._dynamo.reset()
    model = loaded(tiny_folder, compile=mode)
    for _ in range(2):  # the second runs what the first one compiled, with its buffers
        assert apart(edited(model), on_cpu) < 1e-3
    assert apart(edited(model, 1), on_cpu) > 0.1  # and is not the first one's picture
    torch._dynamo.reset()


@on_cuda
def test_parts_that_take_turns_give_the_edit_in_less_memory(tiny_folder: Path, on_cpu) -> None:
    gc.collect()
    before = torch.cuda.memory_allocated()
    model = loaded(tiny_folder, offload=True)
    assert apart(edited(model), on_cpu) < 1e-3
    weights = sum(p.nbytes for part in (model.unet, model.vae, model.text_encoder) for p in part.parameters())
    gc.collect()
    assert torch.cuda.memory_allocated() - before < weights  # of which one part lies there at a time


def test_a_batch_that_is_found_by_trial_gives_each_its_edit(tiny_folder: Path) -> None:
    model = loaded(tiny_folder)
    pictures = [make_picture(seed) for seed in range(6)]
    asked = RUN | {"source": [SOURCE] * 6, "target": [TARGET] * 6}
    together = reinvert.edit(model, pictures, **asked)
    assert max(apart(each.latents, edited(model, seed)) for seed, each in enumerate(together)) < 1e-3


@on_cuda
def test_peak_memory_grows_by_the_rows_and_not_by_the_steps(tiny_folder: Path) -> None:
    model = loaded(tiny_folder)

    def peak(**changed) -> int:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        edited(model, **changed)
        return torch.cuda.max_memory_allocated()

    peak()  # workspaces stay
    few, many = peak(), peak(steps=16)
    path = 16 * 3 * 16 * 16 * 4  # the latents that direct inversion holds the source on
    assert many - few < 8 * path + MIB


def test_two_processes_on_one_device_give_the_same_edit(tiny_folder: Path, on_cpu, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    make_picture(0).save(picture)
    script = (
        "import sys, reinvert; from safetensors.torch import save_file; folder, picture, out, device = sys.argv[1:];"
        "model = reinvert.load(folder, device, 'float32');"
        f"found = [reinvert.edit(model, picture, **{RUN!r}).latents for _ in range(3)];"
        "save_file({str(i): x.contiguous() for i, x in enumerate(found)}, out)"
    )
    outs = [tmp_path / f"{n}.safetensors" for n in range(2)]
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(tiny_folder), str(picture), str(out), DEVICE])
        for out in outs
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    from safetensors.torch import load_file

    for out in outs:
        for found in load_file(out).values():
            assert apart(found, on_cpu) < 1e-3


@on_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_stable_diffusion_s_sizes(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import sd14

    model = sd14.build(DEVICE, dtype)
    torch.cuda.reset_peak_memory_stats()
    result = reinvert.edit(model, make_picture(0), **(RUN | {"blend": ("cat", "dog"), "boost": {"dog": 2.0}}))
    assert result.forwards == 4 * 4
    assert result.latents.isfinite().all()
    encoded = prepare(model, [make_picture(0)]).latents
    torch.testing.assert_close(result.latents[:1], encoded.cpu(), atol=1e-4, rtol=1e-4)
    assert torch.cuda.max_memory_allocated() < 8 * 2**30  # 2 GiB of weights; the maps of four rows would be 4 more
