"""Carrying out planned entries on a folder.

Each step goes from a folder's descriptor to a name in it and follows no link: what an image's tree holds
leads nowhere else.
"""

from __future__ import annotations

import errno
import os

from inlay.actions.files.entries import FILE, FOLDER, HARD_LINK, NODE, REMOVAL, SYMLINK, PlannedEntry
from inlay.errors import SolveError, SourceError
from inlay.system.filebytes import AT_ONCE, write_all
from inlay.system.privileges import change_owner, in_user_namespace
from inlay.tasks import check_cancelled
from inlay.trees.rooted import remove_tree
from inlay.trees.sourcefile import OpenFolders, SourceFile, Sources
from inlay.trees.tree import Tree, reason, shown
from inlay.trees.walking import glob
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 18
_BETTER_BY_HAND = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM, errno.EIO)
_NO_ROOM = "; free some space, or choose another folder with --root"
_NO_SUCH_XATTR = (errno.ENOTSUP, errno.EPERM, errno.EINVAL)


class WritableTree:
    """The tree below a folder, as the destination of plans; also carries them out.

    For one thread at a time.
    """

    __slots__ = ("_buffer", "_folders", "_later", "_sources", "_tree", "left_out")

    def __init__(self, fd: int) -> None:
        """`fd` is open on the folder, and is taken over."""
        self._tree = Tree(fd)
        self._buffer = bytearray(_CHUNK)
        self._folders = OpenFolders(self._tree)
        self._sources = Sources()
        self._later: dict[str, PlannedEntry] = {}
        """Folders that get their modes and times once all is written, by path."""
        self.left_out: list[str] = []
        """Device nodes that nobody can make in a user namespace (containerd leaves them out, too)."""

    @classmethod
    def at(cls, path: str) -> WritableTree:
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def __enter__(self) -> WritableTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._folders.close()
        self._sources.close()
        self._tree.close()

    # -- as a destination ---------------------------------------------------------------------------

    def resolve(self, path: str, *, below: str = "") -> str:
        if not below:
            with self._tree.resolve(path, follow_last=True) as place:
                return place.path
        with Tree(self._tree.open_folder(below)) as tree, tree.resolve(path, follow_last=True) as place:
            return below + place.path

    def lstat(self, path: str) -> os.stat_result | None:
        if not path:
            return os.fstat(self._folder(""))
        above, _, name = path.rpartition("/")
        try:
            return os.stat(name, dir_fd=self._folder(above), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SolveError(f"lstat {shown(path)}: {reason(error)}") from error

    def glob(self, pattern: str) -> list[str]:
        return list(glob(self._tree, pattern, follow_links=False))

    def users(self) -> Tree:
        return self._tree

    # -- carrying out -------------------------------------------------------------------------------

    def carry_out(self, plan: Iterable[PlannedEntry]) -> None:
        """Write the entries of `plan` one by one. Raises `SolveError`; part of it may be written then."""
        path = "/"
        try:
            for entry in plan:
                check_cancelled()
                path = entry.path
                self._write(entry)
            while self._later:
                path, entry = self._later.popitem()  # those within others first, as they came later
                self._finish_folder(entry)
        except OSError as error:
            advice = _NO_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise SolveError(f"cannot write {shown(path)}: {reason(error)}{advice}") from error

    def _write(self, entry: PlannedEntry) -> None:
        above, _, name = entry.path.rpartition("/")
        if entry.kind == FOLDER:
            if not entry.exists:
                here = self._folder(above)
                if entry.replaces:
                    self._remove(entry.path, name, here)
                os.mkdir(name, 0o700, dir_fd=here)
            before = self._later.get(entry.path)
            self._later[entry.path] = _merged(before, entry) if before else entry
            return
        here = self._folder(above)
        if entry.replaces or entry.kind == REMOVAL:
            self._remove(entry.path, name, here)
        if entry.kind == FILE:
            self._write_file(entry, name, here)
        elif entry.kind == SYMLINK:
            os.symlink(entry.link, name, dir_fd=here)
            self._finish(entry, name, here)
        elif entry.kind == NODE:
            self._make_node(entry, name, here)
        elif entry.kind == HARD_LINK:
            self._link(entry, name, here)

    def _make_node(self, entry: PlannedEntry, name: str, here: int) -> None:
        assert entry.mode is not None
        try:
            os.mknod(name, entry.mode, entry.device, dir_fd=here)
        except PermissionError:
            if not in_user_namespace():
                raise
            self.left_out.append(entry.path)
        else:
            self._finish(entry, name, here)

    def _remove(self, path: str, name: str, here: int) -> None:
        try:
            os.unlink(name, dir_fd=here)
        except FileNotFoundError:
            return
        except (IsADirectoryError, PermissionError):
            remove_tree(name, here)
            for gone in [each for each in self._later if f"{each}/".startswith(path + "/")]:
                del self._later[gone]

    def _write_file(self, entry: PlannedEntry, name: str, here: int) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=here)
        try:
            content = entry.content
            if isinstance(content, SourceFile):
                self._copy(content, fd, entry.path)
            elif isinstance(content, bytes):
                write_all(fd, content)
            elif content is not None:
                content.copy_to(fd)
            if entry.owner is not None:
                change_owner(fd, *entry.owner, name=entry.path)
            if entry.mode is not None:
                os.fchmod(fd, entry.mode & 0o7777)
            if entry.times is not None:
                os.utime(fd, ns=entry.times)
            if entry.xattrs:
                _set_xattrs(fd, entry.xattrs)
        except BaseException:
            os.unlink(name, dir_fd=here)  # in a folder of the user's nothing else would take it away
            raise
        finally:
            os.close(fd)

    def _copy(self, file: SourceFile, fd: int, path: str) -> None:
        """Copy a file's data: blocks are shared where the file system can, holes stay holes."""
        copy = self._copy_segments if file.has_holes else self._copy_range
        source = self._sources.open(file)
        try:
            if copy(source, fd, file.size) != file.size or os.readv(source, (bytearray(1),)):
                raise SourceError(f"a file changed while it was copied to {shown(path)}")
        finally:
            os.close(source)

    def _copy_segments(self, source: int, fd: int, size: int) -> int:
        """As `_copy_range` from the start to the end, but what is a hole becomes one."""
        at = 0
        while at < size:
            try:
                at = os.lseek(source, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    break
                raise
            end = min(os.lseek(source, at, os.SEEK_HOLE), size)
            os.lseek(source, at, os.SEEK_SET)
            os.lseek(fd, at, os.SEEK_SET)
            if self._copy_range(source, fd, end - at) != end - at:
                return at
            at = end
        os.ftruncate(fd, size)
        return os.lseek(source, size, os.SEEK_SET)

    def _copy_range(self, source: int, fd: int, size: int) -> int:
        """Copy `size` bytes from where both stand; return how many there were."""
        copied = _copy_in_kernel(source, fd, size) if size > _CHUNK else 0
        view = memoryview(self._buffer)
        while copied < size and (n := os.readv(source, (view[: size - copied],))):
            check_cancelled()
            write_all(fd, view[:n])
            copied += n
        return copied

    def _link(self, entry: PlannedEntry, name: str, here: int) -> None:
        """Give another name to a file that was written before."""
        above, _, first = entry.link.rpartition("/")
        other = self._tree.open_folder(above)
        try:
            os.link(first, name, src_dir_fd=other, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(other)
        self._finish(entry, name, here)

    def _finish(self, entry: PlannedEntry, name: str, here: int) -> None:
        """Give what was made by name its owner, mode, times and extended attributes."""
        if entry.owner is not None:
            change_owner(name, *entry.owner, name=entry.path, dir_fd=here)
        if entry.mode is not None and entry.kind != SYMLINK:
            os.chmod(name, entry.mode & 0o7777, dir_fd=here)
        if entry.times is not None:
            os.utime(name, ns=entry.times, dir_fd=here, follow_symlinks=False)
        if entry.xattrs:
            _set_xattrs(f"/proc/self/fd/{here}/{name}", entry.xattrs)

    def _finish_folder(self, entry: PlannedEntry) -> None:
        fd = self._folder(entry.path)
        if entry.owner is not None:
            change_owner(fd, *entry.owner, name=entry.path)
        if entry.mode is not None:
            os.fchmod(fd, entry.mode)
        if entry.xattrs:
            _set_xattrs(fd, entry.xattrs)
        if entry.times is not None:
            os.utime(fd, ns=entry.times)

    def _folder(self, path: str) -> int:
        """Open the folder `path`; the descriptor stays open until another branch of the tree is wanted."""
        return self._folders.at(path).fd


def _merged(before: PlannedEntry, after: PlannedEntry) -> PlannedEntry:
    """What a folder gets that is planned twice."""
    return before._replace(
        mode=before.mode if after.mode is None else after.mode,
        owner=after.owner or before.owner,
        times=after.times or before.times,
        xattrs={**before.xattrs, **after.xattrs},
    )


def _copy_in_kernel(source: int, fd: int, size: int) -> int:
    """Copy as much as copy_file_range can."""
    copied = 0
    while copied < size:
        check_cancelled()
        try:
            n = os.copy_file_range(source, fd, min(size - copied, AT_ONCE))
        except OSError as error:
            if error.errno not in _BETTER_BY_HAND:
                raise
            break
        if not n:
            break
        copied += n
    return copied


def _set_xattrs(at: int | str, xattrs: Mapping[str, bytes]) -> None:
    """Set what can be set: another file system may refuse some, and BuildKit goes on then too."""
    for name, value in xattrs.items():
        try:
            os.setxattr(at, name, value, follow_symlinks=isinstance(at, int))
        except OSError as error:
            if error.errno not in _NO_SUCH_XATTR:
                raise
