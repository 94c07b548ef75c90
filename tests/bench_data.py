"""A small folder of cases for the runner's tests: 32x32 pictures, prompts that the tiny models can hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from conftest import make_picture
from PIL import Image

COLUMNS = ("id", "image", "source", "target", "type", "instruction", "mask", "blend_source", "blend_target")
CASES = (
    ("one", "a cat on a mat", "a dog on a mat", "1", "make it a dog", "", "cat", "dog"),
    ("two", "a red hat", "a blue hat", "6", "", "", "red", "blue"),
    ("three", "a cup", "a tea cup", "2", "", "three-mask.png", "", ""),
    ("four", "a man", "an old man", "4", "make him old", "", "", ""),
)


def write_data(folder: Path, count: int = len(CASES)) -> Path:
    folder.mkdir(parents=True)
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    with (folder / "cases.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for seed, (name, source, target, kind, told, masked, *blend) in enumerate(CASES[:count]):
            make_picture(seed).save(folder / f"{name}.png")
            if masked:
                Image.fromarray(mask).save(folder / masked)
            table.writerow([name, f"{name}.png", source, target, kind, told, masked, *blend])
    return folder


def write_recipe(folder: Path, name: str, model: Path, body: str, steps: int = 2) -> str:
    """A recipe file; its path."""
    path = folder / f"{name}.toml"
    path.write_text(f'model = "{model}"\nsteps = {steps}\nguidance = 3.0\nseed = 7\n{body}\n')
    return str(path)


P2P = """
[inversion]
name = "direct"
[editors.p2p]
cross = 0.4
[editors.local_blend]
[case]
blend = true
"""
MASACTRL = """
[inversion]
name = "direct"
[editors.masactrl]
"""
DDIM = """
[inversion]
name = "ddim"
[editors.p2p]
"""
BLENDED = """
[inversion]
name = "none"
[editors.blended_latent]
[case]
mask = true
"""
