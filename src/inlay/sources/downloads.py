"""Files of the web, downloaded into the store, and asking whether they are still what the web has.

    root/http/<digest of what is wanted>    what came of it: JSON, newest first

Each file is a layer directory of its own. What a later build is told by a validator (an ETag, or a date old
enough to be one) it need not download again.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading

from inlay.archive.compression import decompress
from inlay.digest import Digest
from inlay.errors import ContentError, RegistryError, SourceError, UsageError, system_error
from inlay.registry.transport import Request, TransientError
from inlay.registry.url import Url, basic, shown_url
from inlay.sources.credentials import header_text
from inlay.sources.http import file_name
from inlay.sources.httpdate import parse_http_date
from inlay.system.filebytes import replace_file, write_all
from inlay.system.privileges import change_owner
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.registry.dial import Abort
    from inlay.registry.transport import Transport
    from inlay.registry.wire import Response
    from inlay.snapshot.snapshotter import LayerDir, Snapshotter
    from inlay.sources.http import WebFile

SIZE_LIMIT = 64 << 30
"""Bytes of a download: a server that sends without end does not fill the disk."""
_KEPT = 4
_CHUNK = 1 << 20
_SURE_AFTER_S = 60
"""A date tells apart all versions that are so much older than the answer (RFC 9110, 8.8.2.2)."""


class Download(NamedTuple):
    """A file in the store: called `name`, alone in `directory`. Its validators are as the server wrote them."""

    digest: str
    name: str
    directory: LayerDir
    etag: str = ""
    last_modified: str = ""
    dates_it: bool = False
    """Whether `last_modified` can tell it from other versions."""


class Downloads:
    """The downloads of one build. May be asked from several threads; each file is asked for once."""

    def __init__(
        self,
        root: str,
        snapshotter: Callable[[], Snapshotter],
        transport: Callable[[], Transport],
        secret: Callable[[str], bytes | None],
    ) -> None:
        """`secret` gives the value of a secret that the caller of the build has given, else None."""
        self._root = root
        self._snapshotter = snapshotter
        self._transport = transport
        self._secret = secret
        self._lock = threading.Lock()
        self._each: dict[str, threading.Lock] = {}
        self._found: dict[str, Download] = {}
        self._temporary: list[LayerDir] = []

    def bring(self, file: WebFile, abort: Abort) -> Download:
        """The file as it is now, or the one with its checksum. Raises `SourceError`."""
        name = _identity(file)
        with self._lock:
            each = self._each.setdefault(name, threading.Lock())
        with each:
            found = self._found.get(name)
            if found is None or (file.checksum and found.digest != file.checksum):
                found = self._bring(name, file, abort)
                self._found[name] = found
        return found

    def put(self, file: WebFile, data: Callable[[memoryview], int]) -> Download:
        """Take a file from elsewhere, for this build: `data` reads some of it into a buffer, 0 at the end."""
        found = self._found[_identity(file)] = self._save(file, data, "", "", dates_it=False)
        self._temporary.append(found.directory)
        return found

    def is_temporary(self, found: Download) -> bool:
        """Whether it goes with the build."""
        return found.directory in self._temporary

    def path(self, found: Download) -> str:
        return f"{self._snapshotter().upper(found.directory)}/{found.name}"

    def close(self) -> None:
        """Delete what came from elsewhere."""
        for directory in self._temporary:
            self._snapshotter().remove(directory)

    def _bring(self, name: str, file: WebFile, abort: Abort) -> Download:
        known = self._remembered(name)
        if file.checksum:
            for each in known:
                if each.digest == file.checksum:
                    return each
            known = []
        try:
            found = _Exchange(self, file, known, abort).run()
        except (RegistryError, ContentError, UsageError) as error:
            raise SourceError(str(error)) from error
        except OSError as error:
            why = f"cannot keep the download of {shown_url(file.url)}: {system_error(error)}"
            raise SourceError(why) from error
        if file.checksum and found.digest != file.checksum:
            self._snapshotter().remove(found.directory)
            raise SourceError(
                f"{shown_url(file.url)}: what came has the digest {found.digest}, but its checksum is to be "
                f"{file.checksum}; check the URL, or the checksum"
            )
        self._remember(name, found, known)
        return found

    # -- what is known from earlier builds -----------------------------------------------------------

    def _remembered(self, name: str) -> list[Download]:
        """What is still in the store; nothing where the note is missing or damaged."""
        try:
            with open(f"{self._root}/http/{name}", encoding="utf-8") as file:
                found = [Download(*fields) for fields in json.load(file)]
            return [each for each in found if self._snapshotter().exists(each.directory)]
        except (OSError, ValueError, TypeError):
            return []

    def _remember(self, name: str, newest: Download, known: list[Download]) -> None:
        others = [each for each in known if each.directory != newest.directory and each.etag != newest.etag]
        text = json.dumps([newest, *others[: _KEPT - 1]])
        folder = f"{self._root}/http"
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            replace_file(f"{folder}/{name}", text.encode())
        except OSError:
            return  # it is downloaded again next time

    # -- one request ---------------------------------------------------------------------------------

    def _save(
        self,
        file: WebFile,
        data: Callable[[memoryview], int],
        disposition: str,
        last_modified: str,
        *,
        dates_it: bool,
        etag: str = "",
    ) -> Download:
        """Write a file. Its date is the server's, or that of the epoch."""
        name, sha, size = file_name(file.filename, disposition, file.url), hashlib.sha256(), 0
        view = memoryview(bytearray(_CHUNK))
        with self._snapshotter().receive() as incoming:
            path = f"{incoming.directory}/{name}"
            with open(path, "xb", buffering=0) as out:
                while count := data(view):
                    size += count
                    if size > SIZE_LIMIT:
                        raise _too_large(file.url)
                    sha.update(view[:count])
                    write_all(out.fileno(), view[:count])
                os.fchmod(out.fileno(), file.perm & 0o7777 or 0o600)
                if file.uid or file.gid:
                    change_owner(out.fileno(), file.uid, file.gid, name=name)
                seconds = parse_http_date(last_modified) or 0
                os.utime(out.fileno(), (seconds, seconds))
                if (kept := os.fstat(out.fileno()).st_size) != size:
                    raise ContentError(
                        f"{shown_url(file.url)}: of {size} bytes {kept} are in {path}; try again"
                    )
            directory = incoming.commit()
        return Download(f"sha256:{sha.hexdigest()}", name, directory, etag, last_modified, dates_it)

    def _authorization(self, file: WebFile, host: str) -> str:
        """What the secrets say for the host; else the user and password of the URL."""
        if file.auth_header_secret:
            value = self._secret(file.auth_header_secret)
            if value is None:
                raise SourceError(
                    f"{shown_url(file.url)}: the secret {file.auth_header_secret} was not given; pass "
                    f"--secret id={file.auth_header_secret},env=NAME"
                )
            return header_text(value, file.auth_header_secret)
        for prefix, before in (("HTTP_AUTH_TOKEN_", "Bearer "), ("HTTP_AUTH_HEADER_", "")):
            value = self._secret(prefix + host)
            if value is not None:
                return before + header_text(value, prefix + host)
        userinfo, at, _ = file.url.partition("://")[2].partition("/")[0].rpartition("@")
        return basic(userinfo) if at else ""


class _Exchange:
    """Asking for one file, until an answer tells what it is."""

    def __init__(self, downloads: Downloads, file: WebFile, known: list[Download], abort: Abort) -> None:
        self._downloads = downloads
        self._transport = downloads._transport().within(abort)
        self._file = file
        self._known = {_strong(each.etag): each for each in reversed(known) if each.etag}
        self._dated = next((each for each in known if each.dates_it and not self._known), None)
        url = Url.parse(_escaped(file.url))
        self._headers = {"Accept-Encoding": "gzip", **dict(file.headers)}
        headers = dict(self._headers)
        if self._known:
            headers["If-None-Match"] = ", ".join(each.etag for each in self._known.values())
        elif self._dated is not None:
            headers["If-Modified-Since"] = self._dated.last_modified
        self._request = Request(
            "GET",
            url,
            "download",
            str(url),
            headers=headers,
            authorization=downloads._authorization(file, url.host),
            may_lose_tls=True,
        )

    def run(self) -> Download:
        return self._transport.retry(self._attempt)

    def _attempt(self) -> Download:
        try:
            with self._transport.attempt(self._request) as response:
                if not self._may_be_older(response):
                    return self._taken(response)
            self._request = self._request._replace(headers=self._headers)
            with self._transport.attempt(self._request) as response:
                return self._taken(response)
        except TransientError as failure:
            if isinstance(failure.__cause__, TimeoutError):
                raise failure.error from failure.__cause__  # whoever hangs is not asked again and again
            raise

    def _taken(self, response: Response) -> Download:
        etag = response.header("etag")
        if response.status == 304:
            unchanged = self._known.get(_strong(etag)) if etag else self._only_one()
            if unchanged is None:
                raise self._request.failed(
                    f"{response.url.netloc} says that it has not changed, but since when?"
                )
            return unchanged
        if not 200 <= response.status < 300:
            raise self._refused(response)
        if etag and _strong(etag) in self._known:
            return self._known[_strong(etag)]  # a server that ignores the question: the answer is left unread
        if self._dated is not None and self._is_dated(self._dated, response):
            return self._dated
        if (response.length or 0) > SIZE_LIMIT:
            raise _too_large(self._file.url)
        when = response.header("last-modified")
        return self._downloads._save(
            self._file,
            self._body(response),
            response.header("content-disposition"),
            when,
            dates_it=_tells_apart(when, response.header("date")),
            etag=etag,
        )

    def _may_be_older(self, response: Response) -> bool:
        """Whether a 304 may be about another version: some servers give it for any file that is not newer, such
        as one that was put back, and do not say of what date theirs is."""
        if response.status != 304 or self._dated is None:
            return False
        return response.header("last-modified") != self._dated.last_modified

    def _is_dated(self, known: Download, response: Response) -> bool:
        """Whether an answer is `known` by date and size; the body need not be read then."""
        if response.header("last-modified") != known.last_modified or response.header("content-encoding"):
            return False
        return response.length == os.stat(self._downloads.path(known)).st_size

    def _only_one(self) -> Download | None:
        """What was asked about, where that was one version."""
        if len(self._known) == 1:
            return next(iter(self._known.values()))
        return self._dated

    def _body(self, response: Response) -> Callable[[memoryview], int]:
        source = _Body(self._transport, self._request, response)
        if response.header("content-encoding").strip().lower() != "gzip":
            return source.readinto
        unpacked = decompress(source)
        return lambda view: unpacked.readinto(view) or 0

    def _refused(self, response: Response) -> RegistryError:
        host = response.url.host
        if response.status in (401, 403):
            asked = "the credentials that were given" if self._request.authorization else "access"
            return self._request.failed(
                f"{host} refuses {asked} (status {response.status}); pass a token as the secret "
                f"HTTP_AUTH_TOKEN_{host}, or a header as HTTP_AUTH_HEADER_{host}",
                status=response.status,
            )
        said = "does not have it (status 404); check the URL" if response.status == 404 else ""
        reason = f"{host} {said or f'answers with status {response.status}'}"
        return self._request.failed(reason, status=response.status)


class _Body:
    """An answer's body, which may break off: then it is asked for again."""

    def __init__(self, transport: Transport, request: Request, response: Response) -> None:
        self._transport = transport
        self._request = request
        self._response = response

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        try:
            return self._response.readinto(buffer)
        except OSError as error:
            raise TransientError(self._transport.lost(self._request, error)) from error


def _identity(file: WebFile) -> str:
    """What a note of a download is called. Nothing can be read from it."""
    wanted = file._replace(checksum=None)
    return Digest.of(json.dumps(wanted)).hex


def _strong(etag: str) -> str:
    return etag.removeprefix("W/")


def _tells_apart(last_modified: str, date: str) -> bool:
    modified, now = parse_http_date(last_modified), parse_http_date(date)
    return modified is not None and now is not None and now - modified >= _SURE_AFTER_S


def _escaped(url: str) -> str:
    """`url` in the characters that a request may have."""
    safe = "!$%&'()*+,-./:;=?@_~[]#"
    return "".join(
        char if char.isascii() and (char.isalnum() or char in safe) else _percent(char) for char in url
    )


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode(errors="surrogateescape"))


def _too_large(url: str) -> SourceError:
    return SourceError(f"{shown_url(url)}: larger than the {SIZE_LIMIT >> 30} GiB that a download may have")
