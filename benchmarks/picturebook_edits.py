"""Compares inversions on true edits of picturebook scenes: does direct > null-text > DDIM hold for the background?

    python benchmarks/picturebook_edits.py [--count 102] [--types 1 6 8] [--steps 50] [--guidance 7.5] [--write]

The same edits (held-out combinations, Prompt-to-Prompt with local blend) for every inversion. Background PSNR is
taken over the pixels outside the true mask of the edit, between the source picture and the edited one: the
background where a thing changes, the thing itself where the background does. Success is what the attribute reader
says: everything that the edit changes is read as the target asks. The VAE's own round trip is the ceiling of all
figures.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image

import reinvert
from reinvert.image import contact_sheet, save_image
from reinvert.picturebook.edits import EDIT_TYPES, Edit, sample_edits
from reinvert.picturebook.evaluate import machine, psnr, round_trip
from reinvert.picturebook.reader import Reader, changed, get_reader, truth

INVERSIONS = ("ddim", "null_text", "negative_prompt", "direct")
CEILING = "vae"
"""The row of the VAE's round trip: of the source for what is kept, of the true edit for the rest."""
EXPECTED = ("direct", "null_text", "ddim")
"""The order of background PSNR that PnP Inversion reports."""
COLUMNS = {
    "background": "background PSNR",
    "reconstruction": "reconstruction PSNR",
    "true_edit": "PSNR to the true edit",
    "success": "edit success",
    "whole": "everything right",
}


@dataclass(frozen=True)
class Outcome:
    """The pictures of one inversion, one per edit, and what they cost."""

    edited: list[Image.Image]
    reconstructed: list[Image.Image]
    seconds: float
    forwards: int
    backwards: int


def run(
    model: Any,
    edits: Sequence[Edit],
    inversion: str,
    arguments: dict[str, Any],
    args: argparse.Namespace,
    tell: Callable[[str], None],
) -> Outcome:
    """Invert and edit, batch by batch."""
    started, tally = time.perf_counter(), model.tally.copy()
    edited: list[Image.Image] = []
    reconstructed: list[Image.Image] = []
    editing = {"editor": "p2p", "guidance": args.guidance, "cross": args.cross, "self_attention": args.self_attention}
    for i in range(0, len(edits), args.batch):
        part = edits[i : i + args.batch]
        trajectory = reinvert.invert(
            model,
            [edit.picture(model.image_size) for edit in part],
            [edit.source_prompt for edit in part],
            inversion=inversion,
            steps=args.steps,
            guidance=args.guidance,
            **arguments,
        )
        blend = [(",".join(edit.source_words), ",".join(edit.target_words)) for edit in part] if args.blend else None
        found = reinvert.edit(model, trajectory, target=[edit.target_prompt for edit in part], blend=blend, **editing)
        made = found if isinstance(found, list) else [found]
        edited += [result.image for result in made]
        reconstructed += [result.reconstruction for result in made]
        tell(f"{inversion}: {len(edited)} of {len(edits)}, {time.perf_counter() - started:.0f} s")
    spent = model.tally.since(tally)
    return Outcome(edited, reconstructed, time.perf_counter() - started, spent.forwards, spent.backwards)


def judge(edits: Sequence[Edit], outcome: Outcome, reader: Reader, side: int) -> list[dict[str, float]]:
    """The figures of every edit."""
    rows: list[dict[str, float]] = []
    for edit, edited, again, answer in zip(
        edits, outcome.edited, outcome.reconstructed, reader.read(outcome.edited), strict=True
    ):
        source, (true, mask) = edit.picture(side), edit.truth(side)
        asked, all_asked = changed(edit), truth(edit.target)
        rows.append(
            {
                "background": psnr(edited, source, ~mask),
                "reconstruction": psnr(again, source),
                "true_edit": psnr(edited, true),
                "success": float(all(answer[name] == value for name, value in asked.items())),
                "whole": float(all(answer[name] == value for name, value in all_asked.items())),
            }
        )
    return rows


def ceiling(model: Any, edits: Sequence[Edit], reader: Reader, batch: int) -> list[dict[str, float]]:
    """What the VAE alone allows."""
    side = model.image_size
    sources = [edit.picture(side) for edit in edits]
    kept, ideal = round_trip(model, sources, batch), round_trip(model, [e.truth(side)[0] for e in edits], batch)
    rows = judge(edits, Outcome(ideal, kept, 0.0, 0, 0), reader, side)
    for row, edit, source, trip in zip(rows, edits, sources, kept, strict=True):
        row["background"] = psnr(trip, source, ~edit.truth(side)[1])
    return rows


# --- summaries ---------------------------------------------------------------------------------------------------


def mean(rows: Sequence[dict[str, float]], name: str) -> float:
    """The mean over the edits for which the figure exists (an edit of the style keeps no pixel)."""
    values = [row[name] for row in rows if not math.isnan(row[name])]
    return sum(values) / len(values) if values else math.nan


def lead(better: Sequence[float], worse: Sequence[float], seed: int = 0) -> tuple[float, float, float, float]:
    """Mean paired difference, its 95 % bootstrap interval, and the share of edits in which the first is ahead."""
    gaps = [a - b for a, b in zip(better, worse, strict=True) if not (math.isnan(a) or math.isnan(b))]
    rng = Random(seed)
    means = sorted(sum(rng.choices(gaps, k=len(gaps))) / len(gaps) for _ in range(2000))
    return sum(gaps) / len(gaps), means[50], means[1949], sum(gap > 0 for gap in gaps) / len(gaps)


def cell(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0%}" if name in ("success", "whole") else f"{value:.2f}"


def table(found: dict[str, list[dict[str, float]]], outcomes: dict[str, Outcome], count: int) -> list[str]:
    """One row per inversion."""
    lines = [f"| inversion | {' | '.join(COLUMNS.values())} | seconds | forwards | backwards |"]
    lines.append("|---" * (len(COLUMNS) + 4) + "|")
    for name, rows in found.items():
        shown = [cell(column, mean(rows, column)) for column in COLUMNS]
        cost = ["", "", ""]
        if name in outcomes:
            o = outcomes[name]
            cost = [f"{o.seconds / count:.2f}", f"{o.forwards / count:.0f}", f"{o.backwards / count:.0f}"]
        label = "VAE alone (ceiling)" if name == CEILING else name
        lines.append(f"| {label} | {' | '.join([*shown, *cost])} |")
    return lines


def by_type(found: dict[str, list[dict[str, float]]], edits: Sequence[Edit]) -> list[str]:
    """Background PSNR and success of every edit type."""
    kinds = sorted({edit.type_id for edit in edits})
    lines = [f"| inversion | {' | '.join(EDIT_TYPES[k] for k in kinds)} |", "|---" * (1 + len(kinds)) + "|"]
    for name, rows in found.items():
        cells: list[str] = []
        for kind in kinds:
            own = [row for row, edit in zip(rows, edits, strict=True) if edit.type_id == kind]
            cells.append(f"{cell('background', mean(own, 'background'))} dB, {cell('success', mean(own, 'success'))}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def verdict(found: dict[str, list[dict[str, float]]]) -> list[str]:
    """Whether the expected order holds, pair by pair."""
    present = [name for name in EXPECTED if name in found]
    lines: list[str] = []
    for first, second in pairwise(present):
        gap, low, high, share = lead([r["background"] for r in found[first]], [r["background"] for r in found[second]])
        lines.append(
            f"{first} - {second}: {gap:+.2f} dB of background PSNR (95 % interval {low:+.2f} to {high:+.2f}), "
            f"ahead in {share:.0%} of the edits"
        )
    order = [mean(found[name], "background") for name in present]
    holds = all(a > b for a, b in pairwise(order))
    shown = " > ".join(f"{name} {value:.2f}" for name, value in zip(present, order, strict=True))
    judged = "as the paper reports" if holds else "NOT as the paper reports"
    return [f"Order of background PSNR, {shown}: {judged}.", "", *lines]


def sheet(edits: Sequence[Edit], outcomes: dict[str, Outcome], side: int, rows: int = 12) -> Image.Image:
    """Source, true edit and what every inversion led to, for the first edits."""
    shown = [
        [edit.picture(side), edit.truth(side)[0], *(o.edited[i] for o in outcomes.values())]
        for i, edit in enumerate(edits[:rows])
    ]
    titles = [f"{edit.source_prompt} -> {edit.target_prompt}" for edit in edits[:rows]]
    return contact_sheet(shown, column_titles=["source", "true edit", *outcomes], row_titles=titles, cell=128)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare inversions on true edits of picturebook scenes.")
    parser.add_argument("--count", type=int, default=102, help="number of edits; the types take turns")
    parser.add_argument("--types", type=int, nargs="+", default=[1, 6, 8], help="PIE-Bench's edit types (0..9)")
    parser.add_argument("--inversions", nargs="+", default=list(INVERSIONS))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--cross", type=float, default=0.4, help="p2p: share of the run that keeps cross-attention")
    parser.add_argument("--self-attention", type=float, default=0.6, help="p2p: the same for self-attention")
    parser.add_argument(
        "--blend",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="blend locally on each edit's own words, as the published runs do",
    )
    parser.add_argument("--inner", type=int, default=10, help="null-text: most inner steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=17)
    parser.add_argument("--seen", action="store_true", help="edits of any combination, not only held-out ones")
    parser.add_argument("--model", default="picturebook")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--reader", type=Path, default=Path("out/reader.safetensors"), help="trained there if missing")
    parser.add_argument("--out", type=Path, default=Path("out/picturebook-edits"))
    parser.add_argument("--write", action="store_true", help="also write docs/picturebook-edits.md and .png")
    given = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(given)
    if args.blend and 9 in args.types:
        parser.error("edits of the style have no words to blend on; leave 9 out of --types, or add --no-blend")

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    model = reinvert.load(args.model, args.device, args.dtype)
    reader = get_reader(args.reader, tell)
    edits = sample_edits(args.count, args.types, args.seed, unseen=not args.seen)
    found = {CEILING: ceiling(model, edits, reader, args.batch)}
    outcomes: dict[str, Outcome] = {}
    for name in args.inversions:
        arguments = {"inner": args.inner} if name == "null_text" else {}
        outcomes[name] = run(model, edits, name, arguments, args, tell)
        found[name] = judge(edits, outcomes[name], reader, model.image_size)

    types = ", ".join(EDIT_TYPES[t] for t in args.types)
    editor = f"P2P (cross {args.cross:g}, self {args.self_attention:g}{', local blend' if args.blend else ''})"
    text = [
        "# Inversions compared on picturebook's true edits",
        "",
        f"{len(edits)} edits ({types}; {'any' if args.seen else 'held-out'} combinations, seed {args.seed}), {editor}, "
        f"{args.steps} steps, guidance {args.guidance:g}, null-text with at most {args.inner} inner steps; "
        f"{str(model.dtype).removeprefix('torch.')} on {machine(model)}. Seconds, forwards and backwards are per edit, "
        f"in batches of {args.batch}.",
        "",
        *table(found, outcomes, len(edits)),
        "",
        *verdict(found),
        "",
        "Background PSNR (dB) and success by edit type:",
        "",
        *by_type(found, edits),
        "",
        f"Made by `{' '.join(['python benchmarks/picturebook_edits.py', *given])}`.",
        "",
    ]
    report = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
        "machine": machine(model),
        "torch": torch.__version__,
        "cost": {
            name: {"seconds": o.seconds, "forwards": o.forwards, "backwards": o.backwards}
            for name, o in outcomes.items()
        },
        "edits": [
            {
                "type": edit.type_name,
                "source": edit.source_prompt,
                "target": edit.target_prompt,
                **{name: {k: None if math.isnan(v) else v for k, v in rows[i].items()} for name, rows in found.items()},
            }
            for i, edit in enumerate(edits)
        ],
    }
    pictures = sheet(edits, outcomes, model.image_size)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "edits.json").write_text(json.dumps(report, indent=2) + "\n")
    (args.out / "edits.md").write_text("\n".join(text))
    save_image(pictures, args.out / "edits.png")
    if args.write:
        docs = Path(__file__).parents[1] / "docs"
        docs.mkdir(exist_ok=True)
        (docs / "picturebook-edits.md").write_text("\n".join([*text[:2], "![](picturebook-edits.png)", "", *text[2:]]))
        save_image(pictures, docs / "picturebook-edits.png")
    print("\n".join(text))


if __name__ == "__main__":
    main()
