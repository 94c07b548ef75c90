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
def test_every_shape_is_captured_once(tiny_folder: Path, graphs, mode: str, count: int) -> None:
    model = compiled(tiny_folder, mode)
    plain = reinvert.load(tiny_folder, "cpu")
    plain._rules.embeddings = None  # a graph makes the times' own in every step: the same bits
    assert torch.equal(edited(model, 0), edited(plain, 0))
    assert graphs() == count
    assert not counters["graph_break"]
    # other pictures, words, scales and numbers of steps, an attention rule or none: nothing new is captured
    edited(model, 1, steps=5, target="a red house on a table", guidance=4.0)
    edited(model, 1, inversion="ddim", editor="prompt", guidance=1.0)
    assert graphs() == count
    edited(model, 1, target=[TARGET, "a red house"])  # more rows: another shape
    assert graphs() > count
    assert not counters["recompile_limit"]


def pointers(value, name: str = "") -> dict[str, int]:
    """Where every tensor among some inputs lies."""
    if isinstance(value, torch.Tensor):
        return {name: value.data_ptr()}
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple | list) else ()
    return {key: at for each, x in inner for key, at in pointers(x, f"{name}.{each}").items()}


@pytest.mark.parametrize("family", ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_a_whole_network_reads_its_inputs_from_the_same_cells(family: str, graphs) -> None:
    """As CUDA graphs need it: every step of every walk, for each number of rows."""
    model = families()[family].tiny()
    x0 = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = walked(model, x0)
    model.compile("whole", "eager")
    whole, seen = model._compiled.whole, {}

    def noted(*given, **named):
        inputs = pointers((given, named))
        rows = len(next(x for x in (*given, *named.values()) if isinstance(x, torch.Tensor)))
        seen.setdefault(rows, []).append(inputs)
        return model.network(*given, **named)

    whole.graph = noted
    for _ in range(2):
        assert float((walked(model, x0) - plain).abs().max()) < 1e-9
    assert sorted(seen) == ([1, 2] if model.null_side else [1])
    for calls in seen.values():
        assert len(calls) >= 6
        assert all(inputs == calls[0] for inputs in calls)
        assert len(calls[0]) >= 3  # latents, time, words


def walked(model, x0: torch.Tensor) -> torch.Tensor:
    """An inversion and an edit without rules, of three steps each."""
    from reinvert.inversions.base import Source
    from reinvert.inversions.direct import Direct

    path = Direct().invert(Source(model, x0, (SOURCE,), 3))
    return [state.x for _, state in path.walk(model, [(TARGET,)], guidance=3.0)][-1]


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
