"""cache.deferred: what lies beside a cache is read when a step is named there without its layers."""

from __future__ import annotations

from inlay import tasks
from inlay.cache.deferred import DeferredCaches
from inlay.cache.imports import Imported
from inlay.digest import Digest
from inlay.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from inlay.solver.index import CacheIndex
from inlay.solver.keys import RecordGraph, RecordNode, stack

NOW = "2026-01-02T03:04:05.678Z"
ROOT, BARE, FULL = (Digest.of(name) for name in ("root", "bare", "full"))


def graph(*, complete: bool) -> RecordGraph:
    """A root, a step that has a result when `complete`, and one on it that always has one."""
    chain = stack([Descriptor(OCI_LAYER_GZIP, Digest.of("layer"), 1)])
    assert chain is not None
    result = ((chain, NOW),)
    return [
        RecordNode(ROOT),
        RecordNode(BARE, ((("", 0),),), result if complete else ()),
        RecordNode(FULL, ((("", 1),),), result),
    ]


class Reading:
    """Counts how often it is read."""

    def __init__(self, *graphs: RecordGraph) -> None:
        self.graphs, self.count = list(graphs), 0

    def __call__(self) -> list[RecordGraph]:
        self.count += 1
        return self.graphs


def bring(beside: Reading, *wanted: int, complete: bool = False) -> tuple[list[bool], int]:
    """What asking for the keys of the nodes `wanted`, all at once, answers; and how many records came for
    the step that had none."""
    index = CacheIndex()
    deferred = DeferredCaches(index)
    deferred.ingest(Imported(graph(complete=complete), beside))
    keys = index.ingest(graph(complete=complete))
    before = len(index.records([keys[1]]))

    async def main() -> list[bool]:
        return await tasks.gather([tasks.spawn(deferred.bring([keys[n]])) for n in wanted])

    return tasks.run(main()), len(index.records([keys[1]])) - before


def test_it_is_read_once_for_all_who_ask_at_the_same_time() -> None:
    beside = Reading(graph(complete=True))
    assert bring(beside, 1, 1, 1) == ([True, True, True], 1)
    assert beside.count == 1


def test_it_is_not_read_for_steps_that_have_their_layers() -> None:
    beside = Reading(graph(complete=True))
    assert bring(beside, 0, 2) == ([False, False], 0)
    assert bring(beside, 1, complete=True) == ([False], 0)
    assert beside.count == 0


def test_nothing_beside_it_is_nothing_new() -> None:
    assert bring(Reading(), 1) == ([False], 0)
