"""Imported caches as the solver meets them: what they hold at once, what lies beside them when it is wanted."""

from __future__ import annotations

from inlay.tasks import Task, gather, in_thread, spawn
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from inlay.cache.imports import Imported
    from inlay.solver.index import CacheIndex
    from inlay.solver.keys import KeyId, RecordGraph


class DeferredCaches:
    """Brings imports into `index`. One for a build; lives on the loop's thread."""

    def __init__(self, index: CacheIndex) -> None:
        self._index = index
        self._beside: list[tuple[frozenset[KeyId], Callable[[], list[RecordGraph]]]] = []
        self._reading: dict[int, Task[bool]] = {}

    def ingest(self, imported: Imported) -> None:
        """Take in what a cache holds, and note which steps it names without their layers."""
        keys = self._index.ingest(imported.graph)
        if imported.beside is None:
            return
        bare = frozenset(
            key for key, node in zip(keys, imported.graph, strict=True) if node.inputs and not node.results
        )
        if bare:
            self._beside.append((bare, imported.beside))

    async def bring(self, keys: Iterable[KeyId]) -> bool:
        """Read what lies beside the caches that name `keys` without layers, each once; return whether anything
        came."""
        wanted = set(keys)
        tasks = []
        for at, (bare, read) in enumerate(self._beside):
            if not bare.isdisjoint(wanted):
                if at not in self._reading:
                    self._reading[at] = spawn(self._read(read))
                tasks.append(self._reading[at])
        came = await gather(tasks)
        return any(came)

    async def _read(self, read: Callable[[], list[RecordGraph]]) -> bool:
        graphs = await in_thread(read)
        for graph in graphs:
            self._index.ingest(graph)
        return bool(graphs)
