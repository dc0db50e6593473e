"""One repository of a registry: what it has, pulling from it, pushing to it (OCI distribution spec 1.1).

All methods block, may be called from any thread, and raise `RegistryError`s that name the reference.
"""

from __future__ import annotations

from inlay.content.store import VerifyingReader
from inlay.digest import Digest
from inlay.errors import ContentError
from inlay.oci.descriptor import Descriptor
from inlay.registry.client import Client
from inlay.registry.url import Url, is_loopback
from inlay.typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import BinaryIO, Protocol

    from inlay.oci.image import Index, Manifest
    from inlay.registry.ahead import Question
    from inlay.registry.client import Endpoint
    from inlay.registry.dial import Abort
    from inlay.registry.transport import Transport
    from inlay.registry.upload import Pushed

    class _Find(Protocol):
        """How a question is answered: with what `find` finds, or found before."""

        def __call__(self, question: Question, find: Callable[[], T], /) -> T: ...


T = TypeVar("T")

_SMALL_BLOB = 64 << 10


class Repository:
    """`host` is a registry as references name it (`docker.io`, `localhost:5000`), `path` the rest without tag
    (`library/busybox`). Itself a `BlobSource`."""

    __slots__ = ("_client", "_find", "host", "path", "transport")

    def __init__(self, host: str, path: str, transport: Transport, find: _Find | None = None) -> None:
        """Questions that may have been asked ahead go through `find`, by default to who has the answers."""
        self.host = host
        self.path = path
        self.transport = transport
        self._client = Client(host, path, transport)
        self._find = find or transport.ahead.answer

    def __str__(self) -> str:
        return str(self._client)

    def within(self, abort: Abort) -> Repository:
        """The same repository; `abort` ends its calls."""
        return Repository(self.host, self.path, self.transport.within(abort))

    def ahead(self) -> Repository:
        """The same repository, for somebody who does not need the answers, but knows that they will be needed."""
        return Repository(self.host, self.path, self.transport, self.transport.ahead.ask)

    @property
    def is_far(self) -> bool:
        """Whether an answer takes its time: the registry is not on this machine."""
        return not is_loopback(Url.of_host("https", self.host, "/").host)

    def connect(self) -> None:
        """Open a connection to the registry, for the next request to find."""
        if not self._client.mirrors:
            self.transport.connect(self.transport.url(self.host, "/"))

    def fetch_manifest(self, ref: str) -> Manifest | Index:
        """Pull the manifest or index that a tag or digest names, verified. Raises `ContentError` for one that
        is malformed or larger than 4 MiB."""
        question = ("manifest", self.host, self.path, ref)
        return self._find(question, lambda: self._client.fetch_manifest(ref))

    def has_blob(self, descriptor: Descriptor) -> bool:
        digest, size = descriptor.digest, descriptor.size
        question = ("has blob", self.host, self.path, digest)
        return self._find(question, lambda: self._client.read(lambda at: self._has_blob_at(at, digest, size)))

    def _has_blob_at(self, endpoint: Endpoint, digest: Digest, size: int) -> bool:
        if endpoint is self._client.own:
            return self._has_blob(digest, size, self._client.pull_scope)
        request = self._client.request(
            "HEAD", f"blobs/{digest}", "look for a blob in", str(self), endpoint=endpoint
        )
        with self.transport.open(request) as response:
            if response.status != 200:
                raise self.transport.refusal(response, request)
            return True

    def _has_blob(self, digest: Digest, size: int, scopes: frozenset[str]) -> bool:
        request = self._client.request("HEAD", f"blobs/{digest}", "look for a blob in", str(self))
        request = request._replace(scopes=scopes)
        with self.transport.open(request) as response:
            if response.status == 404:
                return False
            if response.status != 200:
                raise self.transport.refusal(response, request)
            length = response.header("content-length")
            return not length.isdigit() or int(length) == size

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        if descriptor.size > limit:
            named = self._client.named(descriptor.digest)
            raise ContentError(f"{named} has {descriptor.size} bytes, more than the {limit} that are read")

        def find() -> bytes:
            with self.open_blob(descriptor) as stream:
                return stream.read()

        return self._find(("blob", self.host, self.path, descriptor.digest), find)

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        """Open a blob for streaming; where the connection is lost, it goes on from there on a new one."""
        from inlay.registry.download import BlobReader

        reader = cast("BinaryIO", BlobReader(self._client, descriptor, offset))
        if verify and not offset:
            return cast("BinaryIO", VerifyingReader(reader, descriptor, place=str(self)))
        return reader

    def push_blob(
        self,
        descriptor: Descriptor,
        open_source: Callable[[], BinaryIO],
        *,
        mount_from: str = "",
        is_new: bool = False,
    ) -> Pushed:
        """Bring a blob in, unless it is here: by a mount from the repository `mount_from` of this registry,
        or with the bytes of `open_source` (opened again for each new attempt).

        Whether a small one is here is not asked first. One that `is_new` goes where an upload is open, if there is
        such; and to mount any other from this very repository opens an upload where it is not: one request less for
        each blob that is new, as most small ones are.
        """
        from inlay.registry.upload import push_blob

        here, pushed = (self.host, self.path, descriptor.digest), self.transport.pushed
        if here in pushed:
            return "exists"
        is_small = descriptor.size <= _SMALL_BLOB
        if not is_small and self._has_blob(descriptor.digest, descriptor.size, self._client.push_scope):
            return "exists"
        place = self._take_upload() if is_new and not mount_from else None
        asks_here = is_small and place is None and not mount_from
        mount = self.path if asks_here else mount_from
        done = push_blob(self._client, descriptor, open_source, mount_from=mount, place=place)
        pushed.add(here)
        return "exists" if done == "mounted" and asks_here else done

    @property
    def open_uploads(self) -> int:
        """How many uploads were opened and not used yet."""
        return len(self.transport.uploads.get((self.host, self.path), ()))

    def open_upload(self) -> None:
        """Open an upload for a blob that is still to be made: a request less, and a connection, when it is pushed."""
        from inlay.registry.upload import open_upload

        self.transport.uploads.setdefault((self.host, self.path), []).append(open_upload(self._client))

    def cancel_upload(self) -> None:
        """Give up one of the uploads that were opened and not used, if there is one."""
        from inlay.registry.upload import cancel_upload

        place = self._take_upload()
        if place is not None:
            cancel_upload(self._client, place)

    def _take_upload(self) -> Url | None:
        try:
            return self.transport.uploads[self.host, self.path].pop()
        except LookupError:
            return None

    def has_manifest(self, descriptor: Descriptor, ref: str) -> bool:
        """Whether `ref` names just this manifest here, so that what it refers to is here too."""
        return self.look_up(ref) == descriptor.digest

    def note(self, ref: str, digest: str) -> None:
        """Answer `look_up` ahead: `digest` is what the registry has just sent for `ref`."""
        if not self._client.mirrors:
            self._find(("tag", self.host, self.path, ref), lambda: digest)

    def look_up(self, ref: str) -> str:
        """The digest that the registry itself, no mirror, has under `ref`; empty where it has none, or does not
        say."""
        return self._find(("tag", self.host, self.path, ref), lambda: self._client.look_up(ref))

    def push_manifest(self, raw: bytes, media_type: str, ref: str = "") -> Descriptor:
        """Push a manifest or index under a tag, or, by default, its digest alone."""
        self._client.put_manifest(raw, media_type, ref)
        return Descriptor(media_type, Digest.of(raw), len(raw))

    # -- referrers -----------------------------------------------------------------------------------

    def referrers(self, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Descriptors of the manifests whose subject is `subject`, of one artifact type where that is given;
        from the referrers API, or the tag that stands in for it."""
        from inlay.registry.referrers import find_referrers

        found = find_referrers(self._client, subject, artifact_type)
        return tuple(d for d in found if not artifact_type or d.artifact_type == artifact_type)

    def push_referrer(
        self, raw: bytes, referrer: Descriptor, subject: Digest, replaced: Sequence[Descriptor] = ()
    ) -> None:
        """Push a manifest whose subject is `subject` (`referrer` describes it, with its artifact type) so that
        `referrers` lists it, in the place of those that are `replaced`."""
        from inlay.registry.referrers import push_referrer

        push_referrer(self._client, raw, referrer, subject, replaced)
