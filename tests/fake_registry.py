"""A small registry in memory, on a real socket, that misbehaves on demand.

fake.fault("GET", "/blobs/", Cut(after=1000))     # the next such request, once
fake.fault("HEAD", "", status(503), times=2)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


class Exchange:
    """One request, and the means to answer it."""

    def __init__(
        self, sock: socket.socket, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> None:
        self.sock = sock
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.close_after = False

    @property
    def path(self) -> str:
        return re.sub(r"^http://[^/]*", "", self.target).partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        from urllib.parse import parse_qsl

        return dict(parse_qsl(self.target.partition("?")[2]))

    def reply(self, status: int, body: bytes = b"", *, length: int | None = None, **headers: str) -> None:
        """Answer; header names are written with `_` for `-`."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if status != 204:
            fields.setdefault("Content-Length", str(len(body) if length is None else length))
        head = f"HTTP/1.1 {status} X\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items()) + "\r\n"
        self.sock.sendall(head.encode() + (b"" if self.method == "HEAD" else body))


Handler = "Callable[[FakeRegistry, Exchange], bool | None]"


class Record(NamedTuple):
    """A request that came."""

    method: str
    target: str
    headers: dict[str, str]


class FakeRegistry:
    """Serves `/v2/` from dictionaries. A fault returns True when it leaves the rest to the registry.

    With `referrers` it has the referrers API; `heeds_conditions` makes it refuse writes whose If-Match or
    If-None-Match does not hold, as the specification lets registries do.
    """

    def __init__(
        self, tls: ssl.SSLContext | None = None, *, referrers: bool = False, heeds_conditions: bool = False
    ) -> None:
        self.blobs: dict[str, bytes] = {}
        self.owners: dict[str, set[str]] = {}
        """Repositories that have a blob; one that is not in here is in all of them."""
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.requests: list[Record] = []
        self.connections = 0
        self.mounts = True
        self.ranges = True
        self.has_referrers = referrers
        self.heeds_conditions = heeds_conditions
        self.page = 100
        """Referrers that one answer lists."""
        self._faults: list[list[object]] = []
        self._tls = tls
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def fault(self, method: str, pattern: str, handler: Callable[..., bool | None], times: int = 1) -> None:
        """Let `handler` answer the next `times` requests of `method` whose target has `pattern`."""
        self._faults.append([method, pattern, handler, times])

    def forgive(self) -> None:
        """Drop all faults that have not happened yet."""
        with self._lock:
            self._faults.clear()

    def put(self, data: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def tag(self, path: str, tag: str, raw: bytes, media_type: str = MANIFEST_TYPE) -> str:
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        self.manifests[f"{path}:{tag}"] = self.manifests[f"{path}:{digest}"] = (media_type, raw)
        return digest

    def seen(self, method: str = "") -> list[str]:
        """`METHOD target` of the requests so far, with uploads' random names left out."""
        return [
            re.sub(r"uploads/[0-9a-f-]+", "uploads/ID", f"{r.method} {r.target}")
            for r in self.requests
            if not method or r.method == method
        ]

    def close(self) -> None:
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self._open.append(sock)
            with sock, sock.makefile("rb") as file:
                while (exchange := self._receive(sock, file)) is not None:
                    self._handle(exchange)
                    if exchange.close_after:
                        sock.shutdown(socket.SHUT_RDWR)
                        return
        except (OSError, ValueError):
            sock.close()

    def _receive(self, sock: socket.socket, file: object) -> Exchange | None:
        line = file.readline().decode()  # type: ignore[attr-defined]
        if not line:
            return None
        method, target, _ = line.split(" ")
        headers: dict[str, str] = {}
        while (line := file.readline().decode().strip()) != "":  # type: ignore[attr-defined]
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        exchange = Exchange(sock, method, target, headers, b"")
        self.requests.append(Record(method, target, headers))
        exchange.body = _read_body(file, headers)
        return exchange

    def _fault(self, exchange: Exchange) -> bool | None:
        with self._lock:
            for fault in self._faults:
                method, pattern, handler, times = fault
                if method in ("", exchange.method) and str(pattern) in exchange.target and times:
                    fault[3] = int(str(times)) - 1
                    break
            else:
                return None
        return bool(handler(self, exchange))  # type: ignore[operator]

    def _handle(self, exchange: Exchange) -> None:
        if self._fault(exchange) is False:
            return
        match = re.fullmatch(r"/v2/(.+?)/(manifests|blobs|referrers)/(uploads/)?(.*)", exchange.path)
        if match is None:
            exchange.reply(200 if exchange.path == "/v2/" else 404)
            return
        path, kind, upload, name = match.groups()
        if upload:
            self._upload(exchange, path, name)
        elif kind == "blobs":
            self._blob(exchange, path, name)
        elif kind == "manifests":
            self._manifest(exchange, path, name)
        elif not self.has_referrers:
            exchange.reply(404)
        else:
            self._referrers(exchange, path, name)

    def _referrers(self, exchange: Exchange, path: str, subject: str) -> None:
        found = {}
        for name, (media_type, raw) in list(self.manifests.items()):
            manifest = json.loads(raw)
            if name.startswith(f"{path}:") and manifest.get("subject", {}).get("digest") == subject:
                digest = "sha256:" + hashlib.sha256(raw).hexdigest()
                found[digest] = {
                    "mediaType": media_type,
                    "digest": digest,
                    "size": len(raw),
                    "artifactType": manifest.get("artifactType") or manifest["config"]["mediaType"],
                }
        first = int(exchange.query.get("first", "0"))
        listed = list(found.values())
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed[first : first + self.page]}
        more = {}
        if first + self.page < len(listed):
            more["Link"] = f'<{exchange.path}?first={first + self.page}>; rel="next"'
        exchange.reply(200, json.dumps(index).encode(), Content_Type=INDEX_TYPE, **more)

    def _has(self, path: str, digest: str) -> bool:
        return digest in self.blobs and path in self.owners.get(digest, {path})

    def _blob(self, exchange: Exchange, path: str, digest: str) -> None:
        if not self._has(path, digest):
            exchange.reply(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')
            return
        data = self.blobs[digest]
        span = re.fullmatch(r"bytes=([0-9]+)-", exchange.headers.get("range", ""))
        if exchange.method == "GET" and span and self.ranges:
            start = int(span[1])
            exchange.reply(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            exchange.reply(200, data)

    def _manifest(self, exchange: Exchange, path: str, name: str) -> None:
        if exchange.method == "PUT":
            with self._lock:
                if self.heeds_conditions and not self._condition_holds(exchange, f"{path}:{name}"):
                    exchange.reply(412)
                    return
                digest = self.tag(path, name, exchange.body, exchange.headers["content-type"])
            subject = json.loads(exchange.body).get("subject", {}).get("digest")
            known = {"OCI_Subject": subject} if subject and self.has_referrers else {}
            exchange.reply(201, Docker_Content_Digest=digest, **known)
        elif exchange.method == "DELETE":
            raw = self.manifests.get(f"{path}:{name}", ("", b""))[1]
            gone = [key for key, (_, other) in self.manifests.items() if other == raw]
            for key in gone:
                del self.manifests[key]
            exchange.reply(202 if gone else 404)
        elif f"{path}:{name}" in self.manifests:
            media_type, raw = self.manifests[f"{path}:{name}"]
            digest = "sha256:" + hashlib.sha256(raw).hexdigest()
            exchange.reply(
                200, raw, Docker_Content_Digest=digest, Content_Type=media_type, ETag=f'"{digest}"'
            )
        else:
            exchange.reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')

    def _condition_holds(self, exchange: Exchange, name: str) -> bool:
        if exchange.headers.get("if-none-match") == "*":
            return name not in self.manifests
        if "if-match" not in exchange.headers:
            return True
        raw = self.manifests.get(name, ("", b""))[1]
        return exchange.headers["if-match"] == f'"sha256:{hashlib.sha256(raw).hexdigest()}"'

    def _upload(self, exchange: Exchange, path: str, name: str) -> None:
        if exchange.method == "POST":
            mount = exchange.query.get("mount", "")
            if self.mounts and self._has(exchange.query.get("from", ""), mount):
                self.owners.setdefault(mount, set()).add(path)
                exchange.reply(201)
                return
            name = f"{len(self.uploads):x}-0"
            self.uploads[name] = bytearray()
            exchange.reply(202, Location=f"/v2/{path}/blobs/uploads/{name}?state=1")
            return
        if name not in self.uploads:
            exchange.reply(404)
            return
        if exchange.method == "DELETE":
            del self.uploads[name]
            exchange.reply(204)
            return
        data = self.uploads[name]
        data += exchange.body
        place = {
            "Location": f"/v2/{path}/blobs/uploads/{name}?state=2",
            "Range": f"0-{max(len(data) - 1, 0)}",
        }
        if exchange.method == "PUT":
            if self.put(bytes(data)) != exchange.query["digest"]:
                exchange.reply(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"wrong digest"}]}')
                return
            self.owners.setdefault(exchange.query["digest"], set()).add(path)
            exchange.reply(201)
        else:
            exchange.reply(202 if exchange.method == "PATCH" else 204, **place)


def _read_body(file: object, headers: dict[str, str]) -> bytes:
    read, readline = file.read, file.readline  # type: ignore[attr-defined]
    if headers.get("transfer-encoding") != "chunked":
        return bytes(read(int(headers.get("content-length", "0"))))
    body = b""
    while size := int(readline(), 16):
        body += read(size)
        readline()
    readline()
    return body


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[FakeRegistry, Exchange], None]:
    """A fault that answers with this."""

    def fault(fake: FakeRegistry, exchange: Exchange) -> None:
        exchange.reply(status, body, **headers)

    return fault


def raw(data: bytes, *, close: bool = True) -> Callable[[FakeRegistry, Exchange], None]:
    """A fault that sends these bytes and, by default, hangs up."""

    def fault(fake: FakeRegistry, exchange: Exchange) -> None:
        exchange.sock.sendall(data)
        exchange.close_after = close

    return fault


def cut(after: int) -> Callable[[FakeRegistry, Exchange], None]:
    """A fault that sends a blob, or the rest that was asked for, only up to `after` more bytes."""

    def fault(fake: FakeRegistry, exchange: Exchange) -> None:
        data = fake.blobs[exchange.path.rpartition("/")[2]]
        start = int(re.sub(r"\D", "", exchange.headers.get("range", "")) or 0)
        span = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        rest = data[start:]
        exchange.reply(206 if start else 200, rest[:after], length=len(rest), **span)
        exchange.close_after = True

    return fault


def hang(until: threading.Event) -> Callable[[FakeRegistry, Exchange], None]:
    """A fault that answers nothing until it is told to."""

    def fault(fake: FakeRegistry, exchange: Exchange) -> None:
        until.wait(20)
        exchange.close_after = True

    return fault
