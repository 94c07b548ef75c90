"""Finding methods by name, and what is told about them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest

from reinvert import registry
from reinvert.editors.base import Editor
from reinvert.editors.p2p import P2P
from reinvert.errors import ReinvertError
from reinvert.inversions.base import Inversion
from reinvert.inversions.direct import Direct
from reinvert.trained.base import Trained

GROUPS = ("inversions", "editors")
EVERY = [(group, name) for group in (*GROUPS, "trained") for name in registry.names(group)]
ALL = [(group, name) for group in GROUPS for name in registry.names(group)]


def test_names_are_the_files() -> None:
    assert {"ddim", "direct", "negative_prompt", "null_text"} <= set(registry.names("inversions"))
    assert {"local_blend", "p2p", "prompt", "proximal"} <= set(registry.names("editors"))
    for group in GROUPS:
        assert "base" not in registry.names(group)
        assert list(registry.names(group)) == sorted(registry.names(group))


@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_method_is_a_page_that_tells_what_it_is(group, name: str) -> None:
    cls = registry.find(group, name)
    assert issubclass(cls, Inversion if group == "inversions" else Editor)
    assert cls.name == name
    told = registry.describe(group, name)
    assert told.sentence.endswith(".")
    assert told.papers
    assert all("arXiv" in paper for paper in told.papers)
    assert told.needs
    # What every inversion has comes behind a method's own.
    assert [a.name for a in told.arguments] == sorted((f.name for f in fields(cls)), key=lambda name: name == "encode")
    assert all(a.help for a in told.arguments)
    made = registry.make(group, name)
    assert all(getattr(made, a.name) == a.default for a in told.arguments)
    assert set(made.settings) == {f.name for f in fields(cls)}


def test_papers_are_named_in_full() -> None:
    assert registry.describe("inversions", "direct").papers == (
        "PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code (2024, arXiv 2310.01506)",
    )
    assert registry.describe("editors", "p2p").papers == (
        "Prompt-to-Prompt Image Editing with Cross Attention Control (2023, arXiv 2208.01626)",
    )


@pytest.mark.parametrize(
    ("group", "name", "near"),
    [
        ("inversions", "dirct", "direct"),
        ("inversions", "nulltext", "null_text"),
        ("inversions", "negative-prompt", "negative_prompt"),
        ("editors", "p2", "p2p"),
        ("editors", "localblend", "local_blend"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(group, name: str, near: str) -> None:
    with pytest.raises(ReinvertError, match=f"there is no {group[:-1]} {name!r}; did you mean .*{near}"):
        registry.find(group, name)


def test_a_name_that_resembles_nothing_is_answered_with_all() -> None:
    with pytest.raises(ReinvertError) as caught:
        registry.find("inversions", "zzzz")
    assert all(name in str(caught.value) for name in registry.names("inversions"))


def test_arguments_are_made_and_wrong_ones_named() -> None:
    assert registry.make("inversions", "direct", {"strength": 0.4, "every": 2}) == Direct(strength=0.4, every=2)
    with pytest.raises(ReinvertError, match="direct has no argument 'strenght'; it has strength, every, carry"):
        registry.make("inversions", "direct", {"strenght": 0.4})
    with pytest.raises(ReinvertError, match="prompt has no argument 'x'; it has none"):
        registry.make("editors", "prompt", {"x": 1})


def test_the_schema_holds_types_defaults_and_help() -> None:
    schema = {a.name: a for a in registry.arguments(Direct)}
    assert schema["strength"].type is float
    assert schema["strength"].default == 1.0
    assert schema["every"].help == "Correct steps 0, every, 2 every, ... only."
    assert schema["carry"].default == "none"
    boost = {a.name: a for a in registry.arguments(P2P)}["boost"]
    assert boost.default == {}


def test_methods_of_other_packages_join_by_entry_point(monkeypatch) -> None:
    class Point:
        name = "elsewhere"

        @staticmethod
        def load():
            return Direct

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point] if group == "reinvert.inversions" else [])
    assert "elsewhere" in registry.names("inversions")
    assert "elsewhere" not in registry.names("editors")
    assert registry.find("inversions", "elsewhere") is Direct


def test_methods_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Direct().strength = 2.0  # type: ignore[misc]


@pytest.mark.parametrize(("group", "name"), EVERY)
def test_a_page_says_what_its_class_says(group, name) -> None:
    """The source that is read without importing it, held against the dataclass itself."""
    cls = registry.find(group, name)
    assert registry.schema(group, name) == registry.arguments(cls)
    told = registry.describe(group, name)
    assert told.title == (inspect.getdoc(cls) or "").split("\n")[0]
    module = inspect.getdoc(inspect.getmodule(cls)) or ""
    assert told.sentence == module.split("\n\n")[0].replace("\n", " ")
    base = {"inversions": Inversion, "editors": Editor, "trained": Trained}[group]
    for which in class_variables(base):
        if isinstance(getattr(cls, which), property):
            continue
        assert registry.variable(group, name, which) == getattr(cls, which), which


def class_variables(cls: type) -> set[str]:
    return {n for n, hint in typing.get_type_hints(cls).items() if typing.get_origin(hint) is typing.ClassVar}


def sentence_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except ReinvertError as error:
        return str(error)
    return None


@pytest.mark.parametrize("group", ["inversions", "editors"])
def test_what_a_class_refuses_its_page_refuses_in_the_same_words(group) -> None:
    refused = 0
    for name in registry.names(group):
        cls = registry.find(group, name)
        for argument in registry.schema(group, name):
            wrong = (-1, 0, 2, 10**6) if argument.type is int else (-1.0, 0.0, 1.5, 1e9)
            for value in wrong if argument.type in (int, float) else ():
                own = sentence_of(partial(cls, **{argument.name: value}))
                read = sentence_of(partial(registry.checked, group, name, {argument.name: value}))
                assert own == read, (name, argument.name, value)
                refused += own is not None
    assert refused > 20


def test_pages_are_read_without_torch() -> None:
    """All of them, in a process of its own."""
    read = (
        "import sys; from reinvert import registry; "
        "[registry.describe(g, n) for g in ('inversions', 'editors', 'trained') for n in registry.names(g)]; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    path = os.pathsep.join([str(Path(registry.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    assert (
        subprocess.run([sys.executable, "-c", read], env={**os.environ, "PYTHONPATH": path}, check=False).returncode
        == 0
    )
