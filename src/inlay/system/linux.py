"""The system calls of Linux that Python 3.11 does not offer: mounts, namespaces, capabilities.

Every function raises `OSError` with errno and, where there is one, the path. Mounts are made
*detached* (fsopen, open_tree): file descriptors that no mount table shows until `move_mount` attaches
them, and that the kernel drops with the last descriptor. Needs Linux 5.12.

Importing it takes ctypes, for which a build in which all is cached has no time.
"""

from __future__ import annotations

import ctypes
import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_CLONE_PIDFD = 0x1000
_CLONE_INTO_CGROUP = 0x200000000

MS_RDONLY = 0x1
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_CAP_AMBIENT = 47

AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 0x1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10

# From 424 on, system calls have the same number on every architecture.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_CLONE3 = 435
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall_holding_gil = ctypes.PyDLL(None, use_errno=True).syscall
_syscall_holding_gil.restype = ctypes.c_long
for _hook in ("PyOS_BeforeFork", "PyOS_AfterFork_Parent", "PyOS_AfterFork_Child"):
    getattr(ctypes.pythonapi, _hook).restype = None

Path = str | bytes


def _call(function: Callable[..., int], *arguments: object, path: Path | None = None) -> int:
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def system_call(number: int, *arguments: int | bytes | None, path: Path | None = None) -> int:
    """Make a system call by its number; integers are passed as C longs."""
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _call(_syscall, ctypes.c_long(number), *passed, path=path)


def kernel_version(release: str = "") -> tuple[int, int]:
    """Major and minor version of the kernel that runs, or of its `release`, whatever follows them there (`6.1+`)."""
    numbers = [0, 0]
    for position, part in enumerate((release or os.uname().release).split(".")[:2]):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers[position] = int(digits or "0")
    return numbers[0], numbers[1]


def mount(source: str, target: Path, fstype: str, flags: int = 0, options: bytes = b"") -> None:
    """mount(2)."""
    where = os.fsencode(target)
    _call(_libc.mount, source.encode(), where, fstype.encode(), ctypes.c_ulong(flags), options, path=target)


def make_mounts_private() -> None:
    """Keep this mount namespace's mounts from others, and others' from it. Raises `RuntimeError` in a plain chroot."""
    try:
        mount("", "/", "", MS_REC | MS_PRIVATE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise RuntimeError(
            "this is a chroot whose folder is no mount point; bind-mount the folder on itself, then chroot into it"
        ) from error


def unmount(target: Path) -> None:
    """Take the topmost mount at `target` out of the tree, though it be busy."""
    _call(_libc.umount2, os.fsencode(target), MNT_DETACH, path=target)


def open_tree(path: Path, dir_fd: int = AT_FDCWD, *, recursive: bool = True) -> int:
    """Copy the mount at `path`, when `recursive` with what is mounted below it, as a detached mount.

    An empty `path` means the file or directory that `dir_fd` is open on.
    """
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | (0 if path else _AT_EMPTY_PATH)
    flags |= _AT_RECURSIVE if recursive else 0
    return system_call(_SYS_OPEN_TREE, dir_fd, os.fsencode(path), flags, path=path)


def move_mount(mount_fd: int, target: Path) -> None:
    """Attach a detached mount at `target`; the descriptor goes on meaning that mount."""
    where = os.fsencode(target)
    system_call(_SYS_MOVE_MOUNT, mount_fd, b"", AT_FDCWD, where, _MOVE_MOUNT_F_EMPTY_PATH, path=target)


def new_mount(fstype: str, options: Iterable[tuple[str, str]] = (), attributes: int = 0) -> int:
    """Make a file system of type `fstype` as a detached mount; an option with an empty value is a flag.

    The error of one that is not made says which option it failed at, and what the kernel has to say about that.
    """
    context = system_call(_SYS_FSOPEN, fstype.encode(), 1, path=fstype)
    key = ""
    try:
        for key, value in options:
            command = _FSCONFIG_SET_STRING if value else _FSCONFIG_SET_FLAG
            passed = os.fsencode(value) if value else None
            system_call(_SYS_FSCONFIG, context, command, key.encode(), passed, 0, path=fstype)
        key = ""
        system_call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0, path=fstype)
        return system_call(_SYS_FSMOUNT, context, 1, attributes, path=fstype)
    except OSError as error:
        said = [key, str(error.strerror), *_kernel_messages(context)]
        raise OSError(error.errno, ": ".join(filter(None, said)), fstype) from None
    finally:
        os.close(context)


def _kernel_messages(context: int) -> list[str]:
    """What the kernel says went wrong with a file system: one message a read, which begins with `e` for an error."""
    messages = []
    try:
        while message := os.read(context, 4096):
            if message.startswith(b"e "):
                messages.append(message[2:].decode("utf-8", "replace").strip())
    except OSError:
        pass  # ENODATA: there are no more
    return messages


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def set_attributes(mount_fd: int, attributes: int, *, recursive: bool) -> None:
    """Set `MOUNT_ATTR_*` on a mount, and on those below it when `recursive`."""
    wanted = _MountAttr(attr_set=attributes)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    system_call(_SYS_MOUNT_SETATTR, mount_fd, b"", flags, ctypes.addressof(wanted), ctypes.sizeof(wanted))


_OpenHow = ctypes.c_uint64 * 3  # flags, mode, resolve


def open_in_root(root_fd: int, path: Path, flags: int) -> int:
    """Open `path` as if `root_fd` were `/`: neither `..` nor a symlink leads out of it. Close-on-exec.

    Raises OSError as `os.open` does; ENOSYS or EPERM where the kernel or a sandbox does not allow the call.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    where = os.fsencode(path) or b"."
    return _call(_syscall, _SYS_OPENAT2, root_fd, where, ctypes.byref(how), ctypes.sizeof(how), path=path)


def unshare(flags: int) -> None:
    """Move this process (its children, for a pid namespace) into new namespaces."""
    _call(_libc.unshare, ctypes.c_int(flags))


class _CloneArguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
            "set_tid", "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


def fork(flags: int, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork into the new namespaces of `flags` and the cgroup that `cgroup_fd` is open on.

    Returns the child's pid and a pidfd for it, and (0, -1) in the child. Starting in a cgroup costs nothing,
    moving there costs 10 ms. For a process with one thread, whose C library keeps no locks across this.
    """
    pidfd = ctypes.c_int(-1)
    wanted = _CloneArguments(
        flags=flags | _CLONE_PIDFD | (0 if cgroup_fd is None else _CLONE_INTO_CGROUP),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=17,
        cgroup=cgroup_fd or 0,
    )
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _syscall_holding_gil(
        ctypes.c_long(_SYS_CLONE3), ctypes.byref(wanted), ctypes.c_long(ctypes.sizeof(wanted))
    )
    number = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, os.strerror(number), "clone3")
    return pid, pidfd.value


def pivot_root(new_root: Path, put_old: Path) -> None:
    _call(_libc.pivot_root, os.fsencode(new_root), os.fsencode(put_old), path=new_root)


def set_hostname(name: str) -> None:
    _call(_libc.sethostname, name.encode(), ctypes.c_size_t(len(name.encode())))


def prctl(option: int, *arguments: int) -> int:
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _call(_libc.prctl, ctypes.c_int(option), *map(ctypes.c_ulong, padded))


def new_session_keyring() -> None:
    """Leave the keys of whoever started this process behind; where the kernel has no keys, do nothing."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is not None:
        _syscall(ctypes.c_long(number), ctypes.c_long(_KEYCTL_JOIN_SESSION_KEYRING), None)


_CAPABILITY_VERSION_3 = 0x20080522


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


def set_capabilities(*, permitted: int, effective: int, inheritable: int) -> None:
    """Set this process's capabilities, each a mask of `1 << number`."""
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    sets = (effective, permitted, inheritable)
    words = [mask & 0xFFFFFFFF for mask in sets] + [mask >> 32 for mask in sets]
    _call(_libc.capset, ctypes.byref(header), (ctypes.c_uint32 * 6)(*words))


def drop_bounding_set(keep: int) -> None:
    """Take every capability that is not in the mask `keep` out of the bounding set."""
    for number in range(64):
        if keep >> number & 1:
            continue
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) < 0:
            return  # EINVAL: the kernel knows no more of them


def raise_ambient_set(mask: int) -> None:
    """Make the capabilities in `mask` survive the exec of a program that has none of its own."""
    for number in range(64):
        if mask >> number & 1:
            prctl(PR_CAP_AMBIENT, 2, number)


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install_seccomp_filter(program: bytes) -> None:
    """Put a BPF program (8 bytes an instruction) before every system call from now on."""
    wanted = _FilterProgram(len(program) // 8, program)
    address = ctypes.cast(ctypes.byref(wanted), ctypes.c_void_p).value
    prctl(PR_SET_SECCOMP, 2, address or 0)


class _InterfaceFlags(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char * 16), ("flags", ctypes.c_short), ("rest", ctypes.c_char * 22)]


def raise_loopback() -> None:
    """Bring up `lo` in this network namespace."""
    sock = _call(_libc.socket, 2, 2 | os.O_CLOEXEC, 0)
    try:
        _call(_libc.ioctl, sock, ctypes.c_ulong(0x8914), ctypes.byref(_InterfaceFlags(b"lo", 0x1 | 0x40)))
    finally:
        os.close(sock)
