#!/usr/bin/env python3
"""CPU time of the cache's own work, and what it is held to (docs/performance.md).

    benchmarks/cache.py [--runs 5] [--only import,hash,export]

import  parse a registry cache of many records, make it part of the index, and find every step of a build in
        it: under 150 ms for 5,000 records, and linear in them
hash    the content digest of 20,000 files that did not change: at most twice what `lstat` on each takes
export  what a cache with mode=max adds to a build, beyond packing and pushing its layers: at most a tenth
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from inlay import tasks
from inlay.cache.config import graph_of, parse_config
from inlay.digest import Digest
from inlay.llb.keys import WHOLE_TREE
from inlay.oci.descriptor import CREATED_AT, OCI_LAYER_GZIP, UNCOMPRESSED, Descriptor
from inlay.oci.image import parse_manifest
from inlay.solver.index import CacheIndex
from inlay.solver.keys import CONTENT, CacheInput, CacheMap, output_key
from inlay.solver.solver import Solver
from inlay.solver.vertex import Edge, inputs_first
from inlay.sources.local import LocalContext
from inlay.trees.contenthash import content_digest
from inlay.trees.digestmemory import DigestMemory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from inlay.solver.keys import CacheRecord

NOW = "2026-01-02T03:04:05.678901234Z"
SELECTOR = str(Digest.of("selector"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    measures: dict[str, Callable[[int], Iterator[str]]] = {
        "import": import_cost,
        "hash": hash_cost,
        "export": export_cost,
    }
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default=",".join(measures))
    arguments = parser.parse_args()
    gc.set_threshold(100_000)  # as the program itself does
    for name in arguments.only.split(","):
        for line in measures[name](arguments.runs):
            print(f"{name:8}{line}", flush=True)


def least(runs: int, work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Milliseconds of the fastest of `runs`."""
    times = []
    for _ in range(runs):
        started = clock()
        work()
        times.append(clock() - started)
    return min(times) * 1000


# -- import ----------------------------------------------------------------------------------------------


class Cache:
    """A cache of about `records` records as BuildKit writes one, and the build that it is of: stages of a base, a
    COPY from the context and eight RUNs, and a last one that copies from each of them."""

    def __init__(self, records: int) -> None:
        self.vertices: list[Step] = []
        self._records: list[dict[str, Any]] = []
        self._layers: list[dict[str, Any]] = []
        self._descriptors: list[Descriptor] = []
        base = self._source("base", ("manifest", "chain"))
        copied = base
        while len(self._records) < records:
            stage = len(self._records)
            below = self._step(f"copy {stage}", [(base, ""), (None, f"context {stage}")])
            for run in range(8):
                below = self._step(f"run {stage} {run}", [(below, "")])
            copied = self._step(f"take {stage}", [(copied, ""), (below, f"content {stage}")])
        self.target = copied
        config = {"layers": self._layers, "records": self._records}
        self.config = json.dumps(config, separators=(",", ":")).encode()
        manifest = {
            "schemaVersion": 2,
            "config": Descriptor("x", Digest.of(self.config), len(self.config)).to_json(),
            "layers": [descriptor.to_json() for descriptor in self._descriptors],
        }
        self.manifest = json.dumps(manifest, separators=(",", ":")).encode()

    @property
    def size(self) -> int:
        return len(self._records)

    def _record(self, digest: str, **more: object) -> int:
        self._records.append({**more, "digest": digest})
        return len(self._records) - 1

    def _source(self, name: str, keys: Sequence[str]) -> Made:
        digests = tuple(str(Digest.of(key)) for key in keys)
        step = Step(name, CacheMap(digests), ())
        return Made(step, [self._record(output_key(digest, 0)) for digest in digests], -1)

    def _step(self, name: str, inputs: Sequence[tuple[Made | None, str]]) -> Made:
        """A step; each input is one made before, or None for the context, and what its content is."""
        digest = str(Digest.of(name))
        links, edges, maps, below = [], [], [], -1
        for made, content in inputs:
            link = [] if made is None else [{"selector": SELECTOR, "link": at} for at in made.records]
            if content:
                link.append({"link": self._record(output_key(str(Digest.of(content)), CONTENT))})
            links.append(link)
            edges.append(Edge(Step("context", CacheMap(("random:1",)), ()) if made is None else made.step))
            maps.append(CacheInput(SELECTOR, _digester(str(Digest.of(content))) if content else None))
            if made is not None and not edges[1:]:
                below = made.layer
        layer = self._layer(name, below)
        results = [{"layer": layer, "createdAt": NOW}]
        record = self._record(output_key(digest, 0), inputs=links, layers=results)
        return Made(Step(name, CacheMap((digest,), tuple(maps)), edges), [record], layer)

    def _layer(self, name: str, parent: int) -> int:
        notes = {CREATED_AT: NOW, UNCOMPRESSED: str(Digest.of(f"diff {name}"))}
        self._descriptors.append(
            Descriptor(OCI_LAYER_GZIP, Digest.of(f"layer {name}"), 1000).annotated(notes)
        )
        blob = {"blob": self._descriptors[-1].digest}
        self._layers.append(blob if parent == 0 else {**blob, "parent": parent})
        return len(self._layers) - 1


class Step:
    """A vertex that must not run."""

    ignore_cache = False

    def __init__(self, digest: str, cache_map: CacheMap[int], inputs: Sequence[Edge[int]]) -> None:
        self.digest, self.inputs, self._map = digest, inputs, cache_map
        self.is_source = not inputs

    async def cache_map(self) -> CacheMap[int]:
        return self._map

    async def run(self, inputs: Sequence[int]) -> Sequence[int]:
        if self.inputs:
            raise AssertionError(f"{self.digest} ran")
        return [0]


class Made:
    """A step, the numbers of its records, and its highest layer."""

    def __init__(self, step: Step, records: list[int], layer: int) -> None:
        self.step, self.records, self.layer = step, records, layer


class Results:
    async def load(self, record: CacheRecord) -> int:
        return 0

    async def keep(self, result: int) -> str:
        return "kept"


def _digester(digest: str) -> Any:
    async def content_digest(_: int) -> str:
        return digest

    return content_digest


def read(cache: Cache) -> CacheIndex:
    """What a build does with what comes from the registry."""
    layers = parse_manifest(cache.manifest).layers  # type: ignore[union-attr]
    index = CacheIndex()
    index.ingest(graph_of(parse_config(cache.config), layers, None))
    return index


def find(cache: Cache, index: CacheIndex) -> None:
    """Find every step of the build that the cache is of."""
    solver = Solver(index, Results(), clock=lambda: 0)
    tasks.run(solver.solve([Edge(cache.target.step)]))


def import_cost(runs: int) -> Iterator[str]:
    for records in (1_250, 2_500, 5_000, 10_000):
        cache = Cache(records)
        index = read(cache)
        size = f"{cache.size:6} records ({len(cache.config) >> 10} KiB)"
        reading = least(runs, partial(read, cache))
        finding = least(runs, partial(find, cache, index))
        both = 1000 * (reading + finding) / cache.size
        steps = sum(1 for _ in inputs_first([Edge(cache.target.step)]))
        yield (
            f"{size}: {reading:6.1f} ms CPU to read, {finding:6.1f} ms to find all {steps} steps; "
            f"{both:.1f} us a record"
        )


# -- content hash ----------------------------------------------------------------------------------------


def hash_cost(runs: int) -> Iterator[str]:
    count = 20_000
    with tempfile.TemporaryDirectory(prefix="inlay-bench-") as state:
        paths = list(_write_files(f"{state}/context", count))
        time.sleep(0.2)  # digests of files that changed just now are not remembered

        def digest() -> None:
            memory = DigestMemory(f"{state}/memory")
            with LocalContext(f"{state}/context", memory=memory) as tree:
                content_digest(tree, WHOLE_TREE)
            memory.save()

        digest()
        for clock, of in ((time.process_time, "CPU"), (time.perf_counter, "wall")):
            stats = least(runs, lambda: [os.lstat(path) for path in paths], clock)
            took = least(runs, digest, clock)
            yield f"{count} unchanged files: {took:.1f} ms {of}, lstat on each {stats:.1f} ms: {took / stats:.2f}"


def _write_files(root: str, count: int) -> Iterator[str]:
    for number in range(count):
        folder = f"{root}/{number // 1000}/{number // 50}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{number}.txt", "w") as file:
            file.write(f"{number}\n" * 20)
        yield f"{folder}/{number}.txt"


# -- export ----------------------------------------------------------------------------------------------


def export_cost(runs: int) -> Iterator[str]:
    """Build and push an image, with and without a cache of mode=max. All layers are the image's own, so both
    pack and push the same ones, and what is left is what the cache itself takes."""
    import builders
    from run import push_base, registry

    with (
        tempfile.TemporaryDirectory(prefix="inlay-bench-") as state,
        registry(state) as host,
        contextlib.ExitStack() as ends,
    ):
        inlay = builders.ALL["inlay"](state, host)
        ends.callback(inlay.close)
        context = f"{state}/context"
        _write_dockerfile(context, push_base(state, host, inlay))
        took: dict[str, list[float]] = {"": [], "max": []}
        for run in range(runs):
            for kind, times in took.items():
                name = f"{host}/bench/run{run}{kind}"
                cache = [f"--cache-to=type=registry,ref={name}:cache,mode=max"] if kind else []
                command = [sys.executable, "-m", "inlay", "build", "--root", f"{state}/{run}{kind}", *cache]
                started = time.perf_counter()
                subprocess.run(
                    [*command, "-q", "-t", f"{name}:1", "--push", context],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
                times.append((time.perf_counter() - started) * 1000)
        without, full = (statistics.median(times) for times in took.values())
        yield (
            f"build and push {without:.0f} ms, with a cache of mode=max {full:.0f} ms: "
            f"{100 * (full / without - 1):+.1f} %"
        )


def _write_dockerfile(context: str, base: str) -> None:
    os.makedirs(context)
    steps = [f"RUN head -c {4 << 20} /dev/urandom > /f{n}" for n in range(12)]
    with open(f"{context}/Dockerfile", "w") as file:
        file.write("\n".join([f"FROM {base}", *steps]) + "\n")


if __name__ == "__main__":
    main()
