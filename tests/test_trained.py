"""Trained editors on tiny random networks of 8 and 9 input channels, saved in diffusers format and loaded again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import gap, make_picture
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    UNet2DConditionModel,
)
from naive import abar, alphas
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

import reinvert
from reinvert import registry
from reinvert.errors import ReinvertError
from reinvert.image import save_image, to_image
from reinvert.inversions.base import Progress
from reinvert.trained.base import Trained, counting, instruction_size
from reinvert.trained.inpainting import Inpainting
from reinvert.trained.instruct_diffusion import InstructDiffusion
from reinvert.trained.instruct_pix2pix import InstructPix2Pix

INSTRUCTION, TARGET = "turn the cat into a dog", "a dog sitting on a table"
STEPS = 3
ROUNDING = 1e-5
"""The scheduler keeps the latents and its sigmas in float32 (6e-8 of them a step), which a random network under
guidance multiplies in every step (1e-7 in the end); a scale that is wrong by 0.1 shows as 1e-2."""


def build(folder: Path, text_model: Path, channels: int) -> Path:
    """16x16 latents of 4 channels, 32x32 pixels, and a network with so many input channels."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    with torch.no_grad():  # so that text and picture matter to it
        for name, weight in unet.named_parameters():
            if "attn2" in name and name.endswith(("to_v.weight", "to_out.0.weight")):
                weight.mul_(4.0)
        unet.conv_in.weight[:, 4:].mul_(4.0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=2.5,
    )
    with torch.no_grad():
        vae.quant_conv.bias[4:].fill_(-2.0)  # a posterior of some width: a sample is not the mode
    pipeline = StableDiffusionInpaintPipeline if channels == 9 else StableDiffusionInstructPix2PixPipeline
    pipeline(
        vae=vae,
        text_encoder=CLIPTextModel.from_pretrained(text_model / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(text_model / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(text_model / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return build(tmp_path_factory.mktemp("trained") / "tiny-8", tiny_folder, 8)


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return build(tmp_path_factory.mktemp("trained") / "tiny-9", tiny_folder, 9)


@pytest.fixture(scope="module")
def pix2pix(eight: Path):
    """The pipeline of the two instruction editors, in float64."""
    return InstructPix2Pix(str(eight)).load("cpu", torch.float64)


@pytest.fixture(scope="module")
def inpaint(nine: Path):
    return Inpainting(str(nine)).load("cpu", torch.float64)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    """Right of the middle, 32x32; its edge lies within a cell of the latents."""
    white = np.zeros((32, 32), np.uint8)
    white[4:29, 15:] = 255
    return Image.fromarray(white)


@contextmanager
def watching(pipe):
    """The inputs and texts of every call of the network, and the final latents."""
    seen = {"inputs": [], "texts": [], "times": [], "latents": None}

    def network(_, given, named, __):
        seen["inputs"].append(given[0])
        seen["times"].append(float(given[1]))
        seen["texts"].append(named["encoder_hidden_states"])

    def decoder(_, given):
        seen["latents"] = given[0] * pipe.vae.config.scaling_factor

    handles = [
        pipe.unet.register_forward_hook(network, with_kwargs=True),
        pipe.vae.post_quant_conv.register_forward_pre_hook(decoder),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


# --- the naive forms -------------------------------------------------------------------------------------------------


def said(pipe, text: str) -> Tensor:
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    return pipe.text_encoder(ids)[0]


def pixels(picture: Image.Image) -> Tensor:
    """[1, 3, h, w] in -1..1, in float64."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float64) / 255 * 2 - 1).permute(2, 0, 1)[None]


@torch.no_grad()
def naive_instruct(
    pipe, picture: Image.Image, rows: Sequence[tuple[float, str, bool]], steps: int, seed: int
) -> Tensor:
    """The final latents: k-diffusion's Euler ancestral sampler, a network call for each (text, picture?)."""
    table = np.array(alphas())
    table = np.sqrt((1 - table) / table)
    times = np.linspace(999, 0, steps)
    sigmas = [*np.interp(times, np.arange(1000), table), 0.0]
    shown = pipe.vae.encode(pixels(picture)).latent_dist.mean
    weights: dict[tuple[str, bool], float] = {}
    for weight, text, seen in rows:
        weights[text, seen] = weights.get((text, seen), 0.0) + weight
    texts = {text: said(pipe, text) for text, _ in weights}
    generator = torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(shown.shape, generator=generator, dtype=torch.float64)

    x = noise() * sigmas[0]
    for t, now, then in zip(times, sigmas[:-1], sigmas[1:], strict=True):
        e = torch.zeros_like(x)
        for (text, seen), weight in weights.items():
            both = torch.cat([x / (1 + now**2) ** 0.5, shown if seen else torch.zeros_like(shown)], 1)
            e += weight * pipe.unet(both, float(t), texts[text]).sample
        clean = x - now * e
        up = min(then, (then**2 * (now**2 - then**2) / now**2) ** 0.5)
        down = (then**2 - up**2) ** 0.5
        x = x + (x - clean) / now * (down - now) + up * noise()
    return x


@torch.no_grad()
def naive_inpaint(pipe, picture: Image.Image, mask: Image.Image, target: str, guidance: float, steps: int, seed: int):
    """The final latents: DDIM with two network calls a step."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((1, 4, picture.height // 2, picture.width // 2), generator=generator, dtype=torch.float64)
    hole = torch.from_numpy(np.asarray(mask) >= 128)
    around = pixels(picture) * ~hole
    posterior = pipe.vae.encode(around).latent_dist
    drawn = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    around = 2.5 * (posterior.mean + posterior.std * drawn)
    cells = hole[::2, ::2][None, None].double()
    for t in [1000 // steps * (steps - 1 - i) + 1 for i in range(steps)]:
        beside = torch.cat([x, cells, around], 1)
        null, text = (pipe.unet(beside, t, said(pipe, words)).sample for words in ("", target))
        e = null + guidance * (text - null)
        hi, lo = abar(t), abar(t - 1000 // steps)
        x = lo**0.5 * (x - (1 - hi) ** 0.5 * e) / hi**0.5 + (1 - lo) ** 0.5 * e
    return x


def pix2pix_rows(s_t: float, s_i: float, text: str = INSTRUCTION) -> list[tuple[float, str, bool]]:
    """e(0,0) + s_I [e(0,I) - e(0,0)] + s_T [e(T,I) - e(0,I)], term by term."""
    return [(1, "", False), (s_i, "", True), (-s_i, "", False), (s_t, text, True), (-s_t, "", True)]


def diffusion_rows(s_t: float, s_i: float, text: str = INSTRUCTION) -> list[tuple[float, str, bool]]:
    """[e(0,I) + e(T,0)] / 2 + s_T [e(T,I) - e(0,I)] + s_I [e(T,I) - e(T,0)], term by term."""
    return [
        *((0.5, "", True), (0.5, text, False)),
        *((s_t, text, True), (-s_t, "", True)),
        *((s_i, text, True), (-s_i, text, False)),
    ]


FORMS: list[tuple[type[Trained], Callable[..., list[tuple[float, str, bool]]], float, float]] = [
    (InstructPix2Pix, pix2pix_rows, 7.5, 1.5),
    (InstructPix2Pix, pix2pix_rows, 3.0, 1.0),
    (InstructDiffusion, diffusion_rows, 5.0, 1.25),
    (InstructDiffusion, diffusion_rows, 0.7, 2.0),
]


# --- the two instruction editors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("editor", "rows", "s_t", "s_i"), FORMS)
def test_guidance_is_the_papers(pix2pix, picture, editor, rows, s_t: float, s_i: float) -> None:
    with watching(pix2pix) as seen:
        result = editor("m", STEPS, s_t, s_i).edit(pix2pix, picture, INSTRUCTION, seed=3)
    naive = naive_instruct(pix2pix, picture, rows(s_t, s_i), STEPS, seed=3)
    assert gap(seen["latents"], naive) < ROUNDING
    decoded = pix2pix.vae.decode(naive / 2.5).sample
    shades = np.abs(np.asarray(result.image, int) - np.asarray(to_image(decoded[0].detach()), int))
    assert shades.max() <= 1  # the last bit
    if editor is InstructPix2Pix:  # what the tolerance does not forgive
        other = naive_instruct(pix2pix, picture, rows(s_t + 0.1, s_i), STEPS, seed=3)
        assert gap(seen["latents"], other) > 100 * ROUNDING


@pytest.mark.parametrize(("editor", "rows", "s_t", "s_i"), FORMS)
def test_weights_sum_to_one(editor, rows, s_t: float, s_i: float) -> None:
    assert sum(weight for weight, _, _ in rows(s_t, s_i)) == pytest.approx(1)


def test_default_weights_are_the_published_ones() -> None:
    """On (T, I), ("", I) and the third row, from the scales that the pipeline is given."""

    def weights(made: InstructPix2Pix) -> tuple[float, float, float]:
        s_t, s_i = made.text_guidance, made.image_guidance
        return s_t, s_i - s_t, 1 - s_i

    assert weights(InstructPix2Pix()) == (7.5, -6.0, -0.5)
    assert weights(InstructDiffusion().pix2pix) == (6.25, -4.5, -0.75)


def test_rows_of_instruct_pix2pix(pix2pix, picture) -> None:
    with watching(pix2pix) as seen:
        InstructPix2Pix("m", STEPS).edit(pix2pix, picture, INSTRUCTION)
    mode = pix2pix.vae.encode(pixels(picture)).latent_dist.mean[0]
    assert len(seen["inputs"]) == STEPS
    assert seen["times"] == pytest.approx([999, 499.5, 0])
    for rows, texts in zip(seen["inputs"], seen["texts"], strict=True):
        assert torch.equal(rows[0, :4], rows[1, :4])
        assert torch.equal(rows[0, :4], rows[2, :4])
        assert gap(rows[0, 4:], mode) < 1e-6  # the pipeline reads pixels in float32
        assert torch.equal(rows[1, 4:], rows[0, 4:])
        assert not rows[2, 4:].any()
        assert gap(texts, torch.cat([said(pix2pix, t) for t in (INSTRUCTION, "", "")])) < 1e-12


def test_rows_of_instruct_diffusion(pix2pix, picture) -> None:
    with watching(pix2pix) as seen:
        InstructDiffusion("m", STEPS).edit(pix2pix, picture, INSTRUCTION)
    for rows, texts in zip(seen["inputs"], seen["texts"], strict=True):
        assert rows[0, 4:].any()
        assert torch.equal(rows[1, 4:], rows[0, 4:])
        assert not rows[2, 4:].any()
        assert gap(texts, torch.cat([said(pix2pix, t) for t in (INSTRUCTION, "", INSTRUCTION)])) < 1e-12


@pytest.mark.parametrize(
    ("editor", "scale", "rows"), [(InstructPix2Pix, 1.0, pix2pix_rows), (InstructDiffusion, 0.5, diffusion_rows)]
)
def test_without_guidance_one_row_is_left(pix2pix, picture, editor, scale: float, rows) -> None:
    """s_T = s_I = 1 of InstructPix2Pix, and 1/2 of InstructDiffusion, are e(T, I): the others' weights are 0."""
    with watching(pix2pix) as seen:
        result = editor("m", STEPS, scale, scale).edit(pix2pix, picture, INSTRUCTION, seed=1)
    assert result.forwards == STEPS
    together = naive_instruct(pix2pix, picture, rows(scale, scale), STEPS, seed=1)
    assert gap(seen["latents"], together) < ROUNDING


@pytest.mark.parametrize(
    ("guided", "plain"),
    [
        (InstructPix2Pix("m", STEPS), InstructPix2Pix("m", STEPS, 1.0, 1.0)),
        (InstructDiffusion("m", STEPS), InstructDiffusion("m", STEPS, 0.5, 0.5)),
    ],
)
def test_equal_rows_make_guidance_idle(eight: Path, picture, guided: Trained, plain: Trained) -> None:
    """A network that does not read the picture, told nothing, predicts the same in all rows."""
    pipe = InstructPix2Pix(str(eight)).load("cpu", torch.float64)
    found = []
    for blind in (False, True):
        if blind:
            with torch.no_grad():
                pipe.unet.conv_in.weight[:, 4:] = 0
        for editor in (guided, plain):
            with watching(pipe) as seen:
                editor.edit(pipe, picture, "")
            found.append(seen["latents"])
    seeing, seeing_plain, blind, blind_plain = found
    assert gap(blind, blind_plain) < ROUNDING
    assert gap(seeing, seeing_plain) > 100 * ROUNDING


def test_sizes_are_the_published_ones() -> None:
    assert instruction_size((512, 512), 512, 64) == (512, 512)
    assert instruction_size((1024, 1024), 512, 64) == (512, 512)
    assert instruction_size((640, 480), 512, 64) == (512, 384)
    assert instruction_size((480, 640), 512, 64) == (384, 512)
    assert instruction_size((600, 400), 512, 64) == (576, 384)  # 341 is not a multiple: the shorter side rounds up
    assert instruction_size((512, 64), 512, 64) == (512, 64)
    for width in range(100, 900, 37):
        for height in range(100, 900, 41):
            w, h = instruction_size((width, height), 512, 64)
            assert w % 64 == h % 64 == 0
            assert 512 - 64 < max(w, h) < 512 + 512  # a thin picture's short side rounds up by much
            factor = np.ceil(min(width, height) * 512 / max(width, height) / 64 - 1e-9) * 64 / min(width, height)
            assert (w, h) == tuple(int(side * factor / 64 + 1e-9) * 64 for side in (width, height))


def test_a_picture_of_another_size(pix2pix) -> None:
    """The tiny model works at about 32 pixels, in multiples of 4; InstructDiffusion gives the picture's size back."""
    wide = make_picture(2).resize((50, 30))
    assert instruction_size((50, 30), 32, 4) == (32, 20)
    with watching(pix2pix) as seen:
        assert InstructPix2Pix("m", 2).edit(pix2pix, wide, INSTRUCTION).image.size == (32, 20)
        assert InstructDiffusion("m", 2).edit(pix2pix, wide, INSTRUCTION).image.size == (50, 30)
    assert {tuple(rows.shape) for rows in seen["inputs"]} == {(3, 8, 10, 16)}


# --- inpainting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_inpainting_is_the_naive_form(inpaint, picture, mask, guidance: float) -> None:
    with watching(inpaint) as seen:
        result = Inpainting("m", STEPS, guidance).edit(inpaint, picture, TARGET, mask=mask, seed=3)
    naive = naive_inpaint(inpaint, picture, mask, TARGET, guidance, STEPS, 3)
    assert gap(seen["latents"], naive) < ROUNDING
    other = naive_inpaint(inpaint, picture, mask, TARGET, guidance + 0.1, STEPS, 3)
    assert gap(seen["latents"], other) > 100 * ROUNDING
    assert result.forwards == STEPS * (1 if guidance == 1 else 2)
    assert result.image.size == picture.size


def test_what_is_under_the_mask_is_not_seen(inpaint, picture, mask) -> None:
    editor, black = Inpainting("m", 2), Image.new("RGB", (32, 32))
    changed = Image.composite(black, picture, mask)
    outside = Image.composite(picture, black, mask)
    made = [editor.edit(inpaint, p, TARGET, mask=mask).image for p in (picture, changed, outside)]
    assert made[0].tobytes() == made[1].tobytes()
    assert made[0].tobytes() != made[2].tobytes()


def test_inpainting_keeps_the_size(inpaint) -> None:
    """Also where the latents' sides are odd; an odd side of the picture loses a pixel."""
    wide = make_picture(2).resize((51, 30))
    with watching(inpaint) as seen:
        result = Inpainting("m", 2).edit(inpaint, wide, TARGET, mask=Image.new("L", (51, 30), 255))
    assert result.image.size == (50, 30)
    assert {tuple(rows.shape) for rows in seen["inputs"]} == {(2, 9, 15, 25)}
    with pytest.raises(ReinvertError, match="below 2 pixels"):
        Inpainting("m", 2).edit(inpaint, make_picture(2).resize((1, 4)), TARGET, mask=Image.new("L", (1, 4)))


# --- all -------------------------------------------------------------------------------------------------------------


def made(kind: str, pix2pix, inpaint, mask, steps: int = 2):
    """An editor with its pipeline and the arguments of its `edit`."""
    if kind == "inpainting":
        return Inpainting("m", steps), inpaint, {"text": TARGET, "mask": mask}
    cls = registry.find("trained", kind)
    return cls("m", steps), pix2pix, {"text": INSTRUCTION}


KINDS = ("instruct_pix2pix", "instruct_diffusion", "inpainting")


@pytest.mark.parametrize("kind", KINDS)
def test_forwards_are_counted(pix2pix, inpaint, picture, mask, kind: str) -> None:
    editor, pipe, given = made(kind, pix2pix, inpaint, mask, steps=3)
    watched: list[Progress] = []
    result = editor.edit(pipe, picture, **given, seed=5, watch=watched.append)
    assert result.forwards == (2 if kind == "inpainting" else 3) * 3
    assert watched == [Progress("editing", i, 3) for i in (1, 2, 3)]
    assert result.seconds > 0
    assert result.settings["trained"] == {"name": kind, **editor.settings}
    assert result.settings["seed"] == 5
    assert result.settings[editor.reads] == given["text"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_everything(pix2pix, inpaint, picture, mask, kind: str) -> None:
    editor, pipe, given = made(kind, pix2pix, inpaint, mask)
    torch.manual_seed(1)
    first = editor.edit(pipe, picture, **given, seed=7).image.tobytes()
    torch.manual_seed(2)
    assert editor.edit(pipe, picture, **given, seed=7).image.tobytes() == first
    assert editor.edit(pipe, picture, **given, seed=8).image.tobytes() != first


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_change_the_picture(pix2pix, inpaint, picture, mask, kind: str) -> None:
    editor, pipe, given = made(kind, pix2pix, inpaint, mask)
    first = editor.edit(pipe, picture, **given).image.tobytes()
    assert editor.edit(pipe, picture, **{**given, "text": "a red bird"}).image.tobytes() != first


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_opened(pix2pix, inpaint, picture, mask, tmp_path: Path, kind: str) -> None:
    editor, pipe, given = made(kind, pix2pix, inpaint, mask)
    expected = editor.edit(pipe, picture, **given).image
    save_image(picture, tmp_path / "p.png")
    if "mask" in given:
        save_image(mask, tmp_path / "m.png")
        given["mask"] = str(tmp_path / "m.png")
    assert editor.edit(pipe, tmp_path / "p.png", **given).image.tobytes() == expected.tobytes()


class Broken(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_on_the_network_after_an_exception(pix2pix, inpaint, picture, mask, kind: str) -> None:
    editor, pipe, given = made(kind, pix2pix, inpaint, mask, steps=3)
    before = editor.edit(pipe, picture, **given)
    calls = []

    def fail(*_) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Broken

    handle = pipe.unet.mid_block.register_forward_hook(fail)
    try:
        with pytest.raises(Broken):
            editor.edit(pipe, picture, **given)
    finally:
        handle.remove()
    for module in pipe.unet.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert not module._forward_hooks_with_kwargs
        assert not module._forward_pre_hooks_with_kwargs
    after = editor.edit(pipe, picture, **given)
    assert after.image.tobytes() == before.image.tobytes()
    assert after.forwards == before.forwards


def test_edits_of_several_threads_wait_for_each_other(pix2pix, inpaint, picture, mask) -> None:
    """As `reinvert.edit` does: networks, tokenizer and scheduler of a pipeline have a state."""
    for kind in ("instruct_pix2pix", "inpainting"):
        editor, pipe, more = made(kind, pix2pix, inpaint, mask)
        more.pop("text")
        texts = [INSTRUCTION, TARGET, "a red dog", "a cat"]
        wanted = [editor.edit(pipe, picture, text, **more).image.tobytes() for text in texts]
        assert len(set(wanted)) > 1
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-4)
        try:
            with ThreadPoolExecutor(4) as threads:
                jobs = [threads.submit(editor.edit, pipe, picture, text, **more) for text in texts * 2]
                found = [job.result(timeout=120) for job in jobs]
        finally:
            sys.setswitchinterval(before)
        assert [result.image.tobytes() for result in found] == wanted * 2
        assert len({result.forwards for result in found}) == 1
    with pipe.lock, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(editor.edit, pipe, picture, TARGET, **more)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        pipe.lock.__exit__(None, None, None)
        assert waiting.result(timeout=120).image.tobytes() == wanted[1]
        pipe.lock.__enter__()


@pytest.mark.parametrize("model", [5, object(), ["a"]])
def test_what_is_no_pipeline_is_refused(model, picture) -> None:
    with pytest.raises(ReinvertError, match=r"model is a folder, a Hub id, None or the pipeline .* not a "):
        reinvert.instruct(model, picture, INSTRUCTION)


def test_counting_counts_samples(pix2pix) -> None:
    x, text = torch.zeros(5, 8, 8, 8, dtype=torch.float64), torch.zeros(5, 16, 12, dtype=torch.float64)
    with torch.no_grad(), counting(pix2pix.unet) as count:
        pix2pix.unet(x, 1, text)
        pix2pix.unet(x[:2], 1, text[:2])
    assert count == {"forwards": 7}
    with torch.no_grad():
        pix2pix.unet(x, 1, text)
    assert count == {"forwards": 7}


HALF = """
import sys
sys.path[:0] = {paths!r}
from conftest import make_picture
from PIL import Image
from reinvert.trained.inpainting import Inpainting
from reinvert.trained.instruct_diffusion import InstructDiffusion
from reinvert.trained.instruct_pix2pix import InstructPix2Pix

for dtype in ("bfloat16", "float16"):
    for cls, folder in ((InstructPix2Pix, {eight!r}), (InstructDiffusion, {eight!r}), (Inpainting, {nine!r})):
        editor = cls(folder, 2)
        mask = Image.new("L", (32, 32), 255) if editor.needs_mask else None
        result = editor.edit(editor.load("cpu", dtype), make_picture(0), "a dog", mask=mask)
        print(result.forwards, result.settings["dtype"], result.settings["trained"]["model"])
"""


@pytest.mark.slow
def test_half_precision(eight: Path, nine: Path) -> None:
    """A result that is not finite is refused, so that these are. In a process of its own: on some virtual machines
    bfloat16 matrix products crash, because the processor says AMX and the machine does not let it be used."""
    program = HALF.format(paths=[str(Path(__file__).parent)], eight=str(eight), nine=str(nine))
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # The settings tell the folder's name, not where it lies.
    told = [f"{n} {dtype} tiny-{c}" for dtype in ("bfloat16", "float16") for n, c in ((6, 8), (6, 8), (4, 9))]
    assert done.stdout.splitlines() == told
    assert "float16" not in done.stderr, done.stderr  # no advice about half precision on the CPU


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [InstructPix2Pix, InstructDiffusion, Inpainting])
def test_a_network_with_other_channels_is_refused(tiny_folder: Path, eight: Path, nine: Path, cls) -> None:
    wrong = eight if cls is Inpainting else nine
    found, wanted = (8, 9) if cls is Inpainting else (9, 8)
    with pytest.raises(ReinvertError, match=f"tiny-{found} takes {found} input channels, but {cls.name} .* {wanted};"):
        cls(str(wrong)).load("cpu")
    with pytest.raises(ReinvertError, match="tiny-eps takes 3 input channels"):
        cls(str(tiny_folder)).load("cpu")


@pytest.mark.parametrize("cls", [InstructPix2Pix, InstructDiffusion, Inpainting])
def test_a_text_to_image_model_is_refused(cls) -> None:
    with pytest.raises(ReinvertError, match="picturebook takes 4 input channels, but") as caught:
        cls("picturebook").load("cpu")
    assert "\n" not in str(caught.value)


def test_a_model_that_is_missing_is_refused(tmp_path: Path, eight: Path) -> None:
    with pytest.raises(ReinvertError, match="instruct_diffusion has no model to fall back on"):
        InstructDiffusion().load("cpu")
    with pytest.raises(ReinvertError, match=r"model_index.json is missing"):
        InstructPix2Pix(str(tmp_path)).load("cpu")
    with pytest.raises(ReinvertError, match="there is no model 'nowhere'"):
        InstructPix2Pix("nowhere").load("cpu")


def test_pickles_are_never_read(tmp_path: Path, tiny_folder: Path) -> None:
    folder = build(tmp_path / "pickled", tiny_folder, 8)
    network = folder / "unet" / "diffusion_pytorch_model.safetensors"
    network.rename(network.with_suffix(".bin"))
    with pytest.raises(ReinvertError, match="no safetensors weights in unet; reinvert never loads pickles"):
        InstructPix2Pix(str(folder)).load("cpu")


def test_masks_are_checked(pix2pix, inpaint, picture, mask) -> None:
    with pytest.raises(ReinvertError, match="inpainting needs a mask"):
        Inpainting("m", 2).edit(inpaint, picture, TARGET)
    with pytest.raises(ReinvertError, match="the mask is 16x32 but the picture is 32x32"):
        Inpainting("m", 2).edit(inpaint, picture, TARGET, mask=mask.resize((16, 32)))
    with pytest.raises(ReinvertError, match="instruct_pix2pix takes no mask, its instruction says"):
        InstructPix2Pix("m", 2).edit(pix2pix, picture, INSTRUCTION, mask=mask)


def test_settings_are_checked(pix2pix, inpaint, picture, mask) -> None:
    with pytest.raises(ReinvertError, match="steps is at least 2, not 1"):
        InstructPix2Pix(steps=1)
    with pytest.raises(ReinvertError, match="steps is at least 2, not 1"):
        InstructDiffusion(steps=1)
    with pytest.raises(ReinvertError, match="steps is at least 1, not 0"):
        Inpainting(steps=0)
    for text, image in ((1.0, 1.5), (7.5, 0.9), (float("nan"), 1.5)):
        with pytest.raises(ReinvertError, match="text_guidance must be above 1 and image_guidance at least 1"):
            InstructPix2Pix(text_guidance=text, image_guidance=image)
    for text, image in ((0.5, 0.4), (0.2, 0.6)):
        with pytest.raises(ReinvertError, match=r"image_guidance must be at least 0.5"):
            InstructDiffusion(text_guidance=text, image_guidance=image)
    with pytest.raises(ReinvertError, match=r"text_guidance is at least 1, not 0.5"):
        Inpainting(text_guidance=0.5)
    with pytest.raises(ReinvertError, match="1001 steps cannot be taken; choose at most 1000"):
        Inpainting("m", 1001).edit(inpaint, picture, TARGET, mask=mask)
    with pytest.raises(ReinvertError, match="a picture of 90x10 is too thin"):
        InstructPix2Pix("m", 2).edit(pix2pix, picture.resize((90, 10)), INSTRUCTION)


def test_a_picture_that_is_not_finite_is_refused(eight: Path, picture) -> None:
    pipe = InstructPix2Pix(str(eight)).load("cpu")
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(ReinvertError, match="not finite"):
        InstructPix2Pix("m", 2).edit(pipe, picture, INSTRUCTION)


# --- the registry ----------------------------------------------------------------------------------------------------


def test_the_registry_knows_them() -> None:
    flows = ("flux_kontext", "qwen_image_edit")  # see test_trained_flows.py
    assert registry.names("trained") == tuple(sorted(("inpainting", "instruct_diffusion", "instruct_pix2pix", *flows)))
    for name in registry.names("trained"):
        cls = registry.find("trained", name)
        assert issubclass(cls, Trained)
        assert cls.name == name
        told = registry.describe("trained", name)
        assert told.sentence.endswith(".")
        assert told.papers
        assert told.needs
        assert told.when
        inherited = [f.name for f in fields(Trained)]
        own = [f.name for f in fields(cls) if f.name not in inherited]
        assert [a.name for a in told.arguments] == [*own, *inherited]  # its own options come first
        assert all(a.help for a in told.arguments)
        assert set(registry.make("trained", name).settings) == {f.name for f in fields(cls)}
    assert registry.make("trained", "instruct_pix2pix", {"image_guidance": 2.0}) == InstructPix2Pix(image_guidance=2.0)
    with pytest.raises(ReinvertError, match=r"there is no trained editor 'pix2pix'; did you mean .*instruct_pix2pix"):
        registry.find("trained", "pix2pix")


def test_the_verb_takes_a_folder_a_pipeline_and_every_form_of_a_picture(eight, picture):
    asked = {"steps": 2, "image_guidance": 1.0}
    by_folder = reinvert.instruct(str(eight), np.asarray(picture), "make it red", **asked)
    editor = InstructPix2Pix(model=str(eight), **asked)
    by_pipe = reinvert.instruct(editor.load("cpu"), picture, "make it red", editor=editor)
    assert by_folder.image.tobytes() == by_pipe.image.tobytes()
    assert repr(by_pipe).startswith("TrainedResult(")
    assert by_pipe._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(ReinvertError, match="takes no more"):
        reinvert.instruct(None, picture, "make it red", editor=editor, steps=3)
    with pytest.raises(ReinvertError, match="is no picture"):
        reinvert.instruct(editor.load("cpu"), None, "make it red", editor=editor)
