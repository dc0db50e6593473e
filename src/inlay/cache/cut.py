"""Cutting a cache down to what BuildKit is willing to import: its limit is 1 MiB, for the manifest as for the
config.

What gives least is left out first: layers of stages that the target only takes something from, the smallest
first, for those were likely made the fastest; then the target's own last steps. A record goes with the
last result that it leads to. What is left is a whole cache of fewer steps.
"""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Sequence

    from inlay.cache.manifest import CacheManifest
    from inlay.solver.keys import Chain, RecordGraph


_Layers = tuple[str, ...]


class Cut(NamedTuple):
    """A cache that fits: `manifest` of `graph`, and the results that were left out. No manifest where nothing
    fits, or there is nothing."""

    manifest: CacheManifest | None
    graph: RecordGraph
    left_out: Sequence[Chain] = ()


def cut(
    graph: RecordGraph, targets: Collection[int], write: Callable[[RecordGraph], CacheManifest | None]
) -> Cut:
    """Leave out as little of `graph` as makes what `write` makes of it fit. `targets` are positions in it."""
    whole = write(graph)
    if whole is None or not whole.is_too_large:
        return Cut(whole, graph)
    order = _least_first(graph, targets)
    low, high = 0, len(order)  # leaving out `low` results is too few
    best = Cut(None, [], _chains(graph, order))
    while low + 1 < high:
        middle = (low + high) // 2
        rest = _without(graph, set(order[:middle]))
        made = write(rest)
        if made is not None and made.is_too_large:
            low = middle
        else:
            high, best = middle, Cut(made, rest, _chains(graph, order[:middle]))
    return best


def _least_first(graph: RecordGraph, targets: Collection[int]) -> list[int]:
    """The nodes with results, in the order in which they are left out.

    A layer goes only when nothing stands on it any more, so each stack is taken down from the top.
    """
    nodes: dict[_Layers, list[int]] = {}
    for at, node in enumerate(graph):
        if node.results:
            nodes.setdefault(_digests(node.results[0][0]), []).append(at)
    own = {_digests(part) for at in targets for chain, _ in graph[at].results[:1] for part in chain.chains()}
    below = {layers: _nearest_below(layers, nodes) for layers in nodes}
    from collections import Counter
    from heapq import heapify, heappop, heappush

    standing = Counter(below.values())
    tops = [
        (_top_size(graph, nodes[layers]), layers)
        for layers in nodes
        if layers not in own and not standing[layers]
    ]
    heapify(tops)
    order: list[int] = []
    while tops:
        _, layers = heappop(tops)
        order += nodes[layers]
        under = below[layers]
        standing[under] -= 1
        if under in nodes and under not in own and not standing[under]:
            heappush(tops, (_top_size(graph, nodes[under]), under))
    for layers in sorted(own & nodes.keys(), key=len, reverse=True):
        order += nodes[layers]
    return order


def _nearest_below(layers: _Layers, nodes: Container[_Layers]) -> _Layers:
    """The highest part of a stack, less than all of it, that is a result; () where there is none."""
    for height in range(len(layers) - 1, 0, -1):
        if layers[:height] in nodes:
            return layers[:height]
    return ()


def _top_size(graph: RecordGraph, nodes: Sequence[int]) -> int:
    return graph[nodes[0]].results[0][0].descriptor.size


def _digests(chain: Chain) -> _Layers:
    return tuple(layer.digest for layer in chain.descriptors())


def _chains(graph: RecordGraph, nodes: Sequence[int]) -> list[Chain]:
    return [graph[at].results[0][0] for at in nodes]


def _without(graph: RecordGraph, dropped: Collection[int]) -> RecordGraph:
    """`graph` without the results of `dropped`, and without nodes that lead to no result any more."""
    needed = [bool(node.results) and at not in dropped for at, node in enumerate(graph)]
    for at in range(len(graph) - 1, -1, -1):  # links lead to earlier nodes only
        if needed[at]:
            for links in graph[at].inputs:
                for _, link in links:
                    needed[link] = True
    place: dict[int, int] = {}
    rest: RecordGraph = []
    for at, node in enumerate(graph):
        if needed[at]:
            place[at] = len(rest)
            inputs = tuple(
                tuple((selector, place[link]) for selector, link in links) for links in node.inputs
            )
            rest.append(node._replace(inputs=inputs, results=() if at in dropped else node.results))
    return rest
