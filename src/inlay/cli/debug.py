"""`inlay debug`: what is inside, for people who work on inlay or on frontends."""

from __future__ import annotations

import sys

from inlay.cli.build import add_arguments, request_of
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay debug`."""
    parser.description = "Look at what inlay makes of a Dockerfile, without building it."
    llb = parser.add_subparsers(required=True, metavar="WHAT").add_parser(
        "llb",
        help="print the LLB that a Dockerfile becomes",
        description="Print the LLB (BuildKit's low-level build format) that PATH/Dockerfile becomes for its first "
        "platform. Takes the flags of inlay build.",
    )
    add_arguments(llb)
    llb.add_argument(
        "--raw", action="store_true", help="print it as buildctl build reads it, rather than as JSON"
    )
    llb.set_defaults(command=_llb)


def _llb(arguments: argparse.Namespace) -> int:
    from inlay.engine.calls import dump_llb
    from inlay.system.rootless import enter

    request = request_of(arguments)
    enter()  # a context of the web becomes a layer of the store, whose files have owners
    sys.stdout.buffer.write(dump_llb(request, raw=arguments.raw))
    return 0
