"""Whether a runtime works here, found out by running a program with it, and remembered while nothing changes."""

from __future__ import annotations

import os

from inlay import json
from inlay.cancellation import Cancellation
from inlay.errors import SolveError
from inlay.executor.binfmt import MACHINES, program
from inlay.executor.executor import ProcessSpec
from inlay.platform import host
from inlay.system import linux
from inlay.system.filebytes import replace_file
from inlay.system.privileges import mapping_name
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inlay.executor.executor import Executor


def try_executor(executor: Executor) -> str | None:
    """Run a program that ends at once, in a root file system with nothing else: None, or what went wrong."""
    architecture = host().architecture
    if architecture not in MACHINES:
        return None  # there is no such program; the first step will tell
    said: list[bytes] = []
    try:
        rootfs = linux.new_mount("tmpfs", (("mode", "755"),), linux.MOUNT_ATTR_NOSUID)
        try:
            _write_program(rootfs, program(architecture))
            spec = ProcessSpec(("/probe",), rootfs)
            code = executor.run(spec, lambda _, data: said.append(data), Cancellation())
        finally:
            os.close(rootfs)
    except SolveError as error:
        return error.message
    except OSError as error:
        return str(error)
    if code:
        return b"".join(said).decode(errors="replace").strip() or f"it ended with exit code {code}"
    return None


def _write_program(folder_fd: int, content: bytes) -> None:
    fd = os.open("probe", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o700, dir_fd=folder_fd)
    try:
        os.write(fd, content)
        os.fchmod(fd, 0o755)
    finally:
        os.close(fd)


def works(executor: Executor, program_path: str, folder: str) -> bool:
    """Whether `executor` works, by what is noted in `folder` of the program at `program_path`, or by trying."""
    note = f"{folder}/works"
    now = _circumstances(program_path)
    noted = _read(note)
    if noted.get(executor.name) == now:
        return True
    if try_executor(executor) is not None:
        return False
    _write(note, {**noted, executor.name: now})
    return True


def _write(note: str, noted: dict[str, str]) -> None:
    try:
        replace_file(note, json.dumps(noted).encode())
    except OSError:
        return  # it is tried again next time


def _read(note: str) -> dict[str, str]:
    try:
        with open(note, encoding="utf-8") as file:
            noted = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _circumstances(path: str) -> str:
    """What a runtime's working depends on, as far as it can be told at once."""
    found = os.stat(path)
    kernel = os.uname()
    with open("/proc/self/status", "rb") as status:
        allowed = [line.split()[1].decode() for line in status if line.startswith((b"CapEff:", b"Seccomp:"))]
    return " ".join(
        [
            path,
            str(found.st_mtime_ns),
            str(found.st_size),
            kernel.release,
            kernel.version,
            mapping_name(),
            *allowed,
        ]
    )
