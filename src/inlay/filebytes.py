"""The bytes of files: written whole, and copied from one to another, as few of them as the file system allows."""

from __future__ import annotations

import errno
import os

_FICLONE = 0x40049409
_NOT_HERE = frozenset(
    (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EBADF)
)
_MOST = 1 << 30


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, of which the system may take a part at a time. Raises `OSError`."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


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
        try:
            n = os.copy_file_range(source, target, min(end - at, _MOST), at, at)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            n = os.pwrite(target, os.pread(source, min(end - at, 1 << 20), at), at)
        if n == 0:
            return  # it shrank
        at += n
