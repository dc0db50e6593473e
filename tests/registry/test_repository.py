"""Repository against a real registry and the fake: what both must do alike."""

from __future__ import annotations

import io
import json
import threading
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from fake_registry import answer
from inlay.digest import Digest
from inlay.errors import ContentError, DigestMismatch, NotFound, RegistryError, UsageError
from inlay.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Descriptor
from inlay.registry.repository import Repository
from inlay.registry.transport import Request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fake_registry import Exchange, FakeRegistry
    from inlay.registry.transport import Transport


LARGE = bytes(100_000)


def describe(data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    return Descriptor(media_type, Digest.of(data), len(data))


@pytest.fixture
def repository(host: str, transport: Transport) -> Repository:
    return Repository(host, f"test/{uuid4().hex}", transport)


def push(repository: Repository, data: bytes, mount_from: str = "", *, is_new: bool = False) -> str:
    return repository.push_blob(
        describe(data), lambda: io.BytesIO(data), mount_from=mount_from, is_new=is_new
    )


def push_image(repository: Repository, tag: str, *layers: bytes) -> Descriptor:
    config = json.dumps({"nonce": uuid4().hex}).encode()
    for blob in (config, *layers):
        push(repository, blob)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": describe(config, OCI_CONFIG).to_json(),
        "layers": [describe(layer).to_json() for layer in layers],
    }
    return repository.push_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, tag)


def test_an_image_that_was_pushed_is_pulled_the_same(repository: Repository) -> None:
    pushed = push_image(repository, "v1", b"layer one", b"layer two")
    manifest = repository.fetch_manifest("v1")
    assert manifest == repository.fetch_manifest(pushed.digest)
    assert manifest.descriptor == pushed
    assert [repository.read_blob(layer, 100) for layer in manifest.layers] == [b"layer one", b"layer two"]  # type: ignore[union-attr]


def test_a_manifest_is_there_under_the_names_that_it_has(repository: Repository) -> None:
    one, other = push_image(repository, "v1", b"one"), push_image(repository, "v2", b"other")
    assert repository.has_manifest(one, "v1")
    assert repository.has_manifest(one, one.digest)
    assert not repository.has_manifest(one, "v2")
    assert not repository.has_manifest(other, "v3")


def test_an_index_is_told_from_a_manifest(repository: Repository) -> None:
    image = push_image(repository, "v1", b"x")
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [image.to_json()]}
    repository.push_manifest(json.dumps(index).encode(), OCI_INDEX, "multi")
    fetched = repository.fetch_manifest("multi")
    assert fetched.media_type == OCI_INDEX
    assert fetched.manifests == (image,)  # type: ignore[union-attr]


def test_a_blob_is_pushed_once(repository: Repository) -> None:
    data = uuid4().bytes * 1000
    assert not repository.has_blob(describe(data))
    assert push(repository, data) == "pushed"
    assert repository.has_blob(describe(data))
    sent = repository.transport.traffic.pushed
    assert push(repository, data) == "exists"
    assert repository.transport.traffic.pushed == sent == len(data)


def test_a_blob_of_another_repository_is_mounted(repository: Repository) -> None:
    data = uuid4().bytes
    push(repository, data)
    other = Repository(repository.host, f"other/{uuid4().hex}", repository.transport)
    sent = repository.transport.traffic.pushed
    assert push(other, data, mount_from=repository.path) == "mounted"
    assert repository.transport.traffic.pushed == sent
    assert other.read_blob(describe(data), 100) == data


def test_what_was_pushed_is_not_looked_for_again(
    fake: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    transport = connect()
    for _ in range(2):
        push(Repository(fake.host, "app", transport), LARGE)
    assert len(fake.seen("HEAD")) == 1
    push(Repository(fake.host, "other", transport), LARGE)
    assert len(fake.seen("HEAD")) == 2


def test_a_new_small_blob_takes_two_requests(fake: FakeRegistry, connect: Callable[..., Transport]) -> None:
    assert push(Repository(fake.host, "app", connect()), b"data") == "pushed"
    digest = describe(b"data").digest.replace(":", "%3A")
    assert fake.seen() == [
        f"POST /v2/app/blobs/uploads/?mount={digest}&from=app",
        f"PUT /v2/app/blobs/uploads/ID?state=1&digest={digest}",
    ]


def test_a_small_blob_that_is_here_takes_one_request(
    repository: Repository, connect: Callable[..., Transport]
) -> None:
    data = uuid4().bytes
    push(repository, data)
    later = Repository(repository.host, repository.path, connect())
    sent = later.transport.traffic.pushed
    assert push(later, data) == "exists"
    assert later.transport.traffic.pushed == sent


def test_a_new_blob_goes_to_an_upload_that_was_opened_for_it(
    fake: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    repository = Repository(fake.host, "app", connect())
    repository.open_upload()
    assert repository.open_uploads == 1
    assert push(repository, b"data", is_new=True) == "pushed"
    assert repository.open_uploads == 0
    assert fake.seen() == [
        "POST /v2/app/blobs/uploads/",
        f"PUT /v2/app/blobs/uploads/ID?state=1&digest={describe(b'data').digest.replace(':', '%3A')}",
    ]


def test_what_was_opened_serves_small_and_large_blobs(repository: Repository) -> None:
    blobs = [uuid4().bytes, uuid4().bytes * 10_000]
    for _ in blobs:
        repository.open_upload()
    for blob in blobs:
        assert push(repository, blob, is_new=True) == "pushed"
        assert repository.read_blob(describe(blob), len(blob)) == blob
    assert repository.open_uploads == 0


@pytest.mark.parametrize("data", [LARGE, b"small"])
def test_what_is_not_new_leaves_an_open_upload_alone(data: bytes, repository: Repository) -> None:
    push(repository, data)
    repository.transport.pushed.clear()
    repository.open_upload()
    assert push(repository, data) == "exists"
    assert repository.open_uploads == 1


def test_an_upload_that_is_not_used_is_given_up(repository: Repository) -> None:
    repository.open_upload()
    ((place,),) = repository.transport.uploads.values()
    status = Request("GET", place, "look at", "an upload", repository.host)
    with repository.transport.open(status) as response:
        assert response.status == 204
    repository.cancel_upload()
    with repository.transport.open(status) as response:
        assert response.status == 404


def test_an_upload_that_the_registry_forgot_is_opened_again(
    fake: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    repository = Repository(fake.host, "app", connect())
    repository.open_upload()
    fake.uploads.clear()
    assert push(repository, b"data", is_new=True) == "pushed"
    assert fake.blobs[describe(b"data").digest] == b"data"


@pytest.mark.parametrize("is_opened", [True, False])
@pytest.mark.parametrize("data", [LARGE, b"small" * 1000])
def test_a_push_that_breaks_off_goes_on_from_there(
    data: bytes, is_opened: bool, fake: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    def take_half(fake: FakeRegistry, exchange: Exchange) -> None:
        fake.uploads[exchange.path.rpartition("/")[2]] += exchange.body[: len(data) // 2]
        exchange.close_after = True

    repository = Repository(fake.host, "app", connect())
    if is_opened:
        repository.open_upload()
    fake.fault("PUT", "/uploads/", take_half)
    assert push(repository, data, is_new=is_opened) == "pushed"
    assert fake.blobs[describe(data).digest] == data
    assert len(fake.seen("POST")) == 1
    assert len(fake.seen("PATCH")) == 1


def test_where_a_mount_leads_nowhere_the_bytes_go_to_another_upload(
    fake: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    fake.fault("POST", "mount=", answer(202, Location="/v2/app/blobs/uploads/nowhere"))
    assert push(Repository(fake.host, "app", connect()), b"data") == "pushed"
    assert fake.blobs[describe(b"data").digest] == b"data"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 416, 429, 500, 501, 503])
def test_a_registry_that_fails_at_mounts_gets_the_bytes(
    status: int, fake: FakeRegistry, connect: Callable[..., Transport]
) -> None:
    fake.fault("POST", "mount=", answer(status))
    assert push(Repository(fake.host, "app", connect()), b"data") == "pushed"
    assert fake.blobs[describe(b"data").digest] == b"data"


def test_a_blob_that_the_other_repository_lacks_is_pushed(repository: Repository) -> None:
    data = uuid4().bytes
    assert push(repository, data, mount_from="no/such") == "pushed"
    assert repository.read_blob(describe(data), 100) == data


def test_an_empty_blob_goes_both_ways(repository: Repository) -> None:
    push(repository, b"")
    assert repository.read_blob(describe(b""), 10) == b""


def test_files_are_pushed_from_disk(repository: Repository, tmp_path: Path) -> None:
    data = uuid4().bytes * 200_000
    (tmp_path / "blob").write_bytes(data)
    outcome = repository.push_blob(describe(data), lambda: (tmp_path / "blob").open("rb"))
    assert outcome == "pushed"
    with repository.open_blob(describe(data)) as stream:
        assert stream.read() == data


def test_a_push_of_other_bytes_is_refused(repository: Repository) -> None:
    data = uuid4().bytes
    with pytest.raises(RegistryError, match="400"):
        repository.push_blob(describe(data), lambda: io.BytesIO(b"0123456789abcdef"))


def test_a_push_of_too_few_bytes_says_so(repository: Repository) -> None:
    data = uuid4().bytes
    with pytest.raises(ContentError, match="ended after 10 of its 16 bytes"):
        repository.push_blob(describe(data), lambda: io.BytesIO(data[:10]))


def test_reading_starts_at_an_offset(repository: Repository) -> None:
    data = uuid4().bytes * 100
    push(repository, data)
    for offset in (1, 700, 1599, 1600):
        with repository.open_blob(describe(data), offset) as stream:
            assert stream.read() == data[offset:]


def test_what_is_not_there_is_named(repository: Repository) -> None:
    with pytest.raises(NotFound, match=rf"{repository}:none"):
        repository.fetch_manifest("none")
    with pytest.raises(NotFound, match=r"pull the manifest of .*MANIFEST_UNKNOWN") as caught:
        repository.fetch_manifest("none")
    assert caught.value.reference == f"{repository}:none"
    assert caught.value.status == 404
    with pytest.raises(NotFound, match="BLOB_UNKNOWN"):
        repository.read_blob(describe(b"nothing"), 10)


def test_a_blob_over_the_limit_is_not_read(repository: Repository) -> None:
    push(repository, b"x" * 11)
    with pytest.raises(ContentError, match="11 bytes, more than the 10"):
        repository.read_blob(describe(b"x" * 11), 10)


def test_a_wrong_size_in_the_descriptor_is_noticed(repository: Repository) -> None:
    data = uuid4().bytes
    push(repository, data)
    for size in (15, 17):
        with pytest.raises(DigestMismatch):
            repository.read_blob(describe(data)._replace(size=size), 100)
        assert not repository.has_blob(describe(data)._replace(size=size))


def test_referrers_of_what_nobody_refers_to_are_none(repository: Repository) -> None:
    image = push_image(repository, "v1", b"x")
    assert repository.referrers(image.digest) == ()


def test_referrers_are_found_by_the_tag_that_stands_in(repository: Repository) -> None:
    image, one = push_image(repository, "v1", b"x"), push_image(repository, "sig", b"y")
    two = push_image(repository, "sbom", b"z")
    listed = [one._replace(artifact_type="a/sig").to_json(), two._replace(artifact_type="a/sbom").to_json()]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
    repository.push_manifest(json.dumps(index).encode(), OCI_INDEX, image.digest.replace(":", "-"))
    assert [d.digest for d in repository.referrers(image.digest)] == [one.digest, two.digest]
    assert [d.digest for d in repository.referrers(image.digest, "a/sbom")] == [two.digest]


def test_many_threads_share_connections(repository: Repository) -> None:
    blobs = [uuid4().bytes * 500 for _ in range(12)]
    errors: list[BaseException] = []

    def work(data: bytes) -> None:
        try:
            push(repository, data)
            assert repository.read_blob(describe(data), 1 << 20) == data
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(data,)) for data in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert repository.transport.traffic.pushed == repository.transport.traffic.pulled == 12 * 8000


@pytest.mark.parametrize("path", ["", "UPPER", "a/../b", "a//b", "a b", "a\r\nHost: x"])
def test_names_that_are_no_repository_are_refused(path: str, transport: Transport) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a repository"):
        Repository("localhost:1", path, transport)


@pytest.mark.parametrize("ref", ["a/b", "../x", "", "x" * 129, "a b", "sha256:12"])
def test_names_that_are_no_tag_are_refused(ref: str, transport: Transport) -> None:
    with pytest.raises((UsageError, ContentError)):
        Repository("localhost:1", "app", transport).fetch_manifest(ref)
