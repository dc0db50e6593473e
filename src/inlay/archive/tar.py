"""The tar format as image layers use it: written as Go's archive/tar would, read whoever wrote it.

Names, link targets and extended attributes are bytes: a file name need not be UTF-8. Sizes are bytes, times
nanoseconds since 1970. An archive is written with as few extensions as Go's writer would use in its PAX mode
(containerd: pkg/archive/tar.go): plain ustar where everything fits, else one pax header with the records that
are needed, sorted. So a layer's diff id depends on the tree alone, and is BuildKit's for the same tree.
"""

from __future__ import annotations

import os

from inlay.errors import ContentError
from inlay.tasks import check_cancelled
from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

FILE, HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO = (b"%d" % i for i in range(7))

XATTR_RECORD = b"SCHILY.xattr."
BLOCK = 512
_NAME_SIZE = 100
_PREFIX_SIZE = 155
_BILLION = 1_000_000_000
_ZEROS = bytes(BLOCK)
_NO_DEVICE = b"ustar\x0000" + bytes(64) + b"0000000\x00" * 2
_NO_DEVICE_SUM = sum(_NO_DEVICE) + 8 * ord(" ")  # the checksum counts its own field as spaces


class Sink(Protocol):
    """Where bytes go. `write` takes them all, and keeps no reference to `data` after it returns."""

    def write(self, data: bytes | memoryview, /) -> object: ...


class TarEntry(NamedTuple):
    """One member of an archive; its data stays where it is until the writer asks for it.

    `name` is relative, without a slash at its end. `size` is that of the data: 0 unless `kind` is FILE.
    `link` is what a symlink holds, or the name of the earlier entry that a hard link is the same file as.
    `xattrs` are (name, value) pairs. `open` returns a descriptor to read `size` bytes from, which the writer
    closes; it is called before the next entry is asked for. Without it the data is `data`.
    """

    name: bytes
    kind: bytes = FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    open: Callable[[], int] | None = None
    data: bytes = b""


def write_entries(entries: Iterable[TarEntry], out: Sink) -> None:
    """Write a whole archive of `entries`, in their order, to `out`.

    Raises `ContentError` where a file does not have the size its entry says; the archive is then useless.
    """
    writer = TarWriter(out)
    for entry in entries:
        writer.add(entry)
    writer.close()


class TarWriter:
    """Writes entries one by one through one buffer, into which file data is read directly."""

    __slots__ = ("_out", "_room", "_used", "_view")

    def __init__(self, out: Sink, *, buffer_size: int = 1 << 20) -> None:
        self._out = out
        self._room = buffer_size
        self._view = lazily_zeroed(buffer_size + 1)  # the byte more shows that a file has grown
        self._used = 0

    def add(self, entry: TarEntry) -> None:
        """Write `entry` and its data."""
        self._put(encode_header(entry))
        if not entry.size or entry.kind != FILE:
            return
        if entry.open is None:
            if len(entry.data) != entry.size:
                raise ValueError(f"{entry.name!r} has a size but no data")
            self._put(entry.data)
        else:
            fd = entry.open()
            try:
                self._copy(fd, entry)
            finally:
                os.close(fd)
        self._put(_ZEROS[: -entry.size % BLOCK])

    def close(self) -> None:
        """End the archive. `out` stays open."""
        self._put(_ZEROS * 2)
        self._flush()

    def _put(self, data: bytes) -> None:
        size = len(data)
        if size > self._room - self._used:
            self._flush()
            if size > self._room:
                self._out.write(data)
                return
        self._view[self._used : self._used + size] = data
        self._used += size

    def _copy(self, fd: int, entry: TarEntry) -> None:
        left = entry.size
        while left:
            room = self._room - self._used
            if not room:
                self._flush()
                room = self._room
            wanted = left + 1 if left <= room else room
            n = os.readv(fd, [self._view[self._used : self._used + wanted]])
            if n == 0 or n > left:
                change = "shrank" if n == 0 else "grew"
                raise ContentError(
                    f"{os.fsdecode(entry.name)} {change} while it was read; nothing may write to it"
                )
            self._used += n
            left -= n

    def _flush(self) -> None:
        check_cancelled()
        if self._used:
            self._out.write(self._view[: self._used])
            self._used = 0


def lazily_zeroed(size: int) -> memoryview:
    """A buffer that takes room, and the time to clear it, only as far as it is used."""
    import mmap

    return memoryview(mmap.mmap(-1, size))


def encode_header(entry: TarEntry) -> bytes:
    """The blocks that come before the data of `entry`: mostly one, three or more with a pax header."""
    name = entry.name + b"/" if entry.kind == DIRECTORY else entry.name
    mtime = entry.mtime_ns // _BILLION  # containerd truncates as well
    if (
        len(name) <= _NAME_SIZE
        and len(entry.link) <= _NAME_SIZE
        and name.isascii()
        and entry.link.isascii()
        and b"\0" not in name + entry.link
        and not entry.xattrs
        and 0 <= mtime < 1 << 33
        and entry.uid < 1 << 21 > entry.gid
        and entry.size < 1 << 33
    ):
        return _block(name, entry, mtime)
    return _extended(name, entry, mtime)


def _block(name: bytes, entry: TarEntry, mtime: int, prefix: bytes = b"") -> bytes:
    """One ustar header; every value must fit."""
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (entry.mode, entry.uid, entry.gid, entry.size, mtime)
    if entry.major or entry.minor:
        device = b"ustar\x0000" + bytes(64) + b"%07o\0%07o\0" % (entry.major, entry.minor)
        checksum = sum(device) + 8 * ord(" ")
    else:
        device, checksum = _NO_DEVICE, _NO_DEVICE_SUM
    link = entry.link
    checksum += sum(name) + sum(numbers) + sum(link) + entry.kind[0] + sum(prefix)
    return b"%s%s%06o\0 %s%s%s%s" % (
        name.ljust(_NAME_SIZE, b"\0"),
        numbers,
        checksum,
        entry.kind,
        link.ljust(_NAME_SIZE, b"\0"),
        device,
        prefix.ljust(167, b"\0"),
    )


def _extended(name: bytes, entry: TarEntry, mtime: int) -> bytes:
    """A header for an entry of which something does not fit into plain ustar with a short name."""
    if b"\0" in name + entry.link:
        raise ContentError(f"{name!r} cannot be archived: a name must not contain NUL")
    records = _records(name, entry, mtime)
    if list(records) == [b"path"] and (split := _split(name)):
        return _block(split[1], entry, mtime, split[0])
    if not records:
        return _block(name, entry, mtime)
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    directory, _, file = name.rpartition(b"/")
    pax_name = _ascii(b"/".join(filter(None, (directory, b"PaxHeaders.0", file))))[:_NAME_SIZE].rstrip(b"/")
    fitting = entry._replace(
        link=_ascii(entry.link)[:_NAME_SIZE],
        uid=_fit(entry.uid, 21),
        gid=_fit(entry.gid, 21),
        size=_fit(entry.size, 33),
    )
    return (
        _pax_block(pax_name, len(body))
        + body
        + _ZEROS[: -len(body) % BLOCK]
        + _block(_cut(_ascii(name)), fitting, _fit(mtime, 33))
    )


def _records(name: bytes, entry: TarEntry, mtime: int) -> dict[bytes, bytes]:
    """What does not fit into a ustar header."""
    texts = {b"path": name, b"linkpath": entry.link}
    numbers = {
        b"uid": (entry.uid, 21),
        b"gid": (entry.gid, 21),
        b"size": (entry.size, 33),
        b"mtime": (mtime, 33),
    }
    return {
        **{XATTR_RECORD + key: value for key, value in entry.xattrs},
        **{key: text for key, text in texts.items() if len(text) > _NAME_SIZE or not text.isascii()},
        **{key: b"%d" % n for key, (n, bits) in numbers.items() if not 0 <= n < 1 << bits},
    }


def _record(key: bytes, value: bytes) -> bytes:
    """`<length> <key>=<value>\\n`, where the length counts itself too."""
    rest = len(key) + len(value) + 3
    size = rest + len(b"%d" % rest)
    size = rest + len(b"%d" % size)
    return b"%d %s=%s\n" % (size, key, value)


def _pax_block(name: bytes, size: int) -> bytes:
    head = name.ljust(_NAME_SIZE, b"\0") + b"0000000\0" * 3 + b"%011o\0" % size + b"00000000000\0"
    tail = b"x" + bytes(100) + b"ustar\x0000" + bytes(247)
    return b"%s%06o\0 %s" % (head, sum(head) + sum(tail) + 8 * ord(" "), tail)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Cut a long ASCII name at a slash into ustar's prefix and name, or None where that is impossible."""
    if not name.isascii():
        return None
    end = _PREFIX_SIZE + 1 if len(name) > _PREFIX_SIZE + 1 else len(name) - name.endswith(b"/")
    cut = name.rfind(b"/", 0, end)
    rest = len(name) - cut - 1
    if cut <= 0 or not 0 < rest <= _NAME_SIZE or cut > _PREFIX_SIZE:
        return None
    return name[:cut], name[cut + 1 :]


def _ascii(text: bytes) -> bytes:
    """`text` without what is not ASCII; Go drops whole characters, and each byte that belongs to none."""
    return text if text.isascii() else bytes(byte for byte in text if byte < 0x80)


def _cut(name: bytes) -> bytes:
    """The first 100 bytes; a cut right behind a slash would make a file look like a directory."""
    if len(name) > _NAME_SIZE and name[_NAME_SIZE - 1 : _NAME_SIZE] == b"/":
        return name[: _NAME_SIZE - 1].rstrip(b"/")
    return name[:_NAME_SIZE]


def _fit(number: int, bits: int) -> int:
    return number if 0 <= number < 1 << bits else 0
