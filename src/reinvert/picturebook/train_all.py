"""Trains everything of picturebook's world in full detail, part by part, and measures it.

    python benchmarks/train_picturebook.py --out DIR [--vae-minutes 2 --unet-minutes 2.5 ...]
    python benchmarks/train_picturebook.py --out DIR --rehearse         every part in miniature, about two minutes

Draws the data on all cores; then the VAE, its decoder a while longer, the UNet, the flow model, the judge and the CLIP;
then their figures. Every part has a time budget and goes on from its checkpoint, so the same command continues after
an interruption, and with more minutes trains longer. Weights (`DIR/weights`, diffusers folders in fp16) and tables
(`DIR/tables`) are written as soon as they are there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from reinvert.backbones import load
from reinvert.picturebook import clip, evaluate, flow
from reinvert.picturebook.draw import draw
from reinvert.picturebook.edits import EDIT_TYPES, sample_edits
from reinvert.picturebook.reader import (
    HEADS,
    UNSEEN,
    Network,
    Reader,
    changed,
    reader_scenes,
    score,
    truth,
)
from reinvert.picturebook.reader import _labels as labels_of  # pyright: ignore[reportPrivateUsage]
from reinvert.picturebook.reader import _worn as worn  # pyright: ignore[reportPrivateUsage]
from reinvert.picturebook.scene import Scene
from reinvert.picturebook.train import (
    SHARP,
    Recipe,
    Stage,
    batches,
    caption_tokens,
    compiled,
    encode_share,
    export,
    more_words,
    new_tokenizer,
    on_gpu,
    polish_decoder,
    psnr,
    read_latents,
    render_all,
    shown,
    train_unet,
    train_vae,
    training_scenes,
)

LOG = logging.getLogger(__name__)

Untyped: TypeAlias = Any
LARGEST_MB = 48.0
"""Of all bundled weights."""

AIMS: dict[str, dict[str, float]] = {
    "singles": {
        "kind": 0.98, "background": 0.98, "color": 0.96, "material": 0.95, "facing": 0.95, "wearing": 0.97, "all": 0.88,
    },
    "styles": {"style": 0.97},
    "pairs": {"pair.both colors": 0.80, "pair.both facings": 0.75},
}  # fmt: skip
VAE_AIM, COLOR_AIM, JUDGE_AIM, PAIR_AIM = 32.0, 0.98, 0.99, 0.97


@dataclass(frozen=True)
class Minutes:
    """Of training, for each part. The defaults are for one large GPU; two CPU cores want a hundred times as much."""

    vae: float = 2.0
    decoder: float = 0.4
    unet: float = 2.2
    flow: float = 2.2
    judge: float = 0.6
    clip: float = 0.8


@dataclass(frozen=True)
class Counts:
    """What is measured on."""

    singles: int = 500
    pairs: int = 200
    styles: int = 200
    scenes: int = 400
    judged: int = 2000
    edits: int = 100
    retrieved: int = 8
    sweep: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0)
    swept: int = 100
    steps: int = 50
    flow_steps: int = 28
    batch: int = 100


TOWERS = clip.ClipRecipe(scenes=8000, size=128, patch=16, steps=4000)


@dataclass(frozen=True)
class Plan:
    """All that decides the result except the machine."""

    recipe: Recipe = SHARP
    towers: clip.ClipRecipe = TOWERS
    minutes: Minutes = Minutes()
    counts: Counts = Counts()
    judge_scenes: int = 6000
    """Drawn for the judge alone, held-out combinations among them; it sees the training scenes too."""
    judge_batch: int = 64
    judge_rate: float = 2e-3


REHEARSAL = Plan(
    recipe=replace(SHARP, scenes=96, vae_channels=(16, 16, 32, 32), vae_batch=4, unet_channels=(32, 32, 64),
        unet_batch=8,
                   flow_width=64, flow_heads=2, flow_blocks=2, flow_batch=8),
    towers=clip.ClipRecipe(scenes=64, size=128, patch=16, steps=6, pairs=4, wrong=1),
    minutes=Minutes(*[0.08] * 6),
    counts=Counts(4, 3, 3, 4, 12, 1, 1, (2.0, 3.0), 2, 3, 3, 4),
    judge_scenes=32,
    judge_batch=16,
)  # fmt: skip
"""Every part in miniature: whether the machine has what it takes, not whether the model learns."""


# --- the networks ------------------------------------------------------------------------------------------------


def train_networks(plan: Plan, out: Path, device: torch.device) -> None:
    """VAE, decoder, UNet and flow model in this process (one of several, if a process group is up)."""
    recipe, minutes = plan.recipe, plan.minutes
    rank, count = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    leads = rank == 0
    scenes = training_scenes(recipe.scenes, recipe.seed, wide=recipe.wide)
    pictures = render_all(scenes, recipe.size, out / "pictures.npy")
    vae = train_vae(recipe, pictures, out, minutes.vae * 60, device, rank)
    polish_decoder(recipe, vae, pictures, out, minutes.decoder * 60, device, rank)
    if leads:
        LOG.info(f"VAE round trip: {psnr(vae, pictures[:256], device):.2f} dB")
    encode_share(vae, pictures, out, device, rank, count)
    if dist.is_initialized():
        dist.barrier()
    latents = read_latents(vae, out, count)
    tokenizer = new_tokenizer(recipe, out / f"tokenizer-{rank}")
    tokens, empty = caption_tokens(recipe, scenes, tokenizer)
    given = (recipe, latents, tokens, empty, tokenizer, out)
    text_encoder, unet = train_unet(*given, minutes.unet * 60, device, rank)
    if leads:
        export(out / "weights" / "picturebook", vae, text_encoder, unet, tokenizer, more_words(recipe))
        LOG.info(f"wrote {out / 'weights' / 'picturebook'}")
        vae = vae.to(torch.float32)  # the pipeline made it fp16
    del text_encoder, unet
    transformer, encoders = flow.train_flow(*given, minutes.flow * 60, device, rank)
    if leads:
        flow.export(out / "weights" / "picturebook-flow", vae, encoders, transformer, tokenizer, more_words(recipe))
        LOG.info(f"wrote {out / 'weights' / 'picturebook-flow'}")


def _process(rank: int, count: int, folder: str, job: tuple[Plan, Path]) -> None:
    _show_log()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    train_networks(*job, torch.device("cpu"))


def train_judge(
    plan: Plan, pictures: NDArray[np.uint8], scenes: Sequence[Scene], out: Path, device: torch.device
) -> Reader:
    """The attribute reader, trained on drawings alone, worn anew every time."""
    torch.manual_seed(plan.recipe.seed + 3)
    network = Network(plan.recipe.size).to(device)
    budget = plan.minutes.judge * 60
    stage = Stage({"judge": network}, plan.judge_rate, 0.998, out / "judge.ckpt.safetensors", budget, device)
    order = batches(len(scenes), plan.judge_batch, plan.recipe.seed + stage.step)
    generator = torch.Generator(device).manual_seed(plan.recipe.seed + stage.step)
    labels, batch, answer = labels_of(scenes).to(device), shown(pictures, device), compiled(network, device)

    def one_loss() -> tuple[Tensor, float]:
        index = next(order)
        asked = labels[torch.from_numpy(index).to(device)]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = answer(worn(batch(index), generator))
        losses = [
            F.cross_entropy(out.float(), asked[:, j], ignore_index=UNSEEN, reduction="sum", label_smoothing=0.02)
            for j, out in enumerate(logits.values())
        ]
        rate = plan.judge_rate * (0.02 + 0.98 * (1 - stage.progress))
        return torch.stack(losses).sum() / len(index), rate

    stage.run(one_loss, "judge")
    stage.use_average()
    return Reader(network.eval())


# --- what is drawn -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Everything that is drawn, once, before any network is trained."""

    scenes: Sequence[Scene]
    pictures: NDArray[np.uint8]
    album: clip.Album
    judged: Sequence[Scene]
    judged_pictures: NDArray[np.uint8]


def draw_data(plan: Plan, out: Path) -> Data:
    """Draw on all cores what is not drawn yet."""
    recipe, n = plan.recipe, plan.towers.scenes
    scenes = training_scenes(recipe.scenes, recipe.seed, wide=recipe.wide)
    pictures = render_all(scenes, recipe.size, out / "pictures.npy")
    others = clip.partners(scenes[:n], recipe.seed)
    album = clip.Album(scenes[:n], others, pictures[:n], render_all(others, recipe.size, out / "partners.npy"))
    judged = reader_scenes(plan.judge_scenes, recipe.seed)
    return Data(scenes, pictures, album, judged, render_all(judged, recipe.size, out / "judged.npy"))


# --- figures -----------------------------------------------------------------------------------------------------


def judge_table(judge: Reader, count: int, edits: int, seed: int = 1) -> str:
    """How good the judge is, as Markdown: on fresh drawings, how sure it is, and on half-made edits."""
    size = judge.network.size
    scenes = reader_scenes(count, 2_000_000 + seed)
    pictures = [draw(scene, size) for scene in scenes]
    weighed, found = judge.weigh(pictures), score(scenes, judge.read(pictures))
    lines = [
        f"{count} fresh drawings of {size} pixels.",
        "",
        "| attribute | right | aim | |",
        "| --- | --- | --- | --- |",
    ]
    for name, share in sorted(found.items(), key=lambda item: (item[0].startswith("pair."), item[0])):
        lines.append(_verdict(name, share, PAIR_AIM if name.startswith("pair.") else JUDGE_AIM))
    sure, right = list[float](), list[bool]()
    for i, scene in enumerate(scenes):
        for name, value in truth(scene).items():
            shares = weighed[name][i]
            sure.append(float(shares.max()))
            right.append(HEADS[name][int(shares.argmax())] == value)
    error = calibration_error(np.array(sure), np.array(right))
    says = f"It is {np.mean(sure):.1%} sure and right in {np.mean(right):.1%}; expected calibration error {error:.2%}."
    lines += ["", says, "", "Half-made edits, source and true edit mixed: how many changed attributes it reads as the"]
    lines += ["target's and as the source's, and how sure it is.", ""]
    lines += ["| share of the edit | target | source | neither | sure |", "| --- | --- | --- | --- | --- |"]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        lines.append(f"| {share:.0%} | " + " | ".join(f"{x:.1%}" for x in half_made(judge, share, edits, seed)) + " |")
    return "\n".join([*lines, ""])


def calibration_error(sure: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 10) -> float:
    """The mean distance between how sure and how often right, over bins of how sure, weighed by their sizes."""
    place = np.minimum((sure * bins).astype(int), bins - 1)
    parts = [place == i for i in range(bins)]
    return float(
        sum(part.sum() * abs(sure[part].mean() - right[part].mean()) for part in parts if part.any()) / len(sure)
    )


def half_made(judge: Reader, share: float, count: int, seed: int = 0) -> tuple[float, float, float, float]:
    """Of `count` edits of each type that is about one thing, mixed with `share` of the true edit: how many changed
    attributes are read as the target's, as the source's, as neither's, and how sure the judge is of what it reads."""
    size = judge.network.size
    edits = [
        e for kind in EDIT_TYPES if kind in (1, 4, 5, 6, 7, 8) for e in sample_edits(count, kind, seed, unseen=True)
    ]
    mixed = [Image.blend(edit.picture(size), edit.truth(size)[0], share) for edit in edits]
    weighed, read = judge.weigh(mixed), judge.read(mixed)
    new, old, sure = list[bool](), list[bool](), list[float]()
    for i, edit in enumerate(edits):
        before = truth(edit.source)
        for name, value in changed(edit).items():
            new.append(read[i][name] == value)
            old.append(read[i][name] == before.get(name))
            sure.append(float(weighed[name][i].max()))
    a, b = float(np.mean(new)), float(np.mean(old))
    return a, b, 1 - a - b, float(np.mean(sure))


def model_table(name: str, plan: Plan, judge: Reader, out: Path, device: torch.device) -> str:
    """What a model draws, as Markdown, with the figures that are asked of it; also writes its report and sheets."""
    counts, folder = plan.counts, out / "tables" / name
    folder.mkdir(parents=True, exist_ok=True)
    model = load(str(out / "weights" / name), str(device), "float32")
    steps = counts.flow_steps if name.endswith("flow") else counts.steps
    run = evaluate.Evaluation(model, judge, folder, steps, batch=counts.batch, tell=LOG.info)
    run.vae(counts.scenes)
    run.sweep(counts.sweep, counts.swept)
    run.captions("singles", counts.singles)
    run.captions("pairs", counts.pairs, pairs=1.0)
    run.captions("styles", counts.styles, styled=1.0)
    run.report["settings"] = {
        "model": name, "dtype": "float32", "steps": steps, "guidance": run.guidance, "seed": run.seed,
        "machine": evaluate.machine(model), "torch": torch.__version__,
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(run.report, indent=2) + "\n")
    return f"{evaluate.markdown(run.report)}\n{aims_table(run.report)}"


def aims_table(report: Mapping[str, Any]) -> str:
    """What is asked of a model, and what it does."""
    lines = ["| asked of it | figure | aim | |", "| --- | --- | --- | --- |"]
    mean = report["vae"]["psnr_mean"]
    gap = "reached" if mean >= VAE_AIM else f"missed by {VAE_AIM - mean:.2f} dB"
    lines.append(f"| VAE round trip | {mean:.2f} dB | {VAE_AIM:g} dB | {gap} |")
    lines.append(
        _verdict("color after the VAE", report["reader"]["vae_round_trip"].get("color", float("nan")), COLOR_AIM)
    )
    for part, aims in AIMS.items():
        right = report.get(part, {}).get("right", {})
        lines += [_verdict(f"{part}: {name}", right[name], aim) for name, aim in aims.items() if name in right]
    return "\n".join([*lines, ""])


def _verdict(name: str, share: float, aim: float) -> str:
    gap = "reached" if share >= aim else f"missed by {100 * (aim - share):.1f} points"
    return f"| {name} | {share:.1%} | {aim:.0%} | {gap} |"


def weights_table(folder: Path) -> str:
    """The bytes of all weights."""
    sizes = {path: path.stat().st_size / 1e6 for path in sorted(folder.rglob("*.safetensors"))}
    lines = ["| weights | MB |", "| --- | --- |"]
    lines += [f"| {path.relative_to(folder)} | {size:.2f} |" for path, size in sizes.items()]
    total = sum(sizes.values())
    verdict = "fits" if total <= LARGEST_MB else "too large"
    return "\n".join([*lines, f"| all (at most {LARGEST_MB:g}: {verdict}) | {total:.2f} |", ""])


# --- the whole ---------------------------------------------------------------------------------------------------


def run(plan: Plan, out: Path, device: torch.device, processes: int = 1) -> None:
    """Everything, each part from where it was left."""
    started = time.monotonic()
    weights, tables = out / "weights", out / "tables"
    for folder in (weights, tables):
        folder.mkdir(parents=True, exist_ok=True)
    (out / "plan.json").write_text(json.dumps(asdict(plan), indent=2) + "\n")
    data = draw_data(plan, out)
    LOG.info(f"drawn, {time.monotonic() - started:.0f} s")
    judge = train_judge(
        plan, np.concatenate([data.pictures, data.judged_pictures]), [*data.scenes, *data.judged], out, device
    )
    judge.save(weights / "judge.safetensors", torch.float16)
    _write(tables / "judge.md", judge_table(judge, plan.counts.judged, plan.counts.edits))
    if processes > 1:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_process, (processes, folder, (plan, out)), processes)
    else:
        train_networks(plan, out, device)
    for name in ("picturebook", "picturebook-flow"):
        _write(tables / f"{name}.md", model_table(name, plan, judge, out, device))
    towers = clip.train_clip(plan.towers, data.album, out, plan.minutes.clip, LOG.info, device=device, by_clock=True)
    clip.export(towers.cpu(), plan.towers, weights / "towers")
    through = str(weights / "picturebook")
    figures = clip.evaluate(clip.load_clip(weights / "towers"), plan.counts.edits, plan.counts.retrieved, through)
    _write(tables / "clip.md", figures)
    _write(tables / "weights.md", weights_table(weights))
    LOG.info(f"all of it: {time.monotonic() - started:.0f} s")


def _write(path: Path, text: str) -> None:
    path.write_text(text.rstrip() + "\n")
    LOG.info(f"\n{text}")


def _show_log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)


def main(argv: list[str] | None = None, plan: Plan | None = None) -> None:
    """The command; `plan` is what the options change."""
    parser = argparse.ArgumentParser(description="Train everything of picturebook's world in full detail.")
    parser.add_argument("--out", type=Path, required=True, help="working folder; run again to resume")
    parser.add_argument("--rehearse", action="store_true", help="every part in miniature, about two minutes")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--processes", type=int, default=0, help="on the CPU: single-thread processes (0 = one a core)")
    parser.add_argument("--scenes", type=int, help="training scenes")
    parser.add_argument("--seed", type=int, default=0)
    for part in fields(Minutes):
        parser.add_argument(f"--{part.name}-minutes", type=float, help="of training, resumed runs included")
    args = parser.parse_args(argv)
    _show_log()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    plan = plan or (REHEARSAL if args.rehearse else Plan())
    cuda = args.device == "cuda" or (args.device == "auto" and torch.cuda.is_available())
    recipe = replace(plan.recipe, seed=args.seed, scenes=args.scenes or plan.recipe.scenes)
    if cuda and not args.rehearse:
        recipe, plan = on_gpu(recipe), replace(plan, judge_batch=256)
        torch.set_float32_matmul_precision("high")
    given = {part.name: getattr(args, f"{part.name}_minutes") for part in fields(Minutes)}
    minutes = replace(plan.minutes, **{name: value for name, value in given.items() if value is not None})
    towers = replace(plan.towers, seed=args.seed, scenes=min(plan.towers.scenes, recipe.scenes))
    plan = replace(plan, recipe=recipe, minutes=minutes, towers=towers)
    run(plan, out, torch.device("cuda" if cuda else "cpu"), 1 if cuda else args.processes or os.cpu_count() or 1)
