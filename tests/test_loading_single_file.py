"""Checkpoints in one file, of Stable Diffusion 1.x, 2.x and XL: written here from tiny models, and read again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import PARITY, TARGET, TOKENS, gap, make_picture
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import reinvert
from reinvert.backbones.loading import families, load_tokenizer
from reinvert.cli import main
from reinvert.errors import ReinvertError

WORDS = PARITY / "tiny-random-sd" / "tokenizer"
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def unet_file(unet) -> dict[str, torch.Tensor]:
    """A UNet's weights by the names of the authors' programs."""
    layers, out = unet.config.layers_per_block, {}
    for key, value in unet.state_dict().items():
        name, _, end = key.rpartition(".")
        if name in OUTER:
            out[f"{OUTER[name]}.{end}"] = value
            continue
        side, rest = name.split("_block", 1)
        rest = rest.removeprefix("s").removeprefix(".")
        if side == "mid":
            place = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}[".".join(rest.split(".")[:2])]
            rest = ".".join(rest.split(".")[2:])
            head = f"middle_block.{place}"
        else:
            block, kind, j, rest = (rest + ".").split(".", 3)
            rest = rest.removesuffix(".")
            block, j = int(block), int(j)
            if side == "down":
                if kind == "downsamplers":
                    out[f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{end}"] = value
                    continue
                head = f"input_blocks.{1 + block * (layers + 1) + j}.{'0' if kind == 'resnets' else '1'}"
            else:
                if kind == "upsamplers":
                    attends = "CrossAttn" in unet.config.up_block_types[block]
                    out[f"output_blocks.{block * (layers + 1) + layers}.{2 if attends else 1}.conv.{end}"] = value
                    continue
                head = f"output_blocks.{block * (layers + 1) + j}.{'0' if kind == 'resnets' else '1'}"
        out[f"{head}.{RESNET.get(rest, rest)}.{end}"] = value
    return {f"model.diffusion_model.{key}": value for key, value in out.items()}


def vae_file(vae) -> dict[str, torch.Tensor]:
    levels, out = len(vae.config.block_out_channels), {}
    for key, value in vae.state_dict().items():
        new = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", key.replace("down_blocks", "down"))
        for a, b in (
            ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"), (".resnets.", ".block."),
            ("mid_block.attentions.0", "mid.attn_1"), ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample"),
            ("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"), ("group_norm", "norm"),
            ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"),
        ):  # fmt: skip
            new = new.replace(a, b)
        out[f"first_stage_model.{new}"] = value[..., None, None] if "attn" in new and value.ndim == 2 else value
    return out


def open_clip_file(encoder, prefix: str, last: bool) -> dict[str, torch.Tensor]:
    """A text encoder by OpenCLIP's names; with a `last` layer that nobody reads."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    width, out = encoder.config.hidden_size, {}
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for key, value in state.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key):
            layer, inner, end = match.groups()
            block = f"transformer.resblocks.{layer}"
            if inner == "self_attn.q_proj":
                three = [state[key.replace("q_proj", f"{x}_proj")] for x in "qkv"]
                out[f"{block}.attn.in_proj_{end}"] = torch.cat(three)
            elif inner == "self_attn.out_proj":
                out[f"{block}.attn.out_proj.{end}"] = value
            elif inner in names:
                out[f"{block}.{names[inner]}.{end}"] = value
    out["positional_embedding"] = state["embeddings.position_embedding.weight"]
    out["token_embedding.weight"] = state["embeddings.token_embedding.weight"]
    out["ln_final.weight"], out["ln_final.bias"] = state["final_layer_norm.weight"], state["final_layer_norm.bias"]
    projection = state.get("text_projection.weight", torch.zeros(width, width))
    out["text_projection"] = projection.T.contiguous()
    out["logit_scale"] = torch.tensor(1.0)
    if last:
        count = encoder.config.num_hidden_layers
        out |= {k.replace("blocks.0", f"blocks.{count}"): v + 1 for k, v in out.items() if "blocks.0." in k}
    return {f"{prefix}{key}": value for key, value in out.items()}


def encoder(width: int, seed: int, act: str, projection: int = 0):
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(WORDS)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=max(1, width // 64), max_position_embeddings=TOKENS, hidden_act=act,
        projection_dim=projection or width, bos_token_id=len(tokenizer) - 2, eos_token_id=len(tokenizer) - 1,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def parts_of(kind: str) -> dict:
    torch.manual_seed(0)
    more = {}
    if kind == "xl":
        more = {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": (1, 2),
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 48 + 20,
        }  # fmt: skip
    unet = UNet2DConditionModel(**{
        "sample_size": {"1": 64, "2": 96, "xl": 128}[kind], "block_out_channels": (32, 64), "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24, "attention_head_dim": 8 if kind == "1" else (1, 1),
        "use_linear_projection": kind != "1", **more,
    })  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1,
        scaling_factor=0.13025 if kind == "xl" else 0.18215,
    )  # fmt: skip
    tokenizer = CLIPTokenizer.from_pretrained(WORDS, model_max_length=TOKENS)
    second = CLIPTokenizer.from_pretrained(WORDS, model_max_length=TOKENS, pad_token="!")
    parts = {"unet": unet.eval(), "vae": vae.eval()}
    if kind == "xl":
        encoders = {"text_encoder": encoder(10, 1, "quick_gelu"), "text_encoder_2": encoder(14, 2, "gelu", 20)}
        return parts | encoders | {"tokenizer": tokenizer, "tokenizer_2": second}
    if kind == "2":
        return parts | {"text_encoder": encoder(24, 1, "gelu"), "tokenizer": second}
    return parts | {"text_encoder": encoder(24, 1, "quick_gelu"), "tokenizer": tokenizer}


def clip_file(encoder, prefix: str) -> dict[str, torch.Tensor]:
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    state["embeddings.position_ids"] = torch.arange(TOKENS)[None]
    return {f"{prefix}text_model.{key}": value for key, value in state.items()}


def checkpoint(kind: str, parts: dict) -> dict[str, torch.Tensor]:
    weights = unet_file(parts["unet"]) | vae_file(parts["vae"])
    if kind == "1":
        weights |= clip_file(parts["text_encoder"], "cond_stage_model.transformer.")
    elif kind == "2":
        weights |= open_clip_file(parts["text_encoder"], "cond_stage_model.model.", last=True)
    else:
        weights |= clip_file(parts["text_encoder"], "conditioner.embedders.0.transformer.")
        weights |= open_clip_file(parts["text_encoder_2"], "conditioner.embedders.1.model.", last=False)
    weights |= {"model_ema.decay": torch.tensor(0.99), "betas": torch.zeros(1000)}
    return {key: value.contiguous() for key, value in weights.items()}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    made = {}
    for kind in ("1", "2", "xl"):
        parts = parts_of(kind)
        made[kind] = tmp_path_factory.mktemp("single") / f"sd-{kind}.safetensors", parts
        save_file(checkpoint(kind, parts), made[kind][0])
    return made


@pytest.mark.parametrize("kind", ["1", "2", "xl"])
def test_a_file_is_the_model_that_it_was_written_from(kind: str, files) -> None:
    file, parts = files[kind]
    model = reinvert.load(file, device="cpu", tokenizer=WORDS)
    scheduler = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
        "set_alpha_to_one": False, "prediction_type": "v_prediction" if kind == "2" else "epsilon",
    }  # fmt: skip
    if kind == "xl":
        scheduler |= {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
    family = families()["stable_diffusion_xl" if kind == "xl" else "stable_diffusion"]
    own = family.open(parts, scheduler, "own")
    assert model.name == file.name
    assert model.times(10, (8, 8)) == own.times(10, (8, 8))
    assert model.level(500) == own.level(500)
    assert model.image_size == {"1": 128, "2": 192, "xl": 256}[kind]
    a, b = (m.encode_text([TARGET, ""]) for m in (model, own))
    assert gap(a.tokens, b.tokens) < 1e-6
    assert a.pooled is None or gap(a.pooled, b.pooled) < 1e-6
    x = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    answers = [m.answer(x, m.encode_text([TARGET])[:, None], 400, None) for m in (model, own)]
    assert gap(*answers) < 1e-6
    pictures = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert gap(model.encode(pictures), own.encode(pictures)) < 1e-6
    assert gap(model.decode(x[0]), own.decode(x[0])) < 1e-6


def test_what_the_header_says_decides_what_is_predicted(files, tmp_path: Path) -> None:
    file, _ = files["2"]
    save_file(load_file(file), tmp_path / "base.safetensors", {"modelspec.prediction_type": "epsilon"})
    model = reinvert.load(tmp_path / "base.safetensors", device="cpu", tokenizer=WORDS)
    assert '"epsilon"' in model.schedule
    file, _ = files["xl"]
    save_file(load_file(file) | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, tmp_path / "v.safetensors")
    model = reinvert.load(tmp_path / "v.safetensors", device="cpu", tokenizer=WORDS)
    assert '"v_prediction"' in model.schedule
    assert model.level(999).signal < 1e-3


def test_a_network_that_gives_noise_back_predicts_noise() -> None:
    from reinvert.backbones.single_file import predicts

    class Same(torch.nn.Module):
        config = type("C", (), {"in_channels": 4, "cross_attention_dim": 8})
        device, dtype = torch.device("cpu"), torch.float32

        def forward(self, x, time, encoder_hidden_states):
            assert int(time) == 999
            return type("O", (), {"sample": x + 0.3 * torch.randn_like(x)})

    assert predicts(Same()) == "epsilon"
    assert predicts(parts_of("2")["unet"]) == "v_prediction"


def test_files_that_cannot_be_read_say_what_they_are(files, tmp_path: Path) -> None:
    def refused(
        said: str, weights: dict | None = None, name: str = "a.safetensors", words: Path | None = WORDS
    ) -> None:
        if weights is not None:
            save_file(weights, tmp_path / name)
        with pytest.raises(ReinvertError, match=said) as caught:
            reinvert.load(tmp_path / name, device="cpu", tokenizer=words)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400

    whole = load_file(files["1"][0])
    (tmp_path / "a.ckpt").write_bytes(b"x")
    refused(r"a\.ckpt is a pickle, which can run any program when it is opened", name="a.ckpt")
    (tmp_path / "a.txt").write_bytes(b"x")
    refused(r"a\.txt is a file, but not a model that can be read: take a \.safetensors file", name="a.txt")
    (tmp_path / "cut.safetensors").write_bytes(b"x" * 30)
    refused(r"cut\.safetensors cannot be read", name="cut.safetensors")
    refused("has a network but no VAE", {k: v for k, v in whole.items() if "first_stage" not in k})
    refused("has a network but no text encoder", {k: v for k, v in whole.items() if "cond_stage" not in k})
    refused("is of FLUX or Stable Diffusion 3", {"double_blocks.0.a": torch.zeros(1)})
    refused("is a LoRA, which is added to a model", {"x.lora_A.weight": torch.zeros(1)})
    refused("is no checkpoint of Stable Diffusion", {"conv_in.weight": torch.zeros(1)})
    gone = "model.diffusion_model.out.2.bias"
    refused(r"the unet of a\.safetensors lacks 1 of its \d+ weights", {k: v for k, v in whole.items() if k != gone})
    bad = {**whole, gone: torch.full_like(whole[gone], float("nan"))}
    refused(r"1 weights of the unet of a\.safetensors hold NaN or infinity \(conv_out.bias\)", bad)
    wide = {**whole, "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(32, 9, 3, 3)}
    refused("takes 9 input channels, and its latents have 4: it was trained to redraw what a mask covers", wide)
    refused(
        "does not hold the words of its tokenizer, and the Hub cannot be reached: give --tokenizer", whole, words=None
    )
    refused("holds no tokenizer", whole, words=tmp_path)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_are_one_sentence(data, files, tmp_path_factory) -> None:
    """Weights taken out, reshaped, renamed or of another type, and bytes cut or changed."""
    kind = data.draw(st.sampled_from(["1", "2", "xl"]))
    weights = load_file(files[kind][0])
    file = tmp_path_factory.mktemp("damaged") / "a.safetensors"
    keys = data.draw(st.lists(st.sampled_from(sorted(weights)), min_size=1, max_size=3, unique=True))
    how = data.draw(st.sampled_from(["gone", "flat", "number", "renamed", "integers", "cut", "header"]))
    for key in keys:
        value = weights.pop(key)
        if how == "renamed":
            weights[key + ".0"] = value
        elif how != "gone":
            changes = {"flat": value.flatten(), "number": value.sum(), "integers": value.to(torch.int8)}
            weights[key] = changes.get(how, value).contiguous()
    save_file(weights, file)
    if how in ("cut", "header"):
        whole = bytearray(file.read_bytes())
        spot = data.draw(st.integers(0, 4000))
        if how == "header":
            whole[spot] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(whole[: len(whole) - spot - 1] if how == "cut" else whole)
    sentence = ""
    try:
        reinvert.load(file, device="cpu", tokenizer=WORDS)
    except ReinvertError as error:
        sentence = str(error)
    assert sentence.isprintable()
    assert len(sentence) < 400


def test_the_tokenizer_beside_a_file_is_found(files, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.symlink_to(files["2"][0])
    (tmp_path / "tokenizer").symlink_to(WORDS)
    assert load_tokenizer(file).model_max_length == TOKENS
    assert load_tokenizer(file).pad_token == "!"
    assert reinvert.load(file, device="cpu").tokenizer.pad_token == "!"


def test_the_command_line_takes_a_file(files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_picture(0).save(tmp_path / "a.png")
    words = ["--model", str(files["1"][0]), "--tokenizer", str(WORDS), "--device", "cpu", "--quiet", "--steps", "1"]
    given = [str(tmp_path / "a.png"), "--source", "a cat", *words]
    assert main(["edit", *given, "--target", "a dog", "--explain"]) == 0
    assert "a cat  ->  a dog" in capsys.readouterr().out
    assert main(["invert", *given, "--inversion", "ddim", "-o", str(tmp_path / "b.trajectory.safetensors")]) == 0
