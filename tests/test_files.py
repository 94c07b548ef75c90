"""The door for files from outside: damaged in any way, a file is read or refused in one sentence, and nothing else."""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SOURCE, TARGET, TOKENS, make_picture
from damage import Damage, Specimen, harm, holds
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from safetensors.torch import save

import reinvert
from reinvert import cli, recipes
from reinvert.backbones.loading import load_tokenizer
from reinvert.errors import ReinvertError
from reinvert.text import Text
from reinvert.trajectory import Trajectory

EXAMPLES = int(os.environ.get("REINVERT_DAMAGED", "0")) or 15
"""Damaged inputs of each kind. REINVERT_DAMAGED=1000 pytest tests/test_files.py tries many, at random."""
RANDOM = "REINVERT_DAMAGED" in os.environ


# --- specimens ------------------------------------------------------------------------------------------------------


def toml(name: str, value: Any) -> bytes:
    """Plain values as TOML, tables last."""
    if not isinstance(value, dict):
        raise TypeError
    return _table(value, "").encode()


def _table(value: dict, name: str) -> str:
    plain = {k: v for k, v in value.items() if not (isinstance(v, dict) and v)}
    lines = [f"{_key(k)} = {_toml(v)}" for k, v in plain.items() if v is not None]
    parts = ["\n".join(lines)]
    for k, v in value.items():
        if isinstance(v, dict) and v:
            inner = f"{name}{_key(k)}"
            parts.append(f"[{inner}]\n{_table(v, inner + '.')}")
    return "\n".join(parts)


def _key(key: Any) -> str:
    return _toml(str(key))


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\u{ord(c):04x}" for c in value) + '"'
        case list():
            return f"[{', '.join(_toml(v) for v in value if v is not None)}]"
        case dict():
            return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
        case None:
            return '""'
        case _:
            return str(value)


RECIPE = {
    "about": "mine",
    "published": "",
    "model": "picturebook",
    "steps": 12,
    "guidance": 3.0,
    "seed": 1,
    "inversion": {"name": "direct", "every": 2, "strength": 0.5},
    "editors": {
        "p2p": {"kind": "refine", "cross": 0.4, "boost": {"dog": 2.0}},
        "local_blend": {"source_words": ["cat"]},
    },
    "case": {"blend": True, "boost": 2.0, "source": "prompt"},
}
BASED = {"base": "recipe.toml", "steps": 3, "editors": {"pix2pix_zero": {"source_bank": ["@bank.txt", "a cat"]}}}


@cache
def recipe_specimen() -> Specimen:
    return Specimen(
        "recipe",
        {"recipe.toml": RECIPE, "based.toml": BASED},
        toml,
        lambda folder: [recipes.find(str(folder / name)) for name in ("recipe.toml", "based.toml")],
        {"bank.txt": b"a cat on grass\na cat in snow\n"},
        ("recipe.toml", "based.toml"),
    )


# --- the law --------------------------------------------------------------------------------------------------------


@dataclass
class Count:
    """How many damaged inputs were tried, and what became of them."""

    refused: int = 0
    opened: int = 0

    @property
    def tried(self) -> int:
        return self.refused + self.opened


def law(specimen: Specimen, examples: int = EXAMPLES) -> Count:
    """Nothing but `ReinvertError` comes out, printable and short, and nothing outside of the folder is opened."""
    count = Count()
    with tempfile.TemporaryDirectory() as sound:
        whole = {**specimen.raw, **{name: specimen.write(name, value) for name, value in specimen.values.items()}}
        assert holds(specimen, Damage(whole), Path(sound)) == ""  # undamaged, it is read

    @settings(
        max_examples=examples,
        derandomize=not RANDOM,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(harm(specimen))
    def damaged(damage: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            refused = holds(specimen, damage, Path(folder)) != ""
        count.refused += refused
        count.opened += not refused

    damaged()
    return count


def test_recipes() -> None:
    law(recipe_specimen())


@pytest.mark.parametrize("which", ["null_text", "edict", "edit_friendly", "direct"])
def test_trajectories(tiny, picture, tmp_path: Path, which: str) -> None:
    """Loaded, held against a model and edited."""
    more = {"inner": 1} if which == "null_text" else {}
    reinvert.invert(tiny, picture, SOURCE, inversion=which, steps=2, guidance=3.0, **more).save(tmp_path / "made")
    with safe_open(tmp_path / "made", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        plain = ("format", "inversion", "schedule")
        header = {k: v if k in plain else json.loads(v) for k, v in file.metadata().items()}

    def write(name: str, value: Any) -> bytes:
        texts = {k: v if k in plain and isinstance(v, str) else json.dumps(v) for k, v in value["header"].items()}
        shaped = {k: _shaped(tensors.get(k), shape) for k, shape in value["shapes"].items()}
        return save(shaped, texts)

    def read(folder: Path) -> None:
        trajectory = Trajectory.load(folder / "a.trajectory.safetensors")
        reinvert.edit(tiny, trajectory, target=TARGET, editor="p2p", guidance=3.0, mask=picture.convert("L"))

    values = {"header": header, "shapes": {name: list(t.shape) for name, t in tensors.items()}}
    name = "a.trajectory.safetensors"
    law(Specimen(which, {name: values}, write, read, given=(name,)))


def _shaped(tensor: Any, shape: Any) -> torch.Tensor:
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= 600 for n in shape):
        raise ValueError
    if tensor is not None and list(tensor.shape) == shape:
        return tensor
    if torch.Size(shape).numel() > 4_000_000:
        raise ValueError
    return torch.zeros(shape)


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'about = "\xff\xfe"', r"mine.toml is not UTF-8 text \(byte 38\); save it as UTF-8"),
        (b"steps = [1]", "recipe mine.toml: steps is a list of 1; it takes a whole number from 1 to 10,000"),
        (b"steps = true", "steps is true; it takes a whole number"),
        (b"seed = 'x'", "seed is 'x'; it takes a whole number from 0"),
        (b"name = 5", "unknown entry 'name'; there are about, base,"),
        (b"base = 5", "base is 5; it takes a name"),
        (b"stepz = 5", "unknown entry 'stepz'; did you mean steps?"),
        (b"guidance = nan", "guidance is nan; it takes a number from -1,000 to 1,000"),
        (b"[editors.p2p]\ncross = 'x'", "cannot be used: cross of p2p is 'x'; it takes a number or a list"),
        (b"[inversion]\nevery = 1.5", "cannot be used: every of direct is 1.5; it takes a whole number"),
        (b"[inversion]\nname = ['direct']", "inversion.name is a list of 1; it takes a name"),
        (b"[case]\nblend = 1", "case.blend is 1; it takes true or false"),
        (b"a = " + b"[" * 5000, "nested more than 32 deep"),
        (b"a" + b".a" * 5000 + b" = 1", "nested more than 32 deep"),
        (b"steps = " + b"9" * 5000, "not valid TOML"),
        (b"base = '../mine.toml'", "its base .* lies outside of the folder"),
        (b"[editors.pix2pix_zero]\nsource_bank = ['@../bank.txt']", "its sentence bank .* lies outside"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_by_file_and_field(tmp_path: Path, monkeypatch, text, sentence) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    (tmp_path / "bank.txt").write_text("a cat")
    Path("sound.toml").write_bytes(b'base = "directinversion+p2p"\n')
    base = b"" if text.startswith(b"base") else b'base = "directinversion+p2p"\n'
    Path("mine.toml").write_bytes(base + text)
    assert recipes.find("sound.toml").steps == 50
    with pytest.raises(ReinvertError, match=sentence) as caught:
        recipes.find("mine.toml")
    assert len(str(caught.value)) <= 300


def test_a_recipe_that_was_rewritten_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for steps in (3, 4):
        path.write_text(f'base = "ddim+p2p"\nsteps = {steps}\n')
        assert recipes.find(str(path)).steps == steps


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2J", "...", " ", "\u202egpj", "x" * 160])
def test_a_recipe_needs_a_name_that_a_table_can_hold(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.toml"
    path.write_text('base = "ddim+p2p"\n')
    with pytest.raises(ReinvertError, match="is no name of a row"):
        recipes.find(str(path))


def test_a_base_and_a_bank_lie_beside_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "below.toml").write_text('base = "ddim+pix2pix-zero"\nsteps = 7\n')
    (tmp_path / "bank.txt").write_text("a cat on grass\n\n a cat, in snow \n")
    (tmp_path / "mine.toml").write_text('base = "below.toml"\n[editors.pix2pix_zero]\nsource_bank = ["@bank.txt"]\n')
    recipe = recipes.find(str(tmp_path / "mine.toml"))
    assert recipe.steps == 7
    editor: Any = recipe.editor_methods()[0]
    assert editor.source_bank == ("a cat on grass", "a cat, in snow")


def test_sentence_banks_from_the_command_line(tmp_path: Path, tiny_folder: Path, monkeypatch, capsys) -> None:
    """They are no words of the prompts, as local_blend's are."""
    monkeypatch.chdir(tmp_path)
    make_picture(0).save("cat.png")
    Path("cats.txt").write_text("a cat on a chair\na cat, asleep\n")
    Path("mine.toml").write_text(
        'base = "ddim+pix2pix-zero"\n[inversion]\nouter = 1\n[editors.pix2pix_zero]\nsource_bank = ["@cats.txt"]\n'
        'target_bank = ["a dog on a chair"]\n'
    )
    words = ["edit", "cat.png", "--source", SOURCE, "--target", TARGET, "--model", str(tiny_folder), "--steps", "2"]
    banks = ["--source-bank", "@cats.txt", "--target-bank", "a dog on a chair", "--inversion", "ddim"]
    assert cli.main([*words, "-o", "a.png", "--editor", "pix2pix_zero", *banks]) == 0, capsys.readouterr().err
    assert cli.main([*words, "-o", "b.png", "--recipe", "mine.toml"]) == 0, capsys.readouterr().err
    assert cli.main([*words, "-o", "c.png", "--blend", "goat", "dog"]) == 2
    assert "does not occur" in capsys.readouterr().err


# --- trajectories ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tiny, picture) -> Trajectory:
    return reinvert.invert(tiny, picture, SOURCE, inversion="edict", steps=2, strength=1.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"path": torch.zeros(3, 1, 3, 512, 512)},
            r"shape \[3, 512, 512\], and tiny-eps takes \[3, 16, 16\]",
        ),
        ({"path": torch.zeros(3, 1, 4, 16, 16)}, r"latents of shape \[4, 16, 16\]"),
        ({"null": Text(torch.zeros(1, 1, 16, 13))}, r"a null side of shape \[16, 13\], and tiny-eps takes \[16, 12\]"),
        ({"kept": {}}, "no tensor 'partner', and edict needs one of shape"),
        ({"kept": {"partner": torch.zeros(1, 1, 3, 16, 16)}}, "needs one of shape"),
        ({"kept": {"partner": torch.zeros(3, 1, 3, 16, 16), "x": torch.zeros(1, 1)}}, "'x', and edict needs none"),
        ({"times": (5000, 250, -1)}, "tiny-eps has no time 5000"),
        ({"settings": {"mixing": "x"}}, "mixing of edict is 'x'; it takes a number"),
        ({"settings": {"mixed": 1}}, "edict has no argument 'mixed'"),
    ],
)
def test_tensors_are_held_against_the_model(tiny, kept, tmp_path: Path, change, sentence) -> None:
    replace(kept, method=None, **change).save(tmp_path / "a.trajectory.safetensors")
    read = Trajectory.load(tmp_path / "a.trajectory.safetensors")
    with pytest.raises(ReinvertError, match=sentence):
        reinvert.edit(tiny, read, target=TARGET, editor="prompt")


@pytest.mark.parametrize("strength", [0, 1])
def test_a_whole_number_is_a_share_too(tiny, picture, tmp_path: Path, strength: int) -> None:
    path = reinvert.invert(tiny, picture, SOURCE, inversion="direct", steps=2)
    assert path.pulled is not None
    replace(path, pulled={**path.pulled, "strength": strength}).save(tmp_path / "a.trajectory.safetensors")
    read = Trajectory.load(tmp_path / "a.trajectory.safetensors")
    assert read.pulled == {**path.pulled, "strength": float(strength)}
    assert len(reinvert.edit(tiny, read, target=TARGET, editor="prompt").images) == 1


def test_a_full_disk_is_told_with_the_file(kept, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(ReinvertError, match=r"a\.trajectory\.safetensors cannot be written"):
            kept.save(tmp_path / "a.trajectory.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


# --- models ---------------------------------------------------------------------------------------------------------


def test_models(tiny_folder: Path) -> None:
    """Loaded and asked for a prediction."""
    names = ("model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")
    names = (*names, *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder")))
    values = {name: json.loads((tiny_folder / name).read_text()) for name in names}
    files = [path for path in tiny_folder.rglob("*") if path.is_file() and path.stat().st_size < 1_000_000]
    raw = {str(path.relative_to(tiny_folder)): path.read_bytes() for path in files}

    def read(folder: Path) -> None:
        model = reinvert.load(folder, device="cpu", dtype="float32")
        reinvert.edit(model, make_picture(0), source=SOURCE, target=TARGET, steps=2)

    law(
        Specimen("model", values, written, read, {n: b for n, b in raw.items() if n not in names}, tuple(raw)),
        EXAMPLES // 2,
    )


def written(name: str, value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("model_index.json", {"unet": 5}, "model_index.json of .*: unet is 5; it takes a list of two, the library"),
        ("model_index.json", {"unet": ["diffusers"]}, "unet is a list of 1; it takes a list of two"),
        ("scheduler/scheduler_config.json", [1], "scheduler_config.json holds no JSON object"),
        ("scheduler/scheduler_config.json", {"beta_start": "x"}, "beta_start is 'x'; it takes a number above 0"),
        ("scheduler/scheduler_config.json", {"prediction_type": 3}, "prediction_type is 3; it takes text"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "x"}, "beta_schedule is 'x'; it takes one of linear,"),
        ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block is 1000000000; it takes"),
        ("unet/config.json", {"transformer_layers_per_block": 10**9}, "transformer_layers_per_block is more than 512"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**9}, "is 1000000000; its text encoder takes .* 16"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 0}, "model_max_length is 0; it takes a number from 1"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": -1}, "model_max_length is -1; it takes a number"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}, "model_max_length is 'x'; it takes a number"),
        ("tokenizer/tokenizer_config.json", {"vocab": "/etc/passwd"}, "vocab is '/etc/passwd'; it takes nothing"),
    ],
)
def test_a_models_configuration_is_held_against_its_description(tiny_folder, tmp_path, file, change, sentence) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    path = tmp_path / "m" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change if isinstance(change, dict) else change))
    with pytest.raises(ReinvertError, match=sentence):
        reinvert.load(tmp_path / "m", device="cpu")


@pytest.mark.parametrize("length", [None, 10**30, 1000000000000000019884624838656])
def test_a_tokenizer_without_a_length_takes_its_text_encoders(tiny_folder: Path, tmp_path: Path, length) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["model_max_length"]
    path.write_text(json.dumps(config if length is None else config | {"model_max_length": length}))
    model = reinvert.load(tmp_path / "m", device="cpu")
    assert model.tokenizer.model_max_length == TOKENS
    assert load_tokenizer(tmp_path / "m").model_max_length == TOKENS
