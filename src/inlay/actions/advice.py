"""What to do about a step that failed, from its exit code and its last output."""

from __future__ import annotations

import contextlib
import os
import signal

LITTLE_ROOM = 16 << 20
"""Bytes: below, a full disk is the store's; else the step filled a file system of its own."""


def ending(code: int, output: bytes, *, root: str, pids_limit: int) -> str:
    """How a step ended that should not have: `exit code: N`, then what was short, where that is known.

    `output` is the last of what it wrote, `root` a folder on the disk that it wrote to.
    """
    said = f"exit code: {code}"
    if code > 128:
        with contextlib.suppress(ValueError):
            said += f" (killed by {signal.Signals(code - 128).name})"
    advice = _advice(code, output, root, pids_limit)
    return f"{said}; {advice}" if advice else said


def _advice(code: int, output: bytes, root: str, pids_limit: int) -> str:
    if b"No space left on device" in output:
        found = os.statvfs(root)
        if found.f_bavail * found.f_frsize < LITTLE_ROOM or (found.f_files and not found.f_favail):
            return "no room is left on the disk of the store; free some, or choose another folder with --root"
        return "a file system in memory is full: see --shm-size, and size= of --mount=type=tmpfs"
    if b"Resource temporarily unavailable" in output and (b"fork" in output or b"thread" in output):
        return f"a step may have {pids_limit} processes and threads at a time, or what --ulimit nproc says"
    if code == 128 + signal.SIGKILL:
        return "if nothing else killed it, the machine has run out of memory"
    return ""
