"""Pushing blobs: mounted, or in one piece (OCI distribution spec, "Pushing blobs").

A push in one piece that breaks off asks the registry how much came and sends the rest; where the registry
does not tell, it begins anew.
"""

from __future__ import annotations

from inlay.errors import ContentError, RegistryError
from inlay.regexp import regexp
from inlay.registry.transport import Body, Request, TransientError
from inlay.registry.wire import CHUNK
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO, Literal

    from inlay.oci.descriptor import Descriptor
    from inlay.registry.client import Client
    from inlay.registry.url import Url
    from inlay.registry.wire import Response

    Pushed = Literal["exists", "mounted", "pushed"]

_RANGE = regexp(r"(?:bytes=)?0-([0-9]{1,18})")
_OCTETS = {"Content-Type": "application/octet-stream"}


class _Session:
    """An upload that a registry has opened: where its bytes go, and how many it has."""

    __slots__ = ("_client", "_scopes", "location", "offset")

    def __init__(self, client: Client, scopes: frozenset[str]) -> None:
        self._client = client
        self._scopes = scopes
        self.location: Url | None = None
        self.offset = 0

    def request(self, method: str, url: Url, reference: str) -> Request:
        return Request(method, url, "push", reference, self._client.host, self._scopes)

    def begin(self, reference: str, query: Mapping[str, str] = {}, *, attempts: int = 0) -> bool:
        """Open an upload; False when the registry mounted the blob instead."""
        transport = self._client.transport
        url = transport.url(self._client.host, f"/v2/{self._client.path}/blobs/uploads/")
        request = self.request("POST", url.with_query(**query) if query else url, reference)
        request = request._replace(attempts=attempts)
        with transport.open(request) as response:
            if response.status == 201 and query:
                return False
            if response.status not in (201, 202) or not response.header("location"):
                raise transport.refusal(response, request)
            self.location, self.offset = transport.redirected(request, response.header("location")), 0
        return True

    def moved(self, request: Request, response: Response) -> None:
        """Take over the new location that an answer names."""
        if response.header("location"):
            self.location = self._client.transport.redirected(request, response.header("location"))

    def look_again(self, reference: str) -> None:
        """After a failure: ask how much came; without a clear answer the next try begins a new upload."""
        location, self.location = self.location, None
        if location is None:
            return
        request = self.request("GET", location, reference)
        try:
            with self._client.transport.attempt(request) as response:
                had = _RANGE.fullmatch(response.header("range"))
                if response.status == 204 and had and int(had[1]):  # 0-0 is said of nothing and of one byte
                    self.location, self.offset = location, int(had[1]) + 1
                    self.moved(request, response)
        except (TransientError, RegistryError):
            return


def open_upload(client: Client) -> Url:
    """Open an upload for a blob that is still to be made, in one try; return where its bytes are to go."""
    session = _Session(client, client.push_scope)
    session.begin(str(client), attempts=1)
    assert session.location is not None
    return session.location


def cancel_upload(client: Client, place: Url) -> None:
    """Tell the registry that nothing will come. It need not know how to cancel."""
    request = _Session(client, client.push_scope).request("DELETE", place, str(client))
    client.transport.open(request._replace(attempts=1)).close()


def push_blob(
    client: Client,
    descriptor: Descriptor,
    open_source: Callable[[], BinaryIO],
    *,
    mount_from: str,
    place: Url | None,
) -> Pushed:
    """Mount or upload a blob that the repository is not known to have (see `Repository.push_blob`); `place` is that of
    an upload that was opened before, to use if there is nothing to mount from."""
    reference = f"{client}@{descriptor.digest}"
    scopes = client.push_scope
    if mount_from:
        reading = {f"repository:{mount_from}:pull"} if mount_from != client.path else set()
        mounting = _Session(client, scopes | reading)
        query = {"mount": str(descriptor.digest), "from": mount_from}
        if not _try_mount(mounting, reference, query):
            return "mounted"
    session = _Session(client, scopes)
    session.location = ahead = mounting.location if mount_from else place

    def attempt() -> None:
        try:
            if session.location is None:
                session.begin(reference)
            _send(session, client, descriptor, open_source)
        except TransientError:
            session.look_again(reference)
            raise
        except RegistryError:
            nonlocal ahead
            if ahead is None:
                raise
            ahead = session.location = None  # a registry may have forgotten what was opened a while ago
            attempt()

    client.transport.retry(attempt)
    return "pushed"


def _try_mount(session: _Session, reference: str, query: dict[str, str]) -> bool:
    """Ask for a mount; True when the bytes must be sent after all, because the registry would not."""
    try:
        return session.begin(reference, query, attempts=1)  # once: bytes do as well
    except RegistryError:
        return True  # what is really wrong shows when they are


def _send(
    session: _Session, client: Client, descriptor: Descriptor, open_source: Callable[[], BinaryIO]
) -> None:
    """Send what is missing of a blob and name its digest."""
    reference, transport = f"{client}@{descriptor.digest}", client.transport
    location, left = session.location, descriptor.size - session.offset
    assert location is not None
    body = Body(lambda: _opened_at(open_source, session.offset), left)
    if session.offset and left > 0:
        span = f"{session.offset}-{descriptor.size - 1}"
        request = session.request("PATCH", location, reference)
        request = request._replace(headers={**_OCTETS, "Content-Range": span}, body=body)
        with transport.attempt(request) as response:
            if response.status not in (202, 204):
                raise TransientError(transport.refusal(response, request))
            session.moved(request, response)
        location, left = session.location or location, 0
    request = session.request("PUT", location.with_query(digest=descriptor.digest), reference)
    request = request._replace(headers=_OCTETS, body=body if left else b"")
    with transport.attempt(request) as response:
        if response.status not in (200, 201, 202, 204):
            raise transport.refusal(response, request)


def _opened_at(open_source: Callable[[], BinaryIO], offset: int) -> BinaryIO:
    stream = open_source()
    if offset and stream.seekable():
        stream.seek(offset)
        return stream
    view = memoryview(bytearray(min(offset, CHUNK)))
    while offset:
        count: int = stream.readinto(view[:offset])  # type: ignore[attr-defined]
        if not count:
            stream.close()
            raise ContentError("a blob became shorter between two attempts to push it")
        offset -= count
    return stream
