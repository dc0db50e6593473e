"""cache.imports: whatever a cache is or holds, it is read, or it is one warning."""

from __future__ import annotations

import base64
import gc
import json
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fake_registry import FakeRegistry, answer, cut, hang
from inlay import tasks
from inlay.cache import imports
from inlay.cache.config import graph_of, parse_config
from inlay.digest import Digest
from inlay.notation import parse_cache_from
from inlay.oci.descriptor import (
    CACHE_CONFIG,
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from inlay.oci.image import INLINE_CACHE
from inlay.progress.events import Warned
from inlay.request import Option
from inlay.solver.index import CacheIndex
from inlay.sources.places import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from inlay.progress.events import Event
    from inlay.solver.keys import RecordGraph

NOW = "2026-01-02T03:04:05.678Z"
ROOT, STEP = Digest.of("root"), Digest.of("step")
LAYER, DIFF_ID = Digest.of("layer"), Digest.of("diff")
RECORDS: list[dict[str, Any]] = [
    {"digest": ROOT},
    {"layers": [{"layer": 0, "createdAt": NOW}], "digest": STEP, "inputs": [[{"link": 0}]]},
]


class Importer:
    """Imports from a fake registry, with no patience; `warnings` are what it said."""

    def __init__(self, fake: FakeRegistry, root: Path) -> None:
        self.fake = fake
        self.places = Places(str(root))
        self.places.transport._shared.settings = self.places.transport.settings._replace(backoff_s=0.001)
        self.warnings: list[str] = []

    def __call__(self, ref: str = "app:1") -> list[RecordGraph]:
        return self.option(parse_cache_from(f"{self.fake.host}/{ref}"))

    def option(self, option: Option) -> list[RecordGraph]:
        self.warnings = []

        def emit(event: Event) -> None:
            if isinstance(event, Warned):
                self.warnings.append(event.message)

        return [each.graph for each in tasks.run(imports.import_cache(option, self.places, emit))]


@pytest.fixture
def importer(fake: FakeRegistry, tmp_path: Path) -> Iterator[Importer]:
    made = Importer(fake, tmp_path / "store")
    yield made
    made.places.close()


def descriptor(fake: FakeRegistry, data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": fake.put(data), "size": len(data)}


def layer(media_type: str = OCI_LAYER_GZIP) -> dict[str, Any]:
    notes = {"containerd.io/uncompressed": DIFF_ID, "buildkit/createdat": NOW}
    return {"mediaType": media_type, "digest": LAYER, "size": 5, "annotations": notes}


def cache_config(records: object = RECORDS) -> bytes:
    return json.dumps({"layers": [{"blob": LAYER, "parent": -1}], "records": records}).encode()


def tag(fake: FakeRegistry, name: str, value: dict[str, Any]) -> dict[str, Any]:
    """Push a manifest; its descriptor."""
    raw = json.dumps({"schemaVersion": 2, **value}).encode()
    path, _, reference = name.partition(":")
    return {
        "mediaType": value["mediaType"],
        "digest": fake.tag(path, reference, raw, value["mediaType"]),
        "size": len(raw),
    }


def tag_cache(fake: FakeRegistry, config: bytes, name: str = "app:1") -> None:
    described = descriptor(fake, config, CACHE_CONFIG)
    tag(fake, name, {"mediaType": OCI_MANIFEST, "config": described, "layers": [layer()]})


def tag_image(fake: FakeRegistry, name: str, records: object, *, docker: bool = False) -> dict[str, Any]:
    field = base64.b64encode(json.dumps(records).encode()).decode()
    history = [{"created": NOW, "created_by": "RUN x"}]
    image = {"rootfs": {"diff_ids": [DIFF_ID]}, "history": history, INLINE_CACHE: field}
    config = json.dumps(image if records is not None else {**image, INLINE_CACHE: None}).encode()
    return tag(
        fake,
        name,
        {
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": descriptor(fake, config, DOCKER_CONFIG if docker else OCI_CONFIG),
            "layers": [layer(DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP)],
        },
    )


def results(graphs: list[RecordGraph]) -> list[str]:
    """The highest layer of each result."""
    return [str(chain.descriptor.digest) for graph in graphs for node in graph for chain, _ in node.results]


# -- forms that a cache may have -----------------------------------------------------------------------------


def test_an_image_manifest_is_read(fake: FakeRegistry, importer: Importer) -> None:
    tag_cache(fake, cache_config())
    assert results(importer()) == [LAYER]
    assert not importer.warnings
    assert len([line for line in fake.seen() if "blobs" in line]) == 1


@pytest.mark.parametrize(("index", "blob"), [(OCI_INDEX, OCI_LAYER_GZIP), (DOCKER_LIST, DOCKER_LAYER_GZIP)])
def test_an_index_of_blobs_is_read(fake: FakeRegistry, importer: Importer, index: str, blob: str) -> None:
    config = descriptor(fake, cache_config(), CACHE_CONFIG)
    tag(fake, "app:1", {"mediaType": index, "manifests": [layer(blob), config]})
    assert results(importer()) == [LAYER]


@pytest.mark.parametrize("docker", [False, True])
def test_an_image_with_an_inline_cache_is_read(fake: FakeRegistry, importer: Importer, docker: bool) -> None:
    tag_image(fake, "app:1", RECORDS, docker=docker)
    assert results(importer()) == [LAYER]
    assert not importer.warnings


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_all_platforms_and_indexes_within_are_read_and_attestations_do_no_harm(
    fake: FakeRegistry, importer: Importer, media_type: str
) -> None:
    attestation = tag(
        fake,
        "app:attestation",
        {
            "mediaType": OCI_MANIFEST,
            "config": descriptor(fake, b"{}", OCI_CONFIG),
            "layers": [descriptor(fake, b"{}", "application/vnd.in-toto+json")],
        },
    )
    inner = {"mediaType": media_type, "manifests": [tag_image(fake, "app:arm64", RECORDS)]}
    manifests = [
        {**tag_image(fake, "app:amd64", RECORDS), "platform": {"os": "linux", "architecture": "amd64"}},
        tag_image(fake, "app:none", None),
        {**attestation, "platform": {"os": "unknown", "architecture": "unknown"}},
        tag(fake, "app:inner", inner),
    ]
    tag(fake, "app:1", {"mediaType": media_type, "manifests": manifests})
    assert results(importer()) == [LAYER, LAYER]


def test_a_cache_may_be_named_by_its_digest(fake: FakeRegistry, importer: Importer) -> None:
    digest = tag_image(fake, "app:1", RECORDS)["digest"]
    assert results(importer(f"app@{digest}")) == [LAYER]


def test_a_record_without_a_time_is_old(fake: FakeRegistry, importer: Importer) -> None:
    records = [RECORDS[0], {**RECORDS[1], "layers": [{"layer": 0}]}]
    tag_cache(fake, cache_config(records))
    assert results(importer()) == [LAYER]


def test_an_image_without_a_cache_is_no_cause_for_a_warning(fake: FakeRegistry, importer: Importer) -> None:
    tag_image(fake, "app:1", None)
    assert importer() == []
    assert not importer.warnings


# -- what may be wrong ---------------------------------------------------------------------------------------


def no_such_tag(fake: FakeRegistry) -> None:
    pass


def unauthorized(fake: FakeRegistry) -> None:
    fake.fault("GET", "/manifests/", answer(401, WWW_Authenticate='Basic realm="x"'), times=9)


def forbidden(fake: FakeRegistry) -> None:
    tag_cache(fake, cache_config())
    fake.fault("GET", "/blobs/", answer(403), times=9)


def broken_server(fake: FakeRegistry) -> None:
    fake.fault("GET", "/manifests/", answer(500), times=99)


def truncated(fake: FakeRegistry) -> None:
    tag_cache(fake, cache_config())
    fake.fault("GET", "/blobs/", cut(after=3), times=99)


def config_gone(fake: FakeRegistry) -> None:
    tag_cache(fake, cache_config())
    del fake.blobs[str(Digest.of(cache_config()))]


def config_of_other_bytes(fake: FakeRegistry) -> None:
    tag_cache(fake, cache_config())
    fake.blobs[str(Digest.of(cache_config()))] = cache_config()[:-1] + b" "


def manifest_of_other_bytes(fake: FakeRegistry) -> None:
    tag_cache(fake, cache_config())
    fake.fault("GET", "/manifests/", answer(200, b"{}", Docker_Content_Digest=LAYER), times=9)


def no_manifest(fake: FakeRegistry) -> None:
    fake.tag("app", "1", b"<html>", "text/html")


def endless_indexes(fake: FakeRegistry) -> None:
    digest = Digest.of("none")
    listed = {"mediaType": OCI_INDEX, "digest": digest, "size": 2}
    tag(fake, "app:1", {"mediaType": OCI_INDEX, "manifests": [listed] * 50})


def oversized_config(fake: FakeRegistry) -> None:
    config = {"mediaType": CACHE_CONFIG, "digest": LAYER, "size": 1 << 40}
    tag(fake, "app:1", {"mediaType": OCI_MANIFEST, "config": config, "layers": []})


def oversized_manifest(fake: FakeRegistry) -> None:
    fake.tag("app", "1", b" " * (5 << 20), OCI_MANIFEST)


def inline_field_is_no_base64(fake: FakeRegistry) -> None:
    config = json.dumps({"rootfs": {"diff_ids": [DIFF_ID]}, INLINE_CACHE: "?!"}).encode()
    described = descriptor(fake, config, OCI_CONFIG)
    tag(fake, "app:1", {"mediaType": OCI_MANIFEST, "config": described, "layers": [layer()]})


def diff_ids_are_no_list(fake: FakeRegistry) -> None:
    config = json.dumps({"rootfs": {"diff_ids": 1.5}, "history": 1.5, INLINE_CACHE: "W10="}).encode()
    described = descriptor(fake, config, OCI_CONFIG)
    tag(fake, "app:1", {"mediaType": OCI_MANIFEST, "config": described, "layers": [layer()]})


@pytest.mark.parametrize(
    "fault",
    [
        no_such_tag,
        unauthorized,
        forbidden,
        broken_server,
        truncated,
        config_gone,
        config_of_other_bytes,
        manifest_of_other_bytes,
        no_manifest,
        endless_indexes,
        oversized_config,
        oversized_manifest,
        inline_field_is_no_base64,
        diff_ids_are_no_list,
    ],
)
def test_what_is_wrong_is_one_warning(
    fake: FakeRegistry, importer: Importer, fault: Callable[[FakeRegistry], None]
) -> None:
    fault(fake)
    assert importer() == []
    assert len(importer.warnings) == 1
    assert f"{fake.host}/app:1" in importer.warnings[0] or "inline cache" in importer.warnings[0]


def beside(fake: FakeRegistry, importer: Importer) -> list[RecordGraph]:
    """What lies beside the image `app:1`, which has an inline cache."""
    config = {"rootfs": {"type": "layers", "diff_ids": [DIFF_ID]}, "history": [{"created": NOW}]}
    field = base64.b64encode(json.dumps(RECORDS).encode()).decode()
    raw = json.dumps({**config, INLINE_CACHE: field}).encode()
    described = descriptor(fake, raw, OCI_CONFIG)
    image = tag(fake, "app:1", {"mediaType": OCI_MANIFEST, "config": described, "layers": [layer()]})
    cache = descriptor(fake, cache_config(), CACHE_CONFIG)
    about = {"mediaType": OCI_MANIFEST, "config": cache, "layers": [layer()], "subject": image}
    tag(fake, "app:any", {**about, "artifactType": CACHE_CONFIG})
    option = parse_cache_from(f"{fake.host}/app:1")
    importer.option(option)
    emitted: list[Event] = []
    (imported,) = tasks.run(imports.import_cache(option, importer.places, emitted.append))
    assert imported.beside is not None
    graphs = imported.beside()
    importer.warnings = [event.message for event in emitted if isinstance(event, Warned)]
    return graphs


def test_what_lies_beside_an_image_is_read(importer: Importer, fake: FakeRegistry) -> None:
    fake.has_referrers = True
    graphs = beside(fake, importer)
    assert len(graphs) == 1
    assert importer.warnings == []


@pytest.mark.parametrize("target", ["/referrers/", "/manifests/sha256:"])
def test_a_registry_that_does_not_say_what_lies_beside_an_image_is_given_up(
    fake: FakeRegistry, importer: Importer, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    fake.has_referrers = True
    monkeypatch.setattr(imports, "TIMEOUT_S", 0.3)
    released = threading.Event()
    fake.fault("GET", target, hang(released), times=9)
    try:
        assert beside(fake, importer) == []
    finally:
        released.set()
    said = f"the cache beside {fake.host}/app:1 is not used: it did not come within 0 s"
    assert importer.warnings == [said]


def test_a_registry_that_does_not_answer_is_given_up(
    fake: FakeRegistry, importer: Importer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "TIMEOUT_S", 0.2)
    released = threading.Event()
    fake.fault("GET", "/manifests/", hang(released), times=9)
    try:
        assert importer() == []
    finally:
        released.set()
    assert importer.warnings == [f"cache {fake.host}/app:1 is not used: it did not come within 0 s"]


def test_a_name_that_is_none_is_a_warning(importer: Importer) -> None:
    assert importer.option(Option("registry", (("ref", "UPPER//case"),))) == []
    assert len(importer.warnings) == 1


@pytest.mark.parametrize("kind", ["local", "oci-layout"])
def test_a_folder_that_is_no_layout_is_a_warning(importer: Importer, tmp_path: Path, kind: str) -> None:
    for source in (tmp_path / "missing", tmp_path):
        assert importer.option(Option(kind, (("src", str(source)),))) == []
        assert len(importer.warnings) == 1


# -- content by somebody who means harm ----------------------------------------------------------------------

HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"[" * 100_000,
    b'{"records":' + b"[" * 100_000,
    b'{"records":[{"digest":' + b"9" * 10_000 + b"}]}",
    b'{"records":[{"digest":"sha256:../../../../etc/passwd"}]}',
    b'{"layers":[{"blob":"sha256:../../etc/passwd","parent":-1}]}',
    json.dumps({"records": [{"digest": ROOT, "inputs": [[{"link": 0}]]}]}).encode(),
    json.dumps({"records": [{"digest": ROOT, "inputs": [[{"link": n ^ 1}]]} for n in range(2)]}).encode(),
    json.dumps({"records": [{"digest": ROOT, "inputs": [[{"link": -1}]]}]}).encode(),
    json.dumps({"records": [{"digest": ROOT, "inputs": [[{"link": 1 << 70}]]}]}).encode(),
    json.dumps({"records": [{"digest": ROOT, "inputs": [[{"link": True}]]}]}).encode(),
    json.dumps({"records": [{"digest": ROOT, "inputs": [[]]}]}).encode(),
    json.dumps({"records": [{"digest": "random:1"}]}).encode(),
    json.dumps({"layers": [{"blob": LAYER}], "records": RECORDS}).encode(),  # stands on itself
    json.dumps({"layers": [{"blob": LAYER, "parent": n ^ 1} for n in range(2)]}).encode(),
    json.dumps({"layers": [{"blob": LAYER, "parent": 7}]}).encode(),
    cache_config([RECORDS[0], {**RECORDS[1], "layers": [{"layer": 9, "createdAt": NOW}]}]),
    cache_config([RECORDS[0], {**RECORDS[1], "layers": [{"layer": -1, "createdAt": NOW}]}]),
    cache_config([RECORDS[0], {**RECORDS[1], "layers": [{"layer": 0, "createdAt": "yesterday"}]}]),
    cache_config([RECORDS[0], {**RECORDS[1], "chains": [{"layers": [0, 5], "createdAt": NOW}]}]),
    b'{"records":[{"digest":"\\ud800"}]}',
    b"\xff\xfe{}",
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_config_is_at_most_one_warning(
    fake: FakeRegistry, importer: Importer, content: bytes
) -> None:
    tag_cache(fake, content)
    graphs = importer()
    assert not results(graphs)
    assert len(importer.warnings) <= 1
    for graph in graphs:
        CacheIndex().ingest(graph)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([ROOT, LAYER, NOW]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["digest", "inputs", "layers", "chains", "link", "selector", "layer", "createdAt", "blob"]
            )
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=JSON,
    manifest=st.fixed_dictionaries(
        {}, optional={"layers": JSON, "config": JSON, "manifests": JSON, "annotations": JSON, "subject": JSON}
    ),
    media_type=st.sampled_from([OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX, DOCKER_LIST, "x/y"]),
    real=st.booleans(),
)
def test_any_json_anywhere_is_at_most_one_warning(
    fake: FakeRegistry, importer: Importer, config: Any, manifest: Any, media_type: str, real: bool
) -> None:
    raw = json.dumps(config).encode()
    whole = {"mediaType": media_type, **manifest}
    if real:
        described = descriptor(fake, raw, CACHE_CONFIG)
        whole = {"layers": [layer()], **whole, "config": described, "manifests": [described]}
    fake.tag("app", "1", json.dumps(whole).encode(), media_type)
    graphs = importer()
    assert len(importer.warnings) <= 1
    for graph in graphs:
        CacheIndex().ingest(graph)


def many_links(count: int) -> bytes:
    """Every record can come from every one of `count` roots."""
    links = [{"link": n} for n in range(count)]
    roots = [{"digest": Digest.of(str(n))} for n in range(count)]
    steps = [{"digest": Digest.of(f"s{n}"), "inputs": [links]} for n in range(count)]
    return json.dumps({"layers": [{"blob": LAYER, "parent": -1}], "records": roots + steps}).encode()


def many_results(count: int) -> bytes:
    """Each of many records lists one very long chain."""
    chain = {"layers": [0] * count, "createdAt": NOW}
    steps = [
        {"digest": Digest.of(f"s{n}"), "inputs": [[{"link": 0}]], "chains": [chain]} for n in range(count)
    ]
    return cache_config([RECORDS[0], *steps])


def tower(count: int) -> bytes:
    """Layers on layers, and a result on each."""
    layers = [{"blob": LAYER, "parent": n - 1} for n in range(count)]
    steps = [
        {
            "digest": Digest.of(f"s{n}"),
            "inputs": [[{"link": n}]],
            "layers": [{"layer": n, "createdAt": NOW}],
        }
        for n in range(count)
    ]
    return json.dumps({"layers": layers, "records": [RECORDS[0], *steps]}).encode()


@pytest.mark.parametrize("make", [many_links, many_results, tower])
def test_memory_is_a_multiple_of_the_configs_size(
    fake: FakeRegistry, importer: Importer, make: Callable[[int], bytes]
) -> None:
    config = make(1200 if make is tower else 250)
    tag_cache(fake, config)
    importer()  # whatever is loaded or made but once
    tracemalloc.start()
    try:
        graphs = importer()
        for graph in graphs:
            CacheIndex().ingest(graph)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert graphs
    assert not importer.warnings
    assert peak < 40 * len(config)


def grid(width: int) -> bytes:
    """Steps of one kind, each from one of `width` keys and one of `width` others."""
    roots = [{"digest": Digest.of(str(n))} for n in range(2 * width)]
    steps = [
        {"digest": STEP, "inputs": [[{"link": n}], [{"link": width + m}]]}
        for n in range(width)
        for m in range(width)
    ]
    return json.dumps({"layers": [{"blob": LAYER, "parent": -1}], "records": roots + steps}).encode()


def star(count: int) -> bytes:
    """Steps of one kind, all from one key and each from two of a few others."""
    few = count // 100
    roots = [{"digest": Digest.of(str(n))} for n in range(1 + few + 100)]
    steps = [
        {"digest": STEP, "inputs": [[{"link": 1 + n % few}], [{"link": 1 + few + n // few}], [{"link": 0}]]}
        for n in range(count)
    ]
    return json.dumps({"layers": [{"blob": LAYER, "parent": -1}], "records": roots + steps}).encode()


@pytest.mark.parametrize(("make", "small", "large"), [(grid, 65, 130), (star, 3_000, 12_000)])
def test_the_time_it_takes_grows_with_the_config_and_no_faster(
    make: Callable[[int], bytes], small: int, large: int
) -> None:
    def seconds(raw: bytes) -> float:
        gc.disable()  # it would look through all that the tests before have left, the oftener the more there is to do
        try:
            started = time.process_time()
            CacheIndex().ingest(graph_of(parse_config(raw), {}, None))
            return time.process_time() - started
        finally:
            gc.enable()

    few, many = make(small), make(large)
    assert len(many) < 5 * len(few)
    assert min(seconds(many) for _ in range(2)) < 10 * min(seconds(few) for _ in range(3))
