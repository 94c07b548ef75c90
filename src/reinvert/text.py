"""What a model is conditioned on: encoded prompts, and how the null side is filled at each step.

A branch is one thing being drawn: branch 0 is the source, 1.. are targets. A side is a guidance half. The text side
of a branch never changes during a walk; the null side may (null-text inversion learns one per step).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor


class Side(IntEnum):
    """The halves of classifier-free guidance."""

    NULL = 0
    TEXT = 1


def rows_at(tensor: Tensor, index: Sequence[int]) -> Tensor:
    """Some entries of the first axis: a view where they are neighbours. Indexing by a list would send the list to the
    device and wait for it."""
    first = index[0]
    if list(index) == list(range(first, first + len(index))):
        return tensor[first : first + len(index)]
    return torch.stack([tensor[i] for i in index])


@dataclass(frozen=True)
class Text:
    """Encoded prompts. Their leading axes may be any: [prompt], [case], [branch, case], [step, case], [row, case].

    `tokens` are [..., token, dim]; `pooled`, where a model reads one, is the prompt as a single vector [..., dim];
    `values` [..., token, dim] take the tokens' place as values of cross-attention where a method learns them.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    values: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Text:
        """`change` applied to each tensor."""
        return combine(lambda tensors: change(tensors[0]), [self])

    def __getitem__(self, index: Any) -> Text:
        """By the leading axes."""
        return self.map(lambda tensor: tensor[index])

    def at(self, index: Sequence[int]) -> Text:
        """Some entries of the first axis, without sending the list to the device as indexing by it would."""
        return self.map(lambda tensor: rows_at(tensor, index))

    def __len__(self) -> int:
        return len(self.tokens)

    def expand(self, *lead: int) -> Text:
        """With leading axes of these sizes."""
        pooled = None if self.pooled is None else self.pooled.expand(*lead, -1)
        values = None if self.values is None else self.values.expand(*lead, -1, -1)
        return Text(self.tokens.expand(*lead, -1, -1), pooled, values)

    def same_as(self, other: Text) -> Tensor:
        """Whether both are exactly the same, so that one network row can serve for both: a flag on their device."""
        pairs = ((self.tokens, other.tokens), (self.pooled, other.pooled), (self.values, other.values))
        same = torch.ones((), dtype=torch.bool, device=self.tokens.device)
        for a, b in pairs:
            if a is b:
                continue
            if a is None or b is None or a.shape != b.shape:
                return torch.zeros_like(same)
            same = same & (a == b).all()
        return same


def combine(change: Callable[[list[Tensor]], Tensor], texts: Sequence[Text]) -> Text:
    """Arithmetic of prompts: `change` makes each tensor of the result from the same tensor of every text."""

    def each(tensors: list[Tensor | None]) -> Tensor | None:
        own = [tensor for tensor in tensors if tensor is not None]
        return change(own) if own else None

    pooled, values = each([text.pooled for text in texts]), each([text.values for text in texts])
    return Text(change([text.tokens for text in texts]), pooled, values)


def join(texts: Sequence[Text]) -> Text:
    """Concatenate along the first axis; tokens stand in for values where only some have their own."""
    if any(text.values is not None for text in texts):
        texts = [text if text.values is not None else replace(text, values=text.tokens) for text in texts]
    return combine(torch.cat, texts)


@dataclass(frozen=True)
class Conditioning:
    """What every branch is conditioned on, in both sides, at every step.

    `text` is [branch, case], `empty` what no prompt is [case]. `null`, where a method has one, replaces `empty`: [step
    or 1, case]; for the source only, unless `null_for_targets`. `negative` [case] is what the targets have in the null
    side, whatever else is there. `at_step`, where a method has it, replaces `text` at each step of the walk.
    """

    text: Text
    empty: Text
    null: Text | None = None
    null_for_targets: bool = True
    negative: Text | None = None
    at_step: tuple[Text, ...] = ()

    def side(self, side: Side, branch: int, index: int) -> Text:
        """What one branch is conditioned on in one side at step `index`: [case]."""
        if side is Side.TEXT:
            return self.at_step[index][branch] if self.at_step else self.text[branch]
        if branch > 0 and self.negative is not None:
            return self.negative
        if self.null is None or (branch > 0 and not self.null_for_targets):
            return self.empty
        return self.null[min(index, len(self.null) - 1)]

    def changes(self, side: Side, branch: int) -> bool:
        """Whether what one branch is conditioned on in one side may differ from step to step."""
        if side is Side.TEXT:
            return bool(self.at_step)
        if self.null is None or len(self.null) == 1:
            return False
        return branch == 0 or (self.negative is None and self.null_for_targets)


def with_text(conditioning: Conditioning, branch: int, text: Text) -> Conditioning:
    """The same conditioning, where one branch's text side has `text` [case] at every step."""

    def change(all_branches: Text) -> Text:
        return join([text[None] if b == branch else all_branches[b : b + 1] for b in range(len(all_branches))])

    at_step = tuple(change(step) for step in conditioning.at_step)
    return replace(conditioning, text=change(conditioning.text), at_step=at_step)


def between(start: Text, end: Text, share: float) -> Text:
    """Spherical interpolation of two texts, prompt by prompt: the words as one vector, the pooled vector as another."""
    pooled = None
    if start.pooled is not None and end.pooled is not None:
        pooled = slerp(start.pooled, end.pooled, share, axes=1)
    return Text(slerp(start.tokens, end.tokens, share), pooled)


def slerp(start: Tensor, end: Tensor, share: float, axes: int = 2) -> Tensor:
    """Spherical interpolation of the last `axes` axes taken as one vector; share 0 gives `start`, 1 gives `end`."""
    a, b = start.flatten(-axes), end.flatten(-axes)
    cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    omega = torch.arccos(cosine.clamp(-1, 1))[(..., *(None,) * axes)]
    # Parallel vectors (and none at all) have no arc: sin(omega) -> 0, where the straight line is the limit.
    straight = (1 - share) * start + share * end
    arc = (torch.sin((1 - share) * omega) * start + torch.sin(share * omega) * end) / torch.sin(omega)
    return torch.where(torch.sin(omega).abs() >= 1e-6, arc, straight)
