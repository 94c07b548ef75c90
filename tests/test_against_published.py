"""The published schedules make the calls that are stated and end at our edit, and the harness around the published
programs counts, pairs and mends, shown on a repository that the test writes itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import diffusers
import pytest
import torch
from conftest import SOURCE, TARGET

from reinvert.backbones.stable_diffusion import StableDiffusion

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
STEPS = 2

# Rows of the network that the published programs need for one edit, as shared/methods counts them at N = 50, in N.
ROWS = {
    "ddim+p2p": 9,
    "negative-prompt-inversion+p2p": 7,
    "negative-prompt-inversion+proximal-guidance": 7,
    "directinversion+p2p": 13,
    "ddim+masactrl": 8,
    "directinversion+masactrl": 11,
    "ddim+pnp": 5,
    "directinversion+pnp": 5,
}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import against_published

    return against_published


def asked(steps: int = STEPS, threshold: float = 0.3):
    from published import Settings

    return Settings(SOURCE, TARGET, ("cat", "dog"), steps=steps, threshold=threshold)


@pytest.fixture(scope="module")
def x0() -> torch.Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


QUICK = ("ddim+p2p", "directinversion+p2p", "directinversion+masactrl", "directinversion+pnp")
LONG = (*(row for row in ROWS if row not in QUICK), "null-text-inversion+p2p", "null-text-inversion+proximal-guidance")


@pytest.mark.parametrize("row", [*QUICK, *(pytest.param(row, marks=pytest.mark.slow) for row in LONG)])
def test_a_schedule_has_the_rows_and_the_edit_of_its_program(scripts, tiny: StableDiffusion, x0, row: str) -> None:
    import published

    line = scripts.compare(
        row, scripts.schedule_of(tiny, x0, asked(), row), scripts.from_latents(tiny, x0, asked(), row), 1
    )
    theirs, ours = map(int, line["rows"].split(" / "))
    if row in ROWS:
        assert theirs == ROWS[row] * STEPS
    else:  # inversion; one row, at most ten fits and two rows rolled a step; reconstruction and edit
        assert 7 * STEPS + 4 * STEPS <= theirs <= 7 * STEPS + 13 * STEPS
    assert ours < theirs
    if row in published.P2P:
        assert line["edit, relative L2"] < 1e-4
    else:
        assert line["edit, relative L2"] is None
    assert not any(p.requires_grad or p.grad is not None for p in tiny.unet.parameters())


@pytest.mark.parametrize(("row", "rows"), [("edict+p2p", 800), ("edict+direct_forward", 720)])
def test_the_calls_of_edict(scripts, row: str, rows: int) -> None:
    import published

    assert sum(int(p.share * 50 + 1e-9) * sum(p.calls) for p in published.CALLS[row]) == rows


def test_the_calls_of_edit_friendly_inversion(scripts) -> None:
    import published

    walked = published.CALLS["edit-friendly-inversion+p2p"]
    assert sum(int(p.share * 50 + 1e-9) * sum(p.calls) for p in walked) == 328


# --- the harness around the programs themselves ---------------------------------------------------------------------

UTILS = """
import matplotlib.pyplot as plt
import numpy as np
def txt_draw(text, target_size=[512, 512]):
    return np.asarray(plt.figure(text).resize(target_size))
"""

EDITOR = """
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from models.p2p.control import register, Control
from utils.utils import txt_draw
import numpy as np
import torch

class P2PEditor:
    def __init__(self, method_list, device, num_ddim_steps=50):
        self.num_ddim_steps = num_ddim_steps
        scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                                  set_alpha_to_one=False)
        self.ldm_stable = StableDiffusionPipeline.from_pretrained("CompVis/x", scheduler=scheduler).to(device)
        self.ldm_stable.scheduler.set_timesteps(num_ddim_steps)

    @torch.no_grad()
    def __call__(self, edit_method, image_path, prompt_src, prompt_tar, guidance_scale=7.5, proximal=None, quantile=0.7,
                 use_inversion_guidance=False, recon_lr=0.1, recon_t=400, cross_replace_steps=0.4,
                 self_replace_steps=0.6, blend_word=None, eq_params=None):
        if edit_method == "ddim+p2p":
            raise ValueError("broken\\non purpose")
        print("Editing ...")
        pipe, unet = self.ldm_stable, self.ldm_stable.unet
        assert pipe.scheduler.config.steps_offset == 1 and unet.in_channels == unet.config.in_channels
        image = torch.from_numpy(np.array(Image.open(image_path))).permute(2, 0, 1)[None].float() / 127.5 - 1
        x = pipe.vae.encode(image)["latent_dist"].mean * 0.18215
        length = pipe.tokenizer.model_max_length
        said = pipe.tokenizer(["", prompt_tar], padding="max_length", max_length=length, return_tensors="pt")
        text = pipe.text_encoder(said.input_ids)[0]
        control = register(unet, Control())
        for t in reversed(pipe.scheduler.timesteps):
            x = x + 0.1 * unet(x, t, encoder_hidden_states=text[1:])["sample"]
        for t in pipe.scheduler.timesteps:
            null, told = unet(torch.cat([x, x]), t, encoder_hidden_states=text)["sample"].chunk(2)
            x = pipe.scheduler.step(null + guidance_scale * (told - null), t, x)["prev_sample"]
        assert control.layers * 2 * self.num_ddim_steps == control.seen
        made = pipe.vae.decode(1 / 0.18215 * x)["sample"]
        return Image.fromarray(np.concatenate((txt_draw(prompt_src), np.zeros((512, 512, 3), np.uint8)), 1))
"""

CONTROL = """
import torch

class Control:
    layers, seen = 0, 0

    def __init__(self, device="cuda"):
        self.weight = torch.ones(1).to(device)

def register(unet, control):
    def ca_forward(self):
        def forward(x, context=None, mask=None, **kwargs):
            control.seen += 1
            context = x if context is None else context
            made = (self.to_q(x), self.to_k(context), self.to_v(context))
            q, k, v = (self.reshape_heads_to_batch_dim(y) for y in made)
            maps = (torch.einsum("b i d, b j d -> b i j", q, k) * self.scale).softmax(-1) * control.weight
            return self.to_out[0](self.reshape_batch_dim_to_heads(torch.einsum("b i j, b j d -> b i d", maps, v)))
        return forward

    for module in unet.modules():
        if module.__class__.__name__ == "CrossAttention":
            module.forward = ca_forward(module)
            control.layers += 1
    return control
"""

EDIT_FRIENDLY = """
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
NUM_DDIM_STEPS = 50
pipe = StableDiffusionPipeline.from_pretrained("CompVis/x").to("cuda")
pipe.scheduler = DDIMScheduler.from_config("CompVis/x", subfolder="scheduler")
pipe.scheduler.set_timesteps(NUM_DDIM_STEPS)
SKIP=12
def edit_image_EF(edit_method, image_path, prompt_src, prompt_tar):
    said = pipe.tokenizer([prompt_tar], padding="max_length", return_tensors="pt")
    text = pipe.text_encoder(said.input_ids)[0]
    with torch.autocast("cuda"), torch.inference_mode():
        x = torch.randn(1, pipe.unet.in_channels, pipe.unet.sample_size, pipe.unet.sample_size)
        for t in pipe.scheduler.timesteps[SKIP:]:
            x = pipe.unet.forward(x, timestep=t, encoder_hidden_states=text).sample
        for _ in range(3):
            pipe.vae.decode(x)
"""

EDICT = """
import imageio
from omegaconf import OmegaConf
import torch
from transformers import CLIPModel, CLIPTokenizer
from models.edict.my_diffusers import AutoencoderKL, UNet2DConditionModel, DDIMScheduler
from models.edict.my_diffusers.schedulers.scheduling_utils import SchedulerOutput
clip_tokenizer = CLIPTokenizer.from_pretrained("openai/x")
clip = CLIPModel.from_pretrained("openai/x", torch_dtype=torch.float16).text_model
unet = UNet2DConditionModel.from_pretrained("CompVis/x", subfolder="unet", revision="fp16", torch_dtype=torch.float16)
vae = AutoencoderKL.from_pretrained("CompVis/x", subfolder="vae", revision="fp16", torch_dtype=torch.float16)
device = 'cuda'
unet.double().to(device)
vae.double().to(device)
clip.double().to(device)

def new_attention(self, query, key, value, sequence_length, dim):
    assert self._slice_size is None and value.shape[1:] == (key.shape[1], dim // self.heads)
    maps = (torch.einsum("b i d, b j d -> b i j", query, key) * self.scale).softmax(-1)
    return self.reshape_batch_dim_to_heads(torch.einsum("b i j, b j d -> b i d", maps, value))

@torch.no_grad()
def coupled_stablediffusion(prompt, steps=50):
    generator = torch.cuda.manual_seed(1)
    said = clip_tokenizer(prompt, padding="max_length", max_length=clip_tokenizer.model_max_length, truncation=True,
                          return_tensors="pt", return_overflowing_tokens=True)
    text = clip(said.input_ids.to(device)).last_hidden_state
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                              num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps[-1] == 0  # no offset of a step here
    shape = (1, unet.in_channels, unet.sample_size, unet.sample_size)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    plain = unet(x, scheduler.timesteps[0], encoder_hidden_states=text).sample
    for module in unet.modules():
        if type(module).__name__ == "CrossAttention":
            module._attention = new_attention.__get__(module, type(module))
    for t in scheduler.timesteps:
        assert t / scheduler.num_train_timesteps < 1
        found = unet(x, t, encoder_hidden_states=text).sample
        assert t != scheduler.timesteps[0] or (found - plain).abs().max() < 1e-9
        x = x + 0.1 * found
    for latent in (x, -x):
        vae.decode(latent / 0.18215)
"""

RUN_EDICT = """
from models.edict.edict_functions import *
def edit_image_edict_p2p(image_path, prompt_src, prompt_tar, use_p2p):
    assert use_p2p
    coupled_stablediffusion(prompt_tar)
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts) -> Path:
    """A repository of the same layout, with programs of the same names and arguments."""
    from borrowed import Borrowed

    monkeypatch.setattr(Borrowed, "check", lambda self: None)  # the tiny model has none of the published sizes
    for name, text in {
        "utils/utils.py": UTILS,
        "models/p2p_editor.py": EDITOR,
        "models/p2p/control.py": CONTROL,
        "run_editing_edit_friendly_p2p.py": EDIT_FRIENDLY,
        "run_editing_edict.py": RUN_EDICT,
        "models/edict/edict_functions.py": EDICT,
        "run_editing_pnp.py": "import a_package_that_nobody_has",
    }.items():
        file = tmp_path / "theirs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "theirs"


def test_programs_are_counted_compared_and_explained(
    scripts, repository: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (set(sys.modules), list(sys.meta_path), diffusers.StableDiffusionPipeline.from_pretrained.__func__)
    rows = ["directinversion+p2p", "edit-friendly-inversion+p2p", "edict+p2p", "ddim+p2p", "ddim+pnp", "ddim+masactrl"]
    given = ["--pnpinversion", str(repository), "--model", str(tiny_folder), "--steps", "4", "--repeats", "2"]
    table = scripts.main([*given, "--out", str(tmp_path / "out.json"), "--rows", *rows])
    direct, friendly, edict, broken, lacking, missing = table.rows
    assert direct["row"] == "directinversion+p2p"
    assert direct["rows"] == f"{4 + 2 * 4} / {4 + 3 * 4}"
    assert direct["calls"] == f"{4 + 4} / {4 + 4}"
    assert direct["ratio of rows"] == 12 / 16
    assert direct["ratio of CPU time"] > 0
    assert 0 < direct["edit, relative L2"] < 10  # another edit, of the same shape
    assert friendly["rows"].startswith("4 / ")  # of four steps int(0.24 * 4) = 0 are skipped; `unet.forward` is counted
    assert edict["rows"].startswith("5 / ")  # its own copy of diffusers is ours, its four steps those asked for
    assert edict["edit, relative L2"] > 0
    assert broken["why not"] == "its program ends with ValueError: broken"
    assert lacking["why not"].startswith("its program imports a_package_that_nobody_has, which is not installed")
    assert missing["why not"] == "the copy has no run_editing_masactrl.py"
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == table.rows
    told = capsys.readouterr()
    assert "Editing" not in told.out
    assert all(f"| {row} |" in told.out for row in rows)
    # everything is as it was
    theirs = {name for name in set(sys.modules) - before[0] if name.startswith(("models", "utils", "run_editing"))}
    assert not theirs
    assert "matplotlib" not in set(sys.modules) - before[0]
    assert sys.meta_path == before[1]
    assert diffusers.StableDiffusionPipeline.from_pretrained.__func__ is before[2]
    assert not list(repository.rglob("*.pyc"))


def test_a_copy_of_a_network_leaves_the_network_alone(scripts, tiny: StableDiffusion) -> None:
    from borrowed import age, sharing

    unet = age(sharing(tiny.unet), "CrossAttention")
    assert {p.data_ptr() for p in unet.parameters()} == {p.data_ptr() for p in tiny.unet.parameters()}
    assert not any(type(m).__name__ == "CrossAttention" for m in tiny.unet.modules())
    x, text = torch.randn(2, 3, 16, 16), torch.randn(2, 16, 12)
    with torch.no_grad():
        torch.testing.assert_close(unet(x, 5, text).sample, tiny.unet(x, 5, text).sample)
        unet.double()
        assert tiny.unet.dtype == torch.float32


def test_a_model_of_other_sizes_is_refused_in_one_sentence(scripts, tiny: StableDiffusion, tmp_path: Path) -> None:
    from borrowed import Borrowed, Refused

    with pytest.raises(Refused, match=r"which .* does not have; compare with --schedules"):
        Borrowed(tmp_path, tiny, 4).check()


@pytest.mark.parametrize(
    ("given", "says"), [([], "name a copy of"), (["--pnpinversion", "nowhere"], "nowhere is no copy of")]
)
def test_without_a_repository_one_sentence(
    scripts, given: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        scripts.main(given)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
