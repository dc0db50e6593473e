"""Reading tar: ustar, pax, GNU and old V7 headers, sparse files in all of GNU tar's four ways.

What readers may disagree about is decided as in Go's archive/tar, with which BuildKit and containerd read
layers: a pax header overrides, a GNU long name overrides that, global headers are checked and then ignored,
and so are the sizes of entries that have no data.
"""

from __future__ import annotations

import os

from inlay.archive.tar import (
    BLOCK,
    BLOCK_DEVICE,
    CHAR_DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    HARD_LINK,
    SYMLINK,
    XATTR_RECORD,
    TarEntry,
)
from inlay.errors import ContentError
from inlay.system.filebytes import write_all
from inlay.tasks import check_cancelled
from inlay.typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

_WITHOUT_DATA = frozenset((HARD_LINK, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE, DIRECTORY, FIFO))
_EXTENSIONS = frozenset((b"x", b"g", b"L", b"K"))
_DEVICES = frozenset((CHAR_DEVICE, BLOCK_DEVICE))
_MAX_EXTENSION = 1 << 20  # Go refuses longer ones too
_ZEROS = bytes(BLOCK)
_MAX_SEGMENTS = 1 << 16
_EMPTY_CHECKSUM = 8 * ord(" ")
_BILLION = 1_000_000_000

Segments = list[tuple[int, int]]
"""Where the data of a sparse file lies: (offset, length), ascending; all else is zeros."""


class ByteSource(Protocol):
    """Where bytes come from; `readinto` returns 0 at the end."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None: ...


class TarReader:
    """Iterates over the entries of an uncompressed archive.

    After each entry its data may be taken with `read` or `copy_to`, once; what is not taken is skipped.
    Raises `ContentError` where the archive is broken or ends too early. `position` is how far it has read.
    """

    __slots__ = (
        "_buffer",
        "_end",
        "_left",
        "_padding",
        "_segments",
        "_size",
        "_source",
        "_start",
        "_view",
        "position",
    )

    def __init__(self, source: ByteSource, *, buffer_size: int = 1 << 18) -> None:
        self._source = source
        self._buffer = bytearray(max(buffer_size, BLOCK))
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._left = 0  # data of the current entry not yet taken
        self._padding = 0
        self._size = 0
        self._segments: Segments | None = None
        self.position = 0

    def __iter__(self) -> Iterator[TarEntry]:
        return iter(self._next, None)

    def read(self) -> bytes:
        """The data of the current entry, in one piece; a sparse file's without its holes filled."""
        data = bytearray()
        while self._left:
            data += self._some()
        return bytes(data)

    def copy_to(self, fd: int) -> None:
        """Write the data of the current entry to `fd`, an empty file; holes stay holes."""
        if self._segments is not None:
            for offset, length in self._segments:
                self._copy_segment(fd, offset, length)
            os.ftruncate(fd, self._size)
            return
        while self._left:
            write_all(fd, self._some())

    def drain(self) -> None:
        """Read on to the end of the source: what follows the archive counts for a layer's diff id too."""
        while self._end:
            self.position += self._end - self._start
            self._refill()

    def _copy_segment(self, fd: int, offset: int, length: int) -> None:
        os.lseek(fd, offset, os.SEEK_SET)
        while length:
            part = self._some(length)
            write_all(fd, part)
            length -= len(part)

    def _some(self, most: int = 1 << 62) -> memoryview:
        """Some more data of the current entry: valid until anything more is read."""
        if self._start == self._end:
            self._refill()
            if not self._end:
                raise ContentError("the archive ends inside a file")
        size = min(self._end - self._start, self._left, most)
        part = self._view[self._start : self._start + size]
        self._start += size
        self._left -= size
        self.position += size
        return part

    def _refill(self) -> None:
        """Put the next bytes of the source in the place of those that were taken."""
        check_cancelled()
        self._start, self._end = 0, self._source.readinto(self._buffer) or 0

    def _next(self) -> TarEntry | None:
        """Skip to the next header and read it, with the extension headers before it."""
        records: dict[bytes, bytes] = {}
        pairs: list[bytes] = []
        long_name = long_link = b""
        while True:
            if self._left or self._padding:
                self._skip()
            block = self._header()
            if block is None:
                return None
            kind = block[156:157]
            if kind in _EXTENSIONS:
                body = self._extension(block)
                if kind == b"x":
                    records, pairs = _parse_records(body)
                elif kind == b"g":
                    _parse_records(body)
                elif kind == b"L":
                    long_name = _text(body)
                else:
                    long_link = _text(body)
                continue
            entry = _parse_block(block, kind)
            if records:
                entry = _merge(entry, records)
            if long_name or long_link:
                entry = entry._replace(name=long_name or entry.name, link=long_link or entry.link)
            return self._begin(entry, block, records, pairs)

    def _begin(
        self, entry: TarEntry, block: bytes, records: dict[bytes, bytes], pairs: list[bytes]
    ) -> TarEntry:
        """Get ready to give out the data of `entry`."""
        kind, name = entry.kind, entry.name
        if kind == b"\0" or kind == b"7":
            kind = DIRECTORY if kind == b"\0" and name.endswith(b"/") else FILE
            entry = entry._replace(kind=kind)
        self._segments = None
        if kind in _WITHOUT_DATA:
            self._left = self._padding = 0
            if entry.size or name.endswith(b"/"):
                entry = entry._replace(size=0, name=name.rstrip(b"/"))
            return entry
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        if kind == b"S":
            return self._old_sparse(entry._replace(kind=FILE), block)
        if kind == FILE and any(key.startswith(b"GNU.sparse.") for key in records):
            return self._pax_sparse(entry, records, pairs)
        self._size = entry.size
        return entry

    def _skip(self) -> None:
        left = self._left + self._padding
        at_hand = self._end - self._start
        if left <= at_hand:
            self._start += left
            self.position += left
        else:
            self._left = left
            while self._left:
                self._some()
        self._left = self._padding = 0

    def _header(self) -> bytes | None:
        """The next header block with a right checksum; None at the end of the archive."""
        block = self._block()
        if not block:
            return None
        if block == _ZEROS:
            after = self._block()
            if after not in (b"", _ZEROS):
                raise ContentError("the archive is broken: a lone block of zeros in the middle")
            return None
        if not is_header(block):
            raise ContentError(
                f"not a tar archive, or a broken one: wrong checksum at byte {self.position - BLOCK}"
            )
        return block

    def _block(self) -> bytes:
        """The next 512 bytes, or nothing at the end of the source."""
        start = self._start
        if self._end - start < BLOCK and not self._gather():
            return b""
        start = self._start
        self._start = start + BLOCK
        self.position += BLOCK
        return bytes(self._view[start : start + BLOCK])

    def _gather(self) -> bool:
        """Have a whole block in the buffer; False at the end of the source."""
        rest = self._end - self._start
        self._view[:rest] = bytes(self._view[self._start : self._end])
        self._start, self._end = 0, rest
        while self._end < BLOCK:
            n = self._source.readinto(self._view[self._end :]) or 0
            if not n:
                if not self._end:
                    return False
                raise ContentError("the archive ends inside a header")
            self._end += n
        return True

    def _extension(self, block: bytes) -> bytes:
        size = _number(block[124:136])
        if not 0 <= size <= _MAX_EXTENSION:
            raise ContentError(
                f"an extension header of {size} bytes is more than the {_MAX_EXTENSION} allowed"
            )
        self._left, self._padding = size, -size % BLOCK
        body = self.read()
        self._skip()
        return body

    def _old_sparse(self, entry: TarEntry, block: bytes) -> TarEntry:
        """GNU tar's own format: the map is in the header and in blocks between it and the data."""
        size = _number(block[483:495])
        segments = _parse_map_fields(block[386:482])
        more = block[482]
        while more:
            block = self._block()
            if not block or len(segments) > _MAX_SEGMENTS:
                raise ContentError(f"{os.fsdecode(entry.name)}: its sparse map is cut off or too long")
            segments += _parse_map_fields(block[:504])
            more = block[504]
        return self._sparse(entry, segments, size)

    def _pax_sparse(self, entry: TarEntry, records: dict[bytes, bytes], pairs: list[bytes]) -> TarEntry:
        """The formats 0.0 (a record for each number), 0.1 (one record) and 1.0 (ahead of the data)."""
        name = records.get(b"GNU.sparse.name", entry.name)
        entry = entry._replace(name=name)
        if records.get(b"GNU.sparse.major") == b"1":
            segments = self._leading_map()
        else:
            listed = records[b"GNU.sparse.map"].split(b",") if b"GNU.sparse.map" in records else pairs
            segments = _pair(listed)
        size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        if size is None:
            raise ContentError(f"{os.fsdecode(name)}: a sparse file without its size")
        return self._sparse(entry, segments, _decimal(size))

    def _leading_map(self) -> Segments:
        """Format 1.0: a count and that many pairs, one number a line, padded to a whole block."""
        text = bytearray()
        lines, wanted = 0, 1
        while lines < wanted:
            if self._left < BLOCK or len(text) > _MAX_EXTENSION:
                raise ContentError("a sparse map is cut off or too long")
            self._left -= BLOCK
            block = self._block()
            lines += block.count(b"\n")
            text += block
            if lines and wanted == 1:
                wanted = 1 + 2 * _decimal(bytes(text[: text.index(b"\n")]))
        return _pair(bytes(text).split(b"\n")[1:wanted])

    def _sparse(self, entry: TarEntry, segments: Segments, size: int) -> TarEntry:
        end = 0
        for offset, length in segments:
            if offset < end or length < 0 or offset + length > size:
                raise ContentError(f"{os.fsdecode(entry.name)}: its sparse map contradicts itself")
            end = offset + length
        if sum(length for _, length in segments) != self._left:
            raise ContentError(f"{os.fsdecode(entry.name)}: its sparse map does not fit its data")
        self._segments, self._size = segments, size
        return entry._replace(size=size)


def is_header(block: bytes) -> bool:
    """Whether the checksum of a block of 512 bytes is right: the sum of all bytes, the checksum's own field as
    spaces; old Suns took bytes as signed."""
    try:
        recorded = _number(block[148:156])
    except ContentError:
        return False
    counted = (block[:148] + block[156:]).translate(None, b"\0")  # fewer numbers to add up
    total = sum(counted) + _EMPTY_CHECKSUM
    return recorded == total or recorded == total - 256 * sum(byte > 127 for byte in counted)


def _parse_block(block: bytes, kind: bytes) -> TarEntry:
    """The values of one header block."""
    name = _text(block[:100])
    if kind == DIRECTORY:
        name = name.rstrip(b"/")
    major = minor = 0
    if block[257:263] == b"ustar\0":
        prefix = _text(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
        if prefix:
            name = prefix + b"/" + name
    if kind in _DEVICES:
        major, minor = _number(block[329:337]), _number(block[337:345])
    numbers = block[100:148]
    if numbers.translate(_EVERY_DIGIT_7) == _USUAL_NUMBERS:
        mode, uid, gid = int(numbers[:7], 8), int(numbers[8:15], 8), int(numbers[16:23], 8)
        size, mtime = int(numbers[24:35], 8), int(numbers[36:47], 8)
    else:
        mode, uid, gid = _number(block[100:108]), _number(block[108:116]), _number(block[116:124])
        size, mtime = _size(_number(block[124:136])), _number(block[136:148])
    return TarEntry(
        name, kind, mode & 0o7777, uid, gid, mtime * _BILLION, size, _text(block[157:257]), major, minor
    )


_EVERY_DIGIT_7 = bytes.maketrans(b"0123456", b"7777777")
_USUAL_NUMBERS = b"7777777\0" * 3 + b"77777777777\0" * 2
"""What the numbers of almost all headers look like, when 7 stands for any octal digit."""


def _merge(entry: TarEntry, records: dict[bytes, bytes]) -> TarEntry:
    """What the pax records say instead; an empty value leaves what the header says."""
    changes: dict[str, object] = {}
    xattrs = []
    for key, value in records.items():
        if key.startswith(XATTR_RECORD):
            xattrs.append((key[len(XATTR_RECORD) :], value))
        elif not value:
            continue
        elif key == b"path":
            changes["name"] = value
        elif key == b"linkpath":
            changes["link"] = value
        elif key == b"mtime":
            changes["mtime_ns"] = _time(value)
        elif key == b"size":
            changes["size"] = _size(_decimal(value))
        elif key in (b"uid", b"gid"):
            changes[key.decode()] = _decimal(value)
    return entry._replace(xattrs=tuple(xattrs), **changes)  # type: ignore[arg-type]


def _parse_records(body: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The records of a pax header, and the values of those that format 0.0 repeats for each segment."""
    records: dict[bytes, bytes] = {}
    pairs: list[bytes] = []
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + 20)
        size = _decimal(body[at:space]) if space > at else 0
        record = body[space + 1 : at + size - 1]
        key, equals, value = record.partition(b"=")
        if (
            space < at
            or at + size > len(body)
            or body[at + size - 1 : at + size] != b"\n"
            or not key
            or not equals
        ):
            raise ContentError("the archive is broken: a pax record does not have the length that it says")
        if b"\0" in (value if key in _TEXT_RECORDS else key):
            raise ContentError(f"the archive is broken: a NUL in the pax record {key!r}")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            pairs.append(value)
        records[key] = value
        at += size
    return records, pairs


_TEXT_RECORDS = frozenset((b"path", b"linkpath", b"uname", b"gname"))


def _parse_map_fields(fields: bytes) -> Segments:
    """Old GNU sparse maps: pairs of 12-byte numbers, ended by an empty one."""
    segments = []
    for at in range(0, len(fields) - 23, 24):
        if not fields[at]:
            break
        segments.append((_number(fields[at : at + 12]), _number(fields[at + 12 : at + 24])))
    return segments


def _pair(numbers: list[bytes]) -> Segments:
    if len(numbers) % 2:
        raise ContentError("a sparse map has an offset without a length")
    values = [_decimal(number) for number in numbers if number]
    return list(zip(values[::2], values[1::2], strict=True))


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """An octal field, or a base-256 one: two's complement, big endian, the top bit only a marker."""
    if field[0] & 0x80:
        number = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return number - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else number
    text = _text(field.strip(b" \0")).rstrip()
    if not text:
        return 0
    if not text.isdigit():
        raise ContentError(f"the archive is broken: {field!r} is not a number")
    try:
        return int(text, 8)
    except ValueError as error:
        raise ContentError(f"the archive is broken: {field!r} is not an octal number") from error


def _decimal(text: bytes) -> int:
    if not text.removeprefix(b"-").isdigit() or len(text) > 20:
        raise ContentError(f"the archive is broken: {text!r:.40} is not a number")
    return int(text)


def _size(number: int) -> int:
    if not 0 <= number < 1 << 63:
        raise ContentError(f"the archive is broken: a file cannot have {number} bytes")
    return number


def _time(text: bytes) -> int:
    """Seconds with a fraction, in nanoseconds; further digits are cut off."""
    whole, _, fraction = text.partition(b".")
    if fraction and not fraction.isdigit():
        raise ContentError(f"the archive is broken: {text!r:.40} is not a time")
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    return _decimal(whole) * _BILLION + (-nanoseconds if whole.startswith(b"-") else nanoseconds)
