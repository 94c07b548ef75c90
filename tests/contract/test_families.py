"""What every family must be able to do by the core methods: be inverted, come back, be edited, alone and in a batch."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import SOURCE, TARGET, gap, relative_l2, watch_walk

from reinvert import registry
from reinvert.backbones.loading import families
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.fixed_point import FixedPoint
from reinvert.pairs import matrix
from reinvert.trajectory import Trajectory
from reinvert.words import mixing, word_positions

NAMES = tuple(families())
STEPS = 4


@cache
def model(name: str):
    return families()[name].tiny()


@cache
def clean(name: str, size: tuple[int, int] = (12, 16)) -> torch.Tensor:
    """Latents of two smooth pictures that are not square, in float64."""
    channels, factor = model(name).latent_shape[0], model(name).factor
    small = torch.rand(2, 3, 3, 4, generator=torch.Generator().manual_seed(0))
    pictures = torch.nn.functional.interpolate(small, tuple(side * factor for side in size), mode="bicubic")
    latents = model(name).encode((2 * pictures - 1).clamp(-1, 1)).double()
    assert latents.shape == (2, channels, *size)
    return latents


def inverted(name: str, method, steps: int = STEPS, cases: slice = slice(0, 2)) -> Trajectory:
    prompts = (SOURCE, "a photo of a dog")[cases]
    return method.invert(Source(model(name), clean(name)[cases], prompts, steps))


@pytest.mark.parametrize("name", NAMES)
def test_direct_inversion_is_exact_and_its_edit_is_another_picture(name: str) -> None:
    path = inverted(name, Direct())
    guidance = model(name).usual.guidance
    walked = watch_walk(model(name), path, [(TARGET, "a cat")], guidance=guidance)
    assert torch.equal(walked[-1][0], clean(name))
    assert bool(torch.isfinite(walked[-1]).all())
    assert gap(walked[-1][1], walked[-1][0]) > 1e-3


@pytest.mark.parametrize("name", ["stable_diffusion_3", "flux"])
def test_inversion_comes_back_the_nearer_the_finer_the_grid(name: str) -> None:
    """At guidance 1; walked without an anchor. (A random UNet is too rough for that; a random transformer is not.)"""
    back = [
        gap(watch_walk(model(name), inverted(name, DDIM(), steps), guidance=1.0)[-1][0], clean(name))
        for steps in (4, 32)
    ]
    assert back[1] < back[0] / 2


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_cases_and_a_stored_trajectory_the_same(name: str, tmp_path: Path) -> None:
    targets = [(TARGET, "a cat")]
    path = inverted(name, Direct())
    together = watch_walk(model(name), path, targets, guidance=3.0)[-1]
    for case in range(2):
        alone = inverted(name, Direct(), cases=slice(case, case + 1))
        edited = watch_walk(model(name), alone, [(targets[0][case],)], guidance=3.0)[-1]
        assert gap(edited[:, 0], together[:, case]) < 1e-9
    path.save(tmp_path / "a.trajectory.safetensors")
    loaded = Trajectory.load(tmp_path / "a.trajectory.safetensors")
    assert gap(watch_walk(model(name), loaded, targets, guidance=3.0)[-1], together) < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_costs_the_rows_that_are_needed(name: str) -> None:
    """N upwards and, the source being overwritten, N per target and side downwards; a distilled model has one side."""
    tally = model(name).tally
    tally.forwards = 0
    path = inverted(name, Direct())
    assert tally.forwards == 2 * STEPS
    tally.forwards = 0
    watch_walk(model(name), path, [(TARGET, "a cat")], guidance=3.0)
    assert tally.forwards == 2 * STEPS * (2 if model(name).null_side else 1)


@pytest.mark.parametrize("name", NAMES)
def test_guidance_matters_where_the_model_hears_it(name: str) -> None:
    path = inverted(name, Direct())
    weak, strong = (watch_walk(model(name), path, [(TARGET, "a cat")], guidance=g)[-1][1] for g in (1.0, 4.0))
    assert gap(weak, strong) > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_agrees_loosely(name: str, dtype: torch.dtype) -> None:
    """Of the network and its text; T5 stays in range by itself. The walk's own arithmetic keeps its precision."""
    family, wide = families()[name], model(name)
    parts = {part: copy.deepcopy(getattr(wide, part)) for part in family.parts}
    halved = {k: v.to(dtype) if isinstance(v, torch.nn.Module) else v for k, v in parts.items()}
    half = family.open(halved, dict(wide._scheduler.config), name)
    assert half.dtype == dtype
    for text in (SOURCE, ""):
        a, b = (m.encode_text([text])[:, None] for m in (half, wide))
        assert a.tokens.dtype == torch.float32
        x = clean(name)[None, :1]
        answers = half.answer(x, a, 400, None), wide.answer(x, b, 400, None)
        assert answers[0].dtype == torch.float64
        assert bool(torch.isfinite(answers[0]).all())
        assert relative_l2(*answers) < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_same_prompt_at_the_same_scale_is_the_source(name: str) -> None:
    path = inverted(name, DDIM())
    source, target = watch_walk(model(name), path, [path.prompts], guidance=3.0)[-1]
    assert gap(target, source) < 1e-9


LEARNS_FROM_A_TOWER = {"style_diffusion"}
OWN = {"kv_inv": "kv_edit", "dna": "dna_edit"}
"""Inversions that were made for one editor."""


def legal(name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Inversions that run on a family with a plain change of prompt, and (inversion, editor) for every other editor."""
    table = matrix(model(name))
    inversions = [i for i, row in table.items() if row["prompt"] is None and i not in LEARNS_FROM_A_TOWER]
    editors = [e for e in table["direct"] if e != "prompt"]
    pairs = [
        (i, e)
        for e in editors
        for i in ("direct", "none", *OWN)
        if table[i][e] is None and (i not in OWN or e == OWN[i])
    ]
    return inversions, pairs


@pytest.mark.parametrize(("name", "inversion"), [(name, i) for name in NAMES for i in legal(name)[0]])
def test_every_inversion_that_a_family_has_brings_the_picture_back(name: str, inversion: str) -> None:
    """Exactly where the method promises it, at the guidance of an edit; and the edit is finite and another picture."""
    method = registry.make(
        "inversions", inversion, {"inner": 2} if inversion in ("null_text", "text_embedding") else {}
    )
    source = Source(model(name), clean(name), (SOURCE, "a photo of a dog"), 3, guidance=2.0)
    final = watch_walk(model(name), method.invert(source), [(TARGET, "a cat")], guidance=2.0)[-1]
    assert bool(torch.isfinite(final).all())
    assert gap(final[1], final[0]) > 1e-4
    if method.exact:
        assert gap(final[0], clean(name)) < 1e-6


LEDITS = {"grid": 6}  # a half of the latents, where every tiny UNet has cross-attention


@pytest.mark.parametrize(("name", "pair"), [(name, pair) for name in NAMES for pair in legal(name)[1]])
def test_every_editor_that_a_family_has_runs(name: str, pair: tuple[str, str]) -> None:
    method, editor = (
        registry.make("inversions", pair[0]),
        registry.make("editors", pair[1], LEDITS if pair[1] == "ledits" else {}),
    )
    path = method.invert(Source(model(name), clean(name)[:1], (SOURCE,), 3, guidance=2.0))
    mask = torch.zeros(1, 1, 12, 16)
    mask[..., 3:9, 4:12] = 1
    given = mask if editor.needs_mask or editor.takes_mask else None
    final = watch_walk(model(name), path, [TARGET], [editor], guidance=2.0, mask=given)[-1]
    assert bool(torch.isfinite(final).all())
    assert gap(final[1], clean(name)[:1]) > 1e-4
    assert gap(final[0], clean(name)[:1]) < (1e-9 if pair[0] == "direct" else 1e9)


@pytest.mark.parametrize("name", ["stable_diffusion_3", pytest.param("flux", marks=pytest.mark.slow)])
def test_the_fixed_point_of_a_flow_is_the_sampler_s_own_step(name: str) -> None:
    """What is looked for is the velocity at the upper latent, also at the noisiest level, where there is no signal."""
    rough, fine = (
        gap(watch_walk(model(name), inverted(name, FixedPoint(iterations=n)), guidance=1.0)[-1][0], clean(name))
        for n in (0, 40)
    )
    assert fine < 1e-5 < rough / 1000


@pytest.mark.parametrize("name", NAMES)
def test_words_lie_where_their_tokens_are(name: str) -> None:
    """A prompt of one other word has other tokens there first of all (a later token may have seen it)."""
    words = model(name).words
    texts = model(name).encode_text([SOURCE, TARGET])
    assert words.length == texts.tokens.shape[1]
    differs = (texts.tokens[0] != texts.tokens[1]).any(-1)
    for segment in words.segments:
        own = [p for p in word_positions(words, SOURCE, "cat") if segment.start <= p < segment.span.stop]
        assert own
        assert bool(differs[own].all())
    reads = mixing(words, SOURCE, TARGET, "refine")
    assert reads.source.shape == (words.length, words.length)
    assert torch.equal(reads.source.sum(0) + reads.own, torch.ones(words.length))
