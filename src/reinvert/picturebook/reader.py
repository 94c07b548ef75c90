"""Reads the attributes of a picturebook picture: a small network trained on fresh drawings, never on a model's output.

    python -m reinvert.picturebook.reader       trains the bundled one again

It judges what a model drew: which object, in which colour, made of what, wearing what, facing where, before which
background, in which style; and for pictures with two things the same for the left and the right one. Training takes
some minutes on a CPU; the result is kept in a safetensors file that goes stale when the world is drawn differently.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reinvert.picturebook.draw import SIZE, draw
from reinvert.picturebook.edits import Edit
from reinvert.picturebook.scene import (
    BACKGROUNDS,
    COLORS,
    FACING_KINDS,
    FACINGS,
    KINDS,
    MATERIALS,
    STYLES,
    WEARABLES,
    Scene,
    Thing,
    sample_scene,
    sample_thing,
)

BUNDLED = Path(__file__).parent / "judge.safetensors"
"""The weights that come with the package, in half precision."""

NOTHING = "nothing"
"""What a thing without hat or crown wears."""
OF_THING: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "color": COLORS,
    "material": MATERIALS,
    "facing": FACINGS,
    "wearing": (NOTHING, *WEARABLES),
}
OF_SCENE: dict[str, tuple[str, ...]] = {"background": BACKGROUNDS, "style": STYLES, "count": ("1", "2")}
SLOTS = ("only", "left", "right")
"""A thing is read as the only one, or as the left or the right of two."""
HEADS: dict[str, tuple[str, ...]] = OF_SCENE | {f"{s}.{a}": v for s in SLOTS for a, v in OF_THING.items()}
UNSEEN = -100
"""The label of what a picture does not show."""

Answers = dict[str, str]
"""The value read, or true, for each head: "background", "only.kind", "left.color", ..."""


def truth(scene: Scene, *, said: bool = False) -> Answers:
    """What a perfect reader answers. Facing is left out where the silhouette does not show it, and with `said` also
    where the caption does not say it."""
    answers = {"background": scene.background, "style": scene.style, "count": str(len(scene.things))}
    things = sorted(scene.things, key=lambda thing: thing.x)
    for slot, thing in zip(SLOTS[:1] if len(things) == 1 else SLOTS[1:], things, strict=True):
        answers |= {f"{slot}.{name}": value for name, value in _attributes(thing, said).items()}
    return answers


def _attributes(thing: Thing, said: bool) -> Answers:
    shows = thing.kind in FACING_KINDS and (thing.says_facing or not said)
    seen = {"kind": thing.kind, "color": thing.color, "material": thing.material, "wearing": thing.wearing or NOTHING}
    return seen | ({"facing": thing.facing} if shows else {})


def changed(edit: Edit) -> Answers:
    """What must be read in the edited picture for the edit to have happened: all that is true of the target and was
    not of the source. A thing that got company or lost it counts as changed, too."""
    before, after = truth(edit.source), truth(edit.target)
    return {name: value for name, value in after.items() if before.get(name) != value}


# --- the network -------------------------------------------------------------------------------------------------


WIDTHS: dict[int, tuple[int, ...]] = {SIZE: (32, 48, 96, 128), 128: (24, 48, 80, 96, 128)}
"""Channels of the convolutions, by the side of the pictures that are read."""


class Network(nn.Module):
    """Strided convolutions, one hidden layer, a linear head per attribute; [n, 3, size, size] in -1..1."""

    def __init__(self, size: int = SIZE, widths: Sequence[int] | None = None, hidden: int = 256) -> None:
        super().__init__()
        self.size = size
        widths = widths or WIDTHS.get(size) or WIDTHS[SIZE]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((3, *widths[:-1]), widths, strict=True)):
            kernel = 5 if i == 0 else 3
            layers += [nn.Conv2d(before, after, kernel, 2, kernel // 2), nn.GroupNorm(8, after), nn.SiLU()]
        side = -(-size // 2 ** len(widths))
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * side * side, hidden), nn.SiLU())
        self.heads = nn.Linear(hidden, sum(len(values) for values in HEADS.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits [n, value] for every head."""
        parts = self.heads(self.body(x)).split([len(values) for values in HEADS.values()], dim=-1)
        return dict(zip(HEADS, parts, strict=True))


@dataclass(frozen=True)
class Reader:
    """A trained network."""

    network: Network

    @torch.no_grad()
    def read(self, pictures: Sequence[Image.Image]) -> list[Answers]:
        """What each picture shows, every head answered: it is for the caller to know how many things were asked for."""
        weighed = self.weigh(pictures)
        best = {name: shares.argmax(-1).tolist() for name, shares in weighed.items()}
        return [{name: HEADS[name][best[name][j]] for name in HEADS} for j in range(len(pictures))]

    @torch.no_grad()
    def weigh(self, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        """For every head how sure it is of each of its values, [picture, value], rows of sum 1."""
        device, parts = next(self.network.parameters()).device, list[dict[str, Tensor]]()
        for i in range(0, len(pictures), 100):
            stack = np.stack([np.asarray(_fitted(p, self.network.size)) for p in pictures[i : i + 100]])
            logits = self.network(_input(stack).to(device))
            parts.append({name: out.float().softmax(-1).cpu() for name, out in logits.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in HEADS} if parts else {}

    def save(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the weights (safetensors)."""
        weights = {name: tensor.to(dtype).contiguous() for name, tensor in self.network.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        size = self.network.size
        save_file(weights, path, {"world": world() if size == SIZE else world(size), "size": str(size)})

    @classmethod
    def load(cls, path: Path) -> Reader | None:
        """Read what `save` wrote; None if there is no such file, or it knows another world."""
        try:
            with safe_open(path, "pt") as file:
                meta = file.metadata() or {}
                size = int(meta.get("size", SIZE))
                if not 16 <= size <= 1024 or meta.get("world") != (world() if size == SIZE else world(size)):
                    return None
                weights = {name: file.get_tensor(name) for name in file.keys()}
            network = Network(size)
            network.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError, ValueError):
            return None
        return cls(network.eval())


def _fitted(picture: Image.Image, size: int = SIZE) -> Image.Image:
    small = picture if picture.size == (size, size) else picture.resize((size, size), Image.Resampling.BOX)
    return small.convert("RGB")


def _input(pictures: NDArray[np.uint8]) -> Tensor:
    """[n, h, w, 3] uint8 -> [n, 3, h, w] in -1..1."""
    return torch.from_numpy(pictures.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1


def world(size: int = SIZE) -> str:
    """A checksum of what can be drawn and how at a size, so that a reader of another world is not believed."""
    rng = Random("the world of picturebook")
    crc = zlib.crc32(json.dumps([*HEADS.items()]).encode())
    for _ in range(24 if size == SIZE else 6):  # larger ones take longer
        crc = zlib.crc32(draw(sample_scene(rng, styled=0.3), size).tobytes(), crc)
    return f"{crc:08x}"


# --- training ----------------------------------------------------------------------------------------------------


def reader_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes to read: all that `sample_scene` draws, with more sketches and neon signs, and now and then a lonely
    small thing (what is left of two)."""
    rng, scenes = Random(f"reader {seed}"), list[Scene]()
    while len(scenes) < count:
        scene = sample_scene(rng, pairs=0.3, styled=0.2)
        if rng.random() < 0.04:
            scene = replace(scene, things=(sample_thing(rng, rng.choice((0.27, 0.73)), 0.19),))
        scenes.append(scene)
    return scenes


def _labels(scenes: Sequence[Scene]) -> Tensor:
    """Class numbers [scene, head], `UNSEEN` where a head has nothing to say."""
    rows: list[list[int]] = []
    for scene in scenes:
        true = truth(scene)
        rows.append([values.index(true[name]) if name in true else UNSEEN for name, values in HEADS.items()])
    return torch.tensor(rows)


_BINOMIAL = torch.tensor([1.0, 2.0, 1.0])[:, None] * torch.tensor([1.0, 2.0, 1.0]) / 16


def _worn(x: Tensor, generator: torch.Generator) -> Tensor:
    """The pictures a little blurred, brightened or darkened, tinted and noisy, as a decoder's are."""
    n, device = len(x), x.device
    kernel = _BINOMIAL.to(device).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), "replicate"), kernel, groups=3)
    share = 1.2 * torch.rand(n, 1, 1, 1, generator=generator, device=device) - 0.2  # below 0: a little sharpened
    gain = 1 + 0.06 * torch.randn(n, 1, 1, 1, generator=generator, device=device)
    tint = 0.03 * torch.randn(n, 3, 1, 1, generator=generator, device=device)
    grain = torch.rand(n, 1, 1, 1, generator=generator, device=device)
    noise = 0.06 * grain * torch.randn(x.shape, generator=generator, device=device)
    return (x + share * (blurred - x)) * gain + tint + noise


Told = Callable[[str], None]


def train_reader(
    scenes: int = 14_000,
    passes: int = 7,
    *,
    batch: int = 64,
    rate: float = 2e-3,
    seed: int = 0,
    tell: Told | None = None,
) -> Reader:
    """Train on `scenes` fresh drawings, each seen `passes` times, worn anew every time. `tell` gets progress."""
    started = time.monotonic()
    shown = reader_scenes(scenes, seed)
    x, labels = _input(np.stack([np.asarray(draw(scene)) for scene in shown])), _labels(shown)
    if tell:
        tell(f"reader: {scenes} scenes drawn in {time.monotonic() - started:.0f} s")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.02)
    steps = passes * (scenes // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.15)
    step = 0
    for _ in range(passes):
        order = torch.randperm(scenes, generator=generator)
        for i in range(0, scenes - batch + 1, batch):
            index = order[i : i + batch]
            logits = network(_worn(x[index], generator))
            losses = [
                F.cross_entropy(out, labels[index, j], ignore_index=UNSEEN, reduction="sum", label_smoothing=0.02)
                for j, out in enumerate(logits.values())
            ]
            optimizer.zero_grad(set_to_none=True)
            loss = torch.stack(losses).sum() / batch
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            if tell and step % 200 == 0:
                spent = time.monotonic() - started
                tell(f"reader: step {step} of {steps}, loss {float(loss.detach()):.3f}, {spent:.0f} s")
    return Reader(network.eval())


def get_reader(path: Path, tell: Told | None = None) -> Reader:
    """The reader kept at `path`, trained and written there if it is missing or stale."""
    reader = Reader.load(path)
    if reader is None:
        reader = train_reader(tell=tell)
        reader.save(path)
    return reader


# --- how good it is ----------------------------------------------------------------------------------------------


def score(scenes: Sequence[Scene], answers: Sequence[Answers], *, said: bool = False) -> dict[str, float]:
    """Share of right answers for each attribute that the scenes show (see `truth`); both things of a pair count under
    "pair.*"."""
    right: dict[str, list[bool]] = {}
    for scene, answer in zip(scenes, answers, strict=True):
        for name, value in truth(scene, said=said).items():
            slot, _, attribute = name.rpartition(".")
            key = f"pair.{attribute}" if slot in SLOTS[1:] else attribute
            right.setdefault(key, []).append(answer[name] == value)
    return {name: sum(hits) / len(hits) for name, hits in right.items()}


def main(argv: list[str] | None = None) -> None:
    """Train the bundled judge."""
    parser = argparse.ArgumentParser(description="Train the judge of picturebook's edits.")
    parser.add_argument("--scenes", type=int, default=36_000)
    parser.add_argument("--passes", type=int, default=9)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    args = parser.parse_args(argv)
    trained = train_reader(args.scenes, args.passes, seed=args.seed, tell=logging.getLogger(__name__).info)
    trained.save(args.out, torch.float16)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
