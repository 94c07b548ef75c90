"""Steps: how a latent moves from one time to the next. The loop never looks into them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.level import Level, Moment, Split, require_signal
from reinvert.loop import Predictor, State


def ddim(state: State, predict: Predictor, moment: Moment) -> State:
    """The deterministic step, in either direction: x_s = signal(s) clean + noise(s) eps.

    Denoising Diffusion Implicit Models, 2021, arXiv 2010.02502. Upwards it is DDIM inversion: the network is asked at
    the upper time with the lower latent.
    """
    return replace(state, latents=(predict(state.x, moment).at(moment.next_level),))


# --- steps along what another latent shows --------------------------------------------------------------------------


def direction(predict: Predictor, x: Tensor, moment: Moment) -> Tensor:
    """What the network shows at `x` that may move another latent: a flow's velocity, or else the noise."""
    return predict.answer(x, moment) if predict.model.flow else predict(x, moment).noise


def coefficients(model: Backbone, level: Level, next_level: Level) -> tuple[float, float]:
    """(a, b) of x_s = a x_t + b direction, from one level to the next.

    Raises `ReinvertError` where the direction is noise and one of the levels holds no signal.
    """
    if model.flow:
        return 1.0, next_level.noise - level.noise
    require_signal(level)
    require_signal(next_level)
    a = next_level.signal / level.signal
    return a, next_level.noise - a * level.noise


def along(model: Backbone, x: Tensor, direction: Tensor, moment: Moment) -> Tensor:
    """`x` at the step's next level, moved along a direction."""
    split = model.split(x, direction, moment) if model.flow else Split.of(x, direction, moment.level)
    return split.at(moment.next_level)


# --- stochastic samplers, without their noise: whoever steps says what is added to the mean -------------------------


def shrink(moment: Moment) -> float:
    """e^{-h}, where h is the gap of log(signal / noise) between a step's two levels; 0 where no noise is left.

    The share of the old noise that a step of a stochastic sampler keeps. Its square is the share of the variance.
    """
    (signal, noise), (next_signal, next_noise) = moment.level, moment.next_level
    return signal * next_noise / (noise * next_signal)


def deviation(moment: Moment) -> float:
    """sigma of the posterior q(x_s | x_t, clean): the noise that DDPM (DDIM at eta 1) adds in this step.

    sigma^2 = noise_s^2 / noise_t^2 (1 - signal_t^2 / signal_s^2) = noise_s^2 (1 - e^{-2h})
    """
    return moment.next_level.noise * math.sqrt(1 - shrink(moment) ** 2)


def posterior_mean(belief: Split, moment: Moment) -> Tensor:
    """mu = signal_s clean + sqrt(noise_s^2 - sigma^2) eps, in the shape of the latents."""
    signal, noise = moment.next_level
    return signal * belief.clean + noise * shrink(moment) * belief.noise


def ddpm_mean(state: State, predict: Predictor, moment: Moment) -> State:
    """The ancestral step without its noise, which an anchor or a stored shift supplies.

    Denoising Diffusion Probabilistic Models, 2020, arXiv 2006.11239.
    """
    return replace(state, latents=(posterior_mean(predict(state.x, moment), moment),))


def dpm_mean(state: State, predict: Predictor, moment: Moment) -> State:
    """SDE-DPM-Solver++(2M) without its noise: the mean above, with a slope from the last two clean predictions.

        mu = mu_ddpm + signal_s (1 - e^{-2h}) (clean - former clean) h / (2 h_former)

    DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models, 2022, arXiv 2211.01095. To first
    order it is `ddpm_mean`, which the first step takes, and so does one that reaches a level without noise.
    """
    belief, kept = predict(state.x, moment), shrink(moment)
    mean, gap = posterior_mean(belief, moment), -math.log(kept) if kept else math.inf
    if state.memory and kept:
        former, former_gap = state.memory
        slope = (belief.clean - former) * (gap / (2 * float(former_gap)))
        mean = mean + moment.next_level.signal * (1 - kept**2) * slope
    return replace(state, latents=(mean,), memory=(belief.clean, torch.tensor(gap, dtype=torch.float64)))


def consistency(state: State, predict: Predictor, moment: Moment) -> State:
    """What is believed clean at the next level's signal and without any noise; at the end the belief itself.

    Consistency Models, 2023, arXiv 2303.01469, whose sampler adds fresh noise to it. DDIM with sigma = noise_s.
    """
    clean = predict(state.x, moment).clean
    return replace(state, latents=(clean if moment.last else moment.next_level.signal * clean,))


# --- flows: steps along a velocity, d x / d sigma, of which the level's noise is sigma ------------------------------


def gap(moment: Moment) -> float:
    """How far a step goes along the velocity: sigma_s - sigma_t, below 0 on the way down."""
    return moment.next_level.noise - moment.level.noise


def rising(moment: Moment) -> bool:
    """Whether a step goes up, towards noise."""
    return moment.s > moment.t


def explicit(state: State, predict: Predictor, moment: Moment) -> State:
    """Euler's step with the network asked where the latent stands, on the way up too.

    Flow Matching for Generative Modeling, 2022, arXiv 2210.02747. On the way down it is `ddim`; on the way up DDIM's
    habit is to ask at the upper end.
    """
    return replace(state, latents=(predict(state.x, moment.asking(moment.t)).at(moment.next_level),))


def midway(predict: Predictor, moment: Moment, x: Tensor, velocity: Tensor) -> Tensor:
    """The velocity halfway through a step, reached from `x` along `velocity`."""
    middle = (moment.t + moment.s) / 2
    there = moment.asking(middle, predict.model.level(middle), evaluation=1)
    return predict.answer(x + gap(moment) / 2 * velocity, there)
