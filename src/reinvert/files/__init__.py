"""Every file from outside comes in here: bounded, decoded, checked against one typed description of its format.

Each format is a page of this package, a few pydantic models with bounds (`recipe`, `trajectory`, `run`, `data`,
`model`, `scene`, `sidecar`). What is read, the sentence of a refusal and docs/files.md all follow from it; nothing else
in reinvert parses what a user or a stranger has written. Pictures have a door of their own, `reinvert.image`.
"""

from __future__ import annotations

from reinvert.files.door import (
    MAX_NESTING,
    Entry,
    check,
    check_value,
    clean,
    expanded,
    inside,
    is_printable,
    linked_inside,
    parse_json,
    parse_toml,
    read_bytes,
    read_json,
    read_table,
    read_text,
    read_toml,
    real,
    refusal,
    shown,
    writing,
)

__all__ = [
    "MAX_NESTING",
    "Entry",
    "check",
    "check_value",
    "clean",
    "expanded",
    "inside",
    "is_printable",
    "linked_inside",
    "parse_json",
    "parse_toml",
    "read_bytes",
    "read_json",
    "read_table",
    "read_text",
    "read_toml",
    "real",
    "refusal",
    "shown",
    "writing",
]
