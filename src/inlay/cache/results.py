"""Which records of an export get a result (BuildKit: solver/exporter.go, `CacheExportMode`).

In mode `max` every record gets its layers, which are packed where they are not. In mode `min`, the
default, only the targets' are; other records get theirs if they are packed already. No mode drops records.
"""

from __future__ import annotations

from inlay.tasks import gather, spawn
from inlay.typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from inlay.solver.export import Export
    from inlay.solver.keys import CacheRecord, Chain, RecordGraph

    Mode = Literal["min", "max"]


class ChainOf(Protocol):
    """Finds the layers of a record's result."""

    async def __call__(self, record: CacheRecord, *, pack: bool) -> Chain | None:
        """With `pack`, make blobs of layers that have none; without, None where one has none. None of a
        result without layers, or one that is gone."""


async def with_results(export: Export, chain_of: ChainOf, mode: Mode) -> RecordGraph:
    """The records of `export`, with the results that `mode` gives them."""
    chains: dict[int, Chain | None]
    if mode == "max":
        chains = await _chains(export, chain_of, range(len(export.graph)), pack=True)
    else:
        chains = await _top_chains(export, chain_of)
        others = [at for at in range(len(export.graph)) if at not in chains]
        chains |= await _chains(export, chain_of, others, pack=False)
    graph = []
    for at, (node, record) in enumerate(zip(export.graph, export.records, strict=True)):
        chain = chains.get(at)
        results = ((chain, record.created),) if record is not None and chain is not None else ()
        graph.append(node._replace(results=results))
    return graph


async def _top_chains(export: Export, chain_of: ChainOf) -> dict[int, Chain | None]:
    """The chains of the targets; where one has no layers, those of what it is made from, and so on down."""
    chains: dict[int, Chain | None] = {}
    wanted = set(export.targets)
    while wanted:
        found = await _chains(export, chain_of, wanted, pack=True)
        chains |= found
        wanted = {
            link
            for at, chain in found.items()
            if chain is None
            for links in export.graph[at].inputs
            for _, link in links
        } - chains.keys()
    return chains


async def _chains(
    export: Export, chain_of: ChainOf, positions: Iterable[int], *, pack: bool
) -> dict[int, Chain | None]:
    async def find(at: int) -> Chain | None:
        record = export.records[at]
        if record is None:
            return None
        return record.remote if record.remote is not None else await chain_of(record, pack=pack)

    positions = list(positions)
    return dict(zip(positions, await gather([spawn(find(at)) for at in positions]), strict=True))
