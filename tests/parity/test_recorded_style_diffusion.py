"""The authors' StyleDiffusion with Prompt-to-Prompt, as recorded, through the public API.

The recorded fit is chaotic: the networks begin at random weights with losses near 0.5, and Adam's first step is the
sign of a gradient, so a gradient near 0 moves its weight by twice the rate on the slightest difference. Evaluating our
own network with explicit attention products instead of fused ones (1e-7 in float32) moves S and T by 0.7 % at step 0,
by 50 to 60 % at step 9, and the final latents by 0.30 (source) and 0.20 (target): beyond any tolerance that was stated,
which for this run was an estimate that nobody had checked. What can be held to the recorded numbers is the first step,
whose five iterations tell the wrong settings apart; all ten are held to the authors' program run again in float64
(test_style_diffusion_float64), and the arithmetic to a naive loop in tests/test_inversions_*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from conftest import PARITY, relative_l2

import reinvert
from reinvert.inversions.base import Source
from reinvert.inversions.style_diffusion import StyleDiffusion, _Fit

PICTURE = PARITY / "inputs" / "img1_512.png"
NAME = "p1_stylediff"
LAYERS = {
    "first": "conv_start.weight",
    "second": "conv_block.0.0.weight",
    "gain": "conv_block.0.1.weight",
    "bias": "conv_block.0.1.bias",
    "third": "conv_end.weight",
    "third_bias": "conv_end.bias",
}


@dataclass(frozen=True)
class Recorded(StyleDiffusion):
    """With the recorded features and first weights."""

    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def features(self, source: Source) -> torch.Tensor:
        return self.tensors[f"{NAME}.features"]

    def networks(self, source: Source, features, keys):
        return [{ours: self.tensors[f"{NAME}.M0init.{theirs}"].squeeze(-1) for ours, theirs in LAYERS.items()}]

    @property
    def settings(self) -> dict:
        return {}


@pytest.fixture
def fits(monkeypatch) -> list[_Fit]:
    """Every fit that is made, for its networks."""
    seen: list[_Fit] = []
    call = _Fit.__call__

    def watched(self: _Fit, *args):
        seen.append(self)
        return call(self, *args)

    monkeypatch.setattr(_Fit, "__call__", watched)
    return seen


def test_the_budget(recorded_json) -> None:
    entry = recorded_json["entries"][NAME]
    method = StyleDiffusion(inner=entry["inner"], tau_v=entry["k"]["tau_v"])
    assert [method.budget(s) for s in range(entry["N"])] == entry["inner_schedule"]


@pytest.mark.slow
def test_the_first_step_s_network(parity_model, recorded, recorded_json, fits) -> None:
    """Relative L2 of weights that the fit itself moves by 0.44, 0.45 and 0.035.

    Nearest wrong settings: no attention loss 0.047 / 0.011 / 0.0030; maps of another step 0.037 / 0.036 / 0.0018; four
    iterations 0.070 / 0.055 / 0.0072; guidance 7 0.035 / 0.010 / 0.0026; one layer without modulation 0.036 / 0.009 or
    more. In float64 the distances are the same to 1e-4.
    """

    class EnoughError(Exception):
        pass

    def stop(progress) -> None:
        if progress.stage == "fitting":
            raise EnoughError

    entry, pair = recorded_json["entries"][NAME], recorded_json["pair"]
    method = Recorded(inner=entry["inner"], tensors=recorded)
    with pytest.raises(EnoughError):
        reinvert.invert(parity_model, PICTURE, pair["src"], inversion=method, steps=entry["N"], watch=stop)
    learned = fits[0].networks[0]
    for ours, allowed in (("third", 0.03), ("third_bias", 0.007), ("gain", 0.00175)):
        wanted = recorded[f"{NAME}.M0.{LAYERS[ours]}"].squeeze(-1)
        assert relative_l2(learned[ours], wanted) < allowed
    # Nearly all of that distance is a few weights that took Adam's first step the other way.
    moved = (learned["third"] - recorded[f"{NAME}.M0.conv_end.weight"].squeeze(-1)).abs()
    assert (moved > method.rate).float().mean() < 0.005
    assert moved.median() < 0.05 * method.rate


@pytest.mark.slow
def test_the_edit(parity_model, recorded, recorded_json) -> None:
    """As far from the recorded latents as rounding alone takes our own (0.30 and 0.20), not exactly; and the cost."""
    entry, pair = recorded_json["entries"][NAME], recorded_json["pair"]
    method = Recorded(inner=entry["inner"], tau_v=entry["k"]["tau_v"], tensors=recorded)
    result = reinvert.edit(
        parity_model, PICTURE, source=pair["src"], target=pair["tgt"], inversion=method, steps=entry["N"],
        editor="p2p", kind="replace", cross=entry["k"]["tau_c"], self_attention=entry["k"]["tau_s"],
    )  # fmt: skip
    for row in range(2):
        assert relative_l2(result.latents[row], recorded[f"{NAME}.final"][row]) < 0.45
    taken = sum(entry["inner_schedule"])
    assert result.backwards == taken
    assert result.forwards == 10 + 10 + taken + 10 + 40
