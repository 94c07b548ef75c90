"""Pix2Pix-Zero: move the prompt along a direction, and the latents so that cross-attention stays where it was.

    C = E(source) + mean E(target bank) - mean E(source bank),   null side: E(source)
    x <- x - amount grad_x sum over layers of |A(x) - A_source|^2 / (2 heads),   then a guided step

Zero-shot Image-to-Image Translation, 2023, arXiv 2302.03027. Without banks the two prompts are the banks, which makes C
the target prompt, as PnPInversion runs it. As published, the two sides are moved apart and the null side's latents walk
on. Differs from the authors' code: source and target walk in lock-step, so that one step's maps are kept instead of
all; the source is evaluated once a step; gradients are taken of the latents only; sentences are given, no captioner is
run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from reinvert.editors.attention import probabilities
from reinvert.editors.base import Case, Editor
from reinvert.errors import ReinvertError
from reinvert.files.recipe import read_bank
from reinvert.hooks import Attend, Call, Hooks, Kind, Look, Nudged, Row, Site, sdpa
from reinvert.level import Moment
from reinvert.text import Conditioning, Side, Text, combine, join


@dataclass(frozen=True)
class Pix2PixZero(Editor):
    """Needs gradients of the latents; the published inversion is `regularised`."""

    name: ClassVar[str] = "pix2pix_zero"
    prompts: ClassVar[tuple[str, ...]] = ("source_bank", "target_bank")
    takes_gradients: ClassVar[bool] = True
    acts_on: ClassVar[tuple[Kind, ...]] = ("cross",)
    needs_null_side: ClassVar[bool] = True
    when: ClassVar[str] = (
        "For one concept turned into another over many pictures, with sentence banks for both. Not where memory is "
        "short, nor for several changes at once: it costs two backward passes a step."
    )
    usual_inversion: ClassVar[str] = "regularised"
    amount: float = 0.1
    """Length of the gradient step (cross-attention guidance); 0 leaves only the direction."""
    source_bank: tuple[str, ...] = ()
    """Sentences about what is there; @FILE has one a line. Empty: the source prompt."""
    target_bank: tuple[str, ...] = ()
    """Sentences about what is to be there. Empty: the target prompt."""

    def __post_init__(self) -> None:
        # The sentences decide the result, not the file's name: they are what is checked, recorded and used.
        object.__setattr__(self, "source_bank", sentences(self.source_bank))
        object.__setattr__(self, "target_bank", sentences(self.target_bank))

    def bind(self, case: Case) -> Hooks:
        if self.amount < 0:
            raise ReinvertError(f"amount is 0 or more, not {self.amount}")
        return _ZeroHooks(self, case, self.source_bank, self.target_bank)


def sentences(bank: Sequence[str]) -> tuple[str, ...]:
    """The bank with every @FILE replaced by its lines."""
    read = [read_bank(Path(item[1:])) if item.startswith("@") else [item] for item in bank]
    return tuple(sentence for part in read for sentence in part)


class _ZeroHooks(Hooks):
    def __init__(self, method: Pix2PixZero, case: Case, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        self.method, self.model = method, case.model
        self.before, self.after = before, after
        self.maps = _Maps()
        self.conditioning: Conditioning | None = None

    def text(self, conditioning: Conditioning) -> Conditioning:
        source = conditioning.text[0]
        null = source[None] if conditioning.null is None else conditioning.null
        conditioning = replace(conditioning, negative=source, null=null)
        if self.before or self.after:
            at_step = tuple(self._moved(text) for text in conditioning.at_step)
            conditioning = replace(conditioning, text=self._moved(conditioning.text), at_step=at_step)
        self.conditioning = conditioning
        return conditioning

    def _moved(self, text: Text) -> Text:
        """The targets' text: the source's plus the direction."""
        source, targets = text[:1], text[1:]

        def mean(bank: tuple[str, ...], otherwise: Text) -> Text:
            if not bank:
                return otherwise
            return self.model.encode_text(bank).map(lambda tensor: tensor.mean(0))[None, None]

        plain = replace(text, values=None)
        after, before = mean(self.after, plain[1:]), mean(self.before, plain[:1])
        moved = combine(lambda each: each[0] + each[1] - each[2], [plain[:1], after, before])
        return join([source, replace(moved.expand(*targets.tokens.shape[:2]), values=targets.values)])

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "cross" and self.maps.open

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if site.side is Side.TEXT and site.kind == "cross" and self.maps.open:
            self.maps.keep(q[:1], k[:1], site)
        return inner(q, k, v, site)

    def nudge(self, x: Tensor, look: Look, moment: Moment) -> Nudged:
        if self.method.amount == 0 or len(x) == 1:
            return x
        with self.maps:
            look(x, moment, (0,))
            return self._pulled(x, moment)

    def _pulled(self, x: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Both sides' latents after one gradient step of each target towards the source's maps."""
        conditioning = self.conditioning
        assert conditioning is not None
        sides: tuple[list[Tensor], list[Tensor]] = ([x[0]], [x[0]])
        for branch in range(1, len(x)):
            rows = (Row(Side.NULL, branch), Row(Side.TEXT, branch))
            texts = join([conditioning.side(row.side, branch, moment.index)[None] for row in rows])
            distance = _Distance(self.maps)
            with torch.enable_grad():
                leaf = x[branch].detach().expand(2, *x.shape[1:]).clone().requires_grad_()
                self.model.answer(leaf, texts, moment.ask, Call(rows, {}, moment, distance))
                gradient = torch.autograd.grad(distance.total, leaf)[0]
            self.model.tally.backwards += 2 * x.shape[1]
            moved = leaf.detach() - self.method.amount * gradient
            sides[0].append(moved[0])
            sides[1].append(moved[1])
        return torch.stack(sides[0]), torch.stack(sides[1])


class _Maps:
    """The source's cross-attention maps of one step, by layer: [case, head, query, token]; empty outside a `with`."""

    def __init__(self) -> None:
        self.open = False
        self.by_layer: dict[str, Tensor] = {}

    def keep(self, q: Tensor, k: Tensor, site: Site) -> None:
        self.by_layer.setdefault(site.layer.name, probabilities(q, k)[0])

    def __enter__(self) -> _Maps:
        self.open = True
        return self

    def __exit__(self, *error: object) -> None:
        self.open = False
        self.by_layer.clear()


class _Distance(Hooks):
    """Adds up how far the maps are from the source's, layer by layer; nothing but the sum is kept."""

    def __init__(self, maps: _Maps) -> None:
        self.maps = maps
        self.total = next((map_.new_zeros(()) for map_ in maps.by_layer.values()), torch.zeros(()))

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return kind == "cross"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        apart = probabilities(q, k) - self.maps.by_layer[site.layer.name]
        # Two rows, one per side, and the heads are what the published loss is averaged over.
        self.total = self.total + apart.square().sum() / (2 * q.shape[2])
        return inner(q, k, v, site)


__all__ = ["Pix2PixZero", "sentences"]
