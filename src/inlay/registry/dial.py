"""Sockets: opening them, with TLS where wanted, and ending what waits on them from another thread.

This uses `_socket`, the C module below `socket`: the wrapper's import takes 3 ms for enums that nothing here
needs. `ssl` is imported by the first https connection.
"""

from __future__ import annotations

import _socket
import errno
import os
import time
from _queue import Empty, SimpleQueue
from _thread import allocate_lock

from inlay.errors import RegistryError
from inlay.tasks import start_thread
from inlay.typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


_SLEEP_S = 0.05
"""How long somebody who waits does not look whether they are to go on."""


class Socket(Protocol):
    """What a plain and a TLS socket have in common, as far as it is used here."""

    def recv(self, size: int, /) -> bytes: ...
    def recv_into(self, buffer: memoryview, /) -> int: ...
    def sendall(self, data: bytes | memoryview, /) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def shutdown(self, how: int, /) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Abort:
    """Ends network calls from another thread: calling it makes them, and all later ones, raise soon.

        abort = Abort()
        await in_thread(repository.within(abort).fetch_manifest, "latest", abort=abort)

    One made from others is also ended by each of them.
    """

    __slots__ = ("_above", "_lock", "_raised", "_sockets")

    def __init__(self, *above: Abort) -> None:
        self._above = above
        self._lock = allocate_lock()
        self._raised = False
        self._sockets: list[Socket | _socket.socket] = []

    def __call__(self) -> None:
        self._raised = True
        with self._lock:
            for sock in self._sockets:
                hang_up(sock)

    @property
    def is_raised(self) -> bool:
        return self._raised or any(above.is_raised for above in self._above)

    def check(self) -> None:
        """Raise `RegistryError` once it was called."""
        if self.is_raised:
            raise RegistryError("the transfer was cancelled")

    def watch(self, sock: Socket | _socket.socket) -> None:
        """Hang up `sock` when called, until `unwatch`."""
        for above in self._above:
            above.watch(sock)
        with self._lock:
            self._sockets.append(sock)
        if self.is_raised:
            hang_up(sock)

    def unwatch(self, sock: Socket | _socket.socket) -> None:
        for above in self._above:
            above.unwatch(sock)
        with self._lock:
            if sock in self._sockets:
                self._sockets.remove(sock)

    def sleep(self, seconds: float) -> None:
        """Wait, but raise `RegistryError` soon after it was called."""
        while seconds > 0 and not self.is_raised:
            time.sleep(min(_SLEEP_S, seconds))
            seconds -= _SLEEP_S
        self.check()


def hang_up(sock: Socket | _socket.socket) -> None:
    """Make whoever waits on `sock` wake up. (Closing it would not, and could hit another's descriptor.)"""
    try:
        if sock.fileno() >= 0:
            _socket.socket.shutdown(sock, _socket.SHUT_RDWR)  # type: ignore[arg-type] # a TLS one sends nothing
    except OSError:
        return


def dial(
    host: str, port: int, *, timeout_s: float, abort: Abort, refuse_local: bool = False
) -> _socket.socket:
    """Open a TCP connection, trying the host's addresses in order.

    `refuse_local`: raise `RegistryError` rather than connect to this machine or its link. Raises `OSError`
    when none answers within `timeout_s` seconds (for each address).
    """
    failure: OSError = OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    for family, address in _addresses(host, port, timeout_s, abort):
        if refuse_local and _is_local(family, address[0]):
            raise RegistryError(
                f"refused to be led to {address[0]} ({host}), which is this machine or near it"
            )
        sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        abort.watch(sock)
        try:
            sock.settimeout(timeout_s)
            sock.connect(address)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        except OSError as error:
            failure = error
            abort.unwatch(sock)
            sock.close()
            abort.check()
        else:
            abort.unwatch(sock)
            return sock
    raise failure


def _addresses(host: str, port: int, timeout_s: float, abort: Abort) -> Sequence[tuple[int, Any]]:
    """Look `host` up. The C library's look-up cannot be interrupted, so it gets a thread of its own, which
    is left behind when it takes too long."""
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    name = host.encode() if host.isascii() else host  # Python's own encoding of names imports `re`
    answers: SimpleQueue[Any] = SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(_socket.getaddrinfo(name, port, 0, _socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    start_thread(look_up)
    found = None
    while found is None and timeout_s > 0:
        try:
            found = answers.get(timeout=min(_SLEEP_S, timeout_s))
        except Empty:
            timeout_s -= _SLEEP_S
            abort.check()
    if found is None:
        raise TimeoutError(f"looking up {host} took too long")
    if isinstance(found, OSError):
        raise found
    if isinstance(found, Exception):
        raise OSError(f"{host} is not a host name")
    return [(entry[0], entry[4]) for entry in found]


def _is_local(family: int, address: str) -> bool:
    """Loopback, link-local or unspecified."""
    packed = _socket.inet_pton(family, address.partition("%")[0])
    if family == _socket.AF_INET6:
        if packed[:12] != b"\0" * 10 + b"\xff\xff":
            return packed[:15] == b"\0" * 15 or (packed[0] == 0xFE and packed[1] & 0xC0 == 0x80)
        packed = packed[12:]
    return packed[0] in (0, 127) or packed[:2] == b"\xa9\xfe"


class Tls:
    """Wraps sockets in TLS with the system's certificate authorities; contexts are made once."""

    __slots__ = ("_contexts", "_lock")

    def __init__(self) -> None:
        self._contexts: dict[bool, Any] = {}
        self._lock = allocate_lock()

    def wrap(self, sock: _socket.socket, host: str, *, verify: bool, abort: Abort) -> Socket:
        """Do the handshake. Raises `RegistryError` for a certificate that is not trusted, else `OSError`."""
        import socket
        import ssl

        plain = socket.socket(fileno=sock.detach())
        plain.settimeout(sock.gettimeout())
        wrapped: ssl.SSLSocket = self._context(verify=verify).wrap_socket(
            plain, server_hostname=host, do_handshake_on_connect=False
        )
        abort.watch(wrapped)
        try:
            wrapped.do_handshake()
        except OSError as error:
            abort.unwatch(wrapped)
            wrapped.close()
            abort.check()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise RegistryError(
                    f"the certificate of {host} is not trusted ({error.verify_message}); add its authority "
                    f"to the system's, or name the host with --insecure-registry"
                ) from error
            raise
        abort.unwatch(wrapped)
        return wrapped

    def _context(self, *, verify: bool) -> Any:
        import ssl

        with self._lock:
            if verify not in self._contexts:
                context = ssl.create_default_context()
                context.set_alpn_protocols(["http/1.1"])
                if not verify:
                    context.check_hostname = False
                    context.verify_mode = ssl.CERT_NONE
                self._contexts[verify] = context
            return self._contexts[verify]


def send_file(sock: Socket, fd: int, offset: int, count: int, *, timeout_s: float) -> int:
    """Send up to `count` bytes of a file from `offset` on without copying them; return how many went."""
    try:
        return os.sendfile(sock.fileno(), fd, offset, count)
    except BlockingIOError:
        import select

        poll = select.poll()
        poll.register(sock.fileno(), select.POLLOUT)
        if not poll.poll(timeout_s * 1000):
            raise TimeoutError("timed out") from None
        return send_file(sock, fd, offset, count, timeout_s=timeout_s)
