"""One repository of a registry: what it has, pulling from it, pushing to it (OCI distribution spec 1.1).

All methods block, may be called from any thread, and raise `RegistryError`s that name the reference.
"""

from __future__ import annotations

from inlay.content import VerifyingReader
from inlay.digest import Digest, hasher
from inlay.errors import ContentError, DigestMismatch, NotFound, RegistryError, UsageError
from inlay.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor
from inlay.oci.image import Index, Manifest, parse_manifest
from inlay.reference import is_path, is_tag
from inlay.registry.transport import Request, Transport
from inlay.registry.url import Url, is_loopback
from inlay.typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import BinaryIO, Literal, Protocol

    from inlay.registry.ahead import Question
    from inlay.registry.dial import Abort
    from inlay.registry.wire import Response

    Pushed = Literal["exists", "mounted", "pushed"]

    class _Find(Protocol):
        """How a question is answered: with what `find` finds, or found before."""

        def __call__(self, question: Question, find: Callable[[], T], /) -> T: ...


T = TypeVar("T")

MANIFEST_LIMIT = 4 << 20
_ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, "*/*;q=0.1"))
_SMALL_BLOB = 64 << 10
_ATTEMPTS_AT_MIRROR = 2


class Endpoint:
    """One host that serves a repository: its registry, or a mirror of that."""

    __slots__ = ("host", "path")

    def __init__(self, host: str, path: str) -> None:
        self.host = host
        self.path = path


class Repository:
    """`host` is a registry as references name it (`docker.io`, `localhost:5000`), `path` the rest without tag
    (`library/busybox`). Itself a `BlobSource`."""

    __slots__ = ("_find", "_mirrors", "_own", "host", "path", "transport")

    def __init__(self, host: str, path: str, transport: Transport) -> None:
        if not is_path(path):
            raise UsageError(f"{host}/{path}: {path!r:.100} cannot be the name of a repository")
        self.host = host
        self.path = path
        self.transport = transport
        self._find: _Find = transport.ahead.answer
        """Questions that may have been asked ahead go through this."""
        self._own = Endpoint(host, path)
        self._mirrors = [
            Endpoint(*f"{mirror.strip('/')}/{path}".split("/", 1))
            for mirror in transport.settings.mirrors.get(host, ())
        ]

    def __str__(self) -> str:
        return f"{self.host}/{self.path}"

    def within(self, abort: Abort) -> Repository:
        """The same repository; `abort` ends its calls."""
        return Repository(self.host, self.path, self.transport.within(abort))

    def ahead(self) -> Repository:
        """The same repository, for somebody who does not need the answers, but knows that they will be needed."""
        repository = Repository(self.host, self.path, self.transport)
        repository._find = self.transport.ahead.ask
        return repository

    @property
    def is_far(self) -> bool:
        """Whether an answer takes its time: the registry is not on this machine."""
        return not is_loopback(Url.of_host("https", self.host, "/").host)

    def connect(self) -> None:
        """Open a connection to the registry, for the next request to find."""
        if not self._mirrors:
            self.transport.connect(self.transport.url(self.host, "/"))

    def fetch_manifest(self, ref: str) -> Manifest | Index:
        """Pull the manifest or index that a tag or digest names, verified. Raises `ContentError` for one that
        is malformed or larger than 4 MiB."""
        question = ("manifest", self.host, self.path, ref)
        return self._find(question, lambda: self._read(lambda at: self._fetch_manifest_at(at, ref)))

    def _fetch_manifest_at(self, endpoint: Endpoint, ref: str) -> Manifest | Index:
        response, raw = self._fetch_raw(endpoint, ref)
        try:
            return parse_manifest(raw, response.header("content-type").partition(";")[0].strip())
        except ContentError as error:
            raise ContentError(f"{self._named(ref)}: {error}") from error

    def _fetch_raw(self, endpoint: Endpoint, ref: str) -> tuple[Response, bytes]:
        request = self._manifest_request("GET", endpoint, ref)
        response, raw = self.transport.fetch(request, limit=MANIFEST_LIMIT)
        if response.status != 200:
            raise self.transport.refusal(response, request, body=raw)
        self.transport.traffic.add_pulled(len(raw))
        expected = ref if ":" in ref else response.header("docker-content-digest")
        if expected and _digest_like(expected, raw) != expected:
            raise DigestMismatch(f"{self._named(ref)}: the manifest that came is not {expected:.100}")
        return response, raw

    def has_blob(self, descriptor: Descriptor) -> bool:
        digest, size = descriptor.digest, descriptor.size
        question = ("has blob", self.host, self.path, digest)
        return self._find(question, lambda: self._read(lambda at: self._has_blob_at(at, digest, size)))

    def _has_blob_at(self, endpoint: Endpoint, digest: Digest, size: int) -> bool:
        if endpoint is self._own:
            return self._has_blob(digest, size, self._pull_scope)
        request = self._request("HEAD", f"blobs/{digest}", "look for a blob in", str(self), endpoint=endpoint)
        with self.transport.open(request) as response:
            if response.status != 200:
                raise self.transport.refusal(response, request)
            return True

    def _has_blob(self, digest: Digest, size: int, scopes: frozenset[str]) -> bool:
        request = self._request("HEAD", f"blobs/{digest}", "look for a blob in", str(self))
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
            named = self._named(descriptor.digest)
            raise ContentError(f"{named} has {descriptor.size} bytes, more than the {limit} that are read")

        def find() -> bytes:
            with self.open_blob(descriptor) as stream:
                return stream.read()

        return self._find(("blob", self.host, self.path, descriptor.digest), find)

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        """Open a blob for streaming; where the connection is lost, it goes on from there on a new one."""
        from inlay.registry.download import BlobReader

        reader = cast("BinaryIO", BlobReader(self, descriptor, offset))
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
        if not is_small and self._has_blob(descriptor.digest, descriptor.size, self._push_scope):
            return "exists"
        place = self._take_upload() if is_new and not mount_from else None
        asks_here = is_small and place is None and not mount_from
        mount = self.path if asks_here else mount_from
        done = push_blob(self, descriptor, open_source, mount_from=mount, place=place)
        pushed.add(here)
        return "exists" if done == "mounted" and asks_here else done

    @property
    def open_uploads(self) -> int:
        """How many uploads were opened and not used yet."""
        return len(self.transport.uploads.get((self.host, self.path), ()))

    def open_upload(self) -> None:
        """Open an upload for a blob that is still to be made: a request less, and a connection, when it is pushed."""
        from inlay.registry.upload import open_upload

        self.transport.uploads.setdefault((self.host, self.path), []).append(open_upload(self))

    def cancel_upload(self) -> None:
        """Give up one of the uploads that were opened and not used, if there is one."""
        from inlay.registry.upload import cancel_upload

        place = self._take_upload()
        if place is not None:
            cancel_upload(self, place)

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
        if not self._mirrors:
            self._find(("tag", self.host, self.path, ref), lambda: digest)

    def look_up(self, ref: str) -> str:
        """The digest that the registry itself, no mirror, has under `ref`; empty where it has none, or does not
        say."""

        def find() -> str:
            request = self._manifest_request("HEAD", self._own, ref)._replace(scopes=self._push_scope)
            with self.transport.open(request) as response:
                return response.header("docker-content-digest") if response.status == 200 else ""

        return self._find(("tag", self.host, self.path, ref), find)

    def push_manifest(self, raw: bytes, media_type: str, ref: str = "") -> Descriptor:
        """Push a manifest or index under a tag, or, by default, its digest alone."""
        self.put_manifest(raw, media_type, ref)
        return Descriptor(media_type, Digest.of(raw), len(raw))

    def put_manifest(
        self, raw: bytes, media_type: str, ref: str = "", condition: Mapping[str, str] | None = None
    ) -> Response:
        """Push a manifest and return the answer, read; one of status 412 says that `condition` (headers such as
        If-Match) did not hold. Raises for every other refusal."""
        request = self._manifest_request("PUT", self._own, ref or Digest.of(raw))
        headers = {"Content-Type": media_type, **(condition or {})}
        request = request._replace(scopes=self._push_scope, headers=headers, body=raw)
        with self.transport.open(request) as response:
            if response.status == 412 and condition:
                return response
            if response.status not in (200, 201, 202):
                raise self.transport.refusal(response, request)
            stored = response.header("docker-content-digest")
        if stored and _digest_like(stored, raw) != stored:
            raise DigestMismatch(f"{request.reference}: the registry says it stored {stored:.100}")
        return response

    def delete_manifest(self, digest: Digest) -> None:
        """Ask that a manifest goes, and every tag of it. Many registries refuse: `RegistryError`."""
        request = self._manifest_request("DELETE", self._own, digest)
        scopes = frozenset((f"repository:{self.path}:pull,push,delete",))
        request = request._replace(action="delete the manifest of", scopes=scopes)
        with self.transport.open(request) as response:
            if response.status not in (200, 202, 404):
                raise self.transport.refusal(response, request)

    # -- referrers -----------------------------------------------------------------------------------

    def referrers(self, subject: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Descriptors of the manifests whose subject is `subject`, of one artifact type where that is given;
        from the referrers API, or the tag that stands in for it."""
        from inlay.registry.referrers import find_referrers

        found = find_referrers(self, subject, artifact_type)
        return tuple(d for d in found if not artifact_type or d.artifact_type == artifact_type)

    def push_referrer(
        self, raw: bytes, referrer: Descriptor, subject: Digest, replaced: Sequence[Descriptor] = ()
    ) -> None:
        """Push a manifest whose subject is `subject` (`referrer` describes it, with its artifact type) so that
        `referrers` lists it, in the place of those that are `replaced`."""
        from inlay.registry.referrers import push_referrer

        push_referrer(self, raw, referrer, subject, replaced)

    def read_tag(self, tag: str) -> tuple[bytes, str]:
        """What the registry itself, no mirror, has under `tag`, and the ETag of that; nothing of no such tag."""
        try:
            response, raw = self._fetch_raw(self._own, tag)
        except NotFound:
            return b"", ""
        return raw, response.header("etag")

    @property
    def _pull_scope(self) -> frozenset[str]:
        return frozenset((f"repository:{self.path}:pull",))

    @property
    def _push_scope(self) -> frozenset[str]:
        return frozenset((f"repository:{self.path}:pull,push",))

    def _named(self, ref: str) -> str:
        return f"{self}{'@' if ':' in ref else ':'}{ref}"

    def _manifest_request(self, method: str, endpoint: Endpoint, ref: str) -> Request:
        if ":" in ref:
            Digest.parse(ref)
        elif not is_tag(ref):
            raise UsageError(f"{self}: {ref!r:.200} cannot be a tag")
        action = "push the manifest of" if method == "PUT" else "pull the manifest of"
        request = self._request(method, f"manifests/{ref}", action, self._named(ref), endpoint=endpoint)
        return request._replace(headers={"Accept": _ACCEPT})

    def _request(
        self, method: str, target: str, action: str, reference: str, *, endpoint: Endpoint | None = None
    ) -> Request:
        at = endpoint or self._own
        url = self.transport.url(at.host, f"/v2/{at.path}/{target}")
        scopes = frozenset((f"repository:{at.path}:pull",))
        attempts = 0 if at is self._own else _ATTEMPTS_AT_MIRROR
        return Request(method, url, action, reference, at.host, scopes, attempts=attempts)

    def _read(self, attempt: Callable[[Endpoint], T]) -> T:
        """Ask the mirrors, then the registry itself, whose error is the one that counts. A mirror that does not
        answer is asked once in a build."""
        for mirror in self._mirrors:
            if mirror.host in self.transport.silent:
                continue
            try:
                return attempt(mirror)
            except ContentError:
                continue
            except RegistryError as error:
                if not error.status:
                    self.transport.silent.add(mirror.host)
        return attempt(self._own)


def _digest_like(expected: str, raw: bytes) -> str:
    """Digest `raw` by the algorithm that `expected` names; empty where that is none."""
    try:
        digest = Digest.parse(expected)
    except ContentError:
        return ""
    sha = hasher(digest.algorithm, size=len(raw))
    sha.update(raw)
    return f"{digest.algorithm}:{sha.hexdigest()}"
