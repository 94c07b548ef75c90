"""Trains picturebook's model from nothing: draws the data, then the VAE, then the text encoder and the UNet.

    python -m reinvert.picturebook.train --out DIR [--vae-minutes 25] [--unet-minutes 100] [--device auto]

Every stage has a time budget, writes a checkpoint (safetensors, no pickles) every few minutes and resumes from it,
so the same command continues after an interruption. The result, `DIR/model`, is a diffusers folder in fp16.

Latent Diffusion (High-Resolution Image Synthesis with Latent Diffusion Models, 2022, arXiv 2112.10752), the loss
weighted by min-SNR (Efficient Diffusion Training via Min-SNR Weighting Strategy, 2023, arXiv 2303.09556).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from reinvert.picturebook.draw import SIZE, draw
from reinvert.picturebook.notes import write as write_notes
from reinvert.picturebook.scene import WEARER_KINDS, Scene, held_out, sample_scene
from reinvert.picturebook.tokenizer import MAX_LENGTH, build_tokenizer
from reinvert.picturebook.wording import reword, words

LOG = logging.getLogger(__name__)

Untyped: TypeAlias = Any
"""Networks of diffusers and transformers, whose own types say too little (tuples of one, no `latent_dist`)."""

SNR_CAP = 5.0
CAPTION_DROPOUT = 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the result except the time spent."""

    scenes: int = 24_000
    wide: bool = False
    """Whether things also stand at one side, and two things are of one kind now and then."""
    captions: int = 1
    """Captions of a scene: the plain one, then rewordings (see `wording`)."""
    tokens: int = MAX_LENGTH
    """Where captions are cut."""
    size: int = SIZE
    vae_channels: tuple[int, ...] = (32, 48, 64)
    latent_channels: int = 4
    # Batches are per process.
    vae_batch: int = 6
    vae_rate: float = 2e-3
    latent_noise: float = 0.02
    polish_rate: float = 1e-3
    unet_channels: tuple[int, ...] = (64, 128, 256)
    unet_batch: int = 20
    unet_rate: float = 1e-3
    ema: float = 0.999
    # The flow model: an MMDiT with two text encoders.
    flow_width: int = 192
    flow_blocks: int = 8
    flow_heads: int = 6
    flow_batch: int = 24
    flow_rate: float = 1.5e-3
    flow_text: int = 96
    seed: int = 0


SHARP = Recipe(
    scenes=30_000,
    wide=True,
    captions=4,
    tokens=48,
    size=128,
    vae_channels=(32, 64, 96, 96),
    latent_channels=12,
    unet_channels=(64, 128, 192),
    flow_width=160,
    flow_heads=5,
)
"""The world in full detail: 128 pixels, 16 x 16 latents, captions as people write them. Batches are those of a CPU."""


def on_gpu(recipe: Recipe) -> Recipe:
    """The same with batches that fill a large GPU."""
    return replace(recipe, vae_batch=64, unet_batch=384, flow_batch=384)


# --- data ------------------------------------------------------------------------------------------------------


def training_scenes(count: int, seed: int, *, wide: bool = False) -> list[Scene]:
    """`count` scenes, none of which shows a held-out combination; `wide` ones as `wide_scene` makes them."""
    rng, scenes = Random(seed), list[Scene]()
    while len(scenes) < count:
        scene = wide_scene(rng) if wide else sample_scene(rng)
        if not held_out(scene):
            scenes.append(scene)
    return scenes


def wide_scene(rng: Random) -> Scene:
    """A scene with more of what captions can say: more pairs, two of a kind, single things at one side, more styles."""
    scene = sample_scene(rng, pairs=0.35, styled=0.2)
    first, *others = scene.things
    if others:
        if rng.random() < 0.2:
            worn = others[0].wearing if first.kind in WEARER_KINDS else None
            twin = replace(others[0], kind=first.kind, wearing=worn, says_facing=first.says_facing)
            return replace(scene, things=(first, twin))
    elif rng.random() < 0.15:
        x, size = rng.choice((0.3, 0.7)), first.size * 0.23 / 0.29
        return replace(scene, things=(replace(first, x=first.x - 0.5 + x, size=size),))
    return scene


def caption_tokens(recipe: Recipe, scenes: list[Scene], tokenizer: Untyped) -> tuple[Tensor, Tensor]:
    """Token numbers [scene, caption, token] of every scene's captions, and [1, token] of the empty one."""
    rows = list[str]()
    for i, scene in enumerate(scenes):
        rng = Random(f"captions {recipe.seed} {i}")
        rows += [scene.caption, *(reword(scene, rng).text for _ in range(recipe.captions - 1))]
    length = tokenizer.model_max_length
    ids = tokenizer([*rows, ""], padding="max_length", max_length=length, truncation=True)["input_ids"]
    tokens = torch.tensor(ids)
    return tokens[:-1].view(len(scenes), recipe.captions, length), tokens[-1:]


def more_words(recipe: Recipe) -> tuple[str, ...]:
    """The words of rewordings where there are any."""
    return words() if recipe.captions > 1 else ()


def new_tokenizer(recipe: Recipe, folder: Path) -> Untyped:
    """The world's tokenizer; with the words of rewordings where there are any."""
    return build_tokenizer(folder, more_words(recipe), recipe.tokens)


def _pixels(job: tuple[Scene, int]) -> NDArray[np.uint8]:
    return np.asarray(draw(*job))


def render_all(scenes: list[Scene], size: int, path: Path) -> NDArray[np.uint8]:
    """Draw all scenes once, [n, size, size, 3] uint8, on every core; read back when already there."""
    if not path.exists():
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            pictures = list(pool.map(_pixels, [(scene, size) for scene in scenes], chunksize=64))
        unfinished = path.with_suffix(".part.npy")
        np.save(unfinished, np.stack(pictures))
        unfinished.replace(path)
    return np.load(path, mmap_mode="r")


# --- checkpoints and budgets -------------------------------------------------------------------------------------


class Stage:
    """One training stage: modules, their moving average, an optimiser, a clock, and a checkpoint of all of it."""

    def __init__(
        self, modules: dict[str, nn.Module], rate: float, ema: float, path: Path, budget: float,
        device: torch.device | None = None,
    ) -> None:  # fmt: skip
        self.modules, self.rate, self.ema_rate, self.path, self.budget = modules, rate, ema, path, budget
        self.parameters = [p for m in modules.values() for p in m.parameters()]
        self.average = [p.detach().clone() for p in self.parameters]
        self.fused = device is not None and device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.parameters, rate, betas=(0.9, 0.99), weight_decay=0.01, fused=self.fused
        )
        # A GPU does in a minute what is not to be lost.
        self.every_s = 60.0 if self.fused else 300.0
        self.step, self.spent, self.losses = 0, 0.0, list[Tensor]()
        self.leader = not dist.is_initialized() or dist.get_rank() == 0
        self._resumed_at = time.monotonic()
        self.elapsed = 0.0
        if path.exists():
            self._load()
        self._tick()

    def _tick(self) -> None:
        """Read the clock: the leader's, so that all processes agree on the progress."""
        self.elapsed = self.spent + time.monotonic() - self._resumed_at
        if dist.is_initialized():
            clock = torch.tensor([self.elapsed], dtype=torch.float64)
            dist.broadcast(clock, 0)
            self.elapsed = float(clock)

    def _share_gradients(self) -> None:
        """Average the gradients of all processes, in half the bytes."""
        if not dist.is_initialized():
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients]).to(torch.bfloat16)
        dist.all_reduce(flat)
        flat = flat.float() / dist.get_world_size()
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed / self.budget)

    def update(self, loss: Tensor, rate: float) -> None:
        """One AdamW step at `rate`, gradient norm clipped to 1, then the moving average."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._share_gradients()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / 100)
        self.optimizer.step()
        self.step += 1
        decay = min(self.ema_rate, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list[Tensor](self.parameters), 1 - decay)  # pyright: ignore
        # Not read yet: reading waits for the GPU.
        self.losses = [*self.losses[-199:], loss.detach()]

    @property
    def loss(self) -> float:
        """The mean of the last losses."""
        return float(torch.stack(self.losses).mean()) if self.losses else math.nan

    def save(self) -> None:
        tensors: dict[str, Tensor] = {}
        for i, (p, average) in enumerate(zip(self.parameters, self.average, strict=True)):
            tensors[f"{i}.weight"], tensors[f"{i}.average"] = p.detach().contiguous(), average.contiguous()
            for name, value in self.optimizer.state[p].items():
                tensors[f"{i}.adam.{name}"] = value.contiguous()
        meta = {"step": str(self.step), "spent": str(self.elapsed)}
        unfinished = self.path.with_suffix(".part")
        save_file(tensors, unfinished, meta)
        unfinished.replace(self.path)

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file, torch.no_grad():
            meta, names = file.metadata(), set(file.keys())
            for i, p in enumerate(self.parameters):
                p.copy_(file.get_tensor(f"{i}.weight"))
                self.average[i].copy_(file.get_tensor(f"{i}.average"))
                prefix = f"{i}.adam."
                state = {n.removeprefix(prefix): file.get_tensor(n) for n in names if n.startswith(prefix)}
                if state:
                    self.optimizer.state[p] = {
                        name: value if name == "step" and not self.fused else value.to(p)
                        for name, value in state.items()
                    }
        self.step, self.spent = int(meta["step"]), float(meta["spent"])

    def use_average(self) -> None:
        """Put the moving average into the modules (at the end)."""
        with torch.no_grad():
            for p, average in zip(self.parameters, self.average, strict=True):
                p.copy_(average)

    def run(self, one_loss: Callable[[], tuple[Tensor, float]], name: str) -> None:
        """Step until the budget is spent; `one_loss` gives (loss, learning rate)."""
        saved = shown = time.monotonic()
        while self.progress < 1.0:
            loss, rate = one_loss()
            self.update(loss, rate)
            self._tick()
            now = time.monotonic()
            if not self.leader:
                continue
            if now - shown > 20:
                done = f"step {self.step}, {self.progress:.1%}, {self.elapsed:.0f} s"
                LOG.info(f"{name}: {done}, loss {self.loss:.4f}")
                shown = now
            if now - saved > self.every_s:
                self.save()
                saved = now
        if self.leader:
            self.save()


def batches(count: int, size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Endless epochs of shuffled index batches, each sorted (memory maps like it)."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for i in range(0, count - size + 1, size):
            yield np.sort(order[i : i + size])


def to_input(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w] in [-1, 1]."""
    x = torch.from_numpy(np.array(pictures)).to(device)
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1


def shown(pictures: NDArray[np.uint8], device: torch.device) -> Callable[[NDArray[np.int64]], Tensor]:
    """A function from indices to a batch of `pictures` as network input; a GPU holds all of them, in bytes."""
    if device.type == "cpu":
        return lambda index: to_input(pictures[index], device).contiguous(memory_format=torch.channels_last)
    kept = torch.from_numpy(np.array(pictures)).to(device)

    def batch(index: NDArray[np.int64]) -> Tensor:
        x = kept[torch.from_numpy(index).to(device)].permute(0, 3, 1, 2).float() / 127.5 - 1
        return x.contiguous(memory_format=torch.channels_last)

    return batch


def compiled(module: Untyped, device: torch.device) -> Untyped:
    """The module as torch.compile makes it on a GPU, where small networks wait for their kernels; it shares its
    parameters. On a CPU compiling makes training slower."""
    if device.type != "cuda":
        return module
    torch._dynamo.config.suppress_errors = True  # pyright: ignore  # without a compiler: as it is
    return torch.compile(module)


# --- the VAE -----------------------------------------------------------------------------------------------------


def new_vae(recipe: Recipe) -> Untyped:
    n = len(recipe.vae_channels)
    make: Untyped = AutoencoderKL
    return make(
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        block_out_channels=recipe.vae_channels,
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=8,
        sample_size=recipe.size,
        mid_block_add_attention=False,
    )


def edge_loss(y: Tensor, x: Tensor) -> Tensor:
    """L1 between the vertical and the horizontal differences of neighbouring pixels."""
    return F.l1_loss(y.diff(dim=-2), x.diff(dim=-2)) + F.l1_loss(y.diff(dim=-1), x.diff(dim=-1))


def vae_loss(vae: Untyped, x: Tensor, noise: float) -> Tensor:
    """L1 + 4 MSE + edge L1, a light KL, and a pull of the latents' covariance to the identity.

    Without the covariance term two of the four latent directions die and the decoder never passes 29 dB.
    """
    posterior = vae.encode(x).latent_dist
    mean = posterior.mean.float()
    z = mean + noise * torch.randn_like(mean)
    y = vae.decode(z).sample.float()
    flat = mean.transpose(0, 1).flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    covariance = centred @ centred.T / centred.shape[1]
    spread = (covariance - torch.eye(len(covariance), device=x.device)).square().mean() + flat.mean(1).square().mean()
    # The log-variance head is never sampled from here; the KL keeps it at the noise the decoder was trained for.
    level = (posterior.logvar.float() - 2 * math.log(noise)).square().mean()
    return F.l1_loss(y, x) + 4 * F.mse_loss(y, x) + 0.5 * edge_loss(y, x) + 0.02 * spread + 1e-3 * level


def psnr(vae: Untyped, pictures: NDArray[np.uint8], device: torch.device) -> float:
    """Mean PSNR in dB of the VAE's round trip (posterior mean), on [0, 1] pixels."""
    values: list[Tensor] = []
    with torch.no_grad():
        for i in range(0, len(pictures), 32):
            x = to_input(pictures[i : i + 32], device)
            y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            values.append(-10 * torch.log10(((x - y) / 2).square().mean((1, 2, 3))))
    return float(torch.cat(values).mean())


def train_vae(
    recipe: Recipe, pictures: NDArray[np.uint8], out: Path, budget: float, device: torch.device, rank: int = 0
) -> Untyped:
    torch.manual_seed(recipe.seed)
    vae = new_vae(recipe).to(device, memory_format=torch.channels_last)
    stage = Stage({"vae": vae}, recipe.vae_rate, 0.998, out / "vae.ckpt.safetensors", budget, device)
    order = batches(len(pictures), recipe.vae_batch, recipe.seed + stage.step + 7919 * rank)
    torch.manual_seed(recipe.seed + stage.step + 7919 * rank)
    batch, loss_of = shown(pictures, device), compiled(vae_loss, device)

    def one_loss() -> tuple[Tensor, float]:
        x = batch(next(order))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(vae, x, recipe.latent_noise)
        return loss, recipe.vae_rate * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * stage.progress)))

    stage.run(one_loss, "vae")
    stage.use_average()
    return vae.eval()


def polish_decoder(
    recipe: Recipe, vae: Untyped, pictures: NDArray[np.uint8], out: Path, budget: float, device: torch.device,
    rank: int = 0,
) -> None:  # fmt: skip
    """Train the decoder alone for a while longer: the latents, and so the UNet, stay as they are."""
    vae = vae.to(device, memory_format=torch.channels_last)
    modules: dict[str, nn.Module] = {"decoder": vae.decoder, "post_quant": vae.post_quant_conv}
    stage = Stage(modules, recipe.polish_rate, 0.998, out / "decoder.ckpt.safetensors", budget, device)
    order = batches(len(pictures), recipe.vae_batch, recipe.seed + 1 + stage.step + 7919 * rank)
    torch.manual_seed(recipe.seed + 1 + stage.step + 7919 * rank)
    batch, encoder, decoder = shown(pictures, device), compiled(vae.encode, device), compiled(vae.decode, device)

    def one_loss() -> tuple[Tensor, float]:
        x = batch(next(order))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            with torch.no_grad():
                z = encoder(x).latent_dist.mean.float()
            y = decoder(z + recipe.latent_noise * torch.randn_like(z)).sample.float()
        loss = F.l1_loss(y, x) + 4 * F.mse_loss(y, x) + 0.5 * edge_loss(y, x)
        return loss, recipe.polish_rate * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * stage.progress)))

    stage.run(one_loss, "decoder")
    stage.use_average()
    vae.eval()


def encode_share(
    vae: Untyped, pictures: NDArray[np.uint8], out: Path, device: torch.device, rank: int = 0, count: int = 1
) -> None:
    """Encode every `count`-th block of pictures, this process's share, once."""
    path = out / f"latents-{rank}-of-{count}.safetensors"
    if path.exists():
        return
    parts: dict[str, Tensor] = {}
    with torch.no_grad():
        for start in range(32 * rank, len(pictures), 32 * count):
            mean = vae.encode(to_input(pictures[start : start + 32], device)).latent_dist.mean
            parts[str(start)] = mean.cpu().contiguous()
    save_file(parts, path)


def read_latents(vae: Untyped, out: Path, count: int = 1, scale: float | None = None) -> Tensor:
    """Posterior means of all pictures [n, channel, h, w] float32, scaled to unit variance, or by `scale`; sets
    `scaling_factor`."""
    parts: dict[int, Tensor] = {}
    for rank in range(count):
        with safe_open(out / f"latents-{rank}-of-{count}.safetensors", "pt") as file:
            parts |= {int(name): file.get_tensor(name) for name in file.keys()}
    latents = torch.cat([parts[start] for start in sorted(parts)])
    scale = scale or round(1 / float(latents.std()), 5)
    # Flow pipelines also add a shift, and fail where there is none.
    vae.register_to_config(scaling_factor=scale, shift_factor=0.0)
    return latents * scale


# --- text encoder and UNet -----------------------------------------------------------------------------------------


def new_text_encoder(tokenizer: Untyped) -> Untyped:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet(recipe: Recipe, latent: int) -> Untyped:
    """SD's topology in small: cross-attention at every resolution but the coarsest, and in the middle."""
    make: Untyped = UNet2DConditionModel
    return make(
        sample_size=latent,
        in_channels=recipe.latent_channels,
        out_channels=recipe.latent_channels,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=recipe.unet_channels,
        layers_per_block=1,
        attention_head_dim=tuple(c // 32 for c in recipe.unet_channels),
        cross_attention_dim=128,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


class Draws:
    """What a denoiser is trained on: latents, a caption of each (or none), noise, and evenly spread times."""

    def __init__(self, latents: Tensor, tokens: Tensor, empty: Tensor, device: torch.device, seed: int) -> None:
        """`latents` [n, channel, h, w], `tokens` [n, caption, token], `empty` [1, token]."""
        self.latents, self.tokens, self.empty = latents.to(device), tokens.to(device), empty.to(device)
        self.device, self.generator = device, torch.Generator(device).manual_seed(seed)

    def __call__(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, token numbers and noise of a batch; some captions are left out."""
        rows = torch.from_numpy(index).to(self.device)
        x = self.latents[rows]
        which = torch.randint(self.tokens.shape[1], (len(rows),), generator=self.generator, device=self.device)
        dropped = self._uniform(len(rows)) < CAPTION_DROPOUT
        ids = torch.where(dropped[:, None], self.empty, self.tokens[rows, which])
        return x, ids, torch.randn(x.shape, generator=self.generator, device=self.device)

    def even(self, n: int) -> Tensor:
        """Stratified shares: one in each n-th of 0..1, in any order, so that no batch misses a noise level."""
        shares = (torch.arange(n, device=self.device) + self._uniform(n)) / n
        return shares[torch.randperm(n, generator=self.generator, device=self.device)]

    def _uniform(self, n: int) -> Tensor:
        return torch.rand(n, generator=self.generator, device=self.device)


def train_unet(
    recipe: Recipe, latents: Tensor, tokens: Tensor, empty: Tensor, tokenizer: Untyped, out: Path, budget: float,
    device: torch.device, rank: int = 0,
) -> tuple[Untyped, Untyped]:  # fmt: skip
    torch.manual_seed(recipe.seed + 1)
    text_encoder, unet = new_text_encoder(tokenizer).to(device), new_unet(recipe, latents.shape[-1])
    unet = unet.to(device, memory_format=torch.channels_last)
    modules: dict[str, nn.Module] = {"text": text_encoder, "unet": unet}
    stage = Stage(modules, recipe.unet_rate, recipe.ema, out / "unet.ckpt.safetensors", budget, device)
    order = batches(len(latents), recipe.unet_batch, recipe.seed + stage.step + 7919 * rank)
    draw_captions = Draws(latents, tokens, empty, device, recipe.seed + stage.step + 7919 * rank)
    alphas = new_scheduler().alphas_cumprod.to(device)
    words_of, predict = compiled(text_encoder, device), compiled(unet, device)
    n = recipe.unet_batch

    def one_loss() -> tuple[Tensor, float]:
        x, ids, noise = draw_captions(next(order))
        t = (draw_captions.even(n) * len(alphas)).long()
        a = alphas[t][:, None, None, None]
        noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            predicted = predict(noisy, t, words_of(ids).last_hidden_state).sample
        velocity = a.sqrt() * noise - (1 - a).sqrt() * x
        # The error of v weighs the implied clean latent by SNR + 1; capped, so that fine detail does not crowd out
        # what the picture shows and in which colour, which is decided where the SNR is far below 1.
        snr = alphas[t] / (1 - alphas[t])
        weight = (snr + 1).clamp(max=SNR_CAP + 1) / (snr + 1)
        loss = ((predicted.float() - velocity).square().mean((1, 2, 3)) * weight).mean()
        p = stage.progress
        return loss, recipe.unet_rate * min(1.0, 0.02 + 0.98 * (1 - p) / 0.45)

    stage.run(one_loss, "unet")
    stage.use_average()
    return text_encoder.eval(), unet.eval()


# --- the whole -----------------------------------------------------------------------------------------------------


def export(
    folder: Path, vae: Untyped, text_encoder: Untyped, unet: Untyped, tokenizer: Untyped, more: Sequence[str] = ()
) -> None:
    """Write a diffusers folder in fp16, loadable by plain `StableDiffusionPipeline.from_pretrained`; `more` words than
    those of plain captions are known to the model."""
    from diffusers import StableDiffusionPipeline

    make: Untyped = StableDiffusionPipeline
    pipe = make(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    # transformers loads in the precision that this file names, diffusers in float32 unless told otherwise: without
    # this line plain `from_pretrained` gives a text encoder that the UNet cannot read.
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
    write_notes(folder, pictures=False, more=more)


def train(recipe: Recipe, out: Path, minutes: tuple[float, float, float], device: torch.device) -> None:
    """All stages in this process (one of several, if a process group is up)."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    vae_minutes, unet_minutes, decoder_minutes = minutes

    def wait_for_all() -> None:
        if dist.is_initialized():
            dist.barrier()

    scenes = training_scenes(recipe.scenes, recipe.seed, wide=recipe.wide)
    if rank == 0:
        render_all(scenes, recipe.size, out / "pictures.npy")
    wait_for_all()
    pictures = render_all(scenes, recipe.size, out / "pictures.npy")
    vae = train_vae(recipe, pictures, out, vae_minutes * 60, device, rank)
    if rank == 0:
        LOG.info(f"VAE round trip: {psnr(vae, pictures[:256], device):.2f} dB")
    count = dist.get_world_size() if dist.is_initialized() else 1
    encode_share(vae, pictures, out, device, rank, count)
    wait_for_all()
    latents = read_latents(vae, out, count)
    tokenizer = new_tokenizer(recipe, out / f"tokenizer-{rank}")
    tokens, empty = caption_tokens(recipe, scenes, tokenizer)
    text_encoder, unet = train_unet(recipe, latents, tokens, empty, tokenizer, out, unet_minutes * 60, device, rank)
    polish_decoder(recipe, vae, pictures, out, decoder_minutes * 60, device, rank)
    if rank == 0:
        LOG.info(f"VAE round trip after polishing: {psnr(vae, pictures[:256], device):.2f} dB")
        export(out / "model", vae, text_encoder, unet, tokenizer, more_words(recipe))
        (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
        LOG.info(f"wrote {out / 'model'}")


def _show_log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)


def _process(rank: int, count: int, folder: str, job: tuple[Recipe, Path, tuple[float, float, float]]) -> None:
    _show_log()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    train(*job, torch.device("cpu"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train picturebook's model from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="working folder; run again to resume")
    parser.add_argument("--vae-minutes", type=float, default=24)
    parser.add_argument("--unet-minutes", type=float, default=100)
    parser.add_argument("--decoder-minutes", type=float, default=8, help="the decoder alone, in the end")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--processes", type=int, default=0, help="on the CPU: single-thread processes (0 = one a core)")
    parser.add_argument("--scenes", type=int, default=Recipe.scenes)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    _show_log()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(scenes=args.scenes, seed=args.seed)
    minutes = (args.vae_minutes, args.unet_minutes, args.decoder_minutes)
    if args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available()):
        train(recipe, out, minutes, torch.device("cuda"))
        return
    # Single-thread processes that average gradients stand a busy machine; threads of one process wait for each other.
    count = args.processes or os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (count, folder, (recipe, out, minutes)), count)


if __name__ == "__main__":
    main()
