"""Hooks of the documentation site (mkdocs.yml): pages that live outside of docs/, and the notebook as a page.

Links are written for the repository, where a reader on a forge follows them too; here they become the site's.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "src/reinvert/picturebook/MODEL_CARD.md": "model-card.md",
}
"""Repository path -> page of the site."""
PLAIN = {"CITATION.cff": "CITATION.cff", "LICENSE": "LICENSE.txt"}
"""Repository path -> file of the site, copied as it is."""
NOTEBOOK = "docs/notebook.ipynb"
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=for_site(text, source, page)))
    for source, name in PLAIN.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_bytes()))
    text, pictures = notebook_page(json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8")))
    files.append(File.generated(config, "notebook.md", content=text))
    for name, data in pictures.items():
        files.append(File.generated(config, name, content=data))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri in (*PAGES.values(), "notebook.md"):
        return markdown
    return for_site(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def for_site(text: str, source: str, page: str) -> str:
    """The links of a page at `source` in the repository, as links from `page` of the site."""

    def link(match: re.Match[str]) -> str:
        target, anchor = match[2], match[3] or ""
        if ":" in target:
            return match[0]
        place = site_path(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        if place is None:  # not of the site: left for mkdocs to complain about
            return match[0]
        return f"{match[1]}{posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"

    return LINK.sub(link, text)


def site_path(path: str) -> str | None:
    """Where a file of the repository is on the site."""
    known = {**PAGES, **PLAIN, "docs/README.md": "index.md", NOTEBOOK: "notebook.md"}
    if path in known:
        return known[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def notebook_page(notebook: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    """The notebook in Markdown, with the outputs that are stored in it; and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(for_site(text, NOTEBOOK, "notebook.md"))
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"notebook-{len(pictures)}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![output]({name})")
            else:
                shown = "".join(output.get("text") or data["text/plain"])
                parts.append(f"```text\n{shown.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures
