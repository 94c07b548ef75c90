"""Every method runs on a network in half precision; the walk's own arithmetic stays in float32 or wider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
sys.path[:0] = {paths!r}
import torch
from conftest import SOURCE, TARGET, make_picture
from test_method_laws import CHEAP, GIVEN
from test_matrix import half_mask
import reinvert
from reinvert import registry, verbs
from reinvert.errors import NonFiniteError

model = reinvert.load({folder!r}, device="cpu", dtype={dtype!r})
told = {{}}
combinations = [(name, "p2p") for name in registry.names("inversions") if registry.find("inversions", name).finds_noise]
for name in registry.names("editors"):
    combinations.append((verbs.usual_inversion([registry.find("editors", name)]), name))
for inversion, editor in combinations:
    method = registry.make("editors", editor, GIVEN.get(editor))
    result = reinvert.edit(
        model, make_picture(0), source=SOURCE, target=TARGET, steps=3, guidance=3.0,
        inversion=registry.make("inversions", inversion, CHEAP.get(inversion)), editor=[method],
        mask=half_mask() if method.needs_mask else None,
    )
    wide = result.latents.dtype in (torch.float32, torch.float64)
    told[f"{{inversion}}+{{editor}}"] = bool(torch.isfinite(result.latents).all()) and wide
print(json.dumps(told))
"""


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_method_runs_in_half_precision(tiny_folder: Path, dtype: str) -> None:
    """In a process of its own: on some virtual machines bfloat16 matrix products crash, because the processor says AMX
    and the machine does not let it be used; the setting below keeps to what is there."""
    here = Path(__file__).parent
    program = PROGRAM.format(paths=[str(here.parent), str(here)], folder=str(tiny_folder), dtype=dtype)
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told
    assert all(told.values()), [name for name, fine in told.items() if not fine]
