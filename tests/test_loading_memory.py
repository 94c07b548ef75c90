"""Models larger than the device: parts take turns, weights in 8 bits, and what is chosen by itself."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import SOURCE, TARGET, load_tiny, make_picture, relative_l2
from diffusers import StableDiffusionPipeline

import reinvert
from reinvert.backbones.loading import families
from reinvert.backbones.placement import GIB, Stage, check_weights, plan, shrink, size_of
from reinvert.cli import main
from reinvert.errors import ReinvertError

FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux")


class Rooms(Stage):
    """A stage on which weights of parts that are away are NaN, as far as anybody can compute with them."""

    def __init__(self, parts: dict[str, torch.nn.Module]) -> None:
        super().__init__(torch.device("cpu"), offload=True)
        self.names = {id(part): name for name, part in parts.items()}
        self.away: dict[int, list[torch.Tensor]] = {}
        self.arrivals: list[str] = []
        self.most = 0
        for part in parts.values():
            self.leave(part)

    @torch.no_grad()
    def leave(self, part: torch.nn.Module) -> None:
        self.away[id(part)] = [p.clone() for p in part.parameters()]
        for p in part.parameters():
            p.fill_(float("nan"))

    @torch.no_grad()
    def arrive(self, part: torch.nn.Module) -> None:
        for p, value in zip(part.parameters(), self.away.pop(id(part)), strict=True):
            p.copy_(value)
        self.arrivals.append(self.names[id(part)])
        self.most = max(self.most, len(self.names) - len(self.away))


@cache
def tiny(name: str):
    return families()[name].tiny()


def networks(model, name: str) -> dict[str, torch.nn.Module]:
    parts = {part: getattr(model, part) for part in families()[name].parts}
    return {part: value for part, value in parts.items() if isinstance(value, torch.nn.Module)}


def edited(model):
    return reinvert.edit(
        model, make_picture(0), source=SOURCE, target=TARGET, steps=2, guidance=3.0, editor="prompt", inversion="ddim"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_take_turns_and_the_edit_is_the_same(name: str) -> None:
    whole = edited(tiny(name))
    model = copy.deepcopy(tiny(name))
    parts = networks(model, name)
    fingerprint = model.fingerprint()
    model.fingerprint = lambda: fingerprint  # which reads weights wherever they are
    model.stage = rooms = Rooms(parts)
    turned = edited(model)
    assert torch.equal(turned.latents, whole.latents)
    assert turned.images[0].tobytes() == whole.images[0].tobytes()
    assert rooms.most == 1
    assert set(rooms.arrivals) == set(parts)
    # The network comes once for all its steps, after the text encoders have left; the VAE last.
    denoiser = "unet" if "unet" in parts else "transformer"
    assert rooms.arrivals[0] == rooms.arrivals[-1] == "vae"
    assert rooms.arrivals[-2] == denoiser


def test_a_part_that_finds_no_room_leaves_a_model_that_works() -> None:
    model = copy.deepcopy(tiny("stable_diffusion"))
    model.stage = rooms = Rooms(networks(model, "stable_diffusion"))
    model.encode_text([SOURCE])
    arrive = rooms.arrive

    def full(part) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    rooms.arrive = full
    with pytest.raises(torch.cuda.OutOfMemoryError):
        model.decode(torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    rooms.arrive = arrive
    assert torch.isfinite(model.encode_text([SOURCE]).tokens).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_in_8_bits(name: str) -> None:
    made = tiny(name)
    parts = {part: copy.deepcopy(getattr(made, part)) for part in families()[name].parts}
    parts = {k: v.to(torch.bfloat16) if isinstance(v, torch.nn.Module) else v for k, v in parts.items()}
    denoiser = parts["unet"] if "unet" in parts else parts["transformer"]
    before = size_of(denoiser)
    t5 = next((v for v in parts.values() if type(v).__name__ == "T5EncoderModel"), None)
    for part in (denoiser, t5):
        if part is not None:
            shrink(part, torch.bfloat16)
    assert size_of(denoiser) < 0.7 * before
    model = families()[name].open(parts, dict(made._scheduler.config), name)
    model.stage = Stage(torch.device("cpu"), fp8=True)
    assert model.dtype == torch.bfloat16
    x = torch.randn(1, 1, model.latent_shape[0], 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        texts = [m.encode_text([TARGET])[:, None] for m in (model, made)]
        assert relative_l2(texts[0].tokens, texts[1].tokens) < 0.1
        answers = [m.answer(x, text, 400, None) for m, text in zip((model, made), texts, strict=True)]
    assert relative_l2(*answers) < 0.2
    assert torch.isfinite(edited(model).latents).all()
    assert size_of(denoiser) < 0.7 * before  # it is narrow again after its work
    with pytest.raises(
        ReinvertError, match="this method learns through the network, which weights in 8 bits cannot do"
    ):
        model.answer(x, texts[0].map(lambda tensor: tensor.requires_grad_(True)), 400, None)


SIZES = {"transformer": 24 * GIB, "vae": GIB // 4, "text_encoder": GIB // 4, "text_encoder_2": 9 * GIB}


@pytest.mark.parametrize(
    ("free", "offload", "fp8", "said"),
    [
        (80, False, False, None),
        (None, False, False, None),
        (
            30,
            True,
            False,
            r"^flux has 33.5 GB of weights and 30.0 GB are free: its parts take turns there \(--offload\)$",
        ),
        (24, False, True, r"its weights are kept in 8 bits \(--weights fp8\)$"),
        (
            16,
            True,
            True,
            r"its parts take turns there \(--offload\) and its weights are kept in 8 bits \(--weights fp8\)$",
        ),
        (8, True, True, "; even so it may run out$"),
    ],
)
def test_what_does_not_fit_is_placed_by_itself(free, offload: bool, fp8: bool, said: str | None) -> None:
    free = None if free is None else free * GIB
    placed = plan(SIZES, free, "flux", offload=None, weights="auto", t5="text_encoder_2")
    assert (placed.offload, placed.fp8) == (offload, fp8)
    if said is None:
        assert placed.why is None
    else:
        assert placed.why is not None
        assert re.search(said, placed.why)


def test_what_is_asked_for_is_done() -> None:
    def placed(free: int, **asked) -> tuple[bool, bool, bool]:
        options = {"offload": None, "weights": "auto"} | asked
        found = plan(SIZES, free * GIB, "flux", t5="text_encoder_2", **options)
        return found.offload, found.fp8, found.why is None

    assert placed(80, offload=True, weights="fp8") == (True, True, True)
    assert placed(8, offload=False, weights="full") == (False, False, True)
    assert placed(16, offload=True) == (True, True, False)
    assert placed(30, weights="full") == (True, False, False)


def test_how_weights_are_kept_is_checked() -> None:
    assert check_weights("auto", torch.device("cuda")) == "auto"
    assert check_weights("auto", torch.device("mps")) == "full"
    with pytest.raises(ReinvertError, match="MPS devices have no 8-bit floats"):
        check_weights("fp8", torch.device("mps"))
    with pytest.raises(ReinvertError, match="weights are kept 'auto', 'full' or 'fp8', not 'int8'"):
        check_weights("int8", torch.device("cpu"))


def test_a_model_is_loaded_with_them(tiny_folder: Path, tmp_path: Path) -> None:
    plain = load_tiny(tiny_folder)
    model = reinvert.load(tiny_folder, device="cpu", offload=True, tile_vae=True)
    assert model.stage.offload
    assert model.vae.use_slicing
    assert model.vae.use_tiling
    assert model.fingerprint().matches(plain.fingerprint())
    assert torch.equal(edited(model).latents, edited(plain).latents)
    make_picture(0).save(tmp_path / "a.png")
    options = [
        "--offload",
        "--weights",
        "fp8",
        "--tile-vae",
        "--steps",
        "2",
        "--editor",
        "prompt",
        "--inversion",
        "ddim",
    ]
    told = ["--source", SOURCE, "--target", TARGET, "--model", str(tiny_folder), "--device", "cpu", "--quiet"]
    assert main(["edit", str(tmp_path / "a.png"), *told, *options, "-o", str(tmp_path / "b.png")]) == 0
    sidecar = json.loads((tmp_path / "b.png.json").read_text())
    settings = sidecar["settings"]
    assert (settings["offload"], settings["weights"], settings["tiled_vae"]) == (True, "fp8", True)
    assert 0.1 < sidecar["peak_memory_gb"] < 64
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    with pytest.raises(ReinvertError, match="keeps its place in memory"):
        reinvert.load(pipe, offload=True)


def test_only_pictures_larger_than_usual_are_made_in_tiles(tiny_folder: Path) -> None:
    """As diffusers blends them; how near that is to the whole depends on how far a VAE looks."""
    plain, tiled = load_tiny(tiny_folder), reinvert.load(tiny_folder, device="cpu", tile_vae=True)
    large = plain.encode(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    small = large[..., :16, :16]
    assert torch.equal(tiled.decode(small), plain.decode(small))
    found = tiled.decode(large)
    assert found.shape == (1, 3, 64, 64)
    assert not torch.equal(found, plain.decode(large))
    with torch.no_grad():
        assert torch.equal(found, plain.vae.tiled_decode(large / plain.vae.config.scaling_factor).sample)
