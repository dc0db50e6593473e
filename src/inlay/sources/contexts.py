"""`local://` sources: slices of the folders that a build is given (BuildKit: source/local)."""

from __future__ import annotations

import stat

from inlay import json
from inlay.archive.tree import shown
from inlay.errors import SourceError
from inlay.refs.ref import ContextRef
from inlay.tasks import in_thread
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inlay.archive.digestmemory import DigestMemory
    from inlay.archive.tree import Tree
    from inlay.llb.ops import SourceOp
    from inlay.sources.local import LocalContext


class LocalSource:
    """One `local://` op. Its key means something in this build only, so that no cache can hold it."""

    def __init__(self, op: SourceOp, folders: Mapping[str, str], memory: DigestMemory | None) -> None:
        self._op = op
        self._folders = folders
        self._memory = memory

    async def digests(self) -> tuple[str, ...]:
        from inlay.digest import Digest

        return (f"random:{Digest.of(repr(self._op)).hex}",)

    async def fetch(self) -> ContextRef:
        return ContextRef(await in_thread(self._context))

    def _context(self) -> LocalContext:
        from inlay.sources.local import LocalContext

        name = self._op.identifier.partition("://")[2]
        path = self._folders.get(name)
        if path is None:
            raise SourceError(f"no folder was given for the context {name}")
        return LocalContext(
            path,
            exclude_patterns=_patterns(self._op, "local.excludepatterns") or (),
            include_patterns=_patterns(self._op, "local.includepattern") or (),
            follow_paths=_patterns(self._op, "local.followpaths"),
            memory=self._memory,
        )


def _patterns(op: SourceOp, name: str) -> list[str] | None:
    text = op.attr(name)
    return json.loads(text) if text else None


def read_file(tree: Tree, path: str, limit: int) -> bytes | None:
    """A regular file of a tree, links followed within it; None where there is none. Raises `SourceError`."""
    with tree.resolve(path, follow_last=True) as place:
        if place.stat is None or place.parent is None or not stat.S_ISREG(place.stat.st_mode):
            return None
        if place.stat.st_size > limit:
            raise SourceError(f"{shown(path)} is larger than {limit >> 20} MiB")
        with open(tree.open(place.parent, place.name), "rb") as file:
            return file.read(limit)
