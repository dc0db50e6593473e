"""The inline cache: records in an image's own config, whose results are the image's own layers.

`moby.buildkit.cache.v0` holds, in base64, the records of a cache config. Layer numbers in it are
positions in the image's list of layers: `{"layer": k}` means layers 0 to k; `chains` lists the positions
of a result that is no such row (BuildKit: cache/remotecache/inline/inline.go).
"""

from __future__ import annotations

import binascii

from inlay.cache.config import NO_PARENT, config_of, encode, graph_of, parse_records
from inlay.errors import CacheError
from inlay.golang.timestamp import GO_ZERO, parse_ns
from inlay.oci.descriptor import CREATED_AT, DESCRIPTION, UNCOMPRESSED
from inlay.oci.image import INLINE_CACHE, INLINE_CACHE_PROPOSED
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inlay.cache.config import CacheConfig, ConfigRecord
    from inlay.oci.descriptor import Descriptor
    from inlay.oci.image import ImageConfig
    from inlay.solver.keys import Chain, RecordGraph


def inline_cache(graph: RecordGraph, layers: Sequence[str]) -> str | None:
    """What to write as `INLINE_CACHE` into the config of an image of the blobs `layers`, lowest first.

    Results with other blobs than the image's are left out, their records are not. None when no result is
    left: then the config has no such field.
    """
    positions = _positions(graph, layers)
    within: dict[int, bool] = {}
    """Whether all layers of a chain are the image's, by its `id`."""

    def is_within(chain: Chain) -> bool:
        for part in chain.parts_above(within):
            below = part.parent is None or within[id(part.parent)]
            within[id(part)] = below and part.descriptor.digest in positions
        return within[id(chain)]

    config = config_of(
        [
            node._replace(results=tuple(result for result in node.results if is_within(result[0])))
            for node in graph
        ]
    )
    if not config.layers:
        return None
    rows = _Rows(config, positions)
    records = [_placed(record, config, rows, positions).to_json() for record in config.records]
    return binascii.b2a_base64(encode(records), newline=False).decode()


def _positions(graph: RecordGraph, layers: Sequence[str]) -> dict[str, list[int]]:
    """Where in the image the blobs of `graph` are; a blob of an uncompressed image has the digest that is the
    layer's diff id."""
    found: dict[str, list[int]] = {}
    where: dict[str, list[int]] = {}
    for position, blob in enumerate(layers):
        where.setdefault(blob, []).append(position)
    seen: set[int] = set()
    for chain in [chain for node in graph for chain, _ in node.results]:
        for part in chain.parts_above(seen):
            seen.add(id(part))
            layer = part.descriptor
            at = where.get(layer.digest, []) + where.get(layer.annotation(UNCOMPRESSED), [])
            if at and layer.digest not in found:
                found[str(layer.digest)] = sorted(set(at))
    return found


class _Rows:
    """Which of a config's layers end a row of the image's own lowest ones."""

    def __init__(self, config: CacheConfig, positions: Mapping[str, list[int]]) -> None:
        self._layers = config.layers
        self._positions = {blob: set(places) for blob, places in positions.items()}
        self._heights = {NO_PARENT: 0}

    def height(self, layer: int) -> int:
        """How many layers of the image the row up to `layer` is; -1 where it is none."""
        above = []
        while layer not in self._heights:
            above.append(layer)
            layer = self._layers[layer].parent
        height = self._heights[layer]
        for layer in reversed(above):
            fits = height >= 0 and height in self._positions[self._layers[layer].blob]
            height = self._heights[layer] = height + 1 if fits else -1
        return height


def _placed(
    record: ConfigRecord, config: CacheConfig, rows: _Rows, positions: Mapping[str, list[int]]
) -> ConfigRecord:
    results, chains = [], []
    for layer, created in record.results:
        height = rows.height(layer)
        if height >= 0:
            results.append((height - 1, created))
        else:
            chains.append((tuple(positions[blob][-1] for blob in _blobs(layer, config)), GO_ZERO))
    return record._replace(results=tuple(results), chains=tuple(chains))


def _blobs(layer: int, config: CacheConfig) -> list[str]:
    blobs = []
    while layer != NO_PARENT:
        blobs.append(config.layers[layer].blob)
        layer = config.layers[layer].parent
    return blobs[::-1]


def _field(config: ImageConfig) -> bytes | None:
    field = config.fields.get(INLINE_CACHE) or config.fields.get(INLINE_CACHE_PROPOSED)
    if field is None:
        return None
    if not isinstance(field, str):
        raise CacheError(f"the inline cache of the image is not base64 but {field!r:.60}")
    try:
        return binascii.a2b_base64(field.replace("\r", "").replace("\n", ""), strict_mode=True)
    except ValueError as error:
        raise CacheError(f"the inline cache of the image is not base64: {error}") from error


def import_inline(
    config: ImageConfig,
    layers: Sequence[Descriptor],
    provider: object,
    *,
    warn: Callable[[str], None],
    admit: Callable[[bytes], object] = len,
) -> RecordGraph | None:
    """The record graph in `config` of an image with `layers`; None where it carries none.

    `provider` is where the image's blobs are; `admit` is given the records before they are decoded, and may refuse
    them. Raises `CacheError` where the records are not well-formed.
    """
    raw = _field(config)
    if raw is None or not layers:
        return None
    if len(config.diff_ids) != len(layers):
        warn("an inline cache is not used: its image's config and manifest have not as many layers")
        return None
    admit(raw)
    parsed = parse_records(raw, [str(layer.digest) for layer in layers])
    # BuildKit gives equal blobs the times of the last one, and its image changes; here each keeps its own.
    return graph_of(parsed, _annotated(config, layers), provider)


def _annotated(config: ImageConfig, layers: Sequence[Descriptor]) -> list[Descriptor]:
    """`layers` with what the image's history says of them; one that is too short says nothing of the rest."""
    annotated = []
    history = config.layer_history
    for n, (layer, diff_id) in enumerate(zip(layers, config.diff_ids, strict=True)):
        entry = history[n] if n < len(history) else {}
        notes = {UNCOMPRESSED: str(diff_id)}
        created, description = entry.get("created"), entry.get("created_by")
        if isinstance(created, str) and parse_ns(created) is not None:
            notes[CREATED_AT] = created
        if isinstance(description, str) and description:
            notes[DESCRIPTION] = description
        annotated.append(layer.annotated(notes))
    return annotated
