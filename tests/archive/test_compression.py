"""Blobs are compressed the same way on any number of threads, and every decoder can read them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import shutil
import subprocess
import threading
import zlib
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cancelled import stops_when_cancelled_in
from inlay.archive.codecs import Codec, Gzip, Uncompressed, Zstd
from inlay.archive.compression import BLOCK_SIZE, BlobWriter, ReadAhead, decompress, detect
from inlay.digest import Digest
from inlay.errors import ContentError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inlay.archive.untar import ByteSource

SIZES = [0, 1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 4 * BLOCK_SIZE + 12345]
CODECS = [Uncompressed(), Gzip(), Gzip(6), Zstd()]


def content(size: int) -> bytes:
    """Something that compresses, but not too well, nor the same everywhere."""
    noise = random.Random(size)
    out = bytearray()
    while len(out) < size:
        out += noise.randbytes(noise.randrange(1, 3000)) + b"the same words again " * noise.randrange(200)
    return bytes(out[:size])


def pack(data: bytes, codec: Codec, *, threads: int = 2, step: int = 70_001) -> tuple[bytes, BlobWriter]:
    out = io.BytesIO()
    with BlobWriter(out, codec, threads=threads) as blob:
        for at in range(0, len(data), step):
            blob.write(data[at : at + step])
    return out.getvalue(), blob


def read_all(source: ByteSource, step: int = 100_000) -> bytes:
    out, buffer = bytearray(), bytearray(step)
    while n := source.readinto(buffer):
        out += buffer[:n]
    return bytes(out)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_blobs_hold_what_was_written_and_their_digests(codec: Codec, size: int) -> None:
    data = content(size)
    blob, writer = pack(data, codec)
    assert read_all(decompress(io.BytesIO(blob))) == data
    assert writer.packed.diff_id == Digest.of(data)
    assert writer.packed.digest == Digest.of(blob)
    assert (writer.packed.diff_size, writer.packed.size) == (len(data), len(blob))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
def test_bytes_depend_neither_on_threads_nor_on_how_they_are_written(codec: Codec) -> None:
    data = content(5 * BLOCK_SIZE + 7)
    blobs = {pack(data, codec, threads=n, step=step)[0] for n, step in [(1, 999), (2, 1 << 22), (5, 70_001)]}
    assert len(blobs) == 1


@pytest.mark.parametrize("level", range(10))
def test_gzip_blobs_are_one_member_that_every_decoder_takes(level: int, tmp_path: Path) -> None:
    data = content(2 * BLOCK_SIZE + 5)
    blob, _ = pack(data, Gzip(level))
    assert gzip.decompress(blob) == data
    member = zlib.decompressobj(31)
    assert member.decompress(blob) == data
    assert member.eof
    assert not member.unused_data
    (tmp_path / "blob.gz").write_bytes(blob)
    for tool in filter(shutil.which, ("gzip", "pigz", "busybox")):
        command = [tool, "gzip"] if tool == "busybox" else [tool]
        subprocess.run([*command, "-t", tmp_path / "blob.gz"], check=True)


def test_zstd_blobs_are_read_by_the_library() -> None:
    data = content(2 * BLOCK_SIZE + 5)
    blob, _ = pack(data, Zstd(1))
    reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(blob), read_across_frames=True)
    assert reader.read() == data


@given(st.lists(st.binary(max_size=5000), max_size=6), st.sampled_from(CODECS[1:]))
@settings(max_examples=50)
def test_any_content_comes_back(parts: list[bytes], codec: Codec) -> None:
    data = b"".join(part * 50 for part in parts)
    assert read_all(decompress(io.BytesIO(pack(data, codec)[0]))) == data


def test_memory_stays_bounded_while_the_sink_is_slow() -> None:
    ready = threading.Event()

    class Slow:
        written = 0

        def write(self, data: bytes | memoryview, /) -> None:
            ready.wait(5)
            self.written += len(data)

    accepted = 0
    with BlobWriter(Slow(), Uncompressed(), threads=2) as blob:

        def write() -> None:
            nonlocal accepted
            for _ in range(20):
                blob.write(bytes(BLOCK_SIZE))
                accepted += 1

        writer = threading.Thread(target=write)
        writer.start()
        writer.join(0.3)
        assert accepted <= 5
        ready.set()
        writer.join()
    assert blob.packed.size == 20 * BLOCK_SIZE


@pytest.mark.parametrize("size", [10, 30 * BLOCK_SIZE])
def test_an_error_of_the_sink_reaches_the_writer(size: int) -> None:
    class Full:
        def write(self, data: bytes | memoryview, /) -> None:
            raise OSError(28, "No space left on device")

    before = threading.active_count()
    data = bytes(BLOCK_SIZE)
    with pytest.raises(OSError, match="No space"), BlobWriter(Full(), Gzip(), threads=2) as blob:
        for at in range(0, size, BLOCK_SIZE):
            blob.write(data[: size - at])
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="not complete"):
        _ = blob.packed


def test_an_error_of_the_caller_stops_the_threads() -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), BlobWriter(io.BytesIO(), Gzip()) as blob:
        blob.write(bytes(3 * BLOCK_SIZE))
        raise KeyError
    assert threading.active_count() == before


def test_a_blob_that_nobody_wants_any_more_at_its_end_stops_the_threads() -> None:
    before = threading.active_count()
    written = []

    def write(cancel: Callable[[], None]) -> None:
        with BlobWriter(io.BytesIO(), Gzip()) as blob:
            blob.write(bytes(BLOCK_SIZE + 1))
            written.append(True)
            cancel()

    assert stops_when_cancelled_in(write)
    assert written
    assert threading.active_count() == before


@pytest.mark.parametrize(("codec", "level"), [(Gzip, 10), (Gzip, -1), (Zstd, 0), (Zstd, 23)])
def test_levels_that_do_not_exist_are_refused(codec: type[Gzip] | type[Zstd], level: int) -> None:
    with pytest.raises(UsageError, match=str(level)):
        codec(level)


PACKED = {
    "gzip": gzip.compress(b"data"),
    "bzip2": bz2.compress(b"data"),
    "xz": lzma.compress(b"data"),
    "zstd": zstandard.compress(b"data"),
}


@pytest.mark.parametrize("name", PACKED)
def test_compression_is_told_by_the_first_bytes(name: str) -> None:
    assert detect(PACKED[name][:8]) == name
    assert detect(b"\x50\x2a\x4d\x18") == "zstd"
    assert detect(b"plain text") == detect(b"") == ""


@pytest.mark.parametrize("name", PACKED)
def test_several_members_and_padding_are_one_stream(name: str) -> None:
    stream = PACKED[name] * 3 + (b"" if name == "zstd" else bytes(1000))
    assert read_all(decompress(io.BytesIO(stream))) == b"data" * 3


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("lost", [1, 5, 9])
def test_cut_off_data_is_noticed(name: str, lost: int) -> None:
    with pytest.raises(ContentError, match=name):
        read_all(decompress(io.BytesIO(PACKED[name][:-lost])))


@pytest.mark.parametrize("name", PACKED)
def test_broken_data_is_noticed(name: str) -> None:
    with pytest.raises(ContentError, match=name):
        read_all(decompress(io.BytesIO(PACKED[name][:8] + b"\xff" * 50)))


@pytest.mark.parametrize("name", PACKED)
def test_a_bomb_takes_no_memory(name: str) -> None:
    size = 200 << 20
    compress = {
        "gzip": lambda data: gzip.compress(data, 9),
        "bzip2": bz2.compress,
        "xz": lzma.compress,
        "zstd": zstandard.ZstdCompressor(19).compress,
    }[name]
    source = decompress(io.BytesIO(compress(bytes(size >> 3)) * 8))
    buffer, total, most = bytearray(1 << 16), 0, 0
    import tracemalloc

    tracemalloc.start()
    while n := source.readinto(buffer):
        total += n
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == size
    assert most < 40 << 20


def test_uncompressed_data_is_passed_on() -> None:
    assert read_all(decompress(io.BytesIO(b"tar"))) == b"tar"
    assert (
        read_all(decompress(io.BytesIO(b"plain data, longer than the magic")))
        == b"plain data, longer than the magic"
    )


def test_digest_of_a_large_blob_is_that_of_hashlib() -> None:
    data = content(9 * BLOCK_SIZE)
    _, writer = pack(data, Gzip(1), threads=3)
    assert writer.packed.diff_id.hex == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_what_is_read_ahead_is_the_same(size: int) -> None:
    data = content(size)
    with ReadAhead(lambda: decompress(io.BytesIO(gzip.compress(data, 1)))) as ahead:
        assert read_all(ahead, step=70_001) == data
        assert ahead.readinto(bytearray(1)) == 0


def test_little_is_read_ahead() -> None:
    source = io.BytesIO(bytes(10 * BLOCK_SIZE))
    with ReadAhead(lambda: source) as ahead:
        ahead.readinto(bytearray(1))
    assert source.tell() <= BLOCK_SIZE


@pytest.mark.parametrize("ending", [b"", b"no gzip"])
def test_errors_of_reading_ahead_come_where_the_bytes_are_asked_for(ending: bytes) -> None:
    packed = gzip.compress(content(BLOCK_SIZE), 1)[:-9] + ending
    with ReadAhead(lambda: decompress(io.BytesIO(packed))) as ahead:
        for _ in range(2):
            with pytest.raises(ContentError, match=r"cut off|broken"):
                read_all(ahead)


def test_an_error_of_opening_comes_there_too() -> None:
    def refuse() -> ByteSource:
        raise ContentError("closed")

    with ReadAhead(refuse) as ahead, pytest.raises(ContentError, match="closed"):
        ahead.readinto(bytearray(1))
