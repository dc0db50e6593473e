"""The small process that steps are forked from.

It is a fresh interpreter with nothing in it but this package's launching code: forking it is quick, and
safe, which forking a build full of threads is not. It never runs anything itself: each step gets a child
in a pid namespace of its own, whose end, for whatever reason, is the end of all its processes.
What it is told, and what it tells, is in `protocol`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself takes as long to import as all else here
import _socket
import marshal
import os
import select
from itertools import pairwise

from inlay.executor import bundle, cgroup, sandbox, staging
from inlay.executor.protocol import CONTROL_FD, MAX_DESCRIPTORS, STEP
from inlay.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: dict[str, Callable[..., int]] = {"sandbox": sandbox.run, "bundle": bundle.run}


class _Steps:
    """The steps that run, by channel and by pidfd."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.by_fd: dict[int, tuple[int, int, int]] = {}  # channel and pidfd -> (pid, pidfd, channel)
        self.groups = _make_groups()
        self.guard = staging.Guard(filtered=self.groups.filtered)

    def start(self, fds: list[int], *, filtered: bool) -> None:
        channel = fds[1]
        try:
            pid, pidfd = linux.fork(
                linux.CLONE_NEWPID, self.groups.guarded if filtered else self.groups.trusted
            )
        except OSError as error:
            _report(channel, ("failed", error.errno, "starting a process"))
            _report(channel, ("exit", 70))
            pid, pidfd = -1, channel
        if pid == 0:
            _become_step(fds, self.guard)
        for fd in fds:
            if fd != channel:
                os.close(fd)
        if pid == -1:
            os.close(channel)
            return
        for fd in (pidfd, channel):
            self.by_fd[fd] = (pid, pidfd, channel)
            self.poll.register(fd, select.POLLIN)

    def on_event(self, fd: int) -> None:
        if fd not in self.by_fd:
            return  # ended earlier in the same round
        pid, pidfd, channel = self.by_fd[fd]
        if fd == channel:
            self._forget(channel)
            _discard(channel)
            _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
            return
        _, status = os.waitpid(pid, 0)
        _report(channel, ("exit", _exit_code(status)))
        self._forget(pidfd)
        os.close(pidfd)
        self._forget(channel)
        os.close(channel)

    def _forget(self, fd: int) -> None:
        if self.by_fd.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def end(self) -> None:
        """Kill all steps, wait for that, and take the cgroups away: nobody else would if the build was killed."""
        steps = set(self.by_fd.values())
        for _, pidfd, _ in steps:
            _signal.pidfd_send_signal(pidfd, _signal.SIGKILL)
        for pid, _, _ in steps:
            os.waitpid(pid, 0)
        group = os.environ["INLAY_CGROUP"]
        for name in (group, group + cgroup.TRUSTED) if group else ():
            cgroup.remove_group(name)


class _Groups:
    """The cgroups of steps, by descriptor; None is this process's. `filtered`: `guarded` keeps devices away."""

    __slots__ = ("filtered", "guarded", "trusted")

    def __init__(
        self, guarded: int | None = None, trusted: int | None = None, *, filtered: bool = False
    ) -> None:
        self.guarded = guarded
        self.trusted = trusted
        self.filtered = filtered


def _make_groups() -> _Groups:
    """What the build asked for, or else a cgroup with the device filter where there can be one."""
    group = os.environ["INLAY_CGROUP"]
    if not group:
        return _Groups()
    try:
        guarded = cgroup.make_group(group)
        trusted = cgroup.make_group(group + cgroup.TRUSTED)
    except OSError:
        return _Groups()
    try:
        cgroup.attach_filter(guarded)
    except OSError:
        if os.environ["INLAY_CGROUP_ASKED_FOR"]:
            return _Groups(guarded, trusted)
        for fd, name in ((guarded, group), (trusted, group + cgroup.TRUSTED)):
            os.close(fd)
            cgroup.remove_group(name)
        return _Groups()
    return _Groups(guarded, trusted, filtered=True)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def _report(channel: int, message: tuple[object, ...]) -> None:
    try:
        os.write(channel, marshal.dumps(message))  # type: ignore[arg-type]
    except OSError:
        return  # nobody is interested any more


def _discard(channel: int) -> None:
    """Read what was sent: closing the channel with something unread would be an error at the other end."""
    try:
        os.read(channel, 16)
    except OSError:
        return  # whoever closed it has left a report unread


def _become_step(descriptors: list[int], guard: staging.Guard) -> None:
    """In the child: be the first process of the step that came with `descriptors`; never returns."""
    payload, channel, stdout, stderr, *fds = descriptors

    def report(message: tuple[object, ...]) -> None:
        _report(channel, message)

    try:
        _close_all_but(set(descriptors))
        with open(payload, "rb") as file:
            file.seek(0)
            kind, arguments = marshal.load(file)
        os._exit(KINDS[kind](fds, report, guard, stdout=stdout, stderr=stderr, **arguments))
    except OSError as error:
        report(("failed", error.errno, os.fsdecode(error.filename or "")))
    except RuntimeError as error:
        report(("failed", 0, str(error)))
    except BaseException as error:
        report(("failed", 0, repr(error)))
    finally:
        os._exit(70)


def _close_all_but(keep: set[int]) -> None:
    """Close what belongs to the zygote and to other steps."""
    edges = [2, *sorted(keep), 1 << 16]
    for below, above in pairwise(edges):
        os.closerange(below + 1, above)


def _receive(control: _socket.socket) -> tuple[list[int], bool]:
    """The next step's descriptors, none when the build has ended, and whether to keep devices from it."""
    size = _socket.CMSG_SPACE(4 * MAX_DESCRIPTORS)
    message, ancillary, _, _ = control.recvmsg(16, size, _socket.MSG_CMSG_CLOEXEC)
    data = b"".join(data for _, _, data in ancillary)
    return list(memoryview(data).cast("i")), message == STEP


def main() -> None:
    control = _socket.socket(fileno=CONTROL_FD)
    os.set_inheritable(CONTROL_FD, False)
    running = _Steps()
    running.poll.register(CONTROL_FD, select.POLLIN)
    while True:
        for fd, _ in running.poll.poll():
            if fd != CONTROL_FD:
                running.on_event(fd)
                continue
            fds, filtered = _receive(control)
            if not fds:
                running.end()
                os._exit(
                    0
                )  # taking the interpreter apart first takes milliseconds, for which the build waits
            running.start(fds, filtered=filtered)
