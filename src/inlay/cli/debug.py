"""`inlay debug`: what is inside, for people who work on inlay or on frontends."""

from __future__ import annotations

import sys

from inlay.cli.build import add_arguments, request_of
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay debug`."""
    llb = parser.add_subparsers(required=True, metavar="WHAT").add_parser(
        "llb", help="print the LLB that a Dockerfile becomes"
    )
    add_arguments(llb)
    llb.add_argument("--raw", action="store_true", help="as buildctl build reads it, rather than JSON")
    llb.set_defaults(command=_llb)


def _llb(arguments: argparse.Namespace) -> int:
    from inlay.calls import dump_llb

    sys.stdout.buffer.write(dump_llb(request_of(arguments), raw=arguments.raw))
    return 0
