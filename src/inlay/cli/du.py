"""`inlay du`: what takes room in the store."""

from __future__ import annotations

import json
import sys

from inlay.cli import add_root, say
from inlay.cli.table import ago, short, table
from inlay.progress.plain import size_text
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from inlay.store.usage import Item

_TITLES = {
    "image": "images",
    "layer": "layers",
    "cachemount": "cache mounts",
    "download": "downloads",
    "git": "git repositories",
    "memory": "notes",
    "leftover": "leftovers",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay du`."""
    parser.description = (
        "Show what takes room in the store. What is reclaimable goes with inlay prune; the rest is images with "
        "names (inlay image rm), their layers and notes (inlay prune --all)."
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="list every single thing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_root(parser)
    parser.set_defaults(command=_du)


def _du(arguments: argparse.Namespace) -> int:
    from inlay.store.store import Store
    from inlay.store.usage import Survey
    from inlay.system.rootless import enter

    enter()
    with Store(arguments.root, warn=say) as store:
        items, records = Survey(store).items, store.cache.count()
        root = store.root
    if arguments.json:
        document = {
            "root": root,
            "records": records,
            "size": sum(item.size for item in items),
            "reclaimable": sum(item.size for item in items if _reclaimable(item)),
            "items": [{**item._asdict(), "reclaimable": _reclaimable(item)} for item in items],
        }
        print(json.dumps(document, indent=2))
        return 0
    if arguments.verbose:
        sys.stdout.write(items_table(items) + "\n")
    sys.stdout.write(_summary(items))
    print(f"\n{root}: {records} cached result{'' if records == 1 else 's'} of steps")
    return 0


def _reclaimable(item: Item) -> bool:
    return not item.shared and item.kind != "memory"


def _summary(items: Sequence[Item]) -> str:
    rows = [("", "COUNT", "SIZE", "RECLAIMABLE", "LAST USED")]
    for kind, title in _TITLES.items():
        found = [item for item in items if item.kind == kind]
        if found:
            rows.append((title, str(len(found)), *_sizes(found), ago(max(item.used for item in found))))
    rows.append(("total", str(len(items)), *_sizes(items), ""))
    return table(rows, right=(1, 2, 3))


def _sizes(items: Sequence[Item]) -> tuple[str, str]:
    reclaimable = sum(item.size for item in items if _reclaimable(item))
    return size_text(sum(item.size for item in items)), size_text(reclaimable)


def items_table(items: Sequence[Item]) -> str:
    """Every item on a line."""
    rows = [("TYPE", "ID", "SIZE", "LAST USED", "DESCRIPTION")]
    rows += [
        (
            item.kind,
            short(item.id),
            size_text(item.size),
            ago(item.used),
            " ".join(item.description.split())[:60],
        )
        for item in items
    ]
    return table(rows, right=(2,))
