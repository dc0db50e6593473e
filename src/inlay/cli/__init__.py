"""The command line: arguments → a call; errors → one sentence and an exit code.

Exit codes: 0 done · 1 it failed · 2 wrong usage · 3 `--require-cached` and something would have to run ·
130 interrupted. Each command has a module of its own, imported only when it is asked for.
"""

from __future__ import annotations

import sys

from inlay.cli.arguments import Arguments, Parsed
from inlay.errors import InlayError, UsageError
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any

EXIT_FAILED, EXIT_USAGE, EXIT_NOT_CACHED = 1, 2, 3

COMMANDS = {
    "build": ("inlay.cli.build", "build an image from a Dockerfile"),
    "cache": ("inlay.cli.cache", "look into a cache"),
    "image": ("inlay.cli.image", "list and delete images in the store"),
    "du": ("inlay.cli.du", "show what takes room in the store"),
    "prune": ("inlay.cli.prune", "delete build cache from the store"),
    "completion": ("inlay.cli.completion", "print a script that completes the command line in a shell"),
    "doctor": ("inlay.cli.doctor", "say what works on this machine, and what would help"),
    "debug": ("inlay.cli.debug", "look inside"),
}
"""Of each command the module whose `add` gives a parser its arguments, and what it does."""


def run(argv: Sequence[str]) -> int:
    """Do what `argv` (without the program's name) asks; return the exit code."""
    arguments = _parsed(argv)
    command: Callable[[Any], int] = arguments.command
    try:
        return command(arguments)
    except UsageError as error:
        say(str(error))
        return EXIT_USAGE
    except InlayError as error:
        excerpt = getattr(error, "excerpt", "").rstrip("\n")
        if excerpt:
            sys.stderr.write(f"{excerpt}\n")
        say(str(error))
        return EXIT_FAILED


def add_root(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Give `parser` the option that every command has."""
    parser.add_argument(
        "--root",
        default="",
        metavar="FOLDER",
        help="where images and caches are kept (default $XDG_DATA_HOME/inlay, or ~/.local/share/inlay)",
    )


def say(text: str) -> None:
    """Write an error or a warning to stderr, in inlay's name."""
    sys.stderr.write(f"inlay: {text}\n")


def _parsed(argv: Sequence[str]) -> Parsed | argparse.Namespace:
    """The arguments; those of an ordinary `inlay build` without argparse."""
    parsed = None
    if argv[:1] == ["build"]:
        arguments = Arguments()
        _module(COMMANDS["build"][0]).add(arguments)
        argv = ["build", *arguments.plain(argv[1:])]
        parsed = arguments.parse(argv[1:])
    return parsed or parser_for(argv).parse_args(argv)


def _module(name: str) -> Any:
    __import__(name)  # importlib.import_module takes 0.3 ms to import itself
    return sys.modules[name]


def parser_for(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for `argv`: it knows the names of all commands, and the arguments of the one in `argv`."""
    import argparse

    class Version(argparse.Action):
        def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
            super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

        def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
            from inlay import __version__

            print(f"inlay {__version__}")
            parser.exit()

    parser = argparse.ArgumentParser(
        prog="inlay",
        description="Build container images without a daemon; the build cache travels in the image.",
        epilog="inlay COMMAND --help tells what a command takes. Exit codes: 0 done, 1 failed, 2 wrong usage, "
        "3 --require-cached and a step would have to run, 130 interrupted.",
    )
    parser.add_argument("--version", action=Version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    wanted = next((argument for argument in argv if not argument.startswith("-")), "")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if name == wanted:
            _module(module).add(command)
    return parser
