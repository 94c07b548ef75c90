"""What the documents promise about the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reinvert import recipes, registry

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
