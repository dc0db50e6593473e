"""`own_binfmt.py INTERPRETER COMMAND…`: run a command where arm64 programs are registered for an interpreter.

In a user namespace of its own, with a binfmt_misc of its own (Linux 6.7 or newer), so that the machine's stays as
it is. Exits with 77 where that cannot be.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
BINFMT_MISC = "/proc/sys/fs/binfmt_misc"
MAGIC = "7f454c460201010000000000000000000200b700"
MASK = "ffffffffffffff00fffffffffffffffffeffffff"
CANNOT = 77


def register(interpreter: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"binfmt_misc", BINFMT_MISC.encode(), b"binfmt_misc", 0, None):
        raise OSError(ctypes.get_errno(), "mount")
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in bytes.fromhex(text)) for text in (MAGIC, MASK))
    with open(f"{BINFMT_MISC}/register", "w", encoding="ascii") as file:
        file.write(f":own-aarch64:M::{magic}:{mask}:{interpreter}:OF")


def main(interpreter: str, command: list[str]) -> int:
    alone, mapped = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNS):
                os._exit(CANNOT)
            os.write(alone[1], b"x")
            os.read(mapped[0], 1)
            register(interpreter)
        except OSError:
            os._exit(CANNOT)
        os.execvp(command[0], command)
    os.close(alone[1])
    if os.read(alone[0], 1):
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w", encoding="ascii") as file:
                file.write("0 0 4294967295")
        os.write(mapped[1], b"x")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
