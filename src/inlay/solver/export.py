"""The export walk: the records of one solve, as a graph that a cache can carry to another machine.

From the targets down, along the graph that was built and not along everything that the index knows: a
record has the links that its edge's inputs have now, and content links. What older builds linked to the
same key is left out (BuildKit adds it, without results: solver/exporter.go, addBacklinks).
"""

from __future__ import annotations

from _heapq import heappop, heappush

from inlay.solver.keys import RecordNode, is_random, output_key, unguarded
from inlay.solver.vertex import inputs_first
from inlay.typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.solver.keys import CacheRecord, KeyId, Link, RecordGraph
    from inlay.solver.solver import Solver
    from inlay.solver.vertex import Edge

R = TypeVar("R")

_Inputs = list[dict[tuple[str, str], None]]
"""For each input the links (selector, source) found so far; a root has none."""


class Export(NamedTuple):
    """`graph` is still without results; `records` holds, for each of its nodes, the record that has the
    result; `targets` are the positions of the targets' nodes."""

    graph: RecordGraph
    records: list[CacheRecord | None]
    targets: list[int]


def export(solver: Solver[R], targets: Sequence[Edge[R]]) -> Export:
    """Collect what `solver` found and made for `targets`, which it has solved.

    Keys that mean something in this solve only are left out, and so is what is known through those alone; but not
    what that is made from besides.
    """
    nodes: dict[KeyId, tuple[str, _Inputs]] = {}
    wanted = {key for edge in targets for key in solver.keys_of(edge)}
    for edge in inputs_first(targets):
        keys = solver.keys_of(edge)
        for key in sorted(keys):
            if not is_random(key):
                _visit(solver, edge, key, nodes)
        if keys and all(map(is_random, keys)):
            wanted |= _sources(solver, edge, nodes)
    order = _earlier_first(nodes)
    place = {key: at for at, key in enumerate(order)}
    for key in order:
        for ways in nodes[key][1]:
            for way in [way for way in ways if place[way[1]] > place[key]]:
                del ways[way]
    reached = _reached(nodes, [key for key in wanted if key in nodes])
    return _number(solver, nodes, [key for key in order if key in reached], targets)


def _number(
    solver: Solver[R],
    nodes: dict[KeyId, tuple[str, _Inputs]],
    order: list[KeyId],
    targets: Sequence[Edge[R]],
) -> Export:
    """Make the graph. Keys that are told apart here alone, by guards or by where they come from, are one node."""
    place: dict[KeyId, int] = {}
    known: dict[object, int] = {}
    graph: RecordGraph = []
    named: list[list[KeyId]] = []
    for key in order:
        digest, inputs = nodes[key]
        links = [tuple({(selector, place[source]): None for selector, source in ways}) for ways in inputs]
        at = place[key] = known.setdefault((digest, *map(frozenset, links)), len(graph))
        if at == len(graph):
            graph.append(RecordNode(digest, tuple(links)))
            named.append([])
        named[at].append(key)
    records = _records(solver, graph, named, targets)
    wanted = (key for edge in targets for key in sorted(solver.keys_of(edge)) if key in nodes)
    return Export(graph, records, list(dict.fromkeys(place[key] for key in wanted)))


def _records(
    solver: Solver[R], graph: RecordGraph, named: list[list[KeyId]], targets: Sequence[Edge[R]]
) -> list[CacheRecord | None]:
    """The record of each node, by the keys that it is `named`: this solve's own, else the newest. None of a node
    whose keys are those of different steps, as whoever imports it could not tell their results apart."""
    edges: list[frozenset[KeyId]] = []
    if len(graph) < sum(map(len, named)):
        edges = [solver.keys_of(edge) for edge in inputs_first(targets)]
    records: list[CacheRecord | None] = []
    for node, keys in zip(graph, named, strict=True):
        one_step = len(keys) == 1 or any(each.issuperset(keys) for each in edges)
        found = solver.records(keys) if node.inputs and one_step else []
        records.append(found[0] if found else None)
    return records


def _reached(nodes: dict[KeyId, tuple[str, _Inputs]], targets: list[KeyId]) -> set[KeyId]:
    """`targets` and the keys they come from."""
    reached, todo = set(targets), list(targets)
    while todo:
        for ways in nodes[todo.pop()][1]:
            for _, source in ways:
                if source not in reached:
                    reached.add(source)
                    todo.append(source)
    return reached


def _visit(solver: Solver[R], edge: Edge[R], key: KeyId, nodes: dict[KeyId, tuple[str, _Inputs]]) -> None:
    """Add to `nodes` what leads to `key` of `edge`; the nodes of its inputs are there already."""
    vertex, cache_map = edge.vertex, solver.cache_map_of(edge.vertex)
    if not vertex.inputs:
        nodes[key] = (key, [])
        return
    step = output_key(cache_map.digests[0], edge.output)
    inputs: _Inputs = [{} for _ in vertex.inputs]
    keys = [solver.keys_of(below) for below in vertex.inputs]
    for link in solver.index.links_to(key):
        if link.digest != step or link.input >= len(inputs):
            continue
        selector = cache_map.inputs[link.input].selector
        if _is_content(link, selector) or link.source == solver.content_of(vertex, link.input):
            source = unguarded(link.source)
            nodes.setdefault(source, (source, []))
            inputs[link.input][link.selector, source] = None
        elif link.selector == selector and link.source in keys[link.input] and link.source in nodes:
            inputs[link.input][link.selector, link.source] = None
    if key in nodes:
        for known, more in zip(nodes[key][1], inputs, strict=True):
            known.update(more)
    elif all(inputs):
        nodes[key] = (step, inputs)


def _sources(solver: Solver[R], edge: Edge[R], nodes: dict[KeyId, tuple[str, _Inputs]]) -> set[KeyId]:
    """The keys by which the inputs of a step are known; in `nodes` is then what they contain, too."""
    keys: set[KeyId] = set()
    for position, below in enumerate(edge.vertex.inputs):
        keys |= solver.keys_of(below)
        content = solver.content_of(edge.vertex, position)
        if content is not None:
            source = unguarded(content)
            nodes.setdefault(source, (source, []))
            keys.add(source)
    return keys


def _is_content(link: Link, selector: str) -> bool:
    """Whether `link` is from what an input contains: it has no selector, where BuildKit's ops have one for
    every input whose content counts."""
    return not link.selector and bool(selector)


def _earlier_first(nodes: dict[KeyId, tuple[str, _Inputs]]) -> list[KeyId]:
    """Order the keys so that links lead to earlier ones.

    A step that leaves its input as it is may lead to its own input's key, in a loop. A loop is entered at
    the key that was visited first: keys visited before it lead to it, whatever links it got since.
    """
    visited = {key: at for at, key in enumerate(nodes)}
    names = list(nodes)
    awaited = [{visited[source] for ways in inputs for _, source in ways} for _, inputs in nodes.values()]
    leads_to: list[list[int]] = [[] for _ in names]
    for at, sources in enumerate(awaited):
        for source in sources:
            leads_to[source].append(at)
    ready = [at for at, sources in enumerate(awaited) if not sources]  # ascending, so a heap already
    unplaced = dict.fromkeys(range(len(names)))
    order: list[KeyId] = []
    while unplaced:
        at = heappop(ready) if ready else next(iter(unplaced))
        if at not in unplaced:
            continue
        del unplaced[at]
        order.append(names[at])
        for above in leads_to[at]:
            awaited[above].discard(at)
            if not awaited[above]:
                heappush(ready, above)
    return order
