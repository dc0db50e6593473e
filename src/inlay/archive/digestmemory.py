"""What the files of one build context were found to hash to, so that unchanged ones are not read again.

A file is known again by device, inode, size, ctime and mtime; nobody can set a ctime. One file on disk:

    magic · sha256 of the rest · for each file: 5 little-endian int64 as above, 32 bytes of its digest
"""

from __future__ import annotations

import os
import struct

from inlay.digest import sha256
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAGIC = b"inlay digests 1\n"
_KEY = struct.Struct("<QQqqq")
_pack = _KEY.pack
_DIGEST = 32
_RECORD = _KEY.size + _DIGEST
_SECOND = 1_000_000_000
_TICK = _SECOND // 10
"""Longer than a tick of any kernel's clock (1 to 10 ms), which file times are read off."""
_COARSE_TICK = 3 * _SECOND
"""For file systems that keep whole seconds, or two of them."""


class DigestMemory:
    """Digests of files by their `stat`. `path` is where they are kept, None for nowhere.

    May be used by several threads at once, and by several processes: the last to `save` wins, and what
    the others found out is found out again.
    """

    __slots__ = ("_found", "_fresh", "_known", "_path")

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._known = _load(path) if path else {}
        self._fresh: dict[bytes, bytes] = {}
        self._found: list[bytes] = []
        """Keys that were asked for and known."""

    def get(self, stat: os.stat_result) -> str | None:
        return self.get_all([stat])[0]

    def get_all(self, stats: Iterable[os.stat_result]) -> list[str | None]:
        """The digest of each, None of those that are not known."""
        known, fresh, found = self._known.get, self._fresh.get, self._found.append
        digests: list[str | None] = []
        add = digests.append
        for stat in stats:
            key = _pack(stat.st_dev, stat.st_ino, stat.st_size, stat.st_ctime_ns, stat.st_mtime_ns)
            digest = known(key) or fresh(key)
            if digest is None:
                add(None)
            else:
                found(key)
                add("sha256:" + digest.hex())
        return digests

    def put(self, stat: os.stat_result, digest: str, started_ns: int) -> None:
        """Remember a digest made of what was read from `started_ns` on.

        Not that of a file that changed just before: it might change again and still have the same times.
        """
        ctime = stat.st_ctime_ns
        tick = _TICK if ctime % _SECOND else _COARSE_TICK
        if ctime > started_ns - tick:
            return
        key = _pack(stat.st_dev, stat.st_ino, stat.st_size, ctime, stat.st_mtime_ns)
        self._fresh[key] = bytes.fromhex(digest[7:])

    def save(self) -> None:
        """Write what is new, if anything is. What was not used is kept while it does not outweigh the rest.

        Raises `OSError` where that cannot be written.
        """
        if not self._fresh or self._path is None:
            return
        used = {key: self._known[key] for key in self._found if key in self._known} | self._fresh
        records = {**self._known, **used} if len(self._known) <= 4 * len(used) else used
        body = b"".join(_flat(records))
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        temporary = f"{self._path}.{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(_MAGIC + sha256(body).digest() + body)
        os.replace(temporary, self._path)
        self._known, self._fresh = records, {}


def _flat(records: dict[bytes, bytes]) -> Iterator[bytes]:
    for key, digest in records.items():
        yield key
        yield digest


def _load(path: str) -> dict[bytes, bytes]:
    """Read a memory; an empty one where there is none, or not a whole one."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return {}
    start = len(_MAGIC) + _DIGEST
    body = memoryview(data)[start:]
    if not data.startswith(_MAGIC) or len(body) % _RECORD:
        return {}
    if sha256(body).digest() != data[len(_MAGIC) : start]:
        return {}
    return dict(struct.iter_unpack(f"{_KEY.size}s{_DIGEST}s", body))
