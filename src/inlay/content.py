"""Blobs on disk, named by their digest, and the protocol of everything that blobs can be read from.

    root/blobs/sha256/<hex>     complete blobs; the form of an OCI image layout
    root/ingest/<name>          blobs on their way in; locked (flock) by whoever writes them

A name under `blobs/` appears by rename, after size and digest were found right, so whatever is visible is
complete, also after kill -9. Nothing is flushed (5 to 30 ms a blob on common disks): after a power cut a blob may
come back short, and is then taken for missing by everything that knows its size.
"""

from __future__ import annotations

import fcntl
import io
import os
import time

from inlay.digest import Digest, hasher
from inlay.errors import BlobNotFound, ContentError, DigestMismatch, is_no_room
from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import BinaryIO

    from inlay.arrival import Arrival
    from inlay.oci.descriptor import Descriptor

    Buffer = bytes | bytearray | memoryview

CHUNK = 1 << 20
STALE_AFTER_S = 7 * 24 * 3600.0


class BlobSource(Protocol):
    """A place that has blobs: a registry's repository, a layout folder or archive, the local store."""

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob is there, without reading it."""

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        """Open a stream of the blob's bytes from `offset` on; it has `readinto`, and `read`.

        With `verify` and offset 0 the read that reaches the end raises `DigestMismatch` when size or
        digest are not the descriptor's; from another offset only the size is compared. Raises
        `BlobNotFound` (or `NotFound`, a registry) when there is no such blob.
        """

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return the whole blob, verified. Raises `ContentError` when it is larger than `limit` bytes."""


class StoredBlob(NamedTuple):
    """One blob of a store: `modified` is when it came in or was last used, in seconds since 1970."""

    digest: Digest
    size: int
    modified: float


class VerifyingReader(io.RawIOBase):
    """A stream that is compared with a descriptor while it is read.

    The read that brings the last byte, or finds too few or too many, raises `DigestMismatch`: whoever got
    all bytes has got the right ones. Closing it closes the stream below.
    """

    def __init__(self, stream: BinaryIO, descriptor: Descriptor, *, place: str = "") -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._place = f" from {place}" if place else ""
        self._hash = hasher(descriptor.digest.algorithm, size=descriptor.size)
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        count: int = self._stream.readinto(view)  # type: ignore[attr-defined]
        self._hash.update(view[:count])
        self._count += count
        if self._count >= self._descriptor.size or (count == 0 and len(view)):
            verify_blob(self._descriptor, self._count, self._hash.hexdigest(), place=self._place)
        return count

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def verify_blob(descriptor: Descriptor, size: int, hexdigest: str, *, place: str = "") -> None:
    """Raise `DigestMismatch` unless `size` and `hexdigest` are those of `descriptor`."""
    if size != descriptor.size:
        raise DigestMismatch(f"blob {descriptor.digest}{place} has {size} bytes, expected {descriptor.size}")
    if hexdigest != descriptor.digest.hex:
        actual = f"{descriptor.digest.algorithm}:{hexdigest}"
        raise DigestMismatch(f"blob {descriptor.digest}{place} has other content: its digest is {actual}")


class ContentStore:
    """Blobs under one folder, shared by any number of threads and processes. Itself a `BlobSource`."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    def path(self, digest: Digest) -> str:
        """Where the blob lies, or would lie."""
        digest = Digest.parse(digest)
        return f"{self.root}/blobs/{digest.algorithm}/{digest.hex}"

    def open(self, digest: Digest) -> BinaryIO:
        """Open the blob's file, unverified and unbuffered. Raises `BlobNotFound`."""
        try:
            return cast("BinaryIO", open(self.path(digest), "rb", buffering=0))
        except FileNotFoundError:
            raise _missing(digest, self.root) from None
        except OSError as error:
            raise ContentError(f"cannot read blob {digest} in {self.root}: {error.strerror}") from error

    def read(self, digest: Digest, limit: int) -> bytes:
        """Return the whole blob, its digest verified. Raises `ContentError` above `limit` bytes."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ContentError(f"blob {digest} is larger than the {limit} bytes that are read of its kind")
        sha = hasher(digest.algorithm, size=len(data))
        sha.update(data)
        if (actual := sha.hexdigest()) != digest.hex:
            raise DigestMismatch(f"blob {digest} in {self.root} is damaged: its digest is {actual}")
        return data

    def touch(self, digest: Digest) -> None:
        """Note that the blob, if it is here, is used now."""
        try:
            os.utime(self.path(digest))
        except OSError:
            return

    def delete(self, digest: Digest) -> bool:
        """Remove the blob; tell whether it was there. Whoever has it open reads on."""
        try:
            os.unlink(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def blobs(self) -> Iterator[StoredBlob]:
        """All blobs, in no order."""
        try:
            algorithms = os.listdir(f"{self.root}/blobs")
        except FileNotFoundError:
            return
        for algorithm in algorithms:
            with os.scandir(f"{self.root}/blobs/{algorithm}") as entries:
                for entry in entries:
                    stat = entry.stat(follow_symlinks=False)
                    yield StoredBlob(Digest.parse(f"{algorithm}:{entry.name}"), stat.st_size, stat.st_mtime)

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self._has(descriptor.digest, descriptor.size)

    def _has(self, digest: Digest, size: int) -> bool:
        try:
            return os.stat(self.path(digest)).st_size == size
        except (FileNotFoundError, NotADirectoryError):
            return False

    def open_blob(self, descriptor: Descriptor, offset: int = 0, *, verify: bool = True) -> BinaryIO:
        file = self.open(descriptor.digest)
        size = os.fstat(file.fileno()).st_size
        if size != descriptor.size:
            file.close()
            raise BlobNotFound(f"blob {descriptor.digest} in {self.root} has {size} bytes: it is damaged")
        if offset:
            file.seek(offset)
        if verify and not offset:
            return cast("BinaryIO", VerifyingReader(file, descriptor, place=self.root))
        return file

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        return self.read(descriptor.digest, limit)

    def put(self, data: Buffer) -> Digest:
        """Keep `data`; return its digest."""
        digest = Digest.of(data)
        if not self._has(digest, len(data)):
            with self.ingest(digested=True) as ingest:
                ingest.write(data)
                ingest.commit(digest)
        return digest

    def fetch(
        self, descriptor: Descriptor, source: BlobSource, read: Callable[[Arrival], None] | None = None
    ) -> None:
        """Bring a blob in from `source`, unless it is here. A transfer that broke off goes on where it
        stopped; bytes that then turn out wrong are fetched once more from the start.

        `read` is called on another thread with what comes in (see `Arrival`), once at most, and waited for."""
        if self.has_blob(descriptor):
            return
        try:
            if read is None:
                self._fetch(descriptor, source, None)
            else:
                from inlay.arrival import Arrival

                with Arrival(read) as arrival:
                    self._fetch(descriptor, source, arrival)
        except DigestMismatch as error:
            place = str(source)
            raise error if place in str(error) else DigestMismatch(f"{place}: {error}") from error

    def _fetch(self, descriptor: Descriptor, source: BlobSource, arrival: Arrival | None) -> None:
        resumed = False
        try:
            with self.ingest(descriptor.digest, descriptor.size) as ingest:
                resumed = ingest.offset > 0
                _copy(source, descriptor, ingest, arrival)
        except DigestMismatch:
            if not resumed:
                raise
            with self.ingest(descriptor.digest, descriptor.size) as ingest:
                _copy(source, descriptor, ingest, None)  # whoever read what came in has read something else

    def ingest(
        self, digest: Digest | None = None, size: int | None = None, *, digested: bool = False
    ) -> Ingest:
        """Begin to write a blob, of unknown digest and size where they are not given.

        With `digested` the writer digests what it writes, and tells `commit`: no byte is hashed twice.

        With a digest, the bytes that an earlier, unfinished ingest of it left are kept: go on writing at
        `offset`. When another writer holds those, this one starts from nothing, at a place of its own.
        """
        folder = f"{self.root}/ingest"
        if digest is not None:
            digest = Digest.parse(digest)
            fd = _open_locked(folder, f"{digest.algorithm}-{digest.hex}")
            if fd is not None:
                return Ingest(self, fd, f"{folder}/{digest.algorithm}-{digest.hex}", digest, size, keep=True)
        while True:
            name = f"new-{os.getpid()}-{os.urandom(8).hex()}"
            fd = _open_locked(folder, name)
            if fd is not None:
                return Ingest(self, fd, f"{folder}/{name}", digest, size, keep=False, digested=digested)

    def clean_ingests(self, older_than_s: float = STALE_AFTER_S) -> int:
        """Remove what unfinished ingests left and nobody writes; return the bytes that this freed.
        Resumable ones stay until they are `older_than_s`."""
        freed = 0
        try:
            names = os.listdir(f"{self.root}/ingest")
        except FileNotFoundError:
            return 0
        for name in names:
            age_s = 0.0 if name.startswith("new-") else older_than_s
            freed += _remove_stale(f"{self.root}/ingest/{name}", age_s)
        return freed

    def _adopt(self, partial: str, digest: Digest) -> None:
        """Make the file `partial` the blob `digest`."""
        target = self.path(digest)
        try:
            os.rename(partial, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(partial, target)


class Ingest:
    """A blob that is being written. Leaving its `with` block without `commit` makes nothing visible."""

    __slots__ = ("_digest", "_digested", "_fd", "_hash", "_keep", "_partial", "_size", "_store", "offset")

    def __init__(
        self,
        store: ContentStore,
        fd: int,
        partial: str,
        digest: Digest | None,
        size: int | None,
        *,
        keep: bool,
        digested: bool = False,
    ) -> None:
        self._store = store
        self._digested = digested
        self._fd = fd
        self._partial = partial
        self._digest = digest
        self._size = size
        self._keep = keep
        self._hash = hasher(
            digest.algorithm if digest else "sha256", size=0 if digested else CHUNK if size is None else size
        )
        self.offset = 0
        """Bytes written so far, those of an earlier ingest included."""
        try:
            self._take_up()
        except BaseException:
            self.close()
            raise

    def _take_up(self) -> None:
        """Hash what an earlier ingest left, and stand behind it."""
        buffer = memoryview(bytearray(CHUNK)) if os.fstat(self._fd).st_size else memoryview(b"")
        while buffer and (count := os.readv(self._fd, [buffer])):
            self._hash.update(buffer[:count])
            self.offset += count
        if self._size is not None and self.offset > self._size:
            self.restart()

    def restart(self) -> None:
        """Forget all bytes written so far."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = hasher(self._hash.name, size=self._size or CHUNK)
        self.offset = 0

    def write(self, data: Buffer) -> int:
        """Append `data`. Raises `DigestMismatch` as soon as there is more than the expected size, and
        `ContentError` when the disk is full; both leave nothing behind."""
        view = memoryview(data).cast("B")
        count = len(view)
        if not self._digested:
            self._hash.update(view)
        self.offset += count
        if self._size is not None and self.offset > self._size:
            self.discard()
            raise DigestMismatch(f"blob {self._digest} has more than the {self._size} bytes expected")
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self.discard()
            raise _write_error(error, self._digest, self._store.root) from error
        return count

    def show(self, arrival: Arrival) -> None:
        """Let `arrival` read what there is of the blob."""
        arrival.begin(self._fd)
        arrival.advance(self.offset)

    def commit(self, digest: Digest | None = None) -> Digest:
        """Make the blob visible and return its digest. Raises `DigestMismatch` when it is not the expected
        one, and then forgets it. `digest` is the writer's, of an ingest that is `digested`."""
        assert (digest is not None) == self._digested
        actual = digest or Digest(f"{self._hash.name}:{self._hash.hexdigest()}")
        if self._size is not None and self.offset != self._size:
            short = f"blob {self._digest or actual} has {self.offset} bytes, not the {self._size} expected"
            self.discard()
            raise DigestMismatch(short)
        if self._digest is not None and actual != self._digest:
            self.discard()
            raise DigestMismatch(f"blob {self._digest} has other content: its digest is {actual}")
        try:
            self._store._adopt(self._partial, actual)
        except OSError as error:
            self.discard()
            raise _write_error(error, actual, self._store.root) from error
        os.close(self._fd)
        self._fd = -1
        return actual

    def discard(self) -> None:
        """End without a blob and leave nothing to resume."""
        self._keep = False
        self.close()

    def close(self) -> None:
        """End without a blob; what came of one whose digest is known can be resumed."""
        if self._fd < 0:
            return
        if not self._keep or not self.offset:
            _unlink(self._partial)
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _copy(source: BlobSource, descriptor: Descriptor, ingest: Ingest, arrival: Arrival | None) -> None:
    if arrival is not None:
        ingest.show(arrival)
    buffer = memoryview(bytearray(min(CHUNK, max(descriptor.size, 1))))
    if ingest.offset < descriptor.size:
        with source.open_blob(descriptor, ingest.offset, verify=False) as stream:
            while count := stream.readinto(buffer):  # type: ignore[attr-defined]
                ingest.write(buffer[:count])
                if arrival is not None:
                    arrival.advance(ingest.offset)
    ingest.commit()
    if arrival is not None:
        arrival.complete()


def _open_locked(folder: str, name: str) -> int | None:
    """Open and lock a file in `folder`, made where it is missing; None when another writer has it."""
    path = f"{folder}/{name}"
    while True:
        try:
            fd = _create(folder, path)
        except OSError as error:
            raise _write_error(error, None, os.path.dirname(folder)) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _is_at(fd, path):
            return fd
        os.close(fd)  # its owner committed or removed it between our open and our lock


def _create(folder: str, path: str) -> int:
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            # Whoever finds the folder empty may remove it, also between the two steps of makedirs.
            try:
                os.makedirs(folder, exist_ok=True)
            except FileExistsError:
                continue


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove_stale(path: str, older_than_s: float) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stat = os.fstat(fd)
        if time.time() - stat.st_mtime < older_than_s or not _is_at(fd, path):
            return 0
        os.unlink(path)
        return stat.st_size
    except BlockingIOError:
        return 0
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _missing(digest: Digest, root: str) -> BlobNotFound:
    return BlobNotFound(f"blob {digest} is not in {root}")


def _write_error(error: OSError, digest: Digest | None, root: str) -> ContentError:
    what = f"blob {digest}" if digest else "a blob"
    if is_no_room(error):
        return ContentError(f"no room for {what} in {root} ({error.strerror}); free some space there")
    return ContentError(f"cannot write {what} in {root}: {error.strerror}")
