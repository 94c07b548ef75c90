"""The one way to the terminal. Names of files, rows and cases come from outside: none of them clears a screen.

Everything that the commands print goes through `say` or a `console()`: control characters are spelt out, and what the
terminal's encoding does not have, too.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
"""They turn the reading direction or break lines: a name would be shown as another."""


def clean(text: str) -> str:
    r"""A text whose only control characters are line breaks; the others are spelt out (`\x1b`)."""
    if text.isprintable():
        return text
    return "".join(sign.encode("unicode_escape").decode() if _steers(sign) else sign for sign in text)


def _steers(sign: str) -> bool:
    return sign != "\n" and (sign in _TURNS or unicodedata.category(sign) in ("Cc", "Cs"))


def say(text: object = "", *, error: bool = False) -> None:
    """Print a text on stdout, or on stderr."""
    stream: TextIO = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    told = clean(str(text)).encode(encoding, "backslashreplace").decode(encoding)
    print(told, file=stream)


def console(*, error: bool = False, width: int | None = None) -> Console:
    """A rich console on stdout, or on stderr, that prints no control characters but its own."""
    from rich.console import Console

    made = Console(stderr=error, width=width)
    made.push_render_hook(_hook())
    return made


def _hook() -> Any:
    from rich.console import ConsoleOptions, ConsoleRenderable, RenderHook
    from rich.segment import Segment

    class Cleaned:
        def __init__(self, inner: ConsoleRenderable) -> None:
            self.inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
            for segment in console.render(self.inner, options):
                yield segment if segment.control else Segment(clean(segment.text), segment.style)

    class Hook(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Cleaned(inner) for inner in renderables]

    return Hook()
