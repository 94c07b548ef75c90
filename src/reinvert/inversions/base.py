"""What every inversion is: a frozen dataclass of arguments with one method that climbs from a picture to noise."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.errors import ReinvertError
from reinvert.features import Part, Recorder, Where
from reinvert.hooks import Hooks, Kind
from reinvert.level import Moment, Time
from reinvert.loop import State, Step, walk
from reinvert.noise import draws
from reinvert.steps import ddim
from reinvert.text import Conditioning
from reinvert.trajectory import Kept, Trajectory, source_conditioning


@dataclass(frozen=True)
class Progress:
    """One step done, of how many, in which stage; what a progress bar needs.

    For a preview, a step of an edit also tells the latents that it led to, [branch, case, channel, h, w], and when it
    happened; both are None in other stages.
    """

    stage: str
    done: int
    total: int
    latents: Tensor | None = field(default=None, repr=False, compare=False)
    moment: Moment | None = field(default=None, repr=False, compare=False)


Inverting = Generator[Progress, None, Trajectory]
Encode = Literal["mean", "sample"]


@dataclass(frozen=True)
class Source:
    """What is to be inverted: clean latents x0 [case, channel, h, w] with one prompt per case.

    `guidance` is the scale of the edit to come, for methods that fit something to it; `seed` feeds the methods that
    draw noise. `pictures` [case, 3, H, W] in -1..1 is what was encoded, for methods that look at it (None: decode x0).
    """

    model: Backbone
    x0: Tensor
    prompts: tuple[str, ...]
    steps: int = 50
    guidance: float = 7.5
    seed: int = 0
    pictures: Tensor | None = None
    mask: Tensor | None = None
    """The region that is to be edited, [case, 1, h, w] at the latents' size, where it is known already."""
    drawn: int = 0
    """How many draws of the latents' shape were taken from the seed before, to encode the pictures."""

    def draws(self) -> Iterator[Tensor]:
        """Standard normal tensors in the latents' shape, from the seed's next draw on, in the model's own order."""
        return draws(self.x0, self.seed, self.model.draw, self.drawn)

    def grid(self, offset: int | None = None) -> tuple[Time, ...]:
        """The model's times for these latents, from noise to clean."""
        return self.model.times(self.steps, (self.x0.shape[-2], self.x0.shape[-1]), offset)

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.x0):
            raise ReinvertError(f"{len(self.x0)} pictures need {len(self.x0)} source prompts, not {len(self.prompts)}")


@dataclass(frozen=True)
class Inversion:
    """Base of all inversions; its subclasses' fields are CLI flags, UI widgets and report columns."""

    name: ClassVar[str]
    needs: ClassVar[str] = "a source prompt"
    """What a user must give, for `reinvert methods`."""
    when: ClassVar[str] = ""
    """When to use it and when not, for its page."""
    exact: ClassVar[bool] = False
    """Whether the source, rendered again with no edit, ends at the picture's own latents."""
    can_begin_later: ClassVar[bool] = True
    """Whether an edit may leave out the first steps of its walk and begin from the path's own latents."""
    takes_gradients: ClassVar[bool] = False
    """Whether it takes gradients through the network, which needs several times the memory of a forward."""
    needs_null_side: ClassVar[bool] = False
    """Whether it learns or fills the null side, so that it cannot serve models that have none."""
    needs_flow: ClassVar[bool] = False
    """Whether it walks along a velocity, so that it serves flow models only."""
    acts_on: ClassVar[tuple[Kind, ...]] = ()
    """The kinds of attention that it acts on or reads: a model must have them all."""
    finds_noise: ClassVar[bool] = True
    """Whether its trajectory ends in noise that an edit can begin from."""
    encode: Encode = "mean"
    """What a picture is encoded as: the mean of the VAE's posterior, or a sample of it that the seed draws."""

    def stages(self, source: Source) -> Inverting:
        """Invert, yielding `Progress`; the generator's return value is the trajectory."""
        raise NotImplementedError

    def invert(self, source: Source) -> Trajectory:
        """`stages` without the progress."""
        return finish(self.stages(source))

    def begin(self, trajectory: Trajectory, branches: int, device: torch.device) -> State:
        """Where the walk down begins: every branch at the noisiest latent."""
        start = trajectory.start.to(device)
        return State((start.expand(branches, *start.shape).clone(),))

    def step(self, trajectory: Trajectory) -> Step:
        """How the latents move on the way down."""
        return ddim

    def conditioning(self, trajectory: Trajectory, conditioning: Conditioning) -> Conditioning:
        """Change what the way down is conditioned on (learned text); the null side is already there."""
        return conditioning

    @property
    def keeps(self) -> Mapping[str, Kept]:
        """What its trajectories keep besides path and null side, by name and shape (`trajectory.Kept`)."""
        return {}

    @property
    def drawn(self) -> int:
        """How many of the seed's draws the encoding of a picture takes."""
        return 1 if self.encode == "sample" else 0

    @property
    def takes_mask(self) -> bool:
        """Whether it inverts for one region, whose mask it is then given."""
        return False

    @property
    def fits_guidance(self) -> bool:
        """Whether something is fitted to the guidance of the edit to come, so that no other scale can be used."""
        return False

    def hooks(self, trajectory: Trajectory) -> Hooks | None:
        """A rule of its own for the way down, below those of the editors, or None."""
        return None

    def refuses(self, editors: Sequence[str]) -> str | None:
        """Why this inversion cannot serve these editors (their names), or None."""
        return None

    def lacks(self, model: Backbone) -> str | None:
        """Why this inversion cannot serve a model, or None."""
        if self.needs_flow and not model.flow:
            return f"inversion {self.name} walks along the velocity of a flow, and {model.name} is a diffusion model"
        if self.needs_null_side and not model.null_side:
            return f"inversion {self.name} learns the null side of guidance, which {model.name} does not have"
        missing = [kind for kind in self.acts_on if kind not in model.kinds]
        if missing:
            return (
                f"inversion {self.name} acts on {' and '.join(missing)} attention, and {model.name} has "
                f"{' and '.join(sorted(model.kinds))} attention only"
            )
        return None

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    def _trajectory(self, source: Source, path: Tensor, **more: Any) -> Trajectory:
        return Trajectory(
            method=self,
            path=path,
            prompts=source.prompts,
            steps=source.steps,
            inversion=self.name,
            settings=self.settings,
            schedule=source.model.schedule,
            model=source.model.fingerprint(),
            info={"model": source.model.name},
            **more,
        )


T = TypeVar("T")


def finish(stages: Generator[Progress, None, T]) -> T:
    """Drain the progress and return what comes last: an inversion's trajectory, or the latents of `climb`."""
    while True:
        try:
            next(stages)
        except StopIteration as stop:
            return stop.value


def climb(
    source: Source,
    guidance: float = 1.0,
    step: Step = ddim,
    times: Sequence[Time] = (),
    who: str = "DDIM inversion",
    hooks: Hooks | None = None,
) -> Generator[Progress, None, Tensor]:
    """DDIM inversion: the path [N + 1, case, channel, h, w] from clean (0) to noise (N).

        z_{k+1} = signal(k+1) clean_k + noise(k+1) eps(z_k, t_{k+1}, text)

    The network is asked at the upper time with the lower latent. At guidance 1 only the text side is evaluated, at 0
    only the null side. `step` is another way up, `times` (from noise to clean) another grid than the model's; `hooks`
    may watch.
    """
    model = source.model
    path, grid = [source.x0], tuple(times) or source.grid()
    walked = walk(
        model,
        tuple(reversed(grid)),
        State((source.x0[None],)),
        source_conditioning(model, source.prompts),
        guidance=(guidance,),
        step=step,
        hooks=hooks,
        who=who,
    )
    for moment, state in walked:
        path.append(state.x[0])
        yield Progress("inverting", moment.index + 1, moment.steps)
    return torch.stack(path)


def climb_keeping(
    source: Source, guidance: float, step: Step, where: Where, parts: Collection[Part], who: str
) -> Generator[Progress, None, tuple[Tensor, Mapping[str, Tensor]]]:
    """`climb`, and the attention features of those steps and layers (`Trajectory.kept`)."""
    if not where.steps:
        return (yield from climb(source, guidance, step, who=who)), {}
    recorder = Recorder(where, where.layers(source.model.layers()), parts)
    return (yield from climb(source, guidance, step, who=who, hooks=recorder)), recorder.kept


def held(strength: float) -> Mapping[str, Any] | None:
    """The anchor of a source that is held on its path after every step (`Trajectory.pulled`); None lets it walk."""
    return {"strength": strength, "every": 1, "carry": "none"} if strength > 0 else None


def check_share(name: str, value: float) -> None:
    """Refuse a share that is none."""
    if not 0 <= value <= 1:
        raise ReinvertError(f"{name} is a share between 0 and 1, not {value}")


def check_depth(depth: float) -> None:
    """Refuse a depth that is no share of the grid."""
    if not 0 < depth <= 1:
        raise ReinvertError(f"depth is a share above 0 and at most 1, not {depth}")


def grid_to(source: Source, depth: float, rounding: Literal["down", "nearest"] = "down") -> tuple[Time, ...]:
    """The times of the clean end of the grid, `depth` of its steps (at least one); () for the whole grid."""
    steps = max(1, round(depth * source.steps) if rounding == "nearest" else int(depth * source.steps))
    return () if steps == source.steps else source.grid()[source.steps - steps :]
