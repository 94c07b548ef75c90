"""The program around the commands: finds the chosen one, and turns every failure into one sentence and an exit code.

0: done. 2: bad input, said in one sentence on stderr. 130: interrupted. 141: nobody reads the output any more.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

from reinvert import __version__
from reinvert.cli.terminal import say
from reinvert.errors import ReinvertError, ReinvertWarning, meant, out_of_memory
from reinvert.files import shown

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
NO_MEMORY = (
    "there is not enough memory for this; try --dtype bfloat16, fewer targets at once, --fit crop, or a smaller model"
)
LONGEST = 300
"""Characters of a refusal, where one that was typed is so long that it may be repeated in it."""


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
        Command("studio", "edit in the browser"),
        Command("gallery", "every method on every type of edit, on one sheet"),
        Command("bench", "run, resume, score and report a benchmark"),
        Command("tune", "search a recipe's arguments for success, under a budget"),
    )
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong as a `ReinvertError`, without the usage in front of it."""

    named: frozenset[str] = frozenset()
    """Methods that the command line names; the help has their options."""
    model: str | None = None
    """The model that the command line names; the help has what is usual for it."""
    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._words = [] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if "arguments are required" in message:  # the name of one may have been mistyped
            for word in self._words:
                if word.startswith("--") and len(word) > 2 and word.split("=")[0] not in self._option_string_actions:
                    raise ReinvertError(_unknown(word, self))
        raise ReinvertError(re.sub(r"^argument (\S+): ", r"\1: ", message))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise ReinvertError(_unknown(unknown[0], _chosen(self, parsed)))
        return parsed

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            name = "/".join(action.option_strings) or "command"
            hint = meant(str(value), known, f"choose from {', '.join(known)}")
            raise ReinvertError(f"{name}: there is no '{shown(str(value))}'; {hint}")


def _chosen(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> argparse.ArgumentParser:
    """The parser of the command that was chosen, however deep it lies."""
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]  # argparse has no public way to ask
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            name = getattr(parsed, action.dest, None)
            return parser if name is None else _chosen(action.choices[name], parsed)
    return parser


def _unknown(word: str, parser: argparse.ArgumentParser) -> str:
    flag = word.split("=")[0]
    if not flag.startswith("-"):
        return f"'{shown(flag)}' is one argument too many; put words that belong together in quotes"
    flags = [f for a in parser._actions for f in a.option_strings]  # pyright: ignore[reportPrivateUsage]
    return f"there is no option {shown(flag)}; {meant(flag, flags, f'see {parser.prog} --help', 2)}"


def build_parser(only: str | None = None, given: Sequence[str] = ()) -> Parser:
    """The parser of all commands. With `only`, the options of the others are left out.

    `given` is the command line: the help shows the options of the methods that it names.
    """
    parser = Parser("reinvert", description="Edit real images with words.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"reinvert {__version__}")
    chosen = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    for command in COMMANDS.values():
        sub = chosen.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        sub.named = frozenset(_named(given))
        sub.model = next(_behind(given, "--model"), None)
        if only in (None, command.name):
            command.module.configure(sub)
    return parser


def _named(given: Sequence[str]) -> Iterator[str]:
    """The methods behind --inversion and --editor."""
    for names in _behind(given, "--inversion", "--editor"):
        yield from (name.strip() for name in names.split("+"))


def _behind(given: Sequence[str], *flags: str) -> Iterator[str]:
    """What stands behind some options on the command line."""
    for index, word in enumerate(given):
        flag, sign, value = word.partition("=")
        if flag in flags:
            yield value if sign else "".join(given[index + 1 : index + 2])


def start() -> NoReturn:
    """Run the program as a process of its own, and end it."""
    status = main()
    # Python looks for cycles among all objects once more before it ends, a second with torch: the system frees them.
    gc.freeze()
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code. Never a traceback for what a user can put right."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            _hush()
            _share_the_cores()
            status = _run(given)
        sys.stdout.flush()  # here, so that a closed pipe is noticed here
        return status
    except BrokenPipeError:
        # Python flushes stdout once more at exit; let it do so into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return _refuse("interrupted", INTERRUPTED)
    except ReinvertError as error:
        return _refuse(_short(str(error), given))
    except OSError as error:
        where = f"{shown(error.filename)}: " if error.filename else ""
        return _refuse(_short(f"{where}{error.strerror or error}", given))
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _refuse(NO_MEMORY)


def _run(given: list[str]) -> int:
    parser = build_parser(given[0] if given and given[0] in COMMANDS else "", given)
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        hint = meant(given[0], COMMANDS, f"the commands are {', '.join(COMMANDS)}")
        raise ReinvertError(f"there is no command '{shown(given[0])}'; {hint}")
    try:
        args = parser.parse_args(given)
    except SystemExit as done:  # --help and --version
        return done.code if isinstance(done.code, int) else 0
    if args.command is None:
        parser.print_help()
        return 0
    args.command_line = shlex.join(["reinvert", *given])
    return COMMANDS[args.command].module.run(args)


def _short(sentence: str, given: Sequence[str]) -> str:
    """Without its middle, where it could repeat a typed text that fills the screen."""
    return shown(sentence, LONGEST) if any(len(word) > LONGEST // 2 for word in given) else sentence


def _refuse(sentence: str, status: int = BAD_INPUT) -> int:
    say(f"reinvert: {sentence}", error=True)
    return status


def _shower() -> Callable[..., None]:
    """What shows a warning in one line, and each one once: of many pictures with one prompt too."""
    seen = set[str]()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in seen:
            seen.add(str(message))
            say(f"reinvert: {message}", error=True)

    return show


def _hush() -> None:
    """The libraries' notices about optional packages and deprecations are not for our users."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", ReinvertWarning)
    warnings.showwarning = _shower()  # `main` puts it back
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.getLogger("torch").setLevel(logging.ERROR)


def _share_the_cores() -> None:
    """torch's threads wait for each other in a loop that takes a whole core, for milliseconds: on a busy machine an
    edit takes three to ten times as long by it. Microseconds are enough on an idle one. Read when torch is loaded."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
