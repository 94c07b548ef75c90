"""The documentation as a reader meets it: links, commands, the notebook, versions, and the files for CI."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from contextlib import chdir
from pathlib import Path

import pytest
import yaml

import reinvert
from reinvert.cli.program import build_parser

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    ROOT / "src/reinvert/picturebook/MODEL_CARD.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module", autouse=True)
def _docs_on_the_path():
    sys.path.insert(0, str(ROOT / "docs"))
    yield
    sys.path.remove(str(ROOT / "docs"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as forges and the site make them."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


def broken(page: Path) -> list[str]:
    found = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A b?\n[x](a.md#a-b) [y](b.md) [z](#c) [w](https://x.org) \n```\n[v](d.md)\n```\n")
    assert broken(tmp_path / "a.md") == ["b.md", "#c"]


def commands() -> list[str]:
    """Every call of the program in the pages, each once."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in FENCE.findall(page.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            found |= dict.fromkeys(line.strip() for line in lines if line.startswith("reinvert "))
    return list(found)


def test_every_command_of_the_pages_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    parsers = {}
    for command in commands():
        argv = shlex.split(command, comments=True)[1:]
        parser = parsers.setdefault(argv[0], build_parser(argv[0]))
        try:
            parser.parse_args(argv)
        except Exception as error:  # the parser's own, or SystemExit's sentence on stderr
            pytest.fail(f"{command}: {error} {capsys.readouterr().err}")
    assert {"draw", "edit", "invert", "reconstruct", "instruct", "bench"} <= set(parsers)


@pytest.mark.slow
def test_the_notebook_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    from run_notebook import NOTEBOOK, run

    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    stored = [cell.get("outputs") for cell in notebook["cells"]]
    with chdir(tmp_path):
        run(notebook)
    for before, cell in zip(stored, notebook["cells"], strict=True):
        if cell["cell_type"] == "code":
            assert [texts(output) for output in before] == [texts(output) for output in cell["outputs"]]
    assert sum("image/png" in o.get("data", {}) for outputs in stored if outputs for o in outputs) >= 4


def texts(output: dict) -> object:
    """What an output says; pictures differ in their last bits from machine to machine."""
    return output.get("text") or output["data"]["text/plain"]


def test_the_checker_of_the_site_finds_what_is_broken(tmp_path: Path) -> None:
    from check_links import problems

    assert problems(tmp_path) == [f"{tmp_path} has no pages"]
    (tmp_path / "index.html").write_text(
        '<a id="here"></a><a href="#here">x</a><a href="#gone">x</a><a href="no.html">x</a>'
        '<a href="https://example.org/">fine</a><img src="https://example.org/x.png">'
    )
    assert problems(tmp_path) == [
        "index.html loads https://example.org/x.png from outside",
        "index.html links to #gone, which has no such anchor",
        "index.html links to no.html, which does not exist",
    ]


def test_every_page_is_on_the_site() -> None:
    """What nav leaves out mkdocs complains about; here, that no page of nav is missing."""
    nav = re.findall(r": (\S+\.md)$|- (methods/README\.md)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    elsewhere = {"index.md", "notebook.md", "changelog.md", "contributing.md", "model-card.md"}
    named = {a or b for a, b in nav} - elsewhere
    assert named == {p.name for p in (ROOT / "docs").glob("*.md")} - {"README.md"} | {"methods/README.md"}


# --- versions and CI -------------------------------------------------------------------------------------------------


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (latest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    (cited,) = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert reinvert.__version__ == project["version"] == latest == cited


FORGES = [".github/workflows/ci.yml", ".gitlab-ci.yml", ".forgejo/workflows/ci.yml"]


@pytest.mark.skipif(not (ROOT / ".ci/run").exists(), reason="a source distribution has no CI")
@pytest.mark.parametrize("name", FORGES)
def test_ci_runs_what_ci_runs_on_every_python_of_the_package(name: str) -> None:
    text = (ROOT / name).read_text()
    assert yaml.safe_load(text)
    assert re.search(r"(run:|-) \.ci/run$", text, re.MULTILINE)
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))
    (tried,) = re.findall(r"(?:python|PYTHON): \[(.*)\]", text)
    assert re.findall(r"3\.\d+", tried) == versions
    assert "make --no-print-directory test" in (ROOT / ".ci/run").read_text().splitlines()[-1]
