"""The programs of a copy of cure-lab/PnPInversion, run on today's libraries and on another model's networks.

Nothing in the folder is changed. What keeps the programs from running is mended while they are imported, and all of it
is taken back with the end of the `with`:

* `from_pretrained` hands out copies of the model's networks, which share their weights; no Hub is asked.
* Attention modules have the class name and the two methods that the programs look for (diffusers 0.10), and pass the
  arguments on in the old order.
* EDICT's own copy of diffusers is replaced by the one installed, in float64 as there.
* Where there is no GPU, "cuda" as the name of a device is read as the model's own.
* The numbers of steps that some scripts hold are the ones asked for, and `enumerate(..., desc=...)`, which cannot run,
  loses its description (`MENDED`).
* Panels of text are left black: they are drawn with functions that Pillow and matplotlib no longer have.
* Packages that are imported and not needed (matplotlib, cv2, imageio, omegaconf) have stand-ins where they are missing,
  and so have the three functions of torchvision that are needed.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import io
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import diffusers
import numpy as np
import torch
import transformers
from diffusers.models.attention_processor import Attention
from PIL import Image
from published import Settings
from torch import Tensor

from reinvert.backbones.stable_diffusion import StableDiffusion

SCALE = 0.18215
"""The VAE's factor, as the programs have it."""
OWN = ("models", "utils", "run_editing")
"""How the names of their modules begin."""
STAND_INS = (
    "matplotlib", "matplotlib.pyplot", "matplotlib.backends", "matplotlib.backends.backend_agg", "cv2", "imageio",
    "omegaconf",
)  # fmt: skip


class Refused(Exception):
    """Why a program cannot be run, in one sentence."""


@dataclass(frozen=True)
class Mend:
    """A change to the source of the files whose names end like this, while it is read."""

    file: str
    pattern: str
    put: Callable[[int, str], str]
    """Makes what is put there from the number of steps and the device."""
    without_cuda: bool = False
    """Only where the device is none of CUDA's."""


MENDED = (
    # Not in autocast("cuda"), which is switched off where there is none, as it should be.
    Mend(".py", r"""(?<!autocast\()(?<!device_type=)(["'])cuda\1""", lambda _, device: f"'{device}'", True),
    Mend("edict_functions.py", r"torch\.cuda\.manual_seed\(", lambda *_: "torch.manual_seed(", True),
    Mend("edict_functions.py", r"\bsteps=50\b", lambda steps, _: f"steps={steps}"),
    Mend("diffuser_utils.py", r"\bnum_inference_steps=50\b", lambda steps, _: f"num_inference_steps={steps}"),
    Mend("masactrl.py", r"\btotal_steps=50\b", lambda steps, _: f"total_steps={steps}"),
    Mend(".py", r"\bNUM_DDIM_STEPS\s*=\s*50\b", lambda steps, _: f"NUM_DDIM_STEPS = {steps}"),
    Mend("run_editing_edit_friendly_p2p.py", r"\bSKIP\s*=\s*12\b", lambda steps, _: f"SKIP = {int(0.24 * steps)}"),
    Mend("run_editing_pnp.py", r"""(enumerate\([^,()]*), desc=(["'])\w*\2\)""", lambda *_: r"\1)"),
)


# --- today's libraries under yesterday's names --------------------------------------------------------------------


class OldAttention(Attention):
    """An attention module of diffusers 0.10, as far as the programs touch it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "forward":
            theirs = value

            def value(
                x: Tensor, encoder_hidden_states: Tensor | None = None, attention_mask: Tensor | None = None, **_: Any
            ) -> Any:
                return theirs(x, encoder_hidden_states, attention_mask)

        super().__setattr__(name, value)

    def reshape_heads_to_batch_dim(self, x: Tensor) -> Tensor:
        return self.head_to_batch_dim(x)

    def reshape_batch_dim_to_heads(self, x: Tensor) -> Tensor:
        return self.batch_to_head_dim(x)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **more: Any):
        theirs = self.__dict__.get("_attention")  # EDICT changes what lies between the projections
        if theirs is None:
            return super().forward(hidden_states, encoder_hidden_states, *args, **more)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = self.to_q(hidden_states), self.to_k(context), self.to_v(context)
        heads = (self.head_to_batch_dim(y) for y in (q, k, v))
        return self.to_out[1](self.to_out[0](theirs(*heads, q.shape[1], q.shape[2])))


def age(unet: Any, name: str) -> Any:
    """Give a UNet the attention modules, under this class name, and the attributes of the time."""
    kind = type(name, (OldAttention,), {})
    for module in unet.modules():
        if isinstance(module, Attention):
            module.__class__ = kind
            module.__dict__["_slice_size"] = None
    unet.in_channels, unet.sample_size = unet.config.in_channels, unet.config.sample_size
    return unet


def sharing(module: torch.nn.Module) -> Any:
    """A copy with parameters of its own that share their storage; they take gradients, as freshly loaded ones do."""
    memo: dict[int, Any] = {id(p): torch.nn.Parameter(p.data) for p in module.parameters()}
    return copy.deepcopy(module, memo | {id(b): b for b in module.buffers()})


class _Scheduler(diffusers.DDIMScheduler):
    """DDIM's scheduler with an attribute that EDICT's copy of diffusers has."""

    @property
    def num_train_timesteps(self) -> int:
        return int(self.config["num_train_timesteps"])


def _torchvision() -> dict[str, ModuleType]:
    """Stand-ins for the three functions of torchvision that the programs use."""

    def read_image(path: str) -> Tensor:
        return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)

    def to_tensor() -> Callable[[Image.Image], Tensor]:
        return lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255

    def resize(short: int) -> Callable[[Image.Image], Image.Image]:
        def sized(picture: Image.Image) -> Image.Image:
            w, h = picture.size
            size = (short * w // min(w, h), short * h // min(w, h))
            return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR)

        return sized

    made = {name: MagicMock(spec_set=None) for name in ("torchvision", "torchvision.datasets", "torchvision.utils")}
    made["torchvision.io"] = SimpleNamespace(read_image=read_image)
    made["torchvision.transforms"] = SimpleNamespace(Resize=resize, ToTensor=to_tensor)
    made["torchvision"].transforms, made["torchvision"].io = made["torchvision.transforms"], made["torchvision.io"]
    return made


def _missing(name: str) -> bool:
    return name not in sys.modules and importlib.util.find_spec(name.partition(".")[0]) is None


# --- their modules ----------------------------------------------------------------------------------------------------


class _Reader(SourceFileLoader):
    """Reads a file with what is mended in it; leaves no compiled file behind."""

    def __init__(self, name: str, path: str, mend: Callable[[str, str], str]) -> None:
        super().__init__(name, path)
        self.mend = mend

    def get_code(self, fullname: str) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their escapes
            text = self.mend(self.path, Path(self.path).read_text(encoding="utf-8"))
            return compile(text, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, folder: Path, mend: Callable[[str, str], str]) -> None:
        self.folder, self.mend = folder, mend

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if not fullname.startswith(OWN):
            return None
        place = self.folder.joinpath(*fullname.split("."))
        if place.is_dir():
            first = place / "__init__.py"
            loader = _Reader(fullname, str(first), self.mend) if first.is_file() else None
            spec = ModuleSpec(fullname, loader, origin=str(first) if loader else None, is_package=True)
            spec.submodule_search_locations = [str(place)]
            return spec
        file = place.with_suffix(".py")
        if not file.is_file():
            return None
        return importlib.util.spec_from_file_location(fullname, file, loader=_Reader(fullname, str(file), self.mend))


# --- the programs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """One row's program: the networks that it asks, and the edit, whose latents [channel, h, w] come back."""

    unets: tuple[torch.nn.Module, ...]
    edit: Callable[[Path, Settings], Tensor | None]


Edit = Callable[[Path, Settings], Any]


@dataclass(frozen=True)
class _Kind:
    module: str
    make: Callable[[ModuleType, str, int, str], Edit]
    """From the module, the row, the steps and the device."""
    attention: str
    """The class name that it looks for."""
    shown: int
    """Which of the VAE's decodings shows the edit, counted from the last."""
    seed: int = 1234


def _p2p(module: ModuleType, row: str, steps: int, device: str) -> Edit:
    editor = module.P2PEditor([row], torch.device(device), num_ddim_steps=steps)
    return lambda file, asked: editor(
        row,
        image_path=str(file),
        prompt_src=asked.source,
        prompt_tar=asked.target,
        guidance_scale=asked.guidance,
        cross_replace_steps=asked.cross,
        self_replace_steps=asked.self_attention,
        blend_word=((asked.blend[0],), (asked.blend[1],)),
        eq_params={"words": (asked.blend[1],), "values": (asked.boost,)},
        proximal="l0",
        quantile=asked.quantile,
        use_inversion_guidance=True,
        recon_lr=1,
        recon_t=400,
    )


def _masactrl(module: ModuleType, row: str, steps: int, device: str) -> Edit:
    editor = module.MasaCtrlEditor([row], torch.device(device), num_ddim_steps=steps)
    return lambda file, asked: editor(
        row, image_path=str(file), prompt_src=asked.source, prompt_tar=asked.target, guidance_scale=asked.guidance,
        step=4, layper=10,
    )  # fmt: skip


def _function(of: Callable[[ModuleType, str], Callable[..., Any]]) -> Callable[[ModuleType, str, int, str], Edit]:
    def make(module: ModuleType, row: str, steps: int, device: str) -> Edit:
        edit = of(module, row)
        return lambda file, asked: edit(image_path=str(file), prompt_src=asked.source, prompt_tar=asked.target)

    return make


def _edict(module: ModuleType, row: str) -> Callable[..., Any]:
    return lambda **case: module.edit_image_edict_p2p(**case, use_p2p=row == "edict+p2p")


def _edit_friendly(module: ModuleType, row: str) -> Callable[..., Any]:
    return lambda **case: module.edit_image_EF(edit_method=row, **case)


_P2P = _Kind("models.p2p_editor", _p2p, "CrossAttention", shown=-1)
_KINDS = {
    "masactrl": _Kind("run_editing_masactrl", _masactrl, "Attention", shown=-1),
    "ddim+pnp": _Kind("run_editing_pnp", _function(lambda m, _: m.edit_image_ddim_PnP), "Attention", shown=-1),
    # behind it a panel shows the reconstruction
    "+pnp": _Kind("run_editing_pnp", _function(lambda m, _: m.edit_image_directinversion_PnP), "Attention", shown=-2),
    # the edit is the first of the pair
    "edict": _Kind("run_editing_edict", _function(_edict), "CrossAttention", shown=-2, seed=1),
    # behind it two panels show reconstructions
    "edit-friendly": _Kind("run_editing_edit_friendly_p2p", _function(_edit_friendly), "CrossAttention", shown=-3),
}


def kind_of(row: str) -> _Kind:
    return next((kind for part, kind in _KINDS.items() if part in row), _P2P)


class Borrowed:
    """A copy of the repository, and the model on whose networks its programs are to run."""

    def __init__(self, folder: Path, model: StableDiffusion, steps: int) -> None:
        self.folder, self.model, self.steps = folder, model, steps
        self.device = str(model.device)

    def check(self) -> None:
        """Raise `Refused` for a model that the programs' own numbers do not fit."""
        unet, vae = self.model.unet, self.model.vae
        cross = sum(name.endswith("attn2") for name, _ in unet.named_modules())
        fits = (
            self.model.latent_shape == (4, 64, 64)
            and int(self.model.tokenizer.model_max_length) == 77
            and abs(float(vae.config.scaling_factor) - SCALE) < 1e-6
            and cross == 16
            and self.model.factor == 8
        )
        if not fits:
            raise Refused(
                "the published programs hold the numbers of Stable Diffusion 1.x (4 x 64 x 64 latents, 77 tokens, 16 "
                f"layers of cross-attention, a VAE scaled by {SCALE}), which {self.model.name} does not have; "
                "compare with --schedules"
            )

    def mend(self, path: str, text: str) -> str:
        for mend in MENDED:
            if path.endswith(mend.file) and not (mend.without_cuda and self.device.startswith("cuda")):
                text = re.sub(mend.pattern, mend.put(self.steps, self.device), text)
        return text

    @contextmanager
    def program(self, row: str) -> Iterator[Program]:
        """The program of a row of the published table; raises `Refused` where it cannot be had."""
        self.check()
        kind = kind_of(row)
        unets: list[Any] = []
        decoded: list[Tensor] = []
        with ExitStack() as stack:
            stack.enter_context(self._modules())
            stack.enter_context(self._handing_out(kind.attention, unets, decoded))
            stack.enter_context(_quiet())
            try:
                panel = importlib.import_module("utils.utils")
                panel.txt_draw = lambda *_, **__: np.zeros((512, 512, 3), dtype=np.uint8)
                edit = kind.make(importlib.import_module(kind.module), row, self.steps, self.device)
            except ImportError as error:
                raise Refused(self._not_there(error)) from error
            except Exception as error:
                raise Refused(f"its program does not start: {_told(error)}") from error

            def edited(file: Path, asked: Settings) -> Tensor | None:
                torch.manual_seed(kind.seed)
                decoded.clear()
                with _quiet():
                    try:
                        edit(file, asked)
                    except Exception as error:
                        raise Refused(f"its program ends with {_told(error)}") from error
                return SCALE * decoded[kind.shown][-1].float() if len(decoded) >= -kind.shown else None

            yield Program(tuple(unets), edited)

    def _not_there(self, error: ImportError) -> str:
        name = error.name or str(error)
        if name.startswith(OWN):
            return f"the copy has no {name.replace('.', '/')}.py"
        return f"its program imports {name}, which is not installed: pip install {name.partition('.')[0]}"

    @contextmanager
    def _modules(self) -> Iterator[None]:
        """Their modules can be imported, and what they import is there."""
        ours = {name: module for name, module in sys.modules.items() if name.startswith(OWN)}
        for name in ours:
            del sys.modules[name]
        stood: dict[str, Any] = {name: MagicMock() for name in STAND_INS if _missing(name)}
        if _missing("torchvision"):
            stood |= _torchvision()
        old = ModuleType("models.edict.my_diffusers")
        for name in ("AutoencoderKL", "UNet2DConditionModel", "LMSDiscreteScheduler", "PNDMScheduler", "DDPMScheduler"):
            setattr(old, name, getattr(diffusers, name))
        old.__dict__["DDIMScheduler"] = _Scheduler
        steps = SimpleNamespace(SchedulerOutput=object)
        edict = {old.__name__: old, f"{old.__name__}.schedulers": steps}
        stood |= edict | {f"{old.__name__}.schedulers.scheduling_utils": steps}
        finder = _Finder(self.folder, self.mend)
        sys.modules.update(stood)
        sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            sys.meta_path.remove(finder)
            for name in [n for n in sys.modules if n in stood or n.startswith(OWN)]:
                del sys.modules[name]
            sys.modules.update(ours)

    @contextmanager
    def _handing_out(self, attention: str, unets: list[Any], decoded: list[Tensor]) -> Iterator[None]:
        """`from_pretrained` of their libraries hands out copies of the model's networks."""
        model = self.model
        config = dict(model._scheduler.config)

        def unet() -> Any:
            unets.append(age(sharing(model.unet), attention))
            return unets[-1]

        def vae() -> Any:
            made = sharing(model.vae)
            first = made.post_quant_conv or made.decoder
            first.register_forward_pre_hook(lambda _, args: decoded.append(args[0].detach()))
            return made

        def text() -> Any:
            return sharing(model.text_encoder)

        def scheduler(cls: Any, *args: Any, **more: Any) -> Any:
            if args and isinstance(args[0], str):  # a name on the Hub
                return cls(**{k: v for k, v in config.items() if not k.startswith("_")})
            return plain(cls, *args, **more)

        def pipeline(cls: Any, *_: Any, scheduler: Any = None, **__: Any) -> Any:
            return cls(
                vae=vae(),
                text_encoder=text(),
                tokenizer=model.tokenizer,
                unet=unet(),
                scheduler=scheduler or diffusers.DDIMScheduler.from_config("scheduler"),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )

        plain = diffusers.DDIMScheduler.from_config.__func__
        handed: list[tuple[Any, str, Any]] = [
            (diffusers.StableDiffusionPipeline, "from_pretrained", classmethod(pipeline)),
            (diffusers.DDIMScheduler, "from_pretrained", classmethod(scheduler)),
            (diffusers.DDIMScheduler, "from_config", classmethod(scheduler)),
            (diffusers.UNet2DConditionModel, "from_pretrained", classmethod(lambda *_, **__: unet())),
            (diffusers.AutoencoderKL, "from_pretrained", classmethod(lambda *_, **__: vae())),
            (transformers.CLIPTextModel, "from_pretrained", classmethod(lambda *_, **__: text())),
            (transformers.CLIPTokenizer, "from_pretrained", classmethod(lambda *_, **__: model.tokenizer)),
            (
                transformers.CLIPModel,
                "from_pretrained",
                classmethod(lambda *_, **__: SimpleNamespace(text_model=text())),
            ),
            # what it stands for is what today's attention does by itself
            (diffusers.StableDiffusionPipeline, "enable_xformers_memory_efficient_attention", lambda *_, **__: None),
        ]
        with ExitStack() as stack:
            for where, name, what in handed:
                stack.enter_context(patch.object(where, name, what))
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """They print, and draw bars."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _told(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")
