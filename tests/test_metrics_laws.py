"""The laws of every registered metric that compares two pictures, in both modes."""

from __future__ import annotations

import math

import pytest
import torch
from metric_networks import clip_folder, lpips_network, noisy, pictures, square, vit_folder

from reinvert.metrics.base import filled, find, names
from reinvert.networks.vit import TowerDistance, load_vit

MODES = ("strict", "compat")
PAIRS = [name for name in names() if find(name).needs != "clip"]
"""CLIP similarity compares a picture with words: its laws are in test_metrics_networks.py."""
PERFECT = {"psnr": math.inf, "ssim": 1.0}


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("networks")
    tower = load_vit(clip_folder(folder / "clip"), "picturebook")
    return {
        "lpips": lpips_network("alex"),
        "structure": load_vit(vit_folder(folder / "vit")),
        "stand-in": TowerDistance(tower),
    }


@pytest.fixture(params=[(name, mode) for name in [*PAIRS, "stand-in"] for mode in MODES], ids=str)
def metric(request, networks):
    """A metric as a function of two pictures and a mask, and its direction and best value."""
    name, mode = request.param
    page = find("lpips" if name == "stand-in" else name)
    options = {} if page.needs == "none" else {"network": networks[name if name == "stand-in" else page.needs]}

    def compute(a, b, mask=None):
        return page.compute(a, b, mask, mode, **options)

    compute.page, compute.mode, compute.best = page, mode, PERFECT.get(page.name, 0.0)
    return compute


A, MASK = pictures(2), square(2)


def test_best_at_identity(metric) -> None:
    for mask in (None, MASK):
        same, other = metric(A, A, mask), metric(A, noisy(A, 0.05), mask)
        assert same.shape == (2,)
        # float32: SSIM's map is 1 to a few 1e-8, LPIPS and structure are exactly 0
        assert same.tolist() == pytest.approx([metric.best] * 2, abs=1e-6)
        assert (same > other).all() if metric.page.direction == "higher" else (same < other).all()


def test_monotone_under_growing_noise(metric) -> None:
    """Of one noise pattern, mean of four pictures; the networks are random, so no single picture need obey."""
    many = pictures(4)
    for mask in (None, square(4)):
        values = torch.stack([metric(many, noisy(many, amount), mask).mean() for amount in (0.01, 0.03, 0.1, 0.3)])
        steps = values.diff() if metric.page.direction == "lower" else -values.diff()
        assert (steps > 0).all(), values


def test_what_lies_outside_the_mask_does_not_count(metric) -> None:
    """With the rest filled as the scores do it in strict mode; in compat, the black does it."""
    b = noisy(A, 0.1)
    changed = torch.where(MASK == 1, b, pictures(2, seed=7))
    assert (changed - b).abs().max() > 0.2
    if metric.mode == "strict":
        b, changed = filled(b, A, MASK), filled(changed, A, MASK)
    if (metric.page.name, metric.mode) == ("ns_lpips", "compat"):
        # The published evaluation shrinks before it masks, so that pixels beyond the border leak in.
        assert not torch.equal(metric(A, b, MASK), metric(A, changed, MASK))
        b, changed = (torch.where(_near(MASK), b, x) for x in (b, changed))
    assert torch.equal(metric(A, b, MASK), metric(A, changed, MASK))


def _near(mask):
    """The mask grown by what a pixel of the published size reaches (these pictures are enlarged to it)."""
    return torch.nn.functional.max_pool2d(mask, 5, 1, 2) == 1


def test_symmetric(metric) -> None:
    b = noisy(A, 0.1)
    assert torch.allclose(metric(A, b, MASK), metric(b, A, MASK), rtol=1e-5)


def test_a_batch_is_its_pictures_one_by_one(metric) -> None:
    b = noisy(A, 0.1)
    alone = [metric(A[i : i + 1], b[i : i + 1], MASK[i : i + 1]) for i in range(2)]
    assert torch.allclose(metric(A, b, MASK), torch.cat(alone), rtol=1e-4)  # the networks' sums in another order


def test_a_mask_of_ones_is_the_whole_picture_and_of_zeros_none(metric) -> None:
    b, ones = noisy(A, 0.1), torch.ones_like(MASK)
    if metric.page.name != "structure_distance" or metric.mode == "compat":
        assert torch.allclose(metric(A, b, ones), metric(A, b), rtol=1e-4)
    assert metric(A, b, 0 * ones).isnan().all()
    half = torch.cat([0 * ones[:1], ones[:1]])
    assert metric(A, b, half).isnan().tolist() == [True, False]


def test_the_two_modes_differ_over_a_region(networks) -> None:
    b = noisy(A, 0.1)
    for name in PAIRS:
        page = find(name)
        options = {} if page.needs == "none" else {"network": networks[page.needs]}
        strict, compat = (page.compute(A, b, MASK, mode, **options) for mode in MODES)
        assert ((strict - compat).abs() > 0.02 * compat.abs()).all(), name


def test_structure_distance_differs_between_the_modes_on_whole_pictures(networks) -> None:
    """0..255 against 0..1 into the network: the published scale and the right one."""
    compute, b = find("structure_distance").compute, noisy(A, 0.1)
    strict, compat = (compute(A, b, None, mode, network=networks["structure"]) for mode in MODES)
    assert ((strict - compat).abs() > 0.05 * compat.abs()).all()
