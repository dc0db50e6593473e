"""Pulling blobs: in one piece, or from where a lost connection broke off (OCI distribution spec, "Pulling blobs")."""

from __future__ import annotations

import io

from inlay.errors import DigestMismatch
from inlay.regexp import regexp
from inlay.registry.transport import Request, TransientError
from inlay.registry.wire import CHUNK, ProtocolError, Response
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.oci.descriptor import Descriptor
    from inlay.registry.client import Client, Endpoint


class BlobReader(io.RawIOBase):
    """A blob's bytes from a registry; lost connections are replaced without the reader noticing."""

    def __init__(self, client: Client, descriptor: Descriptor, offset: int) -> None:
        self._client = client
        self._descriptor = descriptor
        self._offset = offset
        self._failures = 0
        self._progress = offset
        self._response: Response | None = None
        if offset < descriptor.size or not descriptor.size:
            self._response = _open(client, descriptor, offset)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer).cast("B")
        while self._response is not None:
            try:
                count = self._response.readinto(view)
                if not count and len(view) and self._offset < self._descriptor.size:
                    raise ProtocolError(f"the blob broke off after {self._offset} bytes")
            except OSError as error:
                self._response.close()
                self._response = self._resume(error)
                continue
            self._offset += count
            self._client.transport.traffic.add_pulled(count)
            return count
        return 0

    def _resume(self, error: OSError) -> Response:
        """Open the rest again. Tries that bring less than 1 MiB count as failed ones."""
        if self._offset - self._progress >= CHUNK:
            self._failures = 0
        self._progress = self._offset
        self._failures += 1
        client = self._client
        reference = f"{client}@{self._descriptor.digest}"
        url = client.transport.url(client.host, "/")
        lost = client.transport.lost(Request("GET", url, "pull", reference), error)
        failure = TransientError(lost)
        failure.__cause__ = error
        client.transport.wait_again(self._failures, failure)
        return _open(client, self._descriptor, self._offset)

    def close(self) -> None:
        response = getattr(self, "_response", None)
        if response is not None:
            self._response = None
            response.close()
        super().close()


def _open(client: Client, descriptor: Descriptor, offset: int) -> Response:
    return client.read(lambda endpoint: _open_at(client, endpoint, descriptor, offset))


def _open_at(client: Client, endpoint: Endpoint, descriptor: Descriptor, offset: int) -> Response:
    request = client.request(
        "GET", f"blobs/{descriptor.digest}", "pull", client.named(descriptor.digest), endpoint=endpoint
    )
    if offset:
        request = request._replace(headers={"Range": f"bytes={offset}-"})
    response = client.transport.open(request)
    if response.status not in (200, 206):
        raise client.transport.refusal(response, request)
    start = _range_start(response) if response.status == 206 else 0
    end = descriptor.size if response.length is None else start + response.length
    if start not in (0, offset) or end != descriptor.size:
        response.close()
        what = f"sends bytes {start} to {end}, not {offset} to {descriptor.size}"
        raise DigestMismatch(f"{request.reference}: {response.url.netloc} {what}")
    if start < offset:
        _skip(response, offset - start)
    return response


def _range_start(response: Response) -> int:
    """First byte of a 206's `Content-Range`; -1 where that says nothing useful."""
    match = regexp(r"bytes ([0-9]{1,18})-").match(response.header("content-range"))
    return int(match[1]) if match else -1


def _skip(response: Response, count: int) -> None:
    view = memoryview(bytearray(min(count, CHUNK)))
    while count:
        got = response.readinto(view[:count])
        if not got:
            raise ProtocolError("the blob broke off")
        count -= got
