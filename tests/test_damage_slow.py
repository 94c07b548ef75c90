"""The law over readers at length: thousands of damaged files, command lines and pictures. All of it is marked `slow`.

    .venv/bin/pytest -m slow tests/test_damage_slow.py -s

Each test counts what it tried and what was refused, and prints it. REINVERT_DAMAGED=1 draws at random, else the same is
drawn every time; REINVERT_TIMES=3 tries three times as many.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_loading_additions
import test_loading_single_file
from bench_runs import write_run
from conftest import SOURCE, TARGET, make_picture
from damage import VALUES, Specimen, watched
from PIL import Image
from safetensors.torch import load_file, save
from test_damage import DATA, EDITS, PNG, SCENE, _csv, _json, _json_lines, read_list
from test_files import RANDOM, law, recipe_specimen, written

import reinvert
from reinvert import cli
from reinvert.bench.score.columns import Networks
from reinvert.bench.score.scoring import Setup, open_run, score_run
from reinvert.cli.program import COMMANDS

pytestmark = pytest.mark.slow
TIMES = int(os.environ.get("REINVERT_TIMES", "1"))

files, lora = test_loading_single_file.files, test_loading_additions.lora  # fixtures


def tried(specimen: Specimen, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = law(specimen, count * TIMES)
    with capsys.disabled():
        print(f"\n  {specimen.name}: {found.tried} damaged, {found.refused} refused, {found.opened} read all the same")
    assert found.tried >= count * TIMES * 0.9
    assert found.refused > 0


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", sorted(DATA))
def test_benchmark_data(which: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind = DATA[which]
    strict = Specimen(kind.name, kind.values, kind.write, lambda folder: _all_read(kind, folder), kind.raw, kind.given)
    tried(strict, 240, capsys)


def _all_read(kind: Specimen, folder: Path) -> None:
    """Read, and then listed as `reinvert bench check` does."""
    kind.read(folder)
    spoken("bench", "check", str(folder))


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    tried(recipe_specimen(), 300, capsys)


def test_lists_of_edits(capsys: pytest.CaptureFixture[str]) -> None:
    tried(Specimen("edits", {"edits.csv": EDITS}, _csv, read_list, PNG, ("edits.csv",)), 300, capsys)


def test_scenes(capsys: pytest.CaptureFixture[str]) -> None:
    def read(folder: Path) -> None:
        if spoken("draw", "--scene", str(folder / "scene.json"), "--size", "64", "-o", str(folder / "a.png"))[0]:
            raise reinvert.ReinvertError("refused")

    tried(Specimen("scene", {"scene.json": SCENE}, _json, read, {}, ("scene.json",)), 300, capsys)


def test_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `bench status`, `score` and `report` read them."""
    made, run = write_run(tmp_path / "run", 2, rows=("copy", "vae", "ddim+p2p")), tmp_path / "run"
    networks = Networks()
    list(score_run(open_run(run), made, Setup("strict", networks=networks.describe()), networks))
    lines = {name: _lines(run / name) for name in ("records.jsonl", "scores-strict.jsonl")}
    values = {**lines, "run.json": {"data": "picturebook:2", "name": "x", "cells": {"edit": {"copy": 2}}, "dtype": "x"}}
    pictures = {f"images/{path.name}": path.read_bytes() for path in (run / "images").iterdir()}

    def write(name: str, value: Any) -> bytes:
        return _json_lines(name, value) if name.endswith("l") else _json(name, value)

    def read(folder: Path) -> None:
        told = [
            spoken("bench", "status", str(folder)),
            spoken("bench", "score", str(folder), "--mode", "strict", "--networks", "none", "--quiet"),
            spoken("bench", "report", str(folder), "--resamples", "100", "--write", "csv", "html"),
        ]
        if any(code for code, _ in told):
            raise reinvert.ReinvertError("refused")

    tried(Specimen("run", values, write, read, pictures), 24, capsys)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- models ---------------------------------------------------------------------------------------------------------


def test_models_in_several_files(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A UNet in two files with the index beside them, which says what is read."""
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    names = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    where = {key: names[index % 2] for index, key in enumerate(sorted(weights))}
    for name in names:
        part = {key: value for key, value in weights.items() if where[key] == name}
        (folder / "unet" / name).write_bytes(save(part, {"format": "pt"}))
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    jsons = ("model_index.json", "unet/diffusion_pytorch_model.safetensors.index.json", "unet/config.json",
             "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json",
             "tokenizer/tokenizer_config.json")  # fmt: skip
    values = {name: json.loads((folder / name).read_text()) for name in jsons}
    raw = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def read(folder: Path) -> None:
        model = reinvert.load(folder, device="cpu", dtype="float32")
        reinvert.edit(model, make_picture(0), source=SOURCE, target=TARGET, steps=1)

    rest = {name: content for name, content in raw.items() if name not in jsons}
    tried(Specimen("model", values, written, read, rest, tuple(raw)), 80, capsys)


def test_additions(tiny_folder: Path, lora: Path, files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A LoRA, another VAE and a checkpoint in one file."""
    words = test_loading_single_file.WORDS
    vae = {p.name: p.read_bytes() for p in (tiny_folder / "vae").iterdir()}
    config = {"config.json": json.loads(vae.pop("config.json"))}
    one = files["1"][0].read_bytes()
    whole = {p.relative_to(tiny_folder): p.read_bytes() for p in tiny_folder.rglob("*") if p.is_file()}

    def loaded(path: Path, **more: Any) -> None:
        reinvert.load(path, device="cpu", dtype="float32", **more)

    def model(folder: Path) -> Path:
        """A sound one beside what is damaged: nothing else may be opened."""
        for name, content in whole.items():
            path = folder / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / "model"

    kinds = (
        Specimen("lora", {}, written, lambda folder: loaded(model(folder), lora=folder / "a.safetensors"),
                 {"a.safetensors": lora.read_bytes()}, ("a.safetensors",)),
        Specimen("vae", config, written, lambda folder: loaded(model(folder), vae=folder), vae, ("config.json", *vae)),
        Specimen("one file", {}, written, lambda folder: loaded(folder / "a.safetensors", tokenizer=words),
                 {"a.safetensors": one}, ("a.safetensors",)),
    )  # fmt: skip
    for kind in kinds:
        tried(kind, 40, capsys)


# --- command lines --------------------------------------------------------------------------------------------------


def spoken(*words: str) -> tuple[int, str]:
    """A command's exit code and all that it printed; nothing in that steers a terminal."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(words))
    told = out.getvalue() + err.getvalue()
    assert all(sign.isprintable() or sign == "\n" for sign in told), (words, told)
    refusals = [line for line in err.getvalue().splitlines() if line.startswith("reinvert: ")]
    assert max(map(len, refusals), default=0) <= 400, (words, refusals)
    return code, told


HOSTILE = [
    *(str(value) for value in VALUES if isinstance(value, str | int | float) and "\0" not in str(value)),
    "nan", "-inf", "1e400", "9" * 5000, "-1", "~nobody/x", "cat.png", "mask.png", "cases", "run", "here", "./", "..",
    "a.trajectory.safetensors", "picturebook:2", "picturebook:2?size=16", "picturebook:v1?size=x", "=", "--", "-",
    "direct", "p2p+p2p", "ddim+p2p", "p2p+", "+", "recipe.toml", "edits.csv", "pt.ckpt", "a.safetensors", "/dev/null",
    "/dev/zero", "ring", "a cat on grass", "a [cat]", "(dog:1.3)", "xla", "meta", "cuda:99", "float64", "int8", "%s%n",
    "{0.__class__}", "$(id)", "; id", "\u0301" * 50, "\U0001f468\u200d\U0001f469", "a" * 300, "x.png.json", "x.jpg",
]  # fmt: skip


def hostile_lines(count: int, seed: int | None) -> Iterator[list[str]]:
    """Commands with options that they know, some that they do not, and values of every kind."""
    rng = random.Random(seed)
    options: dict[str, list[str]] = {}
    for name in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            cli.main([name, "--help"])
        options[name] = sorted({w.strip("[],=.()") for w in out.getvalue().split() if w.startswith("--")})
    parts = ["run", "status", "check", "make", "score", "report"]
    frequent = ["cat.png", "--source", "a cat", "--target", "a dog", "--steps", "1", "--quiet"]
    for _ in range(count):
        name = rng.choice([*COMMANDS, "edit", "edit", "invert", "bench", "bench"])
        line = [name]
        if name == "bench":
            line.append(rng.choice(parts))
        elif rng.random() < 0.5:
            line += frequent
        for _ in range(rng.randint(0, 4)):
            if rng.random() < 0.7 and options[name]:
                line.append(rng.choice(options[name]))
            if rng.random() < 0.8:
                line.append(rng.choice(HOSTILE))
        yield line


def quick(line: list[str]) -> bool:
    """Whether a line is no long task by right: a demo, a gallery of all methods, a studio that waits."""
    return line[0] not in ("demo", "gallery", "studio") and not {"/dev/zero"} & set(line[1:2])


def test_command_lines(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_picture(0).save("cat.png")
    Image.new("L", (32, 32), 255).save("mask.png")
    (tmp_path / "edits.csv").write_text("image,target\ncat.png,a dog\n")
    (tmp_path / "recipe.toml").write_text('base = "ddim+p2p"\nsteps = 1\n')
    (tmp_path / "pt.ckpt").write_bytes(b"\x80\x04x")
    (tmp_path / "a.safetensors").write_bytes(b"\0" * 40)
    (tmp_path / "ring").symlink_to("ring")
    (tmp_path / "here").mkdir()
    write_run(tmp_path / "run", 2, rows=("copy",))
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "cases.csv").write_text("image,source\na.png,a cat\n")
    count = {0: 0, 2: 0}
    for line in hostile_lines(400 * TIMES, None if RANDOM else 7):
        if quick(line):
            given = [*line, "--model", str(tiny_folder)] if line[0] in ("edit", "invert", "reconstruct") else line
            code, _ = spoken(*given)
            count[code] = count.get(code, 0) + 1
    with capsys.disabled():
        print(f"\n  command lines: {sum(count.values())} tried, exit codes {count}")
    assert sum(count.values()) > 300 * TIMES
    assert count[2] > count[0]


# --- pictures -------------------------------------------------------------------------------------------------------


def pictures(count: int, seed: int | None) -> Iterator[tuple[str, bytes]]:
    """Files of every format and mode, most of them damaged."""
    rng, whole = random.Random(seed), []
    base = make_picture(0)
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I", "I;16", "F", "CMYK", "YCbCr"):
        for format_, more in (
            ("png", {}), ("jpeg", {}), ("webp", {}), ("bmp", {}), ("tiff", {}), ("tiff", {"compression": "tiff_lzw"}),
            ("tiff", {"compression": "jpeg"}), ("gif", {}), ("avif", {}), ("ppm", {}), ("ico", {}), ("tga", {}),
        ):  # fmt: skip
            if more.get("compression") == "jpeg" and mode not in ("RGB", "L"):
                continue  # libtiff's writer damages the process's memory
            file = io.BytesIO()
            try:
                shown = base.convert("L").convert(mode) if mode == "I;16" else base.convert(mode)
                shown.save(file, format_, **more)
                whole.append((format_, file.getvalue()))
            except Exception:  # the format cannot hold it
                continue
    for index in range(count):
        kind, data = rng.choice(whole)
        content = bytearray(data)
        for _ in range(rng.choice((0, 1, 1, 2, 5, 30))):
            spot = rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(min(64, len(content)))
            match rng.choice(("flip", "flip", "cut", "zero", "ff", "insert", "drop")):
                case "flip":
                    content[spot] ^= 1 << rng.randrange(8)
                case "cut":
                    del content[max(1, spot) :]
                case "zero":
                    content[spot : spot + 8] = bytes(len(content[spot : spot + 8]))
                case "ff":
                    content[spot : spot + 4] = b"\xff" * len(content[spot : spot + 4])
                case "insert":
                    content[spot:spot] = rng.randbytes(6)
                case _:
                    del content[spot : spot + 5]
            content = content or bytearray(b"\0")
        yield f"{index:04d}.{rng.choice((kind, kind, 'png', 'jpg'))}", bytes(content)


def test_damaged_pictures(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the picture and as the mask of a list of edits."""
    monkeypatch.chdir(tmp_path)
    make_picture(0).save("cat.png")
    lines = ["image,target,mask"]
    for name, content in pictures(400 * TIMES, None if RANDOM else 11):
        (tmp_path / name).write_bytes(content)
        lines += [f"{name},a dog,", f"cat.png,a dog,{name}"]
    (tmp_path / "edits.csv").write_text("\n".join(lines) + "\n")
    words = [
        "edit",
        "--list",
        "edits.csv",
        "-o",
        "out",
        "--source",
        SOURCE,
        "--model",
        str(tiny_folder),
        "--steps",
        "1",
    ]
    (tmp_path / "out").mkdir()
    with watched(tmp_path) as opened:
        code, told = spoken(*words, "--inversion", "ddim", "--editor", "prompt", "--quiet", "--device", "cpu")
    made = len(list((tmp_path / "out").glob("*.png")))
    outside = [path for path in opened if not path.startswith((str(tiny_folder.parent), "/tmp", "/usr", "/etc/mime"))]
    assert outside == []
    with capsys.disabled():
        print(f"\n  pictures and masks: {len(lines) - 1} tried, {made} edited, exit code {code}")
    assert code == 2
    assert made + told.count("\n") >= len(lines) - 1
    assert 100 * TIMES < made < len(lines) - 1
    assert all(np.asarray(Image.open(path)).shape == (32, 32, 3) for path in (tmp_path / "out").glob("*.png"))
