"""Linux's mount calls that work on descriptors instead of places in the file system.

A detached mount is one that is mounted nowhere: it is reached through its descriptor alone, and gone when
that is closed, however the process ends. Errors are OSErrors, with the kernel's reason where it gives one.
"""

from __future__ import annotations

import ctypes
import os

_OPEN_TREE, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 430, 431, 432, 442
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_FS_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_MOUNT_ATTR_RDONLY = 0x01
_MS_PRIVATE, _MS_REC = 1 << 18, 1 << 14
_CLONE_NEWNS = 0x00020000

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _MountAttributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def new_mount(kind: bytes, options: list[tuple[str, str | None]]) -> int:
    """Make a detached mount of the file system `kind`; return its descriptor. An option may have no value."""
    context = _checked(_syscall(_FSOPEN, kind, _FS_CLOEXEC), "fsopen")
    try:
        for name, value in options:
            command = _SET_FLAG if value is None else _SET_STRING
            text = None if value is None else os.fsencode(value)
            if _syscall(_FSCONFIG, context, command, name.encode(), text, 0) < 0:
                _raise_with_reason(context, f"mounting {os.fsdecode(kind)} with {name}")
        if _syscall(_FSCONFIG, context, _CREATE, None, None, 0) < 0:
            _raise_with_reason(context, f"mounting {os.fsdecode(kind)}")
        return _checked(_syscall(_FSMOUNT, context, _FS_CLOEXEC, 0), "fsmount")
    finally:
        os.close(context)


def _raise_with_reason(context: int, what: str) -> None:
    """Raise the last call's error with what the kernel says about it: one message a read, `e` for errors."""
    number = ctypes.get_errno()
    reasons = []
    try:
        while message := os.read(context, 4096):
            if message.startswith(b"e "):
                reasons.append(message[2:].decode("utf-8", "replace").strip())
    except OSError:
        pass  # ENODATA: there are no more
    raise OSError(number, ": ".join([what, os.strerror(number), *reasons]))


def clone_tree(fd: int) -> int:
    """Make a detached bind mount of the folder or mount `fd`; return its descriptor."""
    flags = _AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _checked(_syscall(_OPEN_TREE, fd, b"", flags), "open_tree")


def make_read_only(mount_fd: int) -> None:
    """Make a detached mount read-only."""
    attributes = _MountAttributes(attr_set=_MOUNT_ATTR_RDONLY)
    size = ctypes.sizeof(attributes)
    result = _syscall(_MOUNT_SETATTR, mount_fd, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
    _checked(result, "mount_setattr")


def mount_in_private(kind: bytes, data: bytes, folder: str, scratch: str) -> int:
    """Make a detached mount by the old mount(2): for kernels whose fsconfig lacks an option.

    The calling thread leaves the mount namespace and working directory of its process for good, so it has to
    be one made for this. Relative paths in `data` (under a page long) start at `folder`; `scratch` is an
    empty folder to mount at for a moment, where no other process sees it.
    """
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    _checked(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "making mounts private")
    os.chdir(folder)
    _checked(_libc.mount(kind, os.fsencode(scratch), kind, 0, data), f"mounting {os.fsdecode(kind)}")
    fd = os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return clone_tree(fd)
    finally:
        os.close(fd)
