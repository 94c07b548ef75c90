"""The figures of one edit, or of many: every metric's value by column name, and why a value is missing.

The columns are the published evaluator's (`PAPER`: the eight of the paper's table), its variants over the whole frame
and over either part, NS-LPIPS, and, for a case whose true edit is known, the distance to it inside and outside the
mask. A column made with another network than the published one carries that network's name: `lpips[alex]`.

`strict` and `compat` are those of `metrics.base`. In compat the mask's outermost pixels count as edited, as in the
published evaluator. In strict, whatever is compared over a part is shown with the first picture's pixels beyond it, so
that no window and no receptive field sees what is not compared.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reinvert.backbones.loading import pick_device
from reinvert.errors import ReinvertError
from reinvert.image import Picture, Size, as_rgb
from reinvert.metrics.base import Metric, Mode, Need, filled, find
from reinvert.networks.base import Perceptual, TextImage, Tower
from reinvert.networks.clip import Clip
from reinvert.networks.convolutional import Lpips
from reinvert.networks.files import label
from reinvert.networks.vit import TowerDistance, Vit, load_vit

Part = Literal["whole", "unedit", "edit"]
With = Literal["source", "true edit", "source prompt", "target prompt"]
"""What the edit is compared with. With the source prompt it is the source that is compared."""

# --- columns -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of a table: a metric over a part of the picture. `model` is empty for the published network."""

    base: str
    metric: str
    part: Part
    beside: With
    model: str = ""

    @property
    def name(self) -> str:
        """The column's full name, with the network's if it is not the published one."""
        return f"{self.base}[{self.model}]" if self.model else self.base

    @property
    def about(self) -> Metric:
        """The metric's page: direction, unit, display factor."""
        return find(self.metric)

    @property
    def title(self) -> str:
        """What a report calls it: `PSNR, unedited part`."""
        where = {"whole": "", "unedit": ", unedited part", "edit": ", edited part"}[self.part]
        of = {"source": "", "true edit": " to the true edit", "source prompt": " of the source", "target prompt": ""}
        model = f" [{self.model}]" if self.model else ""
        return f"{self.about.title}{model}{of[self.beside]}{'' if self.metric == 'ns_lpips' else where}"


def _columns() -> Iterator[Column]:
    suffixes: tuple[tuple[Part, str, str], ...] = (
        ("whole", "", ""),
        ("unedit", "_unedit_part", "_outside"),
        ("edit", "_edit_part", "_inside"),
    )
    for metric in ("structure_distance", "psnr", "lpips", "mse", "ssim"):
        for part, suffix, _ in suffixes:
            yield Column(f"{metric}{suffix}", metric, part, "source")
    yield Column("clip_similarity_source_image", "clip_similarity", "whole", "source prompt")
    yield Column("clip_similarity_target_image", "clip_similarity", "whole", "target prompt")
    yield Column("clip_similarity_target_image_edit_part", "clip_similarity", "edit", "target prompt")
    yield Column("ns_lpips", "ns_lpips", "unedit", "source")
    for metric in ("psnr", "ssim", "lpips"):
        for part, _, suffix in suffixes:
            yield Column(f"{metric}_true_edit{suffix}", metric, part, "true edit")


COLUMNS: Mapping[str, Column] = {column.base: column for column in _columns()}
"""Every column by its name with the published network."""

PAPER = (
    "structure_distance",
    "psnr_unedit_part",
    "lpips_unedit_part",
    "mse_unedit_part",
    "ssim_unedit_part",
    "clip_similarity_source_image",
    "clip_similarity_target_image",
    "clip_similarity_target_image_edit_part",
)
"""The eight columns that the published evaluator computes by default."""


def column(name: str) -> Column:
    """The column behind a name, with or without a network's name in brackets."""
    found = re.fullmatch(r"(\w+)(?:\[(.+)\])?", name)
    known = COLUMNS.get(found[1]) if found else None
    if found is None or known is None:
        raise ReinvertError(f"there is no column {name!r}; the columns are {', '.join(COLUMNS)}")
    return Column(known.base, known.metric, known.part, known.beside, found[2] or "")


# --- networks ----------------------------------------------------------------------------------------------------

Location = str | Path
DINO, CLIP_LARGE = "dino-vitb8", "clip-vit-large-patch14"
HUB = {DINO: "timm/vit_base_patch8_224.dino", CLIP_LARGE: f"openai/{CLIP_LARGE}"}
ALIASES = {
    DINO: (DINO, "dino_vitb8", "dino_vitbase8_pretrain", "vit_base_patch8_224.dino"),
    CLIP_LARGE: (CLIP_LARGE,),
}
SHAPES = {DINO: (12, 768, 8), CLIP_LARGE: (24, 1024, 14)}
"""Blocks, width and patch of the published networks' vision transformers."""
PUBLISHED: Mapping[str, str] = {
    "lpips": "squeeze",
    "ns_lpips": "alex",
    "structure_distance": DINO,
    "clip_similarity": CLIP_LARGE,
}
"""The network that a metric's published figures are made with."""
TRUNKS = ("squeeze", "alex", "vgg")
BUNDLED = Path(__file__).parents[2] / "picturebook"

NO_LPIPS = (
    "no LPIPS network is loaded: its published weights are pickles, so convert torchvision's squeezenet1_1 and the "
    "lpips package's squeeze.pth to safetensors and put both into a folder lpips-squeeze"
)


@dataclass(frozen=True)
class Networks:
    """The networks that are loaded, and why the others are not. Without any, only pixels are compared."""

    lpips: tuple[Perceptual, ...] = ()
    structure: Tower | None = None
    clip: TextImage | None = None
    reasons: Mapping[Need, str] = field(default_factory=dict[Need, str])
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def load(
        cls,
        folder: Location | None = None,
        *,
        structure: Location | None = None,
        clip: Location | None = None,
        lpips: Sequence[Sequence[Location]] = (),
        device: str | torch.device = "auto",
    ) -> Networks:
        """Load what can be loaded; what cannot leaves its reason.

        `folder` may hold `dino-vitb8`, `clip-vit-large-patch14`, `lpips-squeeze`, `lpips-alex` and `lpips-vgg`, each a
        folder or a `.safetensors` file. `structure` and `clip` name other places (a folder, a file, a Hub id); `lpips`
        lists networks, each by the places that together hold its trunk and its learned weights. Without `folder`, DINO
        and CLIP come from the Hub.
        """
        where = pick_device(device)
        reasons: dict[Need, str] = {}

        def tried(need: Need, make: Any) -> Any:
            try:
                return make()
            except ReinvertError as error:
                reasons[need] = str(error)
                return None

        seen = tried("structure", lambda: _structure(structure or _place(folder, DINO)).to(where))
        judge = tried("clip", lambda: _clip(clip or _place(folder, CLIP_LARGE)).to(where))
        wanted = [*lpips, *((found,) for name in TRUNKS if (found := _found(folder, f"lpips-{name}")))]
        loaded = [tried("lpips", lambda places=places: Lpips.load(*places).to(where)) for places in wanted]
        perceptual = tuple(network for network in loaded if network is not None)
        if not perceptual:
            reasons.setdefault("lpips", NO_LPIPS)
        return cls(perceptual, seen, judge, reasons, where)

    @classmethod
    def picturebook(cls, device: str | torch.device = "cpu") -> Networks:
        """The small CLIP that is bundled for picturebook's drawings, in all three places.

        Its columns are called `...[picturebook]`; `lpips[picturebook]` is no LPIPS but a distance of the same kind
        between the layers of its vision half. No value can be compared with a published one.
        """
        where = pick_device(device)
        folder = BUNDLED / "towers"
        needs: tuple[Need, ...] = ("lpips", "structure", "clip")
        try:
            if not folder.is_dir():
                raise ReinvertError("picturebook's CLIP is not in this installation: install reinvert again")
            own = any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json"))
            judge = Clip.load(folder, "picturebook", None if own else BUNDLED / "model" / "tokenizer").to(where)
            seen = load_vit(folder, "picturebook").to(where)
        except ReinvertError as error:
            return cls(reasons=dict.fromkeys(needs, str(error)), device=where)
        return cls((TowerDistance(seen),), seen, judge, {}, where)

    def describe(self) -> dict[str, str]:
        """What is loaded, for the record of a run: name and digest of the weights, or why there is none."""
        loaded: dict[Need, list[Any]] = {"lpips": [*self.lpips], "structure": [self.structure], "clip": [self.clip]}
        told: dict[str, str] = {}
        for need, networks in loaded.items():
            made = [f"{n.name} sha256:{getattr(n, 'digest', '')}" for n in networks if n is not None]
            told[need] = ", ".join([*made, *([self.why(need)] if need in self.reasons or not made else [])])
        return told

    def why(self, need: Need) -> str:
        """Why there is no network of this kind."""
        return self.reasons.get(need, NO_LPIPS if need == "lpips" else f"no network for {need} is loaded")

    def of(self, metric: str) -> list[Any]:
        """The networks that a metric is computed with: one column each."""
        match find(metric).needs:
            case "none":
                return [None]
            case "structure":
                return [] if self.structure is None else [self.structure]
            case "clip":
                return [] if self.clip is None else [self.clip]
            case "lpips" if metric == "ns_lpips":
                published = [n for n in self.lpips if n.name == PUBLISHED[metric]]
                return (published or list(self.lpips))[:1]
            case "lpips":
                return list(self.lpips)


def _place(folder: Location | None, name: str) -> Location:
    if folder is None:
        return HUB[name]
    found = _found(folder, name)
    if found is None:
        raise ReinvertError(f"{folder} has no {name}: put the folder or {name}.safetensors there")
    return found


def _found(folder: Location | None, name: str) -> Path | None:
    if folder is None:
        return None
    places = (Path(folder) / name, Path(folder) / f"{name}.safetensors")
    return next((place for place in places if place.exists()), None)


def _structure(where: Location) -> Vit:
    network = load_vit(where)
    network.name = _known(DINO, where, network.shape)
    return network


def _clip(where: Location) -> Clip:
    network = Clip.load(where)
    network.name = _known(CLIP_LARGE, where, network.shape)
    return network


def _known(name: str, where: Location, shape: tuple[int, int, int]) -> str:
    """The name of a network: the published one only for its Hub repository or a copy that is called and shaped so."""
    called = label(where)
    if called not in ALIASES[name]:
        return called
    if shape != SHAPES[name]:
        raise ReinvertError(f"{where} is called {called} but is another network: give it another name")
    return name


# --- scores ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Libraries:
    """Where versions of the published evaluator's libraries differ (compat only). The authors pinned none."""

    ssim_crop: bool = False
    """Leave the outermost 5 pixels out of SSIM's mean: torchmetrics before 1.4.2."""
    antialias: bool = True
    """Smooth while shrinking for the structure distance: torchvision from 0.17 on."""


CURRENT = Libraries()
"""What the evaluator computes when it is installed today."""
OF_THE_PAPER = Libraries(ssim_crop=True, antialias=False)
"""What it computed when the paper's table was made (2023)."""


@dataclass(frozen=True)
class Comparison:
    """One edit to be scored: pictures of one size; the mask (mode L, white = edited) may be missing, as may the
    prompts and the true edit. Brackets in prompts, PIE-Bench's marks of what differs, are dropped."""

    source: Picture
    edited: Picture
    mask: Picture | None = None
    source_prompt: str | None = None
    target_prompt: str | None = None
    true_edit: Picture | None = None


@dataclass(frozen=True)
class Scores:
    """The values of one edit by column name, None where there is none, and `reasons` for those. PSNR of equal pictures
    is infinite. `jpeg75`: whether the edit was compressed first."""

    mode: Mode
    jpeg75: bool
    values: Mapping[str, float | None]
    reasons: Mapping[str, str]


def score(
    source: Picture,
    edited: Picture,
    mask: Picture | None,
    source_prompt: str | None,
    target_prompt: str | None,
    mode: Mode,
    networks: Networks,
    true_edit: Picture | None = None,
    jpeg75: bool = False,
    libraries: Libraries = CURRENT,
    columns: Collection[str] | None = None,
) -> Scores:
    """Score one edit; see `score_all`."""
    item = Comparison(source, edited, mask, source_prompt, target_prompt, true_edit)
    return score_all([item], mode, networks, jpeg75=jpeg75, libraries=libraries, columns=columns)[0]


def score_all(
    items: Sequence[Comparison],
    mode: Mode,
    networks: Networks,
    *,
    jpeg75: bool = False,
    libraries: Libraries = CURRENT,
    columns: Collection[str] | None = None,
    batch: int = 16,
) -> list[Scores]:
    """Score edits, `batch` of one size at a time; what is scored together changes the networks' last digits only.

    `jpeg75` sends each edit through JPEG (quality 75, 4:2:0) first, as the published programs save it. `columns` names
    the columns wanted, without networks' names; None is all. Raises `ReinvertError` for an unknown mode or column,
    pictures or masks of different sizes, and `libraries` in strict mode.
    """
    if str(mode) not in get_args(Mode):
        raise ReinvertError(f"there is no mode {mode!r}: use strict or compat")
    if mode == "strict" and libraries != CURRENT:
        raise ReinvertError("versions of the published evaluator's libraries are a matter of compat: leave them out")
    if batch < 1:
        raise ReinvertError(f"batch {batch} is too small: score at least one edit at a time")
    wanted = [column(name) for name in (COLUMNS if columns is None else columns)]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault((_check(item), *_has(item).values()), []).append(index)
    made: dict[int, Scores] = {}
    with torch.no_grad():
        for group in groups.values():
            for start in range(0, len(group), batch):
                part = group[start : start + batch]
                sheet = _Sheet([items[i] for i in part], mode, networks, jpeg75, libraries)
                made |= dict(zip(part, sheet.scores(wanted), strict=True))
    return [made[index] for index in range(len(items))]


def jpeg(picture: Picture, quality: int = 75) -> Picture:
    """The picture after JPEG compression with halved colour resolution (4:2:0), PIL's default.

    The published programs save the edit as the last tile of a row, whose neighbour colours the tile's first column of
    pixels a little. Compat counts that column as edited, so that the unedited part's values are the same without it.
    """
    stored = io.BytesIO()
    as_rgb(picture).save(stored, format="JPEG", quality=quality, subsampling="4:2:0")
    return as_rgb(Image.open(stored))


def _has(item: Comparison) -> dict[str, bool]:
    names = ("mask", "source_prompt", "target_prompt", "true_edit")
    return {name.replace("_", " "): getattr(item, name) is not None for name in names}


def _check(item: Comparison) -> Size:
    """The size of all pictures of a comparison."""
    size = item.source.size
    for name in ("edited", "mask", "true_edit"):
        other = getattr(item, name)
        if other is not None and other.size != size:
            raise ReinvertError(
                f"the {name.replace('_', ' ')} is {other.size[0]}x{other.size[1]} but the source is "
                f"{size[0]}x{size[1]}: nothing is resized for scoring, so bring them to one size first"
            )
    return size


class _Sheet:
    """Comparisons of one size, with the same things missing, as tensors."""

    def __init__(
        self, items: Sequence[Comparison], mode: Mode, networks: Networks, jpeg75: bool, libraries: Libraries
    ) -> None:
        self.items, self.networks, self.jpeg75, self.libraries = items, networks, jpeg75, libraries
        self.mode: Mode = mode
        self.has = _has(items[0])
        self.source = self._tensor([item.source for item in items])
        self.edited = self._tensor([jpeg(item.edited) if jpeg75 else item.edited for item in items])
        truths = [item.true_edit for item in items if item.true_edit is not None]
        self.true_edit = self._tensor(truths) if truths else None
        masks = [item.mask for item in items if item.mask is not None]
        self.mask = self._mask(masks) if masks else None

    def scores(self, wanted: Sequence[Column]) -> list[Scores]:
        """One `Scores` for each comparison."""
        values: list[dict[str, float | None]] = [{} for _ in self.items]
        reasons: list[dict[str, str]] = [{} for _ in self.items]
        for asked in wanted:
            if asked.beside == "true edit" and self.true_edit is None:
                continue  # most benchmarks have none: no column at all
            for named, found in self._made(asked):
                for index in range(len(self.items)):
                    value = found if isinstance(found, str) else float(found[index])
                    if isinstance(value, str) or value != value:
                        values[index][named] = None
                        reasons[index][named] = value if isinstance(value, str) else _EMPTY[asked.part]
                    else:
                        values[index][named] = value
        return [Scores(self.mode, self.jpeg75, v, r) for v, r in zip(values, reasons, strict=True)]

    def _made(self, asked: Column) -> Iterator[tuple[str, Tensor | str]]:
        """A column's values `[n]`, or the reason why there are none, once for each network."""
        networks = {_model(asked.metric, network): network for network in self.networks.of(asked.metric)}
        if asked.model:
            networks = {model: network for model, network in networks.items() if model == asked.model}
        if not networks:
            yield asked.name, self.networks.why(asked.about.needs)
        missing = self._missing(asked)
        for model, network in networks.items():
            named = Column(asked.base, asked.metric, asked.part, asked.beside, model).name
            yield named, missing or self._computed(asked, network)

    def _missing(self, asked: Column) -> str:
        if asked.part != "whole" and self.mask is None:
            return "this case has no mask"
        if asked.beside in ("source prompt", "target prompt") and not self.has[asked.beside]:
            return f"this case has no {asked.beside}"
        return ""

    def _computed(self, asked: Column, network: Any) -> Tensor:
        compute, region = asked.about.compute, self._region(asked.part)
        options: dict[str, Any] = {} if network is None else {"network": network}
        if asked.metric == "structure_distance":
            options["antialias"] = self.libraries.antialias
        if asked.metric == "ssim":
            options["crop"] = self.libraries.ssim_crop
        if asked.beside in ("source prompt", "target prompt"):
            source = asked.beside == "source prompt"
            told = [_plain(item.source_prompt if source else item.target_prompt) for item in self.items]
            return compute(self.source if source else self.edited, told, region, self.mode, **options)
        first = self.true_edit if asked.beside == "true edit" and self.true_edit is not None else self.source
        second = filled(self.edited, first, region) if self.mode == "strict" else self.edited
        return compute(first, second, region, self.mode, **options)

    def _region(self, part: Part) -> Tensor | None:
        if part == "whole" or self.mask is None:
            return None
        return self.mask if part == "edit" else 1 - self.mask

    def _tensor(self, pictures: Sequence[Picture]) -> Tensor:
        levels = np.stack([np.asarray(as_rgb(picture)) for picture in pictures])
        tensor = torch.from_numpy(levels).permute(0, 3, 1, 2).contiguous()
        return tensor.to(self.networks.device, torch.float32) / 255

    def _mask(self, masks: Sequence[Picture]) -> Tensor:
        """1 where a pixel is at least half white (or not 0, in a mask of labels); compat adds the border."""
        levels = np.stack([np.asarray(mask.convert("L")) for mask in masks])
        threshold = np.where(levels.max((1, 2), keepdims=True) >= 128, 128, 1)
        edited = torch.from_numpy(levels >= threshold)[:, None].to(self.networks.device, torch.float32)
        if self.mode == "compat":
            edited[..., [0, -1], :] = 1
            edited[..., [0, -1]] = 1
        return edited


_EMPTY: Mapping[Part, str] = {
    "whole": "the value is not a number",
    "unedit": "the mask covers the whole picture: there is no unedited part",
    "edit": "the mask is empty: there is no edited part",
}


def _model(metric: str, network: Any) -> str:
    """What a column says of its network: nothing if it is the published one, or none."""
    return "" if network is None or network.name == PUBLISHED.get(metric) else network.name


def _plain(prompt: str | None) -> str:
    """A prompt without PIE-Bench's brackets."""
    return (prompt or "").replace("[", "").replace("]", "")
