"""Blobs on their way into a content store: written, digested, and made visible when they are right.

    root/ingest/<algorithm>-<hex>   a blob whose digest is known: what came of it is kept, to go on from there
    root/ingest/new-<name>          another one

Each is locked (flock) by whoever writes it; what is not is left over from a process that ended.
"""

from __future__ import annotations

import fcntl
import os
import time

from inlay.digest import Digest, hasher
from inlay.errors import ContentError, DigestMismatch, is_no_room
from inlay.system.filebytes import write_all
from inlay.tasks import check_cancelled
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from inlay.content.arrival import Arrival
    from inlay.content.store import BlobSource
    from inlay.oci.descriptor import Descriptor

    Buffer = bytes | bytearray | memoryview

CHUNK = 1 << 20


def begin_ingest(
    root: str, digest: Digest | None = None, size: int | None = None, *, digested: bool = False
) -> Ingest:
    """Begin to write a blob (see `ContentStore.ingest`)."""
    folder = f"{root}/ingest"
    if digest is not None:
        digest = Digest.parse(digest)
        fd = _open_locked(folder, f"{digest.algorithm}-{digest.hex}")
        if fd is not None:
            return Ingest(root, fd, f"{folder}/{digest.algorithm}-{digest.hex}", digest, size, keep=True)
    while True:
        name = f"new-{os.getpid()}-{os.urandom(8).hex()}"
        fd = _open_locked(folder, name)
        if fd is not None:
            return Ingest(root, fd, f"{folder}/{name}", digest, size, keep=False, digested=digested)


def fetch_blob(root: str, descriptor: Descriptor, source: BlobSource, arrival: Arrival | None = None) -> None:
    """Bring a blob in from `source`, and let `arrival` read what comes in (see `ContentStore.fetch`)."""
    resumed = False
    try:
        with begin_ingest(root, descriptor.digest, descriptor.size) as ingest:
            resumed = ingest.offset > 0
            _copy(source, descriptor, ingest, arrival)
    except DigestMismatch:
        if not resumed:
            raise
        with begin_ingest(root, descriptor.digest, descriptor.size) as ingest:
            _copy(source, descriptor, ingest, None)  # whoever read what came in has read something else


class Ingest:
    """A blob that is being written. Leaving its `with` block without `commit` makes nothing visible."""

    __slots__ = ("_digest", "_digested", "_fd", "_hash", "_keep", "_partial", "_root", "_size", "offset")

    def __init__(
        self,
        root: str,
        fd: int,
        partial: str,
        digest: Digest | None,
        size: int | None,
        *,
        keep: bool,
        digested: bool = False,
    ) -> None:
        self._root = root
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
            check_cancelled()
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
            write_all(self._fd, view)
        except OSError as error:
            self.discard()
            raise _write_error(error, self._digest, self._root) from error
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
            _adopt(self._root, self._partial, actual)
        except OSError as error:
            self.discard()
            raise _write_error(error, actual, self._root) from error
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
        try:
            if not self._keep or not self.offset:
                _unlink(self._partial)
        finally:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Ingest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _adopt(root: str, partial: str, digest: Digest) -> None:
    """Make the file `partial` the blob `digest`."""
    folder = f"{root}/blobs/{digest.algorithm}"
    try:
        os.rename(partial, f"{folder}/{digest.hex}")
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
        os.rename(partial, f"{folder}/{digest.hex}")


def _copy(source: BlobSource, descriptor: Descriptor, ingest: Ingest, arrival: Arrival | None) -> None:
    if arrival is not None:
        ingest.show(arrival)
    buffer = memoryview(bytearray(min(CHUNK, max(descriptor.size, 1))))
    if ingest.offset < descriptor.size:
        with source.open_blob(descriptor, ingest.offset, verify=False) as stream:
            while count := stream.readinto(buffer):  # type: ignore[attr-defined]
                check_cancelled()
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


def remove_stale(path: str, older_than_s: float) -> int:
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


def _write_error(error: OSError, digest: Digest | None, root: str) -> ContentError:
    what = f"blob {digest}" if digest else "a blob"
    if is_no_room(error):
        return ContentError(f"no room for {what} in {root} ({error.strerror}); free some space there")
    return ContentError(f"cannot write {what} in {root}: {error.strerror}")
