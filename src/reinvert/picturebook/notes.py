"""What reinvert is to know of the bundled model beyond diffusers' format: `reinvert.json` in its folder.

    python -m reinvert.picturebook.notes        writes it again

The limits on pictures lie a little outside of what 1100 drawings reach, freshly drawn, enlarged, made smaller, saved as
JPEG and rendered by the VAE; tests hold them against others, and against photographs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

from reinvert.files.model import NOTES
from reinvert.likeness import plain_area
from reinvert.models import BUNDLED
from reinvert.picturebook.draw import draw
from reinvert.picturebook.scene import caption_words, sample_scene

GUIDANCE: Final = 3.0
"""What is usual for it: it is small and says what it knows at a low scale; above 5 its backgrounds fade."""
STEP: Final = 8
"""Levels of 0..255 that count as one when colours are collected."""
COVERED: Final = 0.99
"""Share of all plain areas that the collected colours account for."""


def notes(*, pictures: bool = True, more: Sequence[str] = (), steps: int = 50) -> dict[str, Any]:
    """The file's values (see `files.model.ModelNotes`); without `pictures` any picture is taken. `more` words than
    those of plain captions are known to the model; `steps` are usual for it."""
    words = sorted({*caption_words(), *more})
    own: dict[str, Any] = {"usual": {"steps": steps, "guidance": GUIDANCE}, "words": words}
    if not pictures:
        return own
    limits = {"psnr": 22.5, "least_even": 0.25, "most_even": 0.955, "most_grey": 0.99, "most_foreign": 0.25}
    return {**own, "pictures": {**limits, "colors": plain_colors()}}


def plain_colors(scenes: int = 1500, seed: int = 99) -> list[str]:
    """The colours of drawings' plain areas, each standing for its neighbours too, the most frequent first."""
    rng, seen = Random(seed), Counter[tuple[int, ...]]()
    for _ in range(scenes):
        pixels = np.asarray(draw(sample_scene(rng, pairs=0.3, styled=0.3)))
        kinds, counts = np.unique(pixels[plain_area(pixels)] // STEP, axis=0, return_counts=True)
        seen.update(dict(zip(map(tuple, kinds.tolist()), counts.tolist(), strict=True)))
    keys, left = np.array(list(seen)), np.array(list(seen.values()), float)
    near, total, chosen = np.abs(keys[:, None] - keys[None]).max(-1) <= 1, left.sum(), list[int]()
    while left.sum() > (1 - COVERED) * total:
        chosen.append(int((near * left).sum(1).argmax()))
        left[near[chosen[-1]]] = 0
    return ["#" + "".join(f"{level:02x}" for level in color) for color in keys[chosen] * STEP + STEP // 2]


def write(folder: Path, *, pictures: bool = True, more: Sequence[str] = (), steps: int = 50) -> None:
    """Write the file into a model's folder. What a VAE may lose of a drawing is that of a VAE trained to its end."""
    (folder / NOTES).write_text(
        json.dumps(notes(pictures=pictures, more=more, steps=steps), indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    write(BUNDLED["picturebook"])
