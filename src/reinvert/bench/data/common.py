"""What the readers share: pictures that cannot leave their folder, prompts in brackets, run-length masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reinvert.bench.case import EditCase, Mask, Problem
from reinvert.errors import ReinvertError
from reinvert.image import open_image


def inside(root: Path, name: str) -> Path:
    """The path of a file that a data file names. Raises `ReinvertError` if it is missing or outside of `root`."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ReinvertError(f"its picture {name} lies outside the data's folder")
    if not path.is_file():
        raise ReinvertError(f"its picture {name} does not exist")
    return path


def unbracketed(prompt: str) -> str:
    """The prompt without the brackets around what differs; spaces stay as they are."""
    return prompt.replace("[", "").replace("]", "")


def words_of(prompt: str) -> list[str]:
    return re.findall(r"[\w'-]+", prompt.lower())


def check_blend(case: EditCase) -> str | None:
    """What is wrong with the blend words of a case, which have to occur in their prompts."""
    for prompt, word in zip((case.source_prompt, case.target_prompt), case.blend or (), strict=False):
        if word and not set(words_of(word)) <= set(words_of(prompt)):
            return f"its blend word {word!r} does not occur in {prompt!r}"
    return None


def decode_mask(runs: Sequence[int], height: int, width: int) -> Mask:
    """A run-length mask: (start, length) pairs over the rows of the picture, 0-based; what is too long is cut."""
    if len(runs) % 2 or any(not isinstance(n, int) or n < 0 for n in runs):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ReinvertError("its mask is no list of (start, length) pairs")
    total = height * width
    steps = np.zeros(total + 1, dtype=np.int64)
    starts = np.minimum(np.asarray(runs[0::2], dtype=np.int64), total)
    np.add.at(steps, starts, 1)
    np.add.at(steps, np.minimum(starts + np.asarray(runs[1::2], dtype=np.int64), total), -1)
    return (steps[:total].cumsum() > 0).reshape(height, width)


def encode_mask(mask: Mask) -> list[int]:
    """The runs of `decode_mask`."""
    padded = np.concatenate([[False], mask.reshape(-1), [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    return [int(n) for start, end in zip(edges[0::2], edges[1::2], strict=True) for n in (start, end - start)]


def opened(path: Path) -> Image.Image:
    return open_image(path)


def sound(cases: Iterable[EditCase], problems: list[Problem], *, size: bool = True) -> tuple[EditCase, ...]:
    """The cases whose picture opens and whose mask has its size; the others become problems. A blend word that does
    not occur is told of and taken away."""
    from dataclasses import replace

    good: list[EditCase] = []
    for case in cases:
        try:
            picture = case.picture()
            mask = case.mask()
            if mask is not None and mask.shape != (picture.height, picture.width):
                raise ReinvertError(
                    f"its mask is {mask.shape[1]}x{mask.shape[0]}, its picture {picture.width}x{picture.height}"
                )
        except (ReinvertError, OSError, ValueError) as error:
            problems.append(Problem(case.id, str(error)))
            continue
        wrong = check_blend(case)
        if wrong is not None:
            problems.append(Problem(case.id, f"{wrong}; the case is used without blend words"))
        good.append(case if wrong is None else replace(case, blend=None))
    return tuple(good)
