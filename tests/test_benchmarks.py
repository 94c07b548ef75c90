"""The performance report runs, and its two schedules compute the same edit with the forwards they claim."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from reinvert.backbones.stable_diffusion import StableDiffusion

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
STEPS = 3


@pytest.fixture(scope="module")
def performance():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import performance
    finally:
        sys.path.remove(str(BENCHMARKS))
    return performance


@pytest.mark.slow
def test_report(performance, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command on a tiny model: sections, forwards, agreement, and what a machine without a GPU says."""
    out = tmp_path / "docs" / "performance.md"
    given = [
        "--model",
        str(tiny_folder),
        "--steps",
        str(STEPS),
        "--device",
        "cpu",
        "--repeats",
        "1",
        "--write",
        str(out),
    ]
    loop, schedules, gradients, full_size = performance.main(given)

    assert [row["forwards"] for row in loop.rows] == [3 * STEPS, 3 + 2 + 2, 2 * STEPS]
    # Without local_blend the source is read at the first step only: both windows of p2p are one step of three long.
    assert all(row["calls"] == STEPS and row["ratio"] > 0 for row in loop.rows)
    ours, published, _ = schedules.rows
    assert ours["forwards"] <= 4 * STEPS
    assert published["forwards"] == 13 * STEPS
    assert ours["target, relative L2 to published"] < 1e-4
    alone, both, _ = gradients.rows
    assert alone["memory (MiB)"] < both["memory (MiB)"]
    assert all(performance.NOT_MEASURED in row.values() for row in full_size.rows)

    text = out.read_text()
    assert text.rstrip() == capsys.readouterr().out.rstrip()
    assert all(f"## ({letter})" in text for letter in "abcd")
    assert "CPU:" in text
    assert f"--steps {STEPS}" in text


def test_published_schedule_is_sensitive(performance, tiny: StableDiffusion) -> None:
    """The agreement above means something: every part of the edit moves the target by far more than the tolerance."""
    from published import Settings, run

    x0 = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = {"source": "a cat sitting on a table", "target": "a dog sitting on a table", "blend": ("cat", "dog")}
    settings |= {"threshold": 0.9}  # a random model's maps are nearly flat: at 0.3 the region is the whole picture
    full = run(tiny, x0, Settings(**settings, steps=STEPS))
    assert set(full.seconds) == {"inversion", "offsets", "reconstruction", "edit"}
    torch.testing.assert_close(full.latents[:1], x0, atol=1e-3, rtol=0)
    for change in ({"boost": 1.0}, {"cross": 0.0}, {"self_attention": 0.0}, {"start_blend": 1.0}):
        other = run(tiny, x0, Settings(**settings, steps=STEPS, **change))
        assert (full.latents[1] - other.latents[1]).norm() / full.latents[1].norm() > 1e-2, change


def test_network_is_left_alone(performance, tiny: StableDiffusion) -> None:
    before = {name: type(p) for name, p in tiny.unet.attn_processors.items()}
    x0, asked = performance.case_for(tiny, 2)
    performance.measure(tiny, 2, 1, (x0, asked))
    assert {name: type(p) for name, p in tiny.unet.attn_processors.items()} == before
    assert not any(p.requires_grad or p.grad is not None for p in tiny.unet.parameters())


@pytest.mark.slow
def test_full_size_section(performance, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU section's own code, on the CPU with a tiny model and without the compiler."""
    from conftest import load_tiny

    monkeypatch.setattr(performance, "compile_regions", lambda model, backend: 0)
    table = performance.full_size(partial(load_tiny, tiny_folder), 2, 1, batches=(1, 2))
    assert {row["edit"] for row in table.rows} == {"direct + p2p", "null_text + p2p"}
    assert {row["forwards per edit"] for row in table.rows if row["edit"].startswith("direct")} == {4 * 2}
    assert {row["forwards per edit"] for row in table.rows if row["edit"].startswith("null")} == {2 + 2 * 12 + 4 * 2}
    assert len(table.rows) >= 4
    assert "seconds per edit" in table.markdown()


@pytest.mark.slow
def test_paste_back_of_96_megapixels_stays_within_the_memory_that_the_docs_state() -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / "large_picture.py"], capture_output=True, text=True, check=True)
    copies = float(re.search(r"([\d.]+) copies more", done.stdout)[1])
    assert 1 < copies < 4.2


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_gpu_script_rehearsed_without_one(scripts, tiny_folder: Path, tmp_path: Path) -> None:
    """What was measured is kept, and a second run measures the rest alone."""
    import gpu

    given = ["--out", str(tmp_path), "--model", str(tiny_folder), "--device", "cpu", "--dtype", "float32"]
    given += ["--steps", "2", "--repeats", "1", "--modes", "off", "--batch", "2"]
    assert gpu.main([*given, "--methods", "direct + p2p", "--minutes", "0"]) == {}
    first = gpu.main([*given, "--methods", "direct + p2p"])
    assert list(first) == ["direct + p2p | off | 2"]
    # a row to invert, and of two steps one with the source's row
    assert first["direct + p2p | off | 2"]["forwards"] == 2 + 3 + 2
    both = gpu.main([*given, "--methods", "direct + p2p", "edict + p2p"])
    assert both["direct + p2p | off | 2"] == first["direct + p2p | off | 2"]
    assert both["edict + p2p | off | 2"]["seconds"] > 0
    assert (tmp_path / "cells.md").read_text().count("| off | 2 |") == 2


def test_the_overhead_s_table_takes_its_place_in_a_page(scripts, tiny: StableDiffusion, tmp_path: Path) -> None:
    import overhead

    page = tmp_path / "page.md"
    page.write_text("# Performance\n\n## The loop's own work\n\nold\n\n## Last\n\nstays\n")
    table = overhead.measure(tiny, 3, 2)
    assert [row["rows"] for row in table.rows] == [3, 6, 3 + 2 + 2, 3 * 3, 6]
    for _ in range(2):
        overhead.put(page, table, "python x")
    text = page.read_text()
    assert text.count("## The loop's own work") == 1
    assert "old" not in text
    assert text.endswith("## Last\n\nstays\n")
    assert "`python x`" in text
