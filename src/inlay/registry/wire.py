"""HTTP/1.1 on one connection (RFC 9112): a request goes out, a response is read, the connection lives on.

`http.client` does this too, but importing it takes longer than a whole exchange with a registry, and it reads
bodies through two buffers.
"""

from __future__ import annotations

import io
import os
import stat
import time

from inlay.errors import ContentError
from inlay.registry.dial import Socket, hang_up, send_file
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import BinaryIO

    from inlay.registry.url import Url

HEAD_LIMIT = 64 << 10
CHUNK = 1 << 20
_DRAIN_LIMIT = 64 << 10


class ProtocolError(OSError):
    """The other side broke off, or does not speak HTTP/1.1: the connection is of no more use."""


class Connection:
    """A socket and the bytes that came from it but were not asked for yet. For one thread at a time."""

    __slots__ = ("_pending", "idle_since", "is_reused", "read_timeout_s", "sock")

    def __init__(self, sock: Socket, read_timeout_s: float) -> None:
        self.sock = sock
        self.read_timeout_s = read_timeout_s
        self.is_reused = False
        self.idle_since = 0.0
        self._pending = b""
        sock.settimeout(read_timeout_s)

    def is_usable(self, idle_limit_s: float) -> bool:
        """Tell whether an idle connection may be used again: not too old, not closed by the other side."""
        import select

        if time.monotonic() - self.idle_since > idle_limit_s:
            return False
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        return not poll.poll(0)

    def send_head(self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Send request line, headers and a small body in one piece."""
        fields = [f"{name}: {value}" for name, value in headers.items()]
        lines = [f"{method} {target} HTTP/1.1", *fields, "", ""]
        if any("\r" in line or "\n" in line for line in lines):
            raise ContentError("a line break in a request's header")
        self.sock.sendall("\r\n".join(lines).encode("latin-1") + body)

    def send_stream(self, stream: BinaryIO, size: int, sent: Callable[[int], None]) -> None:
        """Send `size` bytes of `stream`; `sent` is told of each piece. Raises `ContentError` when the
        stream ends early."""
        fd = _plain_file(stream, self.sock)
        if fd >= 0:
            self._send_file(fd, stream.tell(), size, sent)
            return
        view = memoryview(bytearray(min(CHUNK, max(size, 1))))
        left = size
        while left:
            count: int = stream.readinto(view[:left])  # type: ignore[attr-defined]
            if not count:
                raise ContentError(f"a blob ended after {size - left} of its {size} bytes")
            self.sock.sendall(view[:count])
            left -= count
            sent(count)

    def _send_file(self, fd: int, offset: int, size: int, sent: Callable[[int], None]) -> None:
        end = offset + size
        while offset < end:
            count = send_file(self.sock, fd, offset, min(CHUNK, end - offset), timeout_s=self.read_timeout_s)
            if not count:
                raise ContentError(f"a blob ended {end - offset} bytes before its end")
            offset += count
            sent(count)

    def read_head(self) -> tuple[int, bool, dict[str, str]]:
        """Read status and headers; `bool`: HTTP/1.1. Header names are lower case; lines of one name are
        joined by a comma. Interim responses (1xx) are skipped."""
        while True:
            lines = self._read_head_lines()
            version, _, rest = lines[0].partition(" ")
            status = rest[:3]
            if version not in ("HTTP/1.1", "HTTP/1.0") or not (status.isascii() and status.isdigit()):
                raise ProtocolError("the answer is not HTTP/1.1")
            if int(status) >= 200:
                return int(status), version == "HTTP/1.1", _parse_headers(lines[1:])

    def _read_head_lines(self) -> list[str]:
        while (end := self._pending.find(b"\r\n\r\n")) < 0:
            if len(self._pending) > HEAD_LIMIT:
                raise ProtocolError(f"the answer's headers are longer than {HEAD_LIMIT} bytes")
            self._fill()
        head, self._pending = self._pending[:end], self._pending[end + 4 :]
        return head.decode("latin-1").split("\r\n")

    def read_line(self) -> bytes:
        """Read a short line, as those between chunks are."""
        while (end := self._pending.find(b"\r\n")) < 0:
            if len(self._pending) > HEAD_LIMIT:
                raise ProtocolError("a chunk's header is too long")
            self._fill()
        line, self._pending = self._pending[:end], self._pending[end + 2 :]
        return line

    def readinto(self, view: memoryview) -> int:
        """Read body bytes, straight from the kernel into `view`; 0 when the other side has closed."""
        if not self._pending:
            return self.sock.recv_into(view)
        count = min(len(view), len(self._pending))
        view[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _fill(self) -> None:
        data = self.sock.recv(HEAD_LIMIT)
        if not data:
            raise ProtocolError("the connection was closed before the answer")
        self._pending += data

    def close(self) -> None:
        hang_up(self.sock)
        self.sock.close()


class Response(io.RawIOBase):
    """An answer, its body not yet read. Reading to the end or closing frees the connection for others."""

    def __init__(
        self, connection: Connection, url: Url, method: str, release: Callable[[Connection, bool], None]
    ) -> None:
        self._connection: Connection | None = None
        self.url = url
        self.status, self._keep, self.headers = connection.read_head()
        self._connection = connection
        self._release = release
        self._chunked = False
        self._left = 0
        self.length: int | None = None
        """Bytes of the body, where that was said beforehand."""
        if "close" in self.headers.get("connection", "").lower():
            self._keep = False
        if method == "HEAD" or self.status in (204, 304):
            self._finish()
        else:
            self._frame()

    def _frame(self) -> None:
        """Find where the body ends: `_left` is what is left of it, or of its chunk; -1: until closed."""
        coding = self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length", "")
        if coding:
            if coding != "chunked":
                raise ProtocolError(f"transfer encoding {coding!r:.60} is not supported")
            self._chunked = True
        elif not length:
            self._left, self._keep = -1, False
        elif not (length.isascii() and length.isdigit()):
            raise ProtocolError(f"content length {length!r:.60} is no number")
        else:
            self._left = self.length = int(length)
            if not self._left:
                self._finish()

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Raises `ProtocolError` when the body breaks off."""
        connection = self._connection
        view = memoryview(buffer).cast("B")
        if connection is None or not len(view):
            return 0
        if self._chunked and not self._left and not self._next_chunk(connection):
            return 0
        count = connection.readinto(view if self._left < 0 else view[: self._left])
        if self._left < 0:
            if not count:
                self._finish()
            return count
        if not count:
            raise ProtocolError("the connection was closed in the middle of the answer")
        self._left -= count
        if not self._left:
            if not self._chunked:
                self._finish()
            elif connection.read_line():
                raise ProtocolError("a chunk has no end")
        return count

    def _next_chunk(self, connection: Connection) -> bool:
        try:
            self._left = int(connection.read_line().partition(b";")[0], 16)
        except ValueError:
            raise ProtocolError("a chunk has no length") from None
        if self._left < 0:
            raise ProtocolError("a chunk's length is negative")
        if self._left:
            return True
        while connection.read_line():  # trailers
            continue
        self._finish()
        return False

    def read_all(self, limit: int) -> bytes:
        """Read the whole body. Raises `ContentError` above `limit` bytes."""
        if (self.length or 0) > limit:
            self.close()
            raise ContentError(
                f"{self.url} has {self.length} bytes, more than the {limit} that are read of its kind"
            )
        parts, total, view = [], 0, memoryview(bytearray(min(self.length or CHUNK >> 4, CHUNK)))
        while view and (count := self.readinto(view)):
            parts.append(bytes(view[:count]))
            total += count
            if total > limit:
                self.close()
                raise ContentError(f"{self.url} has more than the {limit} bytes that are read")
        return b"".join(parts)

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._release(connection, self._keep)

    def close(self) -> None:
        if not self.closed and self._connection is not None:
            try:
                self._drain()
            except OSError:
                self._keep = False
            self._keep = self._keep and self._connection is None
            self._finish()
        super().close()

    def _drain(self) -> None:
        """Read a short rest, so that the connection can be used again; a long one is not worth it."""
        if 0 < self._left <= _DRAIN_LIMIT and not self._chunked:
            view = memoryview(bytearray(self._left))
            while self.readinto(view):
                continue


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if not colon or not name or name != name.strip():
            raise ProtocolError("the answer has a broken header")
        if name == "content-length" and headers.get(name, value) != value:
            raise ProtocolError("the answer has two different lengths")
        headers[name] = f"{headers[name]}, {value}" if name in headers and name != "content-length" else value
    return headers


def _plain_file(stream: BinaryIO, sock: Socket) -> int:
    """The descriptor of `stream` when the kernel can send it by itself: a file over a plain socket, read
    straight; else -1."""
    from _socket import socket as plain_socket

    if type(sock) is not plain_socket or not isinstance(stream, io.FileIO | io.BufferedReader):
        return -1
    fd = stream.fileno()
    return fd if stat.S_ISREG(os.fstat(fd).st_mode) else -1
