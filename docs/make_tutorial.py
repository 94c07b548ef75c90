"""Writes the pictures of docs/tutorial.md, with the bundled model on a CPU, in about a minute.

python docs/make_tutorial.py [--steps 50] [--out docs/images/tutorial]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops

import reinvert
from reinvert.backbones import Backbone
from reinvert.image import contact_sheet, save_image, to_image
from reinvert.picturebook.draw import draw, true_edit
from reinvert.picturebook.scene import Scene, Thing

SCENE = Scene((Thing("cat", "red", x=0.5, ground=0.86, size=0.29),), "grass", seed=3)
TARGET = SCENE.with_thing(kind="dog")
GUIDANCE = 3.0
CELL = 128
Strip = list[tuple[str, Image.Image]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "tutorial")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = reinvert.load("picturebook")
    args.out.mkdir(parents=True, exist_ok=True)
    for strip in (words_alone, noising, reconstructing, editing, sharing, pulling, regions, elsewhere):
        cells = strip(model, args.steps)
        sheet = contact_sheet([[cell for _, cell in cells]], column_titles=[title for title, _ in cells], cell=CELL)
        path = args.out / f"{strip.__name__.replace('_', '-')}.png"
        save_image(sheet.quantize(256, dither=Image.Dither.NONE).convert("RGB"), path)
        print(f"wrote {path}", flush=True)


def picture() -> Image.Image:
    return draw(SCENE)


def edit(model: Backbone, steps: int, target: str = TARGET.caption, **options: Any) -> Image.Image:
    options = {"steps": steps, "guidance": GUIDANCE, **options}
    return reinvert.edit(model, picture(), source=SCENE.caption, target=target, **options).image


def words_alone(model: Backbone, steps: int) -> Strip:
    """Pictures drawn from noise: of the words, but not of the picture."""
    drawn = [edit(model, steps, inversion="none", editor="sdedit", strength=1.0, seed=seed) for seed in range(4)]
    return [("your picture", picture()), *((f"seed {seed}", cell) for seed, cell in enumerate(drawn))]


def noising(model: Backbone, steps: int) -> Strip:
    """The latents on the way up, decoded."""
    path = reinvert.invert(model, picture(), SCENE.caption, inversion="ddim", steps=steps).path
    levels = [round(share * steps) for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    return [(f"step {k}" if k else "your picture", to_image(model.decode(path[k])[0])) for k in levels]


def reconstructing(model: Backbone, steps: int) -> Strip:
    """The source rendered from its noise, without and with guidance; free, and held on its path."""
    cells: Strip = [("your picture", picture())]
    for title, inversion, guidance in (
        ("DDIM, guidance 1", "ddim", 1.0),
        ("DDIM, guidance 3", "ddim", 3.0),
        ("DDIM, guidance 7.5", "ddim", 7.5),
        ("direct, guidance 7.5", "direct", 7.5),
    ):
        options = {"inversion": inversion, "guidance": guidance, "steps": steps}
        cells.append((title, reinvert.reconstruct(model, picture(), SCENE.caption, **options).image))
    return cells


def editing(model: Backbone, steps: int) -> Strip:
    """One edit, kept more and more; and what really changes."""
    blended = edit(model, steps, blend=("cat", "dog"))
    return [
        ("your picture", picture()),
        ("prompt alone", edit(model, steps, editor="prompt")),
        ("p2p", edit(model, steps)),
        ("p2p, blend", blended),
        ("what changed", difference(picture(), blended)),
        ("true edit", true_edit(SCENE, TARGET)[0]),
    ]


def sharing(model: Backbone, steps: int) -> Strip:
    """How long the target looks where the source looked."""
    target = SCENE.with_thing(material="striped").caption
    shares = ((0.0, 0.0), (0.2, 0.3), (0.4, 0.6), (0.8, 0.8), (1.0, 1.0))
    return [(f"cross {c:g}, self {s:g}", edit(model, steps, target, cross=c, self_attention=s)) for c, s in shares]


def pulling(model: Backbone, steps: int) -> Strip:
    """How hard the words pull."""
    return [
        (f"guidance {g:g}", edit(model, steps, guidance=g, blend=("cat", "dog"))) for g in (1.0, 2.0, 3.0, 5.0, 7.5)
    ]


def regions(model: Backbone, steps: int) -> Strip:
    """A region of one's own: white may change, black stays."""
    target = replace(SCENE, background="snow").caption
    mask = Image.fromarray(np.uint8([[255 * (x >= 32) for x in range(64)]] * 64))
    return [
        ("your picture", picture()),
        ("p2p", edit(model, steps, target)),
        ("a mask", mask),
        ("p2p, that mask", edit(model, steps, target, mask=mask)),
    ]


def elsewhere(model: Backbone, steps: int) -> Strip:
    """Other methods on other wishes."""
    sketch = replace(SCENE, style="sketch").caption
    return [
        ("your picture", picture()),
        ("style: pnp", edit(model, steps, sketch, inversion="ddim", editor="pnp", negative="")),
        (
            "add: ledits",
            edit(model, steps, SCENE.with_thing(wearing="hat").caption, inversion="edit_friendly", editor="ledits"),
        ),
        ("few steps: infedit", edit(model, 12, editor="infedit", inversion="none")),
        ("a mask: blended_latent", edit(model, steps, inversion="none", editor="blended_latent", mask=changed())),
    ]


def changed() -> Image.Image:
    """The true mask of the edit."""
    return Image.fromarray(true_edit(SCENE, TARGET)[1])


def difference(a: Image.Image, b: Image.Image) -> Image.Image:
    """Where two pictures differ, twice as bright, on black."""
    return ImageChops.difference(a, b).point(lambda v: min(255, 2 * v))


if __name__ == "__main__":
    main()
