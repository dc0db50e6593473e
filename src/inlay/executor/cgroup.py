"""A control group around all steps of a build, whose device filter keeps them from the machine's disks.

A build may ask for the cgroup that this one is made below (`--cgroup-parent`), so that limits set there hold for
its steps; then it has to be there.

A step may run as the machine's root with CAP_MKNOD, docker's default: without the filter it could make a
node for any disk and read it. The filter is docker's: any node can be made, only harmless ones opened. It
needs a writable cgroup v2 hierarchy, no controller, and no more than root; in a user namespace the
kernel refuses device nodes by itself.
"""

from __future__ import annotations

import ctypes
import os
import struct

from inlay.system import linux

TRUSTED = "-trusted"
"""Ends the name of the group beside one with the filter, for steps that may open any device."""

_PREFIX = "inlay-"
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD, _BPF_PROG_ATTACH = 5, 8
_BPF_PROG_TYPE_CGROUP_DEVICE, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI = 15, 6, 2

_ACCESS_MKNOD, _TYPE_CHARACTER = 1, 2
_ANY = -1
# (major, minor) of the character devices that a step may open: BuildKit's and docker's list.
_ALLOWED = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, _ANY))

_LOAD_WORD, _RETURN, _MOVE = 0x61, 0x95, 0xB7
_SHIFT_RIGHT, _AND = 0x77, 0x57
_JUMP_EQUAL, _JUMP_UNEQUAL = 0x15, 0x55


def _instruction(
    code: int, destination: int = 0, source: int = 0, offset: int = 0, constant: int = 0
) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | destination, offset, constant)


def device_filter() -> bytes:
    """The eBPF program, for a context of three words: access << 16 | type, major, minor."""
    allow = _instruction(_MOVE, 0, constant=1) + _instruction(_RETURN)
    program = b"".join(_instruction(_LOAD_WORD, 2 + word, 1, offset=4 * word) for word in range(3))
    program += _instruction(0xBF, 5, 2) + _instruction(_SHIFT_RIGHT, 5, constant=16)
    program += _instruction(_JUMP_UNEQUAL, 5, offset=2, constant=_ACCESS_MKNOD) + allow
    program += _instruction(_AND, 2, constant=0xFFFF)
    program += _instruction(_JUMP_EQUAL, 2, offset=2, constant=_TYPE_CHARACTER)
    program += _instruction(_MOVE, 0) + _instruction(_RETURN)
    for major, minor in _ALLOWED:
        if minor == _ANY:
            program += _instruction(_JUMP_UNEQUAL, 3, offset=2, constant=major) + allow
        else:
            program += _instruction(_JUMP_UNEQUAL, 3, offset=3, constant=major)
            program += _instruction(_JUMP_UNEQUAL, 4, offset=2, constant=minor) + allow
    return program + _instruction(_MOVE, 0) + _instruction(_RETURN)


def own_group() -> str:
    """The folder of this process's cgroup in the v2 hierarchy. Raises `OSError` where there is none."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    if path is None:
        raise FileNotFoundError(2, "no cgroup v2 hierarchy", "/proc/self/cgroup")
    return _hierarchy() + path.rstrip("/")


def _hierarchy() -> str:
    for folder in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if os.path.exists(f"{folder}/cgroup.procs"):
            return folder
    raise FileNotFoundError(2, "no cgroup v2 hierarchy", "/sys/fs/cgroup")


def make_parent(path: str) -> str:
    """The folder of the cgroup `path`, counted from the root of the v2 hierarchy, made where it is missing.

    Raises `UsageError` where there can be no groups below it.
    """
    from inlay.errors import UsageError

    if path.endswith(":") or ".." in path.split("/"):
        raise UsageError(f"--cgroup-parent {path}: expected a path in the cgroup tree, such as /builds/slow")
    try:
        folder = f"{_hierarchy()}/{path.strip('/')}"
        os.makedirs(folder, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, os.strerror(13))
    except OSError as error:
        raise UsageError(
            f"--cgroup-parent {path}: steps cannot run below it: {error.strerror}; "
            "it needs root, or a cgroup that was delegated to you"
        ) from error
    return folder


def make_group(group: str) -> int:
    """Make the cgroup `group`; return a descriptor to fork processes into it by. Raises `OSError`."""
    _sweep(os.path.dirname(group))
    os.mkdir(group)
    return os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def remove_group(group: str) -> None:
    """Remove a cgroup, with those that runtimes made in it; one that has processes stays."""
    try:
        for item in os.scandir(group):
            if item.is_dir():
                os.rmdir(item.path)
        os.rmdir(group)
    except OSError:
        return  # it has processes; or it is "", which says that there is none


def new_group_name(parent: str = "") -> str:
    """A path for `make_group`, which says whose it is, below `parent` or this process's own cgroup.

    It is empty where there is no cgroup v2 hierarchy.
    """
    try:
        parent = parent or own_group()
    except OSError:
        return ""
    return f"{parent}/{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"


def _sweep(parent: str) -> None:
    """Remove what builds that were killed left behind."""
    for name in os.listdir(parent):
        owner = name.removeprefix(_PREFIX).split("-")[0]
        if name.startswith(_PREFIX) and owner.isdecimal() and not os.path.exists(f"/proc/{owner}"):
            remove_group(f"{parent}/{name}")


def attach_filter(group_fd: int) -> None:
    """Keep what runs in a cgroup from opening devices. Raises `OSError`."""
    program = device_filter()
    instructions = ctypes.create_string_buffer(program, len(program))
    name = ctypes.create_string_buffer(b"Apache-2.0")
    load = struct.pack(
        "=IIQQIIQII", _BPF_PROG_TYPE_CGROUP_DEVICE, len(program) // 8, ctypes.addressof(instructions),
        ctypes.addressof(name), 0, 0, 0, 0, 0,
    )  # fmt: skip
    program_fd = _bpf(_BPF_PROG_LOAD, load)
    try:
        _bpf(
            _BPF_PROG_ATTACH,
            struct.pack("=IIII", group_fd, program_fd, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI),
        )
    finally:
        os.close(program_fd)


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYS_BPF.get(os.uname().machine)
    if number is None:
        raise OSError(38, os.strerror(38), "bpf")
    return linux.system_call(number, command, attributes, len(attributes), path="bpf")
