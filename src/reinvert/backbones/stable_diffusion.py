"""Stable Diffusion 1.x and 2.x (and anything of that shape) from diffusers components.

    clean = (x - noise eps) / signal                                epsilon prediction
    clean = signal x - noise v,  eps = noise x + signal v           v-prediction

v is that of Progressive Distillation for Fast Sampling of Diffusion Models, 2022, arXiv 2202.00512.

High-Resolution Image Synthesis with Latent Diffusion Models, 2022, arXiv 2112.10752. Nothing about the model is typed
here: sizes, scaling factor, text length, layers and schedule come from its configuration.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, cast

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from reinvert.backbones.attention import Carried, RuledAttention, Rules, attention_layers
from reinvert.backbones.base import Family, Fingerprint, Tally, World
from reinvert.backbones.compiling import Compile, Compiled, room
from reinvert.backbones.components import fingerprint, model_line, model_table, vae_decode, vae_encode, vae_factor
from reinvert.backbones.lock import ModelLock
from reinvert.backbones.placement import Stage
from reinvert.backbones.time_embeddings import TimeEmbeddings
from reinvert.errors import ReinvertError
from reinvert.hooks import Call, Kind, Layer
from reinvert.level import FINAL, Level, Moment, Split, Time
from reinvert.models import USUAL
from reinvert.noise import in_order
from reinvert.precision import wide
from reinvert.text import Text
from reinvert.words import Words


class StableDiffusion:
    """A `Backbone` over a UNet, a VAE, a CLIP text encoder, its tokenizer and a scheduler's configuration."""

    null_side = True
    flow = False
    world: World | None = None
    patch = 1
    kinds: frozenset[Kind] = frozenset({"self", "cross"})

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Mapping[str, Any],
        name: str = "stable-diffusion",
    ) -> None:
        for network in (unet, vae, text_encoder):
            network.requires_grad_(False).eval()
        self.unet, self.vae, self.text_encoder, self.tokenizer = unet, vae, text_encoder, tokenizer
        self.words = Words.of(tokenizer)
        self.additions: Mapping[str, Any] = {}
        self.name, self.tally, self.usual, self.lock = name, Tally(), USUAL["Stable Diffusion 1.x and 2.x"], ModelLock()
        self.device, self.dtype = cast(torch.device, unet.device), cast(torch.dtype, unet.dtype)
        self.stage = Stage(self.device)
        # The pipelines of diffusers force steps_offset to 1 and clip_sample to False; so did every published run.
        self._scheduler: Any = DDIMScheduler.from_config(
            dict(scheduler),
            clip_sample=False,
            steps_offset=1,
            set_alpha_to_one=scheduler.get("set_alpha_to_one", False),
        )
        self._prediction: str = self._scheduler.config.prediction_type
        if self._prediction not in ("epsilon", "v_prediction"):
            raise ReinvertError(f"{name} predicts {self._prediction!r}; reinvert reads epsilon and v_prediction models")
        wanted = ("betas", "beta", "num_train", "prediction", "offset", "alpha_to_one", "spacing", "zero_snr")
        config = {k: v for k, v in self._scheduler.config.items() if any(w in k for w in wanted)}
        self.schedule = json.dumps(config, sort_keys=True, default=str)
        self.factor = vae_factor(vae)
        self.multiple: int = self.factor * 2 ** (len(unet.config.block_out_channels) - 1)
        side = unet.config.sample_size
        side = side if isinstance(side, int) else side[0]
        self.image_size: int = side * self.factor
        self.latent_shape: tuple[int, int, int] = (unet.config.in_channels, side, side)
        self._layers = attention_layers(unet)
        self._rules = Rules(unet, self._layers, RuledAttention, TimeEmbeddings.of(unet))
        self._compiled: Compiled | None = None

    def __repr__(self) -> str:
        return model_line(self)

    def _repr_html_(self) -> str:
        return model_table(self)

    @property
    def network(self) -> torch.nn.Module:
        return self.unet

    # --- time ---------------------------------------------------------------------------------------------------

    def times(self, steps: int, latent: tuple[int, int] | None = None, offset: int | None = None) -> tuple[Time, ...]:
        """steps + 1 times from noise to clean, on the scheduler's own grid, whatever the size; the last is `FINAL`."""
        limit = int(self._scheduler.config.num_train_timesteps)
        if not 1 <= steps <= limit:
            raise ReinvertError(f"{steps} steps cannot be taken; choose between 1 and {limit}")
        self._scheduler.set_timesteps(steps)
        shift = 0 if offset is None else offset - int(self._scheduler.config.steps_offset)
        times = [max(0, min(int(t) + shift, limit - 1)) for t in self._scheduler.timesteps]
        if any(a <= b for a, b in pairwise(times)):
            raise ReinvertError(f"{steps} steps do not fit this model's schedule; choose fewer (at most {limit // 2})")
        return (*times, FINAL)

    def level(self, time: Time) -> Level:
        if time != FINAL and not 0 <= time < len(self._scheduler.alphas_cumprod):
            raise ReinvertError(f"{self.name} has no time {time}; invert again")
        alpha = self._scheduler.final_alpha_cumprod if time == FINAL else self._scheduler.alphas_cumprod[int(time)]
        return Level(float(alpha) ** 0.5, (1 - float(alpha)) ** 0.5)

    # --- text and images ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        length = int(self.tokenizer.model_max_length)
        rows = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        mask = None
        if getattr(self.text_encoder.config, "use_attention_mask", False):
            mask = rows.attention_mask.to(self.device)
        out = self.stage.bring(self.text_encoder)(rows.input_ids.to(self.device), attention_mask=mask)
        return Text(wide(out[0]))

    def nothing(self, n: int) -> Text:
        """The encoding of ""."""
        return self.encode_text([""]).expand(n)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """See `Backbone.draw`."""
        return in_order(shape, generator)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return vae_encode(self.stage.bring(self.vae), images.to(self.device), noise)

    def decode(self, latents: Tensor) -> Tensor:
        return vae_decode(self.stage.bring(self.vae), latents.to(self.device))

    # --- the network --------------------------------------------------------------------------------------------

    def answer(self, x: Tensor, text: Text, time: Time, call: Call | None, guidance: tuple[float, ...] = ()) -> Tensor:
        """See `Backbone.answer`."""
        self.stage.bring(self.unet)
        self.stage.check_gradients(x, text.tokens, text.values, text.pooled)
        flat = x.flatten(0, 1)
        self.tally.forwards += len(flat)
        values = None if text.values is None else text.values.flatten(0, 1).to(self.dtype)
        compiled, ruled = self._compiled, self._rules.ruled(call, self.kinds)
        network = self.unet if compiled is None else compiled.running(self.unet, ruled=ruled or values is not None)
        carried: dict[str, Any] = {}
        if network is self.unet and self._rules.open and (call is not None or values is not None):
            carried = {"reinvert": Carried(call, (x.shape[-2], x.shape[-1]), values)}
        told, embeddings = _told(time), self._rules.embeddings
        if embeddings is not None and embeddings.placed:
            embeddings.tell(told, x.device, self.dtype)
        self._rules.call = call
        try:
            with nullcontext() if compiled is None else room():
                out = network(
                    flat.to(self.dtype),
                    torch.full((len(flat),), told, device=x.device),
                    encoder_hidden_states=text.tokens.flatten(0, 1).to(self.dtype),
                    cross_attention_kwargs=carried,
                    **self.conditions(flat, text),
                    return_dict=False,
                )[0]
        finally:
            self._rules.call = None
        return out.to(x.dtype).unflatten(0, x.shape[:2])

    def compile(self, mode: Compile, backend: str = "inductor") -> None:
        """Compile the network, as `backbones.compiling` describes; its attention processors are there to stay."""
        self._rules.set()
        self._rules.embeddings = None  # a graph has them in it
        self._compiled = Compiled(self.unet, mode, backend)

    def conditions(self, x: Tensor, text: Text) -> dict[str, Any]:
        """Arguments that the UNet is given beside latents [n, channel, h, w] and words."""
        return {}

    def split(self, x: Tensor, answer: Tensor, moment: Moment) -> Split:
        """See `Backbone.split`.

        Asked about a latent of another level (the way up), v is read at the level the network was told, by its own
        definition; but where nothing is left of the signal its noise would be x itself, so there as everywhere else
        it is read where the latent stands.
        """
        if self._prediction == "epsilon":
            return Split.of(x, answer, moment.level)
        told, (signal, noise) = self.level(moment.ask), moment.level
        if told == moment.level or told.signal == 0:
            return Split(signal * x - noise * answer, noise * x + signal * answer)
        return Split.of(x, told.noise * x + told.signal * answer, moment.level)

    def attending(self, features: Collection[str] = (), times: Sequence[Time] = ()) -> AbstractContextManager[None]:
        """See `Backbone.attending`."""
        if self._rules.embeddings is not None:
            self._rules.embeddings.coming |= {_told(time) for time in times}
        return self._rules.applied(features, self.lock)

    def layers(self) -> tuple[Layer, ...]:
        return self._layers

    def _networks(self) -> tuple[torch.nn.Module, ...]:
        return self.unet, self.vae, self.text_encoder

    def fingerprint(self) -> Fingerprint:
        return fingerprint(self._networks(), self.additions)


def _told(time: Time) -> int:
    """The clean end of the grid has no timestep of its own: there the network is told 0."""
    return max(int(time), 0)


def _tiny() -> StableDiffusion:
    """16 x 16 latents of 3 channels, 32 x 32 pixels, 16 tokens; attention of both kinds on grids of 16 and 8."""
    from diffusers import UNet2DConditionModel

    from reinvert.backbones import tiny

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
    )
    tokenizer = tiny.clip_tokenizer()
    parts = {"unet": unet, "vae": tiny.vae(3), "text_encoder": tiny.clip_text(tokenizer, 12), "tokenizer": tokenizer}
    tiny.peak(unet)
    return StableDiffusion(**tiny.wide(parts), scheduler=tiny.SCHEDULE, name="tiny-stable-diffusion")


FAMILY = Family(
    title="Stable Diffusion 1.x and 2.x",
    pipelines=("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"),
    parts={
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    },
    open=lambda parts, scheduler, name: StableDiffusion(**parts, scheduler=scheduler, name=name),
    tiny=_tiny,
)
