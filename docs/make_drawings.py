"""Draws docs/images/drawings.png: every thing, material, style and place in full detail.

python docs/make_drawings.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from reinvert.picturebook.draw import draw
from reinvert.picturebook.scene import (
    BACKGROUNDS,
    COLORS,
    FACINGS,
    KINDS,
    MATERIALS,
    STYLES,
    WEARABLES,
    WEARER_KINDS,
    Scene,
    Thing,
)

SIZE, COLUMNS, GAP = 128, 10, 4
OUT = Path(__file__).parent / "images" / "drawings.png"


def scenes() -> list[Scene]:
    """Ten columns of things: plain ones, then the materials, then the styles."""
    rows = [(0, 0, 0), (1, 1, 0), (2, 3, 0), (3, 2, 0), (0, 4, 1), (0, 5, 2)]
    made = list[Scene]()
    for row, (material, shift, style) in enumerate(rows):
        for i, kind in enumerate(KINDS):
            worn = WEARABLES[i % 2] if kind in WEARER_KINDS and (i + row) % 3 == 0 else None
            color = COLORS[(3 * i + 2 * row + 1) % len(COLORS)]
            thing = Thing(kind, color, MATERIALS[material], FACINGS[(i + row) % 2], worn)
            place = BACKGROUNDS[(i + shift) % len(BACKGROUNDS)]
            made.append(Scene((thing,), place, STYLES[style], seed=10 * row + i))
    return made


def main() -> None:
    """Write the sheet."""
    pictures = [draw(scene, SIZE) for scene in scenes()]
    step, rows = SIZE + GAP, -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * step - GAP, rows * step - GAP), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % COLUMNS * step, i // COLUMNS * step))
    sheet.quantize(256).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
