"""cache.imports: what a cache may cost to read, whatever it holds and wherever it lies."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from inlay import tasks
from inlay.cache.deferred import DeferredCaches
from inlay.cache.imports import CONFIG_LIMIT, import_cache
from inlay.digest import Digest
from inlay.notation import parse_cache_from
from inlay.oci.descriptor import CACHE_CONFIG, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, REF_NAME
from inlay.oci.image import INLINE_CACHE, MOST_VALUES
from inlay.progress.events import Warned
from inlay.solver.index import CacheIndex
from inlay.sources.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fake_registry import FakeRegistry
    from inlay.progress.events import Event
    from inlay.solver.keys import RecordGraph

LAYER, DIFF_ID = Digest.of("layer"), Digest.of("diff")
ROOT = f'{{"digest":"{Digest.of("root")}"}}'
MOST = 10 * CONFIG_LIMIT
"""Bytes of memory that reading one cache may take, with what it is read into."""


class Caches:
    """Writes caches of three kinds, and imports them; `warnings` are what that said."""

    def __init__(self, fake: FakeRegistry, folder: Path) -> None:
        self.fake = fake
        self.folder = folder
        self.places = Places(str(folder / "store"))
        self.warnings: list[str] = []

    def write(self, kind: str, records: str) -> str:
        """Write `records`; return what `--cache-from` calls them."""
        cache = f'{{"layers":[{{"blob":"{LAYER}","parent":-1}}],"records":{records}}}'.encode()
        if kind == "local":
            return self._local(cache)
        self.tag(
            "app",
            OCI_CONFIG if kind == "inline" else CACHE_CONFIG,
            inline(records) if kind == "inline" else cache,
        )
        return f"{self.fake.host}/app:1"

    def tag(self, name: str, media_type: str, config: bytes) -> dict[str, Any]:
        """Push the manifest of an image, or a cache, with this config; its descriptor."""
        raw = manifest(media_type, self.fake.put(config), len(config))
        return {
            "mediaType": OCI_MANIFEST,
            "digest": self.fake.tag(name, "1", raw, OCI_MANIFEST),
            "size": len(raw),
        }

    def _local(self, config: bytes) -> str:
        folder = self.folder / "cache"
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        top = manifest(CACHE_CONFIG, Digest.of(config), len(config))
        for data in (config, top):
            (folder / "blobs" / "sha256" / Digest.of(data).hex).write_bytes(data)
        described = {"mediaType": OCI_MANIFEST, "digest": Digest.of(top), "size": len(top)}
        index = {"schemaVersion": 2, "manifests": [{**described, "annotations": {REF_NAME: "latest"}}]}
        (folder / "index.json").write_text(json.dumps(index))
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return f"type=local,src={folder}"

    def read(self, cache: str) -> list[RecordGraph]:
        self.warnings = []

        def emit(event: Event) -> None:
            if isinstance(event, Warned):
                self.warnings.append(event.message)

        imported = tasks.run(import_cache(parse_cache_from(cache), self.places, emit))
        caches = DeferredCaches(CacheIndex())
        for each in imported:
            caches.ingest(each)
        return [each.graph for each in imported]

    def peak(self, cache: str) -> int:
        """Bytes of memory that reading `cache` takes at most."""
        tracemalloc.start()
        try:
            self.read(cache)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.fixture
def caches(fake: FakeRegistry, tmp_path: Path) -> Iterator[Caches]:
    made = Caches(fake, tmp_path)
    made.read(made.write("registry", f"[{ROOT}]"))  # whatever is loaded or made but once
    yield made
    made.places.close()


def manifest(config_type: str, config: str, size: int) -> bytes:
    described = {"mediaType": config_type, "digest": config, "size": size}
    layer = {"mediaType": OCI_LAYER_GZIP, "digest": LAYER, "size": 5}
    return json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": [layer]}
    ).encode()


def inline(records: str, **more: object) -> bytes:
    field = base64.b64encode(records.encode()).decode()
    return json.dumps({"rootfs": {"diff_ids": [DIFF_ID]}, INLINE_CACHE: field, **more}).encode()


def around(before: str, part: str, after: str) -> Callable[[int], str]:
    """Makes records in which `part`, with what number it is where it asks, stands many times."""
    return lambda count: before + ",".join([part.replace("#", f"{n:064}") for n in range(count)]) + after


STEP = f'{ROOT},{{"digest":"{Digest.of("step")}","inputs":[[{{"link":0}}]]'
SHAPES = {
    "links of a record": around(f'[{ROOT},{{"digest":"{DIFF_ID}","inputs":[[', '{"link":0}', "]]}]"),
    "inputs of a record": around(f'[{ROOT},{{"digest":"{DIFF_ID}","inputs":[', '[{"link":0}]', "]}]"),
    "results of a record": around(f'[{STEP},"layers":[', '{"layer":0}', "]}]"),
    "layers of a result": around(f'[{STEP},"chains":[{{"layers":[', "0", "]}]}]"),
    "lists of layers": around(f'[{STEP},"chains":[', '{"layers":[0]}', "]}]"),
    "roots": around("[", '{"digest":"sha256:#"}', "]"),
    "steps": around(f"[{ROOT},", '{"digest":"sha256:#","inputs":[[{"link":0}]]}', "]"),
    "empty lists": around("[", "[]", "]"),
    "empty objects": around("[", "{}", "]"),
    "objects": around("[", '{"":0}', "]"),
    "lists in lists": around("[" * 900, "[]", "]" * 900),
    "lists in no list": around("", "[[[[", ""),
    "lists that nobody reads": around(f'[{ROOT[:-1]},"x":[', "[]", "]}]"),
    "numbers": around("[", "1000", "]"),
    "texts": around("[", '"ab"', "]"),
    "keys": around("[{", '"#":0', "}]"),
    "a key again and again": around("[{", '"a":0', "}]"),
}


def largest(shape: str) -> str:
    """As many records of this shape as are read: no more values or bytes."""
    make = SHAPES[shape]
    per_part = count_values_in(make(1010)) - count_values_in(make(10))
    by_values = (MOST_VALUES - 2000) * 1000 // per_part
    by_bytes = (CONFIG_LIMIT * 3 // 4 - 2000) * 1000 // (len(make(1010)) - len(make(10)))
    return make(min(by_values, by_bytes))


def count_values_in(records: str) -> int:
    return sum(map(records.count, "[{,"))


# -- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_largest_cache_of_any_shape_takes_bounded_memory(caches: Caches, shape: str) -> None:
    records = largest(shape)
    assert count_values_in(records) > 0.8 * MOST_VALUES or len(records) > 0.7 * CONFIG_LIMIT
    assert caches.peak(caches.write("inline", records)) < MOST
    assert len(caches.warnings) <= 1


@pytest.mark.parametrize("kind", ["registry", "inline", "local"])
def test_the_largest_text_takes_bounded_memory(caches: Caches, kind: str) -> None:
    wide = "\U0001f600" + "x" * (CONFIG_LIMIT * 3 // 4 - 1000)
    cache = caches.write(kind, f'[{{"digest":"{wide}"}}]')
    assert caches.peak(cache) < MOST
    assert len(caches.warnings) == 1
    assert len(caches.warnings[0]) < 500


def test_a_cache_of_many_thousand_records_is_read(caches: Caches) -> None:
    (graph,) = caches.read(caches.write("registry", SHAPES["steps"](14_000)))
    assert len(graph) == 14_001
    assert not caches.warnings


# -- what is not ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["registry", "inline", "local"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape not in ("keys", "roots")])
def test_more_values_are_not_decoded_and_one_warning(caches: Caches, kind: str, shape: str) -> None:
    records = SHAPES[shape](MOST_VALUES + 1)[: CONFIG_LIMIT // 2]
    cache = caches.write(kind, records)
    assert caches.peak(cache) < (1 << 20) + 6 * len(records)
    assert caches.read(cache) == []
    (warning,) = caches.warnings
    assert "more than 200,000 JSON values" in warning


@pytest.mark.parametrize("kind", ["registry", "inline", "local"])
def test_more_bytes_are_not_read_and_one_warning(caches: Caches, kind: str) -> None:
    cache = caches.write(kind, f"[{ROOT}]" + " " * CONFIG_LIMIT)
    assert caches.peak(cache) < 1 << 20
    assert len(caches.warnings) == 1


def test_an_image_config_of_too_many_values_is_not_decoded(caches: Caches) -> None:
    junk = [[]] * (MOST_VALUES + 1)
    caches.tag("app", OCI_CONFIG, inline(f"[{ROOT}]", history=junk))
    assert caches.read(f"{caches.fake.host}/app:1") == []
    assert len(caches.warnings) == 1


def test_all_platforms_together_have_a_limit_and_those_up_to_it_are_used(caches: Caches) -> None:
    steps = SHAPES["steps"](12_000)
    images = [caches.tag(f"app{n}", OCI_CONFIG, inline(steps, n=n)) for n in range(6)]
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": images}).encode()
    for n in range(6):
        path = f"app{n}:1"
        caches.fake.manifests[f"app:{images[n]['digest']}"] = caches.fake.manifests[path]
    caches.fake.tag("app", "1", raw, OCI_INDEX)
    graphs = caches.read(f"{caches.fake.host}/app:1")
    assert [len(graph) for graph in graphs] == [12_001] * 5
    (warning,) = caches.warnings
    assert "together more than" in warning


def test_a_tree_of_indexes_is_walked_up_to_a_limit(caches: Caches) -> None:
    image = caches.tag("app", OCI_CONFIG, inline(f"[{ROOT}]"))
    listed = [image] * 150
    for depth in range(4):
        raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
        top = {
            "mediaType": OCI_INDEX,
            "digest": caches.fake.tag("app", "1", raw, OCI_INDEX),
            "size": len(raw),
        }
        listed = [{**top, "annotations": {"n": f"{depth}"}}] * 150
    caches.fake.requests.clear()
    caches.read(f"{caches.fake.host}/app:1")
    assert len(caches.fake.seen("GET")) <= 201
