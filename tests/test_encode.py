"""Inversions may begin from a sample of the VAE's posterior, as some published programs do, instead of its mean."""

from __future__ import annotations

import pytest
import torch
from conftest import PARITY, SOURCE, TARGET, gap, load_tiny, relative_l2

import reinvert
from reinvert import recipes
from reinvert.backbones.families import families
from reinvert.cli.program import main
from reinvert.errors import ReinvertError
from reinvert.image import to_tensor
from reinvert.inversions.base import Source
from reinvert.noise import posterior
from reinvert.prepared import prepare
from reinvert.trajectory import Trajectory

PICTURE = PARITY / "inputs" / "img1_512.png"


# --- against what the authors' programs drew -------------------------------------------------------------------------


def test_pix2pix_zero_s_recorded_sample(parity_model, recorded) -> None:
    drawn = prepare(parity_model, [PICTURE], encode="sample", seed=1234).latents
    wanted = recorded["p1_p2pz_di_noreg.posterior_sample"] * parity_model.vae.config.scaling_factor
    assert gap(drawn, wanted) < 1e-5
    assert relative_l2(prepare(parity_model, [PICTURE]).latents, wanted) > 1e-3


@pytest.mark.slow
def test_edict_s_recorded_sample(recorded) -> None:
    """Its program is in float64 and draws in it."""
    model = load_tiny(PARITY / "tiny-random-sd", torch.float64)
    drawn = prepare(model, [PICTURE], encode="sample", seed=1).latents
    wanted = recorded["p1_edict_direct_n5.posterior_sample"] * model.vae.config.scaling_factor
    assert gap(drawn, wanted) < 1e-12
    assert relative_l2(prepare(model, [PICTURE]).latents, wanted) > 1e-3


# --- what a sample is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(families()))
def test_the_posterior_s_deviation_times_the_seed_s_first_draw(name: str) -> None:
    model = families()[name].tiny()
    pictures = torch.rand(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = posterior(model.latent_shape, 5, model.dtype)
    assert torch.equal(noise, torch.randn(1, *model.latent_shape, dtype=torch.float64, generator=torch.manual_seed(5)))
    with torch.no_grad():
        theirs = model.vae.encode(pictures).latent_dist.sample(torch.Generator().manual_seed(5))
    shift = getattr(model.vae.config, "shift_factor", None) or 0.0
    assert gap(model.encode(pictures, noise), (theirs - shift) * model.vae.config.scaling_factor) < 1e-12


def test_the_same_seed_gives_the_same_bytes(tiny, picture, tmp_path) -> None:
    files = []
    for number, seed in enumerate((3, 3, 4)):
        made = reinvert.invert(tiny, picture, SOURCE, inversion="ddim", encode="sample", seed=seed, steps=2)
        made.save(tmp_path / f"{number}.trajectory.safetensors")
        files.append((tmp_path / f"{number}.trajectory.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]
    mean = reinvert.invert(tiny, picture, SOURCE, inversion="ddim", steps=2)
    assert torch.equal(mean.path[0], tiny.encode(to_tensor([picture])))
    loaded = Trajectory.load(tmp_path / "0.trajectory.safetensors")
    assert loaded.settings["encode"] == "sample"
    assert not torch.equal(loaded.path[0], mean.path[0])
    assert loaded.maker.drawn == 1


@pytest.mark.parametrize("inversion", ["direct", "edict", "edit_friendly"])
def test_an_exact_source_comes_back_to_the_sample(tiny64, picture, inversion: str) -> None:
    result = reinvert.edit(
        tiny64, picture, source=SOURCE, target=TARGET, inversion=inversion, encode="sample", seed=7, steps=3
    )
    noise = posterior(tiny64.latent_shape, 7, torch.float64)
    sample = tiny64.encode(to_tensor([picture], torch.float64), noise)[0]
    assert gap(result.latents[0], sample) < 1e-10
    assert gap(result.latents[0], tiny64.encode(to_tensor([picture], torch.float64))[0]) > 1e-3
    assert result.settings["inversion"]["encode"] == "sample"


def test_pictures_of_a_batch_are_drawn_as_alone(tiny, picture, other_picture) -> None:
    both = prepare(tiny, [picture, other_picture], encode="sample", seed=2).latents
    for latents, one in zip(both, (picture, other_picture), strict=True):
        assert torch.equal(latents, prepare(tiny, [one], encode="sample", seed=2).latents[0])


def test_later_draws_are_others_than_the_sample_s(tiny, picture) -> None:
    """In the order of the programs: the posterior first, then what the method draws."""
    first = posterior(tiny.latent_shape, 6, tiny.dtype)
    generator = torch.Generator().manual_seed(6)
    _, second = (torch.randn(1, *tiny.latent_shape, generator=generator) for _ in range(2))
    x0 = tiny.encode(to_tensor([picture]))
    assert torch.equal(next(Source(tiny, x0, (SOURCE,), seed=6).draws()), first)
    assert torch.equal(next(Source(tiny, x0, (SOURCE,), seed=6, drawn=1).draws()), second)
    sample = tiny.encode(to_tensor([picture]), first)
    level = tiny.level(tiny.times(4)[1])
    made = reinvert.invert(
        tiny, picture, SOURCE, inversion="edit_friendly", encode="sample", seed=6, steps=4, skip=0.74
    )
    assert gap(made.path[1], level.signal * sample + level.noise * second) > 1e-3  # not this level's ...
    level = tiny.level(tiny.times(4)[3])
    assert gap(made.path[1], level.signal * sample + level.noise * second) < 1e-6  # ... but the cleanest one's


@pytest.mark.parametrize("editor", ["sdedit", "infedit", "turbo_edit"])
def test_an_editor_s_own_noise_is_not_the_sample_s(tiny, picture, editor: str) -> None:
    seen = [
        reinvert.edit(tiny, picture, source=SOURCE, target=TARGET, editor=editor, steps=3, seed=8, **more).latents
        for more in ({}, {"encode": "sample"})
    ]
    assert gap(*(x[1] for x in seen)) > 1e-3


# --- where it is said ------------------------------------------------------------------------------------------------


def test_the_command_line_and_its_sidecar(tiny_folder, picture, tmp_path) -> None:
    picture.save(tmp_path / "in.png")
    words = ["--model", str(tiny_folder), "--device", "cpu", "--steps", "2", "--seed", "3", "--encode", "sample"]
    edit = ["edit", str(tmp_path / "in.png"), "--source", SOURCE, "--target", TARGET, *words]
    outputs = [tmp_path / "a.png", tmp_path / "b.png"]
    for output in outputs:
        assert main([*edit, "-o", str(output)]) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert '"encode": "sample"' in (tmp_path / "a.png.json").read_text()
    (tmp_path / "a.png.json").unlink()
    assert main(["edit", str(tmp_path / "in.png"), "--encode", "mode"]) != 0


@pytest.mark.parametrize(
    "name", ["edict+direct_forward", "edict+p2p", "ddim+pix2pix-zero", "directinversion+pix2pix-zero", "rf-inversion"]
)
def test_recipes_whose_programs_sample(name: str) -> None:
    assert dict(recipes.find(name).inversion)["encode"] == "sample"


def test_another_word_is_refused(tiny, picture) -> None:
    with pytest.raises(ReinvertError, match="encode of ddim"):
        reinvert.invert(tiny, picture, SOURCE, inversion="ddim", encode="mode")
