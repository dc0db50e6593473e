"""Referrers: listed by the registry itself, or in an index that many tools write."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from test_repository import push_image

from fake_registry import Exchange, FakeRegistry, answer
from inlay.digest import Digest
from inlay.errors import ContentError, RegistryError
from inlay.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from inlay.oci.referrers import referrers_tag, with_referrer
from inlay.registry.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inlay.registry.transport import Transport

CACHE = "application/vnd.example.cache"
SIGNATURE = "application/vnd.example.signature"


@pytest.fixture(params=["docker-registry", "fake", "fake with conditions", "fake with referrers"])
def repository(request: pytest.FixtureRequest, transport: Transport) -> Iterator[Repository]:
    path = f"test/{uuid4().hex}"
    if request.param == "docker-registry":
        yield Repository(request.getfixturevalue("docker_registry").host, path, transport)
        return
    fake = FakeRegistry(
        referrers="referrers" in request.param, heeds_conditions="conditions" in request.param
    )
    yield Repository(fake.host, path, transport)
    fake.close()


def referrer(
    repository: Repository, subject: Descriptor, kind: str = CACHE, *, note: str = ""
) -> tuple[bytes, Descriptor]:
    """A manifest about `subject`, not pushed yet; its blobs are those of an image that is there."""
    config = json.loads(repository.fetch_manifest(subject.digest).raw)["config"]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": kind,
        "config": config,
        "layers": [],
        "subject": subject.to_json(),
        "annotations": {"note": note or uuid4().hex},
    }
    raw = json.dumps(manifest).encode()
    return raw, Descriptor(OCI_MANIFEST, Digest.of(raw), len(raw), artifact_type=kind)


def push(repository: Repository, subject: Descriptor, kind: str = CACHE, replaced: Any = ()) -> Descriptor:
    raw, described = referrer(repository, subject, kind)
    repository.push_referrer(raw, described, subject.digest, replaced)
    return described


def listed(repository: Repository, subject: Descriptor, kind: str = "") -> set[str]:
    return {str(each.digest) for each in repository.referrers(subject.digest, kind)}


def test_what_refers_to_an_image_is_found(repository: Repository) -> None:
    image, other = push_image(repository, "v1", b"x"), push_image(repository, "v2", b"y")
    cache, signature = push(repository, image), push(repository, image, SIGNATURE)
    push(repository, other)
    assert listed(repository, image) == {cache.digest, signature.digest}
    assert listed(repository, image, CACHE) == {cache.digest}


def test_the_older_one_is_replaced_and_what_others_wrote_stays(repository: Repository) -> None:
    image = push_image(repository, "v1", b"x")
    signature, first = push(repository, image, SIGNATURE), push(repository, image)
    second = push(repository, image, replaced=[first])
    assert listed(repository, image) == {signature.digest, second.digest}
    with pytest.raises(RegistryError):
        repository.fetch_manifest(first.digest)


def test_pushing_the_same_again_changes_nothing(repository: Repository) -> None:
    image = push_image(repository, "v1", b"x")
    raw, described = referrer(repository, image)
    for _ in range(2):
        repository.push_referrer(raw, described, image.digest, [described])
    assert listed(repository, image) == {described.digest}


def test_no_referrer_is_lost_when_many_are_pushed_at_once(
    repository: Repository, connect: Callable[..., Transport]
) -> None:
    image = push_image(repository, "v1", b"x")
    pushed: list[str] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            mine = Repository(repository.host, repository.path, connect())
            pushed.append(push(mine, image).digest)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert listed(repository, image) == set(pushed)


def test_a_change_that_another_writer_undid_is_made_again(transport: Transport) -> None:
    fake = FakeRegistry()
    repository = Repository(fake.host, "app", transport)
    image = push_image(repository, "v1", b"x")
    signature = push(repository, image, SIGNATURE)
    before = fake.manifests[f"app:{referrers_tag(image.digest)}"]
    theirs = Descriptor(OCI_MANIFEST, Digest.of(b"theirs"), 6, artifact_type=SIGNATURE)

    def overtake(registry: FakeRegistry, exchange: Exchange) -> None:
        """Answer as if it were written, then write what somebody who read before wanted to."""
        exchange.reply(201)
        registry.tag("app", referrers_tag(image.digest), with_referrer(before[1], theirs), OCI_INDEX)

    fake.fault("PUT", f"/manifests/{referrers_tag(image.digest)}", overtake)
    cache = push(repository, image)
    assert listed(repository, image) == {signature.digest, theirs.digest, cache.digest}
    fake.close()


def test_others_that_never_stop_writing_are_an_error_after_a_while(transport: Transport) -> None:
    fake = FakeRegistry(heeds_conditions=True)
    repository = Repository(fake.host, "app", transport)
    image = push_image(repository, "v1", b"x")
    fake.fault("PUT", f"/manifests/{referrers_tag(image.digest)}", answer(412), times=1000)
    with pytest.raises(RegistryError, match="others change it at the same time; try again later"):
        push(repository, image)
    fake.close()


def test_who_may_not_delete_may_push(transport: Transport) -> None:
    fake = FakeRegistry(referrers=True)
    repository = Repository(fake.host, "app", transport)
    image = push_image(repository, "v1", b"x")
    first = push(repository, image)
    fake.fault("DELETE", "", answer(405), times=9)
    second = push(repository, image, replaced=[first])
    assert listed(repository, image) == {first.digest, second.digest}
    fake.close()


def test_pages_of_referrers_are_all_read(transport: Transport) -> None:
    fake = FakeRegistry(referrers=True)
    fake.page = 2
    repository = Repository(fake.host, "app", transport)
    image = push_image(repository, "v1", b"x")
    pushed = {push(repository, image).digest for _ in range(5)}
    assert listed(repository, image) == pushed
    fake.close()


def test_a_tag_that_is_no_index_is_left_alone(transport: Transport) -> None:
    fake = FakeRegistry()
    repository = Repository(fake.host, "app", transport)
    image = push_image(repository, "v1", b"x")
    other = push_image(repository, referrers_tag(image.digest), b"y")
    with pytest.raises(ContentError, match="is no index"):
        push(repository, image)
    assert repository.fetch_manifest(referrers_tag(image.digest)).descriptor == other
    fake.close()


def test_what_others_wrote_in_the_index_is_kept_to_the_letter() -> None:
    theirs = {
        "mediaType": OCI_MANIFEST,
        "digest": "sha256:" + "a" * 64,
        "size": 1,
        "data": "eA==",
        "urls": ["u"],
    }
    raw = json.dumps({"schemaVersion": 2, "manifests": [theirs], "annotations": {"a": "é"}}).encode()
    mine = Descriptor(OCI_MANIFEST, Digest.of(b"mine"), 4, artifact_type=CACHE)
    index = json.loads(with_referrer(raw, mine))
    assert index["manifests"] == [theirs, mine.to_json()]
    assert index["annotations"] == {"a": "é"}
    assert with_referrer(raw, Descriptor("", Digest("sha256:" + "a" * 64), 1)) == raw


def test_a_long_digest_is_cut_in_the_tag() -> None:
    assert referrers_tag(Digest.parse("sha512:" + "ab" * 64)) == "sha512-" + "ab" * 32
