"""The schedule and the deterministic step: the methods page's numbers, the textbook form, diffusers' own schedulers."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from itertools import pairwise

import naive
import pytest
import torch
from conftest import SOURCE, TARGET, gap, load_tiny, watch_walk
from diffusers import DDIMInverseScheduler, DDIMScheduler

from reinvert import registry
from reinvert.errors import ReinvertError
from reinvert.hooks import Hooks
from reinvert.inversions.base import Source
from reinvert.level import FINAL, Level, Moment, Split
from reinvert.loop import Predictor, Prompts, State, add_noise, last, moments, walk
from reinvert.steps import ddim
from reinvert.text import Conditioning, Text

# t, abar_t, abar_prev, A, Bc of section 1.1, at 50 steps
TABLE = [
    (981, 0.0057754959, 0.0072817220, 1.12285172, -0.12325202),
    (961, 0.0072817220, 0.0091173025, 1.11896405, -0.11945170),
    (501, 0.2749988437, 0.3022954464, 1.04845638, -0.05744205),
    (401, 0.4228813052, 0.4552385509, 1.03755296, -0.05013207),
    (21, 0.9803806543, 0.9982960224, 1.00909558, -0.10006382),
    (1, 0.9982960224, 0.9991499782, 1.00042762, -0.01214178),
]
SETTINGS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class Fixed:
    """A `Backbone` whose schedule is a real one and whose noise is whatever the test says."""

    def __init__(self, model, noise) -> None:
        self._model, self._noise = model, noise

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def answer(self, x, text, time, call, guidance=()):
        return self._noise(x, time)


def conditions(branches: int = 1) -> Conditioning:
    return Conditioning(Text(torch.zeros(branches, 1, 4, 2)), Text(torch.zeros(1, 4, 2)))


def take(model, x: torch.Tensor, noise, times) -> torch.Tensor:
    predictor_free = walk(Fixed(model, noise), times, State((x,)), conditions(), guidance=(1.0,), step=ddim)
    return last(predictor_free).x


def random(seed: int, *shape: int) -> torch.Tensor:
    shape = shape or (1, 1, 3, 4, 4)
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_times_are_the_published_ones(tiny, unit_json) -> None:
    assert tiny.times(50) == (*range(981, 0, -20), FINAL)
    assert list(tiny.times(50)[:-1]) == unit_json["timesteps_50"]
    assert list(tiny.times(10)[:-1]) == unit_json["timesteps_10"]
    for steps in (1, 2, 7, 20, 100, 500):
        assert list(tiny.times(steps)[:-1]) == naive.times(steps)
        assert len(tiny.times(steps)) == steps + 1


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_out_of_range_are_refused(tiny, steps: int) -> None:
    with pytest.raises(ReinvertError, match="choose between 1 and 1000"):
        tiny.times(steps)


def test_levels_and_coefficients_are_those_of_the_table(tiny) -> None:
    final = tiny.level(FINAL)
    assert final.signal**2 == pytest.approx(0.9991499782, abs=1e-9)
    times = tiny.times(50)
    product = 1.0
    for t, s in pairwise(times):
        high, low = tiny.level(t), tiny.level(s)
        assert high.signal**2 + high.noise**2 == pytest.approx(1, abs=1e-12)
        product *= low.signal / high.signal
    assert product == pytest.approx(13.153, abs=1e-3)  # section 1.6, 5
    for t, abar, before, a, b in TABLE:
        high, low = tiny.level(t), tiny.level(t - 20 if t > 20 else FINAL)
        # the table is printed to ten decimals, and comes from a product in float32
        assert high.signal**2 == pytest.approx(abar, abs=2e-9)
        assert low.signal**2 == pytest.approx(before, abs=2e-9)
        assert low.signal / high.signal == pytest.approx(a, abs=1e-7)
        assert low.noise - low.signal * high.noise / high.signal == pytest.approx(b, abs=1e-7)
        assert naive.coefficients(t, 50) == pytest.approx((a, b), abs=1e-7)


@pytest.mark.parametrize("t", [row[0] for row in TABLE])
def test_the_step_is_the_textbook_s_in_both_directions(tiny, t: int) -> None:
    s = t - 20 if t > 20 else FINAL
    z, e = random(0), random(1)
    a, b = naive.coefficients(t, 50)
    down = take(tiny, z, lambda x, time: e, (t, s))
    assert gap(down, a * z + b * e) < 1e-12
    up = take(tiny, down, lambda x, time: e, (s, t))
    assert gap(up, (down - b * e) / a) < 1e-12
    assert gap(up, z) < 1e-12  # I(D(z, e), e) = z


def test_the_network_is_asked_at_the_noisier_time_in_both_directions(tiny) -> None:
    asked: list[int] = []
    times = tiny.times(4)

    def note(x, time):
        asked.append(time)
        return x

    take(tiny, random(0), note, times)
    take(tiny, random(0), note, tuple(reversed(times)))
    assert asked == [751, 501, 251, 1, 1, 251, 501, 751]


def test_constant_noise_goes_there_and_back(tiny) -> None:
    z, e = random(0), random(1)
    noisy = take(tiny, z, lambda x, time: e, tuple(reversed(tiny.times(50))))
    assert gap(take(tiny, noisy, lambda x, time: e, tiny.times(50)), z) < 1e-12
    # and in float32, where section 1.6 measured 6e-6
    noisy = take(tiny, z.float(), lambda x, time: e.float(), tuple(reversed(tiny.times(50))))
    assert gap(take(tiny, noisy, lambda x, time: e.float(), tiny.times(50)), z) < 5e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_walking_down_is_diffusers_ddim(tiny, prediction: str) -> None:
    theirs = DDIMScheduler(**SETTINGS, prediction_type=prediction)
    theirs.set_timesteps(10)
    out = {t: random(t) for t in naive.times(10)}
    z = random(0)
    for t in theirs.timesteps.tolist():
        z = theirs.step(out[t], t, z).prev_sample

    def noise(x, time):
        level = tiny.level(time)
        return out[time] if prediction == "epsilon" else level.signal * out[time] + level.noise * x

    # their coefficients are square roots taken in float32
    assert gap(take(tiny, random(0), noise, tiny.times(10)), z) < 1e-5


def test_walking_up_is_diffusers_inverse_ddim(tiny) -> None:
    theirs = DDIMInverseScheduler(**SETTINGS)
    theirs.set_timesteps(10)
    out = {t: random(t) for t in naive.times(10)}
    z = random(0)
    for t in theirs.timesteps.tolist():
        z = theirs.step(out[t], t, z).prev_sample
    times = tuple(reversed(tiny.times(10)))
    assert gap(take(tiny, random(0), lambda x, time: out[time], times), z) < 1e-5


def test_walking_up_with_v_is_read_at_the_level_that_the_network_is_told(tiny) -> None:
    """diffusers' DDIMInverseScheduler reads v at the level of the latent instead: eps = signal(s) v + noise(s) x with s
    the lower time, although the network was told the upper one. Here eps = signal(t) v + noise(t) x, the network's own
    definition of v at the time it was told; so the two differ, and only epsilon models agree with diffusers upwards."""
    x, v = random(0), random(1)
    t, s = 501, 401
    a, b = naive.coefficients(t, 10)

    def noise(x, time):
        return math.sqrt(naive.abar(time)) * v + math.sqrt(1 - naive.abar(time)) * x

    ours = take(tiny, x, noise, (s, t))
    assert gap(ours, (x - b * noise(x, t)) / a) < 1e-12
    theirs = DDIMInverseScheduler(**SETTINGS, prediction_type="v_prediction")
    theirs.set_timesteps(10)
    assert gap(theirs.step(v, t, x).prev_sample, (x - b * noise(x, s)) / a) < 1e-5
    assert gap(theirs.step(v, t, x).prev_sample, ours) > 1e-2


@pytest.mark.parametrize("which", ["tiny64", "tiny_v64"])
def test_inversion_of_a_whole_model_is_the_textbook_s(request, which: str, clean) -> None:
    from reinvert.inversions.base import Source
    from reinvert.inversions.ddim import DDIM

    model = request.getfixturevalue(which)
    prompt = "a cat sitting on a table"
    for guidance in (1.0, 0.0, 2.5):
        path = DDIM(inversion_guidance=guidance).invert(Source(model, clean[:1], (prompt,), 4)).path
        assert gap(path[:, 0], torch.cat(naive.invert(model, clean[:1], prompt, 4, guidance))) < 1e-9


# --- levels and splits ---------------------------------------------------------------------------------------


def test_a_split_mixes_back_to_what_it_was_made_of(tiny) -> None:
    x, e = random(2), random(3)
    for time in (*tiny.times(10)[:-1], FINAL):
        level = tiny.level(time)
        split = Split.of(x, e, level)
        assert gap(split.at(level), x) < 1e-12
        assert gap(level.signal * split.clean + level.noise * split.noise, x) < 1e-12
        assert torch.equal(add_noise(x, e, level), Split(x, e).at(level))


def test_a_level_without_signal_needs_no_division() -> None:
    clean, e = random(2), random(3)
    assert torch.equal(Split(clean, e).at(Level(0.0, 1.0)), e)


def test_moments_name_both_ends(tiny) -> None:
    made = list(moments(tiny, tiny.times(3)))
    assert [(m.index, m.t, m.s, m.last) for m in made] == [
        (0, 667, 334, False),
        (1, 334, 1, False),
        (2, 1, FINAL, True),
    ]
    assert all(m.level == tiny.level(m.t) and m.next_level == tiny.level(m.s) for m in made)
    assert all(m.ask == m.t for m in made)


def test_the_step_moves_only_the_latents_it_predicts(tiny) -> None:
    x = random(4, 2, 1, 3, 4, 4)
    state = State((x,), memory=(torch.ones(1),))
    moment = next(iter(moments(tiny, tiny.times(2))))
    predictor = Predictor(Fixed(tiny, lambda x, time: x), Prompts(conditions(2)), (1.0, 1.0), Hooks(), (0, 1))
    after = ddim(state, predictor, moment)
    assert torch.equal(after.memory[0], torch.ones(1))
    assert len(after.latents) == 1
    assert after.x.shape == x.shape


# --- where the network is asked ------------------------------------------------------------------------------


def test_a_step_asks_where_it_says(tiny) -> None:
    """The lower end, the middle with the latents of the middle, and a time that is on no grid."""
    asked: list[float] = []

    def note(x, time):
        asked.append(time)
        return 0 * x

    def step(state: State, predict: Predictor, moment: Moment) -> State:
        middle = (moment.t + moment.s) // 2
        predict(state.x, moment.asking(moment.t))
        predict(state.x, moment.asking(middle, tiny.level(middle), 1))
        assert torch.equal(predict.answer(state.x, moment.asking(17.5)), torch.zeros_like(state.x))
        return replace(state, latents=(predict(state.x, moment).at(moment.next_level),))

    last(walk(Fixed(tiny, note), (401, 501), State((random(0),)), conditions(), guidance=(1.0,), step=step))
    # the memory of the source's row knows the time as well as the latents
    assert asked == [401, 451, 17.5, 501]


def test_the_middle_is_read_at_its_own_level(tiny) -> None:
    x, e = random(0), random(1)
    moment = next(iter(moments(tiny, (401, 501)))).asking(451, tiny.level(451))
    split = Predictor(Fixed(tiny, lambda x, time: e), Prompts(conditions()), (1.0,), Hooks(), (0,))(x, moment)
    assert gap(split.at(tiny.level(451)), x) < 1e-12
    assert gap(split.noise, e) == 0


# --- a level without signal ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zero_snr(tmp_path_factory: pytest.TempPathFactory, tiny_folder):
    """A model like the v-predicting Stable Diffusion 2.x with a noisiest level of pure noise."""
    folder = tmp_path_factory.mktemp("zero") / "tiny-zero"
    shutil.copytree(tiny_folder, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    more = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    return load_tiny(folder, torch.float64)


@pytest.mark.parametrize("inversion", ["ddim", "direct", "null_text", "edit_friendly", "fixed_point", "bdia"])
def test_an_edit_from_a_level_without_signal(zero_snr, clean, inversion: str) -> None:
    given = {"skip": 0.0} if inversion == "edit_friendly" else {}
    path = registry.make("inversions", inversion, given).invert(Source(zero_snr, clean[:1], (SOURCE,), 5))
    walked = watch_walk(zero_snr, path, [TARGET], [registry.make("editors", "p2p")])
    assert zero_snr.level(zero_snr.times(5)[0]) == Level(0.0, 1.0)
    assert all(bool(torch.isfinite(x).all()) for x in walked)
    assert gap(walked[-1][1], walked[-1][0]) > 1e-3
    if inversion == "direct":
        assert torch.equal(walked[-1][0], clean[:1])


def test_walking_down_from_pure_noise_is_diffusers_ddim(zero_snr) -> None:
    settings = SETTINGS | {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
    theirs = DDIMScheduler(**settings, prediction_type="v_prediction")
    theirs.set_timesteps(10)
    out, z = {t: random(t) for t in theirs.timesteps.tolist()}, random(0)
    for t in theirs.timesteps.tolist():
        z = theirs.step(out[t], t, z).prev_sample
    assert gap(take(zero_snr, random(0), lambda x, time: out[time], zero_snr.times(10)), z) < 1e-5


def test_a_method_that_needs_the_noise_says_so_there(zero_snr, clean) -> None:
    path = registry.make("inversions", "edict", {"strength": 1.0, "offset": 1})
    with pytest.raises(ReinvertError, match="noisiest level"):
        path.invert(Source(zero_snr, clean[:1], (SOURCE,), 5))
    registry.make("inversions", "edict", {"offset": 1}).invert(Source(zero_snr, clean[:1], (SOURCE,), 5))
