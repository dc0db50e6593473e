"""The cache index: what is known of keys and results, here and in imported caches.

Everything that this process learns (imports, and what it ran itself) is held in memory; what was run or
used is also in the `Database`. A query looks at both, so an import needs nothing written to be found.
"""

from __future__ import annotations

import sys
from itertools import islice

from inlay.golang.timestamp import parse_ns
from inlay.solver.keys import RANDOM, CacheRecord, Link, derived_key, is_random
from inlay.typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from inlay.solver.keys import Chain, KeyId, RecordGraph


NONE: frozenset[str] = frozenset()

UNREACHABLE = "random:unreachable"
"""The key of an imported record that no link leads to."""

MANY = 64
"""So many targets of one input are not looked at one by one if it can be helped."""


class Relations(Protocol):
    """The two relations, wherever they are."""

    def targets(self, link: Link, limit: int = -1) -> Collection[KeyId]:
        """The keys that `link` leads to, each once; no more than `limit` need be given."""

    def leads(self, link: Link, key: KeyId) -> bool:
        """Whether `link` leads to `key`."""

    def links_to(self, key: KeyId) -> Sequence[Link]: ...
    def links_from(self, key: KeyId) -> Iterable[tuple[Link, KeyId]]:
        """All links from `key`, each with a key that it leads to. Not for hot paths; nor is `targets_of`."""

    def targets_of(self, digest: str) -> Iterable[KeyId]:
        """The keys that any link with this digest leads to."""

    def records(self, key: KeyId) -> Sequence[CacheRecord]:
        """The records of `key`, the last added first."""

    def add(self, links: Iterable[tuple[Link, KeyId]], records: Iterable[CacheRecord] = ()) -> None: ...
    def drop_links(self, links: Iterable[tuple[Link, KeyId]]) -> None: ...
    def drop_record(self, record: CacheRecord) -> None: ...


class Memory:
    """The relations in dictionaries, for as long as the process lives.

    Most links lead to one key, most keys have one link and one record: those are held as they are, and in a
    collection of their own only where there are more.
    """

    __slots__ = ("_links", "_records", "_sources")

    def __init__(self) -> None:
        self._links: dict[Link, KeyId | set[KeyId]] = {}
        self._sources: dict[KeyId, Link | dict[Link, None]] = {}
        self._records: dict[KeyId, CacheRecord | dict[str, CacheRecord]] = {}

    def targets(self, link: Link, limit: int = -1) -> Collection[KeyId]:
        found = self._links.get(link)
        if found is None:
            return NONE
        return found if isinstance(found, set) else (found,)

    def leads(self, link: Link, key: KeyId) -> bool:
        return key in self.targets(link)

    def links_to(self, key: KeyId) -> list[Link]:
        found = self._sources.get(key)
        if found is None:
            return []
        return list(found) if isinstance(found, dict) else [found]

    def links_from(self, key: KeyId) -> Iterable[tuple[Link, KeyId]]:
        return ((link, target) for link, target in self.pairs() if link.source == key)

    def pairs(self) -> Iterable[tuple[Link, KeyId]]:
        """All links, each with each key that it leads to."""
        return ((link, target) for link in self._links for target in self.targets(link))

    def targets_of(self, digest: str) -> Iterable[KeyId]:
        return (target for link, target in self.pairs() if link.digest == digest)

    def records(self, key: KeyId) -> list[CacheRecord]:
        found = self._records.get(key)
        if found is None:
            return []
        return list(found.values())[::-1] if isinstance(found, dict) else [found]

    def add(self, links: Iterable[tuple[Link, KeyId]], records: Iterable[CacheRecord] = ()) -> None:
        for link, target in links:
            self.add_link(link, target)
        for record in records:
            self.add_record(record)

    def add_link(self, link: Link, target: KeyId) -> None:
        targets = self._links.setdefault(link, target)
        if isinstance(targets, set):
            targets.add(target)
        elif targets != target:
            self._links[link] = {targets, target}
        sources = self._sources.setdefault(target, link)
        if isinstance(sources, dict):
            sources[link] = None
        elif sources != link:
            self._sources[target] = {sources: None, link: None}

    def add_record(self, record: CacheRecord) -> None:
        known = self._records.setdefault(record.key, record)
        if isinstance(known, dict):
            known.pop(record.id, None)
            known[record.id] = record
        elif known.id == record.id:
            self._records[record.key] = record
        else:
            self._records[record.key] = {known.id: known, record.id: record}

    def drop_links(self, links: Iterable[tuple[Link, KeyId]]) -> None:
        for link, target in links:
            targets = self._links.get(link)
            if isinstance(targets, set):
                targets.discard(target)
            elif targets == target:
                del self._links[link]
            sources = self._sources.get(target)
            if isinstance(sources, dict):
                sources.pop(link, None)
            elif sources == link:
                del self._sources[target]

    def drop_record(self, record: CacheRecord) -> None:
        known = self._records.get(record.key)
        if isinstance(known, dict):
            known.pop(record.id, None)
        elif known is not None and known.id == record.id:
            del self._records[record.key]


class CacheIndex:
    """Keys by the links that lead to them, and records by key, from `local` and from imports."""

    def __init__(self, local: Relations | None = None) -> None:
        self._memory = Memory()
        self._local: Relations = local if local is not None else Memory()
        self._places = (self._memory, self._local)
        self._imports = 0
        self._by_content: dict[KeyId, list[tuple[Link, KeyId]]] | None = None
        """Imported links without a selector, by their source; None until it is asked for."""

    # -- questions -------------------------------------------------------------------------------------------

    def targets(self, links: Iterable[Link]) -> frozenset[KeyId]:
        """Keys that any of `links` leads to. Links from random keys lead nowhere, and cost nothing."""
        return _targets(self._places, links)

    def leads_anywhere(self, links: Iterable[Link]) -> bool:
        for link in links:
            if not link.source.startswith(RANDOM):
                for place in self._places:
                    if place.targets(link, 1):
                        return True
        return False

    def common(self, ways: Sequence[Iterable[Link]]) -> frozenset[KeyId]:
        """Keys that can be reached through every input: `ways` holds for each the links that it may be by."""
        return _common(self._places, ways)

    def links_to(self, key: KeyId) -> list[Link]:
        """All links that lead to `key`, each once."""
        return list(dict.fromkeys((*self._memory.links_to(key), *self._local.links_to(key))))

    def links_from(self, key: KeyId) -> list[tuple[Link, KeyId]]:
        """All links from `key`, each with a key that it leads to."""
        return [pair for place in self._places for pair in place.links_from(key)]

    def targets_of(self, digest: str) -> frozenset[KeyId]:
        """The keys that a step, `digest`, has on whatever it was made on."""
        return frozenset(target for place in self._places for target in place.targets_of(digest))

    def records(self, keys: Iterable[KeyId]) -> list[CacheRecord]:
        """The records filed under any of `keys`, newest first; of equal age those at hand before others.

        Of local ones the last is the newest, though a build may give all that it makes a time of long ago.
        """
        found: dict[tuple[KeyId, str], CacheRecord] = {}
        local: list[Sequence[CacheRecord]] = []
        for key in keys:
            local.append(self._local.records(key))
            for record in (*self._memory.records(key), *local[-1]):
                found.setdefault((key, record.id), record)
        if len(found) < 2:
            return list(found.values())
        ages = {name: _age(record) for name, record in found.items()}
        for records in local:
            latest = -1
            for record in reversed(records):
                name = record.key, record.id
                latest = ages[name] = max(latest, ages[name])
        return sorted(found.values(), key=lambda each: (-ages[each.key, each.id], each.remote is not None))

    def identify(self, digest: str, deciding: Sequence[Sequence[tuple[KeyId, str]]]) -> KeyId:
        """Name the key that `deciding` (for each input, links (source, selector)) leads to: known or new.

        `deciding` holds the content key of an input where it is known, else the input's own keys: a step that
        ran on new content gets a new key, even where an input's definition is that of an older run. Two
        processes, and an import, come to the same name.
        """
        return _identify(digest, deciding, self._places)

    # -- changes ---------------------------------------------------------------------------------------------

    def add(self, key: KeyId, links: Iterable[Link], *records: CacheRecord) -> None:
        """Add links that lead to `key`, and records under it. A random key is not kept: nothing finds it."""
        if is_random(key):
            return
        pairs = [(link, key) for link in links if not is_random(link.source)]
        self._memory.add(pairs, records)
        self._local.add(pairs, records)

    def agree(self, definitions: Iterable[Link], content: Link) -> frozenset[KeyId]:
        """Make `definitions` lead where `content`, which they are now known to contain, leads; return that.

        What a definition led to while its result had other content was true then only.
        """
        right = self.targets([content])
        missing, wrong = [], []
        for link in definitions:
            if is_random(link.source):
                continue
            now = self.targets([link])
            missing += [(link, key) for key in right - now if key != link.source]
            wrong += [(link, key) for key in now - right]
        for place in self._places:
            place.add(missing)
            place.drop_links(wrong)
        return right

    def forget(self, record: CacheRecord) -> None:
        """Drop a record whose result has vanished. Its key stays: what was made from it may be there yet."""
        self._memory.drop_record(record)
        self._local.drop_record(record)

    # -- imports ---------------------------------------------------------------------------------------------

    def ingest(self, graph: RecordGraph) -> list[KeyId]:
        """Make an imported cache part of every question, until the process ends; return its nodes' keys."""
        keys: list[KeyId] = []
        self._by_content = None
        memory = self._memory
        for digest, inputs, results in graph:
            if not inputs:
                keys.append(UNREACHABLE if is_random(digest) else digest)
                continue
            ways = [
                [Link(keys[at], i, digest, selector) for selector, at in links if keys[at] is not UNREACHABLE]
                for i, links in enumerate(inputs)
            ]
            if not all(ways):
                keys.append(UNREACHABLE)  # it hangs on something that means nothing here
                continue
            key = _imported_key(digest, ways, memory)
            keys.append(key)
            for way in ways:
                for link in way:
                    memory.add_link(link, key)
            for chain, created in results:
                self._imports += 1
                memory.add_record(CacheRecord(f"import:{self._imports}", key, created, chain))
        return keys

    def trust_imports(self, plain: KeyId, i: int, key: KeyId) -> None:
        """Let `key` lead, from input `i`, where imports say that `plain` does: they tell no more of it.

        `plain` is the content of steps that have guards, so what else is in memory does not know it.
        """
        if self._by_content is None:
            self._by_content = {}
            for link, target in self._memory.pairs():
                if not link.selector:
                    self._by_content.setdefault(link.source, []).append((link, target))
        self._memory.add(
            (link._replace(source=key), target)
            for link, target in self._by_content.get(plain, ())
            if link.input == i
        )

    def adopt(self, key: KeyId, records: Iterable[tuple[CacheRecord, str]]) -> None:
        """Keep for later builds what imports say of `key`: each of `records`, with the id that it now has in
        the result store, and all links from the roots on."""
        keys = self.passed_through(key)
        links = [(link, target) for target in keys for link in self._memory.links_to(target)]
        self._local.add(
            links, [CacheRecord(result, record.key, record.created) for record, result in records]
        )

    def passed_through(self, key: KeyId) -> list[KeyId]:
        """`key` and all keys from which imported links lead to it."""
        seen = {key: None}
        todo = [key]
        while todo:
            for link in self._memory.links_to(todo.pop()):
                if link.source not in seen:
                    seen[link.source] = None
                    todo.append(link.source)
        return list(seen)

    def imported(self, keys: Iterable[KeyId], top: Chain) -> list[CacheRecord]:
        """Imported records under `keys` whose layers are all among those of the chain `top`: its lower parts,
        and what was made on its own and put on others."""
        blobs = {descriptor.digest for descriptor in top.descriptors()}
        has_all: dict[int, bool] = {}

        def within(remote: Chain) -> bool:
            for part in remote.parts_above(has_all):
                below = part.parent is None or has_all[id(part.parent)]
                has_all[id(part)] = below and part.descriptor.digest in blobs
            return has_all[id(remote)]

        return [
            record
            for key in keys
            for record in self._memory.records(key)
            if record.remote is not None and within(record.remote)
        ]


def _imported_key(digest: str, ways: Sequence[Sequence[Link]], memory: Memory) -> KeyId:
    """The key that `ways` lead to. What is on disk need not be asked: where its keys have other names, the links
    meet all the same."""
    if len(ways) == 1 and len(ways[0]) == 1:
        (link,) = ways[0]
        found = memory.targets(link)
        if 0 < len(found) < MANY:
            return min(found)
        return derived_key(digest, [[(link.source, link.selector)]])
    # A link from a content key has no selector, and says exactly what went in; one from a definition key only says
    # what did so some day. Where there is no content key all links are of one standing.
    deciding = [[link for link in way if not link.selector] or way for way in ways]
    if common := _common((memory,), deciding, most=MANY):
        return min(common)
    firsts = [way[0] if len(way) == 1 else min(way) for way in deciding]
    return derived_key(digest, [[(link.source, link.selector)] for link in firsts])


def _age(record: CacheRecord) -> int:
    """When a record was made; -1 where that cannot be read."""
    created = parse_ns(record.created)
    return created if created is not None else -1


def _identify(
    digest: str, deciding: Sequence[Sequence[tuple[KeyId, str]]], places: Sequence[Relations]
) -> KeyId:
    if not deciding:
        return digest
    ways = [
        [Link(source, i, digest, selector) for source, selector in links] for i, links in enumerate(deciding)
    ]
    # Where every input leads to very many, the name that everybody would derive is as good as a known one.
    found = _common(places, ways, most=MANY)
    return min(found) if found else derived_key(digest, deciding)


def _common(
    places: Sequence[Relations], ways: Sequence[Iterable[Link]], most: int = sys.maxsize
) -> frozenset[KeyId]:
    """An input that leads to very many keys (the base image of a COPY that was built a thousand times) is
    not searched through, but asked whether it leads to those that the other inputs have in common.

    None are found where each input leads to `most` keys or more.
    """
    found: frozenset[KeyId] | None = None
    broad: list[Iterable[Link]] = []
    many = MANY
    while found is None:
        if many > most:
            return NONE
        broad = []
        for links in ways:
            some = _targets(places, links, many)
            if len(some) >= many:
                broad.append(links)
            else:
                found = some if found is None else found & some
                if not found:
                    return NONE
        many *= 16
    return frozenset(
        key
        for key in found
        if all(any(place.leads(link, key) for link in links for place in places) for links in broad)
    )


def _targets(places: Sequence[Relations], links: Iterable[Link], limit: int = -1) -> frozenset[KeyId]:
    """The keys that `links` lead to; where there are more than `limit`, at least that many of them."""
    found: Collection[KeyId] = NONE
    union: set[KeyId] | None = None
    for link in links:
        if link.source.startswith(RANDOM):
            continue
        for place in places:
            keys = place.targets(link, limit)
            if 0 <= limit < len(keys):
                keys = tuple(islice(keys, limit))
            if not found:
                found = keys
            elif keys:
                if union is None:
                    found = union = set(found)
                union.update(keys)
    return frozenset(found)
