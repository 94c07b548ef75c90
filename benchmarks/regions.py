"""How exactly picturebook's regions are found: `python benchmarks/regions.py [--count 100] [--round-trips 30]`.

Fresh scenes are drawn; each thing is named by words that tell it from the other, and the region that
`reinvert.region` finds is held against the true mask: intersection over union. The same after the bundled model's
VAE. What cannot be found counts as 0.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from random import Random

import numpy as np
import torch

from reinvert import ReinvertError
from reinvert.backbones import load
from reinvert.picturebook.draw import draw, thing_masks, worn_masks
from reinvert.picturebook.evaluate import round_trip
from reinvert.picturebook.fitting import fit_square
from reinvert.picturebook.naming import named_mask
from reinvert.picturebook.scene import Scene, sample_scene

VIEWS = (("simple", 64), ("fine", 64), ("fine", 128))


def names_of(scene: Scene) -> list[str]:
    """What to call each thing, from left to right."""
    kinds = [thing.kind for thing in scene.things]
    sides = ["left", "right"] if len(kinds) == 2 else [""]
    apart = len(set(kinds)) == len(kinds)
    return [f"the {k}" if apart else f"the {k} on the {s}" for k, s in zip(kinds, sides, strict=True)]


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union."""
    union = int((found | true).sum())
    return float((found & true).sum() / union) if union else 1.0


def measured(scene: Scene, picture, size: int, detail: str) -> tuple[list[float], list[float], float]:
    """The overlaps of the things and of what they wear, and the seconds of the search."""
    began = time.process_time()
    try:
        fit = fit_square(picture)[1]
    except ReinvertError:
        fit = None
    seconds = time.process_time() - began
    things, worn = thing_masks(scene, size, detail), worn_masks(scene, size, detail)
    asked = [(name, mask) for name, mask in zip(names_of(scene), things, strict=True)]
    hats = [(f"the {n.removeprefix('the ')}", t, m) for (n, _), t, m in zip(asked, scene.things, worn, strict=True)]

    def found(words: str, true: np.ndarray) -> float:
        try:
            return 0.0 if fit is None else overlap(named_mask(words, fit.scene, size, fit.detail), true)
        except ReinvertError:
            return 0.0

    whole = [found(name, mask) for name, mask in asked]
    parts = [found(f"the {thing.wearing} of {name}", mask) for name, thing, mask in hats if thing.wearing]
    return whole, parts, seconds


def row(title: str, whole: list[float], parts: list[float], seconds: float) -> None:
    """One line of the table."""
    each, hats = np.array(whole), np.array(parts or [np.nan])
    print(
        f"| {title} | {each.mean():.3f} | {np.median(each):.3f} | {100 * (each >= 0.9).mean():.0f} % "
        f"| {each.min():.2f} | {hats.mean():.3f} | {seconds:.2f} s |",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--round-trips", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = Random(f"regions {args.seed}")
    scenes = [sample_scene(rng) for _ in range(args.count)]
    scenes = [replace(s, things=tuple(sorted(s.things, key=lambda thing: thing.x))) for s in scenes]
    print("| pictures | mean | median | at least 0.9 | least | hats and crowns | CPU time each |\n" + "|---" * 7 + "|")
    for detail, size in VIEWS:
        done = [measured(scene, draw(scene, size, detail), size, detail) for scene in scenes]
        whole, parts = [v for d in done for v in d[0]], [v for d in done for v in d[1]]
        row(f"{len(scenes)} drawings, {detail}, {size} pixels", whole, parts, float(np.mean([d[2] for d in done])))
    if args.round_trips:
        some = scenes[: args.round_trips]
        pictures = round_trip(load("picturebook"), [draw(scene) for scene in some])
        done = [measured(scene, picture, 64, "simple") for scene, picture in zip(some, pictures, strict=True)]
        whole, parts = [v for d in done for v in d[0]], [v for d in done for v in d[1]]
        row(f"{len(some)} of them through the VAE, 64 pixels", whole, parts, float(np.mean([d[2] for d in done])))


if __name__ == "__main__":
    main()
