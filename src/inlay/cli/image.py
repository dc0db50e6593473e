"""`inlay image`: the images in the store that have names."""

from __future__ import annotations

import json
import sys

from inlay.cli import add_root, say
from inlay.cli.table import ago, short, table
from inlay.progress.plain import size_text
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay image`."""
    parser.description = "List and delete the images that inlay build -t has left in the store."
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    ls = commands.add_parser("ls", help="list images", description="List the images that have names.")
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.add_argument("-q", "--quiet", action="store_true", help="print digests only")
    ls.set_defaults(command=_ls)
    rm = commands.add_parser(
        "rm",
        help="delete images",
        description="Delete images by name, or all names of one by its digest. Layers that are of use as build "
        "cache stay until inlay prune.",
    )
    rm.add_argument("names", nargs="+", metavar="NAME|DIGEST")
    rm.set_defaults(command=_rm)
    for command in (ls, rm):
        add_root(command)


def _ls(arguments: argparse.Namespace) -> int:
    from inlay.store.store import Store
    from inlay.store.usage import named_images

    with Store(arguments.root, warn=say) as store:
        images = named_images(store)
    if arguments.json:
        print(json.dumps([image._asdict() for image in images], indent=2))
    elif arguments.quiet:
        for image in images:
            print(image.description)
    else:
        rows = [("NAME", "DIGEST", "SIZE", "CREATED")]
        rows += [
            (image.id, short(image.description), size_text(image.size), ago(image.used)) for image in images
        ]
        sys.stdout.write(table(rows, right=(2,)))
    return 0


def _rm(arguments: argparse.Namespace) -> int:
    from inlay.store.pruning import remove_images
    from inlay.store.store import Store
    from inlay.system.rootless import enter

    enter()
    with Store(arguments.root, warn=say) as store:
        for name, digest in remove_images(store, arguments.names):
            print(f"deleted {name} ({short(digest)})")
    return 0
