"""Which entries a layer has: what of a layer directory, or of a changed tree, differs from the tree below.

The entries are those that BuildKit would write, in its order: names sorted bytewise within each folder, a
folder before its content, the folders above a change even if they are as before, the root never, no sockets
(BuildKit: util/overlay/overlay_linux.go; containerd: pkg/archive/tar.go, ChangeWriter; continuity:
fs/diff.go, fs/path.go). Trees are given as paths or as descriptors of folders; names are bytes.
"""

from __future__ import annotations

import os
import stat
from functools import partial

from inlay.archive import whiteout
from inlay.archive.tar import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    HARD_LINK,
    SYMLINK,
    TarEntry,
)
from inlay.tasks import check_cancelled
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TreeRoot = str | bytes | int

KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHAR_DEVICE,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BILLION = 1_000_000_000
_COMPARE_SIZE = 1 << 18


def buildkit_xattrs(name: str) -> bool:
    """Whether BuildKit stores the extended attribute `name` in layers: only file capabilities."""
    return name == "security.capability"


def all_xattrs(name: str) -> bool:
    """Whether an extended attribute belongs to the file rather than to overlayfs."""
    return not name.startswith(("trusted.overlay.", "user.overlay."))


def layer_entries(
    layer_directory: TreeRoot,
    *,
    lower: TreeRoot | None = None,
) -> Iterator[TarEntry]:
    """The entries of a layer directory, in overlayfs's upper form.

    `lower` is the whole tree below it, None where there is nothing. What was copied up but not changed is
    left out, so are whiteouts of what was never there, and an opaque folder lists what it hides. Whiteouts are
    from 1970. Of extended attributes those are there that BuildKit stores. An entry's `open` works until the next
    entry is asked for.
    """
    return _Walk(buildkit_xattrs).run(layer_directory, lower, overlay=True)


def all_entries(layer_directory: TreeRoot) -> Iterator[TarEntry]:
    """Everything that a layer directory says, whatever is below it: all whiteouts, and opaque markers."""
    return _Walk(all_xattrs, blind=True).run(layer_directory, None, overlay=True)


def diff_trees(
    lower: TreeRoot | None,
    upper: TreeRoot,
    *,
    unchanged_before_ns: int = 0,
) -> Iterator[TarEntry]:
    """The entries that make the tree `upper` of the tree `lower`; of nothing when that is None. All extended
    attributes of a file are there.

    Files count as equal as in continuity's double walk: by mode, owner, size, time and capability, and by
    content where times are whole seconds. Files of `upper` whose inode has not changed since
    `unchanged_before_ns` are taken as equal unseen.
    """
    return _Walk(all_xattrs, unchanged_before_ns=unchanged_before_ns).run(upper, lower, overlay=False)


class _Folder:
    """A folder that the walk is in. `entry` is None once it was given out."""

    __slots__ = ("entry", "lower", "names", "overlay", "path", "upper")

    def __init__(self, path: bytes, upper: int, lower: int, entry: TarEntry | None, *, overlay: bool) -> None:
        self.path = path
        self.upper = upper
        self.lower = lower  # -1 where there is no folder below
        self.entry = entry
        self.overlay = overlay
        names = set(list_names(upper))
        if lower >= 0 and not overlay:
            names.update(list_names(lower))
        self.names = iter(sorted(names))

    def close(self) -> None:
        os.close(self.upper)
        if self.lower >= 0:
            os.close(self.lower)


class _Walk:
    """One walk over one or two trees."""

    def __init__(
        self,
        keep_xattr: Callable[[str], bool],
        *,
        blind: bool = False,
        unchanged_before_ns: int = 0,
    ) -> None:
        self._keep_xattr = keep_xattr
        self._blind = blind
        self._unchanged_before_ns = unchanged_before_ns
        self._stack: list[_Folder] = []
        self._link_targets: dict[int, bytes] = {}
        self._unchanged_links: dict[int, list[tuple[bytes, list[_Folder]]]] = {}

    def run(self, upper: TreeRoot, lower: TreeRoot | None, *, overlay: bool) -> Iterator[TarEntry]:
        lower_fd = -1 if lower is None else open_tree(lower)
        self._stack.append(_Folder(b"", open_tree(upper), lower_fd, None, overlay=overlay))
        try:
            while self._stack:
                check_cancelled()
                folder = self._stack[-1]
                name = next(folder.names, None)
                if name is None:
                    self._stack.pop().close()
                else:
                    yield from self._visit(folder, name)
        finally:
            for folder in self._stack:
                folder.close()

    def _visit(self, folder: _Folder, name: bytes) -> Iterator[TarEntry]:
        upper = lstat(name, folder.upper)
        if upper is not None and stat.S_ISSOCK(upper.st_mode) and not whiteout.is_whiteout(upper):
            return
        lower = lstat(name, folder.lower) if folder.lower >= 0 else None
        if upper is None or whiteout.is_whiteout(upper):
            if lower is not None or (self._blind and folder.overlay):
                yield from self._with_parents(_whiteout_entry(folder.path, name))
            return
        path = folder.path + name
        if stat.S_ISDIR(upper.st_mode):
            yield from self._visit_folder(folder, name, path, upper, lower)
        elif lower is None or not self._is_same(folder, name, lower, upper):
            yield from self._changed(folder, name, path, upper)
        elif upper.st_nlink > 1 and not folder.overlay:
            yield from self._unchanged_link(folder, name, path, upper)

    def _visit_folder(
        self, folder: _Folder, name: bytes, path: bytes, upper: os.stat_result, lower: os.stat_result | None
    ) -> Iterator[TarEntry]:
        entry = self._entry(folder, name, path, upper)
        if lower is None or not self._is_same(folder, name, lower, upper):
            yield from self._with_parents(entry)
            pending = None
        else:
            pending = entry
        fd = os.open(name, FOLDER, dir_fd=folder.upper)
        has_lower = lower is not None and stat.S_ISDIR(lower.st_mode)
        lower_fd = os.open(name, FOLDER, dir_fd=folder.lower) if has_lower else -1
        opaque = folder.overlay and whiteout.is_opaque(fd)
        if opaque and self._blind:
            yield TarEntry(path + b"/" + whiteout.OPAQUE_MARKER, mode=0)
        self._stack.append(_Folder(path + b"/", fd, lower_fd, pending, overlay=folder.overlay and not opaque))

    def _with_parents(self, entry: TarEntry) -> Iterator[TarEntry]:
        """The folders that `entry` is in, as far as they were not given out yet, then `entry`."""
        yield from _pending(self._stack)
        yield entry

    def _changed(
        self, folder: _Folder, name: bytes, path: bytes, upper: os.stat_result
    ) -> Iterator[TarEntry]:
        entry = self._entry(folder, name, path, upper)
        if upper.st_nlink == 1:
            yield from self._with_parents(entry)
            return
        target = self._link_targets.setdefault(upper.st_ino, path)
        if target != path:
            yield from self._with_parents(_as_link(entry, path, target))
            return
        yield from self._with_parents(entry)
        for earlier, folders in self._unchanged_links.pop(upper.st_ino, ()):
            yield from _pending(folders)
            yield _as_link(entry, earlier, path)

    def _unchanged_link(
        self, folder: _Folder, name: bytes, path: bytes, upper: os.stat_result
    ) -> Iterator[TarEntry]:
        """A file like the one below, but the same inode as another name: that one may have changed."""
        target = self._link_targets.get(upper.st_ino)
        if target is None:
            self._unchanged_links.setdefault(upper.st_ino, []).append((path, list(self._stack)))
        else:
            yield from self._with_parents(_as_link(self._entry(folder, name, path, upper), path, target))

    def _is_same(self, folder: _Folder, name: bytes, lower: os.stat_result, upper: os.stat_result) -> bool:
        before_ns = self._unchanged_before_ns
        return is_same(folder.lower, folder.upper, name, lower, upper, unchanged_before_ns=before_ns)

    def _entry(self, folder: _Folder, name: bytes, path: bytes, status: os.stat_result) -> TarEntry:
        mode = status.st_mode
        kind = KINDS[stat.S_IFMT(mode)]
        size, link, opener, major, minor = 0, b"", None, 0, 0
        if kind == FILE:
            size, opener = status.st_size, partial(os.open, name, _READ, dir_fd=folder.upper)
        elif kind == SYMLINK:
            link = os.readlink(name, dir_fd=folder.upper)
        elif kind in (CHAR_DEVICE, BLOCK_DEVICE):
            major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        mtime_ns = status.st_mtime_ns
        uid, gid = status.st_uid, status.st_gid
        xattrs = self._xattrs(b"/proc/self/fd/%d/%s" % (folder.upper, name))
        return TarEntry(
            path, kind, mode & 0o7777, uid, gid, mtime_ns, size, link, major, minor, xattrs, opener
        )

    def _xattrs(self, path: bytes) -> tuple[tuple[bytes, bytes], ...]:
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError:  # a file system without any
            return ()
        kept = sorted(os.fsencode(name) for name in names if self._keep_xattr(name))
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in kept)


def is_same(
    lower_fd: int,
    upper_fd: int,
    name: bytes,
    lower: os.stat_result,
    upper: os.stat_result,
    *,
    unchanged_before_ns: int = 0,
) -> bool:
    """Whether the file `name` counts as unchanged (continuity: fs/path.go, sameFile)."""
    if lower.st_ino == upper.st_ino and lower.st_dev == upper.st_dev:
        return True
    if _looks(lower) != _looks(upper):
        return False
    if _capability(lower_fd, name) != _capability(upper_fd, name):
        return False
    if stat.S_ISDIR(upper.st_mode):
        return True
    if lower.st_size != upper.st_size or lower.st_mtime_ns != upper.st_mtime_ns:
        return False
    if upper.st_mtime_ns % _BILLION or upper.st_ctime_ns < unchanged_before_ns:
        return True
    if stat.S_ISLNK(upper.st_mode):
        return os.readlink(name, dir_fd=lower_fd) == os.readlink(name, dir_fd=upper_fd)
    return upper.st_size == 0 or _same_content(lower_fd, upper_fd, name)


def _pending(folders: list[_Folder]) -> Iterator[TarEntry]:
    for folder in folders:
        if folder.entry is not None:
            entry, folder.entry = folder.entry, None
            yield entry


def _as_link(entry: TarEntry, name: bytes, target: bytes) -> TarEntry:
    return entry._replace(name=name, kind=HARD_LINK, size=0, link=target, open=None)


def _whiteout_entry(folder: bytes, name: bytes) -> TarEntry:
    return TarEntry(folder + whiteout.PREFIX + name, mode=0)


def open_tree(tree: TreeRoot) -> int:
    if isinstance(tree, int):
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    return os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def list_names(fd: int) -> list[bytes]:
    return os.listdir(b"/proc/self/fd/%d" % fd)


def lstat(name: bytes, dir_fd: int) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return None


def _looks(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid, status.st_rdev


def _capability(dir_fd: int, name: bytes) -> bytes:
    path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    try:
        if "security.capability" not in os.listxattr(path, follow_symlinks=False):
            return b""
        return os.getxattr(path, "security.capability", follow_symlinks=False)
    except OSError:
        return b""


def _same_content(lower_fd: int, upper_fd: int, name: bytes) -> bool:
    fds = [os.open(name, _READ, dir_fd=lower_fd), os.open(name, _READ, dir_fd=upper_fd)]
    try:
        while True:
            check_cancelled()
            one, other = (os.read(fd, _COMPARE_SIZE) for fd in fds)
            if one != other:
                return False
            if not one:
                return True
    finally:
        for fd in fds:
            os.close(fd)
