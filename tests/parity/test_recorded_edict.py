"""The authors' EDICT with the target's prompt alone (no attention rule), as recorded, through the public API.

Theirs sampled the VAE's posterior where ours takes its mean, so the recorded sample is what is inverted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from conftest import PARITY, load_tiny, relative_l2
from torch import Tensor

import reinvert
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.editors.base import Case, Editor
from reinvert.hooks import Hooks
from reinvert.inversions.base import Source
from reinvert.inversions.edict import EDICT
from reinvert.level import Moment

NAME = "p1_edict_direct_n5"
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Watch(Editor):
    """Changes nothing and keeps what it sees: the two latents after every step, one after the other."""

    name: ClassVar[str] = "watch"
    seen: list[Tensor] = field(default_factory=list)

    def bind(self, case: Case) -> Hooks:
        seen = self.seen

        class Watching(Hooks):
            def blend(self, x: Tensor, moment: Moment) -> Tensor:
                seen.append(x)
                return x

        return Watching()


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    """In float64, as the authors cast theirs."""
    return load_tiny(PARITY / "tiny-random-sd", torch.float64)


@pytest.fixture(scope="module")
def path(model, recorded, recorded_json) -> reinvert.Trajectory:
    start = recorded[f"{NAME}.posterior_sample"].double() * model.vae.config.scaling_factor
    said, steps = recorded_json["pair"]["src"], recorded_json["entries"][NAME]["steps"]
    return EDICT().invert(Source(model, start, (said,), steps))


@pytest.fixture(scope="module")
def tolerance(recorded_json) -> float:
    """That for a float64 state:"""
    return recorded_json["tolerances"]["edict (fp64 state)"]["recommended"]


def test_the_inverted_pair(path, recorded, tolerance) -> None:
    assert path.path.dtype == path.kept["partner"].dtype == torch.float64
    assert relative_l2(path.path[-1], recorded[f"{NAME}.reverse0"]) < tolerance
    assert relative_l2(path.kept["partner"][-1], recorded[f"{NAME}.reverse1"]) < tolerance


def test_the_edit(model, path, recorded, recorded_json, tolerance) -> None:
    entry, watch = recorded_json["entries"][NAME], Watch()
    guidance = float(entry["calls"][1]["k"]["guidance_scale"])
    result = reinvert.edit(model, path, target=recorded_json["pair"]["tgt"], editor=[watch], guidance=guidance)
    assert relative_l2(result.latents[1:], recorded[f"{NAME}.forward0"]) < tolerance
    for latents, name in zip(watch.seen[-2:], ("forward0", "forward1"), strict=True):
        assert relative_l2(latents[1], recorded[f"{NAME}.{name}"]) < tolerance
    assert torch.equal(result.latents[0], path.path[0, 0])
    # Three steps that ask twice, both sides; of the published 16, four fall on the identity at time 0.
    assert result.forwards == 3 * 2 * 2
    pixels = np.asarray(result.image)
    assert pixels.mean() == pytest.approx(entry["image"]["mean"], abs=0.6)
    assert pixels.std() == pytest.approx(entry["image"]["std"], abs=0.2)
