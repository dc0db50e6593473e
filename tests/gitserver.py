"""Git repositories on loopback: over http as real servers serve them, by `git http-backend`, or as plain files."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING

from web import LoopbackServer

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

_WHO = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example",
    "GIT_COMMITTER_NAME": "c",
    "GIT_COMMITTER_EMAIL": "c@example",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}


class Repository:
    """A bare repository and a work tree to commit to it from."""

    def __init__(self, folder: Path, name: str, form: str = "sha1") -> None:
        self.bare, self.work = folder / f"{name}.git", folder / f".{name}"
        self.git("init", "-q", "-b", "main", f"--object-format={form}", str(self.work), cwd=folder)
        self.git("init", "-q", "--bare", "-b", "main", f"--object-format={form}", str(self.bare), cwd=folder)

    def git(self, *arguments: str, cwd: Path | None = None, time: int = 1_700_000_000) -> str:
        stamp = {"GIT_AUTHOR_DATE": f"{time} +0100", "GIT_COMMITTER_DATE": f"{time} +0100"}
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments],
            cwd=cwd or self.work,
            env={**os.environ, **_WHO, **stamp},
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, branch: str = "main", time: int = 1_700_000_000, **files: str) -> str:
        """Commit files (`__` in a name is a slash, `_` a dot) and push the branch; return the commit."""
        for name, text in files.items():
            path = self.work / name.replace("__", "/").replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", "message", time=time)
        return self.push(f"HEAD:refs/heads/{branch}")

    def push(self, *refs: str) -> str:
        self.git("push", "-q", "--force", str(self.bare), *refs)
        self.git("update-server-info", cwd=self.bare)
        return self.git("rev-parse", "HEAD")

    @staticmethod
    def head(bare: Path) -> str:
        """The commit of a bare repository's default branch."""
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=bare, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


class GitServer(LoopbackServer):
    """Serves all repositories of `folder`. `requests` are the methods and paths that came; with a `password`
    (the value of an Authorization header) nobody else is let in; `old` speaks protocol 0, `dumb` only files.
    While `gate` is cleared nothing is answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.password = ""
        self.moved: dict[str, str] = {}
        self.old = self.dumb = False
        self.gate = threading.Event()
        self.gate.set()
        super().__init__()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, _, query = request.path.partition("?")
        body = _body(request)
        self.requests.append(f"{request.command} {path}")
        self.gate.wait(60)
        self.authorizations.append(request.headers.get("Authorization"))
        for old, new in self.moved.items():
            if path.startswith(old):
                _reply(request, 302, {"Location": request.path.replace(old, new, 1)})
                return
        if self.password and request.headers.get("Authorization") != self.password:
            _reply(request, 401, {"WWW-Authenticate": 'Basic realm="git"'})
        elif self.dumb:
            file = self.folder / path.lstrip("/")
            _reply(request, 200 if file.is_file() else 404, {}, file.read_bytes() if file.is_file() else b"")
        else:
            self._answer_smartly(request, path, query, body)

    def _answer_smartly(self, request: BaseHTTPRequestHandler, path: str, query: str, body: bytes) -> None:
        environment = {
            **os.environ,
            **_WHO,
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": "" if self.old else request.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, capture_output=True, env=environment, check=False
        )
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(fields.pop("Status", "200")[:3])
        _reply(request, status, fields, data)


def _body(request: BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


def _reply(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes = b"") -> None:
    request.send_response_only(status)
    for name, text in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, text)
    request.end_headers()
    request.wfile.write(body)
