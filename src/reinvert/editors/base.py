"""What every editor is: a frozen dataclass of arguments that binds to the prompts of one edit and becomes `Hooks`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, TypeVar, cast

import torch.nn.functional as F
from torch import Tensor

from reinvert.backbones.base import Backbone
from reinvert.hooks import Chain, Hooks, Kind
from reinvert.inversions.base import Inversion
from reinvert.trajectory import Trajectory
from reinvert.words import DEFAULT, Reader, word_positions


@dataclass(frozen=True)
class Case:
    """What an editor may know when it binds.

    `sources` are the source prompts, one per case; `targets` one list of prompts (one per case) per target branch;
    `path` the trajectory's latents [N + 1, case, channel, h, w], index 0 = clean; `mask` the user's own,
    [case, 1, h, w] in 0..1 at the latents' size (1 = edit), or None.
    """

    model: Backbone
    sources: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    steps: int
    path: Tensor
    mask: Tensor | None = None
    pixels: Tensor | None = None
    """The same mask as it lies over the fitted picture, [case, 1, H, W], for editors with a rule of their own for what
    a cell of the latents is."""
    seed: int = 0
    """Feeds the editors that draw noise; every case draws from a generator of its own."""
    grid_steps: int = 0
    """Steps of the whole grid, where only the last `steps` of them are walked (0: all)."""
    own: tuple[Mapping[str, Any], ...] = ()
    """For a batch whose cases differ in more than their prompts: fields of editors by name, one mapping per case."""
    kept: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    """What else the inversion kept (`Trajectory.kept`)."""
    drawn: int = 0
    """How many of the seed's draws the encoding of the pictures took."""

    @property
    def latent(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return self.path.shape[-2], self.path.shape[-1]

    def pairs(self) -> list[list[tuple[str, str]]]:
        """(source, target) prompts as `[target branch][case]`."""
        return [list(zip(self.sources, target, strict=True)) for target in self.targets]


AnEditor = TypeVar("AnEditor", bound="Editor")  # typing.Self is beyond the type checks of the tests


@dataclass(frozen=True)
class Editor:
    """Base of all editors; its subclasses' fields are CLI flags, UI widgets and report columns."""

    name: ClassVar[str]
    needs: ClassVar[str] = "a target prompt"
    """What a user must give, for `reinvert methods`."""
    when: ClassVar[str] = ""
    """When to use it and when not, for its page."""
    usual_inversion: ClassVar[str] = ""
    """The inversion that is meant where none is named; "" for the model's usual one."""
    usual_with: ClassVar[tuple[str, ...]] = ()
    """The editors that its paper joins it to; a gallery shows it with them."""
    words_of_source: ClassVar[tuple[str, ...]] = ()
    """The fields that hold words of the source prompt; a word that does not occur in it is refused."""
    words_of_target: ClassVar[tuple[str, ...]] = ()
    """The fields that hold words of the target prompts."""
    prompts: ClassVar[tuple[str, ...]] = ()
    """The fields that hold prompts of their own, which the model is to know as it does the others."""
    draws_start: ClassVar[bool] = False
    """Whether it begins from noise of its own instead of inverted noise; it then goes with `inversion="none"`."""
    needs_mask: ClassVar[bool] = False
    """Whether it works only with a user's mask."""
    takes_mask: ClassVar[bool] = False
    """Whether it makes its own use of a user's mask, where one is given."""
    needs_guidance: ClassVar[bool] = False
    """Whether it acts on the null side or on the difference of the sides, so that guidance 1 makes it idle."""
    takes_gradients: ClassVar[bool] = False
    """Whether it takes gradients through the network, which needs several times the memory of a forward."""
    needs_null_side: ClassVar[bool] = False
    """Whether it acts on the null side, so that it cannot serve models that have none."""
    needs_flow: ClassVar[bool] = False
    """Whether it walks along a velocity, so that it serves flow models only."""
    acts_on: ClassVar[tuple[Kind, ...]] = ()
    """The kinds of attention that it acts on or reads: a model must have them all."""
    reads_maps: ClassVar[bool] = False
    """Whether it reads attention maps: those are the maps after every edit, so it goes last in a composition."""

    def bind(self, case: Case) -> Hooks:
        """The hooks of one edit. Raises `ReinvertError` for words that do not occur, before anything is computed."""
        raise NotImplementedError

    def prepare(self, trajectory: Trajectory, case: Case) -> Trajectory:
        """The trajectory as this editor wants to walk it: a later start, noise of its own, a step of its own.

        Called after the inversion and before `bind`, which is then given the prepared path.
        """
        return trajectory

    def refuses(self, inversion: Inversion) -> str | None:
        """Why this editor cannot work on what an inversion leaves, beyond what the flags above say, or None."""
        return None

    def lacks(self, model: Backbone, *, masked: bool = False) -> str | None:
        """Why this editor cannot serve a model (given a user's mask or not), or None."""
        if self.needs_flow and not model.flow:
            return f"{self.name} walks along the velocity of a flow, and {model.name} is a diffusion model"
        if self.needs_null_side and not model.null_side:
            return f"{self.name} acts on the null side of guidance, which {model.name} does not have"
        missing = [kind for kind in self.acts_on if kind not in model.kinds]
        if missing:
            another = "take an editor made for flows, such as flowedit" if model.flow else "choose another editor"
            return (
                f"{self.name} acts on {' and '.join(missing)} attention, and {model.name} has "
                f"{' and '.join(sorted(model.kinds))} attention only; {another}"
            )
        return None

    def at(self: AnEditor, case: Case, index: int) -> AnEditor:
        """This editor with the fields that are the own of one case of a batch."""
        if not case.own:
            return self
        mine = {f.name for f in fields(self)}
        return replace(self, **{name: value for name, value in case.own[index].items() if name in mine})

    @property
    def settings(self) -> Mapping[str, Any]:
        return asdict(self)


def cells(mask: Tensor, latent: tuple[int, int], rule: Literal["any", "nearest"] = "any") -> Tensor:
    """A mask [case, 1, H, W] of 0 and 1 at the latents' size [case, 1, h, w].

    any: a cell counts if any of its pixels does. nearest: if the pixel in its middle does (of eight the fifth), as
    Pillow's nearest-neighbour resize has it.
    """
    return F.adaptive_max_pool2d(mask, latent) if rule == "any" else F.interpolate(mask, latent, mode="nearest-exact")


def bind_all(editors: Sequence[Editor], case: Case) -> Hooks:
    """One rule for a composition of editors, in order; those that read attention maps come last."""
    hooks = [editor.bind(case) for editor in sorted(editors, key=lambda editor: editor.reads_maps)]
    return hooks[0] if len(hooks) == 1 else Chain(hooks)


def check_words(reader: Callable[[], Reader], source: str, targets: Sequence[str], editors: Sequence[Editor]) -> None:
    """Refuse a word that does not occur in its prompt, naming those that do.

    An editor says which of its fields hold words of the source and of the targets; whatever is given word by word
    (boost, cross windows) belongs to the targets. `reader` is asked for the tokenizer if there are words to look for.
    """
    read: Reader | None = None
    for editor in editors:
        for each in fields(editor):
            value, told = getattr(editor, each.name), targets
            if isinstance(value, Mapping):
                wanted = [word for word in cast(Mapping[str, object], value) if word != DEFAULT]
            elif each.name in (*editor.words_of_source, *editor.words_of_target):
                wanted = list(cast(tuple[str, ...], value))
                told = [source] if each.name in editor.words_of_source else targets
            else:
                continue
            if not wanted:
                continue
            read = reader() if read is None else read
            for prompt in told:
                for word in wanted:
                    word_positions(read, prompt, word)
