"""Steps: how a latent moves from one time to the next. The loop never looks into them."""

from __future__ import annotations

from dataclasses import replace

from reinvert.level import Moment
from reinvert.loop import Predictor, State


def ddim(state: State, predict: Predictor, moment: Moment) -> State:
    """The deterministic step, in either direction: x_s = signal(s) clean + noise(s) eps.

    Denoising Diffusion Implicit Models, 2021, arXiv 2010.02502. Upwards it is DDIM inversion: the network is asked at
    the upper time with the lower latent.
    """
    return replace(state, latents=(predict(state.x, moment).at(moment.next_level),))
