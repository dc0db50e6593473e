"""The cache config, `application/vnd.buildkit.cacheconfig.v0`: a record graph as JSON.

    {"layers": [{"blob", "parent"}], "records": [{"layers": [{"layer", "createdAt"}], "chains":
     [{"layers", "createdAt"}], "digest", "inputs": [[{"selector", "link"}]]}]}

A layer names the one it stands on; a missing parent means the first layer, -1 none. Every order in it is
fixed by sorting, so that equal caches are equal bytes (BuildKit: cache/remotecache/v1).
"""

from __future__ import annotations

from _collections_abc import Mapping

from inlay import json
from inlay.digest import is_digest, text_sha256
from inlay.errors import CacheError
from inlay.golang.timestamp import GO_ZERO, is_time
from inlay.oci.image import MOST_VALUES, count_values
from inlay.solver.keys import Chain, RecordNode
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from inlay.oci.descriptor import Descriptor
    from inlay.solver.keys import RecordGraph

NO_PARENT = -1


class CacheLayer(NamedTuple):
    """A blob on the layer numbered `parent`, or on `NO_PARENT`."""

    blob: str
    parent: int = NO_PARENT


class ConfigRecord(NamedTuple):
    """One record. `results` are (number of the highest layer, created), `chains` (numbers of all layers,
    created) for results that no row of parents gives; `inputs` hold links (selector, record number)."""

    digest: str
    inputs: tuple[tuple[tuple[str, int], ...], ...] = ()
    results: tuple[tuple[int, str], ...] = ()
    chains: tuple[tuple[tuple[int, ...], str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.results:
            fields["layers"] = [{"layer": layer, "createdAt": created} for layer, created in self.results]
        if self.chains:
            fields["chains"] = [{"layers": layers, "createdAt": created} for layers, created in self.chains]
        fields["digest"] = self.digest
        if self.inputs:
            fields["inputs"] = [[_link_json(*link) for link in links] for links in self.inputs]
        return fields


class CacheConfig(NamedTuple):
    """All layers and records of a cache, which name one another by number."""

    layers: tuple[CacheLayer, ...]
    records: tuple[ConfigRecord, ...]

    def to_json(self) -> bytes:
        fields: dict[str, Any] = {}
        if self.layers:
            fields["layers"] = [_layer_json(layer) for layer in self.layers]
        if self.records:
            fields["records"] = [record.to_json() for record in self.records]
        return encode(fields)


def encode(value: object) -> bytes:
    """Write JSON as Go does; digests and times hold nothing that Go would escape."""
    return json.dumps(value).encode()


def _layer_json(layer: CacheLayer) -> dict[str, Any]:
    return {"blob": layer.blob, "parent": layer.parent} if layer.parent else {"blob": layer.blob}


def _link_json(selector: str, record: int) -> dict[str, Any]:
    return {"selector": selector, "link": record} if selector else {"link": record}


# -- from a record graph ---------------------------------------------------------------------------------


def config_of(graph: RecordGraph) -> CacheConfig:
    """Number and sort the layers and records of `graph`, of each record its first result only."""
    return described_config(graph)[0]


def described_config(graph: RecordGraph) -> tuple[CacheConfig, tuple[Descriptor, ...]]:
    """`config_of`, and the descriptor of each of its layers: equal blobs may have been made at other times."""
    layers, numbers, descriptors = _sorted_layers([node.results[0][0] for node in graph if node.results])
    order = _sorted_nodes(graph)
    place = {at: number for number, at in enumerate(order)}
    records = []
    for at in order:
        node = graph[at]
        inputs = (
            sorted(((selector, place[link]) for selector, link in links), key=_by_link)
            for links in node.inputs
        )
        results = tuple((numbers[id(chain)], created) for chain, created in node.results[:1])
        records.append(ConfigRecord(node.digest, tuple(map(tuple, inputs)), results))
    return CacheConfig(layers, tuple(records)), descriptors


def _by_link(link: tuple[str, int]) -> tuple[int, str]:
    return link[1], link[0]


def _sorted_layers(
    chains: Iterable[Chain],
) -> tuple[tuple[CacheLayer, ...], dict[int, int], tuple[Descriptor, ...]]:
    """The layers of `chains`, one for each blob on each stack; by the `id` of each chain its number; and the
    descriptors of the layers."""
    entries: dict[tuple[str, int], int] = {}  # (blob, entry of the parent) -> entry
    parts: list[Chain] = []
    entry_of: dict[int, int] = {}
    for chain in chains:
        parent = NO_PARENT
        for part in _from_known(chain, entry_of):
            if id(part) not in entry_of:
                layer = (str(part.descriptor.digest), parent)
                entry_of[id(part)] = entries.setdefault(layer, len(entries))
                if len(parts) < len(entries):
                    parts.append(part)
            parent = entry_of[id(part)]
    layers = list(entries)
    # Sorted by blob, and equal blobs by what they stand on, in an order in which parents come first.
    rank = {NO_PARENT: NO_PARENT}
    for level in _by_depth([part.depth for part in parts]):
        for entry in sorted(level, key=lambda entry: (layers[entry][0], rank[layers[entry][1]])):
            rank[entry] = len(rank)
    order = sorted(range(len(layers)), key=lambda entry: (layers[entry][0], rank[layers[entry][1]]))
    number = {entry: n for n, entry in enumerate(order)} | {NO_PARENT: NO_PARENT}
    sorted_layers = tuple(CacheLayer(layers[entry][0], number[layers[entry][1]]) for entry in order)
    numbers = {chain: number[entry] for chain, entry in entry_of.items()}
    return sorted_layers, numbers, tuple(parts[entry].descriptor for entry in order)


def _by_depth(depths: list[int]) -> list[list[int]]:
    """The numbers of the entries at each depth, lowest first."""
    levels: list[list[int]] = [[] for _ in range(max(depths, default=0))]
    for entry, depth in enumerate(depths):
        levels[depth - 1].append(entry)
    return levels


def _from_known(chain: Chain, known: Mapping[int, int]) -> list[Chain]:
    """The parts of `chain`, lowest first, from the highest one that is `known` on."""
    parts = [chain]
    while id(parts[-1]) not in known and (parent := parts[-1].parent) is not None:
        parts.append(parent)
    return parts[::-1]


def _sorted_nodes(graph: RecordGraph) -> list[int]:
    """The order in which a config writes `graph`. Where BuildKit leaves a tie to chance, all that the records
    come from decides."""
    names: list[str] = []
    keys = []
    for at, node in enumerate(graph):
        inputs = []
        for links in node.inputs:
            ways = sorted((selector, graph[link].digest, names[link]) for selector, link in links)
            inputs.append((len(ways), [way[:2] for way in ways], [way[2] for way in ways]))
        names.append(_structure(node.digest, inputs))
        keys.append((node.digest, len(inputs), [way[:2] for way in inputs], names[-1], at))
    return [key[-1] for key in sorted(keys)]


def _structure(digest: str, inputs: list[tuple[int, list[tuple[str, str]], list[str]]]) -> str:

    return text_sha256(repr((digest, inputs)).encode()).hexdigest()


# -- from JSON -------------------------------------------------------------------------------------------


def parse_config(raw: bytes) -> CacheConfig:
    """Read a cache config that anybody may have written. Raises `CacheError` where it is not one."""
    value = _decode(raw)
    if not isinstance(value, dict):
        raise CacheError("the cache config is not a JSON object")
    values = _list(value.get("layers"), "layers")
    layers = tuple([_parse_layer(layer, len(values)) for layer in values])
    return CacheConfig(layers, _parse_records(value.get("records"), len(layers)))


def parse_records(raw: bytes, layers: Sequence[str]) -> CacheConfig:
    """Read an inline cache: records alone, whose layers are the blobs `layers` of the image, lowest first."""
    table = tuple([CacheLayer(blob, n - 1) for n, blob in enumerate(layers)])
    return CacheConfig(table, _parse_records(_decode(raw), len(table)))


def _decode(raw: bytes) -> object:
    if count_values(raw) > MOST_VALUES:
        raise CacheError(f"the cache config has more than {MOST_VALUES:,} JSON values")
    try:
        return json.loads(raw)
    except ValueError as error:
        raise CacheError(f"the cache config is not JSON: {error}") from error


def _parse_layer(value: object, layers: int) -> CacheLayer:
    if not isinstance(value, dict):
        raise _no_object(value, "layer")
    blob, parent = value.get("blob"), value.get("parent") or 0
    if type(parent) is not int or not NO_PARENT <= parent < layers:
        raise CacheError(f"a layer of the cache config stands on layer {parent!r:.60}, which does not exist")
    return CacheLayer(_digest(blob), parent)


def _parse_records(value: object, layers: int) -> tuple[ConfigRecord, ...]:
    values = _list(value, "records")
    parse = _RecordParser(layers, len(values)).record
    return tuple([parse(record) for record in values])


class _RecordParser:
    """Checks records that may name the first `layers` layers and the first `records` records."""

    __slots__ = ("_layers", "_records", "_selectors")

    def __init__(self, layers: int, records: int) -> None:
        self._layers = layers
        self._records = records
        self._selectors = {"": ""}
        """Those met so far, which are few: each is checked, and kept, once."""

    def record(self, value: object) -> ConfigRecord:
        if not isinstance(value, dict):
            raise _no_object(value, "record")
        digest = _digest(value.get("digest"))
        inputs, results = value.get("inputs"), value.get("layers")
        return ConfigRecord(
            digest,
            tuple([self._input(links) for links in _list(inputs, "inputs")]) if inputs else (),
            tuple([self._result(result) for result in _list(results, "layers")]) if results else (),
            tuple([self._chain(chain) for chain in _list(value["chains"], "chains")])
            if "chains" in value
            else (),
        )

    def _input(self, links: object) -> tuple[tuple[str, int], ...]:
        if not links:
            raise CacheError("a record of the cache has an input that nothing leads to")
        parsed = []
        for link in _list(links, "inputs"):
            if not isinstance(link, dict):
                raise _no_object(link, "link")
            number, selector = link.get("link"), link.get("selector") or ""
            if type(number) is not int or not 0 <= number < self._records:
                raise _no_number(number, "link")
            known = self._selectors.get(selector) if isinstance(selector, str) else None
            if known is None:
                known = self._selectors[selector] = _digest(selector)
            parsed.append((known, number))
        return tuple(parsed)

    def _result(self, value: object) -> tuple[int, str]:
        if not isinstance(value, dict):
            raise _no_object(value, "result")
        number = value.get("layer")
        if type(number) is not int or not 0 <= number < self._layers:
            raise _no_number(number, "layer")
        return number, _time(value.get("createdAt"))

    def _chain(self, value: object) -> tuple[tuple[int, ...], str]:
        if not isinstance(value, dict):
            raise _no_object(value, "chain")
        numbers: list[int] = []
        for number in _list(value.get("layers"), "layers"):
            if type(number) is not int or not 0 <= number < self._layers:
                raise _no_number(number, "layer")
            numbers.append(number)
        return tuple(numbers), _time(value.get("createdAt"))


def _list(value: object, what: str) -> list[object]:
    if value is not None and not isinstance(value, list):
        raise CacheError(f"the {what} of a cache are not a list but {value!r:.60}")
    return value or []


def _digest(value: object) -> str:
    if isinstance(value, str) and is_digest(value):
        return value
    raise CacheError(f"a cache names something by {value!r:.60}, which is not a digest")


def _time(value: object) -> str:
    if value is None:
        return GO_ZERO
    if isinstance(value, str) and is_time(value):
        return value
    raise CacheError(f"a result in the cache has the time {value!r:.60}, which is none")


def _no_object(value: object, what: str) -> CacheError:
    return CacheError(f"a {what} of the cache is not a JSON object but {value!r:.60}")


def _no_number(value: object, what: str) -> CacheError:
    return CacheError(f"a {what} number of the cache, {value!r:.60}, is none of those that exist")


# -- to a record graph -----------------------------------------------------------------------------------


def graph_of(
    config: CacheConfig, blobs: Mapping[str, Descriptor] | Sequence[Descriptor], provider: object
) -> RecordGraph:
    """Resolve the numbers in `config`. `blobs` are by digest, or one for each layer of `config`: then equal
    blobs keep the times that each of them has.

    A result with a layer that is not in `blobs` is left out; its record stays. `provider` is where the
    blobs are. Raises `CacheError` where records or layers lead back to themselves.
    """
    order = _earlier_first(
        [[link for links in record.inputs for _, link in links] for record in config.records]
    )
    place = [0] * len(order)
    for at, number in enumerate(order):
        place[number] = at
    chains = _Chains(config.layers, blobs, provider)
    standing, listed = chains.standing, chains.listed
    graph = []
    for number in order:
        digest, inputs, results, lists = config.records[number]
        if inputs:
            inputs = tuple([tuple([(way, place[link]) for way, link in links]) for links in inputs])
        found = [(chain, created) for layer, created in results if (chain := standing[layer])]
        found += [(chain, created) for layers, created in lists if (chain := listed(layers))]
        graph.append(RecordNode(digest, inputs, tuple(found)))
    return graph


def _earlier_first(needs: Sequence[Sequence[int]]) -> list[int]:
    """Order numbers so that each comes after those it `needs`; raise `CacheError` where that cannot be."""
    needed_by: list[list[int]] = [[] for _ in needs]
    left = [len(numbers) for numbers in needs]
    for number, numbers in enumerate(needs):
        for below in numbers:
            needed_by[below].append(number)
    order = [number for number, count in enumerate(left) if not count]
    for number in order:  # grows while it is walked
        for above in needed_by[number]:
            left[above] -= 1
            if not left[above]:
                order.append(above)
    if len(order) < len(needs):
        raise CacheError("records or layers of the cache lead back to themselves")
    return order


class _Chains:
    """The chains of a config's layers; they share what they have in common."""

    def __init__(
        self,
        layers: Sequence[CacheLayer],
        blobs: Mapping[str, Descriptor] | Sequence[Descriptor],
        provider: object,
    ) -> None:
        self._descriptors: list[Descriptor | None] = (
            [blobs.get(layer.blob) for layer in layers] if isinstance(blobs, Mapping) else list(blobs)
        )
        self._provider = provider
        self._made: dict[tuple[int, str], Chain] = {}
        self.standing: list[Chain | None] = [None] * len(layers)
        """For each layer the chain up to it by its parents; None where a blob is missing."""
        for number in _earlier_first([[] if layer.parent < 0 else [layer.parent] for layer in layers]):
            parent = layers[number].parent
            below = None if parent < 0 else self.standing[parent]
            if parent < 0 or below is not None:
                self.standing[number] = self._stacked(self._descriptors[number], below)

    def listed(self, layers: Sequence[int]) -> Chain | None:
        """The chain of `layers`, lowest first; None where a blob is missing."""
        chain = None
        for number in layers:
            chain = self._stacked(self._descriptors[number], chain)
            if chain is None:
                return None
        return chain

    def _stacked(self, descriptor: Descriptor | None, below: Chain | None) -> Chain | None:
        if descriptor is None:
            return None
        name = (id(below), descriptor.digest)
        if name not in self._made:
            self._made[name] = Chain(descriptor, below, self._provider)
        return self._made[name]
