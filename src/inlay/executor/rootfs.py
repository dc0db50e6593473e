"""What an executor reads from and does to a step's root file system around the step itself.

Paths are resolved inside the root file system, symlinks included. Nothing runs in it meanwhile, so a path
that was resolved stays what it was.
"""

from __future__ import annotations

import errno
import os
import stat

from inlay.errors import SolveError
from inlay.system import linux
from inlay.system.accounts import entries
from inlay.system.privileges import change_owner
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

_MAX_SYMLINKS = 255
_MAX_PASSWD_SIZE = 10 << 20


class Opened:
    """A descriptor for the body: `source` itself, or of the path that it is."""

    __slots__ = ("_fd", "_source")

    def __init__(self, source: int | str) -> None:
        self._source = source
        self._fd = -1

    def __enter__(self) -> int:
        if isinstance(self._source, int):
            return self._source
        self._fd = os.open(self._source, os.O_PATH | os.O_CLOEXEC)
        return self._fd

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def resolve(root_fd: int, path: str) -> str:
    """`path` without symlinks and `..`, relative to the root; what does not exist is taken literally.

    Raises `SolveError` for a symlink loop. "." is the root itself.
    """
    done: list[str] = []
    rest = path.split("/")[::-1]
    links = 0
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        try:
            destination = os.readlink("/".join([*done, part]), dir_fd=root_fd)
        except OSError:
            done.append(part)
            continue
        links += 1
        if links > _MAX_SYMLINKS:
            raise SolveError(f"{path}: too many levels of symbolic links in the image")
        if destination.startswith("/"):
            done.clear()
        rest.extend(destination.split("/")[::-1])
    return "/".join(done) or "."


def is_folder(root_fd: int, path: str, *, missing_ok: bool = True) -> bool | None:
    """Whether `path` is a folder; None where there is nothing, if that is `missing_ok`."""
    try:
        fd = linux.open_in_root(root_fd, path, os.O_PATH)
    except OSError as error:
        if missing_ok or error.errno not in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    try:
        return stat.S_ISDIR(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def make_folder(root_fd: int, path: str, uid: int, gid: int) -> None:
    """Make `path` and its parents where they are missing; what is made belongs to `uid` and `gid`."""
    resolved = resolve(root_fd, path)
    made = ""
    for part in resolved.split("/"):
        made = f"{made}/{part}" if made else part
        try:
            os.mkdir(made, 0o755, dir_fd=root_fd)
        except FileExistsError:
            continue
        os.chmod(made, 0o755, dir_fd=root_fd)
        change_owner(made, uid, gid, name=made, dir_fd=root_fd)


def make_mount_folders(root_fd: int) -> None:
    """Make what `/proc`, `/sys` and `/dev` are mounted on, where it is missing. It stays in the layer, as with
    BuildKit; runtimes would make it too, each with a mode of its own."""
    for name in ("dev", "proc", "sys"):
        _make_plain_folder(root_fd, name)


def _make_plain_folder(root_fd: int, path: str) -> None:
    try:
        os.mkdir(path, 0o755, dir_fd=root_fd)
        os.chmod(path, 0o755, dir_fd=root_fd)
    except OSError:
        return  # it is there


def home_of(root_fd: int, uid: int) -> str:
    """The home folder that the image's /etc/passwd gives `uid`; `/` where it does not say."""
    try:
        fd = linux.open_in_root(root_fd, "etc/passwd", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return "/"
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        for fields in entries(os.fsdecode(file.read(_MAX_PASSWD_SIZE))):
            if len(fields) > 5 and fields[2] == str(uid):
                return fields[5] or "/"
    return "/"


class MountPoints:
    """Takes out again, after the body, the empty files and folders that mounting on `targets` leaves.

    Folders on the way that were missing go too, where nothing else is in them by then, and the times of the
    folders that stay are kept, as BuildKit does for Dockerfiles (executor/stubs.go, recursive).
    """

    __slots__ = ("_missing", "_root_fd", "_targets")

    def __init__(self, root_fd: int, targets: Iterable[str]) -> None:
        self._root_fd = root_fd
        self._targets = targets
        self._missing: list[str] = []

    def __enter__(self) -> None:
        for target in self._targets:
            parts = list(_missing_parts(self._root_fd, resolve(self._root_fd, target)))
            self._missing += parts
            for path in reversed(parts[1:]):  # else the runtime makes them, each with a mode of its own
                _make_plain_folder(self._root_fd, path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        within_others_first = sorted(self._missing, key=lambda path: path.count("/"), reverse=True)
        for path in within_others_first:
            try:
                _remove_stub(self._root_fd, resolve(self._root_fd, path))
            except OSError:
                continue  # something is in it


def _missing_parts(root_fd: int, path: str) -> Iterator[str]:
    """`path` and the folders above it that do not exist, the deepest first."""
    while path not in ("", ".") and not _exists(root_fd, path):
        yield path
        path = os.path.dirname(path)


def _exists(root_fd: int, path: str) -> bool:
    try:
        os.lstat(path, dir_fd=root_fd)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _remove_stub(root_fd: int, path: str) -> None:
    found = os.lstat(path, dir_fd=root_fd)
    parent = os.path.dirname(path) or "."
    times = os.stat(parent, dir_fd=root_fd)
    if stat.S_ISDIR(found.st_mode):
        os.rmdir(path, dir_fd=root_fd)
    elif found.st_size == 0:
        os.unlink(path, dir_fd=root_fd)
    else:
        return
    os.utime(parent, ns=(times.st_atime_ns, times.st_mtime_ns), dir_fd=root_fd)
