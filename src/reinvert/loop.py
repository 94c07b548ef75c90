"""The one denoising loop. Inversion walks it upwards; fitting, reconstruction and editing walk it downwards.

It yields after every step and knows nothing about progress bars, previews or files: whoever iterates decides.
Rows are its unit of cost: a (side, branch) pair goes through the network only if something reads its result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.errors import NonFiniteError
from reinvert.hooks import Call, Hooks, Nudged, Row, same_memory, scales
from reinvert.level import Level, Moment, Split, Time
from reinvert.text import Conditioning, Side, Text, join


@dataclass(frozen=True)
class State:
    """What a step moves. `latents` holds one tensor [branch, case, channel, h, w] (EDICT has two); `memory` is the
    step's own business (multi-step solvers)."""

    latents: tuple[Tensor, ...]
    memory: tuple[Tensor, ...] = field(default=())

    @property
    def x(self) -> Tensor:
        return self.latents[0]

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        return replace(self, latents=tuple(change(x) for x in self.latents))


Guidance = tuple[float, ...]
"""The guidance scale of each branch; at 1 the null side is not read, at 0 the text side is not. A model without a null
side is told the scale instead."""


Memo = dict[str, tuple[Tensor, Tensor]]
"""What the network's layers keep of a text, by their names."""


class Prompts:
    """What the rows of one walk are conditioned on: joined, and compared, once where nothing changes from step to step.

    A joined text comes with a memo, in which the network's layers keep what they make of it (`hooks.Call`).
    """

    KEPT = 4
    """Joined texts at a time: the rows of a walk change a few times only."""

    def __init__(self, conditioning: Conditioning) -> None:
        self.conditioning = conditioning
        self._joined: dict[tuple[Row, ...], tuple[Text, Memo]] = {}
        self._same: list[bool] | None = None

    def of(self, rows: Sequence[Row], index: int) -> tuple[Text, Memo | None, tuple[int, ...]]:
        """The rows' text [row, case] at step `index`; its memo, if any of it is the text of other steps too; and which
        of the rows have one of their own."""
        key = tuple(rows)
        changing = tuple(i for i, row in enumerate(rows) if self.conditioning.changes(row.side, row.branch))
        if key in self._joined and not changing:
            return *self._joined[key], ()
        text = join([self.conditioning.side(row.side, row.branch, index)[None] for row in rows])
        if len(changing) == len(rows):
            return text, None, changing
        if key not in self._joined:
            if len(self._joined) >= self.KEPT:
                self._joined.pop(next(iter(self._joined)))
            self._joined[key] = text, {}
        return text, self._joined[key][1], changing

    def same(self, index: int, steps: int) -> bool:
        """Whether both sides of the source are conditioned on the same at step `index`; the device is asked once."""
        if self._same is None:
            said = self.conditioning
            changing = said.changes(Side.NULL, 0) or said.changes(Side.TEXT, 0)
            flags = [
                said.side(Side.NULL, 0, i).same_as(said.side(Side.TEXT, 0, i)) for i in range(steps if changing else 1)
            ]
            self._same = torch.stack(flags).tolist()
        return self._same[min(index, len(self._same) - 1)]


class Seen(NamedTuple):
    """What the model answered to the latents of one row at one time."""

    x: Tensor
    time: Time
    answer: Tensor


@dataclass(frozen=True)
class Predictor:
    """Asks the network. Called with latents of all branches it answers with their `Split`, guided and ruled.

    Branches outside `live` get no prediction of their own (their latents will be overwritten): they take part only
    as far as a rule reads them, and their entries in the answer are zeros.
    """

    model: Backbone
    prompts: Prompts
    guidance: Guidance
    hooks: Hooks
    live: tuple[int, ...]
    seen: dict[Row, Seen] = field(default_factory=dict[Row, Seen], repr=False)
    """The source's rows that this step has already evaluated."""

    @property
    def conditioning(self) -> Conditioning:
        return self.prompts.conditioning

    def __call__(self, x: Tensor, moment: Moment) -> Split:
        nudged = self.hooks.nudge(x, self._look, moment)
        moved = nudged if isinstance(nudged, Tensor) else nudged[0]
        return self.model.split(moved, self._guided(nudged, x[0], moment), moment)

    def answer(self, x: Tensor, moment: Moment) -> Tensor:
        """What the model predicts by nature (noise, v, velocity), guided and ruled: [branch, case, channel, h, w]."""
        return self._guided(self.hooks.nudge(x, self._look, moment), x[0], moment)

    def _guided(self, x: Nudged, source: Tensor, moment: Moment) -> Tensor:
        """The guided answer to latents that a rule may have moved; it never moves the source's, which are `source`."""
        answers = self._look(x, moment, source=source)
        x = x if isinstance(x, Tensor) else x[0]
        live = self.live
        if not live:
            return torch.zeros_like(x)
        null = torch.stack([answers.get(Row(Side.NULL, b), answers.get(Row(Side.TEXT, b), x[b])) for b in live])
        text = torch.stack([answers.get(Row(Side.TEXT, b), null[i]) for i, b in enumerate(live)])
        if self.model.null_side:
            scale = scales([self.guidance[b] for b in live], x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))
            guided = self.hooks.guide(null, text, scale, moment).to(x.dtype)
        else:
            guided = text  # by the network itself
        if len(live) == len(x):
            return guided
        nothing = torch.zeros_like(x[0])
        return torch.stack([guided[live.index(b)] if b in live else nothing for b in range(len(x))])

    def plain(self, x: Tensor, text: Text, moment: Moment) -> Tensor:
        """The model's answer to `x` [case, channel, h, w] given `text` [case], unguided: one row, no rules.

        Gradients are kept if the caller is inside `torch.enable_grad()`.
        """
        return self.model.answer(x[None], text[None], moment.ask, None)[0]

    def _look(
        self, x: Nudged, moment: Moment, branches: tuple[int, ...] | None = None, source: Tensor | None = None
    ) -> dict[Row, Tensor]:
        rows, alias = self._rows(moment, branches)
        sides = (x, x) if isinstance(x, Tensor) else x
        source = sides[0][0] if source is None else source
        known = {row: self.seen[row].answer for row in rows if self._is_known(row, source, moment)}
        rows = [row for row in rows if row not in known]
        if not rows:
            return known | {row: known[other] for row, other in alias.items()}
        said, memo, changing = self.prompts.of(rows, moment.index)
        call = Call(tuple(rows), alias, moment, self.hooks, memo, changing)
        with torch.no_grad():
            seen = torch.stack([sides[row.side][row.branch] for row in rows])
            guidance = () if self.model.null_side else tuple(self.guidance[row.branch] for row in rows)
            answers = self.model.answer(seen, said, moment.ask, call, guidance)
        by_row = dict(zip(rows, answers, strict=True))
        self.seen.update({row: Seen(source, moment.ask, by_row[row]) for row in rows if row.branch == 0})
        by_row |= known
        return by_row | {row: by_row[other] for row, other in alias.items()}

    def _is_known(self, row: Row, x: Tensor, moment: Moment) -> bool:
        """Whether the source's row was evaluated at this time and is not to be read by a rule again."""
        if row not in self.seen or self.seen[row].time != moment.ask or row.side in self.hooks.reads(moment):
            return False
        return same_memory(self.seen[row].x, x)

    def _rows(self, moment: Moment, branches: tuple[int, ...] | None) -> tuple[list[Row], dict[Row, Row]]:
        """The rows something reads, and which of them are answered by another row; those of some branches only."""
        wanted, ruled = set[Row](), self.hooks.guides() and self.model.null_side
        for branch in self.live:
            # Without a null side the scale is an input of the network: every branch has its text row, and no other.
            scale = self.guidance[branch] if self.model.null_side else 1.0
            wanted |= {Row(Side.TEXT, branch)} if scale != 0 or ruled else set()
            wanted |= {Row(Side.NULL, branch)} if scale != 1 or ruled else set()
        # A rule mixes branches, never sides: what it reads of the source matters where a target has that side.
        sides = {row.side for row in wanted if row.branch > 0}
        wanted |= {Row(side, 0) for side in self.hooks.reads(moment) if side in sides}
        if branches is not None:
            # Asked for by name: the text side of a branch, whether or not it is live.
            wanted = {row for row in wanted if row.branch in branches} | {Row(Side.TEXT, b) for b in branches}
        alias: dict[Row, Row] = {}
        null, text = Row(Side.NULL, 0), Row(Side.TEXT, 0)
        # No rule ever changes the source's rows, so where both sides hear the same one row answers for both.
        if null in wanted and text in wanted and self.prompts.same(moment.index, moment.steps):
            wanted.remove(null)
            alias[null] = text
        return sorted(wanted), alias


Step = Callable[[State, Predictor, Moment], State]


@runtime_checkable
class Pull(Protocol):
    """What the loop asks of an anchor (see `anchor.Anchor`)."""

    def live(self, branches: tuple[int, ...], moment: Moment) -> tuple[int, ...]:
        """The branches whose own prediction is needed at this moment."""
        ...

    def pull(self, before: State, after: State, predict: Predictor, step: Step, moment: Moment) -> State:
        """The state after the correction."""
        ...


def moments(model: Backbone, times: Sequence[Time]) -> Iterator[Moment]:
    """The steps between neighbouring times of a grid, with their levels."""
    for index, (t, s) in enumerate(pairwise(times)):
        yield Moment(index, len(times) - 1, t, s, model.level(t), model.level(s))


READ_EVERY: Final = 10
"""Steps after which an accelerator is asked whether its latents are finite: asking waits for it."""


class Finite:
    """Watches that latents stay finite: a flag a step, which stays on the device until several are read at once."""

    def __init__(self, who: str, every: int) -> None:
        self.who, self.every, self._flags = who, every, list[Tensor]()

    def check(self, state: State, moment: Moment) -> None:
        """Raise `NonFiniteError`, which names the first bad step, at the latest `every` steps after it."""
        flags = [torch.isfinite(x).all() for x in state.latents]
        self._flags.append(flags[0] if len(flags) == 1 else torch.stack(flags).all())
        if len(self._flags) < self.every and not moment.last:
            return
        good: list[bool] = torch.stack(self._flags).tolist()
        if not all(good):
            raise NonFiniteError(moment.index + 1 - len(good) + good.index(False), moment.steps, self.who)
        self._flags.clear()


def _read_every(device: torch.device) -> int:
    return 1 if device.type == "cpu" else READ_EVERY  # on the CPU there is nobody to wait for


def walk(
    model: Backbone,
    times: Sequence[Time],
    state: State,
    conditioning: Conditioning,
    *,
    guidance: Guidance,
    step: Step,
    hooks: Hooks | None = None,
    anchor: Pull | None = None,
    who: str = "the walk",
) -> Generator[tuple[Moment, State]]:
    """Step through `times`, downwards or upwards, yielding (moment, state after the step).

    From the first step to the last, or until it is closed, the network carries our processors; others may walk, too.

    Raises `NonFiniteError` (naming the step and `who`) where a latent is not finite: at once on the CPU, at most
    `READ_EVERY` steps later elsewhere.
    """
    hooks = hooks or Hooks()
    conditioning = hooks.text(conditioning)
    branches, prompts = tuple(range(state.x.shape[0])), Prompts(conditioning)
    finite = Finite(who, _read_every(state.x.device))
    with model.attending(hooks.features(), times):
        for moment in moments(model, times):
            live = anchor.live(branches, moment) if anchor else branches
            predict = Predictor(model, prompts, guidance, hooks, live)
            before = state
            with model.lock:
                state = step(state, predict, moment)
                if anchor:
                    state = anchor.pull(before, state, predict, step, moment)
            state = state.map(lambda x, moment=moment: hooks.blend(x, moment))
            finite.check(state, moment)
            yield moment, state


def last(walked: Iterator[tuple[Moment, State]]) -> State:
    """Run a walk to its end and return its last state."""
    *_, (_, state) = walked
    return state


def add_noise(clean: Tensor, noise: Tensor, level: Level) -> Tensor:
    """The latent at `level` made of a clean latent and given noise."""
    return Split(clean, noise).at(level)
