"""`inlay prune`: delete build cache."""

from __future__ import annotations

import json
import sys

from inlay.cli import add_root, say
from inlay.errors import UsageError
from inlay.golang.text import parse_bool
from inlay.notation import parse_age, parse_size
from inlay.progress.plain import size_text
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from inlay.store.pruning import Policy
    from inlay.store.store import Store
    from inlay.store.usage import Item


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay prune`."""
    parser.description = (
        "Delete build cache: layers that no image with a name is made of, cache mounts, downloads, leftovers. "
        "Images stay (see inlay image rm). No later build breaks: a step that lost its result runs again."
    )
    add = parser.add_argument
    add("-a", "--all", action="store_true", help="also the cache of images with names, and what was noted")
    add("-f", "--force", action="store_true", help="do not ask")
    add(
        "--filter",
        action="append",
        default=[],
        metavar="until=24h|type=TYPE|id=ID",
        help="only what was not used for so long, is of this type, or has this id; may be repeated",
    )
    add(
        "--type",
        action="append",
        default=[],
        help="layer, cachemount, download, git, memory or leftover: the same as --filter type=TYPE",
    )
    add(
        "--max-used-space",
        "--keep-storage",
        default="",
        metavar="SIZE",
        help="keep this much, such as 10GB: what was not used for longest goes first",
    )
    add("--dry-run", action="store_true", help="only say what would be deleted")
    add("-v", "--verbose", action="store_true", help="list what is deleted")
    add("--json", action="store_true", help="print JSON")
    add_root(parser)
    parser.set_defaults(command=_prune)


def _prune(arguments: argparse.Namespace) -> int:
    from inlay.store.pruning import prune
    from inlay.store.store import Store
    from inlay.system.rootless import enter

    policy = policy_of(arguments)
    enter()
    with Store(arguments.root, warn=say) as store:
        if not (arguments.dry_run or arguments.force) and not _agrees(store, policy):
            return 0
        doomed = prune(store, policy, dry_run=arguments.dry_run, warn=say)
    _tell(doomed, arguments)
    return 0


def policy_of(arguments: argparse.Namespace) -> Policy:
    """What the flags ask for. Raises `UsageError`."""
    from inlay.store.pruning import Policy, parse_kind

    policy = Policy(everything=arguments.all, kinds=tuple(map(parse_kind, arguments.type)))
    for text in arguments.filter:
        name, equals, value = text.partition("=")
        if name == "until" and equals:
            policy = policy._replace(unused_for_s=parse_age(value, "--filter until="))
        elif name == "type" and equals:
            policy = policy._replace(kinds=(*policy.kinds, parse_kind(value)))
        elif name == "id" and equals:
            policy = policy._replace(ids=(*policy.ids, value))
        else:
            raise UsageError(f"--filter {text}: must be until=DURATION, type=TYPE or id=ID")
    if arguments.max_used_space:
        policy = policy._replace(max_used_space=parse_size(arguments.max_used_space, "--max-used-space"))
    return policy


def _agrees(store: Store, policy: Policy) -> bool:
    """Ask, where there is somebody to answer."""
    if not sys.stdin.isatty():
        return True
    from inlay.store.pruning import prune

    doomed = prune(store, policy, dry_run=True)
    if not doomed:
        return True
    sys.stderr.write(f"This deletes {_counted(doomed)} from {store.root}. Go on? [y/N] ")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip().lower()
    return answer in ("y", "yes") or parse_bool(answer) is True


def _tell(doomed: Sequence[Item], arguments: argparse.Namespace) -> None:
    if arguments.json:
        document = {
            "freed": sum(item.size for item in doomed),
            "dry_run": arguments.dry_run,
            "items": [item._asdict() for item in doomed],
        }
        print(json.dumps(document, indent=2))
        return
    if arguments.verbose and doomed:
        from inlay.cli.du import items_table

        sys.stdout.write(items_table(doomed) + "\n")
    if not doomed:
        print("nothing to delete")
    else:
        print(f"{'would delete' if arguments.dry_run else 'deleted'} {_counted(doomed)}")


def _counted(items: Sequence[Item]) -> str:
    """`3 layers and 1 cache mount, 12.5MB`"""
    titles = {"cachemount": "cache mount", "git": "git repository", "memory": "folder of notes"}
    counts: dict[str, int] = {}
    for item in items:
        title = titles.get(item.kind, item.kind)
        counts[title] = counts.get(title, 0) + 1
    parts = [f"{count} {_plural(title) if count > 1 else title}" for title, count in counts.items()]
    return f"{' and '.join([', '.join(parts[:-1]), parts[-1]]) if parts[1:] else parts[0]}, {_size(items)}"


def _plural(title: str) -> str:
    special = {"git repository": "git repositories", "folder of notes": "folders of notes"}
    return special.get(title, f"{title}s")


def _size(items: Sequence[Item]) -> str:
    return size_text(sum(item.size for item in items))
