"""`reinvert demo`: draw a scene, edit it several ways, and lay the edits out beside the true ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from reinvert.cli.common import add_model_options, check_model_options, load_model, tell
from reinvert.cli.progress import progress_bar
from reinvert.differences import psnr
from reinvert.errors import ReinvertError
from reinvert.image import contact_sheet
from reinvert.outputs import PICTURE_SUFFIXES, check_outputs, device_name, provenance, write_picture
from reinvert.picturebook.caption import scene_json
from reinvert.picturebook.draw import draw, true_edit
from reinvert.picturebook.scene import Scene, Thing
from reinvert.values import number, steps

if TYPE_CHECKING:
    from reinvert import verbs
    from reinvert.backbones import Backbone

CAT = Scene((Thing("cat", "red", x=0.5, ground=0.86, size=0.29, says_facing=True),), "grass", seed=3)


@dataclass(frozen=True)
class Edit:
    """One row of the sheet: what changes in which scene, and how it is edited."""

    name: str
    change: Callable[[Scene], Scene]
    blend: tuple[str, str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    scene: Scene = CAT


EDITS = (
    Edit("cat to dog", lambda s: s.with_thing(kind="dog"), ("cat", "dog")),
    Edit("red to blue", lambda s: s.with_thing(color="blue"), ("red", "blue")),
    Edit("plain to striped", lambda s: s.with_thing(material="striped"), ("cat", "striped")),
    Edit("add a hat", lambda s: s.with_thing(wearing="hat"), ("cat", "hat")),
    Edit("grass to snow", lambda s: replace(s, background="snow")),
    Edit("to a sketch", lambda s: replace(s, style="sketch")),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `reinvert demo`."""
    parser.add_argument("-o", "--output", metavar="FOLDER", default="demo", help="[demo]")
    parser.add_argument("--steps", type=steps, default=50, metavar="N", help="sampling steps [50]")
    parser.add_argument("--guidance", type=number, metavar="X", help="guidance scale [the model's usual]")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    check_model_options(args)
    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise ReinvertError(f"{folder} is a file; name a folder with -o")
    sheet_path = folder / "demo.png"
    pictures = [folder / f"{index + 1}-{edit.name.replace(' ', '-')}.png" for index, edit in enumerate(EDITS)]
    if folder.exists():
        sources = [folder / f"source-{index + 1}.png" for index in range(len({edit.scene for edit in EDITS}))]
        check_outputs([*sources, *pictures, sheet_path], [], PICTURE_SUFFIXES)
    from reinvert import verbs

    model = load_model(args)
    args.guidance = verbs.usual(model, args.steps, args.guidance)[1]
    folder.mkdir(parents=True, exist_ok=True)
    about = {"device": device_name(model.device), **provenance(args.command_line)}
    rows: list[list[Image.Image | None]] = []
    told: list[dict[str, Any]] = []
    inverted: dict[Scene, verbs.Trajectory] = {}  # one inversion, any number of edits
    with progress_bar(args.quiet) as watch:
        for index, edit in enumerate(EDITS):
            source = draw(edit.scene, model.image_size)
            if edit.scene not in inverted:
                inverted[edit.scene] = verbs.invert(
                    model, source, edit.scene.caption, steps=args.steps, guidance=args.guidance, watch=watch
                )
                described = {"caption": edit.scene.caption, "scene": scene_json(edit.scene)}
                write_picture(source, folder / f"source-{len(inverted)}.png", {**described, **about})
            row, record = _edited(model, edit, inverted[edit.scene], source, args.guidance, watch)
            write_picture(row[2], pictures[index], {**record, **about})
            rows.append([*row])
            told.append(record)
    sheet = contact_sheet(
        rows,
        column_titles=["source", "reconstruction", "edit: direct inversion + P2P", "the true edit"],
        row_titles=[f"{record['name']}:\n{record['settings']['target']}" for record in told],
    )
    write_picture(sheet, sheet_path, {"edits": told, **about})
    tell([sheet_path])
    return 0


def _edited(
    model: Backbone,
    edit: Edit,
    trajectory: verbs.Trajectory,
    source: Image.Image,
    guidance: float,
    watch: verbs.Watch,
) -> tuple[tuple[Image.Image, Image.Image, Image.Image, Image.Image], dict[str, Any]]:
    """One row of pictures, and what is told about it."""
    target = edit.change(edit.scene)
    truth, mask = true_edit(edit.scene, target, model.image_size)
    from reinvert import verbs

    settings: dict[str, Any] = {"editor": "p2p", "blend": edit.blend, "guidance": guidance, **edit.settings}
    result: verbs.Result = verbs.edit(model, trajectory, target=target.caption, watch=watch, **settings)
    record = {
        "name": edit.name,
        "settings": {**result.settings, "target": target.caption},
        "scene": scene_json(target),
        "background_psnr": _outside(source, result.image, mask),
        "psnr_to_true_edit": round(psnr(result.image, truth), 2),
        "seconds": result.seconds,
        "forwards": result.forwards,
        "backwards": result.backwards,
    }
    return (source, result.reconstruction, result.image, truth), record


def _outside(source: Image.Image, edited: Image.Image, mask: np.ndarray[Any, np.dtype[np.bool_]]) -> float | None:
    """PSNR of what should have stayed, against the source; None where everything changes."""
    if mask.all():
        return None
    kept = [Image.fromarray(np.asarray(picture)[~mask][None]) for picture in (source, edited)]
    return round(psnr(*kept), 2)
