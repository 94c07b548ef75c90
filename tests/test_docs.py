"""What the documents promise about the code."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import reinvert.files
from reinvert import recipes, registry
from reinvert.files.door import Entry, OpenEntry, described

DOCS = Path(__file__).parent.parent / "docs"
METHODS = [(group, name) for group in ("inversions", "editors", "trained") for name in registry.names(group)]


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_every_switch_to_published_arithmetic_is_listed(group, name) -> None:
    if any(a.name == "compat" for a in registry.arguments(registry.find(group, name))):
        rows = [line for line in (DOCS / "deviations.md").read_text().splitlines() if line.startswith(f"| `{name}` |")]
        assert any('compat="published"' in row for row in rows), name


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_every_method_is_sorted_in_choosing(group, name) -> None:
    assert f"`{name}`" in (DOCS / "choosing.md").read_text()


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_every_method_has_its_page_and_says_when_to_use_it(group, name) -> None:
    method = registry.describe(group, name)
    assert method.when, f"{name} does not say when to use it"
    assert method.papers, f"{name} names no paper"
    page = (DOCS / "methods" / f"{name}.md").read_text()
    assert method.sentence in page
    assert method.when in page


def test_every_methods_paper_is_cited() -> None:
    cited = (DOCS.parent / "CITATION.cff").read_text()
    for group in ("inversions", "editors", "trained"):
        for name in registry.names(group):
            for paper in registry.describe(group, name).papers:
                (number,) = re.findall(r"arXiv (\d{4}\.\d{4,5})", paper)
                assert f"arXiv:{number}" in cited, paper


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_can_be_read_and_its_methods_go_together(name: str) -> None:
    recipe = recipes.find(name)
    assert recipe.about
    assert recipe.name == name
    assert recipe.published in ("", name)


def descriptions() -> Iterator[type[Entry]]:
    """Of all formats in `reinvert.files`; of one that only loosens or tightens another, the other."""
    for module in iter_modules(reinvert.files.__path__):
        for value in vars(import_module(f"reinvert.files.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, Entry) and value.__module__.endswith(f".{module.name}"):
                yield value


def test_the_page_of_files_is_made_from_their_descriptions() -> None:
    """`python docs/make_files.py` makes it again."""
    page = (DOCS / "files.md").read_text()
    make = runpy.run_path(str(DOCS / "make_files.py"))
    assert page == make["filled"](page)
    shown = {found[1] for found in make["BEGIN"].findall(page)}
    assert {kind.__name__ for kind in descriptions()} - shown == {
        Entry.__name__, OpenEntry.__name__, "RecipePart", "TextRecord",
    }  # fmt: skip
    changed = re.sub(r"(?m)^\| `blend_target` .*\n", "", page, count=1)
    assert changed != page
    assert make["filled"](changed) == page


@pytest.mark.parametrize("kind", {kind.__name__: kind for kind in descriptions()}.values())
def test_every_field_of_a_file_is_described(kind: type[Entry]) -> None:
    """By its docstring; those of a model's configuration have diffusers' own names."""
    for field in described(kind):
        assert field.takes
        assert field.about or kind.__module__.endswith("files.model"), field.name
