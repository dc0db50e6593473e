"""Why a step's program cannot be executed, and whether that is so by the files alone.

For who is told so by somebody who may be mistaken: a runtime writes it to the very stderr that programs write to.
"""

from __future__ import annotations

import errno
import os
import stat

from inlay.errors import ProcessFailed, SolveError
from inlay.executor import rootfs
from inlay.executor.executor import Tmpfs
from inlay.system import linux
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Literal

    from inlay.executor.executor import Mount, ProcessSpec

_HEAD_SIZE = 256  # as much of a file as the kernel looks at to tell what it is
_MAX_INTERPRETERS = 5
_MAX_PATH = 4096
_LOADABLE = (2, 3)  # ET_EXEC, ET_DYN
_PT_INTERP = 3
_MAX_SEGMENTS = 1024


def program_missing(spec: ProcessSpec, number: int) -> ProcessFailed:
    """The error for a program that could not be executed, from errno `number`."""
    program = spec.args[0]
    if number == errno.ENOENT:
        if "/" not in program:
            return ProcessFailed(f'"{program}": executable file not found in $PATH', exit_code=127)
        if _is_there(spec, program):
            return ProcessFailed(f'"{program}": its interpreter or loader is not in the image', exit_code=127)
        return ProcessFailed(f'"{program}": executable file not found', exit_code=127)
    hint = "; is it built for another architecture?" if number == errno.ENOEXEC else ""
    return ProcessFailed(f'"{program}" cannot be executed: {os.strerror(number)}{hint}', exit_code=126)


def exec_errno(spec: ProcessSpec) -> int:
    """The errno with which a runtime fails to execute the step's program, by the files; 0 where they show no reason.

    They are the files that are there now: call it when the step has ended, or before it starts.
    """
    program, failure = spec.args[0], errno.ENOENT
    path = next((entry[5:] for entry in reversed(spec.env) if entry.startswith("PATH=")), "")
    for folder in [""] if "/" in program else path.split(":"):
        candidate = os.path.join(folder, program)
        if _is_there(spec, candidate):
            number = _errno_at(spec, candidate)
            if number != errno.EACCES:
                return number
            failure = number
    return failure


def _is_there(spec: ProcessSpec, path: str) -> bool:
    try:
        os.close(_open(spec, path, os.O_PATH))
    except (OSError, SolveError):
        return False
    return True


def _errno_at(spec: ProcessSpec, path: str) -> int:
    try:
        for _ in range(_MAX_INTERPRETERS):
            head = _read_program(spec, path)
            if not head.startswith(b"#!"):
                return _binary_errno(spec, path, head)
            words = head[2:].partition(b"\n")[0].split(maxsplit=1)
            if not words:
                return errno.ENOEXEC
            path = os.fsdecode(words[0])
    except OSError as error:
        return error.errno or 0
    except SolveError:
        return errno.ELOOP
    return 0


def _binary_errno(spec: ProcessSpec, path: str, head: bytes) -> int:
    from inlay.executor import binfmt
    from inlay.platform import host

    architecture = binfmt.architecture_of(head)
    if architecture != host().architecture:
        return 0 if binfmt.runs_here(architecture) else errno.ENOEXEC
    machine = binfmt.MACHINES[architecture]
    try:
        loader = _loader(spec, path, wide=machine.bits == 64, order=machine.order)
    except ValueError:
        return errno.ENOEXEC
    if loader:
        _read_program(spec, loader)
    return 0


def _loader(spec: ProcessSpec, path: str, *, wide: bool, order: Literal["little", "big"]) -> str:
    """The path of the loader that the ELF file at `path` names; empty of one that needs none.

    Raises ValueError for a file that cannot be loaded.
    """
    with open(_open(spec, path, os.O_RDONLY), "rb") as file:
        head = file.read(64)

        def number(data: bytes, offset: int, size: int) -> int:
            return int.from_bytes(data[offset : offset + size], order)

        start, sizes, size = (number(head, 32, 8), 54, 56) if wide else (number(head, 28, 4), 42, 32)
        count = number(head, sizes + 2, 2)
        if number(head, 16, 2) not in _LOADABLE or number(head, sizes, 2) != size or not count:
            raise ValueError("no program headers")
        file.seek(start)
        table = file.read(size * min(count, _MAX_SEGMENTS))
        for entry in (table[at : at + size] for at in range(0, len(table), size)):
            if number(entry, 0, 4) == _PT_INTERP:
                where, length = (
                    (number(entry, 8, 8), number(entry, 32, 8))
                    if wide
                    else (number(entry, 4, 4), number(entry, 16, 4))
                )
                file.seek(where)
                return os.fsdecode(file.read(min(length, _MAX_PATH)).partition(b"\0")[0])
    return ""


def _read_program(spec: ProcessSpec, path: str) -> bytes:
    """The beginning of a file that the step may execute; raises what executing it would, as OSError."""
    fd = _open(spec, path, os.O_PATH)  # an image may have device nodes
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not _may_execute(spec, found):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        with open(f"/proc/self/fd/{fd}", "rb", buffering=0) as file:
            return file.read(_HEAD_SIZE)
    finally:
        os.close(fd)


def _may_execute(spec: ProcessSpec, found: os.stat_result) -> bool:
    if spec.uid == 0:
        return bool(found.st_mode & 0o111)
    if found.st_uid == spec.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid in (spec.gid, *spec.additional_gids):
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _open(spec: ProcessSpec, path: str, flags: int) -> int:
    """Open a file as the step's program sees it: in the root file system, or what is mounted over it there.

    Symlinks are followed in either, not from a mount out of it.
    """
    with rootfs.Opened(spec.rootfs) as root_fd:
        resolved = "/" + rootfs.resolve(root_fd, os.path.join(spec.cwd, path))
        mount, rest = _mount_over(spec, root_fd, resolved)
        if mount is None:
            return linux.open_in_root(root_fd, resolved, flags)
    if isinstance(mount, Tmpfs):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    inside = f"{mount.selector}/{rest}".strip("/")
    with rootfs.Opened(mount.source) as source:
        if not inside:  # it may be a file
            return os.open(f"/proc/self/fd/{source}", flags | os.O_CLOEXEC)
        return linux.open_in_root(source, inside, flags)


def _mount_over(spec: ProcessSpec, root_fd: int, path: str) -> tuple[Mount | None, str]:
    """The mount that shows `path`, which is resolved, and the path in it; None where the root does."""
    for mount in reversed(spec.mounts):
        target = "/" + rootfs.resolve(root_fd, mount.target)
        if path == target or path.startswith(f"{target}/"):
            return mount, path[len(target) + 1 :]
    return None, ""
