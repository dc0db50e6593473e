"""Compressing blobs on all cores, and decompressing whatever comes.

A blob is compressed in blocks of a fixed size, each on its own, so that its bytes depend on its content and
the format alone, never on the number of threads or on timing. gzip is one member whose deflate blocks are
flushed to whole bytes; zstd is one frame for each block. Every decoder reads both as one stream.
"""

from __future__ import annotations

import os
from _queue import SimpleQueue
from _thread import allocate_lock

from inlay.archive.codecs import Uncompressed
from inlay.archive.tar import lazily_zeroed
from inlay.digest import Digest, sha256
from inlay.errors import ContentError
from inlay.tasks import check_cancelled, start_thread
from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from inlay.archive.codecs import Codec
    from inlay.archive.tar import Sink
    from inlay.archive.untar import ByteSource

BLOCK_SIZE = 1 << 20
_ZSTD_WINDOW = 1 << 27  # the largest that decoders take unasked
_CHUNK = 1 << 18


class Packed(NamedTuple):
    """What a blob is: `diff_id` and `diff_size` before compression, `digest` and `size` as stored."""

    diff_id: Digest
    diff_size: int
    digest: Digest
    size: int


class _Block:
    """A piece of the blob on its way through the threads. `busy` is held until it is compressed."""

    __slots__ = ("busy", "checksum", "data", "error", "packed", "size")

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.size = 0
        self.packed: bytes | memoryview = b""
        self.checksum = 0
        self.error: BaseException | None = None
        self.busy = allocate_lock()


class BlobWriter:
    """Takes the bytes of a blob, digests, compresses and digests again, and writes the result to `sink`.

        with BlobWriter(sink, Gzip()) as blob:
            write_entries(entries, blob)
        packed = blob.packed

    Holds at most `threads` + 3 blocks of 1 MiB; a slow sink slows down `write`. A blob of one block is made
    without a thread. Errors of the sink and the codec are raised by `write` or at the end of the with block;
    nothing more goes to `sink` then, which is left open.
    """

    def __init__(self, sink: Sink, codec: Codec, *, threads: int | None = None) -> None:
        self._sink = sink
        self._codec = codec
        self._plain = isinstance(codec, Uncompressed)
        self._compressors = 0 if self._plain else threads or min(os.cpu_count() or 1, 8)
        self._threads: list[Callable[[], object]] = []  # what waits for their ends
        self._to_compress: SimpleQueue[_Block | None] = SimpleQueue()
        self._to_write: SimpleQueue[_Block | None] = SimpleQueue()
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._allowed = self._compressors + 3
        self._block = self._new_block()
        self._checksums: list[tuple[int, int]] = []
        self._diff_sha = sha256()
        self._sha = sha256()
        self._diff_size = 0
        self._size = 0
        self._error: BaseException | None = None
        self._packed: Packed | None = None

    @property
    def packed(self) -> Packed:
        """What was written; only after the with block has ended well."""
        if self._packed is None:
            raise RuntimeError("the blob is not complete")
        return self._packed

    def write(self, data: bytes | memoryview, /) -> int:
        view = memoryview(data)
        while view:
            block = self._block
            n = min(len(view), BLOCK_SIZE - block.size)
            block.data[block.size : block.size + n] = view[:n]
            block.size += n
            view = view[n:]
            if block.size == BLOCK_SIZE:
                self._submit(block)
                self._block = self._new_block()
        return len(data)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._error = self._error or error
            self._stop()
            return
        if not self._threads:
            self._begin(self._block.size)
            self._compress(self._block)
            self._finish(self._block)
        else:
            try:
                self._submit(self._block)
            finally:
                self._stop()
        if self._error is not None:
            raise self._error
        self._emit(self._codec.suffix(self._checksums))
        diff_id = Digest("sha256:" + self._diff_sha.hexdigest())
        digest = diff_id if self._plain else Digest("sha256:" + self._sha.hexdigest())
        self._packed = Packed(diff_id, self._diff_size, digest, self._size)

    def _new_block(self) -> _Block:
        if self._allowed:
            self._allowed -= 1
            return _Block(lazily_zeroed(BLOCK_SIZE))
        return _Block(self._free.get())

    def _submit(self, block: _Block) -> None:
        check_cancelled()
        if not self._threads:
            self._begin(BLOCK_SIZE)
            self._start()
        if self._plain:
            self._compress(block)
        else:
            block.busy.acquire()
            self._to_compress.put(block)
        self._to_write.put(block)
        if self._error is not None:
            raise self._error

    def _begin(self, size: int) -> None:
        """Begin a blob that holds `size` bytes or more."""
        self._diff_sha, self._sha = sha256(size=size), sha256(size=size)
        self._emit(self._codec.prefix)

    def _start(self) -> None:
        self._threads.append(start_thread(self._write_blocks))
        for _ in range(self._compressors):
            self._threads.append(start_thread(self._compress_blocks))

    def _stop(self) -> None:
        self._to_write.put(None)
        for _ in range(self._compressors):
            self._to_compress.put(None)
        for wait in self._threads:
            wait()

    def _compress_blocks(self) -> None:
        while (block := self._to_compress.get()) is not None:
            try:
                self._compress(block)
            except BaseException as error:  # belongs to whoever writes the blob
                block.error = error
            block.busy.release()

    def _compress(self, block: _Block) -> None:
        if block.size:
            block.packed, block.checksum = self._codec.compress(block.data[: block.size])

    def _write_blocks(self) -> None:
        """Put the blocks out in order, and give their buffers back whatever happens."""
        while (block := self._to_write.get()) is not None:
            try:
                self._finish(block)
            except BaseException as error:  # belongs to whoever writes the blob
                self._error = self._error or error
            self._free.put(block.data)

    def _finish(self, block: _Block) -> None:
        """Digest a block, wait until it is compressed, and pass it on."""
        if self._error is None:
            self._diff_sha.update(block.data[: block.size])
        with block.busy:
            if block.error is not None:
                raise block.error
            if self._error is None and block.size:
                self._diff_size += block.size
                self._checksums.append((block.checksum, block.size))
                self._emit(block.packed)

    def _emit(self, data: bytes | memoryview) -> None:
        if data:
            if not self._plain:
                self._sha.update(data)
            self._size += len(data)
            self._sink.write(data)


_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)


def detect(head: bytes) -> str:
    """Name the compression of data that starts with `head`, 8 bytes: gzip, zstd, bzip2, xz, or `""`."""
    if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"  # it may start with a frame to skip
    return next((name for magic, name in _MAGIC if head.startswith(magic)), "")


def decompress(source: ByteSource) -> ByteSource:
    """The content of `source`, decompressed as its first bytes say; itself when they say nothing.

    A stream of several members or frames is read to the end of the last; zeros after it are ignored. Raises
    `ContentError` where it is broken or cut off. At most 2 MiB are held, and what the format needs.
    """
    head = bytearray(8)
    size = 0
    while size < len(head) and (n := source.readinto(memoryview(head)[size:])):
        size += n
    whole = _Resumed(bytes(head[:size]), source)
    name = detect(bytes(head[:size]))
    return _Inflated(whole, name) if name else whole


class _Resumed:
    """A source of which the first bytes had to be read before."""

    __slots__ = ("_buffer", "_head", "_source")

    def __init__(self, head: bytes, source: ByteSource) -> None:
        self._buffer = memoryview(b"")
        self._head = head
        self._source = source

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        if self._head:
            n = min(len(self._head), len(buffer))
            buffer[:n] = self._head[:n]
            self._head = self._head[n:]
            return n
        return self._source.readinto(buffer) or 0

    def read(self, size: int) -> bytes:
        if len(self._buffer) < size:
            self._buffer = memoryview(bytearray(size))
        n = self.readinto(self._buffer[:size])
        return bytes(self._buffer[:n])


class _Decoder(Protocol):
    """What the decompressors of bz2, lzma and isal have in common: one member or frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _decoder(name: str) -> tuple[Callable[[], _Decoder], tuple[type[Exception], ...]]:
    """What decodes the format `name`, and the errors that it raises for broken data."""
    if name == "gzip":
        from isal import igzip_lib

        broken = cast("type[Exception]", igzip_lib.IsalError)  # isal's stubs call it an instance
        return lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP), (broken, EOFError)
    if name == "bzip2":
        from bz2 import BZ2Decompressor

        return BZ2Decompressor, (OSError, EOFError)
    if name == "zstd":
        from zstandard import ZstdError

        return _ZstdDecoder, (ZstdError,)
    from lzma import FORMAT_XZ, LZMADecompressor, LZMAError

    return lambda: LZMADecompressor(FORMAT_XZ, memlimit=1 << 28), (LZMAError, EOFError)


class _Inflated:
    """Compressed data, decompressed."""

    def __init__(self, source: _Resumed, name: str) -> None:
        self._source = source
        self._name = name
        self._new, self._errors = _decoder(name)
        self._decoder: _Decoder | None = self._new()
        self._input = b""

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        while self._decoder is not None:
            if self._decoder.eof and not self._next_member(self._decoder):
                return 0
            data = self._input
            if not data and self._decoder.needs_input:
                data = self._source.read(_CHUNK)
                if not data:
                    raise ContentError(f"the {self._name} data is cut off")
            self._input = b""
            try:
                out = self._decoder.decompress(data, len(buffer))
            except self._errors as error:
                raise ContentError(f"the {self._name} data is broken: {error}") from error
            if out:
                buffer[: len(out)] = out
                return len(out)
        return 0

    def _next_member(self, decoder: _Decoder) -> bool:
        rest = decoder.unused_data.lstrip(b"\0")
        while not rest:
            rest = self._source.read(_CHUNK)
            if not rest:
                self._decoder = None
                return False
            rest = rest.lstrip(b"\0")
        self._decoder, self._input = self._new(), rest
        return True


class _ZstdDecoder:
    """Decodes one zstd frame as the decoders of the other formats do.

    zstandard's own object has no bound on what it returns. A block takes 4 bytes or more and gives 128 KiB at
    most, so pieces of 1 KiB bound the memory that hostile data can make it use to 32 MiB.
    """

    def __init__(self) -> None:
        import zstandard

        self._frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        self._input = memoryview(b"")
        self._output = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._frame.eof and not self._output

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._output

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data + self._input

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if data:
            self._input = memoryview(data)
        parts, left = [], max_length
        while left > 0 and (self._output or (self._input and not self._frame.eof)):
            if not self._output:
                self._output = memoryview(self._frame.decompress(self._input[:1024]))
                self._input = self._input[1024:]
            part = self._output[:left]
            self._output = self._output[left:]
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


class ReadAhead:
    """A source that another thread opens, and reads before its bytes are asked for, up to 1 MiB of them.

        with ReadAhead(lambda: decompress(packed)) as ahead:
            ahead.readinto(buffer)

    What opening and reading raise comes out of `readinto`. The end of the with block waits for what is under way.
    """

    __slots__ = ("_block", "_filled", "_free", "_join", "_left", "_open")

    def __init__(self, open_source: Callable[[], ByteSource]) -> None:
        self._open = open_source
        self._free: SimpleQueue[memoryview | None] = SimpleQueue()
        self._filled: SimpleQueue[tuple[memoryview, int] | BaseException] = SimpleQueue()
        self._block: memoryview | None = None
        """What bytes are given out of now: `_left` is the rest."""
        self._left = memoryview(b"")
        for _ in range(4):
            self._free.put(memoryview(bytearray(_CHUNK)))

    def _read(self) -> None:
        try:
            source = self._open()
            while (block := self._free.get()) is not None:
                n = source.readinto(block) or 0
                self._filled.put((block, n))
                if not n:
                    return
        except BaseException as error:  # belongs to whoever asks for the bytes
            self._filled.put(error)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        if not self._left and not self._next_block():
            return 0
        n = min(len(buffer), len(self._left))
        buffer[:n] = self._left[:n]
        self._left = self._left[n:]
        return n

    def _next_block(self) -> bool:
        if self._block is not None:
            self._free.put(self._block)
            self._block = None
        filled = self._filled.get()
        if isinstance(filled, BaseException):
            self._filled.put(filled)  # for whoever asks again
            raise filled
        block, n = filled
        if n:
            self._block, self._left = block, block[:n]
        else:
            self._filled.put(filled)
        return n > 0

    def __enter__(self) -> ReadAhead:
        self._join = start_thread(self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._free.put(None)
        self._join()
