"""What a cache holds, to look at (`inlay cache inspect`): its records in an order that can be read."""

from __future__ import annotations

from inlay.cache.imports import find_caches
from inlay.errors import CacheError
from inlay.oci.descriptor import DESCRIPTION
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.cache.imports import Found
    from inlay.request import Option
    from inlay.solver.keys import RecordGraph
    from inlay.sources.places import Places

SOURCE, CONTENT, STEP = "source", "content", "step"


class Record(NamedTuple):
    """One record. `number` counts from 1; `inputs` has for each input the numbers of the records that it may
    be, any of which will do. `layers` are the digests of the result, lowest first; `size` is the highest's.

    `kind` is `step` for what is made of something; of the others `content` is a digest of files that go into
    a step, and `source` an image or what else a Dockerfile begins with. `step` is the instruction, where the
    cache tells it (an image does in its history).
    """

    number: int
    kind: str
    digest: str
    inputs: tuple[tuple[int, ...], ...] = ()
    layers: tuple[str, ...] = ()
    size: int = 0
    created: str = ""
    step: str = ""


class Inspected(NamedTuple):
    """A cache. `form` says how it is kept; `manifest` is the digest of what was looked at, `platform` that of
    an image; `layers` are pairs (digest, size) of all blobs that records have, each once."""

    form: str
    manifest: str
    platform: str
    config_size: int
    layers: tuple[tuple[str, int], ...]
    records: tuple[Record, ...]


def inspect_cache(option: Option, places: Places, *, warn: Callable[[str], None]) -> list[Inspected]:
    """Read everything that `--cache-from` would find; blocks. Raises `InlayError`, `CacheError` where there
    is no cache."""
    found = [inspected(each) for each in find_caches(option, places, warn=warn)]
    if not found:
        name = option.get("ref") or option.get("src")
        raise CacheError(f"{name} is an image without a cache; build it with --cache-to type=inline")
    return found


def inspected(found: Found) -> Inspected:
    layers = {
        str(layer.digest): layer.size
        for node in found.graph
        for chain, _ in node.results
        for layer in chain.descriptors()
    }
    return Inspected(
        found.form,
        str(found.manifest),
        found.platform,
        found.config.size,
        tuple(layers.items()),
        tuple(records_of(found.graph)),
    )


def records_of(graph: RecordGraph) -> list[Record]:
    """The records, each after what it is made of and as near to it as may be."""
    order = _reading_order(graph)
    number = {at: n for n, at in enumerate(order, start=1)}
    kinds = _kinds_of_roots(graph)
    return [_record(graph, at, number, kinds) for at in order]


def _record(graph: RecordGraph, at: int, number: dict[int, int], kinds: dict[int, str]) -> Record:
    node = graph[at]
    inputs = tuple(tuple(sorted(number[link] for _, link in links)) for links in node.inputs)
    record = Record(number[at], STEP if inputs else kinds.get(at, SOURCE), node.digest, inputs)
    if not node.results:
        return record
    chain, created = node.results[0]
    step = chain.descriptor.annotation(DESCRIPTION).removesuffix(" # buildkit")
    layers = tuple(str(layer.digest) for layer in chain.descriptors())
    return record._replace(layers=layers, size=chain.descriptor.size, created=created, step=step)


def _reading_order(graph: RecordGraph) -> list[int]:
    """Depth first from the records that nothing is made of, inputs in their order."""
    needed = {link for node in graph for links in node.inputs for _, link in links}
    order: list[int] = []
    placed: set[int] = set()
    for top in range(len(graph)):
        pending = [(top, False)] if top not in needed else []
        while pending:
            at, ready = pending.pop()
            if ready:
                order.append(at)
            elif at not in placed:
                placed.add(at)
                pending.append((at, True))
                below = dict.fromkeys(link for links in graph[at].inputs for _, link in links)
                pending += [(link, False) for link in reversed(below)]
    return order


def _kinds_of_roots(graph: RecordGraph) -> dict[int, str]:
    """A root that leads somewhere without a selector is content where it stands beside links that have one,
    or where it is not a step's first input: a first input without one is what a file op changes."""
    kinds = {}
    for node in graph:
        for i, links in enumerate(node.inputs):
            for selector, link in links:
                if not graph[link].inputs and not selector and (i > 0 or any(other for other, _ in links)):
                    kinds[link] = CONTENT
    return kinds
