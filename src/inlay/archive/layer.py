"""Unpacking layers: into layer directories, and over trees.

Names are bytes. Nothing is ever written outside the folder: every parent is opened inside it (see `rooted`),
and the last part of a name is never followed. A folder that was only partly filled is the caller's to remove.
"""

from __future__ import annotations

import errno
import os
import stat

from inlay.archive import whiteout
from inlay.archive.tar import BLOCK_DEVICE, CHAR_DEVICE, DIRECTORY, FIFO, FILE, HARD_LINK, SYMLINK, TarEntry
from inlay.archive.untar import TarReader
from inlay.digest import Digest, sha256
from inlay.errors import ContentError, SolveError, UnsafeArchive
from inlay.system.filebytes import copy_data, write_all
from inlay.system.privileges import change_owner, in_user_namespace
from inlay.tasks import check_cancelled
from inlay.trees.rooted import open_folder, open_in_root, remove_tree
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from inlay.archive.untar import ByteSource

_DEVICE_KINDS = {CHAR_DEVICE: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH_MAX = 4096
_MUCH = 1 << 20  # bytes that a layer is taken to have, for the choice of a hash
_ARCHIVE_FAULTS = frozenset(
    (
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EXDEV,
    )
)


class Limits(NamedTuple):
    """What an archive may unpack to before it is taken for a bomb: bytes, holes included, and entries."""

    size: int = 1 << 40
    entries: int = 10_000_000

    @classmethod
    def for_blob(cls, size: int, *, ratio: int = 1100) -> Limits:
        """Limits for a compressed blob of `size` bytes: gzip cannot exceed 1032 to 1, honest zstd does not.

        Holes of sparse files count too, so anything may have 16 GiB.
        """
        return cls(max(size * ratio, 16 << 30))


def within(limits: Limits, entries: Iterable[TarEntry]) -> Iterator[TarEntry]:
    """Pass `entries` on until they exceed `limits`; then raise `UnsafeArchive`."""
    size = 0
    for count, entry in enumerate(entries, 1):
        check_cancelled()
        size += entry.size
        if count > limits.entries or size > limits.size:
            most = f"{limits.size} bytes or {limits.entries} entries"
            raise UnsafeArchive(f"the archive unpacks to more than {most}")
        yield entry


class AppliedLayer(NamedTuple):
    """What came out of an archive.

    `size` counts the bytes of the archive. `implied` lists the folders that no entry describes, in the order
    in which they were made: 0755, owned by root.
    """

    diff_id: Digest
    size: int
    entries: int
    implied: tuple[bytes, ...]


def apply_layer(
    stream: ByteSource,
    directory: str | bytes,
    *,
    limits: Limits = Limits(),  # noqa: B008 - immutable
) -> AppliedLayer:
    """Unpack an uncompressed layer into the empty layer directory `directory` and read it to its end.

    The result is in the form of an overlayfs upper directory: whiteouts become character devices 0:0, opaque
    markers an xattr. In a user namespace device nodes are left out.
    Raises `UnsafeArchive` for an entry that would reach outside or that exceeds `limits`, `ContentError` for
    a broken archive; `directory` then holds part of the layer.
    BuildKit: containerd pkg/archive/tar.go (applyNaive), tar_opts_linux.go.
    """
    source = _Metered(stream, limits.size)
    reader = TarReader(source)
    unpacker = _LayerUnpacker(directory, limits, copy=reader.copy_to)
    unpacker.run(reader)
    reader.drain()
    return AppliedLayer(source.digest(), reader.position, unpacker.count, tuple(unpacker.implied))


def apply_entries(entries: Iterable[TarEntry], directory: str | bytes) -> None:
    """Put entries into the layer directory `directory`, as `apply_layer` would out of their archive."""
    _LayerUnpacker(directory, Limits()).run(entries)


def merge_entries(entries: Iterable[TarEntry], directory: str | bytes) -> None:
    """Change the tree `directory` by a layer's entries: its whiteouts remove what is there."""
    _TreeUnpacker(directory, Limits()).run(entries)


def inherit_implied(directory: str | bytes, implied: Sequence[bytes], parents: Sequence[str | bytes]) -> None:
    """Give folders that a layer has only by implication the looks that they have in the layers below.

    In a layer directory such a folder hides the mode, owner and xattrs of the one below it. `parents` are the
    layer directories below, the lowest first. BuildKit: containerd pkg/archive/tar.go (mkparent).
    """
    target_fd = _open_root(directory)
    parent_fds = [_open_root(parent) for parent in reversed(parents)]
    try:
        for path in implied:
            _inherit(target_fd, path, parent_fds)
    finally:
        for fd in (target_fd, *parent_fds):
            os.close(fd)


def _inherit(target_fd: int, path: bytes, parent_fds: Sequence[int]) -> None:
    for parent_fd in parent_fds:
        try:
            fd = open_in_root(parent_fd, path, os.O_PATH | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            status = os.fstat(fd)
            if not stat.S_ISDIR(status.st_mode):
                return
            source, target = b"/proc/self/fd/%d" % fd, b"/proc/self/fd/%d/%s" % (target_fd, path)
            os.chown(target, status.st_uid, status.st_gid)
            os.chmod(target, stat.S_IMODE(status.st_mode))
            for name in os.listxattr(source):
                if not name.startswith("trusted.") and not name.startswith("user.overlay."):
                    os.setxattr(target, name, os.getxattr(source, name))
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
            return
        finally:
            os.close(fd)


def clean_name(name: bytes) -> bytes:
    """`name` without `.` and empty parts, `..` resolved; empty for the root itself.

    Raises `UnsafeArchive` where it leads above the root.
    """
    name = name.removeprefix(b"./")
    if (
        not name.startswith((b".", b"/"))
        and not name.endswith(b"/")
        and b"/." not in name
        and b"//" not in name
    ):
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise UnsafeArchive(
                    f"the entry {os.fsdecode(name)!r:.200} would be unpacked outside the folder"
                )
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class _Metered:
    """Passes a stream through, digesting it, up to a limit."""

    __slots__ = ("_left", "_limit", "_readinto", "_sha")

    def __init__(self, source: ByteSource, limit: int) -> None:
        self._readinto = source.readinto
        self._sha = sha256(size=_MUCH)
        self._limit = self._left = limit

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        n = self._readinto(buffer) or 0
        self._left -= n
        if self._left < 0:
            raise UnsafeArchive(f"the archive has more than {self._limit} bytes")
        self._sha.update(memoryview(buffer)[:n])
        return n

    def digest(self) -> Digest:
        return Digest("sha256:" + self._sha.hexdigest())


def _open_root(directory: str | bytes) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


class _Unpacker:
    """Puts the entries of one archive into one folder."""

    def __init__(
        self,
        directory: str | bytes,
        limits: Limits,
        *,
        copy: Callable[[int], None] | None = None,
    ) -> None:
        """`copy` writes the data of the entry that came last; without it entries know where theirs is."""
        self._copy = copy
        self._limits = limits
        self._root = _open_root(directory)
        self._parent = -1
        self._parent_path = b""
        self._caller = os.geteuid(), os.getegid()
        self._owner: tuple[int, int] | None = None  # whom new files in the parent belong to, if that is known
        self._folders: dict[bytes, int] = {}  # path → mtime, set when nothing will be put in there any more
        self.implied: dict[bytes, None] = {}
        self.count = 0

    def run(self, entries: Iterable[TarEntry]) -> None:
        entry = None
        try:
            for entry in within(self._limits, entries):
                self.count += 1
                self._place(entry)
            entry = None
            self._finish_folders()
        except OSError as error:
            if entry is None or error.errno not in _ARCHIVE_FAULTS:
                raise
            raise ContentError(
                f"the entry {os.fsdecode(entry.name)!r:.200} cannot be unpacked: {error.strerror}"
            ) from error
        finally:
            self._forget_parent()
            os.close(self._root)

    def _place(self, entry: TarEntry) -> None:
        path = clean_name(entry.name)
        if len(path) >= _PATH_MAX:
            raise UnsafeArchive(f"the entry {os.fsdecode(path)!r:.80}… has a name of {len(path)} bytes")
        if not path:
            return  # a layer does not say how the root looks (containerd ignores it as well)
        folder, _, name = path.rpartition(b"/")
        if folder != self._parent_path or self._parent < 0:
            self._enter(folder, self._make_implied)
        if name.startswith(whiteout.PREFIX):
            self._hide(path, name)
            return
        try:
            self._make(entry, path, name)
        except FileExistsError:
            was_folder = stat.S_ISDIR(os.lstat(name, dir_fd=self._parent).st_mode)
            if was_folder and entry.kind == DIRECTORY:
                self._dress(entry, path, name)
            else:
                self._replace(entry, path, name)

    def _hide(self, path: bytes, name: bytes) -> None:
        """Do what an entry that is no file, but a whiteout, says."""
        raise NotImplementedError

    def _replace(self, entry: TarEntry, path: bytes, name: bytes) -> None:
        """Put the entry where something else is."""
        parent = os.dup(self._parent)
        try:
            self._forget_parent()  # it may lead through what is removed now
            remove_tree(name, parent)
            self._parent, parent = parent, -1
            self._make(entry, path, name)
        finally:
            self._forget_parent()
            if parent >= 0:
                os.close(parent)

    def _make(self, entry: TarEntry, path: bytes, name: bytes) -> None:
        """Make the entry's file. Raises FileExistsError where there is one."""
        parent, kind = self._parent, entry.kind
        if kind == FILE:
            self._make_file(entry, name)
            return
        if kind == DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
        elif kind == SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
        elif kind == HARD_LINK:
            self._make_link(entry, name)
        elif kind in _DEVICE_KINDS:
            device = os.makedev(entry.major, entry.minor) if kind != FIFO else 0
            try:
                os.mknod(name, _DEVICE_KINDS[kind] | 0o600, device, dir_fd=parent)
            except PermissionError:
                if in_user_namespace():
                    return  # nobody can make devices there; containerd leaves them out too
                raise
        else:
            raise ContentError(
                f"the entry {os.fsdecode(path)} is of kind {kind!r}, which no layer may contain"
            )
        self._dress(entry, path, name, owner=self._owner if kind != HARD_LINK else None)

    def _make_file(self, entry: TarEntry, name: bytes) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=self._parent)
        try:
            if entry.size:
                self._fill(entry, fd)
            if (entry.uid, entry.gid) != self._owner:
                self._chown(entry, fd)
            for key, value in entry.xattrs:
                _set_xattr(fd, key, value, entry)
            os.fchmod(fd, entry.mode)  # after chown, which takes the setuid bit away
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _fill(self, entry: TarEntry, fd: int) -> None:
        if self._copy is not None:
            self._copy(fd)
        elif entry.open is not None:
            source = entry.open()
            try:
                copy_data(source, fd)
            finally:
                os.close(source)
        else:
            write_all(fd, entry.data)

    def _make_link(self, entry: TarEntry, name: bytes) -> None:
        folder, _, target = clean_name(entry.link).rpartition(b"/")
        if not target:
            raise UnsafeArchive(f"the hard link {os.fsdecode(entry.name)} leads to no file")
        fd = open_folder(self._root, folder)
        try:
            os.link(target, name, src_dir_fd=fd, dst_dir_fd=self._parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _dress(
        self, entry: TarEntry, path: bytes, name: bytes, *, owner: tuple[int, int] | None = None
    ) -> None:
        """Give a file that exists, and belongs to `owner` if that is known, its owner, xattrs, mode and time."""
        parent = self._parent
        if entry.kind == DIRECTORY:
            self._folders[path] = entry.mtime_ns
            self.implied.pop(path, None)
        if (entry.uid, entry.gid) != owner:
            self._chown(entry, name)
        for key, value in entry.xattrs:
            _set_xattr(b"/proc/self/fd/%d/%s" % (parent, name), key, value, entry)
        is_link = entry.kind == SYMLINK or (
            entry.kind == HARD_LINK and stat.S_ISLNK(os.lstat(name, dir_fd=parent).st_mode)
        )
        if not is_link:
            os.chmod(name, entry.mode, dir_fd=parent)
        if entry.kind != DIRECTORY:
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _chown(self, entry: TarEntry, target: int | bytes) -> None:
        try:
            change_owner(target, entry.uid, entry.gid, name=entry.name, dir_fd=self._parent)
        except SolveError as error:
            raise ContentError(error.message) from error

    def _enter(self, folder: bytes, make: Callable[[int, bytes, bytes], None] | None) -> None:
        """Have the parent `folder` open; `make` makes what is missing of it."""
        self._forget_parent()
        self._parent = open_folder(self._root, folder, make) if folder else os.dup(self._root)
        self._parent_path = folder
        status = os.fstat(self._parent)  # a new file gets the group of its folder, if not that of the caller
        self._owner = self._caller if (status.st_uid, status.st_gid) == self._caller else None

    def _forget_parent(self) -> None:
        if self._parent >= 0:
            os.close(self._parent)
            self._parent = -1

    def _make_implied(self, parent: int, name: bytes, path: bytes) -> None:
        os.mkdir(name, 0o755, dir_fd=parent)
        os.chmod(name, 0o755, dir_fd=parent)  # whatever the umask
        self.implied[path] = None
        self._folders[path] = 0

    def _finish_folders(self) -> None:
        self._forget_parent()
        for path, mtime_ns in self._folders.items():
            try:
                self._finish_folder(path, mtime_ns)
            except (FileNotFoundError, NotADirectoryError):
                self.implied.pop(path, None)  # a later entry has replaced it

    def _finish_folder(self, path: bytes, mtime_ns: int) -> None:
        folder, _, name = path.rpartition(b"/")
        if folder != self._parent_path or self._parent < 0:
            self._enter(folder, make=None)
        if not stat.S_ISDIR(os.lstat(name, dir_fd=self._parent).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=self._parent, follow_symlinks=False)


class _LayerUnpacker(_Unpacker):
    """Unpacks a layer into a layer directory."""

    def _hide(self, path: bytes, name: bytes) -> None:
        if name == whiteout.OPAQUE_MARKER:
            self._mark_opaque(b".")
            return
        if name.startswith(whiteout.META_PREFIX):
            return  # what AUFS left behind
        gone = _gone(name, path)
        try:
            whiteout.make_whiteout(gone, self._parent)
        except FileExistsError:  # this layer's own file stays: a whiteout is about the layers below
            if stat.S_ISDIR(os.lstat(gone, dir_fd=self._parent).st_mode):
                self._mark_opaque(gone)

    def _replace(self, entry: TarEntry, path: bytes, name: bytes) -> None:
        super()._replace(entry, path, name)
        if entry.kind == DIRECTORY:  # what it replaces had hidden the folder below
            self._enter(path.rpartition(b"/")[0], self._make_implied)
            self._mark_opaque(name)

    def _make_implied(self, parent: int, name: bytes, path: bytes) -> None:
        try:
            super()._make_implied(parent, name, path)
        except FileExistsError:
            if not whiteout.is_whiteout(os.lstat(name, dir_fd=parent)):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
            os.unlink(name, dir_fd=parent)
            super()._make_implied(parent, name, path)
            whiteout.mark_opaque(b"/proc/self/fd/%d/%s" % (parent, name))

    def _mark_opaque(self, name: bytes) -> None:
        whiteout.mark_opaque(b"/proc/self/fd/%d/%s" % (self._parent, name))


class _TreeUnpacker(_Unpacker):
    """Carries out on a tree what a layer says."""

    def _hide(self, path: bytes, name: bytes) -> None:
        if name == whiteout.OPAQUE_MARKER:
            for gone in os.listdir(b"/proc/self/fd/%d" % self._parent):
                remove_tree(gone, self._parent)
        elif not name.startswith(whiteout.META_PREFIX):
            remove_tree(_gone(name, path), self._parent)


def _gone(name: bytes, path: bytes) -> bytes:
    """The name that the whiteout `name` says is gone."""
    gone = name[len(whiteout.PREFIX) :]
    if gone in (b"", b".", b".."):
        raise UnsafeArchive(f"{os.fsdecode(path)} is not a name that a whiteout may have")
    return gone


def _set_xattr(target: int | bytes, key: bytes, value: bytes, entry: TarEntry) -> None:
    """Set what an archive may set: nothing `trusted.`, and nothing that overlayfs would take as its own."""
    if key.startswith((b"trusted.", *whiteout.OVERLAY_XATTRS)):
        return
    try:
        if isinstance(target, int):
            os.setxattr(target, key, value)
        else:
            os.setxattr(target, key, value, follow_symlinks=False)
    except OSError as error:
        refused_user = (
            error.errno == errno.EPERM and key.startswith(b"user.") and entry.kind not in (FILE, DIRECTORY)
        )
        if error.errno != errno.ENOTSUP and not refused_user:
            raise
