"""How a value shows itself in a notebook: a small table, or a PNG."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from reinvert.files import shown

if TYPE_CHECKING:
    from PIL import Image


def table(title: str, rows: Mapping[str, object]) -> str:
    """A title and two columns, in HTML; rows of None are left out."""
    left = "style='text-align:left'"
    cells = "".join(
        f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(shown(value, 200))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    return f"<table><caption>{escape(shown(title, 200))}</caption>{cells}</table>"


def line(kind: str, *parts: object) -> str:
    """Kind(part, part), every part shortened; parts of None are left out."""
    return f"{kind}({', '.join(shown(part) for part in parts if part is not None)})"


def quoted(texts: tuple[str, ...]) -> str:
    """The first of the texts in quotes, and how many more there are."""
    more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
    return f"'{shown(texts[0], 40)}'{more}" if texts else "no prompt"


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()
