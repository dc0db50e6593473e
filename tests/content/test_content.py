"""content: blobs come in whole or not at all."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from inlay.content.store import STALE_AFTER_S, ContentStore, VerifyingReader
from inlay.digest import Digest
from inlay.errors import BlobNotFound, ContentError, DigestMismatch
from inlay.oci.descriptor import OCI_LAYER, Descriptor

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from inlay.content.arrival import Arrival

DATA = bytes(range(256)) * 1000


def describe(data: bytes) -> Descriptor:
    return Descriptor(OCI_LAYER, Digest.of(data), len(data))


class Source:
    """A source of one blob that can break off, and notes from where it was read."""

    def __init__(self, data: bytes, breaks_after: int = 1 << 30) -> None:
        self.data = data
        self.breaks_after = breaks_after
        self.offsets: list[int] = []

    def has_blob(self, descriptor: Descriptor) -> bool:
        return True

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        self.offsets.append(offset)
        source = self

        class Stream(io.BytesIO):
            def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
                if self.tell() >= source.breaks_after:
                    raise OSError("gone")
                return super().readinto(buffer[: source.breaks_after - self.tell()])

        stream = Stream(self.data)
        stream.seek(offset)
        return stream

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        return self.data


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "store"))


def left_over(store: ContentStore) -> list[str]:
    return [name for _, _, names in os.walk(store.root) for name in names]


def test_a_blob_is_found_where_an_oci_layout_has_it(store: ContentStore) -> None:
    digest = store.put(DATA)
    assert store.path(digest) == f"{store.root}/blobs/sha256/{digest.hex}"
    assert os.path.exists(store.path(digest))
    assert store.read(digest, len(DATA)) == DATA
    with store.open(digest) as file:
        assert file.read() == DATA
    assert [(blob.digest, blob.size) for blob in store.blobs()] == [(digest, len(DATA))]
    assert store.delete(digest)
    assert not store.delete(digest)
    assert list(store.blobs()) == []


def test_an_empty_store_has_nothing(store: ContentStore) -> None:
    digest = Digest.of(b"nothing")
    assert list(store.blobs()) == []
    assert store.clean_ingests() == 0
    for ask in (store.open, lambda d: store.read(d, 1)):
        with pytest.raises(BlobNotFound, match=digest):
            ask(digest)


def test_what_is_not_called_by_a_digest_is_no_blob(store: ContentStore) -> None:
    digest = store.put(DATA)
    for stray in ("README", "sha256/README", "sha256/" + "0" * 63, "sha256/." + "0" * 64):
        with open(f"{store.root}/blobs/{stray}", "xb"):
            pass
    assert [blob.digest for blob in store.blobs()] == [digest]


def test_nothing_is_visible_before_commit(store: ContentStore) -> None:
    digest = Digest.of(DATA)
    with store.ingest(digest, len(DATA)) as ingest:
        ingest.write(DATA)
        assert not os.path.exists(store.path(digest))
        assert ingest.commit() == digest
        assert os.path.exists(store.path(digest))
    assert left_over(store) == [digest.hex]


def write(store: ContentStore, data: bytes) -> None:
    with store.ingest(Digest.of(DATA), len(DATA)) as ingest:
        ingest.write(data)
        ingest.commit()


@pytest.mark.parametrize(
    ("data", "error"),
    [(DATA + b"x", "more than"), (DATA[:-1], "has 255999 bytes"), (b"y" * len(DATA), "other content")],
)
def test_wrong_bytes_leave_nothing(store: ContentStore, data: bytes, error: str) -> None:
    with pytest.raises(DigestMismatch, match=error):
        write(store, data)
    assert left_over(store) == []


def test_a_writer_that_digests_names_the_blob(store: ContentStore) -> None:
    with store.ingest(digested=True) as ingest:
        ingest.write(DATA)
        assert ingest.commit(Digest.of(DATA)) == Digest.of(DATA)
    assert store.read(Digest.of(DATA), len(DATA)) == DATA


def test_an_ingest_without_a_name_leaves_nothing(store: ContentStore) -> None:
    with store.ingest() as ingest:
        ingest.write(DATA)
    assert left_over(store) == []


def test_a_broken_off_fetch_goes_on_where_it_stopped(store: ContentStore) -> None:
    with pytest.raises(OSError, match="gone"):
        store.fetch(describe(DATA), Source(DATA, breaks_after=1000))
    assert not os.path.exists(store.path(Digest.of(DATA)))
    source = Source(DATA)
    store.fetch(describe(DATA), source)
    assert source.offsets == [1000]
    assert store.read(Digest.of(DATA), len(DATA)) == DATA
    store.fetch(describe(DATA), source)
    assert source.offsets == [1000]


def test_wrong_bytes_of_an_earlier_fetch_are_fetched_again(store: ContentStore) -> None:
    with pytest.raises(OSError, match="gone"):
        store.fetch(describe(DATA), Source(b"z" * len(DATA), breaks_after=1000))
    source = Source(DATA)
    store.fetch(describe(DATA), source)
    assert source.offsets == [1000, 0]
    assert os.path.exists(store.path(Digest.of(DATA)))


class Reader:
    """Reads what comes in, and keeps it: `ending` is the size of the last read, or the error that came instead."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.half = threading.Event()
        self.ending: int | Exception | None = None

    def __call__(self, arrival: Arrival) -> None:
        buffer = bytearray(10_000)
        try:
            while n := arrival.readinto(buffer):
                self.got += buffer[:n]
                if len(self.got) >= len(DATA) // 2:
                    self.half.set()
            self.ending = arrival.readinto(buffer)
        except Exception as error:
            self.ending = error


def test_what_comes_in_is_read_meanwhile(store: ContentStore) -> None:
    reader = Reader()

    class Waiting(Source):
        """Has the second half of the blob only once the first was read."""

        def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
            class Stream(io.BytesIO):
                def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
                    if self.tell():
                        assert reader.half.wait(10)
                    return super().readinto(buffer[: len(DATA) // 2])

            return Stream(self.data)

    store.fetch(describe(DATA), Waiting(DATA), reader)
    assert reader.ending == 0
    assert reader.got == DATA
    assert store.read(Digest.of(DATA), len(DATA)) == DATA


def test_what_came_in_earlier_is_read_too(store: ContentStore) -> None:
    first, second, third = Reader(), Reader(), Reader()
    with pytest.raises(OSError, match="gone"):
        store.fetch(describe(DATA), Source(DATA, breaks_after=1000), first)
    assert isinstance(first.ending, ContentError)
    assert DATA[:1000].startswith(first.got)
    store.fetch(describe(DATA), Source(DATA), second)
    assert (second.ending, second.got) == (0, DATA)
    store.fetch(describe(DATA), Source(DATA), third)
    assert (third.ending, third.got) == (None, b"")  # it is here, and nothing comes in


def test_a_reader_that_lags_behind_is_not_waited_for_when_a_fetch_breaks_off(store: ContentStore) -> None:
    slow = threading.Event()
    got: list[int] = []

    def read(arrival: Arrival) -> None:
        buffer = bytearray(10)
        with pytest.raises(ContentError):
            while n := arrival.readinto(buffer):
                got.append(n)
                slow.wait(0.5)

    with pytest.raises(OSError, match="gone"):
        store.fetch(describe(DATA), Source(DATA, breaks_after=1000), read)
    assert len(got) <= 1


@pytest.mark.parametrize("data", [b"z" * len(DATA), DATA + b"more", DATA[:-1]])
def test_nobody_reads_a_wrong_blob_to_its_end(store: ContentStore, data: bytes) -> None:
    reader = Reader()
    with pytest.raises(DigestMismatch):
        store.fetch(describe(DATA), Source(data), reader)
    assert isinstance(reader.ending, ContentError)
    assert left_over(store) == []


def test_nobody_reads_wrong_bytes_of_an_earlier_fetch_to_their_end(store: ContentStore) -> None:
    with pytest.raises(OSError, match="gone"):
        store.fetch(describe(DATA), Source(b"z" * len(DATA), breaks_after=1000))
    reader = Reader()
    store.fetch(describe(DATA), Source(DATA), reader)
    assert isinstance(reader.ending, ContentError)
    assert os.path.exists(store.path(Digest.of(DATA)))


def test_two_writers_of_one_blob_do_not_meet(store: ContentStore) -> None:
    digest = Digest.of(DATA)
    with store.ingest(digest, len(DATA)) as first, store.ingest(digest, len(DATA)) as second:
        first.write(DATA[:10])
        second.write(DATA)
        second.commit()
        first.write(DATA[10:])
        first.commit()
    assert store.read(digest, len(DATA)) == DATA
    assert left_over(store) == [digest.hex]


def test_threads_that_fetch_one_blob_all_succeed(store: ContentStore) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            store.fetch(describe(DATA), Source(DATA))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert left_over(store) == [Digest.of(DATA).hex]


def _write_and_wait(root: str, ready: object) -> None:
    with ContentStore(root).ingest(Digest.of(DATA), len(DATA)) as ingest:
        ingest.write(DATA[:5000])
        ready.set()  # type: ignore[attr-defined]
        signal.pause()


def test_a_killed_writer_leaves_only_what_can_be_resumed(store: ContentStore) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_write_and_wait, args=(store.root, ready))
    process.start()
    assert ready.wait(10)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(store.blobs()) == []
    source = Source(DATA)
    store.fetch(describe(DATA), source)
    assert source.offsets == [5000]


def test_stale_ingests_are_removed_but_not_those_being_written(store: ContentStore) -> None:
    abandoned = store.ingest(Digest.of(b"abandoned"))
    abandoned.write(b"x" * 100)
    abandoned.close()
    with store.ingest(Digest.of(DATA)) as busy, store.ingest() as unnamed:
        busy.write(DATA[:10])
        unnamed.write(b"some")
        assert store.clean_ingests(older_than_s=STALE_AFTER_S) == 0
        assert store.clean_ingests(older_than_s=0) == 100
        busy.write(DATA[10:])
        assert busy.commit() == Digest.of(DATA)
        assert unnamed.commit() == Digest.of(b"some")


def test_a_full_disk_is_said_clearly_and_leaves_nothing(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.ingest(Digest.of(DATA), len(DATA)) as ingest:
        ingest.write(DATA[:100])
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ContentError, match=f"no room for blob {Digest.of(DATA)} in {store.root}"):
            ingest.write(DATA[100:])
    monkeypatch.undo()
    assert left_over(store) == []


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ContentError, match=r"cannot write a blob in .*: Not a directory"):
        ContentStore(str(tmp_path / "file")).put(DATA)


def test_a_damaged_blob_is_not_taken_for_the_right_one(store: ContentStore) -> None:
    digest = store.put(DATA)
    with open(store.path(digest), "r+b") as file:
        file.write(b"damage")
    with pytest.raises(DigestMismatch, match="damaged"):
        store.read(digest, len(DATA))
    with pytest.raises(DigestMismatch, match="other content"), store.open_blob(describe(DATA)) as stream:
        stream.read()


def test_a_blob_cut_short_by_a_power_failure_counts_as_missing(store: ContentStore) -> None:
    digest = store.put(DATA)
    os.truncate(store.path(digest), 0)
    assert not store.has_blob(describe(DATA))
    with pytest.raises(BlobNotFound):
        store.open_blob(describe(DATA))
    store.put(DATA)
    assert store.has_blob(describe(DATA))


def test_reading_stops_at_the_limit(store: ContentStore) -> None:
    digest = store.put(b"12345")
    with pytest.raises(ContentError, match="larger than the 4 bytes"):
        store.read(digest, 4)


def test_names_that_are_no_digest_reach_no_file(store: ContentStore) -> None:
    for name in ("sha256:../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32):
        with pytest.raises(ContentError):
            store.path(Digest(name))


def test_other_algorithms_are_verified_by_their_own_sums(store: ContentStore) -> None:
    import hashlib

    digest = Digest.parse("sha512:" + hashlib.sha512(DATA).hexdigest())
    store.fetch(Descriptor(OCI_LAYER, digest, len(DATA)), Source(DATA))
    assert store.read(digest, len(DATA)) == DATA


def test_a_verifying_reader_withholds_the_end_of_wrong_bytes() -> None:
    wrong = DATA[:-1] + b"?"
    stream = VerifyingReader(io.BytesIO(wrong), describe(DATA))
    assert stream.read(1000) == DATA[:1000]
    with pytest.raises(DigestMismatch):
        stream.read(len(DATA) - 1000)
