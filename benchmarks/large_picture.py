"""Peak memory of `reinvert edit --paste-back` on a picture of 96 megapixels.

    python benchmarks/large_picture.py [--side 9800] [--model picturebook]

A picturebook drawing, enlarged, is edited with a mask of its own size, each run in a process of its own. Written is the
peak resident size of the process, for the small drawing and for the large picture; the difference is what the picture
costs: about four copies at Pillow's 4 bytes a pixel.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from reinvert.picturebook.caption import read_caption
from reinvert.picturebook.draw import draw

SOURCE, TARGET = "a red cat on grass", "a red dog on grass"
CHILD = """
import resource, sys
from reinvert.cli import main
status = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(f"peak {peak}")
sys.exit(status)
"""


def peak(folder: Path, side: int, model: str, *more: str) -> float:
    """Peak resident size in GB of one edit of a picture of side x side."""
    picture, mask = folder / f"{side}.png", folder / f"{side}-mask.png"
    scene = draw(read_caption(SOURCE, 0), 64)
    scene.resize((side, side), Image.Resampling.NEAREST).save(picture, compress_level=1)
    white = Image.new("L", (side, side))
    white.paste(255, (side // 4, side // 4, side - side // 4, side - side // 4))
    white.save(mask, compress_level=1)
    words = [
        *("edit", str(picture), "--source", SOURCE, "--target", TARGET, "--mask", str(mask), "--paste-back", "--quiet"),
        *("--steps", "4", "--model", model, "--max-pixels", str(side * side), "-o", str(folder / "out.png"), *more),
    ]
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.split("peak ")[1]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=9800)
    parser.add_argument("--model", default="picturebook")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = (peak(Path(folder), side, args.model) for side in (256, args.side))
    copies = (large - small) * 1e9 / (4 * args.side**2)
    print(f"256x256: {small:.2f} GB; {args.side}x{args.side}: {large:.2f} GB, {copies:.1f} copies more")


if __name__ == "__main__":
    main()
