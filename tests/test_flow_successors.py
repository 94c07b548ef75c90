"""Methods that came after FlowEdit and edit-friendly inversion, against their equations written out.

FlowAlign, DNAEdit and FTEdit on flows, TurboEdit on a model of few steps.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from conftest import SOURCE, TARGET, gap, watch_walk

from reinvert.backbones.loading import families
from reinvert.editors.dna_edit import DNAEdit
from reinvert.editors.flowalign import FlowAlign
from reinvert.editors.flowedit import FlowEdit
from reinvert.editors.ftedit import FTEdit
from reinvert.editors.p2p import P2P
from reinvert.editors.turbo_edit import TurboEdit
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Source
from reinvert.inversions.ddim import DDIM
from reinvert.inversions.direct import Direct
from reinvert.inversions.dna import DNA
from reinvert.inversions.fixed_point import FixedPoint
from reinvert.inversions.none import Nothing
from reinvert.pairs import why_not
from reinvert.trajectory import Trajectory
from reinvert.words import mixing

FLOWS = ("stable_diffusion_3", "flux")
SAME = (SOURCE, SOURCE)
OTHER = (TARGET, "a dog sitting on a table")


@pytest.fixture(scope="module")
def tiny():
    made = {}

    def of(name: str):
        if name not in made:
            model = families()[name].tiny()
            channels, h, w = model.latent_shape
            noise = torch.randn(2, channels, h, w, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
            made[name] = model, noise
        return made[name]

    return of


def walked(model, trajectory, editors=(), guidance: float = 3.0, targets=OTHER, **more) -> torch.Tensor:
    return watch_walk(model, trajectory, [targets], editors, guidance, **more)[-1]


class Ask:
    """The plain network of a model, one row at a time, on pictures with a prompt each."""

    def __init__(self, model, x0: torch.Tensor) -> None:
        self.model, self.times = model, lambda n: model.times(n, tuple(x0.shape[-2:]))

    def __call__(self, x: torch.Tensor, prompts, time: float, scale: float = 1.0) -> torch.Tensor:
        text = self.model.encode_text(list(prompts))[None]
        if not self.model.null_side:
            return self.model.answer(x[None], text, time, None, (scale,))[0]
        said = self.model.answer(x[None], text, time, None)[0]
        if scale == 1:
            return said
        nothing = self.model.answer(x[None], self.model.nothing(len(x))[None], time, None)[0]
        return nothing + scale * (said - nothing)


# --- FlowAlign -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOWS)
def test_flowalign_is_its_equations(tiny, name: str) -> None:
    model, x0 = tiny(name)
    start = Nothing().invert(Source(model, x0, SAME, 4))
    before = model.tally.forwards
    ours = walked(model, start, (FlowAlign(zeta=0.05, source_guidance=1.5),), 3.0, seed=7)
    assert model.tally.forwards - before == 2 * 4 * (3 if model.null_side else 2)
    assert torch.equal(ours[0], x0)
    ask, drawn, z = Ask(model, x0), Source(model, x0, SAME, 4, seed=7).draws(), x0
    for t, s in pairwise(ask.times(4)):
        sigma, later, eps = t / 1000, s / 1000, next(drawn)
        q = (1 - sigma) * x0 + sigma * eps
        p = z + q - x0
        if model.null_side:
            v_q, own = ask(q, SAME, t), ask(p, SAME, t)
            v_p = own + 3.0 * (ask(p, OTHER, t) - own)
        else:
            v_q, v_p = ask(q, SAME, t, 1.5), ask(p, OTHER, t, 3.0)
        z = z + (later - sigma) * (v_p - v_q) + 0.05 * (q - sigma * v_q - p + sigma * v_p)
    assert gap(ours[1], z) < 1e-10


@pytest.mark.parametrize("name", FLOWS)
def test_flowalign_to_the_same_prompt_is_the_picture_and_more_zeta_keeps_more(tiny, name: str) -> None:
    model, x0 = tiny(name)
    start = Nothing().invert(Source(model, x0, SAME, 4))
    same = walked(model, start, (FlowAlign(source_guidance=3.0),), 3.0, SAME)
    assert gap(same[1], x0) < 1e-12
    far = [gap(walked(model, start, (FlowAlign(zeta=zeta, source_guidance=3.0),))[1], x0) for zeta in (0.0, 0.5)]
    assert far[0] > far[1] > 1e-4


def test_flowalign_without_its_terms_is_flowedit(tiny) -> None:
    """On a model that is told a scale: zeta 0 leaves the difference of the two velocities."""
    model, x0 = tiny("flux")
    start = Nothing().invert(Source(model, x0, SAME, 4))
    editors = FlowAlign(zeta=0.0, source_guidance=1.5), FlowEdit(n_max=4.0, source_guidance=1.5)
    aligned, plain = (walked(model, start, (editor,), seed=3) for editor in editors)
    assert gap(aligned, plain) < 1e-12


# --- DNAEdit ---------------------------------------------------------------------------------------------------------


def naive_alignment(model, x0: torch.Tensor, steps: int, climbed: int, seed: int):
    """[(sigma below, sigma above, latent above, shift, velocity)] from the clean end upwards."""
    ask = Ask(model, x0)
    grid, x, found = ask.times(steps)[::-1][: climbed + 1], x0, []
    noise = next(Source(model, x0, SAME, steps, seed=seed).draws())
    for low, high in pairwise(grid):
        a, b = low / 1000, high / 1000
        y = (b - a) / (1 - a) * (noise - x) + x
        v = ask(y, SAME, high)
        wrong = (y - x) / (b - a) - v
        x, shift = y - wrong * (b - a), wrong * (b - a)
        noise = noise - wrong * (1 - a)
        found.append((a, b, x, shift, v))
    return found


@pytest.mark.parametrize("name", FLOWS)
def test_direct_noise_alignment_is_its_equations(tiny, name: str) -> None:
    model, x0 = tiny(name)
    before = model.tally.forwards
    path = DNA(depth=0.8).invert(Source(model, x0, SAME, 5, seed=4))
    assert model.tally.forwards - before == 2 * 4
    found = naive_alignment(model, x0, 5, 4, seed=4)
    assert gap(path.path, torch.stack([x0, *(x for _, _, x, _, _ in found)])) < 1e-12
    assert gap(path.kept["shifts"], torch.stack([shift for _, _, _, shift, _ in found])) < 1e-12


@pytest.mark.parametrize("name", FLOWS)
def test_dna_edit_is_its_equations(tiny, name: str) -> None:
    model, x0 = tiny(name)
    path = DNA(depth=0.8).invert(Source(model, x0, SAME, 5, seed=4))
    before = model.tally.forwards
    ours = walked(model, path, (DNAEdit(ratio=0.7),))
    assert model.tally.forwards - before == 2 * 4 * (1 + model.null_side)
    assert torch.equal(ours[0], x0)
    ask, moved = Ask(model, x0), x0
    found = naive_alignment(model, x0, 5, 4, seed=4)
    x = found[-1][2]
    for a, b, _, shift, v in reversed(found):
        aim = ask(x + shift, OTHER, b * 1000, 3.0)
        moved = moved + (a - b) * (aim - v)
        x = x + (a - b) * (0.7 * aim + 0.3 * (x - moved) / b)
    assert gap(ours[1], x) < 1e-10


@pytest.mark.parametrize("name", FLOWS)
def test_the_source_s_own_prompt_comes_back_through_the_shifts(tiny, name: str) -> None:
    """Exactly, unheld, which no other solver of the price does; and plain guidance is ratio 1."""
    model, x0 = tiny(name)
    path = DNA().invert(Source(model, x0, SAME, 4))
    assert gap(walked(model, path, (), 1.0, SAME)[1], x0) < 1e-10
    assert gap(walked(model, path, (DNAEdit(ratio=1.0),), 1.0, SAME)[1], x0) < 1e-10
    plain, full = walked(model, path), walked(model, path, (DNAEdit(ratio=1.0),))
    assert gap(plain, full) < 1e-10
    assert gap(walked(model, path, (DNAEdit(ratio=0.5),))[1], plain[1]) > 1e-4


def test_shifts_survive_a_file_and_other_inversions_have_none(tiny, tmp_path) -> None:
    model, x0 = tiny("flux")
    path = DNA().invert(Source(model, x0, SAME, 3))
    path.save(tmp_path / "a.trajectory.safetensors")
    read = Trajectory.load(tmp_path / "a.trajectory.safetensors")
    assert torch.equal(walked(model, read, (DNAEdit(),)), walked(model, path, (DNAEdit(),)))
    assert "inversion dna" in (why_not(Direct(), [DNAEdit()]) or "")
    assert "diffusion model" in (DNA().lacks(families()["stable_diffusion"].tiny()) or "")


# --- FTEdit ----------------------------------------------------------------------------------------------------------


def naive_ftedit(model, x0: torch.Tensor, words: int, values: int, guidance: float) -> torch.Tensor:
    """The program's own way: hooks on the norms and projections of the plain transformer, rows [source, target]."""
    ask, steps = Ask(model, x0), 4
    transformer = model.transformer
    blocks = list(transformer.transformer_blocks)
    last = getattr(transformer, "single_transformer_blocks", None) is None
    blocks = blocks[:-1] if last else blocks
    mixes = [mixing(model.words, SOURCE, other, "refine") for other in OTHER]
    index = [0]

    def norm(module, given, out):
        if index[0] < words:
            h = out[0].clone()
            n = len(h) // 2
            for case, mix in enumerate(mixes):
                kept = mix.source.T.to(h) @ h[case] + mix.own.to(h)[:, None] * h[n + case]
                h[n + case] = kept
            out = (h, *out[1:])
        return out

    def value(module, given, out):
        if index[0] < values:
            out = out.clone()
            out[len(out) // 2 :] = out[: len(out) // 2]
        return out

    handles = [block.norm1_context.register_forward_hook(norm) for block in blocks]
    handles += [p.register_forward_hook(value) for b in blocks for p in (b.attn.to_v, b.attn.add_v_proj)]
    grid, path = ask.times(steps), [x0]
    for high, low in reversed(list(pairwise(grid))):  # three predictions, and their mean
        z, predictions = path[-1], []
        for _ in range(3):
            index[0] = steps
            predictions.append(ask(z, SAME, high))
            z = path[-1] + (high - low) / 1000 * predictions[-1]
        path.append(path[-1] + (high - low) / 1000 * sum(predictions) / 3)
    x = path[-1]
    for i, (t, s) in enumerate(pairwise(grid)):
        index[0] = i
        text = model.encode_text([*SAME, *OTHER])[None]
        rows = torch.cat([path[steps - i], x])[None]
        if model.null_side:
            v = model.answer(rows, text, t, None)[0, 2:]
            index[0] = steps  # the null side is left alone
            nothing = ask(x, ("", ""), t)
            v = nothing + guidance * (v - nothing)
        else:
            v = model.answer(rows, text, t, None, (guidance,))[0, 2:]
        x = x + (s - t) / 1000 * v
    for handle in handles:
        handle.remove()
    return x


@pytest.mark.parametrize("name", FLOWS)
def test_ftedit_is_the_program_s_hooks(tiny, name: str) -> None:
    model, x0 = tiny(name)
    inversion = FixedPoint(iterations=2, average=3, strength=1.0)
    before = model.tally.forwards
    path = inversion.invert(Source(model, x0, SAME, 4))
    assert model.tally.forwards - before == 2 * 3 * 4
    before = model.tally.forwards
    ours = walked(model, path, (FTEdit(words=0.75, values=0.5),), 1.0)
    assert model.tally.forwards - before == 2 * (2 * 3 + 1)  # the source is read in three of the four steps
    assert torch.equal(ours[0], x0)
    assert gap(ours[1], naive_ftedit(model, x0, 3, 2, 1.0)) < 1e-10
    if model.null_side:
        guided = walked(model, path, (FTEdit(words=0.75, values=0.5),), 3.0)
        assert gap(guided[1], naive_ftedit(model, x0, 3, 2, 3.0)) < 1e-10


@pytest.mark.parametrize("name", FLOWS)
def test_ftedit_to_the_same_prompt_is_the_source_and_idle_it_is_plain_guidance(tiny, name: str) -> None:
    model, x0 = tiny(name)
    free = DDIM().invert(Source(model, x0, SAME, 4))
    source, target = walked(model, free, (FTEdit(values=0.5),), 3.0, SAME)
    assert gap(target, source) < 1e-12
    path = Direct().invert(Source(model, x0, SAME, 4))
    assert gap(walked(model, path, (FTEdit(),)), walked(model, path)) > 1e-4
    assert gap(walked(model, path, (FTEdit(words=0.0, values=0.0),)), walked(model, path)) < 1e-12
    assert "joint attention" in (FTEdit().lacks(families()["stable_diffusion"].tiny()) or "")


# --- TurboEdit -------------------------------------------------------------------------------------------------------


def test_turbo_edit_takes_the_authors_times() -> None:
    assert TurboEdit().times(3, 1000) == [799, 499, 199]
    assert TurboEdit().times(4, 1000) == [799, 599, 399, 199]
    assert TurboEdit().times(1, 1000) == [799]


@pytest.mark.parametrize("name", ["stable_diffusion_xl", "stable_diffusion"])
@pytest.mark.parametrize("max_norm", [0.0, 5.0])
def test_turbo_edit_is_its_equations(tiny, name: str, max_norm: float) -> None:
    model, x0 = tiny(name)
    start = Nothing().invert(Source(model, x0, SAME, 3))
    before = model.tally.forwards
    ours = walked(model, start, (TurboEdit(w=1.5, max_norm=max_norm),), 7.5, seed=2)
    assert model.tally.forwards - before == 2 * 9
    assert torch.equal(ours[0], x0)
    drawn = Source(model, x0, SAME, 3, seed=2).draws()

    def abar(t: int) -> float:
        return model.level(t).signal ** 2 if t >= 0 else 1.0

    def mean(x, prompts, t: int, s: int) -> torch.Tensor:
        """The posterior's mean in the variables of DDPM."""
        text = model.encode_text(list(prompts))[None]
        e = model.answer(x[None], text, t, None)[0]
        clean = (x - (1 - abar(t)) ** 0.5 * e) / abar(t) ** 0.5
        alpha = abar(t) / abar(s)
        return (abar(s) ** 0.5 * (1 - alpha) * clean + alpha**0.5 * (1 - abar(s)) * x) / (1 - abar(t))

    noised = [abar(t) ** 0.5 * x0 + (1 - abar(t)) ** 0.5 * next(drawn) for t in (599, 299)]
    x = [*noised, x0, x0]  # 199 - 200 is below 0
    y = x[0]
    for i, (t, s) in enumerate(((799, 499), (499, 199), (199, -1))):
        own = mean(x[i], SAME, t, s)
        k = torch.ones(2, 1, 1, 1, dtype=torch.float64)
        if max_norm and i == 2:
            sizes = torch.stack([(x[i + 1] - own)[case].square().sum().sqrt() for case in range(2)])
            k = (max_norm / sizes).clamp(max=1).view(2, 1, 1, 1)
            assert bool((k < 1).any())
        source, target = mean(y, SAME, t, s), mean(y, OTHER, t, s)
        y = k * x[i + 1] + (source - k * own) + 1.5 * (target - source)
    assert gap(ours[1], y) < 1e-9


def test_turbo_edit_to_the_same_prompt_is_the_picture_and_flows_are_told_why_not(tiny) -> None:
    model, x0 = tiny("stable_diffusion_xl")
    start = Nothing().invert(Source(model, x0, SAME, 4))
    assert gap(walked(model, start, (TurboEdit(max_norm=0.0),), 7.5, SAME)[1], x0) < 1e-9
    assert "take flowedit" in (TurboEdit().lacks(tiny("flux")[0]) or "")
    many = Nothing().invert(Source(model, x0, SAME, 900))
    with pytest.raises(ReinvertError, match="too many"):
        walked(model, many, (TurboEdit(),))


def test_what_a_model_cannot_run_is_told_before_what_goes_together(tiny) -> None:
    """No hint at another inversion for an editor that the model cannot run with any."""
    model, _ = tiny("flux")
    assert "is a flow" in (why_not(Direct(), [TurboEdit()], model=model) or "")
    assert "use it with inversion none" in (why_not(Direct(), [TurboEdit()]) or "")
    assert "such as flowedit" in (why_not(Direct(), [P2P()], model=model) or "")
    assert "use it with inversion none" in (why_not(Direct(), [FlowEdit()], model=model) or "")
