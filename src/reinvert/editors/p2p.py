"""Prompt-to-Prompt: the target looks where the source looked.

    E = A_S P + A_T diag(D),  out = E V = softmax(Q_S K_S^T) (P V_T) + softmax(Q_T K_T^T) (D V_T)     cross-attention
    out = softmax(Q_S K_S^T) V_T                                                                     self-attention

Prompt-to-Prompt Image Editing with Cross Attention Control, 2023, arXiv 2208.01626. Differs from the authors' code: the
word maps act on the values, so no attention map is ever built; the Replace map keeps the words behind the last
replaced one aligned (`compat="published"` restores the published tail); per-word windows work; and the largest
self-attention grid is a fraction of the latents, not the literal 32 x 32 (which it is at 512 pixels).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reinvert.editors.attention import MadeOfHeads, of_source
from reinvert.editors.base import Case, Editor
from reinvert.hooks import Attend, Hooks, Kind, Site, rows_at, sdpa
from reinvert.level import Moment
from reinvert.precision import around
from reinvert.text import Side
from reinvert.words import Share, cross_windows, edit_matrices, equalizer, mixing, self_window


@dataclass(frozen=True)
class P2P(Editor):
    """Replace, Refine and Reweight in one; Reweight is what `boost` adds to either."""

    name: ClassVar[str] = "p2p"
    acts_on: ClassVar[tuple[Kind, ...]] = ("self", "cross")
    when: ClassVar[str] = (
        "For swapping, adding or strengthening words while the layout stays. Not for changes of pose or place, which "
        "its shared attention forbids."
    )
    kind: Literal["refine", "replace", "auto"] = "refine"
    """refine: shared words keep the source's attention. replace: word for word, equal word counts. auto: replace where
    the word counts are equal."""
    cross: Share | Mapping[str, Share] = 0.4
    """Share of the run in which cross-attention follows the source; or one per word, "default_" for the others."""
    self_attention: Share = 0.6
    """Share of the run in which self-attention is the source's."""
    boost: Mapping[str, float] = field(default_factory=dict)
    """Factor of a target word's attention inside its cross window, e.g. dog=2."""
    self_grid: float = 0.5
    """Largest self-attention grid that is injected, as a fraction of the latents' side."""
    windows: Literal["walked", "grid"] = "walked"
    """What the shares are shares of, where an inversion skips steps: those that are walked, or the whole grid, counted
    from the first one walked (the published edit-friendly row)."""
    compat: Literal["correct", "published"] = "correct"
    """published: the misaligned tail of the published Replace map."""

    def kind_for(self, source: str, target: str) -> Literal["refine", "replace"]:
        """What `auto` means for two prompts."""
        if self.kind != "auto":
            return self.kind
        return "replace" if len(source.split()) == len(target.split()) else "refine"

    def bind(self, case: Case) -> Hooks:
        words, steps, dtype = case.model.words, case.steps, around(case.model.dtype)
        if self.windows == "grid":
            steps = case.grid_steps or steps
        p, d = list[Tensor](), list[Tensor]()
        for branch in case.pairs():
            made = [
                edit_matrices(
                    mixing(words, source, target, mine.kind_for(source, target), compat=mine.compat, dtype=dtype),
                    cross_windows(words, target, steps, mine.cross),
                    equalizer(words, target, mine.boost, dtype),
                )
                for mine, (source, target) in ((self.at(case, i), pair) for i, pair in enumerate(branch))
            ]
            p.append(torch.stack([m.P for m in made], dim=1))
            d.append(torch.stack([m.D for m in made], dim=1))
        device = case.model.device
        return _P2PHooks(
            torch.stack(p, dim=1), torch.stack(d, dim=1), range(*self_window(steps, self.self_attention)),
            self.self_grid, device,
        )  # fmt: skip


class _P2PHooks(Hooks):
    """P is [step, target, case, token, token], D [step, target, case, token]."""

    def __init__(self, p: Tensor, d: Tensor, self_steps: range, self_grid: float, device: torch.device) -> None:
        self.p, self.d, self.self_steps, self.self_grid = p.to(device), d.to(device), self_steps, self_grid
        # Asked of the host's tensors: the device is not waited for.
        self.edits = [bool(m.any()) for m in p]
        self.keeps = [bool(m.any()) for m in d]
        self.matrices = [
            next(j for j in range(i + 1) if torch.equal(p[j], p[i]) and torch.equal(d[j], d[i])) for i in range(len(p))
        ]
        """For each step the first one that has the same."""
        self.made = MadeOfHeads()
        self.unedited = [not e and bool((m == 1).all()) for e, m in zip(self.edits, d, strict=True)]

    def touches(self, kind: Kind, moment: Moment) -> bool:
        return not self.unedited[moment.index] if kind == "cross" else moment.index in self.self_steps

    def reaches(self, site: Site) -> bool:
        if site.side is not Side.TEXT or len(site.branches) < 2 or not self.touches(site.kind, site.moment):
            return False
        return site.kind == "cross" or site.grid[0] <= self.self_grid * site.latent[0]

    def reads(self, moment: Moment) -> Collection[Side]:
        read = self.edits[moment.index] or moment.index in self.self_steps
        return (Side.TEXT,) if read else ()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend = sdpa) -> Tensor:
        if not self.reaches(site):
            return inner(q, k, v, site)
        if site.kind == "cross":
            return self._cross(q, k, v, site, inner)
        return inner(of_source(q), of_source(k), v, site)

    def _cross(self, q: Tensor, k: Tensor, v: Tensor, site: Site, inner: Attend) -> Tensor:
        """One fused call over [source, targets as the source sees them, targets as they see themselves]."""
        i, n = site.moment.index, len(q) - 1
        # The matrices and, in most walks, the words' keys and values are those of other steps, too.
        k, v = self.made.of(k, v, (site.layer.name, site.branches, self.matrices[i]), self._keys_and_values, site)
        if not self.edits[i]:
            return inner(q, k, v, site)
        if not self.keeps[i]:
            return inner(of_source(q), k, v, site)
        out = inner(torch.cat([q[:1].expand(n + 1, *q.shape[1:]), q[1:]]), k, v, site)
        return torch.cat([out[:1], out[1 : n + 1] + out[n + 1 :]])

    def _keys_and_values(self, k: Tensor, v: Tensor, site: Site) -> tuple[Tensor, Tensor]:
        """Those of the fused call."""
        i, targets, n = site.moment.index, [b - 1 for b in site.branches[1:]], len(v) - 1
        edited, kept = self.edits[i], self.keeps[i] or not self.edits[i]
        mixed = [rows_at(self.p[i], targets).to(v)[:, :, None] @ v[1:]] if edited else []
        own = [rows_at(self.d[i], targets).to(v)[:, :, None, :, None] * v[1:]] if kept else []
        if not edited:
            keys = k
        else:
            keys = torch.cat([k[:1].expand(n + 1, *k.shape[1:]), k[1:]]) if kept else of_source(k)
        return keys, torch.cat([v[:1], *mixed, *own])
