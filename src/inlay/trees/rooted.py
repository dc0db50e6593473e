"""Opening paths inside a folder whose content nobody vouches for.

Paths are bytes, relative to the folder; an absolute path or symlink starts again at the folder, and `..`
stops at it, as after chroot. So nothing that an archive or image contains reaches the files around it.
"""

from __future__ import annotations

import errno
import os
import stat

from inlay.errors import UnsafeArchive
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_LINKS = 255
_PATH_ONLY = os.O_PATH | os.O_CLOEXEC


def open_in_root(root_fd: int, path: bytes, flags: int) -> int:
    """`linux.open_in_root`, whose import costs more than a cached build has."""
    from inlay.system import linux

    return linux.open_in_root(root_fd, path, flags)


def open_folder(root_fd: int, path: bytes, make: Callable[[int, bytes, bytes], None] | None = None) -> int:
    """Open the folder `path` inside `root_fd`, O_PATH.

    What is missing on the way is made by `make(parent_fd, name, resolved_path)`. It is also called for a
    file that is in the way of a folder, and must raise or replace it. Raises `UnsafeArchive` for a loop of
    symlinks.
    """
    try:
        return open_in_root(root_fd, path, _PATH_ONLY | os.O_DIRECTORY)
    except OSError as error:
        if make is None and error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
    return _Walk(root_fd, make).to(path)


class _Walk:
    """Follows a path part by part, in Python: where parts are missing, or openat2 is."""

    __slots__ = ("_fds", "_links", "_make", "_names")

    def __init__(self, root_fd: int, make: Callable[[int, bytes, bytes], None] | None) -> None:
        self._fds = [os.dup(root_fd)]
        self._names: list[bytes] = []
        self._make = make
        self._links = 0

    def to(self, path: bytes) -> int:
        pending = path.split(b"/")[::-1]
        try:
            while pending:
                part = pending.pop()
                if part == b"..":
                    self._up()
                elif part not in (b"", b"."):
                    pending += self._enter(part)
            return self._fds.pop()
        finally:
            for fd in self._fds:
                os.close(fd)

    def _up(self) -> None:
        if self._names:
            self._names.pop()
            os.close(self._fds.pop())

    def _enter(self, name: bytes) -> list[bytes]:
        """Go into `name`; for a symlink return the parts to follow instead, the last one first."""
        here = self._fds[-1]
        fd = self._open(here, name)
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            self._fds.append(fd)
            self._names.append(name)
            return []
        os.close(fd)
        if not stat.S_ISLNK(mode):
            if self._make is None:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
            self._make(here, name, self._path(name))
            return [name]
        self._links += 1
        if self._links > _MAX_LINKS:
            raise UnsafeArchive(f"{os.fsdecode(self._path(name))}: too many symlinks on the way")
        target = os.readlink(name, dir_fd=here)
        if target.startswith(b"/"):
            while self._names:
                self._up()
        return target.split(b"/")[::-1]

    def _open(self, here: int, name: bytes) -> int:
        try:
            return os.open(name, _PATH_ONLY | os.O_NOFOLLOW, dir_fd=here)
        except FileNotFoundError:
            if self._make is None:
                raise
            self._make(here, name, self._path(name))
            return os.open(name, _PATH_ONLY | os.O_NOFOLLOW, dir_fd=here)

    def _path(self, name: bytes) -> bytes:
        return b"/".join((*self._names, name))


def remove_tree(name: bytes | str, dir_fd: int | None = None) -> None:
    """Remove the file or folder `name` with all that is in it, however deep; symlinks are not followed.

    Folders without write permission are opened up first. Something missing is no error.
    """
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        pass  # Linux says EISDIR; EPERM may be an immutable file, which will be said again below
    here = _open_for_removal(name, dir_fd)
    levels: list[tuple[bytes, list[bytes]]] = [(os.fsencode(name), _unlink_files(here))]
    try:
        while True:
            while levels[-1][1]:
                child = levels[-1][1].pop()
                below = _open_for_removal(child, here)
                os.close(here)
                here = below
                levels.append((child, _unlink_files(here)))
            done, _ = levels.pop()
            if not levels:
                break
            above = os.open(b"..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
            os.rmdir(done, dir_fd=here)
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=dir_fd)


def _open_for_removal(name: bytes | str, dir_fd: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if os.geteuid() != 0:
        os.chmod(name, 0o700, dir_fd=dir_fd)
    return os.open(name, flags, dir_fd=dir_fd)


def _unlink_files(fd: int) -> list[bytes]:
    """Unlink all but the folders in `fd`; return the folders' names."""
    folders = []
    with os.scandir(fd) as listing:
        for item in listing:
            name = os.fsencode(item.name)
            if item.is_dir(follow_symlinks=False):
                folders.append(name)
            else:
                os.unlink(name, dir_fd=fd)
    return folders
