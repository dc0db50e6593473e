"""The build's end of the zygote: start it, hand it steps, follow one to its end."""

from __future__ import annotations

import _socket
import marshal
import os
import select
import sys
from _thread import allocate_lock

from inlay.errors import SolveError
from inlay.executor import cgroup
from inlay.executor.protocol import CONTROL_FD, MAX_DESCRIPTORS, STEP, TRUSTED_STEP
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.cancellation import Cancellation

_READ_SIZE = 1 << 16


class Outcome(NamedTuple):
    """How a step ended: its exit code, and what kept its program from running (errno), if anything did."""

    exit_code: int
    exec_errno: int = 0


class Launcher:
    """One zygote process, started when it is first needed and ended by `close` or this process's death.

    Safe to use from several threads. The zygote costs some 9 ms to start, which `start` does not wait for.
    """

    __slots__ = ("_control", "_group", "_group_parent", "_lock", "_pid")

    def __init__(self, group_parent: str = "") -> None:
        """`group_parent` is the folder of the cgroup to run the steps below; "" means this process's, or none."""
        self._group_parent = group_parent
        self._group = ""
        self._lock = allocate_lock()
        self._control: _socket.socket | None = None
        self._pid = 0

    def start(self) -> _socket.socket:
        """Start the zygote unless it runs; return the control socket."""
        with self._lock:
            if self._control is None:
                self._group = cgroup.new_group_name(self._group_parent)
                ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
                try:
                    self._pid = _spawn_zygote(
                        theirs.fileno(), self._group, asked_for=bool(self._group_parent)
                    )
                finally:
                    theirs.close()
                self._control = ours
            return self._control

    def run(
        self,
        kind: str,
        arguments: dict[str, object],
        fds: list[int],
        on_output: Callable[[int, bytes], None],
        cancel: Cancellation,
        *,
        trusted: bool,
    ) -> Outcome:
        """Run one step and follow it to its end; a `trusted` one may open any device.

        `arguments` refer to `fds` by position.
        Raises `SolveError` when the step could not be set up.
        """
        channel, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        with _Pipes() as pipes:
            try:
                self._send(
                    [_payload(kind, arguments), theirs.fileno(), *pipes.write_ends, *fds], trusted=trusted
                )
                theirs.close()
                pipes.close_write_ends()
                forget = cancel.listen(lambda: _shut_down(channel))
                try:
                    return _follow(channel, pipes, on_output)
                finally:
                    forget()
            finally:
                theirs.close()
                channel.close()

    def _send(self, fds: list[int], *, trusted: bool) -> None:
        if len(fds) > MAX_DESCRIPTORS:
            os.close(fds[0])
            raise SolveError(f"the step has {len(fds)} mounts; at most {MAX_DESCRIPTORS} are possible")
        try:
            numbers = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
            rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)]
            self.start().sendmsg([TRUSTED_STEP if trusted else STEP], rights)
        except (BrokenPipeError, ConnectionResetError):
            raise SolveError("the process that starts steps has ended; start the build again") from None
        finally:
            os.close(fds[0])

    def close(self) -> None:
        """End the zygote and every step with it; wait for that."""
        with self._lock:
            if self._control is not None:
                self._control.close()
                self._control = None
                os.waitpid(self._pid, 0)
                for group in (self._group, self._group + cgroup.TRUSTED):  # if somebody killed the zygote
                    cgroup.remove_group(group)


class _Pipes:
    """A step's stdout and stderr."""

    __slots__ = ("read_ends", "write_ends")

    def __init__(self) -> None:
        (out, out_w), (err, err_w) = os.pipe(), os.pipe()
        self.read_ends = {out: 1, err: 2}
        self.write_ends = [out_w, err_w]

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_write_ends()
        for fd in self.read_ends:
            os.close(fd)
        self.read_ends = {}

    def close_write_ends(self) -> None:
        for fd in self.write_ends:
            os.close(fd)
        self.write_ends = []


def _spawn_zygote(control_fd: int, group: str, *, asked_for: bool) -> int:
    package = os.path.dirname(os.path.abspath(__file__))
    source = os.path.dirname(os.path.dirname(package))
    code = (
        "import os, sys; sys.path.append(os.environ['INLAY_SOURCE']); "
        "from inlay.executor import zygote; zygote.main()"
    )
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    environment["INLAY_CGROUP"] = group
    environment["INLAY_CGROUP_ASKED_FOR"] = "yes" if asked_for else ""
    environment["INLAY_SOURCE"] = source  # not an argument: steps see those of their first process
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", code],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, control_fd, CONTROL_FD),
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ],
        setsid=True,
        setsigmask=(),
    )


def _payload(kind: str, arguments: dict[str, object]) -> int:
    fd = os.memfd_create("step")
    os.write(fd, marshal.dumps((kind, arguments)))
    return fd


def _shut_down(channel: _socket.socket) -> None:
    try:
        channel.send(b"kill")
    except OSError:
        return  # it has ended


def _follow(channel: _socket.socket, pipes: _Pipes, on_output: Callable[[int, bytes], None]) -> Outcome:
    """Hand on the step's output until it has ended; then what is left of it."""
    poll = select.poll()
    for fd in (channel.fileno(), *pipes.read_ends):
        poll.register(fd, select.POLLIN)
    failure: tuple[int, str] | None = None
    exec_errno = 0
    while True:
        for fd, _ in poll.poll():
            if fd != channel.fileno():
                if not _pass_on(fd, pipes, on_output):
                    poll.unregister(fd)
                continue
            kind, number, text = _next_report(channel)
            if kind == "failed":
                failure = (number, text)
            elif kind == "exec":
                exec_errno = number
            else:
                _drain(pipes, on_output)
                return _outcome(number, failure, exec_errno)


def _pass_on(fd: int, pipes: _Pipes, on_output: Callable[[int, bytes], None]) -> bool:
    """Hand on what has been written; False at the end of the stream."""
    data = os.read(fd, _READ_SIZE)
    if data:
        on_output(pipes.read_ends[fd], data)
    return bool(data)


def _drain(pipes: _Pipes, on_output: Callable[[int, bytes], None]) -> None:
    """What processes wrote before they ended: all of them have, so it is all there."""
    for fd in pipes.read_ends:
        os.set_blocking(fd, False)
        try:
            while _pass_on(fd, pipes, on_output):
                pass
        except BlockingIOError:
            continue


def _next_report(channel: _socket.socket) -> tuple[str, int, str]:
    """What the step's side says next: the kind, a number, a text; what the kind has not is empty."""
    try:
        data = channel.recv(_READ_SIZE)
    except ConnectionResetError:  # a kill came too late to be read; what was said before is still there
        data = channel.recv(_READ_SIZE)
    if not data:
        raise SolveError("the process that starts steps was killed; start the build again")
    kind, number, *text = marshal.loads(data)
    return kind, number, text[0] if text else ""


def _outcome(exit_code: int, failure: tuple[int, str] | None, exec_errno: int) -> Outcome:
    if failure is not None and exit_code != 137:
        number, what = failure
        reason = f": {os.strerror(number)}" if number else ""
        raise SolveError(f"the step could not be set up: {what}{reason}")
    return Outcome(exit_code, exec_errno)
