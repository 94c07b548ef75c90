"""Trajectory: the result of an inversion, as a value and as a file.

It holds where the source's walk begins, what is said in the null side, and where the source must be; with the settings
that made it. It belongs to no pipeline: it can be saved, loaded, checked against a model, and edited many times.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reinvert import registry
from reinvert.anchor import Anchor
from reinvert.backbones.base import Backbone, Fingerprint
from reinvert.backbones.lock import exclusive
from reinvert.display import line, quoted, table
from reinvert.errors import ReinvertError
from reinvert.files import refusal, shown
from reinvert.files.trajectory import FORMAT, SUFFIX, TrajectoryHeader, read_header
from reinvert.hooks import Chain, Hooks
from reinvert.image import MAX_ASPECT, Write, atomic_write
from reinvert.level import Moment, Time
from reinvert.loop import Guidance, State, Step, walk
from reinvert.precision import around, wide
from reinvert.text import Conditioning, Text, combine

Kept = tuple[Literal["one", "step", "level"], Literal["latent", "text", "features"]]
"""The shape of a tensor that an inversion needs again: its first axis (`one` entry, one a `step`, or one a `level`,
which are one more), and behind the axis of cases a `latent` [channel, h, w] or a `text` [token, dim]; `features` are
any number of tensors [1, case, head, token, dim] below the name (`reinvert.features`)."""


@runtime_checkable
class Method(Protocol):
    """What a trajectory asks of the inversion that made it (see `inversions.base.Inversion`)."""

    def begin(self, trajectory: Trajectory, branches: int, device: torch.device) -> State:
        """Where the walk begins, for the source and its targets."""
        ...

    def step(self, trajectory: Trajectory) -> Step:
        """How the latents move on the way down."""
        ...

    def conditioning(self, trajectory: Trajectory, conditioning: Conditioning) -> Conditioning:
        """What is said on the way down, if more than the prompts and the null side."""
        ...

    def hooks(self, trajectory: Trajectory) -> Hooks | None:
        """A rule of its own for the way down, below those of the editors, or None."""
        ...

    @property
    def keeps(self) -> Mapping[str, Kept]:
        """The shape of every tensor that it needs again, by its name in `Trajectory.kept`."""
        ...


@dataclass(frozen=True, repr=False)
class Trajectory:
    """An inverted batch of cases.

    `path` is [N + 1, case, channel, h, w], index 0 = clean, N = noisiest: the latents of the inversion, or those
    the source is to follow; N is the number of steps that are walked. `steps` is the number of the whole grid; `times`
    the N + 1 times that are walked, empty where that is the model's whole grid. `null` is [N or 1, case]
    or None (what no prompt is). `kept` is what else the inversion needs again, [.., case, ..] with the case on axis 1.
    `pulled` is the anchor without its path, or None if the source walks freely. `guidance` is the scale a null side
    was fitted to, if any; `source_guidance` the source's own scale, where it differs from that of the targets.

    In memory only: `method` is the inversion that made it (found by its name after loading), `stepper` the step of an
    editor that moves the latents in its own way.
    """

    path: Tensor
    prompts: tuple[str, ...]
    steps: int
    inversion: str
    settings: Mapping[str, Any]
    schedule: str
    model: Fingerprint
    null: Text | None = None
    null_for_targets: bool = True
    pulled: Mapping[str, Any] | None = None
    guidance: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)
    times: tuple[Time, ...] = ()
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    source_guidance: float | None = None
    method: Method | None = field(default=None, compare=False)
    stepper: Step | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.path.shape[2:]))
        return line("Trajectory", quoted(self.prompts), self.inversion, f"{self.walked} steps", f"latents {size}")

    def _repr_html_(self) -> str:
        size, settings = (
            "x".join(map(str, self.path.shape[2:])),
            ", ".join(f"{k}={v}" for k, v in self.settings.items()),
        )
        rows = {
            "source": quoted(self.prompts),
            "inversion": f"{self.inversion}({settings})",
            "steps": f"{self.walked} of {self.steps}",
            "fitted to guidance": self.guidance,
            "latents": f"{size}, {self.path.dtype}".replace("torch.", ""),
            "model": self.info.get("model"),
            "seed": self.info.get("seed"),
        }
        return table("Trajectory", rows)

    @property
    def walked(self) -> int:
        """The number of steps that are walked."""
        return len(self.path) - 1

    @property
    def maker(self) -> Method:
        """The inversion that made this, which knows how its latents move."""
        if self.method is not None:
            return self.method
        made: Method = registry.make("inversions", self.inversion, dict(self.settings))
        return made

    @property
    def start(self) -> Tensor:
        """[case, channel, h, w], the noisiest latent."""
        return self.path[-1]

    def grid(self, model: Backbone) -> tuple[Time, ...]:
        """The times that are walked, from noise to clean."""
        return self.times or model.times(self.steps, (self.path.shape[-2], self.path.shape[-1]))

    @property
    def anchor(self) -> Anchor | None:
        return None if self.pulled is None else Anchor(self.path, **self.pulled)

    def conditioning(self, model: Backbone, targets: Sequence[Sequence[str]]) -> Conditioning:
        """What an edit of the source to `targets` (one list of prompts per target branch) is conditioned on."""
        cases = len(self.prompts)
        text = model.encode_text([*self.prompts, *(p for target in targets for p in target)])
        text = text.map(lambda tensor: tensor.reshape(1 + len(targets), cases, *tensor.shape[1:]))
        null = None if self.null is None else self.null.map(lambda tensor: tensor.to(model.device))
        return Conditioning(text, model.nothing(cases), null, self.null_for_targets)

    @exclusive
    def walk(
        self,
        model: Backbone,
        targets: Sequence[Sequence[str]] = (),
        hooks: Hooks | None = None,
        guidance: float | None = None,
    ) -> Generator[tuple[Moment, State]]:
        """Render the source (branch 0) and its targets (branches 1..) again, step by step.

        `guidance` None is the scale that it was fitted to, or what is usual for the model. Rules stay on the network
        until the last step or `close()`.
        """
        self.check(model)
        if around(model.dtype) == torch.float64 and self.path.dtype != torch.float64:
            return self.widened().walk(model, targets, hooks, guidance)
        if guidance is None:
            guidance = model.usual.guidance if self.guidance is None else self.guidance
        if self.guidance is not None and self.guidance != guidance:
            raise ReinvertError(
                f"this {self.inversion} trajectory was fitted to guidance {self.guidance:g} and falls apart at "
                f"{guidance:g}; edit with --guidance {self.guidance:g} or invert again"
            )
        branches, maker = 1 + len(targets), self.maker
        path = self.path.to(model.device)
        own = guidance if self.source_guidance is None else self.source_guidance
        scales: Guidance = (own, *(guidance,) * len(targets))
        return walk(
            model,
            self.grid(model),
            maker.begin(self, branches, model.device),
            maker.conditioning(self, self.conditioning(model, targets)),
            guidance=scales,
            step=self.stepper or maker.step(self),
            hooks=_together(maker.hooks(self), hooks),
            anchor=None if self.pulled is None else Anchor(path, **self.pulled),
            who=f"the edit after {self.inversion} inversion",
        )

    # --- checks and files ---------------------------------------------------------------------------------------

    def check(self, model: Backbone) -> None:
        """Refuse, in one sentence, a model or schedule other than the one that made this trajectory."""
        made = self.info.get("model", "another model")
        if not self.model.matches(model.fingerprint()):
            raise ReinvertError(
                f"this trajectory was made with {made}, not with {model.name}; "
                "load that model, or invert the picture again"
            )
        if self.schedule != model.schedule:
            raise ReinvertError(
                f"this trajectory was made on another noise schedule than that of {model.name}; invert again"
            )
        self._check_shapes(model)

    def _check_shapes(self, model: Backbone) -> None:
        """Hold tensors and times, which a file may have in any size, against what the model and the inversion take."""
        channels, *sides = model.latent_shape
        latent = self.path.shape[2:]
        if latent[0] != channels or latent[1] * latent[2] > MAX_ASPECT * sides[0] * sides[1]:
            raise self._unfit(f"latents of shape {list(latent)}, and {model.name} takes {list(model.latent_shape)}")
        for time in self.times:
            model.level(time)  # refuses one beyond its schedule
        nothing = model.nothing(1)
        text = tuple(nothing.tokens.shape[1:])
        pooled = None if nothing.pooled is None else tuple(nothing.pooled.shape[1:])
        cases, walked, keeps = len(self.prompts), self.walked, self.maker.keeps
        first = {"one": 1, "step": walked, "level": walked + 1}
        behind = {"latent": tuple(latent), "text": text}
        if self.null is not None:
            for tensor, wanted in ((self.null.tokens, text), (self.null.pooled, pooled)):
                shape = None if tensor is None else tuple(tensor.shape[2:])
                if shape != wanted:
                    had, takes = (f"{'nothing' if s is None else list(s)}" for s in (shape, wanted))
                    raise self._unfit(f"a null side of shape {had}, and {model.name} takes {takes}")
        heads = {n for n, (_, what) in keeps.items() if what == "features"}
        for name in sorted({*keeps, *self.kept}):
            if name in heads:
                continue
            if (
                name.partition(".")[0] in heads
                and self.kept[name].ndim == 5
                and self.kept[name].shape[:2] == (1, cases)
            ):
                continue
            shape = (first[keeps[name][0]], cases, *behind[keeps[name][1]]) if name in keeps else None
            found = tuple(self.kept[name].shape) if name in self.kept else None
            if shape != found:
                want = "none" if shape is None else f"one of shape {list(shape)}"
                has = "no tensor" if found is None else f"a tensor of shape {list(found)}"
                raise self._unfit(f"{has} '{shown(name)}', and {self.inversion} needs {want}")

    def _unfit(self, why: str) -> ReinvertError:
        return refusal(f"this trajectory has {why}", "invert again")

    def check_steps(self, steps: int | None) -> None:
        """Refuse another number of steps than the inversion took."""
        if steps is not None and steps != self.steps:
            raise ReinvertError(
                f"this trajectory has {self.steps} steps, not {steps}; leave --steps out or invert again"
            )

    def later(self, skip: int, model: Backbone) -> Trajectory:
        """The same walk without its first `skip` steps, from the path's own latents."""
        if skip == 0:
            return self
        if self.kept:
            raise ReinvertError(f"a trajectory of {self.inversion} cannot be begun later than its start")
        null = self.null if self.null is None or len(self.null) == 1 else self.null[skip:]
        times = self.grid(model)[skip:]
        return replace(self, path=self.path[: self.walked - skip + 1], times=times, null=null)

    def widened(self) -> Trajectory:
        """The same in float64, for a model that computes in it."""
        null = None if self.null is None else self.null.map(Tensor.double)
        kept = {name: tensor.double() for name, tensor in self.kept.items()}
        return replace(self, path=self.path.double(), null=null, kept=kept)

    def case(self, index: int) -> Trajectory:
        """One case of the batch, as a trajectory of its own."""
        return self.cases(slice(index, index + 1))

    def cases(self, pick: slice) -> Trajectory:
        """Some cases of the batch, as a trajectory of their own; all of them are the trajectory itself."""
        everything = range(len(self.prompts))
        if everything[pick] == everything:
            return self
        null = None if self.null is None else self.null[:, pick].map(Tensor.clone)
        kept = {name: tensor[:, pick].clone() for name, tensor in self.kept.items()}
        info = dict(self.info) | ({"fits": self.info["fits"][pick]} if "fits" in self.info else {})
        path, prompts = self.path[:, pick].clone(), self.prompts[pick]
        return replace(self, path=path, prompts=prompts, null=null, kept=kept, info=info)

    @classmethod
    def join(cls, parts: Sequence[Trajectory]) -> Trajectory:
        """The cases of several trajectories that one inversion made in the same way, as one: `cases` undone."""
        first = parts[0]
        if len(parts) == 1:
            return first
        nulls = [part.null for part in parts if part.null is not None]
        info = dict(first.info)
        if "fits" in info:
            info["fits"] = [fit for part in parts for fit in part.info["fits"]]
        return replace(
            first,
            path=torch.cat([part.path for part in parts], dim=1),
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            null=combine(partial(torch.cat, dim=1), nulls) if nulls else None,
            kept={name: torch.cat([part.kept[name] for part in parts], dim=1) for name in first.kept},
            info=info,
        )

    def save(self, path: str | Path, *, half: bool = False) -> None:
        """Write a safetensors file with the settings in its header; `half` stores the tensors in float16."""
        atomic_write(path, self.writer(half=half))

    def writer(self, *, half: bool = False) -> Write:
        """What writes the file as `save` does, for `write_together`."""
        keep = torch.float16 if half else self.path.dtype
        tensors = {"path": self.path.to("cpu", keep).contiguous()}
        if self.null is not None:
            for name, tensor in (("null", self.null.tokens), (_NULL_POOLED, self.null.pooled)):
                if tensor is not None:
                    tensors[name] = tensor.to("cpu", torch.float16 if half else around(tensor.dtype)).contiguous()
        for name, tensor in self.kept.items():
            tensors[_KEPT + name] = tensor.to("cpu", torch.float16 if half else tensor.dtype).contiguous()
        header = {
            "format": FORMAT,
            "prompts": json.dumps(self.prompts),
            "steps": str(self.steps),
            "inversion": self.inversion,
            "settings": json.dumps(self.settings, sort_keys=True),
            "schedule": self.schedule,
            "model": json.dumps(asdict(self.model)),
            "null_for_targets": json.dumps(self.null_for_targets),
            "pulled": json.dumps(self.pulled, sort_keys=True),
            "guidance": json.dumps(self.guidance),
            "info": json.dumps(self.info, sort_keys=True),
            "times": json.dumps(self.times),
            "source_guidance": json.dumps(self.source_guidance),
        }

        def write(draft: Path) -> None:
            try:
                save_file(tensors, draft, header)
                _settle(draft)
            except SafetensorError as error:  # a full disk is told in the library's own words
                raise OSError(errno.ENOSPC, f"{error}") from error

        return write

    @classmethod
    def load(cls, path: str | Path) -> Trajectory:
        """Read a file written by `save`; tensors come back in float32 (float64 stays)."""
        try:
            path = Path(path)
        except TypeError as error:
            raise ReinvertError(f"a trajectory is loaded from a file's name, not from {shown(repr(path))}") from error
        name = shown(path)
        if not path.is_file():
            raise refusal(f"{name} does not exist; write one with `reinvert invert`")
        try:
            with safe_open(path, "pt") as file:
                stored: dict[str, str] = file.metadata() or {}
                if stored.get("format") != FORMAT:
                    raise refusal(f"{name} is not a reinvert trajectory; write one with `reinvert invert`")
                header, said = read_header(stored, name)
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except ReinvertError as error:
            if str(error).endswith("write one with `reinvert invert`"):
                raise
            raise _damaged(name, str(error)) from error
        except (SafetensorError, TypeError, ValueError, OSError, RuntimeError) as error:
            raise _damaged(name) from error
        _require_sound(header, tensors, name)
        full = {n: wide(t) for n, t in tensors.items()}
        return cls(
            path=full["path"],
            prompts=tuple(header.prompts),
            steps=header.steps,
            inversion=header.inversion,
            settings=header.settings,
            schedule=header.schedule,
            model=Fingerprint(header.model.config, tuple(header.model.probe)),
            null=Text(full["null"], full.get(_NULL_POOLED)) if "null" in full else None,
            null_for_targets=header.null_for_targets,
            # JSON has one kind of number: a share of 1 may be written as a whole one.
            pulled=None if (p := header.pulled) is None else {**p.model_dump(), "strength": float(p.strength)},
            guidance=header.guidance,
            info=said["info"],
            times=tuple(said["times"]),
            kept={n.removeprefix(_KEPT): t for n, t in full.items() if n.startswith(_KEPT)},
            source_guidance=header.source_guidance,
        )


def _together(own: Hooks | None, hooks: Hooks | None) -> Hooks | None:
    """The inversion's own rule below those of the editors."""
    return Chain([own, hooks]) if own is not None and hooks is not None else own or hooks


def _settle(path: Path) -> None:
    """Put a file's metadata in order, which the library shuffles, so that equal trajectories are equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
        metadata = dict(sorted(header.pop("__metadata__").items()))
        text = json.dumps({"__metadata__": metadata, **header}, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


_KEPT = "kept."
_NULL_POOLED = "null.pooled"


def _damaged(name: str, why: str = "") -> ReinvertError:
    because = f" ({why.removeprefix(f'{name}: ').removeprefix(f'{name} ')})" if why else ""
    return refusal(f"{name} is damaged or not a reinvert trajectory{because}", "invert again")


def _require_sound(header: TrajectoryHeader, tensors: Mapping[str, Tensor], name: str) -> None:
    """Refuse a header and tensors that do not fit together."""
    cases, walked = len(header.prompts), len(header.times) - 1 if header.times else header.steps
    path, null = tensors.get("path"), tensors.get("null")
    if path is None or path.ndim != 5 or path.shape[:2] != (walked + 1, cases) or 0 in path.shape:
        found = "no path" if path is None else f"a path of shape {list(path.shape)}"
        raise _damaged(name, f"{found}, not [{walked + 1}, {cases}, channel, h, w]")
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not (key in ("path", "null", _NULL_POOLED) or key.startswith(_KEPT)):
            raise _damaged(name, f"a tensor {shown(key)!r} of {tensor.dtype} is not one of a trajectory's")
        if tensor.ndim < 2 or tensor.shape[1] != cases:
            raise _damaged(name, f"the tensor {shown(key)!r} is not of {cases} pictures")
    if null is not None and (null.ndim != 4 or len(null) not in (1, walked)):
        raise _damaged(name, f"a null side of shape {list(null.shape)}, not [{walked} or 1, {cases}, token, dim]")
    pooled = tensors.get(_NULL_POOLED)
    if pooled is not None and (null is None or pooled.ndim != 3 or len(pooled) != len(null)):
        raise _damaged(name, f"a pooled null side of shape {list(pooled.shape)}")
    if any(a <= b for a, b in pairwise(header.times)) or walked > header.steps:
        raise _damaged(name, "its times do not go down, or are more than its steps")


def source_conditioning(model: Backbone, prompts: Sequence[str]) -> Conditioning:
    """What a source alone is conditioned on: one branch with these prompts, one per case."""
    return Conditioning(model.encode_text(prompts)[None], model.nothing(len(prompts)))


__all__ = ["FORMAT", "SUFFIX", "Trajectory", "source_conditioning"]
