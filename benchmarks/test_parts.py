"""Parts of a build on their own: .venv/bin/python -m pytest benchmarks/test_parts.py

Each is named for what it does once; pytest-benchmark prints how long that takes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from inlay.actions.files.action import plan_action
from inlay.actions.files.noting import NotedLayer
from inlay.actions.files.writing import WritableTree
from inlay.archive.codecs import Gzip, Uncompressed, Zstd
from inlay.archive.compression import BlobWriter
from inlay.archive.diff import layer_entries
from inlay.archive.layer import apply_layer
from inlay.archive.packing import Stop, pack_layer
from inlay.archive.tar import write_entries
from inlay.cache.config import config_of, graph_of, parse_config
from inlay.content.store import ContentStore
from inlay.digest import Digest
from inlay.dockerfile.frontend import convert
from inlay.dockerfile.options import ConvertOptions
from inlay.dockerfile.parser import parse
from inlay.llb.keys import ContentSelector, cache_map
from inlay.llb.ops import Copy
from inlay.oci.descriptor import CREATED_AT, OCI_LAYER_GZIP, UNCOMPRESSED, Descriptor
from inlay.platform import host
from inlay.solver.index import CacheIndex
from inlay.solver.keys import RecordNode, stack
from inlay.sources.local import LocalContext
from inlay.trees.contenthash import content_digest
from inlay.trees.sourcefile import Sources

if TYPE_CHECKING:
    from pathlib import Path

    from inlay.dockerfile.conversion import ConvertedPlatform

FILES, FILE_SIZE, STEPS, MIB = 2000, 4096, 120, 1 << 20
COPY_ALL = Copy("/", "/app", mode=-1, timestamp=-1, create_dest_path=True, copy_dir_contents=True)

Benchmark = Any
"""pytest-benchmark's fixture, which has no types."""


class Nowhere:
    """Takes everything, keeps nothing."""

    def write(self, data: bytes | memoryview, /) -> None:
        pass


class NoImages:
    """Answers the questions of a conversion from scratch: there are none."""

    def prefetch(self, requests: object) -> None:
        pass


def converted(dockerfile: bytes) -> ConvertedPlatform:
    (result,) = convert(dockerfile, ConvertOptions.parse({}, host()), NoImages()).results  # type: ignore[arg-type]
    return result


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 files of 4 KiB in 20 folders."""
    root = tmp_path_factory.mktemp("context")
    for number in range(FILES):
        folder = root / f"d{number // 100}"
        folder.mkdir(exist_ok=True)
        (folder / f"f{number}").write_bytes(hashlib.shake_128(b"%d" % number).digest(FILE_SIZE))
    return root


@pytest.fixture(scope="module")
def data() -> bytes:
    """16 MiB, half of it noise."""
    noise = hashlib.shake_128(b"noise").digest(MIB // 2)
    return (noise + (b"all work and no play " * MIB)[: MIB // 2]) * 16


@pytest.fixture(scope="module")
def dockerfile() -> bytes:
    return b"FROM scratch\nARG V=1\n" + b"".join(b"COPY f%d /d/%d-${V}\n" % (n % 10, n) for n in range(STEPS))


def test_content_digest_of_2000_files(benchmark: Benchmark, context: Path) -> None:
    def digest() -> Digest:
        with LocalContext(str(context)) as tree:
            return content_digest(tree, [ContentSelector("/")])

    assert benchmark(digest).startswith("sha256:")


@pytest.mark.parametrize("codec", [Uncompressed(), Gzip(), Zstd()], ids=["plain", "gzip", "zstd"])
def test_streaming_a_layer_of_2000_files(
    benchmark: Benchmark, context: Path, tmp_path: Path, codec: Gzip | Zstd | Uncompressed
) -> None:
    store = ContentStore(str(tmp_path))

    def stream() -> int:
        with (
            LocalContext(str(context)) as tree,
            NotedLayer(None, [], now_ns=0) as noted,
            Sources() as sources,
        ):
            noted.carry_out(plan_action(COPY_ALL, noted, source=tree))
            return pack_layer(noted.layer.entries(sources), store, codec, stop=Stop()).blob.size

    assert benchmark(stream) > MIB


def test_tar_of_a_folder_of_2000_files(benchmark: Benchmark, context: Path) -> None:
    benchmark(lambda: write_entries(layer_entries(str(context)), Nowhere()))


def test_unpacking_a_layer_of_2000_files(
    benchmark: Benchmark, context: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive = tmp_path_factory.mktemp("layer") / "layer.tar"
    with archive.open("wb") as out:
        write_entries(layer_entries(str(context)), out)

    def unpack(target: Path) -> int:
        with archive.open("rb") as stream:
            return apply_layer(stream, str(target)).entries

    def target() -> tuple[tuple[Path], dict[str, object]]:
        return (tmp_path_factory.mktemp("target"),), {}

    assert benchmark.pedantic(unpack, setup=target, rounds=5) == FILES + 20


def test_copying_2000_files_to_a_folder(
    benchmark: Benchmark, context: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def copy(target: Path) -> None:
        with LocalContext(str(context)) as tree, WritableTree.at(str(target)) as out:
            out.carry_out(plan_action(COPY_ALL, out, source=tree))

    def target() -> tuple[tuple[Path], dict[str, object]]:
        return (tmp_path_factory.mktemp("target"),), {}

    benchmark.pedantic(copy, setup=target, rounds=5)


@pytest.mark.parametrize("codec", [Uncompressed(), Gzip(), Zstd()], ids=["plain", "gzip", "zstd"])
def test_blob_of_16_mib(benchmark: Benchmark, data: bytes, codec: Gzip | Zstd | Uncompressed) -> None:
    def pack() -> int:
        with BlobWriter(Nowhere(), codec) as blob:
            blob.write(data)
        return blob.packed.size

    assert benchmark(pack) <= len(data)


def test_parsing_120_steps(benchmark: Benchmark, dockerfile: bytes) -> None:
    assert len(benchmark(parse, dockerfile).instructions) == STEPS + 2


def test_converting_120_steps(benchmark: Benchmark, dockerfile: bytes) -> None:
    assert benchmark(converted, dockerfile).definition.target


def test_keys_of_120_steps(benchmark: Benchmark, dockerfile: bytes) -> None:
    vertices = [vertex for vertex in converted(dockerfile).definition.vertices if vertex.inputs]

    def keys() -> list[str]:
        return [cache_map(vertex.op, host(), len(vertex.inputs)).digest for vertex in vertices]

    assert len(set(benchmark(keys))) == STEPS


def test_importing_1000_records(benchmark: Benchmark) -> None:
    digests = [Digest.of(b"%d" % number) for number in range(1000)]
    layers = [
        Descriptor(
            OCI_LAYER_GZIP, digest, 100, ((CREATED_AT, "2026-01-01T00:00:00Z"), (UNCOMPRESSED, str(digest)))
        )
        for digest in digests
    ]
    graph = [RecordNode(str(Digest.of("root")), ())]
    chain = None
    for number, layer in enumerate(layers):
        chain = stack([layer]) if chain is None else type(chain)(layer, chain)
        links = ((("", number),),)
        graph.append(RecordNode(str(digests[number]), links, ((chain, "2026-01-01T00:00:00Z"),)))
    raw = config_of(graph).to_json()
    by_digest = {str(layer.digest): layer for layer in layers}

    def take_in() -> None:
        CacheIndex(None).ingest(graph_of(parse_config(raw), by_digest, None))

    benchmark(take_in)
