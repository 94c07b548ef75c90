"""Every legal pair of an inversion and an editor on true edits of all ten types.

    python benchmarks/pairs.py [--count 60] [--steps 10] [--guidance 3] [--out out/pairs] [--write]
    python benchmarks/pairs.py --share 1/2   (in a second process: the other half of the inversions)

Each pair runs with its defaults; the true mask is given only to editors that cannot do without one, blend words only
to local_blend, which so edits fewer cases. One inversion of a case serves all editors, and its cost is part of each
pair's.
Results are appended to OUT as they come: run again to go on. Background PSNR is taken outside the true mask against the
source picture; the PSNR to the true edit over the whole picture. The VAE's round trip is the ceiling of both.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import reinvert
from reinvert import pairs, registry
from reinvert.backbones.base import Tally
from reinvert.picturebook.edits import EDIT_TYPES, Edit, sample_edits
from reinvert.picturebook.evaluate import machine, psnr, round_trip

SHORTER: dict[str, dict[str, Any]] = {"style_diffusion": {"inner": 20}}
"""Arguments that shorten what would take most of the time; told in the document."""
DOCUMENT = Path(__file__).parent.parent / "docs" / "pairs.md"


def batches(edits: Sequence[Edit], size: int) -> Iterator[list[Edit]]:
    """Neighbours that agree in whether they have words to blend."""
    for worded in (True, False):
        group = [edit for edit in edits if bool(edit.source_words or edit.target_words) == worded]
        for i in range(0, len(group), size):
            yield group[i : i + size]


def figures(edits: Sequence[Edit], pictures: Sequence[Image.Image], side: int) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for edit, edited in zip(edits, pictures, strict=True):
        true, mask = edit.truth(side)
        kept = math.nan if bool(mask.all()) else psnr(edited, edit.picture(side), ~mask)
        rows.append({"type": edit.type_id, "background": kept, "true_edit": psnr(edited, true)})
    return rows


def run_pair(
    model: Any, edits: Sequence[Edit], trajectories: Sequence[tuple[list[Edit], Any, float, Tally]], editor: str,
    guidance: float,
) -> dict[str, Any]:  # fmt: skip
    """One editor on one inversion's trajectories: figures of every edit, mean seconds and forwards."""
    cls = registry.find("editors", editor)
    rows: list[dict[str, float]] = []
    seconds, forwards, backwards = 0.0, 0, 0
    for part, trajectory, inverted_seconds, inverted in trajectories:
        worded = bool(part[0].source_words or part[0].target_words)
        if editor == "local_blend" and not worded:
            continue
        more: dict[str, Any] = {}
        if editor == "local_blend":
            more["blend"] = [(",".join(edit.source_words), ",".join(edit.target_words)) for edit in part]
        if cls.needs_mask:
            more["mask"] = [Image.fromarray(edit.truth(model.image_size)[1]) for edit in part]
        found = reinvert.edit(
            model, trajectory, target=[edit.target_prompt for edit in part], editor=editor, guidance=guidance, **more
        )
        results = found if isinstance(found, list) else [found]
        rows += figures(part, [result.image for result in results], model.image_size)
        seconds += inverted_seconds + results[0].seconds
        forwards += inverted.forwards + results[0].forwards
        backwards += inverted.backwards + results[0].backwards
    n = len(rows)
    return {"rows": rows, "seconds": seconds / n, "forwards": forwards / n, "backwards": backwards / n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inversions", nargs="+", help="only these [all]")
    parser.add_argument("--editors", nargs="+", help="only these [all]")
    parser.add_argument("--share", default="0/1", help="this process's part of the inversions, as 0/2 and 1/2")
    parser.add_argument("--out", type=Path, default=Path("out/pairs"))
    parser.add_argument("--write", action="store_true", help="write docs/pairs.md from what is in OUT, run nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.write:
        DOCUMENT.write_text(document(args), encoding="utf-8")
        print(f"wrote {DOCUMENT.name}")
        return
    torch.set_num_threads(1)
    model = reinvert.load("picturebook")
    edits = sample_edits(args.count, seed=args.seed, unseen=True)
    share, shares = map(int, args.share.split("/"))
    matrix = pairs.matrix()
    for name in (args.inversions or list(matrix))[share::shares]:
        legal = [editor for editor, why in matrix[name].items() if why is None]
        wanted = args.editors or legal
        left = [editor for editor in legal if editor in wanted and not file_of(args, name, editor).exists()]
        if not left:
            continue
        trajectories: list[tuple[list[Edit], Any, float, Tally]] = []
        for part in batches(edits, args.batch):
            started, tally = time.perf_counter(), model.tally.copy()
            trajectory = reinvert.invert(
                model,
                [edit.picture(model.image_size) for edit in part],
                [edit.source_prompt for edit in part],
                inversion=registry.make("inversions", name, SHORTER.get(name)),
                steps=args.steps,
                guidance=args.guidance,
            )
            spent = model.tally.since(tally)
            trajectories.append((part, trajectory, time.perf_counter() - started, spent))
        print(f"{name}: inverted {len(edits)}", flush=True)
        for editor in left:
            record = run_pair(model, edits, trajectories, editor, args.guidance)
            path = file_of(args, name, editor)
            path.with_suffix(".part").write_text(json.dumps(record))
            path.with_suffix(".part").replace(path)
            print(f"{name} x {editor}: {record['seconds']:.2f} s, {record['forwards']:.0f} forwards", flush=True)


def file_of(args: argparse.Namespace, inversion: str, editor: str) -> Path:
    return args.out / f"{inversion}+{editor}.json"


def document(args: argparse.Namespace) -> str:
    """The table as markdown."""
    model = reinvert.load("picturebook")
    side = model.image_size
    edits = sample_edits(args.count, seed=args.seed, unseen=True)
    matrix = pairs.matrix()
    ceiling = figures(edits, round_trip(model, [edit.picture(side) for edit in edits]), side)
    perfect = [psnr(p, edit.truth(side)[0]) for p, edit in zip(
        round_trip(model, [edit.truth(side)[0] for edit in edits]), edits, strict=True)]  # fmt: skip
    shorter = "; ".join(f"{name} with {k} {v}" for name, told in SHORTER.items() for k, v in told.items())
    lines = [
        "# Every legal pair on true edits",
        "",
        f"`python benchmarks/pairs.py --count {args.count} --steps {args.steps} --guidance {args.guidance:g} "
        f"--batch {args.batch}`: "
        f"{args.count} edits of held-out picturebook scenes, all ten types alike, every method with its defaults. "
        "Background PSNR is taken outside the true mask against the source picture (edits that change everything have "
        "none), the PSNR to the true edit over the whole picture; seconds and single-sample forwards are per edit, the "
        f"inversion included, on {machine(model)}. The VAE's own round trip reaches "
        f"{mean(ceiling, 'background'):.2f} dB on the background; of the true edits it makes "
        f"{sum(perfect) / len(perfect):.2f} dB. The source itself, through the VAE, scores "
        f"{mean(ceiling, 'true_edit'):.2f} dB against the true edit.",
        "",
        "At a few steps and a low guidance every method keeps more than at the published settings; this table compares "
        "methods with each other, on this model. Compare costs by forwards: seconds were taken beside other work, more "
        f"of it for some rows than for others, in batches of {args.batch}. Not at its defaults: {shorter}.",
        "",
        "| inversion | editor | edits | background PSNR | PSNR to the true edit | seconds | forwards | backwards |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    missing: list[str] = []
    for inversion, row in matrix.items():
        for editor, why in row.items():
            if why is not None:
                continue
            path = file_of(args, inversion, editor)
            if not path.exists():
                missing.append(f"{inversion} x {editor}")
                continue
            told = json.loads(path.read_text())
            lines.append(
                f"| {inversion} | {editor} | {len(told['rows'])} | {mean(told['rows'], 'background'):.2f} | "
                f"{mean(told['rows'], 'true_edit'):.2f} | {told['seconds']:.2f} | {told['forwards']:.0f} | "
                f"{told['backwards']:.0f} |"
            )
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    types = ", ".join(EDIT_TYPES[i].replace("_", " ") for i in EDIT_TYPES)
    return "\n".join([*lines, "", f"Edit types: {types}.", ""])


def mean(rows: Sequence[dict[str, float]], column: str) -> float:
    """Over the edits that have the figure; a perfect one (infinite) counts as 60 dB."""
    values = [min(row[column], 60.0) for row in rows if not math.isnan(row[column])]
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
