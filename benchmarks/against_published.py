"""The published programs of PnP Inversion's table side by side with this package: rows, CPU time, wall time, the edit.

    python benchmarks/against_published.py --pnpinversion FOLDER [--model sd14-random|FOLDER] [--steps 50]
                                           [--rows ROW ...] [--repeats 3] [--out FILE.json] [--write PAGE]
    python benchmarks/against_published.py --schedules [--model picturebook|sd14-random|FOLDER] ...

FOLDER is a copy of https://github.com/cure-lab/PnPInversion (arXiv 2310.01506). Its programs are run as they are, on
copies of the same networks, with the same picture and prompts, by the settings of their own scripts; what keeps them
from running on today's libraries is mended while they are read (`borrowed.py` lists it), and nothing of theirs is
kept. They are written for Stable Diffusion 1.x, so the model is a random one of its sizes (`sd14.py`) unless another is
named.

With `--schedules` no repository is needed: `published.py` walks what those programs do, written afresh from their
description, with any model. The P2P family's rows are whole programs and end at the same edit; the others are their
calls of the network alone, so that only time can be compared.

Either way each row is run `--repeats` times on both sides in turn, in alternating order, on one thread, behind a bare
call of the network that warms up. Ratios are medians of the pairs' ratios: CPU time, since other programs on the
machine take wall time from one side more than from the other. Rows of the network are counted where they enter it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import published
import torch
from overhead import open_model, put, section
from performance import Table, case_for, say
from PIL import Image
from published import Settings
from torch import Tensor

from reinvert import recipes
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.editors.base import Editor
from reinvert.editors.local_blend import LocalBlend
from reinvert.editors.p2p import P2P
from reinvert.image import atomic_write
from reinvert.inversions.base import Source
from reinvert.recipes import Recipe
from reinvert.request import prepared_edit

AIM = "Aim: CPU time above the ratio of the rows."


@dataclass
class Seen:
    """What entered a network: rows and calls."""

    rows: int = 0
    calls: int = 0


@contextmanager
def watched(unets: Sequence[torch.nn.Module]) -> Iterator[Seen]:
    """Counts at the first layer, which a program that calls `unet.forward` does not go around."""
    seen = Seen()

    def note(_: Any, args: tuple[Any, ...]) -> None:
        seen.rows += len(args[0])
        seen.calls += 1

    handles = [unet.get_submodule("conv_in").register_forward_pre_hook(note) for unet in unets]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Side:
    """One side of a row: something that edits, with the networks it asks. The edit's latents are [channel, h, w]."""

    unets: Sequence[torch.nn.Module]
    edit: Callable[[], Tensor | None]


@dataclass(frozen=True)
class Spent:
    cpu: float
    wall: float


def spent(work: Callable[[], Any]) -> Spent:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


def compare(row: str, theirs: Side, ours: Side, repeats: int) -> dict[str, Any]:
    """One row of the table: both sides in turn, each time with another one first; counted and compared on the way."""
    sides = {"published": theirs, "reinvert": ours}
    counts: dict[str, Seen] = {}
    latents: dict[str, Tensor | None] = {}
    taken: dict[str, list[Spent]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            with watched(sides[name].unets) as seen:
                spend = spent(lambda name=name: latents.update({name: sides[name].edit()}))
            taken[name].append(spend)
            counts[name] = seen
    pairs = list(zip(taken["published"], taken["reinvert"], strict=True))
    cpu = [a.cpu / b.cpu for a, b in pairs]
    rows = counts["published"].rows / counts["reinvert"].rows
    ratio = statistics.median(cpu)
    line = {
        "row": row,
        "rows": f"{counts['published'].rows} / {counts['reinvert'].rows}",
        "calls": f"{counts['published'].calls} / {counts['reinvert'].calls}",
        "ratio of rows": rows,
        "CPU s": " / ".join(f"{statistics.median(s.cpu for s in taken[name]):.3g}" for name in sides),
        "ratio of CPU time": ratio,
        "of each pair": f"{min(cpu):.2f} to {max(cpu):.2f}",
        "ratio of wall time": statistics.median(a.wall / b.wall for a, b in pairs),
        "above": "yes" if ratio > rows else "no",
        "edit, relative L2": apart(latents["reinvert"], latents["published"]),
        "why not": "",
    }
    say(f"{row}: rows {line['rows']}, {rows:.2f}; CPU {line['CPU s']} s, {ratio:.2f}")
    return line


def apart(mine: Tensor | None, theirs: Tensor | None) -> float | None:
    """Relative L2 of the edit's latents to the published ones, where both sides have them."""
    if mine is None or theirs is None:
        return None
    mine, theirs = mine.detach().double().cpu(), theirs.detach().double().cpu()
    return float((mine - theirs).norm() / theirs.norm())


def refused(row: str, why: str) -> dict[str, Any]:
    """A row that could not be run, with the reason in one sentence."""
    say(f"{row}: {why}")
    figures = ("rows", "calls", "ratio of rows", "CPU s", "ratio of CPU time", "of each pair", "ratio of wall time")
    return {"row": row, **dict.fromkeys((*figures, "above", "edit, relative L2")), "why not": why}


# --- this package ---------------------------------------------------------------------------------------------------


def recipe_for(row: str, steps: int) -> Recipe:
    return replace(recipes.find(row), steps=steps)


def editors_of(recipe: Recipe, asked: Settings) -> list[Editor]:
    """The recipe's editors with the case's words."""
    made: list[Editor] = []
    for editor in recipe.editor_methods():
        if isinstance(editor, LocalBlend):
            made.append(replace(editor, source_words=asked.blend[:1], target_words=asked.blend[1:]))
        elif isinstance(editor, P2P) and recipe.case.boost is not None:
            made.append(replace(editor, boost={asked.blend[1]: recipe.case.boost}))
        else:
            made.append(editor)
    return made


def from_latents(model: StableDiffusion, x0: Tensor, asked: Settings, row: str) -> Side:
    """The row's recipe from latents to latents."""
    recipe = recipe_for(row, asked.steps)
    targets = ((asked.target,),)

    def edit() -> Tensor:
        said = (recipe.source_of(asked.source),)
        source = Source(model, x0, said, recipe.steps, recipe.guidance, recipe.seed)
        inverted = recipe.inversion_method().invert(source)
        trajectory, hooks = prepared_edit(model, inverted, editors_of(recipe, asked), targets, seed=recipe.seed)
        x = trajectory.path[-1:]
        for _, state in trajectory.walk(model, targets, hooks, recipe.guidance):
            x = state.x
        return x[-1, 0]

    return Side((model.unet,), edit)


def from_picture(model: StableDiffusion, picture: Image.Image, asked: Settings, row: str) -> Side:
    """The row's recipe from picture to picture."""
    recipe = recipe_for(row, asked.steps)

    def edit() -> Tensor:
        inverted = recipe.invert(model, [picture], [asked.source])
        return recipe.edit(model, inverted, [asked.target], [asked.blend])[0].latents[-1]

    return Side((model.unet,), edit)


# --- the two tables ---------------------------------------------------------------------------------------------------


def schedule_of(model: StableDiffusion, x0: Tensor, asked: Settings, row: str) -> Side:
    def edit() -> Tensor | None:
        latents = published.follow(model, x0, asked, row=row).latents
        return latents[-1] if row in published.P2P else None

    return Side((model.unet,), edit)


def schedules(
    model: StableDiffusion, steps: int, rows: Sequence[str], repeats: int, side: int | None = None
) -> Iterator[Table]:
    """Every row's published schedule, as `published.py` walks it, against this package; latents to latents.

    The table comes once with each new row: a long run that is ended has what was measured.
    """
    x0, asked = case_for(model, steps, side)
    warm_up(model)
    table = Table(
        f"Against the published schedules: {model.name}",
        f"One edit of {x0.shape[-2]} x {x0.shape[-1]} latents in {steps} steps, from latents to latents, published "
        f"/ reinvert; one thread, {repeats} pairs taken "
        "in turn. *published* are the schedules of `benchmarks/published.py`: whole programs of the P2P family, which "
        "end at the same edit, and the calls of the network alone of the others, with none of what is done between "
        f"them. {AIM}",
    )
    for row in rows:
        table.rows.append(
            compare(row, schedule_of(model, x0, asked, row), from_latents(model, x0, asked, row), repeats)
        )
        yield table


def programs(folder: Path, model: StableDiffusion, steps: int, rows: Sequence[str], repeats: int) -> Iterator[Table]:
    """Every row's published program against this package; picture to picture. The table comes with each new row."""
    from borrowed import Borrowed, Refused

    picture, asked = picture_for(model, steps)
    warm_up(model)
    table = Table(
        f"Against the published programs: {model.name}",
        f"One edit in {steps} steps, from picture to picture with everything that a program makes for its own output "
        f"(panels, reconstructions), published / reinvert; one thread, {repeats} pairs taken in turn. *published* is a "
        f"copy of cure-lab/PnPInversion, run on the same weights. {AIM}",
    )
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "picture.png"
        picture.save(file)
        for row in rows:
            try:
                with Borrowed(folder, model, steps).program(row) as program:
                    theirs = Side(program.unets, lambda program=program: program.edit(file, asked))
                    table.rows.append(compare(row, theirs, from_picture(model, picture, asked, row), repeats))
            except Refused as why:
                table.rows.append(refused(row, str(why)))
            yield table


def warm_up(model: StableDiffusion) -> None:
    with torch.no_grad():
        model.answer(torch.zeros(1, 1, *model.latent_shape), model.encode_text([""])[None], model.times(1)[0], None)


def picture_for(model: StableDiffusion, steps: int) -> tuple[Image.Image, Settings]:
    """A picture of the model's size and an edit of it: blurred noise, since a random model knows no pictures."""
    _, asked = case_for(model, steps)
    small = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    side = model.image_size
    return Image.fromarray(small.numpy()).resize((side, side), Image.Resampling.BICUBIC), asked


def main(argv: Sequence[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pnpinversion", type=Path, metavar="FOLDER", help="a copy of cure-lab/PnPInversion")
    parser.add_argument("--schedules", action="store_true", help="compare with published.py; needs no repository")
    parser.add_argument("--model", help="sd14-random, or a folder; with --schedules picturebook, too")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rows", nargs="+", choices=published.ROWS, default=list(published.ROWS), metavar="ROW")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latent", type=int, metavar="SIDE", help="with --schedules: cells a side of random latents")
    parser.add_argument("--out", type=Path, help="write the table as JSON, too")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    given = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(given)
    if args.pnpinversion is None and not args.schedules:
        parser.exit(
            2, "name a copy of cure-lab/PnPInversion: --pnpinversion FOLDER, or --schedules, which needs none\n"
        )
    if args.pnpinversion is not None and not (args.pnpinversion / "models" / "p2p").is_dir():
        parser.exit(2, f"{args.pnpinversion} is no copy of cure-lab/PnPInversion: it has no models/p2p\n")
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    command = shlex.join(["python", "benchmarks/against_published.py", *given])
    if args.pnpinversion is None:
        tables = schedules(open_model(args.model or "picturebook"), args.steps, args.rows, args.repeats, args.latent)
    else:
        model = open_model(args.model or "sd14-random")
        tables = programs(args.pnpinversion, model, args.steps, args.rows, args.repeats)
    table = Table("", "")
    for table in tables:
        if args.out:
            told = json.dumps({**vars(table), "command": command, "load": os.getloadavg()}, indent=1)
            atomic_write(args.out, lambda draft, told=told: draft.write_text(told))
    print(section(table, command))
    if args.write:
        put(args.write, table, command)
    return table


if __name__ == "__main__":
    main()
