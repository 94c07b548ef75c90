"""The program around the commands: finds the chosen one, and turns every failure into one sentence and an exit code.

0: done. 2: bad input, said in one sentence on stderr. 130: interrupted. 141: nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from reinvert import __version__
from reinvert.errors import ReinvertError

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


@dataclass(frozen=True)
class Command:
    """A command's name, its line in the help, and the module with its `configure(parser)` and `run(args)`."""

    name: str
    help: str

    @property
    def module(self) -> Any:
        return import_module(f"reinvert.cli.{self.name}")


COMMANDS = {
    c.name: c
    for c in (
        Command("edit", "edit a picture with words"),
        Command("invert", "invert a picture once, to edit it many times"),
        Command("reconstruct", "invert a picture and render it again, to see what is lost"),
        Command("instruct", "edit by an instruction, with a network trained for that"),
        Command("methods", "the inversions and editors there are, and what they need"),
        Command("draw", "draw a picturebook scene, to have a picture to edit"),
        Command("demo", "draw a scene, edit it several ways, and lay out the results"),
        Command("gallery", "every method on every type of edit, on one sheet"),
        Command("bench", "run, resume, score and report a benchmark"),
    )
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong as a `ReinvertError`, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        raise ReinvertError(re.sub(r"^argument (\S+): ", r"\1: ", message))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise ReinvertError(self._unknown(unknown[0], getattr(parsed, "command", None)))
        return parsed

    def _unknown(self, flag: str, command: str | None) -> str:
        flag = flag.split("=")[0]
        if not flag.startswith("-"):
            return f"{flag!r} is one argument too many; put words that belong together in quotes"
        near = difflib.get_close_matches(flag, _flags(self, command), 2, 0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"see reinvert {command or ''} --help"
        return f"there is no option {flag}; {hint}"


def _flags(parser: argparse.ArgumentParser, command: str | None) -> list[str]:
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]  # argparse has no public way to ask
        if isinstance(action, argparse._SubParsersAction) and command:  # pyright: ignore[reportPrivateUsage]
            return [f for a in action.choices[command]._actions for f in a.option_strings]
    return []


def build_parser(only: str | None = None) -> Parser:
    """The parser of all commands. With `only`, the options of the others are left out (and torch, if it needs
    none): reading the registered methods' fields takes seconds."""
    parser = Parser("reinvert", description="Edit real images with words.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"reinvert {__version__}")
    chosen = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for command in COMMANDS.values():
        sub = chosen.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        if only in (None, command.name):
            command.module.configure(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code. Never a traceback for what a user can put right."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            _hush()
            status = _run(given)
        sys.stdout.flush()  # here, so that a closed pipe is noticed here
        return status
    except BrokenPipeError:
        # Python flushes stdout once more at exit; let it do so into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except ReinvertError as error:
        return _say(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _say(f"{where}{error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _say(
            "there is not enough memory for this; try --dtype bfloat16, fewer targets at once, "
            "--fit crop, or a smaller model"
        )


def _run(given: list[str]) -> int:
    parser = build_parser(given[0] if given and given[0] in COMMANDS else "")
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        near = difflib.get_close_matches(given[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise ReinvertError(f"there is no command {given[0]!r}; {hint}")
    try:
        args = parser.parse_args(given)
    except SystemExit as done:  # --help and --version
        return done.code if isinstance(done.code, int) else 0
    if args.command is None:
        parser.print_help()
        return 0
    args.command_line = shlex.join(["reinvert", *given])
    return COMMANDS[args.command].module.run(args)


def _say(sentence: str, status: int = BAD_INPUT) -> int:
    print(f"reinvert: {sentence}", file=sys.stderr)
    return status


def _out_of_memory(error: BaseException) -> bool:
    """Out of memory is a class of its own on CUDA, and a plain RuntimeError on the CPU and on MPS."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def _hush() -> None:
    """The libraries' notices about optional packages and deprecations are not for our users."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.getLogger("torch").setLevel(logging.ERROR)
