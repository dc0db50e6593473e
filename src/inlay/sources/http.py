"""`http://` and `https://` sources: one file of the web (BuildKit: source/http/source.go).

The key is the file's name, content and date, not its URL. So the file is downloaded to find its key, once;
a later build only asks whether it has changed. A file whose checksum is given is not asked for at all until
somebody needs it.
"""

from __future__ import annotations

import re

from inlay.digest import Digest
from inlay.errors import ContentError, SourceError
from inlay.llb.source_keys import http_key, source_digest
from inlay.refs.ref import Ref
from inlay.registry.dial import Abort
from inlay.registry.url import shown_url
from inlay.sources.httpdate import format_http_date, parse_http_date
from inlay.tasks import in_thread
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.llb.ops import SourceOp
    from inlay.refs.store import RefStore
    from inlay.sources.downloads import Download, Downloads

_HEADERS = {"accept": "Accept", "user-agent": "User-Agent"}
"""The headers that a source may set, by the ends of their attributes' names in lower case."""


class WebFile(NamedTuple):
    """What is wanted of the web: a URL, and how its file is to look. `checksum` empty takes what comes."""

    url: str
    filename: str = ""
    checksum: Digest | None = None
    perm: int = 0
    uid: int = 0
    gid: int = 0
    auth_header_secret: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, op: SourceOp) -> WebFile:
        """Read the attributes of an op. Raises `SourceError` for those that mean nothing."""
        headers = []
        for name, value in op.attrs:
            if name.startswith("http.sig"):
                raise SourceError(f"{shown_url(op.identifier)}: signatures of downloads cannot be checked")
            header = _HEADERS.get(name.removeprefix("http.header.").lower())
            if header and name.startswith("http.header."):
                headers.append((header, value))
        try:
            checksum = Digest.parse(op.attr("http.checksum")) if op.attr("http.checksum") else None
            perm, uid, gid = (int(op.attr(f"http.{name}") or "0", 0) for name in ("perm", "uid", "gid"))
        except (ContentError, ValueError) as error:
            raise SourceError(f"{shown_url(op.identifier)}: {error}") from None
        secret = op.attr("http.authheadersecret")
        return cls(
            op.identifier, op.attr("http.filename"), checksum, perm, uid, gid, secret, tuple(sorted(headers))
        )


class HttpSource:
    """One op. Its questions may be asked on the loop, or in any thread by `download`."""

    def __init__(self, op: SourceOp, downloads: Downloads, refs: Callable[[], RefStore]) -> None:
        self._file = WebFile.of(op)
        self._downloads = downloads
        self._refs = refs
        self._abort = Abort()

    async def digests(self) -> tuple[str, ...]:
        file, when, checksum = self._file, "", self._file.checksum
        name = file_name(file.filename, "", file.url)
        if checksum is None:
            found = await in_thread(self.download, abort=self._abort)
            checksum, name = Digest(found.digest), found.name
            seconds = parse_http_date(found.last_modified)
            when = format_http_date(seconds) if seconds is not None else ""
        key = http_key(
            name,
            checksum,
            last_modified=when,
            perm=file.perm,
            uid=file.uid,
            gid=file.gid,
            auth_header_secret=file.auth_header_secret,
            headers=file.headers,
        )
        return (source_digest(key),)

    async def fetch(self) -> Ref:
        found = await in_thread(self.download, abort=self._abort)
        title = f"http url {shown_url(self._file.url)}"
        temporary = self._downloads.is_temporary(found)
        return Ref((self._refs().layer_of(found.directory, description=title, temporary=temporary),))

    def take(self, data: Callable[[memoryview], int]) -> None:
        """Take the file from elsewhere, for this build: `data` reads some of it into a buffer, 0 at the end."""
        self._downloads.put(self._file, data)

    def is_archive(self) -> bool:
        """Whether it is an archive, rather than a Dockerfile. Blocks; raises `SourceError`."""
        from inlay.sources.archives import HEAD, is_archive

        with open(self._downloads.path(self.download()), "rb") as file:
            return is_archive(file.read(HEAD))

    def time(self) -> int | None:
        """When it was made, in seconds since the epoch: as the server says, or the files in it, if it is an archive.
        Blocks; raises `SourceError`."""
        found = self.download()
        seconds = None if self._file.checksum else parse_http_date(found.last_modified)
        if seconds is not None:
            return seconds
        from inlay.sources.archives import newest_file

        return newest_file(self._downloads.path(found))

    def download(self) -> Download:
        """The file, in the store. Blocks; raises `SourceError`."""
        return self._downloads.bring(self._file, self._abort)


def file_name(wanted: str, disposition: str, url: str) -> str:
    """What the file is called: as wanted, as a `Content-Disposition` says, as the URL ends; or `download`."""
    if wanted:
        return _safe(wanted)
    if (said := _disposed(disposition)) and not said.endswith("/"):
        return _safe(said)
    from inlay.dockerfile.giturl import url_path

    return _safe((url_path(url) or "").rstrip("/"))


def _safe(name: str) -> str:
    name = name.strip().rstrip("/").rpartition("/")[2]
    if name in ("", ".", "..") or any(char < " " or "\x7f" <= char <= "\x9f" for char in name):
        return "download"
    return name


_PARAMETER = re.compile(r';\s*([!-~]+?)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')


def _disposed(header: str) -> str:
    """The `filename` of a `Content-Disposition` header, its extended form (RFC 8187) first."""
    fields = {
        name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare
        for name, quoted, bare in _PARAMETER.findall(header)
    }
    charset, _, text = fields.get("filename*", "").partition("'")
    if charset.lower() in ("utf-8", "us-ascii") and "'" in text:
        from urllib.parse import unquote

        return unquote(text.partition("'")[2], errors="replace")
    return fields.get("filename", "")
