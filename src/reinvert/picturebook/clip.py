"""A small CLIP of picturebook's world: a picture tower and a text tower that agree about what a picture shows.

    python -m reinvert.picturebook.clip --out DIR [--minutes 25]     train, or go on; writes DIR/towers
    python -m reinvert.picturebook.clip --evaluate [--towers DIR]    figures of the bundled (or another) folder

    loss = -mean_i log softmax_j(s <p_i, t_j>)[i] / 2 - mean_i log softmax_j(s <p_j, t_i>)[i] / 2

with p, t the unit embeddings of pictures and captions and a learned scale s (Learning Transferable Visual Models From
Natural Language Supervision, 2021, arXiv 2103.00020). Two things make it notice an edit: pictures come in pairs that
differ by one change, and every picture also meets captions that are wrong in one point (When and why vision-language
models behave like bags-of-words, and what to do about it?, 2022, arXiv 2210.01936). A caption that happens to be true
of another picture of the batch is left out of that picture's sum. While it trains, a linear layer on the class token
also names the attributes of `reader.HEADS`, which is quicker to learn from than captions; it is not kept.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from reinvert.errors import ReinvertError
from reinvert.picturebook.draw import SIZE, draw
from reinvert.picturebook.edits import CHANGES, EDIT_TYPES, Edit, sample_edits
from reinvert.picturebook.reader import HEADS
from reinvert.picturebook.reader import _labels as labels_of  # pyright: ignore[reportPrivateUsage]
from reinvert.picturebook.reader import _worn as worn  # pyright: ignore[reportPrivateUsage]
from reinvert.picturebook.scene import (
    BACKGROUNDS,
    COLORS,
    FACING_KINDS,
    FACINGS,
    KINDS,
    MATERIALS,
    PLACE,
    STYLES,
    WEARABLES,
    Scene,
    Thing,
    held_out,
    sample_scene,
)
from reinvert.picturebook.tokenizer import MAX_LENGTH, build_tokenizer
from reinvert.picturebook.train import Stage, render_all, to_input, training_scenes

FOLDER = Path(__file__).parent / "towers"
"""The bundled model."""
TOKENIZER = Path(__file__).parent / "model" / "tokenizer"

Untyped: TypeAlias = Any
"""Networks of transformers, whose own types say too little."""

COLOUR = 0.5
"""Mean and standard deviation of every channel: pictures go in as -1..1."""


@dataclass(frozen=True)
class Tower:
    """The size of a transformer."""

    width: int
    blocks: int
    heads: int

    @property
    def settings(self) -> dict[str, int]:
        """In the words of transformers' configurations."""
        return {
            "hidden_size": self.width,
            "intermediate_size": 3 * self.width,
            "num_hidden_layers": self.blocks,
            "num_attention_heads": self.heads,
        }


@dataclass(frozen=True)
class ClipRecipe:
    """Everything that decides the result, if the minutes suffice for all `steps`."""

    scenes: int = 24_000
    size: int = SIZE
    patch: int = 8
    vision: Tower = field(default_factory=lambda: Tower(128, 5, 4))
    text: Tower = field(default_factory=lambda: Tower(96, 2, 3))
    projection: int = 96
    # A batch is `pairs` pairs of pictures; each picture meets `wrong` captions that are wrong in one point.
    pairs: int = 32
    wrong: int = 3
    unsaid: float = 0.12
    """How often a caption leaves out a colour, a facing or the place."""
    region: float = 0.12
    """How often a pair is shown only where its pictures differ, as the score of an edited region shows them."""
    naming: float = 0.3
    """The weight of naming attributes."""
    steps: int = 1600
    rate: float = 1e-3
    ema: float = 0.998
    most_scale: float = 40.0
    seed: int = 0


# --- what a picture shows and what a caption claims ---------------------------------------------------------------

UNSAID = -1
"""The claim of a caption that leaves something open."""

_OPTIONS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("kind", KINDS), ("color", COLORS), ("material", MATERIALS), ("wearing", (None, *WEARABLES)), ("facing", FACINGS),
)  # fmt: skip


def shown(scene: Scene) -> list[int]:
    """What can be seen: style, place, then kind, colour, material, what is worn and the facing of both things; -2 where
    there is nothing to see."""
    numbers = [STYLES.index(scene.style), BACKGROUNDS.index(scene.background)]
    for i in range(2):
        thing = scene.things[i] if i < len(scene.things) else None
        numbers += [-2 if thing is None else values.index(getattr(thing, name)) for name, values in _OPTIONS]
    return numbers


def claimed(scene: Scene, *, place: bool = True) -> list[int]:
    """What `scene.caption` says of `shown`; without `place` its end is left out. Silence claims that a thing is plain
    and wears nothing and that there is no second thing; it leaves colour, facing and place open."""
    numbers = shown(scene)
    numbers[1] = numbers[1] if place else UNSAID
    for i, thing in enumerate(scene.things):
        first = 2 + i * len(_OPTIONS)
        if not thing.says_color:
            numbers[first + 1] = UNSAID
        if not (thing.says_facing and thing.kind in FACING_KINDS):
            numbers[first + 4] = UNSAID
    return numbers


def is_true(claims: Tensor, shows: Tensor) -> Tensor:
    """Whether each caption is true of each picture: bool [picture, caption] of claims [caption, fact] and shows
    [picture, fact]."""
    return ((claims == UNSAID) | (claims == shows[:, None])).all(-1)


def say(rng: Random, scene: Scene, unsaid: float) -> tuple[str, list[int]]:
    """A caption of the scene and its claims; each of colour, facing and place is left out with probability `unsaid`."""

    def wording(thing: Thing) -> Thing:
        return replace(thing, says_color=rng.random() >= unsaid, says_facing=rng.random() >= unsaid)

    worded = replace(scene, things=tuple(wording(thing) for thing in scene.things))
    place = rng.random() >= unsaid
    caption = worded.caption if place else worded.caption.removesuffix(f" {PLACE[scene.background]}")
    return caption, claimed(worded, place=place)


# --- data --------------------------------------------------------------------------------------------------------


def changed_scene(rng: Random, scene: Scene) -> Scene:
    """The scene after one change of any of the edit types, within what training may see."""
    said = replace(scene, things=tuple(replace(thing, says_color=True, says_facing=True) for thing in scene.things))
    while True:
        index = rng.randrange(len(said.things))
        # The changes are about the first thing: let it be the second's turn, too.
        turned = replace(said, things=said.things[::-1]) if index else said
        type_id = rng.choice(tuple(CHANGES))
        made = CHANGES[type_id](rng, turned)
        if made is None:
            continue
        things = made.target.things
        target = replace(made.target, things=things[::-1] if index and len(things) > 1 else things)
        if not held_out(target):
            return target


def partners(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """For every scene, one that differs from it by one change."""
    return [changed_scene(Random(f"partner {seed} {i}"), scene) for i, scene in enumerate(scenes)]


@dataclass(frozen=True)
class Album:
    """Pairs of scenes with their pictures [n, size, size, 3] uint8."""

    scenes: Sequence[Scene]
    partners: Sequence[Scene]
    pictures: NDArray[np.uint8]
    partner_pictures: NDArray[np.uint8]


def make_album(recipe: ClipRecipe, out: Path, pictures: Path | None = None) -> Album:
    """Draw both halves once, into `out`. `pictures`: a file that already holds the first half, as `train` drew it."""
    scenes = training_scenes(recipe.scenes, recipe.seed)
    others = partners(scenes, recipe.seed)
    first = render_all(scenes, recipe.size, pictures or out / "pictures.npy")
    if first.shape != (recipe.scenes, recipe.size, recipe.size, 3):
        raise ReinvertError(f"{pictures} does not hold {recipe.scenes} pictures of {recipe.size} pixels: leave it out")
    return Album(scenes, others, first, render_all(others, recipe.size, out / "partners.npy"))


def differing(x: Tensor, reach: int = 3) -> Tensor:
    """Where the pictures of each pair differ, with a margin of `reach` pixels: bool [2 n, 1, h, w] of pictures
    [2 n, 3, h, w] whose second half are the partners of the first."""
    a, b = x.chunk(2)
    differ = (a - b).abs().amax(1, keepdim=True) > 0.02
    near = F.max_pool2d(differ.float(), 2 * reach + 1, stride=1, padding=reach) > 0
    return torch.cat([near, near])


@dataclass(frozen=True)
class Batch:
    """`pixels` [p, 3, h, w] in -1..1, `scenes` and `shows` [p, fact] of p pictures; `words` and `claims` [c, fact] of c
    captions, of which caption i < p is of picture i."""

    pixels: Tensor
    scenes: list[Scene]
    shows: Tensor
    words: list[str]
    claims: Tensor


def make_batch(recipe: ClipRecipe, album: Album, step: int) -> Batch:
    """The batch of a step: a function of the seed and the step alone."""
    rng = Random(f"clip {recipe.seed} {step}")
    generator = torch.Generator().manual_seed(rng.randrange(2**62))
    index = sorted(rng.sample(range(len(album.scenes)), recipe.pairs))
    scenes = [album.scenes[i] for i in index] + [album.partners[i] for i in index]
    said = [say(rng, scene, recipe.unsaid) for scene in scenes]
    for scene in scenes:
        said += [say(rng, changed_scene(rng, scene), recipe.unsaid) for _ in range(recipe.wrong)]
    clean = to_input(np.concatenate([album.pictures[index], album.partner_pictures[index]]), torch.device("cpu"))
    covered = torch.rand(recipe.pairs, generator=generator).repeat(2) < recipe.region
    hidden = covered[:, None, None, None] & ~differing(clean)
    x = worn(clean, generator).masked_fill(hidden, 0.0)  # 0 is the mean colour
    shows, claims = torch.tensor([shown(scene) for scene in scenes]), torch.tensor([claims for _, claims in said])
    return Batch(x, scenes, shows, [words for words, _ in said], claims)


# --- training ----------------------------------------------------------------------------------------------------


def read_tokenizer(folder: Path = TOKENIZER) -> CLIPTokenizer:
    """The tokenizer of the bundled model, or the same made anew where there is none."""
    if folder.is_dir():
        return CLIPTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as made:
        return build_tokenizer(Path(made))


def new_clip(recipe: ClipRecipe, tokenizer: Untyped) -> Untyped:
    """An untrained CLIP whose vocabulary is the tokenizer's."""
    words = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_dim": recipe.projection,
    }
    eyes = {"image_size": recipe.size, "patch_size": recipe.patch, "projection_dim": recipe.projection}
    config = CLIPConfig(
        text_config={**recipe.text.settings, **words},
        vision_config={**recipe.vision.settings, **eyes},
        projection_dim=recipe.projection,
    )
    return CLIPModel(config)


def tokens(tokenizer: Untyped, words: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Token numbers and mask [caption, token] of captions, cut at the tower's length."""
    rows = tokenizer(list(words), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return {"input_ids": rows["input_ids"].to(device), "attention_mask": rows["attention_mask"].to(device)}


def embed_captions(clip: Untyped, tokenizer: Untyped, words: Sequence[str]) -> Tensor:
    """Unit embeddings [caption, dim]."""
    ids = tokens(tokenizer, words, clip.text_projection.weight.device)
    return F.normalize(clip.text_projection(clip.text_model(**ids).pooler_output), dim=-1)


def embed_pixels(clip: Untyped, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Unit embeddings [picture, dim] of pictures [picture, 3, h, w] in -1..1, and their class tokens [picture, width]
    after the last layer norm."""
    token = clip.vision_model(pixel_values=pixels).pooler_output
    return F.normalize(clip.visual_projection(token), dim=-1), token


def contrastive_loss(pictures: Tensor, captions: Tensor, scale: Tensor, true: Tensor) -> Tensor:
    """InfoNCE of unit embeddings [p, dim] and [c, dim], caption i < p being picture i's own; the other captions, and
    the other pictures, of which a caption is `true` [p, c] as well are left out of the sums."""
    n = len(pictures)
    own = torch.eye(n, len(captions), dtype=torch.bool, device=true.device)
    logits = (scale * pictures @ captions.T).masked_fill(true & ~own, -torch.inf)
    answers = torch.arange(n, device=logits.device)
    return (F.cross_entropy(logits, answers) + F.cross_entropy(logits[:, :n].T, answers)) / 2


def naming_loss(answers: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Mean cross-entropy of the logits [picture, all values of all heads] of the attributes that the scenes show."""
    labels = labels_of(scenes).to(answers.device)
    parts = answers.split([len(values) for values in HEADS.values()], dim=-1)
    losses = [F.cross_entropy(part, labels[:, i], reduction="sum") for i, part in enumerate(parts)]
    return torch.stack(losses).sum() / len(scenes)


def rate_at(recipe: ClipRecipe, step: float) -> float:
    """The learning rate falls as a half cosine to a fiftieth."""
    return recipe.rate * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, step / recipe.steps))))


def train_clip(
    recipe: ClipRecipe, album: Album, out: Path, minutes: float, tell: Callable[[str], None] | None = None,
    every_s: float = 120.0, device: torch.device | None = None, by_clock: bool = False,
) -> Untyped:  # fmt: skip
    """Train for `recipe.steps` steps or `minutes` in all, whichever ends first, going on from the checkpoint in `out`.

    With time for all steps the result depends on the recipe alone, however often it was interrupted. Returns the
    moving average of the weights. `by_clock`: the learning rate also falls with the time spent. `tell` gets progress; a
    checkpoint is written every `every_s` seconds.
    """
    torch.manual_seed(recipe.seed)
    tokenizer = read_tokenizer()
    device = device or torch.device("cpu")
    clip = new_clip(recipe, tokenizer).to(device)
    namer = nn.Linear(recipe.vision.width, sum(len(values) for values in HEADS.values())).to(device)
    modules: dict[str, nn.Module] = {"clip": clip, "namer": namer}
    stage = Stage(modules, recipe.rate, recipe.ema, out / "clip.ckpt.safetensors", minutes * 60, device)
    before, started = stage.spent, time.monotonic()
    saved = told = started
    while stage.step < recipe.steps and stage.elapsed < stage.budget:
        batch = make_batch(recipe, album, stage.step)
        pictures, token = embed_pixels(clip, batch.pixels.to(device))
        captions = embed_captions(clip, tokenizer, batch.words)
        scale = clip.logit_scale.exp().clamp(max=recipe.most_scale)
        loss = contrastive_loss(pictures, captions, scale, is_true(batch.claims, batch.shows).to(device))
        if recipe.naming:
            loss = loss + recipe.naming * naming_loss(namer(token), batch.scenes)
        share = max(stage.step / recipe.steps, stage.progress if by_clock else 0.0)
        stage.update(loss, rate_at(recipe, share * recipe.steps))
        now = time.monotonic()
        stage.elapsed = before + now - started
        if tell and now - told > 15:
            told = now
            tell(f"clip: step {stage.step} of {recipe.steps}, {stage.elapsed:.0f} s, loss {stage.loss:.3f}")
        if now - saved > every_s:
            stage.save()
            saved = now
    stage.save()
    if tell and stage.step < recipe.steps:
        tell(f"clip: out of time at step {stage.step} of {recipe.steps}; run again with more --minutes to go on")
    stage.use_average()
    return clip.eval()


# --- the folder --------------------------------------------------------------------------------------------------


def export(clip: Untyped, recipe: ClipRecipe, folder: Path) -> None:
    """Write a folder that plain `CLIPModel.from_pretrained` loads in float32; the weights are kept in fp16.

    It is written beside `folder` and moved there when whole.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        new = Path(made) / folder.name
        half = CLIPModel(clip.config)
        half.load_state_dict(clip.state_dict())
        half.half().save_pretrained(new)
        read_tokenizer().save_pretrained(new)
        config = new / "config.json"
        config.write_text(json.dumps(_in_float32(json.loads(config.read_text())), indent=2) + "\n")
        side = {"height": recipe.size, "width": recipe.size}
        seen = {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": recipe.size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": side,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [COLOUR] * 3,
            "image_std": [COLOUR] * 3,
        }
        (new / "preprocessor_config.json").write_text(json.dumps(seen, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        new.replace(folder)


def _in_float32(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a CLIP and those of its towers, with the precision that transformers is to load them in: it
    is fp16, that of the weights, for a tower alone whose own configuration does not say."""
    towers = {name: config[name] | {"dtype": "float32"} for name in ("text_config", "vision_config")}
    return config | towers | {"dtype": "float32"}


@dataclass(frozen=True)
class PictureClip:
    """A CLIP of drawings with its tokenizer, in float32."""

    clip: Untyped
    tokenizer: Untyped

    @property
    def size(self) -> int:
        """Side of the pictures that it sees."""
        return int(self.clip.config.vision_config.image_size)

    @torch.no_grad()
    def pictures(self, pixels: Tensor) -> Tensor:
        """Unit embeddings [picture, dim] of pictures [picture, 3, h, w] in -1..1 of the tower's size."""
        return torch.cat([embed_pixels(self.clip, part)[0] for part in pixels.split(100)])

    @torch.no_grad()
    def captions(self, words: Sequence[str]) -> Tensor:
        """Unit embeddings [caption, dim]."""
        return embed_captions(self.clip, self.tokenizer, words)


def load_clip(folder: Path = FOLDER) -> PictureClip:
    """The bundled CLIP, or another of this module's. `ReinvertError` if it is not there."""
    if not (folder / "config.json").is_file():
        raise ReinvertError(f"{folder} holds no CLIP: train it with python -m reinvert.picturebook.clip --out DIR")
    clip: Untyped = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return PictureClip(clip.float().eval().requires_grad_(False), read_tokenizer(folder))


# --- how good it is ----------------------------------------------------------------------------------------------

View = Callable[[Tensor], Tensor]
"""What is made of pictures [n, 3, h, w] in -1..1 before they are judged."""


def drawings(scenes: Sequence[Scene], size: int = SIZE) -> Tensor:
    """[scene, 3, size, size] in -1..1."""
    return to_input(np.stack([np.asarray(draw(scene, size)) for scene in scenes]), torch.device("cpu"))


def unseen_scenes(count: int, seed: int = 0) -> list[Scene]:
    """Scenes with a held-out combination, of the kinds that training sees, every colour and facing said."""
    rng, scenes = Random(f"unseen {seed}"), list[Scene]()
    while len(scenes) < count:
        scene = sample_scene(rng)
        if held_out(scene):
            said = tuple(replace(thing, says_color=True, says_facing=True) for thing in scene.things)
            scenes.append(replace(scene, things=said))
    return scenes


def retrieval(judge: PictureClip, scenes: Sequence[Scene], batch: int = 64) -> tuple[float, float]:
    """How often the nearest of a batch's captions is true of a picture, and the nearest picture shows a caption."""
    found, shown_by = list[Tensor](), list[Tensor]()
    for i in range(0, len(scenes) - batch + 1, batch):
        part = scenes[i : i + batch]
        true = is_true(torch.tensor([claimed(s) for s in part]), torch.tensor([shown(s) for s in part]))
        near = judge.pictures(drawings(part, judge.size)) @ judge.captions([s.caption for s in part]).T
        each = torch.arange(batch)
        found.append(true[each, near.argmax(1)])
        shown_by.append(true[near.argmax(0), each])
    return float(torch.cat(found).float().mean()), float(torch.cat(shown_by).float().mean())


@dataclass(frozen=True)
class Noticed:
    """Shares of edits: the true edit fits the target caption better than the source picture does (`picture`), and the
    target caption fits it better than the source caption does (`caption`); the mean similarities (cosines)."""

    picture: float
    caption: float
    before: float
    after: float


def noticed(judge: PictureClip, edits: Sequence[Edit], view: View = lambda x: x, *, region: bool = False) -> Noticed:
    """How an edit changes the similarities. `region`: the mean colour hides both pictures outside the edit's mask."""
    source = view(drawings([edit.source for edit in edits], judge.size))
    target = view(drawings([edit.target for edit in edits], judge.size))
    if region:
        mask = torch.from_numpy(np.stack([edit.truth(judge.size)[1] for edit in edits]))[:, None]
        source, target = (x.masked_fill(~mask, 0.0) for x in (source, target))
    old, new = judge.pictures(source), judge.pictures(target)
    before, after = (judge.captions([getattr(e, name) for e in edits]) for name in ("source_prompt", "target_prompt"))
    unmoved, moved, stale = (old * after).sum(1), (new * after).sum(1), (new * before).sum(1)
    return Noticed(*(float(x.float().mean()) for x in (moved > unmoved, moved > stale, unmoved, moved)))


def round_trip(name: str = "picturebook") -> View:
    """What a model's VAE leaves of pictures: the edits that are judged come out of it."""
    from reinvert.backbones import load

    model = load(name, device="cpu")
    return lambda x: torch.cat([model.decode(model.encode(part)).clamp(-1, 1) for part in x.split(50)])


def evaluate(judge: PictureClip, count: int, batches: int = 8, model: str = "picturebook") -> str:
    """The figures, as Markdown: retrieval on `batches` batches of 64, and `count` held-out edits of each type."""
    of_pictures, of_captions = retrieval(judge, unseen_scenes(64 * batches))
    through = round_trip(model)
    lines = [
        f"Retrieval among 64 held-out scenes ({batches} batches): the caption of a picture {of_pictures:.1%}, "
        f"the picture of a caption {of_captions:.1%}.",
        "",
        "| edit | picture | caption | VAE: picture | caption | region: picture | caption | cosine before | after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for type_id, name in EDIT_TYPES.items():
        edits = sample_edits(count, type_id, unseen=True)
        plain, vae, region = noticed(judge, edits), noticed(judge, edits, through), noticed(judge, edits, region=True)
        shares = [share for view in (plain, vae, region) for share in (view.picture, view.caption)]
        cells = [f"{share:.1%}" for share in shares] + [f"{plain.before:.2f}", f"{plain.after:.2f}"]
        lines.append(f"| {type_id} {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None, recipe: ClipRecipe | None = None) -> None:
    """The command line; `recipe` is what the options change."""
    usual = recipe or ClipRecipe()
    parser = argparse.ArgumentParser(description="Train picturebook's CLIP from nothing, or measure it.")
    parser.add_argument("--out", type=Path, help="working folder; run again to resume")
    parser.add_argument("--minutes", type=float, default=60.0, help="time for training, resumed runs included [60]")
    parser.add_argument("--steps", type=int, default=usual.steps, help=f"[{usual.steps}]")
    parser.add_argument("--scenes", type=int, default=usual.scenes, help=f"[{usual.scenes}]")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--pictures", type=Path, help="pictures.npy of picturebook.train: same scenes and seed")
    parser.add_argument("--evaluate", action="store_true", help="measure instead, on held-out scenes and edits")
    parser.add_argument("--towers", type=Path, default=FOLDER, help="what to measure [the bundled one]")
    parser.add_argument("--count", type=int, default=200, help="edits of each type [200]")
    args = parser.parse_args(argv)
    if args.evaluate:
        print(evaluate(load_clip(args.towers), args.count))
        return
    if args.out is None:
        parser.error("name a working folder (--out DIR), or measure (--evaluate)")
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    recipe = replace(usual, scenes=args.scenes, steps=args.steps, seed=args.seed)
    album = make_album(recipe, out, args.pictures)
    clip = train_clip(recipe, album, out, args.minutes, lambda line: print(line, flush=True))
    export(clip, recipe, out / "towers")
    (out / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    print(f"wrote {out / 'towers'}", flush=True)


if __name__ == "__main__":
    main()
