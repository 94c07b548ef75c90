"""The benchmarks run: what they count is what they claim, and the page of their tables is made by one command."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_gradients_of_the_weights_cost_memory_and_change_nothing(performance, tiny: StableDiffusion) -> None:
    x0, asked = performance.case_for(tiny, 2)
    alone, both, _ = performance.null_text_gradients(tiny, x0, asked, 1, inner=1).rows
    assert alone["memory (MiB)"] < both["memory (MiB)"]
    assert not any(p.requires_grad or p.grad is not None for p in tiny.unet.parameters())


@pytest.mark.slow
def test_paste_back_of_96_megapixels_stays_within_the_memory_that_the_docs_state() -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / "large_picture.py"], capture_output=True, text=True, check=True)
    copies = float(re.search(r"([\d.]+) copies more", done.stdout)[1])
    assert 1 < copies < 4.2


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


REHEARSE = ["--rehearse", "--steps", "2", "--repeats", "1", "--modes", "off"]


def test_the_gpu_script_rehearsed_without_one(scripts, tmp_path: Path) -> None:
    """What was measured is kept, and a second run measures the rest alone; the tables say what is behind them."""
    import gpu

    given = [*REHEARSE, "--out", str(tmp_path), "--models", "SD 1.4", "--largest", "1", "--methods"]
    assert gpu.main([*given, "direct + p2p", "--minutes", "0"]) == {}
    first = gpu.main([*given, "direct + p2p"])
    assert list(first) == ["SD 1.4 | direct + p2p | off | 1"]
    cell = first["SD 1.4 | direct + p2p | off | 1"]
    # a row to invert, and of two steps one with the source's row
    assert cell["forwards"] == 2 + 3 + 2
    assert cell["TFLOP"] > 0
    assert cell["over bare"] > 1
    both = gpu.main([*given, "direct + p2p", "flowedit"])
    assert both["SD 1.4 | direct + p2p | off | 1"] == cell
    assert "flow" in both["SD 1.4 | flowedit | off | 1"]["why not"]
    assert (tmp_path / "cells.md").read_text().count("| off | 1 |") == 2


def test_the_gpu_script_begins_with_the_aims_and_doubles_the_batch(scripts, tmp_path: Path) -> None:
    import gpu

    rows = gpu.plan(list(gpu.real_sizes.MODELS), list(gpu.METHODS), gpu.MODES)
    assert len(set(rows)) == len(rows) == 4 * len(gpu.METHODS) * 3
    assert rows[:4] == [
        *(gpu.Row("SD 1.4", "direct + p2p", mode) for mode in gpu.MODES),
        gpu.Row("FLUX.1", "flowedit", "off"),
    ]
    cells, told = gpu.Cells(tmp_path, {"device": "NVIDIA H200", "dtype": "bfloat16"}), []
    for batch in gpu.batches(cells, rows[0], 64):
        told.append(batch)
        cells.cells[rows[0].cell(batch)] = {"seconds": max(1 / batch, 0.2), "TFLOP": 300.0} if batch < 32 else {}
    assert told == [1, 2, 4, 8, 16]  # 16 costs what 8 does
    assert list(gpu.batches(cells, rows[0], 64)) == []
    alone, best = gpu.tables(cells.cells, cells.about)[0].rows
    assert (alone["batch"], best["batch"]) == (1, 8)
    assert alone["share of peak"] == "30%"


@pytest.mark.slow
def test_the_gpu_script_rehearsed_in_whole(scripts, tmp_path: Path) -> None:
    """Every model, method and kind of compilation: each cell has figures, or one sentence that says why not."""
    import gpu

    given = ["--rehearse", "--steps", "2", "--repeats", "1", "--out", str(tmp_path), "--largest", "1"]
    cells = gpu.main([*given, "--backend", "eager", "--minutes", "60"])
    assert len(cells) == 4 * len(gpu.METHODS) * 3
    assert all(("why not" in cell) != ("seconds" in cell) for cell in cells.values())
    served = {name.split(" | ")[0] for name, cell in cells.items() if "seconds" in cell}
    assert served == set(gpu.real_sizes.MODELS)


@pytest.mark.parametrize(("given", "says"), [([], "--out"), (["--out", "x", "--device", "cuda:7"], "there is no GPU")])
def test_the_gpu_script_asks_for_what_it_lacks(
    scripts, given: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu

    if given and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as ended:
        gpu.main(given)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_overhead_s_table_takes_its_place_in_a_page(scripts, tiny: StableDiffusion, tmp_path: Path) -> None:
    import overhead

    page = tmp_path / "page.md"
    marks = "<!-- table: The loop's own work -->\n{}<!-- end -->\n"
    page.write_text(f"# Performance\n\n## The loop\n\nBy hand.\n\n{marks.format('old')}\nAfter it.\n")
    table = overhead.measure(tiny, 3, 2)
    assert [row["rows"] for row in table.rows] == [3, 6, 3 + 2 + 2, 3 * 3, 6]
    for _ in range(2):
        overhead.put(page, table, "python x")
    text = page.read_text()
    assert text.startswith(
        "# Performance\n\n## The loop\n\nBy hand.\n\n<!-- table: The loop's own work -->\nCPU seconds"
    )
    assert text.count("<!-- table: The loop's own work -->") == 1
    assert "old" not in text
    assert text.endswith("<!-- end -->\n\nAfter it.\n")
    assert "`python x`" in text
    table.title = "Another one"  # for which the page has no place yet
    overhead.put(page, table, "python y")
    assert "After it.\n\n## Another one\n\n<!-- table: Another one -->\n" in page.read_text()


def test_an_edit_s_parts_add_up(scripts, tiny: StableDiffusion) -> None:
    import edit_profile

    tiny.unet.__dict__.pop("forward", None)
    found = edit_profile.profiled(tiny, 2, 1)
    assert set(found) == set(edit_profile.PARTS)
    assert found["network"] > found["rules"] > 0
    assert found["VAE"] > 0
    assert found["loop"] > 0
    assert "forward" not in vars(tiny.unet)
    table = edit_profile.tabled("tiny", 2, 1, found, {part: 1.0 for part in found})
    assert table.rows[-1]["before (CPU s)"] == len(found)
    assert table.rows[-1]["share before"] == table.rows[-1]["share now"] == "100.0%"
    assert list(edit_profile.tabled("tiny", 2, 1, found, None).rows[0]) == ["part", "(CPU s)", "share", "what it is"]


def test_the_page_of_all_tables_is_made_by_one_command(
    scripts, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each table in its place with command and load; what no GPU measured says so, and a file of results fills it."""
    import gpu
    import performance_page

    page = tmp_path / "performance.md"
    page.write_text((BENCHMARKS.parent / "docs" / "performance.md").read_text())
    places = performance_page.places(page.read_text())
    assert places == [title for part in performance_page.PARTS.values() for title in part.titles]
    performance_page.main(["--page", str(page), "--parts", "gpu"])
    assert page.read_text().count(performance_page.NOT_MEASURED) >= 4
    cells = gpu.Cells.of(tmp_path / "cells", {"device": "NVIDIA H200", "dtype": "bfloat16", "torch": "2"})
    cells.add("SD 1.4 | direct + p2p | off | 1", {"seconds": 0.5, "first": 1.0, "TFLOP": 100.0, "forwards": 200})
    performance_page.main(["--page", str(page), "--parts", "gpu", "--gpu", str(tmp_path / "cells")])
    text = page.read_text()
    assert "| direct + p2p | off | 1 | 0.5 |" in text
    assert "NVIDIA H200" in text
    assert performance_page.places(text) == places


def test_what_a_cpu_gains_is_measured(scripts, tiny: StableDiffusion) -> None:
    import cpu

    table = cpu.precision(tiny, 16, 1)
    assert [(row["rows"], row["precision"]) for row in table.rows[::2]] == [
        (1, "float32"), (1, "bfloat16"), (3, "float32"), (3, "bfloat16"),
    ]  # fmt: skip
    assert next(tiny.unet.parameters()).is_contiguous()  # copies were measured
    pictures = cpu.overlap(tiny, 16, 1).rows
    assert pictures[0]["share"] == 1
    assert len(pictures) == 3
