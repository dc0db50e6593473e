"""The web server and the git repository that BuildKit was recorded with, served again on loopback."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECORDED_SERVER = "127.0.0.1:18080"
_GIT = "/git/repo.git"
_TIME = "1704067200 +0000"


class Page(NamedTuple):
    body: bytes
    last_modified: str


def recorded_pages(folder: Path) -> dict[str, Page]:
    """What the recorded server answered, by path and query, as far as `keys.json` tells."""
    pages: dict[str, Page] = {}
    for vertex in _vertices(folder):
        match = re.search(rf"http://{RECORDED_SERVER}(\S+)", vertex["name"])
        if match and "http" in vertex:
            known, date = pages.get(match[1]), vertex["http"]["lastModifiedUsed"]
            if known is None or not known.last_modified:  # with a checksum the date is not asked for
                pages[match[1]] = Page(base64.b64decode(vertex["http"]["content"]), date or "")
    return pages


def make_repository(folder: Path, bare: Path) -> None:
    """Make the recorded repository again, with the very commits: each of a content tar that was kept."""
    work = bare.parent / "work"
    checkouts = {
        vertex["git"]["sha"]: vertex["git"]["contentTar"]
        for vertex in _vertices(folder)
        if vertex.get("git", {}).get("contentTar") and not vertex["git"]["subdir"]
    }
    named = {vertex["git"]["ref"]: vertex["git"]["sha"] for vertex in _vertices(folder) if "git" in vertex}
    ordered = [named["refs/tags/v1"], named["refs/heads/main"]]
    _git("init", "-q", "-b", "main", str(work), cwd=folder)
    for number, sha in enumerate(ordered):
        with tarfile.open(folder / checkouts[sha]) as archive:
            archive.extraction_filter = lambda member, _: member  # an argument `filter` is new in 3.11.4
            archive.extractall(work)
        (work / ".git/index").unlink(missing_ok=True)  # sizes and times may be equal where content is not
        _git("add", "--all", cwd=work)
        _git("commit", "-q", "-m", f"c{number + 1}", cwd=work)
        made = _git("rev-parse", "HEAD", cwd=work)
        if made != sha:
            raise AssertionError(f"{folder}: commit {sha} became {made}")
    _git("tag", "v1", ordered[0], cwd=work)
    _git("tag", "-a", "-m", "x", "v1a", ordered[0], cwd=work)
    _git("clone", "-q", "--bare", str(work), str(bare), cwd=folder)
    _git("update-server-info", cwd=bare)


def _git(*arguments: str, cwd: Path) -> str:
    who = {f"GIT_{role}_{what}": text for role in ("AUTHOR", "COMMITTER") for what, text in _WHO.items()}
    plain = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    environment = {**os.environ, **who, **plain}
    done = subprocess.run(
        ["git", *arguments], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


_WHO = {"NAME": "a", "EMAIL": "a@b", "DATE": _TIME}


def _vertices(folder: Path) -> list[dict[str, Any]]:
    path = folder / "keys.json"
    return json.loads(path.read_text()) if path.exists() else []


@contextlib.contextmanager
def serve(folder: Path, work: Path) -> Iterator[str]:
    """Serve what the case in `folder` wants; gives the host, empty where it wants nothing."""
    pages = recorded_pages(folder)
    has_git = any("git" in vertex for vertex in _vertices(folder))
    if not pages and not has_git:
        yield ""
        return
    bare = work / "repository" / "repo.git"
    if has_git:
        bare.parent.mkdir()
        make_repository(folder, bare)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            file = bare / self.path.partition("?")[0].removeprefix(_GIT).lstrip("/")
            if page is None and self.path.startswith(_GIT) and file.is_file():
                page = Page(file.read_bytes(), "")
            self.send_response_only(200 if page else 404)
            if page and page.last_modified:
                self.send_header("Last-Modified", page.last_modified)
            self.send_header("Content-Length", str(len(page.body) if page else 0))
            self.end_headers()
            self.wfile.write(page.body if page else b"")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
