"""Web servers on loopback, the second of which does what a test tells it to."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Asked(NamedTuple):
    """A request that came; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


class Page(NamedTuple):
    """What is answered: `headers` as they are, with the length of `body` unless they have one."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = {}


class LoopbackServer:
    """Serves HTTP/1.1 at `url` until it is closed; `answer` is called for each request, on a thread of its own."""

    def __init__(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Web(LoopbackServer):
    """Answers each path as `pages` says: a page, or a function of the request that makes one."""

    def __init__(self) -> None:
        self.pages: dict[str, Page | Callable[[Asked, BaseHTTPRequestHandler], Page | None]] = {}
        self.asked: list[Asked] = []
        super().__init__()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): text for name, text in request.headers.items()}
        asked = Asked(request.command, request.path, headers)
        self.asked.append(asked)
        page = self.pages.get(request.path.partition("?")[0], Page(b"nothing here", 404))
        answer = page if isinstance(page, Page) else page(asked, request)
        if answer is None:
            request.close_connection = True
            return
        request.send_response_only(answer.status)
        for name, text in answer.headers.items():
            request.send_header(name, text)
        if "Content-Length" not in answer.headers and "Transfer-Encoding" not in answer.headers:
            request.send_header("Content-Length", str(len(answer.body)))
        request.end_headers()
        request.wfile.write(answer.body)
        request.close_connection |= "Content-Length" in answer.headers


def versioned(body: bytes, etag: str = '"v1"', **headers: str) -> Callable[..., Page]:
    """A page with an ETag, which is not sent again to whoever has it."""

    def answer(asked: Asked, _: BaseHTTPRequestHandler) -> Page:
        fields = {"ETag": etag, **{name.replace("_", "-"): text for name, text in headers.items()}}
        known = [each.strip() for each in asked.headers.get("if-none-match", "").split(",")]
        return Page(b"", 304, fields) if etag in known else Page(body, 200, fields)

    return answer
