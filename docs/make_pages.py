"""Writes docs/methods/: a page per method with one edit it makes (source | edit | true edit).

    python docs/make_pages.py [NAME ...] [--steps 20] [--guidance 3] [--no-pictures]

Everything on a page but the picture is read from the method's own file: its docstring, its fields, when to use it.
"""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from random import Random

import torch

import reinvert
from reinvert import pairs, registry
from reinvert.backbones import Backbone
from reinvert.cli.gallery import Row, made, rows
from reinvert.errors import ReinvertError
from reinvert.image import contact_sheet, save_image
from reinvert.picturebook.edits import Edit, sample_edit
from reinvert.registry import Group
from reinvert.values import flag_of, show

FOLDER = Path(__file__).parent / "methods"
GROUPS: tuple[Group, ...] = ("inversions", "editors", "trained")
KINDS = {"inversions": "inversion", "editors": "editor", "trained": "trained editor"}
SHOWN = {
    "masactrl": (5, 0), "pnp": (9, 0), "infedit": (6, 0), "ledits": (2, 0), "pix2pix_zero": (6, 0), "proximal": (6, 0)
}  # fmt: skip
"""Edits (type, seed) that show a method's own strength; the others change an object."""
TRAINED = "Run it with `reinvert instruct`. It needs no inversion; no weights of it are bundled, so no edit is shown."


def edit_for(name: str) -> Edit:
    type_id, seed = SHOWN.get(name, (1, 0))
    return sample_edit(Random(seed + type_id), type_id)


def caption(row: Row, steps: int, guidance: float) -> str:
    edit = edit_for(row.method)
    return f'"{edit.source_prompt}" to "{edit.target_prompt}", {steps} steps, guidance {guidance:g}, picturebook'


def picture(model: Backbone, row: Row, steps: int, guidance: float) -> None:
    """The strip of one method, written beside its page."""
    edit = edit_for(row.method)
    result = made(model, row, edit, steps=steps, guidance=guidance)
    strip = contact_sheet(
        [[edit.picture(model.image_size), result.image, edit.truth(model.image_size)[0]]],
        column_titles=["source", f"{row.inversion} + {row.editor}", "true edit"],
        cell=128,
    )
    save_image(strip, FOLDER / f"{row.method}.png")


def page(group: Group, name: str, shown: str | None) -> str:
    """The page of a method; `shown` is the caption of its picture, if it has one."""
    method, cls = registry.describe(group, name), registry.find(group, name)
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    lines = [f"# {name}", "", f"*{KINDS[group]}* · `src/reinvert/{group}/{name}.py`", ""]
    for part in text.split("\n\n"):
        formula = ["```text", *(line[4:] for line in part.splitlines()), "```"]
        lines += [*(formula if part.startswith("    ") else [part]), ""]
    if method.when:
        lines += [f"**When.** {method.when}", ""]
    lines += [f"**Needs** {method.needs}.", ""]
    if shown is not None:
        lines += [f"![source, edit and true edit]({name}.png)", ""]
        lines += [f"{shown} (`python docs/make_pages.py`).", ""]
    if method.arguments:
        lines += ["| argument | default | |", "| --- | --- | --- |"]
        for a in method.arguments:
            lines.append(f"| `{flag_of(a.name)}` | {show(a.default) or '-'} | {a.help.replace('|', chr(92) + '|')} |")
        lines.append("")
    lines += [TRAINED if group == "trained" else partners(group, name), ""]
    return "\n".join(lines)


def partners(group: Group, name: str) -> str:
    """What it goes with, and why not with the rest."""
    matrix = pairs.matrix()
    row = matrix[name] if group == "inversions" else {other: matrix[other][name] for other in matrix}
    other = "editors" if group == "inversions" else "inversions"
    good = [f"[{n}]({n}.md)" for n, why in row.items() if why is None]
    bad: dict[str, list[str]] = {}
    for n, why in row.items():
        if why is not None:
            bad.setdefault(why, []).append(n)
    text = f"**Goes with** the {other} {', '.join(good) or 'none'}."
    for why, names in bad.items():
        text += f" Not with {', '.join(names)}: {why}."
    return text


def index(names: dict[Group, list[str]]) -> str:
    lines = ["# Methods", "", "Made by `python docs/make_pages.py`; [choosing](../choosing.md) says which to take.", ""]
    for group, found in names.items():
        lines += [f"## {KINDS[group].capitalize()}s", ""]
        lines += [f"- [{name}]({name}.md): {registry.describe(group, name).sentence}" for name in found]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these pages [all]")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--no-pictures", action="store_true", help="leave the pictures as they are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    names: dict[Group, list[str]] = {group: list(registry.names(group)) for group in GROUPS}
    model = reinvert.load("picturebook")
    by_name = {row.method: row for row in rows()}
    by_name |= {"p2p": Row("p2p", "direct", "p2p"), "local_blend": Row("local_blend", "direct", "p2p+local_blend")}
    for group, found in names.items():
        for name in found:
            if args.names and name not in args.names:
                continue
            shown, row = None, by_name.get(name)
            if row is not None and not args.no_pictures:
                try:
                    picture(model, row, args.steps, args.guidance)
                except ReinvertError as error:  # what the bundled model has no parts for
                    print(f"{name} has no picture: {error}", flush=True)
            if row is not None and (FOLDER / f"{name}.png").exists():
                shown = caption(row, args.steps, args.guidance)
            (FOLDER / f"{name}.md").write_text(page(group, name, shown), encoding="utf-8")
            print(f"wrote {name}.md", flush=True)
    (FOLDER / "README.md").write_text(index(names), encoding="utf-8")


if __name__ == "__main__":
    main()
