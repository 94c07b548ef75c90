"""Measures a model of picturebook: what its VAE keeps, and whether it draws what a caption says.

    python -m reinvert.picturebook.evaluate --out DIR [--captions 500] [--steps 50] [--guidance 4] [--sweep 2 3 4 5 7.5]

Every picture is judged by a reader trained on drawings alone (`reader.py`), whose own errors, on true pictures and on
the VAE's round trip of them, are the ceiling of every figure. The reported captions show combinations of object,
colour and background that training never saw. Writes report.json, report.md and sample sheets.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from reinvert.backbones import Backbone, load
from reinvert.image import save_image, to_image, to_tensor
from reinvert.loop import State, last, walk
from reinvert.picturebook.draw import draw
from reinvert.picturebook.reader import SLOTS, Answers, Reader, Told, get_reader, reader_scenes, score, truth
from reinvert.picturebook.scene import Scene, held_out, sample_scene
from reinvert.steps import ddim
from reinvert.trajectory import source_conditioning

GUIDANCE = 4.0
"""The scale of the reported figures where neither --guidance nor --sweep says another."""

AIMS: dict[str, float] = {"kind": 0.95, "background": 0.97, "color": 0.92, "kind+color+background": 0.85}
VAE_AIM = 30.0


# --- measuring ---------------------------------------------------------------------------------------------------


def psnr(a: Image.Image, b: Image.Image, where: NDArray[np.bool_] | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two 8-bit pictures, over the pixels of `where` ([h, w]) or all; capped at
    99 dB where they are equal. NaN if `where` is empty."""
    x, y = (np.asarray(picture.convert("RGB"), dtype=np.float64) for picture in (a, b))
    error = np.square(x - y) if where is None else np.square(x - y)[where]
    if error.size == 0:
        return math.nan
    mse = float(error.mean())
    return 99.0 if mse == 0 else min(99.0, 10 * math.log10(255**2 / mse))


def scenes_for(count: int, seed: str, *, unseen: bool, pairs: float = 0.0, styled: float = 0.0) -> list[Scene]:
    """Scenes whose captions say every colour; `unseen`: with a held-out combination, otherwise without one."""
    rng, scenes = Random(seed), list[Scene]()
    while len(scenes) < count:
        scene = sample_scene(rng, pairs=pairs, styled=styled)
        scene = replace(scene, things=tuple(replace(thing, says_color=True) for thing in scene.things))
        if held_out(scene) == unseen:
            scenes.append(scene)
    return scenes


def round_trip(model: Backbone, pictures: Sequence[Image.Image], batch: int = 50) -> list[Image.Image]:
    """Each picture after the VAE's encoder and decoder."""
    made: list[Image.Image] = []
    for i in range(0, len(pictures), batch):
        decoded = model.decode(model.encode(to_tensor(pictures[i : i + batch])))
        made += [to_image(picture) for picture in decoded]
    return made


def sample(
    model: Backbone,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    guidance: float = GUIDANCE,
    seed: int = 0,
    batch: int = 50,
    done: Callable[[int], None] | None = None,
) -> list[Image.Image]:
    """Draw each prompt from noise with DDIM. Prompt i's noise depends on `seed` and i alone, not on the batch."""
    side = model.image_size
    shape = model.encode(torch.zeros(1, 3, side, side)).shape[1:]
    made: list[Image.Image] = []
    for i in range(0, len(prompts), batch):
        part = prompts[i : i + batch]
        draws = [torch.Generator().manual_seed(1_000_003 * seed + i + j) for j in range(len(part))]
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in draws]).to(model.device)
        walked = walk(
            model,
            model.times(steps, model.latent_shape[1:]),
            State((noise[None],)),
            source_conditioning(model, part),
            guidance=(guidance,),
            step=ddim,
            who="sampling",
        )
        made += [to_image(picture) for picture in model.decode(last(walked).x[0].float())]
        if done is not None:
            done(len(made))
    return made


def rates(scenes: Sequence[Scene], answers: Sequence[Answers]) -> dict[str, float]:
    """`score` of sampled pictures against what their captions say, and the shares where object and colour are right
    together, and with the background; for pairs ("pair.*") per thing, and with the background for the whole picture.
    "all": all that the caption says is right; "pair.both colors", "pair.both facings": those of both things."""
    joint: dict[str, list[bool]] = {}
    for scene, answer in zip(scenes, answers, strict=True):
        true, pair = truth(scene), len(scene.things) > 1
        prefix, slots = ("pair.", SLOTS[1:]) if pair else ("", SLOTS[:1])
        things = [all(answer[f"{s}.{a}"] == true[f"{s}.{a}"] for a in ("kind", "color")) for s in slots]
        joint.setdefault(f"{prefix}kind+color", []).extend(things)
        whole = all(things) and answer["background"] == true["background"]
        joint.setdefault(f"{prefix}kind+color+background", []).append(whole)
        said = truth(scene, said=True)
        joint.setdefault(f"{prefix}all", []).append(all(answer[name] == value for name, value in said.items()))
        if pair:
            joint.setdefault("pair.both colors", []).append(_both(answer, said, "color"))
            if f"{SLOTS[1]}.facing" in said and f"{SLOTS[2]}.facing" in said:
                joint.setdefault("pair.both facings", []).append(_both(answer, said, "facing"))
    return score(scenes, answers, said=True) | {name: sum(hits) / len(hits) for name, hits in joint.items()}


def _both(answer: Answers, said: Answers, attribute: str) -> bool:
    return all(answer[f"{slot}.{attribute}"] == said[f"{slot}.{attribute}"] for slot in SLOTS[1:])


# --- sheets ------------------------------------------------------------------------------------------------------


def captioned_grid(
    pictures: Sequence[Image.Image], captions: Sequence[str], columns: int = 10, zoom: int = 2
) -> Image.Image:
    """Pictures in rows, enlarged pixel by pixel, each with its caption below."""
    side = max(pictures[0].size) * zoom
    font, letters = ImageFont.load_default(10), side // 6
    lines = [textwrap.wrap(caption, letters)[:4] for caption in captions]
    width, height = side + 8, side + 8 + 12 * max(len(part) for part in lines)
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * width + 8, rows * height + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, part) in enumerate(zip(pictures, lines, strict=True)):
        x, y = 8 + i % columns * width, 8 + i // columns * height
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
        for j, line in enumerate(part):
            pen.text((x, y + side + 1 + 12 * j), line, fill=(32, 33, 36), font=font)
    return sheet


def _paired_grid(left: Sequence[Image.Image], right: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Pictures side by side in pairs, each pair with its caption below."""
    pairs: list[Image.Image] = []
    for a, b in zip(left, right, strict=True):
        pair = Image.new("RGB", (a.width + b.width, a.height))
        pair.paste(a, (0, 0))
        pair.paste(b, (a.width, 0))
        pairs.append(pair)
    size = pairs[0].width
    framed = [Image.new("RGB", (size, size), "white") for _ in pairs]
    for frame, pair in zip(framed, pairs, strict=True):
        frame.paste(pair, (0, size - pair.height))
    return captioned_grid(framed, captions, columns=6, zoom=1)


# --- the evaluation ----------------------------------------------------------------------------------------------


@dataclass
class Evaluation:
    """One run. Every part adds its figures to `report` and its sheets to `out`."""

    model: Backbone
    reader: Reader
    out: Path
    steps: int = 50
    guidance: float = GUIDANCE
    seed: int = 0
    batch: int = 50
    tell: Told = print
    report: dict[str, Any] = field(default_factory=dict[str, Any])

    def vae(self, count: int) -> None:
        """PSNR of the VAE's round trip on held-out scenes of every sort, and what the reader makes of it."""
        started = time.perf_counter()
        scenes = scenes_for(count, f"vae {self.seed}", unseen=True, pairs=0.2, styled=0.14)
        pictures = [draw(scene, self.model.image_size) for scene in scenes]
        trips = round_trip(self.model, pictures, self.batch)
        values = [psnr(a, b) for a, b in zip(pictures, trips, strict=True)]
        fresh = reader_scenes(count, self.seed + 1_000_000)
        true = [draw(scene, self.model.image_size) for scene in fresh]
        self.report["vae"] = {
            "scenes": count,
            "psnr_mean": sum(values) / count,
            "psnr_worst": min(values),
            "psnr_mean_drawn": _mean([v for v, s in zip(values, scenes, strict=True) if s.style == "drawn"]),
        }
        self.report["reader"] = {
            "scenes": count,
            "true_pictures": score(fresh, self.reader.read(true)),
            "vae_round_trip": score(fresh, self.reader.read(round_trip(self.model, true, self.batch))),
            "held_out_true": score(scenes, self.reader.read(pictures)),
            "held_out_vae_round_trip": score(scenes, self.reader.read(trips)),
        }
        captions = [f"{value:.1f} dB: {scene.caption}" for value, scene in zip(values, scenes, strict=True)]
        save_image(_paired_grid(pictures[:24], trips[:24], captions[:24]), self.out / "vae.png")
        self._timed("vae", started)

    def draws(self, name: str, scenes: Sequence[Scene], guidance: float, seed: int) -> dict[str, float]:
        """Sample the scenes' captions and read them; the first hundred go on a sheet."""
        started = time.perf_counter()
        captions = [scene.caption for scene in scenes]

        def done(count: int) -> None:
            self.tell(f"{name}: {count} of {len(captions)}, {time.perf_counter() - started:.0f} s")

        pictures = sample(
            self.model, captions, steps=self.steps, guidance=guidance, seed=seed, batch=self.batch, done=done
        )
        answers = self.reader.read(pictures)
        save_image(captioned_grid(pictures[:100], captions[:100]), self.out / f"{name}.png")
        self._timed(name, started)
        return rates(scenes, answers)

    def captions(self, name: str, count: int, *, pairs: float = 0.0, styled: float = 0.0) -> None:
        """Figures of one sort of held-out captions."""
        if count == 0:
            return
        scenes = scenes_for(count, f"{name} {self.seed}", unseen=True, pairs=pairs, styled=styled)
        found = self.draws(name, scenes, self.guidance, self.seed)
        distinct = len({scene.caption for scene in scenes})
        self.report[name] = {"captions": count, "distinct": distinct, "right": found}

    def sweep(self, scales: Sequence[float], count: int) -> None:
        """Choose the guidance on captions of seen combinations, none of which is reported elsewhere."""
        scenes = scenes_for(count, f"sweep {self.seed}", unseen=False)
        found = {f"{g:g}": self.draws(f"sweep-{g:g}", scenes, g, self.seed + 1) for g in scales}
        self.report["sweep"] = {"captions": count, "right": found}
        self.guidance = max(scales, key=lambda g: found[f"{g:g}"]["kind+color+background"])
        self.tell(f"guidance {self.guidance:g} chosen")

    def _timed(self, name: str, started: float) -> None:
        self.report.setdefault("seconds", {})[name] = round(time.perf_counter() - started, 1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


# --- the report --------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """The report as tables."""
    vae, reader, settings = report["vae"], report["reader"], report["settings"]
    verdict = "reached" if vae["psnr_mean"] >= VAE_AIM else "missed"
    lines = [
        f"# What {settings['model']} draws",
        "",
        f"{settings['steps']} DDIM steps, guidance {settings['guidance']:g}, seed {settings['seed']}, "
        f"{settings['dtype']} on {settings['machine']}; {sum(report['seconds'].values()):.0f} s in all.",
        "",
        f"VAE round trip of {vae['scenes']} held-out scenes: mean {vae['psnr_mean']:.2f} dB "
        f"(aim {VAE_AIM:g}: {verdict}), worst {vae['psnr_worst']:.2f} dB; "
        f"mean of the drawn style {vae['psnr_mean_drawn']:.2f} dB.",
        "",
        "Share read right. *True* and *VAE* are the reader's answers on drawings and on the VAE's round trip of them: "
        "the ceiling.",
        "",
    ]
    sorts = [name for name in ("singles", "pairs", "styles") if name in report]
    counts = [f"{name} ({report[name]['captions']})" for name in sorts]
    lines += [_row("attribute", "true", "VAE", *counts, "aim"), _row(*["---"] * (4 + len(sorts)))]
    names = [n for sort in sorts for n in report[sort]["right"]]
    names = sorted(dict.fromkeys([*reader["true_pictures"], *names]), key=lambda n: (n.startswith("pair."), n))
    for name in names:
        ceilings = [reader[which].get(name) for which in ("true_pictures", "vae_round_trip")]
        shares = [*ceilings, *(report[sort]["right"].get(name) for sort in sorts)]
        aim = f">= {AIMS[name]:.0%} (singles)" if name in AIMS else ""
        lines.append(_row(name, *(_percent(share) for share in shares), aim))
    if "sweep" in report:
        swept = report["sweep"]
        lines += ["", f"Guidance, chosen on {swept['captions']} captions of combinations that training saw:", ""]
        wanted = ("kind", "color", "background", "kind+color+background", "material", "wearing", "facing")
        lines += [_row("guidance", *wanted), _row(*["---"] * (1 + len(wanted)))]
        lines += [_row(g, *(_percent(right.get(name)) for name in wanted)) for g, right in swept["right"].items()]
    return "\n".join([*lines, ""])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure what a model of picturebook draws.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report and the sheets")
    parser.add_argument("--model", default="picturebook", help="bundled name or a folder in diffusers format")
    parser.add_argument("--captions", type=int, default=500, help="held-out captions with one thing")
    parser.add_argument("--pairs", type=int, default=80, help="held-out captions with two things")
    parser.add_argument("--styles", type=int, default=40, help="held-out captions of sketches and neon signs")
    parser.add_argument("--scenes", type=int, default=400, help="scenes for the VAE's and the reader's own figures")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, help=f"default: the best of --sweep, or {GUIDANCE:g}")
    parser.add_argument("--sweep", type=float, nargs="*", default=[], help="guidance scales to choose from")
    parser.add_argument("--sweep-captions", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--reader", type=Path, help="where the reader is kept (default: in --out)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args(argv)
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    model = load(args.model, args.device, args.dtype)
    started = time.perf_counter()
    reader = get_reader(args.reader or out / "reader.safetensors", tell)
    run = Evaluation(model, reader, out, args.steps, GUIDANCE, args.seed, args.batch, tell)
    run.report["seconds"] = {"reader": round(time.perf_counter() - started, 1)}
    run.vae(args.scenes)
    if args.sweep:
        run.sweep(args.sweep, args.sweep_captions)
    run.guidance = run.guidance if args.guidance is None else args.guidance
    run.captions("singles", args.captions)
    run.captions("pairs", args.pairs, pairs=1.0)
    run.captions("styles", args.styles, styled=1.0)
    run.report["settings"] = {
        "model": model.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "steps": args.steps,
        "guidance": run.guidance,
        "seed": args.seed,
        "machine": machine(model),
        "torch": torch.__version__,
    }
    (out / "report.json").write_text(json.dumps(run.report, indent=2) + "\n")
    (out / "report.md").write_text(markdown(run.report))
    print(markdown(run.report))


def machine(model: Backbone) -> str:
    """What the figures were measured on, in a few words."""
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
