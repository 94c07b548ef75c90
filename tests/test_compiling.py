"""Compiled networks: the same pictures, one graph per shape, and rules that still reach what they change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import SOURCE, TARGET, make_picture
from torch._dynamo.utils import counters

import reinvert
from reinvert.backbones.families import families
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.errors import ReinvertError

RUN = {"source": SOURCE, "target": TARGET, "steps": 4, "editor": "p2p"}
BLOCKS = 9
"""ResNet blocks and feed-forward layers of the tiny UNet."""


@pytest.fixture
def graphs():
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def edited(model, seed: int, **changed) -> torch.Tensor:
    return reinvert.edit(model, make_picture(seed), **(RUN | changed)).latents


def compiled(folder: Path, mode: str, backend: str = "eager") -> StableDiffusion:
    """`eager` runs what was captured as it is: graphs are counted without a compiler."""
    model = reinvert.load(folder, "cpu")
    assert isinstance(model, StableDiffusion)
    model.compile(mode, backend)
    return model


# direct inversion has one row, p2p's first two steps three rows, its last two steps two rows: three shapes
@pytest.mark.parametrize(
    ("mode", "count"),
    [("blocks", 3 * BLOCKS), pytest.param("whole", 1 + BLOCKS + 1, marks=pytest.mark.slow)],
)
def test_every_shape_is_captured_once(tiny, tiny_folder: Path, graphs, mode: str, count: int) -> None:
    model = compiled(tiny_folder, mode)
    assert torch.equal(edited(model, 0), edited(tiny, 0))
    assert graphs() == count
    assert not counters["graph_break"]
    # other pictures, words, scales and numbers of steps, an attention rule or none: nothing new is captured
    edited(model, 1, steps=5, target="a red house on a table", guidance=4.0)
    edited(model, 1, inversion="ddim", editor="prompt", guidance=1.0)
    assert graphs() == count
    edited(model, 1, target=[TARGET, "a red house"])  # more rows: another shape
    assert graphs() > count
    assert not counters["recompile_limit"]


def test_a_flow_transformer_compiles_too(graphs) -> None:
    from reinvert.inversions.base import Source
    from reinvert.inversions.direct import Direct

    model = families()["stable_diffusion_3"].tiny()
    x0 = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source = Source(model, x0, (SOURCE,), 3)
    plain = Direct().invert(source).path
    model.compile("whole", "eager")
    assert torch.equal(Direct().invert(source).path, plain)
    once = (
        graphs()
    )  # 1, but where the tests' shape checks decorate functions within a processor, which breaks the graph
    Direct().invert(source)
    assert graphs() == once > 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("mode", ["blocks", "whole"])
def test_inductor_makes_the_same_picture(tiny64, tiny_folder: Path, graphs, mode: str) -> None:
    """Whole edits in float64: in float32 a guided walk through a random network multiplies every rounding."""
    model = reinvert.load(tiny_folder, "cpu", torch.float64, compile=mode)
    assert float((edited(model, 0) - edited(tiny64, 0)).abs().max()) < 1e-4
    before = graphs()
    edited(model, 1)
    assert graphs() == before


def test_what_cannot_be_compiled_is_refused_in_a_sentence(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReinvertError, match="compile is off, blocks or whole, not 'all'"):
        reinvert.load(tiny_folder, "cpu", compile="all")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ReinvertError, match=r"needs a C\+\+ compiler"):
        reinvert.load(tiny_folder, "cpu", compile="blocks")
    monkeypatch.undo()
    with pytest.raises(ReinvertError, match="--no-offload"):
        reinvert.load(tiny_folder, "cpu", compile="whole", offload=True)
