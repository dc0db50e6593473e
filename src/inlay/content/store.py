"""Blobs on disk, named by their digest, and the protocol of everything that blobs can be read from.

    root/blobs/sha256/<hex>     complete blobs; the form of an OCI image layout
    root/ingest/<name>          blobs on their way in (see `ingest`)

A name under `blobs/` appears by rename, after size and digest were found right, so whatever is visible is
complete, also after kill -9. Nothing is flushed (5 to 30 ms a blob on common disks): after a power cut a blob may
come back short, and is then taken for missing by everything that knows its size.
"""

from __future__ import annotations

import io
import os

from inlay.digest import Digest, hasher, is_digest
from inlay.errors import BlobNotFound, ContentError, DigestMismatch
from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from inlay.content.arrival import Arrival
    from inlay.content.ingest import Ingest
    from inlay.oci.descriptor import Descriptor

    Buffer = bytes | bytearray | memoryview

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
        """All blobs, in no order. What lies among them and is not called by a digest is somebody else's."""
        try:
            algorithms = os.listdir(f"{self.root}/blobs")
        except FileNotFoundError:
            return
        for algorithm in algorithms:
            try:
                entries = os.scandir(f"{self.root}/blobs/{algorithm}")
            except NotADirectoryError:
                continue
            with entries:
                for entry in entries:
                    if is_digest(name := f"{algorithm}:{entry.name}"):
                        stat = entry.stat(follow_symlinks=False)
                        yield StoredBlob(Digest(name), stat.st_size, stat.st_mtime)

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
        from inlay.content.ingest import fetch_blob

        try:
            if read is None:
                fetch_blob(self.root, descriptor, source)
            else:
                from inlay.content.arrival import Arrival

                with Arrival(read) as arrival:
                    fetch_blob(self.root, descriptor, source, arrival)
        except DigestMismatch as error:
            place = str(source)
            raise error if place in str(error) else DigestMismatch(f"{place}: {error}") from error

    def ingest(
        self, digest: Digest | None = None, size: int | None = None, *, digested: bool = False
    ) -> Ingest:
        """Begin to write a blob, of unknown digest and size where they are not given.

        With `digested` the writer digests what it writes, and tells `commit`: no byte is hashed twice.

        With a digest, the bytes that an earlier, unfinished ingest of it left are kept: go on writing at
        `offset`. When another writer holds those, this one starts from nothing, at a place of its own.
        """
        from inlay.content.ingest import begin_ingest

        return begin_ingest(self.root, digest, size, digested=digested)

    def clean_ingests(self, older_than_s: float = STALE_AFTER_S) -> int:
        """Remove what unfinished ingests left and nobody writes; return the bytes that this freed.
        Resumable ones stay until they are `older_than_s`."""
        try:
            names = os.listdir(f"{self.root}/ingest")
        except FileNotFoundError:
            return 0
        if not names:
            return 0
        from inlay.content.ingest import remove_stale

        ages_s = {name: 0.0 if name.startswith("new-") else older_than_s for name in names}
        return sum(remove_stale(f"{self.root}/ingest/{name}", age_s) for name, age_s in ages_s.items())


def _missing(digest: Digest, root: str) -> BlobNotFound:
    return BlobNotFound(f"blob {digest} is not in {root}")
