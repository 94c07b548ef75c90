"""Method flags: one for every field of every registered inversion and editor, made from the dataclasses.

`--strength 0.4` serves every method with a field `strength`; `--direct.strength 0.4` means one method alone. What
was not typed keeps the method's own default, and what no chosen method takes is an error.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from typing import Any, Final

from reinvert import registry
from reinvert.errors import ReinvertError
from reinvert.registry import Argument, Group
from reinvert.values import Kind, flag_of, kind_of, show

GROUPS: Final[tuple[Group, ...]] = ("inversions", "editors")

PREFIX: Final = "method:"
"""Of these flags' names in the namespace, so that no field can take the place of another option."""


def add_method_flags(parser: argparse.ArgumentParser, groups: tuple[Group, ...] = GROUPS) -> None:
    """One group of options per method, each with the field's own words and default.

    The help has those of the methods that the command line names: all of them are too many for one page.
    """
    named: Collection[str] = getattr(parser, "named", ())
    command = parser.prog.split()[-1]
    names = "--inversion NAME" + (" --editor NAME" if "editors" in groups else "")
    parser.epilog = (
        f"A method has options of its own: `reinvert methods NAME` and `reinvert {command} --help {names}` show them; "
        "`reinvert methods` lists all, and what is usual for which models."
    )
    seen: dict[str, Any] = {}
    for group in groups:
        for method in registry.names(group):
            title = f"{group.removesuffix('s')} {method}"
            told = method in named
            section = parser.add_argument_group(title, registry.describe(group, method).title if told else None)
            for argument in registry.schema(group, method):
                _add(parser, section, method, argument, seen, told)


def _add(
    parser: argparse.ArgumentParser,
    section: Any,
    method: str,
    argument: Argument,
    seen: dict[str, Any],
    in_help: bool,
) -> None:
    """The plain flag in the first method that has it; in all, the one with the method's name, shown where needed."""
    plain, own = flag_of(argument.name), flag_of(f"{method}.{argument.name}")
    kind = kind_of(argument.type)
    told = f"{argument.help} [{show(argument.default)}]".replace("%", "%%") if in_help else argparse.SUPPRESS
    if argument.name in seen:
        same = seen[argument.name] == argument.type
        told = f"{told} (or {plain}, for all methods that have it)" if same and in_help else told
    elif plain in parser._option_string_actions:  # pyright: ignore[reportPrivateUsage]
        seen[argument.name] = None  # an option of the command itself has this name
    else:
        seen[argument.name] = argument.type
        _option(section, plain, PREFIX + argument.name, kind, told)
        told = argparse.SUPPRESS
    _option(section, own, f"{PREFIX}{method}.{argument.name}", kind, told)


def _option(section: Any, flag: str, dest: str, kind: Kind, told: str) -> None:
    common: dict[str, Any] = {"dest": dest, "default": argparse.SUPPRESS, "help": told}
    if kind.toggle:
        section.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        return
    common |= {"nargs": "+"} if kind.gather else {}
    common |= {"choices": kind.choices} if kind.choices else {"metavar": kind.metavar}
    section.add_argument(flag, type=kind.read, **common)


class Chosen:
    """The method flags that were typed. Makes methods with them and knows which ones nobody took.

    `defaults` has what a recipe says of methods, by name; what was typed counts more.
    """

    def __init__(self, args: argparse.Namespace, defaults: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.defaults = defaults or {}
        typed: Mapping[str, Any] = vars(args)
        self.typed = {k.removeprefix(PREFIX): v for k, v in typed.items() if k.startswith(PREFIX)}
        self.taken: dict[Group, set[str]] = {"inversions": set(), "editors": set()}

    def make(self, group: Group, name: str) -> Any:
        """The method with the typed values of its fields; of two flags for a field the one with its own name counts."""
        return registry.make(group, name, self.values(group, name))

    def values(self, group: Group, name: str) -> dict[str, Any]:
        """The same values, without making (and importing) the method."""
        given: dict[str, Any] = dict(self.defaults.get(name, {}))
        for argument in registry.schema(group, name):
            kind = kind_of(argument.type)
            for typed in (argument.name, f"{name}.{argument.name}"):
                if typed in self.typed and (typed != argument.name or _serves(argument)):
                    value = self.typed[typed]
                    given[argument.name] = kind.gather(value, argument.default) if kind.gather else value
                    self.taken[group].add(typed)
        return registry.checked(group, name, given)

    def foresee(self, *, inversion: str, editors: Collection[str]) -> None:
        """Read the typed values of the methods that will be made: a mistake in them is told before torch is loaded."""
        for name in editors:
            self.values("editors", name)
        self.values("inversions", inversion)

    def check(self, groups: tuple[Group, ...] = GROUPS) -> None:
        """Refuse a flag that no method of these groups took: a setting that does nothing would go unnoticed."""
        taken = {typed for group in groups for typed in self.taken[group]}
        for typed in self.typed:
            if typed not in taken:
                owners = [typed.split(".")[0]] if "." in typed else [method for method, _ in _fields(typed)]
                is_one = len(owners) == 1
                raise ReinvertError(
                    f"{flag_of(typed)} belongs to {' and '.join(owners)}, which {'is' if is_one else 'are'} not used "
                    f"here; choose {'it' if is_one else 'one'} or leave the option out"
                )


def _fields(name: str) -> list[tuple[str, Argument]]:
    """Every method with a field of this name, in the order of the flags."""
    return [
        (method, argument)
        for group in GROUPS
        for method in registry.names(group)
        for argument in registry.schema(group, method)
        if argument.name == name
    ]


def _serves(argument: Argument) -> bool:
    """Whether the plain flag is this field's: it has the type of the first method with a field of that name."""
    return _fields(argument.name)[0][1].type == argument.type
