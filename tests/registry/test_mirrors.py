"""Mirrors are asked first, and a registry has the last word."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from fake_registry import MANIFEST_TYPE, FakeRegistry, answer
from inlay.digest import Digest
from inlay.errors import NotFound, UsageError
from inlay.notation import parse_mirror
from inlay.oci.descriptor import OCI_CONFIG, OCI_LAYER, Descriptor
from inlay.registry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inlay.registry.transport import Transport


@pytest.fixture
def mirror() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    yield registry
    registry.close()


LAYER = b"layer"


def fill(registry: FakeRegistry, path: str) -> None:
    config = Descriptor(OCI_CONFIG, Digest.of(b"{}"), 2)
    registry.put(b"{}")
    registry.put(LAYER)
    layer = Descriptor(OCI_LAYER, Digest.of(LAYER), len(LAYER))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config.to_json(),
        "layers": [layer.to_json()],
    }
    registry.tag(path, "1", json.dumps(manifest).encode())


def pull(transport: Transport, host: str) -> bytes:
    repository = Repository(host, "app", transport)
    (layer,) = repository.fetch_manifest("1").layers  # type: ignore[union-attr]
    assert repository.has_blob(layer)
    return repository.read_blob(layer, 100)


def test_a_mirror_is_asked_and_the_registry_is_not(
    fake: FakeRegistry, mirror: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    fill(mirror, "hub/app")
    transport = connect(mirrors={fake.host: (f"{mirror.host}/hub",)})
    assert pull(transport, fake.host) == LAYER
    assert fake.requests == []
    assert mirror.seen("GET") == ["GET /v2/hub/app/manifests/1", f"GET /v2/hub/app/blobs/{Digest.of(LAYER)}"]


def test_what_a_mirror_does_not_have_comes_from_the_registry(
    fake: FakeRegistry, mirror: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    fill(fake, "app")
    transport = connect(mirrors={fake.host: (mirror.host,)})
    assert pull(transport, fake.host) == LAYER
    assert mirror.requests
    with pytest.raises(NotFound, match=fake.host):
        Repository(fake.host, "other", transport).fetch_manifest("1")


def test_a_mirror_that_is_broken_or_lies_does_no_harm(
    fake: FakeRegistry, mirror: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    fill(fake, "app")
    fill(mirror, "app")
    transport = connect(mirrors={fake.host: (mirror.host,)})
    manifest = Repository(fake.host, "app", transport).fetch_manifest("1")
    for fault in (answer(500, b""), answer(200, b"lies")):
        mirror.fault("GET", "/manifests/", fault, times=2)
        again = Repository(fake.host, "app", transport).fetch_manifest(manifest.descriptor.digest)
        assert again.descriptor == manifest.descriptor


def test_a_mirror_that_does_not_answer_is_asked_once(
    fake: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    fill(fake, "app")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = connect(
            mirrors={fake.host: (f"127.0.0.1:{listener.getsockname()[1]}",)}, read_timeout_s=0.2
        )
        assert pull(transport, fake.host) == LAYER
        assert len(transport.silent) == 1
        listener.settimeout(0)
        connections = 0
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
            connections += 1
        assert connections == 2


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("docker.io=mirror.example", ("docker.io", "mirror.example")),
        ("index.docker.io=https://mirror.example/hub/", ("docker.io", "https://mirror.example/hub")),
        ("localhost:5000=http://10.0.0.1:5000", ("localhost:5000", "http://10.0.0.1:5000")),
    ],
)
def test_mirrors_as_users_write_them(text: str, pair: tuple[str, str]) -> None:
    assert parse_mirror(text) == pair


@pytest.mark.parametrize(
    "text", ["docker.io", "=x", "docker.io=", "docker.io=ftp://x", "a/b=c", "docker.io=https://"]
)
def test_what_is_no_mirror_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--registry-mirror"):
        parse_mirror(text)
