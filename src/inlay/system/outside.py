"""The process outside a build's user namespace, which runs what has to run as the caller.

Credential helpers ask keyrings and agents, which tell whom they talk to by the user id; one in the namespace says
that it is root, and is refused. The process is the one that maps the namespace's ids: it stays, and ends with the
build, whose end of a pipe it waits at.
"""

from __future__ import annotations

import errno
import marshal
import os
from _thread import allocate_lock

from inlay.system.filebytes import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_pipes: tuple[int, int] | None = None
_lock = allocate_lock()


def use(requests: int, answers: int) -> None:
    """Have a process run what `run` is asked for, which reads from the pipe `requests` and writes to `answers`."""
    global _pipes
    _pipes = requests, answers


def run(command: list[str], stdin: bytes, *, timeout_s: float) -> tuple[int, bytes]:
    """Run a command as the caller; return its exit code and what it printed.

    Raises `OSError`, of which a command that is missing (`FileNotFoundError`) or takes too long (`TimeoutError`).
    """
    with _lock:
        if _pipes is None:
            failure, code, output = _outcome(command, stdin, timeout_s)
        else:
            _send(_pipes[0], (command, stdin, timeout_s))
            failure, code, output = _receive(_pipes[1]) or (errno.ESRCH, 0, b"")
    if failure:
        raise OSError(failure, os.strerror(failure))
    return code, output


def serve(requests: int, answers: int) -> None:
    """Be that process, until there are no more requests."""
    while (request := _receive(requests)) is not None:
        _send(answers, _outcome(*request))


def _outcome(command: list[str], stdin: bytes, timeout_s: float) -> tuple[int, int, bytes]:
    """The errno of what failed, or 0; the exit code; what was printed."""
    import subprocess

    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return errno.ETIMEDOUT, 0, b""
    except OSError as error:
        return error.errno or errno.EIO, 0, b""
    return 0, done.returncode, done.stdout


def _send(fd: int, message: tuple[object, ...]) -> None:
    data = marshal.dumps(message)  # type: ignore[arg-type]
    write_all(fd, len(data).to_bytes(4, "big") + data)


def _receive(fd: int) -> tuple[Any, ...] | None:
    """The next message; None at the end."""
    data, size = b"", 4
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            return None
        data += part
        if size == 4 and len(data) == 4:
            size += int.from_bytes(data, "big")
    message: tuple[Any, ...] = marshal.loads(data[4:])
    return message
