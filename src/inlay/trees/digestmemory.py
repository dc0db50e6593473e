"""What the files of one build context were found to hash to, so that unchanged ones are not read again.

A file is known again by device, inode, size, ctime and mtime; nobody can set a ctime. A folder is known again by
its own digest, and the names and keys of all that is in it (of a subfolder the digest), so that its files need not be
looked up one by one. One file on disk:

    magic · sha256 of the rest · number of folders, a little-endian int64
    for each folder: the sha256 that it is known by, 32 bytes of its digest
    for each file: 5 little-endian int64 as above, 32 bytes of its digest
"""

from __future__ import annotations

import os
import struct
from _operator import attrgetter
from itertools import starmap

from inlay.digest import sha256
from inlay.system.filebytes import replace_file
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MAGIC = b"inlay digests 2\n"
_KEY = struct.Struct("<QQqqq")
_pack = _KEY.pack
_identity = attrgetter("st_dev", "st_ino", "st_size", "st_ctime_ns", "st_mtime_ns")
_DIGEST = 32
_FOLDER = 2 * _DIGEST
_SECOND = 1_000_000_000
_TICK = _SECOND // 10
"""Longer than a tick of any kernel's clock (1 to 10 ms), which file times are read off."""
_COARSE_TICK = 3 * _SECOND
"""For file systems that keep whole seconds, or two of them."""


def file_keys(stats: Iterable[os.stat_result]) -> list[bytes]:
    """What each file is known again by; another one, if it has changed."""
    return [*starmap(_pack, map(_identity, stats))]


def subfolder_key(digest: str) -> bytes:
    """What stands for a subfolder, whose digest is `digest`, among the keys of files: as long, and of no device."""
    return b"\xff" * 8 + bytes.fromhex(digest[7:])


def folder_key(own: str, names: list[str], keys: list[bytes]) -> bytes:
    """What a folder is known again by: the digest `own` of itself alone, and `names` and `keys` of what is in it."""
    return sha256(b"".join((os.fsencode("\0".join((own, *names))), b"\0\0", *keys))).digest()


class DigestMemory:
    """Digests of files and folders. `path` is where they are kept, None for nowhere.

    May be used by several threads at once, and by several processes: the last to `save` wins, and what
    the others found out is found out again.
    """

    __slots__ = ("_files", "_folders", "_found", "_fresh", "_fresh_folders", "_packed", "_path")

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._folders, self._packed = _load(path) if path else ({}, b"")
        self._files: dict[bytes, bytes] | None = None
        self._fresh: dict[bytes, bytes] = {}
        self._fresh_folders: dict[bytes, bytes] = {}
        self._found: list[bytes] = []
        """Keys of files and folders that were asked for and known."""

    @property
    def _known(self) -> dict[bytes, bytes]:
        """The files that were known from the start; taken apart when the first of them is asked for."""
        if self._files is None:
            self._files = dict(struct.iter_unpack(f"{_KEY.size}s{_DIGEST}s", self._packed))
        return self._files

    def get(self, stat: os.stat_result) -> str | None:
        return self.get_all(file_keys([stat]))[0]

    def get_all(self, keys: list[bytes]) -> list[str | None]:
        """The digest of each file by its `file_keys`, None of those that are not known."""
        known = [*map(self._known.get, keys)]
        if None in known:
            known = [digest or self._fresh.get(key) for key, digest in zip(keys, known, strict=True)]
            keys = [key for key, digest in zip(keys, known, strict=True) if digest]
        self._found += keys
        return ["sha256:" + digest.hex() if digest else None for digest in known]

    def put(self, stat: os.stat_result, digest: str, started_ns: int) -> None:
        """Remember a digest made of what was read from `started_ns` on.

        Not that of a file that changed just before: it might change again and still have the same times.
        """
        ctime = stat.st_ctime_ns
        tick = _TICK if ctime % _SECOND else _COARSE_TICK
        if ctime > started_ns - tick:
            return
        self._fresh[_pack(*_identity(stat))] = bytes.fromhex(digest[7:])

    def get_folder(self, key: bytes, files: list[bytes]) -> str | None:
        """The recursive digest of the folder that `folder_key` made `key` of, with `files` in it."""
        digest = self._folders.get(key)
        if digest is None:
            digest = self._fresh_folders.get(key)
            if digest is None:
                return None
        self._found.append(key)
        self._found += files
        return "sha256:" + digest.hex()

    def put_folder(self, key: bytes, files: list[bytes], digest: str) -> None:
        """Remember the digest of a folder, if all of its `files` are remembered."""
        known, fresh = self._known, self._fresh
        for file in files:
            if file not in known and file not in fresh:
                return
        self._fresh_folders[key] = bytes.fromhex(digest[7:])

    def save(self) -> None:
        """Write what is new, if anything is. What was not used is kept while it does not outweigh the rest.

        Raises `OSError` where that cannot be written.
        """
        if self._path is None or not (self._fresh or self._fresh_folders):
            return
        used = set(self._found)
        folders = _worth_keeping(self._folders, used, self._fresh_folders)
        files = _worth_keeping(self._known, used, self._fresh)
        body = len(folders).to_bytes(8, "little") + b"".join((*_flat(folders), *_flat(files)))
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        replace_file(self._path, _MAGIC + sha256(body).digest() + body)
        self._folders, self._files = folders, files
        self._fresh, self._fresh_folders = {}, {}


def _worth_keeping(
    known: dict[bytes, bytes], used: set[bytes], fresh: dict[bytes, bytes]
) -> dict[bytes, bytes]:
    recent = {key: known[key] for key in known.keys() & used} | fresh
    return {**known, **recent} if len(known) <= 4 * len(recent) else recent


def _flat(records: dict[bytes, bytes]) -> Iterator[bytes]:
    for key, digest in records.items():
        yield key
        yield digest


def _load(path: str) -> tuple[dict[bytes, bytes], bytes]:
    """Read a memory: its folders, and its files as they are written. Empty where there is none, or not a whole one."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return {}, b""
    start = len(_MAGIC) + _DIGEST
    if not data.startswith(_MAGIC) or sha256(memoryview(data)[start:]).digest() != data[len(_MAGIC) : start]:
        return {}, b""
    files = start + 8 + _FOLDER * int.from_bytes(data[start : start + 8], "little")
    folders = struct.iter_unpack(f"{_DIGEST}s{_DIGEST}s", data[start + 8 : files])
    return dict(folders), data[files:]
