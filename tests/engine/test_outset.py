"""What is asked before the build itself begins."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import pytest

from inlay.digest import Digest
from inlay.engine.outset import Outset
from inlay.notation import parse_cache_from
from inlay.oci.descriptor import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor
from inlay.reference import parse as parse_reference
from inlay.registry.repository import Repository
from inlay.request import BuildRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fake_registry import Exchange, FakeRegistry

LAYERS = [b"layer %d" % n for n in range(8)]


@pytest.fixture
def request_with_cache(fake: FakeRegistry, tmp_path: Path) -> BuildRequest:
    """A build whose cache is an image of eight layers."""
    for blob in (b"{}", *LAYERS):
        fake.put(blob)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(OCI_CONFIG, Digest.of(b"{}"), 2).to_json(),
        "layers": [Descriptor(OCI_LAYER, Digest.of(layer), len(layer)).to_json() for layer in LAYERS],
    }
    fake.tag("app", "latest", json.dumps(manifest).encode(), OCI_MANIFEST)
    (tmp_path / "context").mkdir()
    cache = parse_cache_from(f"type=registry,ref={fake.host}/app")
    return BuildRequest(context=str(tmp_path / "context"), root=str(tmp_path / "root"), cache_from=(cache,))


@pytest.fixture
def begin(fake: FakeRegistry, request_with_cache: BuildRequest) -> Iterator[Callable[[], Outset]]:
    """Begins the outset of that build, and waits until all layers have been asked for."""
    begun: list[Outset] = []

    def begin() -> Outset:
        begun.append(Outset(request_with_cache).begin())
        until = time.monotonic() + 10
        while len(fake.seen("HEAD")) < len(LAYERS):
            assert time.monotonic() < until
            time.sleep(0.001)
        return begun[-1]

    yield begin
    for outset in begun:
        outset.places.cancel()
        outset.places.close()


def test_a_far_registry_is_asked_for_layers_on_several_connections(
    fake: FakeRegistry, begin: Callable[[], Outset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Repository, "is_far", True)  # nothing that is far can be reached from a test
    meet = threading.Barrier(4, timeout=10)

    def answer_together(registry: FakeRegistry, exchange: Exchange) -> bool:
        meet.wait()  # until four are asked at a time: three for layers, one for the config or a layer
        return True

    fake.fault("", "/blobs/", answer_together, times=4)
    begin()
    assert len(set(fake.seen("HEAD"))) == len(LAYERS)


def test_one_on_this_machine_is_asked_on_one(fake: FakeRegistry, begin: Callable[[], Outset]) -> None:
    begin()
    assert fake.connections == 1


def test_what_was_asked_is_not_asked_again(fake: FakeRegistry, begin: Callable[[], Outset]) -> None:
    outset = begin()
    repository = outset.places.repository(parse_reference(f"{fake.host}/app:latest"))
    for layer in LAYERS:
        assert repository.has_blob(Descriptor(OCI_LAYER, Digest.of(layer), len(layer)))
    assert len(fake.seen("HEAD")) == len(LAYERS)
