"""Whether programs of another processor run here: by the kernel itself, or by an interpreter such as qemu that
is registered in binfmt_misc.

The kernel hands a file whose first bytes fit a registration to its interpreter. One registered with the flag
`F` is opened at once, and so is found from inside every step; without it, it is looked for in the step's own
root. Where binfmt_misc cannot be seen, as in most containers, running a program of a few bytes tells.
"""

from __future__ import annotations

import os
from functools import cache

from inlay.platform import Platform, host, normalise
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal

BINFMT_MISC = "/proc/sys/fs/binfmt_misc"
_MAX_ENTRIES = 500
_OTHERWISE = "do this step in a stage FROM --platform=$BUILDPLATFORM"


class Machine(NamedTuple):
    """A processor as ELF headers name it, what qemu calls it, and its instructions for `exit(0)`."""

    machine: int
    bits: int
    order: Literal["little", "big"]
    qemu: str
    exit_code: str


# fmt: off
MACHINES = {
    "386": Machine(3, 32, "little", "i386", "b801000000 31db cd80"),
    "amd64": Machine(62, 64, "little", "x86_64", "b83c000000 31ff 0f05"),
    "arm": Machine(40, 32, "little", "arm", "0170a0e3 0000a0e3 000000ef"),
    "arm64": Machine(183, 64, "little", "aarch64", "a80b80d2 000080d2 010000d4"),
    "loong64": Machine(258, 64, "little", "loongarch64", "0b74c102 04008002 00002b00"),
    "mips": Machine(8, 32, "big", "mips", "24020fa1 24040000 0000000c"),
    "mipsle": Machine(8, 32, "little", "mipsel", "a10f0224 00000424 0c000000"),
    "mips64": Machine(8, 64, "big", "mips64", "240213c2 24040000 0000000c"),
    "mips64le": Machine(8, 64, "little", "mips64el", "c2130224 00000424 0c000000"),
    "ppc64": Machine(21, 64, "big", "ppc64", "38000001 38600000 44000002"),
    "ppc64le": Machine(21, 64, "little", "ppc64le", "01000038 00006038 02000044"),
    "riscv64": Machine(243, 64, "little", "riscv64", "9308d005 13050000 73000000"),
    "s390x": Machine(22, 64, "big", "s390x", "a7290000 0a01"),
}
# fmt: on


class Registration(NamedTuple):
    """One file of binfmt_misc. `magic` and `mask` are compared at `offset`."""

    interpreter: str
    flags: str
    magic: bytes
    mask: bytes
    offset: int = 0

    @classmethod
    def parse(cls, text: str) -> Registration | None:
        """Read what the kernel shows of a registration; None of one that is disabled, or goes by file names."""
        lines = text.splitlines()
        fields = dict(line.partition(" ")[::2] for line in lines[1:])
        if lines[:1] != ["enabled"] or "magic" not in fields:
            return None
        try:
            magic = bytes.fromhex(fields["magic"])
            mask = bytes.fromhex(fields.get("mask", "")) or b"\xff" * len(magic)
            offset = int(fields.get("offset", "0"))
        except ValueError:
            return None
        flags = next((line.removeprefix("flags:").strip() for line in lines if line.startswith("flags:")), "")
        return cls(fields.get("interpreter", ""), flags, magic, mask, offset)

    def fits(self, program: bytes) -> bool:
        part = program[self.offset : self.offset + len(self.magic)]
        return len(part) == len(self.magic) and all(
            (a ^ b) & mask == 0 for a, b, mask in zip(part, self.magic, self.mask, strict=True)
        )


def program(architecture: str) -> bytes:
    """A whole ELF program for `architecture` that ends at once with success."""
    machine = MACHINES[architecture]
    wide, code = machine.bits == 64, bytes.fromhex(machine.exit_code)
    word = 8 if wide else 4
    header_size, segment_size = (64, 56) if wide else (52, 32)
    start, base = header_size + segment_size, 0x400000

    def numbers(size: int, *values: int) -> bytes:
        return b"".join(value.to_bytes(size, machine.order) for value in values)

    header = b"\x7fELF" + bytes([2 if wide else 1, 1 if machine.order == "little" else 2, 1]) + bytes(9)
    header += numbers(2, 2, machine.machine) + numbers(4, 1)
    header += numbers(word, base + start, header_size, 0) + numbers(4, _ABI_FLAGS.get(architecture, 0))
    header += numbers(2, header_size, segment_size, 1, 0, 0, 0)
    length = start + len(code)
    where = numbers(word, 0, base, base, length, length)
    loadable, readable_executable, alignment = numbers(4, 1), numbers(4, 5), numbers(word, 0x10000)
    if wide:
        return header + loadable + readable_executable + where + alignment + code
    return header + loadable + where + readable_executable + alignment + code


_ABI_FLAGS = {"arm": 0x5000000, "mips": 0x1000, "mipsle": 0x1000, "ppc64": 2, "ppc64le": 2}
"""The ABI that kernels want to find in the header."""


def registrations(folder: str = BINFMT_MISC) -> list[Registration]:
    """The registrations that are in force, as far as they can be seen."""
    try:
        names = os.listdir(folder)
        with open(f"{folder}/status", encoding="ascii") as file:
            if file.read().strip() != "enabled":
                return []
    except OSError:
        return []
    found = []
    for name in sorted(names)[:_MAX_ENTRIES]:
        if name in ("register", "status"):
            continue
        try:
            with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as file:
                found.append(Registration.parse(file.read(65536)))
        except OSError:
            continue
    return [each for each in found if each is not None]


def architecture_of(head: bytes) -> str:
    """The architecture of the ELF program that begins with `head`, 20 bytes or more; empty for what is none."""
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return ""
    bits, order = (64 if head[4] == 2 else 32), ("little" if head[5] == 1 else "big")
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    wanted = (machine, bits, order)
    return next((name for name, each in MACHINES.items() if each[:3] == wanted), "")


@cache
def runs_here(architecture: str) -> bool:
    """Try it: run a program of `architecture`. An interpreter may be found that steps do not see."""
    if architecture not in MACHINES:
        return False
    fd = os.memfd_create("probe", 0)  # inherited: an interpreter may open the file by this number
    try:
        os.write(fd, program(architecture))
        os.fchmod(fd, 0o700)
        path = f"/proc/self/fd/{fd}"
        pid = os.posix_spawn(path, [path], {})
    except OSError:
        return False
    finally:
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def why_not_runnable(
    platform: Platform,
    known: Sequence[Registration],
    is_in_root: Callable[[str], bool],
    *,
    here: Platform | None = None,
    runs: Callable[[str], bool] = runs_here,
) -> str:
    """Why steps for `platform` cannot run here, and what to do about it; empty where they can.

    `known` are binfmt_misc's registrations; `is_in_root` tells whether the step's root has a file of that path.
    """
    here, platform = here or host(), normalise(platform)
    if platform.os != "linux":
        return f"RUN steps for {platform} cannot be run on Linux; only what has none can be built"
    if platform.architecture == here.architecture:
        return ""
    machine = MACHINES.get(platform.architecture)
    reason = f"this machine ({here}) cannot run programs for {platform}"
    if machine is None:
        return f"{reason}, nor is an emulator known; {_OTHERWISE}"
    fitting = [each for each in known if each.fits(program(platform.architecture))]
    if any("F" in each.flags or is_in_root(each.interpreter) for each in fitting):
        return ""
    if fitting:
        return (
            f"{reason} inside steps: {fitting[0].interpreter} is registered in {BINFMT_MISC} without the flag F; "
            f"install the Debian packages qemu-user-static and binfmt-support, or {_OTHERWISE}"
        )
    if runs(platform.architecture):
        return ""
    if _is_installed(f"qemu-{machine.qemu}-static"):
        return (
            f"{reason}: qemu-{machine.qemu}-static (Debian package qemu-user-static) is installed, but not "
            f"registered in {BINFMT_MISC}; install binfmt-support and run `update-binfmts --enable "
            f"qemu-{machine.qemu}`, or {_OTHERWISE}"
        )
    return (
        f"{reason}: no interpreter for them is registered in {BINFMT_MISC}; install the Debian packages "
        f"qemu-user-static and binfmt-support, or {_OTHERWISE}"
    )


def _is_installed(name: str) -> bool:
    import shutil

    return shutil.which(name) is not None
