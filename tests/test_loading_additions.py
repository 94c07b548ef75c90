"""LoRA and another VAE, added when a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import parity_flow
import peft
import pytest
import torch
from conftest import SOURCE, TARGET, build_tiny, gap, make_picture
from diffusers.utils import convert_state_dict_to_diffusers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from test_loading_pipeline import FAMILIES, KINDS, network, pipeline

import reinvert
from reinvert.cli import main
from reinvert.errors import ReinvertError


def make_lora(pipe, file: Path, seed: int = 0) -> Path:
    """A LoRA of the denoiser's attention with random weights, as diffusers writes it."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    network(pipe).add_adapter(config, "mine")
    weights = convert_state_dict_to_diffusers(get_peft_model_state_dict(network(pipe), adapter_name="mine"))
    part = "unet" if "unet" in pipe.components else "transformer"
    type(pipe).save_lora_weights(file.parent, **{f"{part}_lora_layers": weights}, weight_name=file.name)
    network(pipe).delete_adapters("mine")
    return file


def folder_of(name: str, there: Path) -> Path:
    """A checkpoint of the family in diffusers format."""
    if name in ("stable_diffusion_3", "flux"):
        return parity_flow.folder({"flux": "tiny-random-flux-dev"}.get(name, "tiny-random-sd3"))
    pipeline(name).save_pretrained(there)
    return there


def answered(model) -> torch.Tensor:
    """One evaluation of the network."""
    x = torch.randn(1, 1, model.latent_shape[0], 8, 8, generator=torch.Generator().manual_seed(1))
    return model.answer(x, model.encode_text([TARGET])[:, None], 500, None)


@pytest.fixture(scope="module")
def lora(tiny_folder: Path, tmp_path_factory) -> Path:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    return make_lora(pipe, tmp_path_factory.mktemp("lora") / "ink: two.safetensors")


@pytest.mark.parametrize("name", FAMILIES)
def test_lora_are_those_of_the_pipeline(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "model")
    pipe = getattr(diffusers, KINDS[name]).from_pretrained(folder)
    files = [make_lora(pipe, tmp_path / f"{i}.safetensors", seed=i) for i in range(2)]
    plain = reinvert.load(folder, device="cpu", dtype="float32")
    model = reinvert.load(folder, device="cpu", dtype="float32", lora=[f"{files[0]}:0.5", (files[1], 1.5)])
    pipe = getattr(diffusers, KINDS[name]).from_pretrained(folder)
    for i, file in enumerate(files):
        pipe.load_lora_weights(str(file), adapter_name=str(i))
    pipe.set_adapters(["0", "1"], [0.5, 1.5])
    theirs, ours, without = (answered(m) for m in (reinvert.load(pipe), model, plain))
    assert gap(ours, theirs) < 1e-3
    assert gap(ours, without) > 20 * gap(ours, theirs)
    assert [name for name, _ in model.network.named_parameters()] == [n for n, _ in plain.network.named_parameters()]


def test_the_sidecar_and_the_trajectory_know_of_it(lora: Path, tiny_folder: Path, tmp_path: Path) -> None:
    make_picture(0).save(tmp_path / "a.png")
    common = ["--model", str(tiny_folder), "--device", "cpu", "--quiet", "--steps", "2"]
    path = tmp_path / "a.trajectory.safetensors"
    weak = ["--lora", f"{lora}:0.01"]
    assert main(["invert", str(tmp_path / "a.png"), "--source", SOURCE, *common, *weak, "-o", str(path)]) == 0
    edit = ["edit", str(path), "--target", TARGET, "--editor", "prompt", "--model", str(tiny_folder), "--device", "cpu"]
    edit += ["--quiet", "-o", str(tmp_path / "b.png")]
    assert main([*edit, *weak]) == 0
    record = json.loads((tmp_path / "b.png.json").read_text())["settings"]["lora"]
    assert [(entry["file"], entry["strength"]) for entry in record] == [(lora.name, 0.01)]
    assert len(record[0]["sha256"]) == 64
    # So weak a LoRA hardly changes a weight; it is another model all the same.
    assert main(edit) != 0
    assert main([*edit, "--lora", f"{lora}:0.02"]) != 0


def test_a_lora_that_does_not_fit_is_refused(lora: Path, tiny_folder: Path, tmp_path: Path) -> None:
    def refused(said: str, given) -> None:
        with pytest.raises(ReinvertError, match=said) as caught:
            reinvert.load(tiny_folder, device="cpu", lora=given)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400

    other = make_lora(pipeline("flux"), tmp_path / "flux.safetensors")
    refused(r"the LoRA flux\.safetensors does not fit .*, which is a Stable Diffusion 1.x and 2.x model", other)
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "none.safetensors")
    refused(r"none\.safetensors is no LoRA: none of its 1 weights is called so", tmp_path / "none.safetensors")
    weights = load_file(lora)
    first = min(weights)
    save_file({key: value for key, value in weights.items() if key != first}, tmp_path / "half.safetensors")
    refused(
        rf"the LoRA half\.safetensors lacks 1 weights \({first}\); download it again", tmp_path / "half.safetensors"
    )
    next(iter(weights.values())).view(-1)[0] = float("inf")
    save_file(weights, tmp_path / "inf.safetensors")
    refused("1 weights of the LoRA inf.safetensors hold NaN or infinity", tmp_path / "inf.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(lora.read_bytes()[:100])
    refused("the LoRA cut.safetensors cannot be read: ", tmp_path / "cut.safetensors")
    (tmp_path / "a.pt").write_bytes(b"x")
    refused("a.pt is a pickle, which can run any program when it is opened", tmp_path / "a.pt")
    refused("missing.safetensors does not exist", tmp_path / "missing.safetensors")
    refused("the strength of a LoRA is a number from -10 to 10, not '?100", f"{lora}:100")
    refused("a LoRA is given as a file, or as .file, strength., not as 5", [5])


def test_a_lora_of_the_trainers_that_people_use(tmp_path: Path) -> None:
    """Their names and their alpha, for the network and the text encoder."""
    pipe = pipeline("stable_diffusion")
    pipe.save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    parts = {
        "lora_unet": (pipe.unet, ["to_q", "to_v"]),
        "lora_te_text_model": (pipe.text_encoder, ["q_proj", "k_proj"]),
    }
    parts["lora_te_text_model"][1].extend(["v_proj", "out_proj"])
    for name, (part, layers) in parts.items():
        # alpha / rank is the strength that the adapter has by itself
        part.add_adapter(peft.LoraConfig(r=2, lora_alpha=1, target_modules=layers, init_lora_weights=False), "mine")
        for key, value in get_peft_model_state_dict(part, adapter_name="mine").items():
            layer, which, _ = key.removeprefix("base_model.model.").removeprefix("text_model.").rsplit(".", 2)
            place = f"{name}_{layer.replace('.', '_')}"
            weights[f"{place}.lora_{'down' if which == 'lora_A' else 'up'}.weight"] = value.clone()
            weights[f"{place}.alpha"] = torch.tensor(1.0)
    save_file(weights, tmp_path / "k.safetensors")
    model = reinvert.load(tmp_path / "model", device="cpu", lora=tmp_path / "k.safetensors")
    plain, theirs = reinvert.load(tmp_path / "model", device="cpu"), reinvert.load(pipe)
    assert gap(answered(model), answered(theirs)) < 1e-4
    assert gap(answered(model), answered(plain)) > 1e-2
    tokens, other = (m.encode_text([TARGET]).tokens for m in (model, theirs))
    assert gap(tokens, other) < 1e-5


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_lora_are_one_sentence(data, lora: Path, tiny_folder: Path, tmp_path_factory) -> None:
    weights = load_file(lora)
    file = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    how = data.draw(st.sampled_from(["gone", "flat", "number", "renamed", "integers", "cut", "swapped"]))
    for key in data.draw(st.lists(st.sampled_from(sorted(weights)), min_size=1, max_size=3, unique=True)):
        value = weights.pop(key)
        if how == "renamed":
            weights[key.replace("lora", "lora_x")] = value
        elif how != "gone":
            changes = {
                "flat": value.flatten(),
                "number": value.sum(),
                "integers": value.to(torch.int8),
                "swapped": value.T,
            }
            weights[key] = changes.get(how, value).contiguous()
    save_file(weights, file)
    if how == "cut":
        file.write_bytes(file.read_bytes()[: -data.draw(st.integers(1, 2000))])
    sentence = ""
    try:
        reinvert.load(tiny_folder, device="cpu", lora=file)
    except ReinvertError as error:
        sentence = str(error)
    assert sentence.isprintable()
    assert len(sentence) < 400


def test_a_lora_without_its_reader(lora: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ReinvertError, match=r"LoRA are read with peft: pip install 'reinvert\[lora\]'"):
        reinvert.load(tiny_folder, device="cpu", lora=lora)


def test_another_vae(tiny, tiny_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    kind = type(tiny.vae)
    other = kind.from_config(tiny.vae.config)
    other.save_pretrained(tmp_path / "vae")
    model = reinvert.load(tiny_folder, device="cpu", vae=tmp_path / "vae")
    pictures = torch.rand(1, 3, 32, 32)
    assert gap(model.encode(pictures), other.encode(pictures).latent_dist.mean * 2.5) < 1e-6
    assert gap(model.encode(pictures), tiny.encode(pictures)) > 1e-2
    assert not model.fingerprint().matches(tiny.fingerprint())
    assert model.additions["vae"]["folder"] == "vae"
    kind.from_config({**tiny.vae.config, "scaling_factor": 0.5}).save_pretrained(tmp_path / "unlike")
    with pytest.raises(ReinvertError, match=r"is none for .*: its scaling_factor is 0.5, and the model's own has 2.5"):
        reinvert.load(tiny_folder, device="cpu", vae=tmp_path / "unlike")
    with pytest.raises(
        ReinvertError, match=r"is no VAE in diffusers format: give the folder that holds its config\.json"
    ):
        reinvert.load(tiny_folder, device="cpu", vae=tmp_path / "nothing")


def test_a_trained_editor_s_model_is_not_weakened(tmp_path: Path) -> None:
    """Two models that differ in nothing but their seed are told apart as before."""
    a, b = (reinvert.load(build_tiny(tmp_path / str(i), seed=i), device="cpu") for i in range(2))
    assert a.fingerprint().config == b.fingerprint().config
    assert not a.fingerprint().matches(b.fingerprint())
