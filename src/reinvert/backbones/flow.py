"""What flow transformers share: a straight way from the picture to noise, walked along its velocity.

    x_sigma = (1 - sigma) clean + sigma eps,   v = eps - clean,   sigma = time / 1000
    clean = x - sigma v,   eps = x + (1 - sigma) v

Flow Matching for Generative Modeling, 2022, arXiv 2210.02747. No level is special: at sigma 1 there is no signal, and
the split is still read off the velocity. Grids come from the scheduler of diffusers with the checkpoint's own
configuration, so that shifts are its business.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

from reinvert.backbones.attention import Rules
from reinvert.backbones.base import Fingerprint, Tally, Usual, World
from reinvert.backbones.compiling import Compile, Compiled, room
from reinvert.backbones.components import fingerprint, model_line, model_table, vae_decode, vae_encode, vae_factor
from reinvert.backbones.joint import CarriedJoint, joint_layers, ruled_joint
from reinvert.backbones.lock import ModelLock
from reinvert.backbones.placement import Stage
from reinvert.errors import ReinvertError
from reinvert.hooks import Call, Kind, Layer, scales
from reinvert.level import Level, Moment, Split, Time
from reinvert.noise import channels_last
from reinvert.precision import around
from reinvert.text import Text


class FlowTransformer:
    """The parts of a `Backbone` that do not depend on what the transformer is given beside the latents.

    `encoders` are the text encoders, `side` is the usual side of a picture in pixels, `patch` how many cells of the
    latents a side make one of the transformer's tokens; `picture_first` tells the order of joint attention.
    """

    null_side = True
    flow = True
    kinds: frozenset[Kind]
    world: World | None = None

    def __init__(
        self,
        *,
        transformer: Any,
        vae: Any,
        encoders: Sequence[Any],
        scheduler: Mapping[str, Any],
        side: int,
        patch: int,
        picture_first: bool,
        usual: Usual,
        name: str,
    ) -> None:
        for network in (transformer, vae, *encoders):
            network.requires_grad_(False).eval()
        self.transformer, self.vae, self.patch = transformer, vae, patch
        self._encoders = tuple(encoders)
        self.additions: Mapping[str, Any] = {}
        self.name, self.tally, self.usual, self.lock = name, Tally(), usual, ModelLock()
        self.device, self.dtype = cast(torch.device, transformer.device), cast(torch.dtype, transformer.dtype)
        self.stage = Stage(self.device)
        kind = scheduler.get("_class_name", "FlowMatchEulerDiscreteScheduler")
        if kind != "FlowMatchEulerDiscreteScheduler":
            raise ReinvertError(f"{name} is sampled by {kind}; reinvert reads flows on FlowMatchEulerDiscreteScheduler")
        from diffusers import FlowMatchEulerDiscreteScheduler  # here: other families do not need it

        self._scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(dict(scheduler))
        self._range = int(self._scheduler.config.num_train_timesteps)
        config = {k: v for k, v in self._scheduler.config.items() if not k.startswith("_")}
        self.schedule = json.dumps(config, sort_keys=True, default=str)
        self.factor = vae_factor(vae)
        self.multiple = self.factor * patch
        self.image_size = side
        self.latent_shape = (int(vae.config.latent_channels), side // self.factor, side // self.factor)
        self._layers = joint_layers(transformer)
        self._rules = Rules(transformer, self._layers, ruled_joint(transformer))
        self._compiled: Compiled | None = None
        self._running: Any = transformer
        self._picture_first = picture_first

    def __repr__(self) -> str:
        return model_line(self)

    def _repr_html_(self) -> str:
        return model_table(self)

    @property
    def network(self) -> torch.nn.Module:
        return self.transformer

    # --- time ---------------------------------------------------------------------------------------------------

    def times(self, steps: int, latent: tuple[int, int] | None = None, offset: int | None = None) -> tuple[Time, ...]:
        """steps + 1 times from noise to clean for latents of (h, w), by default of the usual size, on the scheduler's
        own grid, ending with 0. A flow has no first timestep to shift it by: `offset` is without meaning here."""
        if not 1 <= steps <= self._range:
            raise ReinvertError(f"{steps} steps cannot be taken; choose between 1 and {self._range}")
        config = self._scheduler.config
        # Where the shift depends on the size: the line of diffusers' pipelines through the configuration's two points.
        h, w = latent or self.latent_shape[1:]
        tokens = (h // self.patch) * (w // self.patch)
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
        self._scheduler.set_timesteps(
            sigmas=self._sigmas(steps), num_inference_steps=steps, mu=mu if config.use_dynamic_shifting else None
        )
        return (*(float(t) for t in self._scheduler.timesteps), 0.0)

    def _sigmas(self, steps: int) -> list[float] | None:
        """The grid before it is shifted; None for the scheduler's own."""
        return None

    def level(self, time: Time) -> Level:
        sigma = time / self._range
        return Level(1 - sigma, sigma)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Backbone.draw`: as latents lie in memory that were encoded from a picture [h, w, channel]."""
        return channels_last(shape, generator)

    # --- images -------------------------------------------------------------------------------------------------

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return vae_encode(self.stage.bring(self.vae), images.to(self.device), noise)

    def decode(self, latents: Tensor) -> Tensor:
        return vae_decode(self.stage.bring(self.vae), latents.to(self.device))

    # --- text ---------------------------------------------------------------------------------------------------

    def encode_text(self, prompts: Sequence[str]) -> Text:
        """[prompt, token, dim] and pooled [prompt, dim]."""
        raise NotImplementedError

    def nothing(self, n: int) -> Text:
        """What no prompt is: the encoding of ""."""
        return self.encode_text([""]).expand(n)

    # --- the network --------------------------------------------------------------------------------------------

    def answer(self, x: Tensor, text: Text, time: Time, call: Call | None, guidance: tuple[float, ...] = ()) -> Tensor:
        """The velocity; see `Backbone.answer`."""
        assert text.pooled is not None
        self.stage.bring(self.transformer)
        self.stage.check_gradients(x, text.tokens, text.pooled)
        flat, cases = x.flatten(0, 1), x.shape[1]
        self.tally.forwards += len(flat)
        tokens = text.tokens.flatten(0, 1).to(self.dtype)
        carried: dict[str, Any] = {}
        compiled, ruled = self._compiled, self._rules.ruled(call, self.kinds)
        self._running = self.transformer if compiled is None else compiled.running(self.transformer, ruled=ruled)
        if self._running is self.transformer and self._rules.open and call is not None:
            h, w = x.shape[-2:]
            seen = CarriedJoint(call, (h, w), (h // self.patch, w // self.patch), tokens.shape[1], self._picture_first)
            carried = {"reinvert": seen}
        scale = scales(guidance or (1.0,) * len(x), x.device, around(self.dtype))
        self._rules.call = call
        try:
            with nullcontext() if compiled is None else room():
                out = self._velocity(
                    flat.to(self.dtype),
                    tokens,
                    text.pooled.flatten(0, 1).to(self.dtype),
                    time,
                    scale.repeat_interleave(cases),
                    carried,
                )
        finally:
            self._rules.call = None
        return out.to(x.dtype).unflatten(0, x.shape[:2])

    def compile(self, mode: Compile, backend: str = "inductor") -> None:
        """Compile the network, as `backbones.compiling` describes; its attention processors are there to stay."""
        self._rules.set()
        self._compiled = Compiled(self.transformer, mode, backend)

    def _velocity(
        self, x: Tensor, tokens: Tensor, pooled: Tensor, time: Time, guidance: Tensor, carried: dict[str, Any]
    ) -> Tensor:
        """One evaluation: x [n, channel, h, w], tokens [n, token, dim], pooled [n, dim], guidance [n]."""
        raise NotImplementedError

    def split(self, x: Tensor, answer: Tensor, moment: Moment) -> Split:
        """See `Backbone.split`: read where the latent stands, whatever time the network was asked at."""
        signal, sigma = moment.level
        return Split(x - sigma * answer, x + signal * answer)

    def attending(self, features: Collection[str] = (), times: Sequence[Time] = ()) -> AbstractContextManager[None]:
        """See `Backbone.attending`."""
        return self._rules.applied(features, self.lock)

    def layers(self) -> tuple[Layer, ...]:
        return self._layers

    def fingerprint(self) -> Fingerprint:
        return fingerprint((self.transformer, self.vae, *self._encoders), self.additions)
