"""Check recorded cache exports of BuildKit: from keys alone the same records, in the same bytes.

A case is a folder with `keys.json` (what each vertex is keyed by), `llb.json` (which vertices were asked
for) and `cacheconfig.json` (what BuildKit exported for them). It is checked in two directions:

* cold: every step runs, the export walk gives the records, and the recorded results are hung on them;
* warm: the recorded cache is imported, nothing runs, and what is exported again is the same.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
from typing import TYPE_CHECKING, Any

from inlay import tasks
from inlay.cache.config import graph_of, parse_config
from inlay.cache.inline import import_inline, inline_cache
from inlay.cache.manifest import cache_manifest
from inlay.digest import Digest
from inlay.oci.descriptor import Descriptor
from inlay.oci.image import INLINE_CACHE, ImageConfig
from inlay.solver.export import export
from inlay.solver.index import CacheIndex
from inlay.solver.keys import CacheInput, CacheMap
from inlay.solver.solver import Solver
from inlay.solver.vertex import Edge
from vectors import cache_keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from inlay.solver.keys import CacheRecord, RecordGraph
    from vectors import Pair

Case = dict[str, Any]
"""`targets`: (vertex, output) of each platform; `vertices`: what they are keyed by, inputs first;
`exports`: (kind, text, manifest digest or None, layer descriptors, image config or None, numbers of targets)."""


def read_case(folder: str) -> Case:
    """Read a case as it was recorded; leave out what plays no part in the check."""
    keys, llb, configs = (_json(folder, name) for name in ("keys.json", "llb.json", "cacheconfig.json"))
    records = {vertex["vertex"]: vertex["records"] for vertex in keys}
    # The other results are the frontend's own: the Dockerfile and ignore files.
    targets = [(result["vertex"], result["index"]) for result in llb["results"] if records[result["vertex"]]]
    exports = []
    for kind in ("max", "min"):
        if configs[kind]:
            own = configs[kind]
            layers, everything = own["manifest"]["layers"], list(range(len(targets)))
            exports.append((kind, own["config_raw"], own["manifest_digest"], layers, None, everything))
    for inline in configs["inline"]:
        image = {"rootfs": {"diff_ids": inline["diff_ids"]}, "history": inline["history"]}
        known = {record["digest"] for record in inline["records"] or ()}
        own = [n for n, (vertex, _) in enumerate(targets) if not known or known.issuperset(records[vertex])]
        exports.append(("inline", inline["records_raw"], None, inline["layers"], image, own))
    vertices = [
        (
            vertex["vertex"],
            vertex["cacheMapDigests"],
            [(d["input"], d["inputIndex"], d["selector"], d.get("contentDigest")) for d in vertex["deps"]],
        )
        for vertex in keys
    ]
    return {"name": os.path.basename(folder), "targets": targets, "vertices": vertices, "exports": exports}


def _json(folder: str, name: str) -> Any:
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return json.load(file)


class _Vertex:
    """A vertex of which only the keys are known; its result is a number of its own."""

    ignore_cache = False
    is_source = False

    def __init__(
        self, digest: str, cache_map: CacheMap[int], inputs: Sequence[Edge[int]], ran: list[str]
    ) -> None:
        self.digest, self.inputs, self._map, self._ran = digest, inputs, cache_map, ran

    async def cache_map(self) -> CacheMap[int]:
        return self._map

    async def run(self, inputs: Sequence[int]) -> Sequence[int]:
        if self.inputs:
            self._ran.append(self.digest)
        return [len(self._ran)] * 3


class _Store:
    def __init__(self) -> None:
        self._ids = itertools.count()

    async def load(self, record: CacheRecord) -> int:
        return -1

    async def keep(self, result: int) -> str:
        return f"result-{next(self._ids)}"


def _edges(case: Case, ran: list[str]) -> list[Edge[int]]:
    vertices: dict[str, _Vertex] = {}
    for n, (digest, digests, deps) in enumerate(case["vertices"]):
        inputs = [Edge(vertices[dep[0]], dep[1]) for dep in deps]
        digests = tuple(f"random:{n}" if each.startswith("random:") else each for each in digests)
        dep_maps = tuple(CacheInput(selector, _digester(content)) for _, _, selector, content in deps)
        vertices[digest] = _Vertex(digest, CacheMap(digests, dep_maps), inputs, ran)
    return [Edge(vertices[vertex], output) for vertex, output in case["targets"]]


def _digester(digest: str | None) -> Any:
    async def content_digest(_: int) -> str:
        assert digest is not None
        return digest

    return content_digest if digest else None


def compare(case: Case) -> Iterator[tuple[str, Pair]]:
    """Yield for each export and each way to come to it what was recorded and what inlay does."""
    for kind, text, manifest, layers, image, targets in case["exports"]:
        recorded = {"text": text, "manifest": manifest, "steps that ran": []}
        imported = _import(text, layers, image)
        for way in ("cold", "warm"):
            ran: list[str] = []
            graph = _build(case, imported, targets, ran, warm=way == "warm")
            actual = _written(graph, layers, image)
            actual["steps that ran"] = ran if way == "warm" and imported else []
            yield f"{case['name']} {kind} {way}", (recorded, actual)


def _import(recorded: str | None, layers: list[dict[str, Any]], image: dict[str, Any] | None) -> RecordGraph:
    descriptors = [Descriptor.parse(layer) for layer in layers]
    if recorded is None:
        return []
    if image is None:
        return graph_of(parse_config(recorded.encode()), {str(d.digest): d for d in descriptors}, None)
    fields = {**image, INLINE_CACHE: base64.b64encode(recorded.encode()).decode()}
    graph = import_inline(ImageConfig(b"", fields), descriptors, None, warn=print)
    assert graph is not None
    return graph


def _build(
    case: Case, imported: RecordGraph, targets: list[int], ran: list[str], *, warm: bool
) -> RecordGraph:
    """Solve `case`, with the import or without; hang the recorded results on the records of the export."""
    known, index = CacheIndex(), CacheIndex()
    known.ingest(imported)
    if warm:
        index.ingest(imported)
    solver = Solver(index, _Store(), clock=lambda: 0)
    edges = [edge for n, edge in enumerate(_edges(case, ran)) if n in targets]

    async def solve() -> RecordGraph:
        await solver.solve(edges)
        exported = export(solver, edges)
        graph = []
        for node, record in zip(exported.graph, exported.records, strict=True):
            records = known.records([record.key]) if record else []
            graph.append(node._replace(results=tuple((r.remote, r.created) for r in records if r.remote)))
        return graph

    return tasks.run(solve())


def _written(
    graph: RecordGraph, layers: list[dict[str, Any]], image: dict[str, Any] | None
) -> dict[str, Any]:
    if image is not None:
        field = inline_cache(graph, [layer["digest"] for layer in layers])
        return {"text": base64.b64decode(field).decode() if field is not None else None, "manifest": None}
    manifest = cache_manifest(graph)
    if manifest is None:
        return {"text": None, "manifest": None}
    return {"text": manifest.config.decode(), "manifest": Digest.of(manifest.raw)}


def exports(case: Case, _around: object) -> Pair:
    """The kind of one case in a file of cases."""
    pairs = dict(compare(case))
    return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}


def folder(path: Path) -> Iterator[tuple[str, Pair]]:
    """The kind of a case's folder: keys and content first, then what is made of them."""
    yield from cache_keys.folder(path)
    yield from compare(read_case(str(path)))
