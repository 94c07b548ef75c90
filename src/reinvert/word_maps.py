"""Where the network looks for each word of source and target, step by step: its cross-attention as maps.

    shares[word] = mean over heads and layers of the attention that goes to the word's tokens

The maps are those after every rule of the editors: what the target is shown, not what it would have looked at. They
are recorded in a rendering of its own, as further channels of the values (`editors.attention`), so that the edit itself
stays as it is to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from reinvert import verbs
from reinvert.backbones.base import Backbone
from reinvert.editors.attention import attend_with, map_grid
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.hooks import Attend, Hooks, Kind, Site, sdpa
from reinvert.level import Moment
from reinvert.request import Watch
from reinvert.text import Side
from reinvert.trajectory import Trajectory
from reinvert.words import Reader, word_positions

SMALLEST = 16
"""Cells a side that the maps have at least, where the latents have that many."""


@dataclass(frozen=True)
class WordMaps:
    """The words of source and target, and their maps [step, branch, word, h, w] as shares of the attention.

    Branch 0 is the source, 1 the target; a branch with fewer words than the other has zeros behind them. The shares of
    the source add up to 1 at most, those of a target to more where its editor adds two attentions (p2p refine).
    """

    words: tuple[tuple[str, ...], tuple[str, ...]]
    maps: Tensor

    def of(self, branch: int, word: int, step: int | None = None) -> Tensor:
        """The map [h, w] of a word at a step, or its mean over all."""
        picked = self.maps[:, branch, word]
        return picked.mean(0) if step is None else picked[step]


def word_maps(
    model: Backbone,
    trajectory: Trajectory,
    target: str,
    editors: Sequence[Editor],
    *,
    guidance: float | None = None,
    seed: int = 0,
    mask: Any = None,
    any_words: bool = False,
    watch: Watch | None = None,
) -> WordMaps:
    """Render one edit again and record its maps. Raises `ReinvertError` for a model without cross-attention."""
    if "cross" not in model.kinds:
        raise ReinvertError(
            f"{model.name} reads words and picture in one joint attention, so a word has no map of its own"
        )
    words = (tuple(trajectory.prompts[0].split()), tuple(target.split()))
    recorder = Recorder()
    verbs.edit(
        model,
        trajectory,
        target=target,
        editor=[*editors, recorder],
        guidance=guidance,
        seed=seed,
        mask=mask,
        any_words=any_words,
        watch=watch,
    )
    steps = [recorder.seen[index] for index in sorted(recorder.seen)]
    if not steps:
        raise ReinvertError(f"{model.name} has no cross-attention on the grid in which words are looked for")
    return WordMaps(words, torch.stack(steps))


@dataclass(frozen=True)
class Recorder(Editor):
    """Changes nothing, and keeps the maps of every word of both prompts in `seen`, by step."""

    name: ClassVar[str] = "word_maps"
    acts_on: ClassVar[tuple[Kind, ...]] = ("cross",)
    reads_maps: ClassVar[bool] = True
    seen: dict[int, Tensor] = field(default_factory=dict[int, Tensor], compare=False, repr=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    def bind(self, case: Case) -> Hooks:
        prompts = [case.sources[0], *(target[0] for target in case.targets)]
        channels = [_channels(case.model.words, prompt, case.model.words.length) for prompt in prompts]
        most = max(each.shape[-1] for each in channels)
        padded = [torch.nn.functional.pad(each, (0, most - each.shape[-1])) for each in channels]
        together = torch.stack(padded)[:, None].to(case.model.device)  # [branch, case, token, word]
        return _Recording(together, map_grid(case.latent, SMALLEST), self.seen)


def _channels(reader: Reader, prompt: str, length: int) -> Tensor:
    """[token, word]: 1 where a token belongs to a word."""
    count = len(prompt.split())
    channels = torch.zeros(length, count)
    for word in range(count):
        channels[list(word_positions(reader, prompt, word)), word] = 1.0
    return channels


class _Recording(Hooks):
    def __init__(self, channels: Tensor, grid: tuple[int, int], seen: dict[int, Tensor]) -> None:
        self.channels, self.grid, self.seen = channels, grid, seen
        self.layers: dict[int, int] = {}

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "cross"

    def reads(self, moment: Moment) -> Collection[Side]:
        return (Side.TEXT,)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        whole = len(site.branches) == len(self.channels)
        if site.side is not Side.TEXT or site.kind != "cross" or site.grid != self.grid or not whole:
            return inner(q, k, v, site)
        out, shares = attend_with(q, k, v, self.channels, site, inner)
        index, mine = site.moment.index, shares[:, 0].cpu()
        count = self.layers[index] = self.layers.get(index, 0) + 1
        before = self.seen.get(index, torch.zeros_like(mine))
        self.seen[index] = before + (mine - before) / count
        return out


__all__ = ["WordMaps", "word_maps"]
