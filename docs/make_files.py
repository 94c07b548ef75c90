"""Fills docs/files.md: a table of fields for each format, between the markers, from the format's own description.

    python docs/make_files.py

The descriptions are pydantic models (`reinvert.files`), by which the files are read too: what the page says is what is
taken. Everything outside of the markers is written by hand.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from reinvert.files.door import Entry, described

PAGE = Path(__file__).parent / "files.md"
BEGIN = re.compile(r"<!-- fields of ([a-z_.]+)\.([A-Z]\w+) -->\n.*?<!-- end -->", re.DOTALL)


def table(kind: type[Entry]) -> str:
    """A Markdown table: field, what it takes, what it is."""
    lines = ["| | takes | |", "| --- | --- | --- |"]
    for field in described(kind):
        default = "needed" if field.needed else f"`{shown(field.default)}` if left out" if has(field.default) else ""
        about = "; ".join(filter(None, (field.about.rstrip(".").replace("\n", " "), default)))
        lines.append(f"| `{field.name}` | {cell(field.takes)} | {cell(about)} |")
    if kind.model_config.get("extra") != "forbid" and kind.__name__ != "Method":
        lines += ["", "Further fields are left alone."]
    return "\n".join(lines)


def has(default: Any) -> bool:
    """Whether a default says something."""
    return default is not None and default != "" and not isinstance(default, BaseModel | dict | list)


def shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "\\[").replace("*", "\\*")


def filled(page: str) -> str:
    """The page with its tables."""

    def section(found: re.Match[str]) -> str:
        kind: type[Entry] = getattr(import_module(f"reinvert.{found[1]}"), found[2])
        return f"<!-- fields of {found[1]}.{found[2]} -->\n{table(kind)}\n<!-- end -->"

    return BEGIN.sub(section, page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
