"""The bytes of files: written whole, and copied from one to another, as few of them as the file system allows."""

from __future__ import annotations

import errno
import os

from inlay.tasks import check_cancelled

_FICLONE = 0x40049409
_NOT_HERE = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EBADF)
)
_RANDOM = 6
"""Bytes in the name of a file that is still being written."""
AT_ONCE = 1 << 26
"""So many bytes the kernel is asked to copy in one call, which nothing ends before that."""


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, of which the system may take a part at a time. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def replace_file(path: str, data: bytes, *, mode: int = 0o666) -> None:
    """Make `path` a file that holds `data`: from one moment to the next, whatever was there. Raises `OSError`."""
    folder, _, name = path.rpartition("/")
    partial = f"{folder}/.{name}.{os.urandom(_RANDOM).hex()}"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def sweep_partial_files(folder: str) -> None:
    """Delete what killed processes left of files that were to be replaced. Nobody may replace one meanwhile."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        stem, _, random = name.rpartition(".")
        if stem.startswith(".") and len(random) == 2 * _RANDOM and not random.strip("0123456789abcdef"):
            os.unlink(f"{folder}/{name}")


def copy_data(source: int, target: int) -> None:
    """Copy all of the file `source` into the empty file `target`; holes stay holes.

    It becomes a reflink where that is possible, else the kernel copies, else this process.
    """
    size = os.fstat(source).st_size
    if size >= 4096 and _clone(source, target):
        return
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # nothing but a hole is left
        end = os.lseek(source, start, os.SEEK_HOLE)
        _copy_range(source, target, start, end)
    os.ftruncate(target, size)


def _clone(source: int, target: int) -> bool:
    from fcntl import ioctl

    try:
        ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        return False
    return True


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    at = start
    while at < end:
        check_cancelled()
        try:
            n = os.copy_file_range(source, target, min(end - at, AT_ONCE), at, at)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            n = os.pwrite(target, os.pread(source, min(end - at, 1 << 20), at), at)
        if n == 0:
            return  # it shrank
        at += n
