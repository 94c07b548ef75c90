"""The command line: `reinvert edit`, `invert`, `reconstruct`, `methods`, `draw` and `demo`.

Nothing heavy is imported here: each command's module is imported when it is chosen.
"""

from reinvert.cli.program import build_parser, main, start

__all__ = ["build_parser", "main", "start"]
