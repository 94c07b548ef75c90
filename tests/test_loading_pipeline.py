"""A pipeline of diffusers that is already loaded: shared, edited, and left as it was."""

from __future__ import annotations

import copy

import diffusers
import pytest
import torch
from conftest import SOURCE, TARGET, gap, make_picture
from diffusers import EulerDiscreteScheduler

import reinvert
from reinvert.backbones.loading import families
from reinvert.errors import ReinvertError
from reinvert.words import word_positions

FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux")
KINDS = {
    "stable_diffusion": "StableDiffusionPipeline",
    "stable_diffusion_xl": "StableDiffusionXLPipeline",
    "stable_diffusion_3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}


def pipeline(name: str, dtype: torch.dtype = torch.float32):
    family = families()[name]
    made = family.tiny()
    parts = {part: copy.copy(getattr(made, part)) for part in family.parts}
    parts = {k: v.to(dtype) if isinstance(v, torch.nn.Module) else v for k, v in parts.items()}
    scheduler = made._scheduler
    if name == "stable_diffusion_xl":
        scheduler = EulerDiscreteScheduler.from_config(made._scheduler.config)
    if name == "stable_diffusion":
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, KINDS[name])(**parts, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe, prompt: str = TARGET) -> torch.Tensor:
    options = {"max_sequence_length": 20} if "transformer" in pipe.components else {}
    return pipe(
        prompt, height=32, width=32, num_inference_steps=2, generator=torch.Generator().manual_seed(3),
        output_type="pt", **options,
    ).images  # fmt: skip


def network(pipe):
    return pipe.unet if "unet" in pipe.components else pipe.transformer


def edited(model, source: str = SOURCE, target: str = TARGET, **options):
    return reinvert.edit(
        model,
        make_picture(0),
        source=source,
        target=target,
        steps=2,
        guidance=3.0,
        **({"editor": "prompt"} | options),
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pipeline_is_shared_and_left_as_it_was(name: str) -> None:
    pipe = pipeline(name)
    before, processors = drawn(pipe), network(pipe).attn_processors
    model = reinvert.load(pipe)
    assert model.network is network(pipe)
    assert model.vae is pipe.vae
    assert model.dtype == torch.float32
    assert model.image_size == 32
    result = edited(model, editor="p2p" if "unet" in pipe.components else "prompt")
    assert gap(result.latents[1], result.latents[0]) > 1e-3
    after = network(pipe).attn_processors
    assert after.keys() == processors.keys()
    assert all(after[key] is processors[key] for key in processors)
    assert torch.equal(drawn(pipe), before)


def test_an_edit_is_that_of_the_same_model_from_a_folder(tiny, tiny_folder) -> None:
    shared = reinvert.load(diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None))
    a, b = (edited(model, editor="p2p") for model in (shared, tiny))
    assert torch.equal(a.latents, b.latents)
    assert shared.schedule == tiny.schedule
    assert shared.fingerprint().matches(tiny.fingerprint())
    assert shared.name == tiny.name


def test_the_processors_come_back_after_an_error() -> None:
    pipe = pipeline("stable_diffusion")
    processors = pipe.unet.attn_processors
    model = reinvert.load(pipe)

    def stop(progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edited(model, editor="p2p", watch=stop)
    assert all(pipe.unet.attn_processors[key] is processors[key] for key in processors)


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_is_kept(name: str) -> None:
    pipe = pipeline(name, torch.bfloat16)
    model = reinvert.load(pipe)
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model.decode(model.encode(torch.zeros(1, 3, 32, 32)))).all()
    assert all(p.dtype == torch.bfloat16 for p in (*pipe.vae.parameters(), *network(pipe).parameters()))


def test_a_vae_in_half_precision_works_in_full_and_stays_half() -> None:
    pipe = pipeline("stable_diffusion_xl", torch.float16)
    model, pictures = reinvert.load(pipe), torch.rand(1, 3, 32, 32)
    wide = copy.deepcopy(pipe.vae).float()
    found = model.encode(pictures)
    assert pipe.vae.dtype == torch.float16
    assert gap(found, wide.encode(pictures).latent_dist.mean * pipe.vae.config.scaling_factor) < 1e-6


def test_textual_inversions_of_several_vectors_are_read_as_the_pipeline_reads_them() -> None:
    pipe = pipeline("stable_diffusion")
    vectors = 20 * torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    pipe.load_textual_inversion({"<my-cat>": vectors}, token="<my-cat>")
    model = reinvert.load(pipe)
    prompt = "a <my-cat> on a table"
    theirs, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
    assert gap(model.encode_text([prompt]).tokens, theirs) < 1e-6
    assert word_positions(model.words, prompt, "<my-cat>") == (2, 3, 4)  # [BOS, a, <my-cat> x 3, on, ..]
    result = edited(model, SOURCE, "a <my-cat> sitting on a table", editor="p2p")
    assert torch.isfinite(result.latents).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_of_a_pipeline_takes_part(name: str) -> None:
    peft = pytest.importorskip("peft")
    pipe = pipeline(name)
    plain, plain_fingerprint = edited(reinvert.load(pipe)).latents, reinvert.load(pipe).fingerprint().config
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    network(pipe).add_adapter(config, "mine")
    before, model = drawn(pipe), reinvert.load(pipe)
    first = model.fingerprint()
    found = edited(model).latents
    assert gap(found, plain) > 1e-3
    assert torch.equal(drawn(pipe), before)
    assert model.fingerprint().config != plain_fingerprint
    network(pipe).disable_adapters()
    assert not model.fingerprint().matches(first)
    assert gap(edited(model).latents, plain) < 1e-5
    network(pipe).enable_adapters()
    assert gap(edited(model).latents, found) < 1e-5
    assert model.fingerprint().matches(first)
    network(pipe).set_adapters(["mine"], [0.5])
    assert not model.fingerprint().matches(first)


def test_parts_that_a_pipeline_fetches_by_itself() -> None:
    """The hooks of `enable_model_cpu_offload`; here they fetch from one place in memory to the same."""
    accelerate = pytest.importorskip("accelerate")
    pipe = pipeline("stable_diffusion_xl")
    whole = edited(reinvert.load(pipe))
    hook = None
    for part in ("text_encoder", "text_encoder_2", "unet", "vae"):
        _, hook = accelerate.cpu_offload_with_hook(getattr(pipe, part), torch.device("cpu"), prev_module_hook=hook)
    assert torch.equal(edited(reinvert.load(pipe)).latents, whole.latents)


def test_what_no_edit_can_use_is_refused() -> None:
    pipe = pipeline("stable_diffusion")
    with pytest.raises(ReinvertError, match=r"a loaded pipeline keeps its device and dtype; leave them out"):
        reinvert.load(pipe, dtype="float16")
    with pytest.raises(ReinvertError, match="int is no model: load takes a name, a folder, or a loaded pipeline"):
        reinvert.load(5)
    pipe.unet.encoder_hid_proj = torch.nn.Identity()
    with pytest.raises(ReinvertError, match=r"has an IP-Adapter, which edits do not feed; call pipe.unload_ip_adapter"):
        reinvert.load(pipe)
    flow = pipeline("flux")
    flow.scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    with pytest.raises(ReinvertError, match="FlowMatchEulerDiscreteScheduler"):
        reinvert.load(flow)
    flow.text_encoder_2 = None
    with pytest.raises(ReinvertError, match="FluxPipeline has no text_encoder_2"):
        reinvert.load(flow)
