"""SDXL, SD3 and FLUX against what diffusers' pipelines computed on tiny checkpoints, and against diffusers itself."""

from __future__ import annotations

import parity_flow
import pytest
import torch
from conftest import SOURCE, TARGET, gap, relative_l2
from diffusers import EulerDiscreteScheduler, FluxPipeline, StableDiffusion3Pipeline, StableDiffusionXLPipeline

from reinvert.backbones.loading import families
from reinvert.errors import ReinvertError
from reinvert.level import FINAL, Level
from reinvert.loop import add_noise, moments

UNITS = ["unit_sdxl", "unit_sd3", "unit_flux_dev"]
PICTURES = ["img1", "img3"]
FILES = {"img1": "img1_256.png", "img3": "img3_256x192.png"}


def unit(name: str):
    """(the backbone, settings, tensors) of one family's unit entries."""
    about, own = parity_flow.case(name)
    return parity_flow.load(about["model"]), about, own


def each(text):
    """[prompt, ...] -> [row, case = 1, ...]"""
    return text.map(lambda y: y[:, None])


# --- against the recorded units --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UNITS)
def test_text_is_the_pipelines(name: str) -> None:
    model, about, own = unit(name)
    for key, prompt in {"source": SOURCE, "target": TARGET, "empty": "", "long": about["long_prompt"]}.items():
        text = model.encode_text([prompt])
        assert gap(text.tokens, own[f"tokens_{key}"]) < 1e-5
        assert gap(text.pooled, own[f"pooled_{key}"]) < 1e-5
    together = model.encode_text([SOURCE, "", TARGET])
    assert gap(together.tokens[2:], own["tokens_target"]) < 1e-5
    assert gap(together.pooled[1:2], own["pooled_empty"]) < 1e-5


def test_no_prompt_is_what_the_configuration_says() -> None:
    """Zeros for SDXL's base, the encoding of "" where it is switched off and for SD3."""
    model, _, own = unit("unit_sdxl")
    nothing = model.nothing(2)
    assert torch.equal(nothing.tokens[1:], own["tokens_zeros_null"])
    assert torch.equal(nothing.pooled[1:], own["pooled_zeros_null"])
    model._zeros = False
    try:
        assert gap(model.nothing(1).tokens, own["tokens_negative_empty"]) < 1e-5
        assert gap(model.nothing(1).pooled, own["pooled_negative_empty"]) < 1e-5
    finally:
        model._zeros = True
    model, _, own = unit("unit_sd3")
    assert gap(model.nothing(1).tokens, own["tokens_empty"]) < 1e-5


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", UNITS)
def test_pictures_become_latents_and_come_back(name: str, picture: str) -> None:
    model, _, own = unit(name)
    assert gap(model.encode(parity_flow.picture(FILES[picture])), own[f"latent_{picture}"]) < 1e-4
    assert gap(model.decode(own[f"latent_{picture}"]), own[f"decoded_{picture}"]) < 1e-4


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("name", UNITS)
def test_one_evaluation_is_the_networks(name: str, picture: str) -> None:
    """Both prompts at once, at two times, square or not; FLUX is told a guidance of its own."""
    model, about, own = unit(name)
    x = own[f"forward_input_{picture}"][None].expand(2, -1, -1, -1, -1)
    text = each(model.encode_text([SOURCE, TARGET]))
    for time in (600, 250):
        options = {} if model.null_side else {"guidance": (about.get("guidance", 3.5),) * 2}
        answers = model.answer(x, text, time, None, **options)
        for answer, prompt in zip(answers, ("source", "target"), strict=True):
            assert relative_l2(answer, own[f"forward_{picture}_t{time}_{prompt}"]) < about["tolerance"]


@pytest.mark.parametrize("picture", PICTURES)
def test_flux_packs_as_diffusers_does(picture: str) -> None:
    model, _, own = unit("unit_flux_dev")
    latent = own[f"latent_{picture}"]
    size = (latent.shape[-2], latent.shape[-1])
    packed = model.pack(latent)
    assert torch.equal(packed, own[f"packed_{picture}"])
    assert torch.equal(model.unpack(packed, size), latent)
    assert torch.equal(model.positions(size), own[f"image_ids_{picture}"])


@pytest.mark.parametrize("name", UNITS)
def test_grids_are_the_schedulers(name: str) -> None:
    """Steps and sizes; SDXL's in the levels that Euler's sigmas mean."""
    model, about, _ = unit(name)
    seen = 0
    for key, grid in about["grids"].items():
        if key[0] != "n":
            continue
        steps, *tokens = (int(part.removeprefix("n").removeprefix("tokens")) for part in key.split("_"))
        rows = {192: 12, 256: 16, 1024: 32, 4096: 64}[tokens[0]] if tokens else 16
        times = model.times(steps, (2 * rows, 2 * tokens[0] // rows if tokens else 32))
        levels = [model.level(t) for t in times]
        assert len(times) == steps + 1
        sigmas = grid if isinstance(grid, list) else grid["sigmas"]
        if name == "unit_sdxl":
            assert list(times[:-1]) == grid["timesteps"]
            assert [level.noise / level.signal for level in levels] == pytest.approx(sigmas, rel=1e-5)
        else:
            assert [level.noise for level in levels] == pytest.approx(sigmas, abs=1e-7)
            assert levels[0] == Level(0.0, 1.0)
        assert levels[-1] == Level(1.0, 0.0)
        seen += 1
    assert seen >= 4


def test_the_shift_follows_the_pictures_size() -> None:
    model = parity_flow.load("tiny-random-flux-dev")
    small, wide, tall = (model.times(4, size) for size in ((32, 32), (48, 64), (64, 48)))
    assert wide == tall
    assert all(a < b for a, b in zip(small[1:-1], wide[1:-1], strict=True))


# --- text to image, image to image -----------------------------------------------------------------------------------


def draw(model, prompt: str, start: torch.Tensor, steps: int, guidance: float, skip: int = 0) -> torch.Tensor:
    """The deterministic sampler from latents [1, channel, h, w] at the grid's level `skip`, by the backbone alone."""
    times = model.times(steps, (start.shape[-2], start.shape[-1]))[skip:]
    x, text = start, each(model.encode_text([prompt]))
    null = each(model.nothing(1)) if model.null_side else None
    for moment in moments(model, times):
        if null is None:
            answer = model.answer(x[None], text, moment.ask, None, guidance=(guidance,))[0]
        else:
            away, towards = (model.answer(x[None], side, moment.ask, None)[0] for side in (null, text))
            answer = away + guidance * (towards - away)
        x = model.split(x, answer, moment).at(moment.next_level)
    return x


@pytest.mark.parametrize("name", ["t2i_sdxl", "t2i_sd3", "t2i_flux_dev", "t2i_flux_schnell"])
def test_text_to_image_is_the_recorded_pipelines(name: str) -> None:
    about, own = parity_flow.case(name)
    model = parity_flow.load(about["model"])
    model.tally.forwards = 0
    final = draw(model, about["prompt"], own["start"], about["steps"], about["settings"]["guidance_scale"])
    assert relative_l2(final, own["final"]) < about["tolerance"]
    assert model.tally.forwards == about["forwards"]


@pytest.mark.parametrize("name", ["i2i_sdxl", "i2i_flux_dev"])
def test_image_to_image_is_the_recorded_pipelines(name: str) -> None:
    """One generator: the posterior's sample, then the noise of the level that the share of steps begins at."""
    about, own = parity_flow.case(name)
    model = parity_flow.load(about["model"])
    _, units = parity_flow.case("unit_sdxl" if "sdxl" in name else "unit_flux_dev")
    generator = torch.Generator().manual_seed(about["seed"])
    mean, deviation = units["latent_img1"], (units["logvar_img1"] / 2).exp() * model.vae.config.scaling_factor
    sample = mean + deviation * torch.randn(mean.shape, generator=generator)
    noise = torch.randn(mean.shape, generator=generator)
    skip = about["steps"] - int(about["steps"] * about["strength"])
    start = add_noise(sample, noise, model.level(model.times(about["steps"], (32, 32))[skip]))
    final = draw(model, about["prompt"], start, about["steps"], about["settings"]["guidance_scale"], skip)
    assert relative_l2(final, own["final"]) < about["tolerance"]


PIPELINES = {
    "tiny-random-sdxl": (StableDiffusionXLPipeline, 5.0),
    "tiny-random-sd3": (StableDiffusion3Pipeline, 7.0),
    "tiny-random-sd35": (StableDiffusion3Pipeline, 4.5),
    "tiny-random-flux-dev": (FluxPipeline, 3.5),
    "tiny-random-flux-schnell": (FluxPipeline, 0.0),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_text_to_image_is_diffusers_own(name: str) -> None:
    """Run here, at a size that is not square."""
    parity_flow.needs_everything()
    kind, guidance = PIPELINES[name]
    model, pipe = parity_flow.load(name), kind.from_pretrained(parity_flow.folder(name))
    assert apart(model, pipe, (24, 32), guidance) < 2e-5


def apart(model, pipe, size: tuple[int, int], guidance: float, **options) -> float:
    """How far a picture drawn here lies from the pipeline's, from the same start."""
    pipe.set_progress_bar_config(disable=True)
    channels = model.vae.config.latent_channels
    start = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(7))
    given = start if not hasattr(model, "pack") else model.pack(start)
    out = pipe(
        TARGET,
        height=size[0] * model.factor,
        width=size[1] * model.factor,
        num_inference_steps=3,
        guidance_scale=guidance,
        latents=given.clone(),
        output_type="latent",
        **options,
    ).images
    final = draw(model, TARGET, start, 3, guidance)
    return relative_l2(final if given is start else model.pack(final), out)


@pytest.mark.parametrize("name", ["stable_diffusion_xl", "stable_diffusion_3", "flux"])
def test_a_model_made_in_code_draws_as_diffusers_does(name: str) -> None:
    """The same without any file, so that every family is held against diffusers everywhere; not square."""
    family = families()[name]
    made = family.tiny()
    scheduler = {**made._scheduler.config, "_class_name": "EulerDiscreteScheduler"}
    sampler = EulerDiscreteScheduler.from_config(scheduler)
    if name != "stable_diffusion_xl":
        scheduler, sampler = dict(made._scheduler.config), made._scheduler
    parts = {part: getattr(made, part) for part in family.parts}
    parts = {k: v.float() if isinstance(v, torch.nn.Module) else v for k, v in parts.items()}
    model = family.open(parts, scheduler, name)
    kind = {"stable_diffusion_xl": StableDiffusionXLPipeline, "flux": FluxPipeline}.get(name, StableDiffusion3Pipeline)
    options = {} if name == "stable_diffusion_xl" else {"max_sequence_length": model.t5_tokens}
    assert apart(model, kind(**parts, scheduler=sampler), (12, 16), 3.0, **options) < 1e-5


def test_stable_diffusion_3_without_t5_is_diffusers_own() -> None:
    pipe = StableDiffusion3Pipeline.from_pretrained(
        parity_flow.folder("tiny-random-sd3"), text_encoder_3=None, tokenizer_3=None
    )
    pipe.set_progress_bar_config(disable=True)
    whole = parity_flow.load("tiny-random-sd3")
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    model = type(whole)(**{part: getattr(whole, part) for part in parts}, scheduler=dict(pipe.scheduler.config))
    tokens, _, pooled, _ = pipe.encode_prompt(TARGET, TARGET, TARGET)
    text = model.encode_text([TARGET])
    assert gap(text.tokens, tokens) < 1e-5
    assert gap(text.pooled, pooled) < 1e-5
    assert float(text.tokens[:, 77:].abs().max()) == 0
    assert gap(whole.encode_text([TARGET]).tokens[:, 77:], text.tokens[:, 77:]) > 1e-2


def test_a_flow_on_another_sampler_is_refused() -> None:
    model = parity_flow.load("tiny-random-flux-schnell")
    parts = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    with pytest.raises(ReinvertError, match="FlowMatchEulerDiscreteScheduler"):
        type(model)(**{part: getattr(model, part) for part in parts}, scheduler={"_class_name": "DDIMScheduler"})


def test_what_is_usual_follows_from_the_configuration() -> None:
    parity_flow.needs_everything()
    usual = {name: parity_flow.load(name).usual for name in PIPELINES}
    assert [u.guidance for u in usual.values()] == [5.0, 7.0, 4.5, 3.5, 1.0]
    assert [u.steps for u in usual.values()] == [50, 28, 28, 28, 4]
    sdxl = parity_flow.load("tiny-random-sdxl")
    assert sdxl.level(FINAL) == Level(1.0, 0.0)
    parts = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    own = {part: getattr(sdxl, part) for part in parts}
    base = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    turbo = type(sdxl)(
        **own, scheduler=base | {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    )
    assert (turbo.usual.steps, turbo.usual.guidance) == (4, 1.0)
    assert turbo.times(4, (32, 32)) == (999, 749, 499, 249, FINAL)
    ddim = type(sdxl)(**own, scheduler=base | {"_class_name": "DDIMScheduler"})
    assert ddim.level(FINAL) == ddim.level(0)
