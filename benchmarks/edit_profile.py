"""Where the time of one edit goes: network, rules, step, VAE, text, pictures, and the loop that is left.

    python benchmarks/edit_profile.py [--model picturebook|FOLDER|sd14-random] [--steps 50] [--repeats 3]
                                      [--before FILE.json] [--out FILE.json] [--write PAGE]

CPU time of direct inversion + prompt-to-prompt with local blend, from picture to picture, on one thread; the median of
the repeats by part. Every part is timed where it is entered, less what it calls of another part (a rule that asks for
attention is charged for its own lines; the attention is the network's), and what belongs to none is the loop's. A clock
that is read some ten thousand times an edit adds a hundredth of a second. `--before` puts the figures of another run,
of an older commit say, beside these: this file is then run there with `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from overhead import open_model, put, section
from performance import Table
from PIL import Image

import reinvert
from reinvert import prepared
from reinvert.backbones.stable_diffusion import StableDiffusion
from reinvert.hooks import Hooks
from reinvert.level import Split
from reinvert.picturebook.draw import draw
from reinvert.picturebook.scene import Scene, Thing

PARTS = {
    "network": "the UNet with its attention",
    "rules": "p2p's and local blend's own lines",
    "step": "what the answer says of the picture, and the DDIM step",
    "VAE": "one encoding, two decodings",
    "text": "CLIP, of three prompts",
    "pictures": "fitted, and made of latents",
    "loop": "everything else: rows put together, guidance, anchor, checks, settings",
}
RULES = ("text", "nudge", "attend", "feature", "guide", "blend", "touches", "reads")


class Watch:
    """A stack of the parts that are entered; each is charged for the time in which it is on top."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys(PARTS, 0.0)
        self.stack = ["loop"]
        self.mark = time.process_time()

    def charge(self) -> None:
        now = time.process_time()
        self.spent[self.stack[-1]] += now - self.mark
        self.mark = now

    def within(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self.stack.append(part)
            try:
                return work(*args, **kwargs)
            finally:
                self.charge()
                self.stack.pop()

        return watched


def kinds(of: type) -> Iterator[type]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


@contextmanager
def watched(model: StableDiffusion) -> Iterator[Watch]:
    """The parts of the model and of its walks, watched until the end of the `with`."""
    watch = Watch()
    places: list[tuple[Any, str, str]] = [
        (model.unet, "forward", "network"),
        (F, "scaled_dot_product_attention", "network"),
        (model.vae, "encode", "VAE"),
        (model.vae, "decode", "VAE"),
        (model, "encode_text", "text"),
        (model, "split", "step"),
        (Split, "at", "step"),
        (prepared, "open_image", "pictures"),
        (prepared, "fit_image", "pictures"),
        *((kind, rule, "rules") for kind in kinds(Hooks) for rule in RULES if rule in vars(kind)),
    ]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(patch.object(owner, name, watch.within(part, getattr(owner, name))))
        watch.mark = time.process_time()
        yield watch
        watch.charge()


def case(model: StableDiffusion) -> tuple[Image.Image, dict[str, Any]]:
    scene = Scene((Thing("cat", "red"),), "grass")
    said = {"source": scene.caption, "target": scene.with_thing(kind="dog").caption}
    return draw(scene, model.image_size), {**said, "blend": ("cat", "dog"), "boost": {"dog": 2.0}}


def profiled(model: StableDiffusion, steps: int, repeats: int) -> dict[str, float]:
    """CPU seconds by part."""
    picture, asked = case(model)
    reinvert.edit(model, picture, steps=2, **asked)  # warms up
    taken: list[dict[str, float]] = []
    for _ in range(repeats):
        with watched(model) as watch:
            reinvert.edit(model, picture, steps=steps, **asked)
        taken.append(watch.spent)
    return {part: statistics.median(each[part] for each in taken) for part in PARTS}


def tabled(model: str, steps: int, repeats: int, now: dict[str, float], before: dict[str, float] | None) -> Table:
    table = Table(
        f"Where an edit's time goes: {model}",
        f"CPU seconds of direct inversion + p2p with local blend in {steps} steps, from picture to picture, one "
        f"thread, median of {repeats} edits.",
    )
    runs: dict[str, dict[str, float]] = {"before": before, "now": now} if before else {"": now}
    for part, about in {**PARTS, "all": ""}.items():
        line: dict[str, Any] = {"part": part}
        line |= {f"{name} (CPU s)".strip(): all_of(run, part) for name, run in runs.items()}
        line |= {
            f"share {name}".strip(): f"{all_of(run, part) / all_of(run, 'all'):.1%}"
            for name, run in runs.items()
            if run
        }
        table.rows.append({**line, "what it is": about})
    return table


def all_of(run: dict[str, float], part: str) -> float:
    return sum(run.values()) if part == "all" else run[part]


def main(argv: Sequence[str] | None = None) -> Table:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="picturebook")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--before", type=Path, metavar="FILE", help="what --out wrote of another run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the seconds as JSON")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    given = sys.argv[1:] if argv is None else list(argv)
    args = parser.parse_args(given)
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    model = open_model(args.model)
    now = profiled(model, args.steps, args.repeats)
    if args.out:
        args.out.write_text(json.dumps(now, indent=1))
    before = json.loads(args.before.read_text()) if args.before else None
    table = tabled(model.name, args.steps, args.repeats, now, before)
    command = shlex.join(["python", "benchmarks/edit_profile.py", *given])
    print(section(table, command))
    if args.write:
        put(args.write, table, command)
    return table


if __name__ == "__main__":
    main()
