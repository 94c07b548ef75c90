"""What is said to the model: keys and values of the cross-attention, and how the null side is filled at each step.

A branch is one thing being drawn: branch 0 is the source, 1.. are targets. A side is a guidance half. The text side
of a branch never changes during a walk; the null side may (null-text inversion learns one per step).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor


class Side(IntEnum):
    """The halves of classifier-free guidance."""

    NULL = 0
    TEXT = 1


@dataclass(frozen=True)
class Text:
    """An encoded prompt. `keys` and `values` are [..., token, dim]; they differ only where a method learns values."""

    keys: Tensor
    values: Tensor | None = None

    def __getitem__(self, index: object) -> Text:
        values = None if self.values is None else self.values[index]  # type: ignore[index]
        return Text(self.keys[index], values)  # type: ignore[index]

    def same_as(self, other: Text) -> bool:
        """Whether both say exactly the same, so that one network row can serve for both."""
        if (self.values is None) != (other.values is None):
            return False
        values_agree = self.values is None or other.values is None or torch.equal(self.values, other.values)
        return torch.equal(self.keys, other.keys) and values_agree


def join(texts: list[Text]) -> Text:
    """Concatenate along the first axis; keys stand in for values where only some have their own."""
    keys = torch.cat([text.keys for text in texts])
    if all(text.values is None for text in texts):
        return Text(keys)
    return Text(keys, torch.cat([text.keys if text.values is None else text.values for text in texts]))


@dataclass(frozen=True)
class Speech:
    """What is said to every branch, in both sides, at every step.

    `text` is [branch, case, token, dim], `empty` the encoding of "" [case, token, dim]. `null`, where a method has
    one, replaces `empty`: [step or 1, case, token, dim]; for the source only, unless `null_for_targets`. `negative`
    [case, token, dim] is what the targets hear in the null side, whatever else is there. `at_step`, where a method
    has it, replaces `text` at each step of the walk.
    """

    text: Text
    empty: Text
    null: Tensor | None = None
    null_for_targets: bool = True
    negative: Text | None = None
    at_step: tuple[Text, ...] = ()

    def side(self, side: Side, branch: int, index: int) -> Text:
        """What one branch hears in one side at step `index`: [case, token, dim]."""
        if side is Side.TEXT:
            return self.at_step[index][branch] if self.at_step else self.text[branch]
        if branch > 0 and self.negative is not None:
            return self.negative
        if self.null is None or (branch > 0 and not self.null_for_targets):
            return self.empty
        return Text(self.null[min(index, len(self.null) - 1)])


def said_to(speech: Speech, branch: int, said: Text) -> Speech:
    """The same speech, where one branch's text side hears `said` [case, token, dim] at every step."""

    def change(text: Text) -> Text:
        keys = text.keys.clone()
        keys[branch] = said.keys
        if text.values is None and said.values is None:
            return Text(keys)
        values = (text.keys if text.values is None else text.values).clone()
        values[branch] = said.keys if said.values is None else said.values
        return Text(keys, values)

    return replace(speech, text=change(speech.text), at_step=tuple(change(text) for text in speech.at_step))


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Spherical interpolation of the last two axes taken as one vector; share 0 gives `start`, 1 gives `end`."""
    a, b = start.flatten(-2), end.flatten(-2)
    cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
    omega = torch.arccos(cosine.clamp(-1, 1))[..., None, None]
    # Parallel vectors have no arc: sin(omega) -> 0, where the straight line is the limit.
    straight = (1 - share) * start + share * end
    arc = (torch.sin((1 - share) * omega) * start + torch.sin(share * omega) * end) / torch.sin(omega)
    return torch.where(torch.sin(omega).abs() < 1e-6, straight, arc)
