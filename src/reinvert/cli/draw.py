"""`reinvert draw`: a picturebook scene from a caption, a description or a seed."""

from __future__ import annotations

import argparse
from pathlib import Path
from random import Random

from reinvert.cli.common import output_path, tell
from reinvert.errors import ReinvertError
from reinvert.files import read_text, shown
from reinvert.outputs import PICTURE_SUFFIXES, check_outputs, provenance, write_picture
from reinvert.picturebook.caption import read_caption, read_scene, scene_json
from reinvert.picturebook.draw import DETAILS, FINE_SIZE, SIZE, draw
from reinvert.picturebook.picture import check_size
from reinvert.picturebook.scene import Scene, sample_scene
from reinvert.values import seed, text, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert draw`."""
    parser.usage = (
        "reinvert draw CAPTION | --scene JSON | --random  [--seed N] [--size N] [--detail simple|fine] [-o scene.png]"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "caption", nargs="?", type=text, metavar="CAPTION", help='such as "a red cat wearing a hat on grass"'
    )
    what.add_argument("--scene", metavar="JSON", help="a scene description, or a file that holds one")
    what.add_argument("--random", action="store_true", help="any scene")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="moves what the words leave open [0]")
    parser.add_argument("--size", type=whole, default=SIZE, metavar="N", help=f"side in pixels [{SIZE}]")
    parser.add_argument(
        "--detail", choices=DETAILS, help=f"[fine from {FINE_SIZE} pixels on, below simple: the bundled model's world]"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="[scene.png here]")


def run(args: argparse.Namespace) -> int:
    check_size(args.size, "--size")
    output = output_path(args, "scene.png")
    check_outputs([output], [_scene_file(args.scene)], PICTURE_SUFFIXES)
    scene = chosen_scene(args)
    about = {"caption": scene.caption, "scene": scene_json(scene), "seed": args.seed, **provenance(args.command_line)}
    write_picture(draw(scene, args.size, args.detail), output, about)
    tell([output])
    return 0


def chosen_scene(args: argparse.Namespace) -> Scene:
    """The scene that the arguments ask for."""
    if args.random:
        return sample_scene(Random(args.seed))
    if args.scene is not None:
        file = _scene_file(args.scene)
        return read_scene(args.scene if file is None else read_text(file))
    if args.caption is None:
        raise ReinvertError('say what to draw: a caption such as "a red cat on grass", --scene JSON, or --random')
    return read_caption(args.caption, args.seed)


def _scene_file(given: str | None) -> Path | None:
    """The file that --scene names, if what it was given is not the JSON itself."""
    if given is None or given.lstrip().startswith(("{", "[", '"')):
        return None
    try:
        is_file = Path(given).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        is_file = False
    if not is_file:
        raise ReinvertError(f"{shown(given)} is neither a scene in JSON nor a file that holds one")
    return Path(given)
