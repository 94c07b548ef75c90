"""What every trained editor is: a frozen dataclass of settings around one of diffusers' pipelines.

A trained editor needs no inversion. Its network reads the picture beside the noisy latents, in more input channels or
as more tokens:

    editor = InstructPix2Pix(steps=50)
    pipe   = editor.load()
    result = editor.edit(pipe, "cat.png", "turn the cat into a dog")
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor

from reinvert.backbones import loading
from reinvert.backbones.lock import lock_of
from reinvert.display import line, png
from reinvert.errors import ReinvertError
from reinvert.files import check_value
from reinvert.files.door import Seed
from reinvert.image import MAX_ASPECT, MAX_PIXELS, Picture, Picturelike, Size, open_image, open_mask, to_image
from reinvert.inversions.base import Progress
from reinvert.prompts import warn_of_prompts

Watch = Callable[[Progress], None]


@dataclass(frozen=True, repr=False)
class TrainedResult:
    """One edited picture. `forwards` counts single-sample evaluations of the network, `seconds` is the wall clock of
    the edit (loading not included), `settings` says how it was made."""

    image: Picture
    forwards: int
    seconds: float
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        size, name = "x".join(map(str, self.image.size)), self.settings["trained"]["name"]
        return line("TrainedResult", size, name, f"{self.forwards} forwards, {self.seconds:g} s")

    def _repr_png_(self) -> bytes:
        return png(self.image)


@dataclass(frozen=True)
class Trained:
    """Base of all trained editors. A subclass says which networks it takes, which pipeline they go into, and how the
    pipeline is called."""

    name: ClassVar[str]
    needs: ClassVar[str] = "an instruction"
    """What a user must give, for `reinvert methods`."""
    when: ClassVar[str] = ""
    """When to use it and when not, for its page."""
    reads: ClassVar[Literal["instruction", "target"]] = "instruction"
    """What the text given to `edit` is: an instruction, or a description of the edited picture."""
    needs_mask: ClassVar[bool] = False
    model: str
    """A folder in diffusers format or a Hub id."""
    steps: int
    """Steps of the sampler."""

    def load(self, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto") -> Any:
        """The pipeline with the model's networks, all in one dtype; only safetensors are read, no remote code is run.

        `device` and `dtype` are those of `reinvert.load`. Raises `ReinvertError` for a model that is missing or whose
        network has another number of input channels.
        """
        if not self.model:
            raise ReinvertError(
                f"{self.name} has no model to fall back on: give a folder in diffusers format or a Hub id as model"
            )
        from reinvert.backbones.stable_diffusion import StableDiffusion

        backbone = loading.open_model(self.model, device, dtype, offload=False, weights="full")
        assert isinstance(backbone, StableDiffusion)
        found, wanted = int(backbone.unet.config.in_channels), self.channels(int(backbone.vae.config.latent_channels))
        if found != wanted:
            raise ReinvertError(
                f"{backbone.name} takes {found} input channels, but {self.name} needs a network that was trained with "
                f"{wanted}; give such a model"
            )
        with loading._quiet():  # pyright: ignore[reportPrivateUsage]
            parts = {
                "unet": backbone.unet,
                "vae": backbone.vae.to(backbone.dtype),  # the pipelines give it what they have from the network
                "text_encoder": backbone.text_encoder,
                "tokenizer": backbone.tokenizer,
                "safety_checker": None,
                "feature_extractor": None,
                "requires_safety_checker": False,
            }
            pipe = self.pipeline(parts, json.loads(backbone.schedule))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def edit(
        self,
        pipe: Any,
        picture: Picturelike,
        text: str,
        *,
        mask: Picturelike | None = None,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        watch: Watch | None = None,
    ) -> TrainedResult:
        """Edit one picture, in any form that `reinvert.image.open_image` takes, with the pipeline that `load` gave.

        `text` is what `reads` says. `mask` (white = edit) is of the picture's size, and only for editors that need
        one. All noise comes from one generator on the CPU, seeded with `seed`. `watch` is called after every step.

        Edits of several threads with one pipeline wait for each other. Raises `ReinvertError` before anything is
        computed, and for a result that is not finite.
        """
        opened = open_image(picture, max_pixels=max_pixels)
        masked = self._opened_mask(mask, opened.size, max_pixels)
        seed = check_value(Seed, seed, "seed")
        with lock_of(pipe):  # one edit at a time: networks, tokenizer and scheduler have a state
            return self._edited(pipe, opened, text, masked, seed, watch)

    def _edited(
        self, pipe: Any, opened: Picture, text: str, masked: Picture | None, seed: int, watch: Watch | None
    ) -> TrainedResult:
        warn_of_prompts(Path(self.model).name, self.reader(pipe), [text])
        most = int(pipe.scheduler.config.num_train_timesteps)
        if self.steps > most:
            raise ReinvertError(f"{self.steps} steps cannot be taken; choose at most {most}")
        if max(opened.size) > MAX_ASPECT * min(opened.size):
            width, height = opened.size
            raise ReinvertError(f"a picture of {width}x{height} is too thin for {self.name}: crop it first")

        def after_step(_: Any, index: int, __: Any, changed: dict[str, Any]) -> dict[str, Any]:
            if watch is not None:
                watch(Progress("editing", index + 1, int(pipe.num_timesteps)))
            return changed

        common = {
            "generator": torch.Generator().manual_seed(seed),
            "callback_on_step_end": after_step,
            "output_type": "pt",
        }
        started = time.perf_counter()
        with counting(self.network(pipe)) as count:
            pixels = self.call(pipe, opened, text, masked, common)  # [1, 3, h, w] in 0..1
        image = self.finish(to_image(2 * pixels[0] - 1), opened.size)
        seconds = round(time.perf_counter() - started, 3)
        return TrainedResult(image, count["forwards"], seconds, self._told(pipe, text, seed))

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    # --- what a subclass says --------------------------------------------------------------------------------------

    def network(self, pipe: Any) -> Any:
        """The denoiser of its pipeline, whose evaluations are counted."""
        return pipe.unet

    def reader(self, pipe: Any) -> Any:
        """The tokenizer that reads the text."""
        return pipe.tokenizer

    def grid(self, pipe: Any) -> tuple[int, int]:
        """The usual side of its pictures in pixels, and what a side is a multiple of."""
        side = pipe.unet.config.sample_size
        multiple = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
        return (side if isinstance(side, int) else side[0]) * pipe.vae_scale_factor, multiple

    def channels(self, latent: int) -> int:
        """How many input channels its network has, for latents of that many."""
        raise NotImplementedError

    def pipeline(self, parts: Mapping[str, Any], schedule: Mapping[str, Any]) -> Any:
        """Its pipeline around the parts; `schedule` is a scheduler's configuration (betas, prediction type)."""
        raise NotImplementedError

    def call(self, pipe: Any, picture: Picture, text: str, mask: Picture | None, common: Mapping[str, Any]) -> Tensor:
        """The edited picture [1, 3, h, w] in 0..1; `common` are arguments for the pipeline."""
        raise NotImplementedError

    def finish(self, edited: Picture, size: Size) -> Picture:
        """The edited picture as it is given back; `size` is that of the picture that was to be edited."""
        return edited

    # ---------------------------------------------------------------------------------------------------------------

    def _opened_mask(self, mask: Picturelike | None, size: Size, max_pixels: int) -> Picture | None:
        if mask is None:
            if self.needs_mask:
                raise ReinvertError(f"{self.name} needs a mask that is white where it may redraw: give one (--mask)")
            return None
        if not self.needs_mask:
            raise ReinvertError(f"{self.name} takes no mask, its {self.reads} says what to change; leave the mask out")
        opened = open_mask(mask, max_pixels=max_pixels)
        if opened.size != size:
            (w, h), (width, height) = opened.size, size
            raise ReinvertError(f"the mask is {w}x{h} but the picture is {width}x{height}: make them one size")
        return opened

    def _told(self, pipe: Any, text: str, seed: int) -> dict[str, Any]:
        """What is told about a run, without the folders of this machine."""
        model = Path(self.model).name if Path(self.model).exists() else self.model
        dtype = str(self.network(pipe).dtype).removeprefix("torch.")
        return {
            "trained": {"name": self.name, **self.settings, "model": model},
            "device": str(pipe._execution_device),  # the network itself may be waiting on the CPU
            "dtype": dtype,
            self.reads: text,
            "seed": seed,
        }


@contextmanager
def counting(network: Any) -> Generator[dict[str, int]]:
    """Counts the single samples that go through a network, under the key "forwards", until the block is left."""
    count = {"forwards": 0}

    def before(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        count["forwards"] += len(given[0] if given else named["hidden_states"])

    handle = network.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield count
    finally:
        handle.remove()


def fitted(picture: Picture, side: int, multiple: int) -> Picture:
    """A picture as the instruction models are given theirs: LANCZOS, its borders cropped to the size's shape."""
    return ImageOps.fit(picture, instruction_size(picture.size, side, multiple), Image.Resampling.LANCZOS)


def instruction_size(size: Size, side: int, multiple: int) -> Size:
    """The longer side becomes about `side`, both sides multiples of `multiple`.

        short' = ceil(short side / long / multiple) multiple,   long' = floor(long short' / short / multiple) multiple

    In integers; the authors' floats could lose a multiple to rounding.
    """
    short = -(-min(size) * side // (max(size) * multiple)) * multiple
    width, height = (length * short // (min(size) * multiple) * multiple for length in size)
    return width, height
