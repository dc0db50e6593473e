"""Files that exist in memory only, for steps to see: secrets, sockets, /etc/hosts.

They live in a detached tmpfs that no mount table shows. It is gone with its last descriptor, so after the
build, however that ended, nothing is left of it, and nothing of it was ever on a disk.
"""

from __future__ import annotations

import os

from inlay.system import linux
from inlay.system.filebytes import write_all
from inlay.system.privileges import change_owner
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class MemoryFile(NamedTuple):
    """A file by its name, without folders; the owner's ids are those that the step sees."""

    name: str
    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


def memory_files(files: Iterable[MemoryFile]) -> int:
    """A detached mount that holds `files`, to be used as `Bind(source=fd, selector=file.name)`.

    Programs in it cannot be executed. The caller closes the descriptor.
    """
    attributes = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
    mount_fd = linux.new_mount("tmpfs", (("mode", "711"),), attributes)
    try:
        for file in files:
            _write(mount_fd, file)
    except BaseException:
        os.close(mount_fd)
        raise
    return mount_fd


def _write(mount_fd: int, file: MemoryFile) -> None:
    fd = os.open(file.name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=mount_fd)
    try:
        write_all(fd, file.content)
        change_owner(fd, file.uid, file.gid, name=file.name)
        os.fchmod(fd, file.mode)
    finally:
        os.close(fd)
