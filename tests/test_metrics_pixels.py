"""PSNR, MSE and SSIM: against torchmetrics and formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from metric_networks import noisy, pictures, square

from reinvert.errors import ReinvertError
from reinvert.metrics import base
from reinvert.metrics.mse import mse
from reinvert.metrics.psnr import psnr
from reinvert.metrics.ssim import ssim, ssim_map

A = pictures(3)
B = noisy(A, 0.1)
MASK = square(3)


@pytest.mark.parametrize("mask", [None, MASK, 1 - MASK])
def test_compat_is_torchmetrics_on_blackened_pictures(mask) -> None:
    functional = pytest.importorskip("torchmetrics.functional")
    values = {f: f(A, B, mask, "compat") for f in (mse, psnr, ssim)}
    for i in range(3):
        x, y = (t[i : i + 1] if mask is None else t[i : i + 1] * mask[i : i + 1] for t in (A, B))
        theirs = {
            mse: functional.mean_squared_error(x.contiguous(), y.contiguous()),
            psnr: functional.image.peak_signal_noise_ratio(x, y, data_range=1.0),
            ssim: functional.image.structural_similarity_index_measure(x, y, data_range=1.0),
        }
        # float32 sums of 7000 numbers, in another order
        assert float(values[mse][i]) == pytest.approx(float(theirs[mse]), rel=2e-6)
        assert float(values[psnr][i]) == pytest.approx(float(theirs[psnr]), abs=2e-5)
        assert float(values[ssim][i]) == pytest.approx(float(theirs[ssim]), abs=1e-6)


def test_the_cropped_ssim_of_older_versions() -> None:
    """The interior of torchmetrics' own full map."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    _, full = functional.structural_similarity_index_measure(A, B, data_range=1.0, return_full_image=True)
    wanted = full[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert torch.allclose(ssim(A, B, None, "compat", crop=True), wanted, atol=1e-6)
    assert (ssim(A, B, None, "compat") - wanted).abs().min() > 1e-4


def test_region_averages_are_those_of_the_pixels_in_the_region() -> None:
    for i in range(3):
        inside = MASK[i, 0].bool()
        errors = (A[i] - B[i])[:, inside].double() ** 2
        assert float(mse(A, B, MASK)[i]) == pytest.approx(float(errors.mean()), rel=1e-5)
        assert float(psnr(A, B, MASK)[i]) == pytest.approx(10 * math.log10(1 / float(errors.mean())), abs=1e-4)


def naive_ssim_map(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """SSIM around every pixel of [3, h, w], window by window in float64."""
    x, y = (np.pad(t.double().numpy(), ((0, 0), (5, 5), (5, 5)), mode="reflect") for t in (a, b))
    r = np.arange(-5, 6)
    window = np.exp(-(r[:, None] ** 2 + r[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    made = np.zeros(a.shape)
    for c, i, j in np.ndindex(*a.shape):
        u, v = x[c, i : i + 11, j : j + 11], y[c, i : i + 11, j : j + 11]
        mu, mv = (window * u).sum(), (window * v).sum()
        vu, vv = (window * (u - mu) ** 2).sum(), (window * (v - mv) ** 2).sum()
        cov = (window * (u - mu) * (v - mv)).sum()
        likeness = (2 * mu * mv + 1e-4) * (2 * cov + 9e-4)
        made[c, i, j] = likeness / ((mu**2 + mv**2 + 1e-4) * (vu + vv + 9e-4))
    return made


def test_ssim_over_a_region_is_the_mean_of_the_map_there() -> None:
    full = naive_ssim_map(A[0], B[0])
    assert np.abs(ssim_map(A[:1].double(), B[:1].double())[0].numpy() - full).max() < 1e-10
    assert float(ssim(A[:1], B[:1], MASK[:1])) == pytest.approx(full[:, MASK[0, 0].bool().numpy()].mean(), abs=1e-6)
    assert float(ssim(A[:1], B[:1])) == pytest.approx(full.mean(), abs=1e-6)


def test_the_blackened_error_is_the_regions_times_its_share() -> None:
    share = MASK.flatten(1).mean(1)
    assert torch.allclose(mse(A, B, MASK, "compat") / share, mse(A, B, MASK), rtol=1e-5)
    assert torch.allclose(psnr(A, B, MASK, "compat"), psnr(A, B, MASK) - 10 * share.log10(), atol=1e-4)
    assert (ssim(A, B, MASK, "compat") > ssim(A, B, MASK)).all()  # black windows count as 1


@pytest.mark.parametrize("mode", ["strict", "compat"])
def test_an_empty_region_is_not_a_number(mode) -> None:
    none = torch.zeros_like(MASK)
    for metric in (mse, psnr, ssim):
        assert metric(A, B, none, mode).isnan().all()
    one = torch.cat([none[:1], MASK[1:]])
    assert mse(A, B, one, mode).isnan().tolist() == [True, False, False]


@pytest.mark.parametrize("mode", ["strict", "compat"])
def test_equal_pictures(mode) -> None:
    for mask in (None, MASK):
        assert (psnr(A, A, mask, mode) == math.inf).all()
        assert (mse(A, A, mask, mode) == 0).all()
        assert torch.allclose(ssim(A, A, mask, mode), torch.ones(3), atol=1e-6)


def test_a_batch_is_its_pictures_one_by_one() -> None:
    for metric in (mse, psnr, ssim):
        for mode in ("strict", "compat"):
            together = metric(A, B, MASK, mode)
            alone = torch.cat([metric(A[i : i + 1], B[i : i + 1], MASK[i : i + 1], mode) for i in range(3)])
            assert torch.allclose(together, alone, rtol=1e-6)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ReinvertError, match=r"shapes \[3, 3, 48, 48\] and \[3, 3, 48, 47\]"):
        mse(A, B[..., :-1])
    with pytest.raises(ReinvertError, match=r"a mask of shape \[3, 48, 48\] does not fit"):
        psnr(A, B, MASK[:, 0])
    with pytest.raises(ReinvertError, match="more than 10 pixels"):
        ssim(A[..., :5], B[..., :5])
    with pytest.raises(ReinvertError, match="use strict or compat"):
        base.check(A, B, None, "fixed")


def test_metrics_are_found_by_the_names_of_their_files() -> None:
    assert base.names() == (
        "clip_similarity",
        "lpips",
        "mse",
        "ns_lpips",
        "psnr",
        "ssim",
        "structure_distance",
    )
    for name in base.names():
        assert base.find(name).name == base.find(name).compute.__name__ == name
    assert base.find("psnr").heading == "PSNR (dB) ↑"
    assert base.find("mse").heading == "MSE ×10⁴ ↓"
    with pytest.raises(ReinvertError, match="did you mean"):
        base.find("pnsr")
