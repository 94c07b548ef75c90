"""What is loaded fits together: weights, configurations, tokenizers, and the kind of network."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import parity_flow
import pytest
import torch
from conftest import load_tiny
from safetensors.torch import load_file, save_file

import reinvert
from reinvert.errors import ReinvertError

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
FIRST = {"unet": "conv_in.weight", "vae": "decoder.conv_in.weight", "text_encoder": "final_layer_norm.weight"}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def refused(folder: Path, said: str) -> None:
    with pytest.raises(ReinvertError, match=said) as caught:
        reinvert.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def change(file: Path, **weights: torch.Tensor | None) -> None:
    """Set weights of a file, or take them out (None); names may end with those given."""
    tensors = load_file(file)
    for end, value in weights.items():
        key = next((key for key in tensors if key.endswith(end)), end)
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value
    save_file(tensors, file, {"format": "pt"})


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", list(WEIGHTS))
def test_weights_that_do_not_fit_are_refused_by_name_and_count(folder: Path, part: str) -> None:
    file, key = folder / part / WEIGHTS[part], FIRST[part]
    whole = load_file(file)
    change(file, **{key: None})
    refused(folder, rf"the {part} of .* lacks 1 of its \d+ weights \({key}\); download or save it again")
    save_file(whole, file, {"format": "pt"})
    change(file, **{key: torch.zeros(5, 2)})
    refused(folder, rf"the {part} of .* has 1 weights of another shape than its config.json says \({key} is 5x2, not ")
    save_file(whole, file, {"format": "pt"})
    change(file, **{"other.weight": torch.zeros(2)})
    refused(folder, rf"the {part} of .* has 1 weights that its network has not \(.*other.weight\)")


def test_many_missing_weights_are_counted(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS["unet"]
    tensors = load_file(file)
    save_file({key: value for key, value in tensors.items() if "down_blocks" not in key}, file, {"format": "pt"})
    count = sum("down_blocks" in key for key in tensors)
    refused(folder, rf"lacks {count} of its {len(tensors)} weights \(down_blocks[^,]*, down[^,]*, down[^,]*, \.\.\.\)")


@pytest.mark.parametrize("part", list(WEIGHTS))
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_numbers_are_told_as_that(folder: Path, part: str, dtype: str) -> None:
    file = folder / part / WEIGHTS[part]
    key, value = next((key, value) for key, value in load_file(file).items() if key.endswith(FIRST[part]))
    value.view(-1)[3] = float("nan")
    change(file, **{key: value})
    with pytest.raises(ReinvertError, match=rf"1 weights of the {part} of .* hold NaN or infinity \({FIRST[part]}\)"):
        reinvert.load(folder, device="cpu", dtype=dtype)


def test_weights_beyond_the_dtype_are_a_matter_of_dtype(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS["unet"]
    change(file, **{"conv_in.bias": torch.full((8,), 1e6)})
    assert load_tiny(folder).unet.conv_in.bias[0] == 1e6
    with pytest.raises(ReinvertError, match=r"1 weights of the unet of .* are too large for float16 \(conv_in.bias\)"):
        load_tiny(folder, "float16")


def test_what_old_text_encoders_carry_is_no_surplus(folder: Path, tiny) -> None:
    file = folder / "text_encoder" / WEIGHTS["text_encoder"]
    change(file, **{"text_model.embeddings.position_ids": torch.arange(16)[None]})
    assert torch.equal(load_tiny(folder).encode_text(["a cat"]).tokens, tiny.encode_text(["a cat"]).tokens)


def test_every_part_of_every_family_is_held_to_its_configuration(tmp_path: Path) -> None:
    name = "tiny-random-sd3"
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        broken = Path(shutil.copytree(parity_flow.folder(name), tmp_path / part))
        file = next((broken / part).glob("*.safetensors"))
        tensors = load_file(file)
        gone = sorted(key for key in tensors if key.endswith("weight"))[-1]
        save_file({key: value for key, value in tensors.items() if key != gone}, file, {"format": "pt"})
        shown = gone if "Projection" in part_class(broken, part) else gone.removeprefix("text_model.")
        refused(broken, rf"the {part} of .* lacks 1 of its \d+ weights \({shown}\)")


def part_class(folder: Path, part: str) -> str:
    return json.loads((folder / "model_index.json").read_text())[part][1]


def test_a_part_in_several_files_with_one_incomplete(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS["unet"]
    tensors = load_file(file)
    names = sorted(tensors)
    shards = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[:20]}
    shards["diffusion_pytorch_model-00002-of-00002.safetensors"] = names[20:]
    file.unlink()
    for shard, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, file.parent / shard, {"format": "pt"})
    where = {key: shard for shard, keys in shards.items() for key in keys}
    index = file.parent / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    whole = load_tiny(folder).unet.state_dict()
    assert all(torch.equal(whole[key], tensors[key]) for key in names)
    change(file.parent / list(shards)[1], **{names[-1]: None})
    refused(folder, rf"the unet of .* lacks 1 of its \d+ weights \({names[-1]}\)")
    # What an index names is not followed out of the folder, and a pipe is not waited for.
    for named, said in (("../../x.safetensors", "it leads out of the folder"), ("pipe.safetensors", "is not a file")):
        if named.startswith("pipe"):
            os.mkfifo(file.parent / named)
        index.write_text(json.dumps({"weight_map": {**where, names[0]: named}}))
        refused(folder, said)
    index.write_text("[1]")
    refused(folder, r"index\.json of .* is a list of 1, not a table of weight_map")


# --- networks that read something else -------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "said"), [
    (7, "redraw what a mask covers; use it with `reinvert instruct PICTURE TEXT --editor inpainting --mask FILE --mod"),
    (6, "follow instructions; use it with `reinvert instruct PICTURE TEXT --editor instruct_pix2pix --model "),
    (4, "read something beside them"),
])  # fmt: skip
def test_trained_editors_are_pointed_to_instruct(folder: Path, channels: int, said: str) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": channels}))
    change(folder / "unet" / WEIGHTS["unet"], **{"conv_in.weight": torch.zeros(8, channels, 3, 3)})
    refused(folder, f"takes {channels} input channels, and its latents have 3: it was trained to {said}")


# --- tokenizer and text encoder --------------------------------------------------------------------------------------


def test_a_tokenizer_with_more_words_than_its_text_encoder(folder: Path, tiny) -> None:
    tokenizer = load_tiny(folder).tokenizer
    known = len(tokenizer)
    tokenizer.add_tokens(["<my-cat>", "<my-dog>"])
    tokenizer.save_pretrained(folder / "tokenizer")
    refused(folder, f"the tokenizer of .* has {known + 2:,} words, but its text encoder has embeddings for {known:,}")
