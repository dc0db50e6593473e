"""Layer directories on disk, and the trees that they make.

    root/<id>/fs          a layer directory in overlayfs's upper form, complete and never changed again;
                          the mtime of root/<id> is when it was made or last used
    root/new/<id>/…       one in the making, locked by whoever makes it; without a lock it is rubbish
    root/merged/<key>/…   several layers made into one plain tree, kept as it may be wanted again
    root/empty            an empty folder

A layer becomes complete by one rename, so kill -9 leaves nothing half-made under its id, and what it leaves in
`new` is swept away by the next process that opens the root.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys

from inlay.typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from inlay.snapshot.merged import Merged

LayerDir = str
"""The id of a complete layer directory."""

_RESERVED = frozenset(("new", "merged", "empty"))
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_TOP_OF_HIERARCHY = 0x00020000  # FS_TOPDIR_FL
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Usage(NamedTuple):
    """What a layer directory takes: bytes on disk and files, each hard-linked file once."""

    size: int
    files: int


class View:
    """A tree to read. `fd` is a detached mount where that is possible, else a folder; -1 once it is closed."""

    __slots__ = ("_merged", "fd")

    def __init__(self, fd: int, merged: Merged | None = None) -> None:
        """`merged`: the tree that this is of, if it is one that several layers were copied into."""
        self.fd = fd
        self._merged = merged

    @property
    def path(self) -> str:
        """A name for it that works in this process while it is open."""
        return f"/proc/self/fd/{self.fd}"

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self._merged is not None:
            self._merged.close()

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Active(Protocol):
    """A tree to change. Leaving its with block discards what was not committed."""

    @property
    def fd(self) -> int: ...
    @property
    def path(self) -> str: ...

    def commit(self, lower: View | None = None) -> LayerDir:
        """Keep what was changed as a layer directory. Nobody may change the tree any more.

        `lower` is a view of the layers that it lies on, where the caller has one: closing one of its own waits for
        the kernel, for milliseconds on busy cores."""
        ...

    def discard(self) -> None: ...
    def __enter__(self) -> Active: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Snapshotter(Protocol):
    """Makes trees of layer directories, and layer directories of changed trees.

    Layers are given lowest first. All methods may be called on any thread and block.
    """

    def prepare(self, layers: Sequence[LayerDir]) -> Active:
        """A writable tree on top of `layers`, which do not change."""
        ...

    def view(self, layers: Sequence[LayerDir]) -> View:
        """A tree of `layers` to read."""
        ...

    def receive(self) -> Incoming:
        """An empty layer directory to fill."""
        ...

    def upper(self, layer: LayerDir) -> str:
        """The path of a layer directory's content."""
        ...

    def exists(self, layer: LayerDir) -> bool: ...
    def layers(self) -> list[LayerDir]: ...
    def usage(self, layer: LayerDir) -> Usage: ...
    def touch(self, layer: LayerDir) -> None:
        """Note that a layer directory is used now."""
        ...

    def remove(self, layer: LayerDir) -> None:
        """Delete a layer directory that nobody uses; no error if it is gone."""
        ...

    def drop_merged(self, *, stale_only: bool = False) -> None:
        """Delete copies of several layers in one tree, which may be made again."""
        ...


class Incoming:
    """A layer directory in the making. Leaving its with block discards what was not committed.

    `directory` is to be filled in overlayfs's upper form; `folder` around it may hold other files meanwhile.
    """

    __slots__ = ("_lock", "_root", "directory", "folder", "id")

    def __init__(self, root: str, layer_id: str, lock: int) -> None:
        self.id = layer_id
        self.folder = f"{root}/new/{layer_id}"
        self.directory = f"{self.folder}/fs"
        self._root = root
        self._lock = lock

    def commit(self) -> LayerDir:
        """Make it a complete layer directory, without what else was in the folder."""
        for name in os.listdir(self.folder):
            if name != "fs":
                _remove(f"{self.folder}/{name}")
        self.move(f"{self._root}/{self.id}")
        return self.id

    def move(self, place: str) -> None:
        """Move the folder to where it is complete. Raises OSError where something is there already."""
        os.rename(self.folder, place)
        self._unlock()

    def discard(self) -> None:
        """Delete it, unless it was committed or discarded."""
        if self._lock >= 0:
            try:
                _remove(self.folder)
            finally:
                self._unlock()  # what could not be deleted is for the next sweep

    def _unlock(self) -> None:
        os.close(self._lock)
        self._lock = -1

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class LayerDirs:
    """The layer directories under one root: what snapshotters share."""

    def __init__(self, root: str) -> None:
        """`root` need not exist yet."""
        self.root = root
        self._open = False

    def open(self) -> None:
        """Make the root usable, and sweep up what killed processes left: once, before anything is made."""
        if not self._open:
            for name in ("new", "merged", "empty"):
                os.makedirs(f"{self.root}/{name}", mode=0o711, exist_ok=True)
            _spread(f"{self.root}/new")
            self.sweep()
            self._open = True

    def receive(self) -> Incoming:
        self.open()
        with self._all_locked(fcntl.LOCK_SH):
            layer_id = os.urandom(8).hex()
            os.mkdir(f"{self.root}/new/{layer_id}", 0o711)
            lock = os.open(f"{self.root}/new/{layer_id}", _OPEN_FOLDER)
            fcntl.flock(lock, fcntl.LOCK_EX)
        incoming = Incoming(self.root, layer_id, lock)
        try:
            os.mkdir(incoming.directory)
            os.chmod(incoming.directory, 0o755)  # the root of the tree looks like its top layer
        except BaseException:
            incoming.discard()
            raise
        return incoming

    def upper(self, layer: LayerDir) -> str:
        return f"{self.root}/{layer}/fs"

    def exists(self, layer: LayerDir) -> bool:
        return layer not in _RESERVED and os.path.isdir(self.upper(layer))

    def layers(self) -> list[LayerDir]:
        names = os.listdir(self.root) if os.path.isdir(self.root) else []
        return sorted(name for name in names if name not in _RESERVED)

    def touch(self, layer: LayerDir) -> None:
        try:
            os.utime(f"{self.root}/{layer}")
        except OSError:
            return

    def usage(self, layer: LayerDir) -> Usage:
        size = files = 0
        linked: set[int] = set()
        for item in items_below(self.upper(layer)):
            status = item.stat(follow_symlinks=False)
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                if status.st_ino in linked:
                    continue
                linked.add(status.st_ino)
            files += 1
            size += status.st_blocks * 512
        return Usage(size, files)

    def remove(self, layer: LayerDir) -> None:
        if layer in _RESERVED:
            raise ValueError(f"{layer} is not a layer directory")
        try:
            lock = os.open(f"{self.root}/{layer}", _OPEN_FOLDER)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # so that nobody else sweeps it up at the same time
            doomed = f"{self.root}/new/{layer}"
            try:
                os.rename(f"{self.root}/{layer}", doomed)
            except FileNotFoundError:
                return
            _remove(doomed)
        finally:
            os.close(lock)
        self.drop_merged(stale_only=True)

    def drop_merged(self, *, stale_only: bool = False) -> None:
        """Delete merged trees that nobody reads just now; with `stale_only` those of layers that are gone."""
        if os.path.isdir(f"{self.root}/merged") and os.listdir(f"{self.root}/merged"):
            from inlay.snapshot.merged import drop_merged

            drop_merged(self, stale_only=stale_only)

    def sweep(self) -> int:
        """Delete what processes that are gone did not finish; return the number of folders."""
        doomed = []
        with self._all_locked(fcntl.LOCK_EX):
            for name in os.listdir(f"{self.root}/new"):
                lock = lock_unused(f"{self.root}/new/{name}")
                if lock is not None:
                    doomed.append((name, lock))
        for name, lock in doomed:
            _remove(f"{self.root}/new/{name}")
            os.close(lock)
        return len(doomed)

    def _all_locked(self, how: int) -> _Locked:
        """Shared: a folder of `new` may lack its lock for a moment. Exclusive: none does."""
        return _Locked(f"{self.root}/new", how)


class _Locked:
    """A lock (`flock`) on a folder for as long as a `with` block."""

    def __init__(self, folder: str, how: int) -> None:
        self._folder = folder
        self._how = how

    def __enter__(self) -> None:
        self._fd = os.open(self._folder, _OPEN_FOLDER)
        try:
            fcntl.flock(self._fd, self._how)
        except BaseException:
            os.close(self._fd)
            raise

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        os.close(self._fd)


def _spread(folder: str) -> None:
    """Tell the file system that what is in `folder` does not belong together (`chattr +T`).

    ext4 then looks for room in another part of the disk for each layer. Else it would look where layers were
    deleted just now; without a journal it does not use their inodes for minutes, and steps over them one by one:
    a build with 20,000 files took 6.3 s of CPU instead of 1.7. A file system without such flags is left as it is.
    """
    fd = os.open(folder, _OPEN_FOLDER)
    try:
        flags = bytearray(8)
        fcntl.ioctl(fd, _GET_FLAGS, flags)
        wanted = int.from_bytes(flags[:4], sys.byteorder) | _TOP_OF_HIERARCHY
        fcntl.ioctl(fd, _SET_FLAGS, wanted.to_bytes(4, sys.byteorder) + bytes(4))
    except OSError:
        return
    finally:
        os.close(fd)


def _remove(folder: str) -> None:
    from inlay.trees.rooted import remove_tree  # here, as most builds in which all is cached remove nothing

    remove_tree(folder)


def items_below(folder: str) -> Iterator[os.DirEntry[str]]:
    """All that is in `folder` and in folders below it, in no order."""
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as listing:
            for item in listing:
                if item.is_dir(follow_symlinks=False):
                    pending.append(item.path)
                yield item


def lock_unused(folder: str) -> int | None:
    """Lock a folder that nobody else has locked; None where that cannot be."""
    try:
        lock = os.open(folder, _OPEN_FOLDER)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def copy_root_looks(source: str, target: str) -> None:
    """Give the root folder of a layer directory the mode and owner that the layer below it has."""
    status = os.stat(source)
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
