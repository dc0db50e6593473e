"""Calls about one repository: to its registry, or, for what is read, to mirrors of that first.

What `Repository` is made of, with downloads, uploads and referrers (OCI distribution spec 1.1).
"""

from __future__ import annotations

from inlay.digest import Digest, hasher
from inlay.errors import ContentError, DigestMismatch, NotFound, RegistryError, UsageError
from inlay.oci.descriptor import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from inlay.oci.image import Index, Manifest, parse_manifest
from inlay.reference import is_path, is_tag
from inlay.registry.transport import Request, Transport
from inlay.typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from inlay.registry.wire import Response

T = TypeVar("T")

MANIFEST_LIMIT = 4 << 20
_ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, "*/*;q=0.1"))
_ATTEMPTS_AT_MIRROR = 2


class Endpoint:
    """One host that serves a repository: its registry, or a mirror of that."""

    __slots__ = ("host", "path")

    def __init__(self, host: str, path: str) -> None:
        self.host = host
        self.path = path


class Client:
    """`host` is a registry as references name it, `path` the rest without tag, as for `Repository`."""

    __slots__ = ("host", "mirrors", "own", "path", "transport")

    def __init__(self, host: str, path: str, transport: Transport) -> None:
        if not is_path(path):
            raise UsageError(f"{host}/{path}: {path!r:.100} cannot be the name of a repository")
        self.host = host
        self.path = path
        self.transport = transport
        self.own = Endpoint(host, path)
        self.mirrors = [
            Endpoint(*f"{mirror.strip('/')}/{path}".split("/", 1))
            for mirror in transport.settings.mirrors.get(host, ())
        ]

    def __str__(self) -> str:
        return f"{self.host}/{self.path}"

    @property
    def pull_scope(self) -> frozenset[str]:
        return frozenset((f"repository:{self.path}:pull",))

    @property
    def push_scope(self) -> frozenset[str]:
        return frozenset((f"repository:{self.path}:pull,push",))

    def named(self, ref: str) -> str:
        """What messages call the tag or digest `ref`."""
        return f"{self}{'@' if ':' in ref else ':'}{ref}"

    def request(
        self, method: str, target: str, action: str, reference: str, *, endpoint: Endpoint | None = None
    ) -> Request:
        """A request for `target`, below the repository, to read it; to the registry itself, or an `endpoint`."""
        at = endpoint or self.own
        url = self.transport.url(at.host, f"/v2/{at.path}/{target}")
        scopes = frozenset((f"repository:{at.path}:pull",))
        attempts = 0 if at is self.own else _ATTEMPTS_AT_MIRROR
        return Request(method, url, action, reference, at.host, scopes, attempts=attempts)

    def read(self, attempt: Callable[[Endpoint], T]) -> T:
        """Ask the mirrors, then the registry itself, whose error is the one that counts. A mirror that does not
        answer is asked once in a build."""
        for mirror in self.mirrors:
            if mirror.host in self.transport.silent:
                continue
            try:
                return attempt(mirror)
            except ContentError:
                continue
            except RegistryError as error:
                if not error.status:
                    self.transport.silent.add(mirror.host)
        return attempt(self.own)

    # -- manifests -----------------------------------------------------------------------------------

    def fetch_manifest(self, ref: str) -> Manifest | Index:
        """Pull the manifest or index that a tag or digest names, verified. Raises `ContentError` for one that
        is malformed or larger than 4 MiB."""
        return self.read(lambda at: self._fetch_manifest_at(at, ref))

    def _fetch_manifest_at(self, endpoint: Endpoint, ref: str) -> Manifest | Index:
        response, raw = self._fetch_raw(endpoint, ref)
        try:
            return parse_manifest(raw, response.header("content-type").partition(";")[0].strip())
        except ContentError as error:
            raise ContentError(f"{self.named(ref)}: {error}") from error

    def _fetch_raw(self, endpoint: Endpoint, ref: str) -> tuple[Response, bytes]:
        request = self._manifest_request("GET", endpoint, ref)
        response, raw = self.transport.fetch(request, limit=MANIFEST_LIMIT)
        if response.status != 200:
            raise self.transport.refusal(response, request, body=raw)
        self.transport.traffic.add_pulled(len(raw))
        expected = ref if ":" in ref else response.header("docker-content-digest")
        if expected and _digest_like(expected, raw) != expected:
            raise DigestMismatch(f"{self.named(ref)}: the manifest that came is not {expected:.100}")
        return response, raw

    def read_tag(self, tag: str) -> tuple[bytes, str]:
        """What the registry itself, no mirror, has under `tag`, and the ETag of that; nothing of no such tag."""
        try:
            response, raw = self._fetch_raw(self.own, tag)
        except NotFound:
            return b"", ""
        return raw, response.header("etag")

    def look_up(self, ref: str) -> str:
        """The digest that the registry itself, no mirror, has under `ref`; empty where it has none, or does not
        say."""
        request = self._manifest_request("HEAD", self.own, ref)._replace(scopes=self.push_scope)
        with self.transport.open(request) as response:
            return response.header("docker-content-digest") if response.status == 200 else ""

    def put_manifest(
        self, raw: bytes, media_type: str, ref: str = "", condition: Mapping[str, str] | None = None
    ) -> Response:
        """Push a manifest, by default under its digest alone, and return the answer, read; one of status 412 says
        that `condition` (headers such as If-Match) did not hold. Raises for every other refusal."""
        request = self._manifest_request("PUT", self.own, ref or Digest.of(raw))
        headers = {"Content-Type": media_type, **(condition or {})}
        request = request._replace(scopes=self.push_scope, headers=headers, body=raw)
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
        request = self._manifest_request("DELETE", self.own, digest)
        scopes = frozenset((f"repository:{self.path}:pull,push,delete",))
        request = request._replace(action="delete the manifest of", scopes=scopes)
        with self.transport.open(request) as response:
            if response.status not in (200, 202, 404):
                raise self.transport.refusal(response, request)

    def _manifest_request(self, method: str, endpoint: Endpoint, ref: str) -> Request:
        if ":" in ref:
            Digest.parse(ref)
        elif not is_tag(ref):
            raise UsageError(f"{self}: {ref!r:.200} cannot be a tag")
        action = "push the manifest of" if method == "PUT" else "pull the manifest of"
        request = self.request(method, f"manifests/{ref}", action, self.named(ref), endpoint=endpoint)
        return request._replace(headers={"Accept": _ACCEPT})


def _digest_like(expected: str, raw: bytes) -> str:
    """Digest `raw` by the algorithm that `expected` names; empty where that is none."""
    try:
        digest = Digest.parse(expected)
    except ContentError:
        return ""
    sha = hasher(digest.algorithm, size=len(raw))
    sha.update(raw)
    return f"{digest.algorithm}:{sha.hexdigest()}"
