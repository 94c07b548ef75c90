"""What the nodes know of reinvert's methods: the pairs that can run, and a node of settings for each method.

All of it is made from reinvert's registry, so a new method, also one of another package, needs no line here.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from functools import cache
from typing import Any

from reinvert import ReinvertError, pairs, registry
from reinvert.registry import Argument, Group
from reinvert.values import entered, kind_of, show

USUAL = "direct + p2p"
"""The pair that stands first among the named ones."""
OF_THE_MODEL = "the model's usual"
"""Stands for the methods that are usual for the model, which is known only when the node runs."""
BOUND = 1_000_000
"""ComfyUI's widgets need bounds; what a field takes is checked by its method."""


@cache
def legal_pairs() -> tuple[str, ...]:
    """ "inversion + editor" of every two that can run together, the usual one first."""
    matrix = pairs.matrix()
    legal = [f"{inversion} + {editor}" for inversion, row in matrix.items() for editor in row if row[editor] is None]
    return tuple(sorted(legal, key=lambda pair: pair != USUAL))


@cache
def editors_of_trajectories() -> tuple[str, ...]:
    """The editors that go with any trajectory, the usual one first."""
    names = dict.fromkeys(split(pair)[1] for pair in legal_pairs())
    found = [name for name in names if not registry.variable("editors", name, "draws_start")]
    return tuple(sorted(found, key=lambda name: name != split(USUAL)[1]))


def split(pair: str) -> tuple[str, str]:
    """ "inversion + editor" (or several editors) as the two names that `reinvert.edit` takes."""
    inversion, _, editor = pair.partition("+")
    return inversion.strip(), "+".join(name.strip() for name in editor.split("+"))


def why_not(pair: str) -> str | None:
    """Why a typed pair cannot run, in a sentence, or None; editors may be joined: "direct + p2p + proximal"."""
    inversion, editor = split(pair)
    try:
        inverts = registry.make("inversions", inversion)
        return pairs.why_not(inverts, [registry.make("editors", name) for name in editor.split("+")])
    except ReinvertError as error:
        return str(error)


def lines(text: str) -> list[str]:
    """The pairs of a text, one a line."""
    return [line.strip() for line in text.splitlines() if line.strip()]


# --- a node of settings for each method -----------------------------------------------------------------------------


def settings_nodes() -> tuple[type[Any], ...]:
    """One node class for each inversion and each editor that has settings."""
    groups: tuple[Group, ...] = ("inversions", "editors")
    return tuple(_node(group, name) for group in groups for name in registry.names(group))


def _node(group: Group, method: str) -> type[Any]:
    """A node that gives a method with its settings; an editor's takes another editor, to be joined with."""
    about, arguments = registry.describe(group, method), registry.schema(group, method)
    kind = group.removesuffix("s")
    socket = f"REINVERT_{kind.upper()}"
    chain = {"before": (socket, {"tooltip": "an editor that acts before this one"})} if group == "editors" else {}

    class Settings:
        DESCRIPTION = " ".join((about.sentence, about.when)).strip()
        TITLE = f"{method} ({kind})"
        CATEGORY = f"reinvert/{group}"
        RETURN_TYPES = (socket,)
        RETURN_NAMES = (kind,)
        FUNCTION = "make"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {a.name: widget(a) for a in arguments}, "optional": chain}

        def make(self, before: tuple[Any, ...] = (), **given: Any) -> tuple[Any]:
            values = {a.name: value_of(a, given[a.name], method) for a in arguments if a.name in given}
            made = registry.make(group, method, values)
            return ((*before, made),) if group == "editors" else (made,)

    Settings.__name__ = Settings.__qualname__ = f"{kind.title()}_{method}"
    return Settings


def widget(argument: Argument) -> tuple[Any, Mapping[str, Any]]:
    """A field as ComfyUI declares an input: its type (a list of choices for a combo) and its options."""
    kind, default, options = kind_of(argument.type), argument.default, {"tooltip": argument.help}
    if kind.toggle:
        return "BOOLEAN", options | {"default": bool(default)}
    if kind.choices:
        return [show(choice) for choice in kind.choices], options | {"default": show(default)}
    if argument.type is int:
        return "INT", options | {"default": default, "min": -BOUND, "max": BOUND}
    if argument.type is float:
        bounds = {"min": -float(BOUND), "max": float(BOUND), "step": 0.01, "round": False}
        return "FLOAT", options | {"default": float(default)} | bounds
    empty = default in ((), {}, "")
    hint = {"tooltip": f"{argument.help} (as on the command line: {kind.metavar})"}
    return "STRING", hint | {"default": "" if empty else show(default)}


def value_of(argument: Argument, given: Any, method: str) -> Any:
    """A field's value of what its widget gives."""
    try:
        return entered(argument.type, given, argument.default)
    except ArgumentTypeError as error:
        raise ReinvertError(f"{argument.name} of {method} {error}") from error
