"""An edit as a command line and as Python: both make the same picture, byte for byte.

edit = Script("a red cat on grass", "a red dog on grass", picture="cat.png", output="cat.edit.png")
print(edit.command())    # reinvert edit cat.png --source 'a red cat on grass' ...
print(edit.python())     # import reinvert ...
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from reinvert import registry
from reinvert.fields import DEFAULT
from reinvert.image import FitMode
from reinvert.registry import Group
from reinvert.values import flag_of, kind_of

Settings = Mapping[str, Mapping[str, Any]]
"""Fields of methods that are not left at their defaults: {"p2p": {"cross": 0.3}}."""


@dataclass(frozen=True)
class Asked:
    """What an edit is asked for: everything that decides it but its files. What is None is left to reinvert."""

    source: str
    target: str
    model: str = "picturebook"
    inversion: str | None = None
    editors: tuple[str, ...] = ("p2p",)
    settings: Settings = field(default_factory=dict[str, Mapping[str, Any]])
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    blend: tuple[str, str] | None = None
    fit: FitMode = "crop"
    paste_back: bool = False
    any_words: bool = False
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Script(Asked):
    """What an edit was asked for, with the names of its files."""

    picture: str
    output: str
    mask: str | None = None
    device: str = "auto"
    dtype: str = "auto"

    # --- the command line -------------------------------------------------------------------------------------------

    def command(self) -> str:
        """As one line for a POSIX shell."""
        words = ["reinvert", "edit", f"./{self.picture}" if self.picture.startswith("-") else self.picture]
        words += _option("--model", self.model) + _option("--source", self.source) + _option("--target", self.target)
        words += [] if self.inversion is None else _option("--inversion", self.inversion)
        words += _option("--editor", "+".join(self.editors))
        for method, values in self.settings.items():
            group: Group = "inversions" if method == self.inversion else "editors"
            for name, value in values.items():
                words += self._typed(group, method, name, value)
        if self.blend is not None:
            words += ["--blend", *self.blend]
        given = {"steps": self.steps, "guidance": self.guidance, "seed": self.seed or None, "mask": self.mask}
        given |= {"fit": None if self.fit == "crop" else self.fit}
        given |= {name: None if getattr(self, name) == "auto" else getattr(self, name) for name in ("device", "dtype")}
        for name, value in given.items():
            words += [] if value is None else _option(flag_of(name), _spelt(value))
        words += [flag_of(name) for name in ("paste_back", "any_words", "force") if getattr(self, name)]
        return shlex.join([*words, *_option("-o", self.output)])

    @staticmethod
    def _typed(group: Group, method: str, name: str, value: Any) -> list[str]:
        """A field as it is typed for its own method alone."""
        argument = next(each for each in registry.schema(group, method) if each.name == name)
        kind, flag = kind_of(argument.type), flag_of(f"{method}.{name}")
        if kind.toggle:
            return [flag if value else f"--no-{flag[2:]}"]
        if kind.gather is None or value is None:
            is_json = kind.metavar == "JSON"
            return _option(flag, json.dumps(value) if is_json else _spelt(value))
        if not isinstance(value, Mapping):
            return [flag, _spelt(value)]
        pairs = cast("Mapping[str, Any]", value)
        return [flag, *(_spelt(v) if k == DEFAULT else f"{k}={_spelt(v)}" for k, v in pairs.items())]

    # --- Python -----------------------------------------------------------------------------------------------------

    def python(self) -> str:
        """As a program."""
        imports = ["import reinvert"]
        loaded = [repr(self.model)]
        loaded += [f"{name}={getattr(self, name)!r}" for name in ("device", "dtype") if getattr(self, name) != "auto"]
        arguments: list[str] = [f"source={self.source!r}", f"target={self.target!r}"]
        if self.inversion is not None:
            arguments.append(f"inversion={self._made('inversions', self.inversion, imports)}")
        editors = [self._made("editors", name, imports) for name in self.editors]
        alone = self._made("editors", self.editors[0], imports)
        arguments.append(f"editor={alone}" if len(editors) == 1 else f"editor=[{', '.join(editors)}]")
        for name in ("steps", "guidance", "blend", "mask"):
            if getattr(self, name) is not None:
                arguments.append(f"{name}={getattr(self, name)!r}")
        for name, usual in (("seed", 0), ("fit", "crop"), ("any_words", False), ("force", False)):
            if getattr(self, name) != usual:
                arguments.append(f"{name}={getattr(self, name)!r}")
        lines = [f"model = reinvert.load({', '.join(loaded)})", "result = reinvert.edit("]
        lines += [f"    {argument}," for argument in ("model", repr(self.picture), *arguments)] + [")"]
        if not self.paste_back:
            imports.append("from reinvert.image import save_image")
            lines.append(f"save_image(result.image, {self.output!r})")
        else:
            names = ["open_image", *(["open_mask"] if self.mask else []), "save_image"]
            imports += ["from reinvert.differences import pasted", f"from reinvert.image import {', '.join(names)}"]
            mask = f", open_mask({self.mask!r})" if self.mask else ""
            lines.append(f"original = open_image({self.picture!r})")
            lines.append(f"picture, _ = pasted(original, result, 0, result.fit{mask})")
            lines.append(f"save_image(picture, {self.output!r})")
        return "\n".join([imports[0], *sorted(set(imports[1:])), "", *lines]) + "\n"

    def _made(self, group: Group, name: str, imports: list[str]) -> str:
        """A method by its name, or with its settings as an instance."""
        values = self.settings.get(name, {})
        if not values:
            return repr(name)
        cls = registry.find(group, name)
        imports.append(f"from {cls.__module__} import {cls.__name__}")
        return f"{cls.__name__}({', '.join(f'{n}={_plain(v)!r}' for n, v in values.items())})"


def _option(flag: str, value: str) -> list[str]:
    """An option with its value; one that begins with a dash is joined to it, or it would be taken for an option."""
    return [f"{flag}={value}"] if value.startswith("-") and flag.startswith("--") else [flag, value]


def _spelt(value: object) -> str:
    """A value as it is typed, without loss (`values.show` rounds)."""
    match value:
        case None:
            return "none"
        case float():
            return repr(value)
        case tuple() | list():
            items = cast("Sequence[object]", value)
            return (":" if all(isinstance(i, int | float) for i in items) else ",").join(map(_spelt, items))
        case _:
            return str(value)


def _plain(value: Any) -> Any:
    """A mapping of any kind as a dictionary, which is written as one."""
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value
