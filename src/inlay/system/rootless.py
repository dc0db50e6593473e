"""Root without being root: the user namespace that a build moves into.

Unpacking layers, mounting and starting containers take privileges that an ordinary user, or root in a
container, does not have. In a user namespace of its own a process has them all, over the ids that are mapped
into it. Which ids those are:

    an ordinary user       itself as 0, then what /etc/subuid and /etc/subgid grant it as 1, 2, …, by
                           newuidmap and newgidmap, as with rootlesskit (BuildKit's) and Podman
    … without such a grant itself as 0 and nothing else: files can have no other owner
    root, lacking          every id that it sees, as the same one
    capabilities

What a process may do after that, or without, is told by `privileges`.
"""

from __future__ import annotations

import errno
import os

from inlay.system import outside
from inlay.system.privileges import is_privileged
from inlay.system.programs import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_WRITTEN = b"+"


class Entry:
    """A user namespace that this process is in, and whose ids are being mapped. `wait` for them before
    making a file or starting a program."""

    __slots__ = ("_answers", "_gid", "_uid")

    def __init__(self, uid: int, gid: int, answers: int) -> None:
        self._uid, self._gid, self._answers = uid, gid, answers

    def wait(self) -> None:
        """Wait for the maps. Where nobody may write the wide ones, map the caller's own ids."""
        if os.read(self._answers, 1) == _WRITTEN:
            return
        _write_map("/proc/self/setgroups", "deny")
        _write_map("/proc/self/gid_map", f"0 {self._gid} 1")
        _write_map("/proc/self/uid_map", f"0 {self._uid} 1")


def enter() -> None:
    """Move this process into a user namespace, as `begin_to_enter` does, and wait until its ids are mapped."""
    entry = begin_to_enter()
    if entry is not None:
        entry.wait()


def begin_to_enter() -> Entry | None:
    """Move this process, which may have no second thread, into a user and a mount namespace of its own.

    None where that is not needed, or is refused: by the kernel, by a seccomp filter, or for a second thread.
    It takes some 2 ms; the maps, which others write meanwhile, are there after some 4 ms.
    """
    if is_privileged():
        return None
    uid, gid = os.geteuid(), os.getegid()
    _keep_home(uid)
    (requests, asking), (answers, answering) = os.pipe(), os.pipe()
    writer = os.fork()  # from outside: inside, newuidmap would have no privileges
    if writer == 0:
        os.close(asking)
        os.close(answers)
        _stay_outside(requests, answering, uid, gid)
    os.close(requests)
    os.close(answering)
    if unshare() == 0:
        os.write(asking, b"!")
        outside.use(asking, answers)
        return Entry(uid, gid, answers)
    os.close(asking)
    os.close(answers)
    os.waitpid(writer, 0)
    return None


def _keep_home(uid: int) -> None:
    """What HOME does not say would else be looked up for the uid, which will be 0."""
    if "HOME" not in os.environ:
        import pwd

        try:
            os.environ["HOME"] = pwd.getpwuid(uid).pw_dir
        except KeyError:
            os.environ["HOME"] = "/"


def unshare() -> int:
    """Move this process into a new user and mount namespace; return 0, or the errno of why not."""
    from inlay.system import linux  # which takes longer to import than what needs no namespace has

    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
    except OSError as error:
        return error.errno or errno.EPERM
    return 0


def _stay_outside(requests: int, answers: int, uid: int, gid: int) -> NoReturn:
    """Map ids for the parent process once `requests` has a byte, say so, and be its `outside` until it ends."""
    try:
        pid = os.getppid()
        if os.read(requests, 1):
            written = _map_all(pid) if uid == 0 else _map_granted(pid, uid, gid)
            os.write(answers, _WRITTEN if written else b"-")
            outside.serve(requests, answers)
    finally:
        os._exit(0)


def _map_all(pid: int) -> bool:
    """Map every id that this process sees to itself."""
    for kind in ("uid", "gid"):
        with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
            lines = [line.split() for line in file]
        text = "".join(f"{first} {first} {count}\n" for first, _, count in lines)
        if not _write_map(f"/proc/{pid}/{kind}_map", text):
            return False
    return True


def _map_granted(pid: int, uid: int, gid: int) -> bool:
    """Map the caller to 0, and what /etc/subuid and /etc/subgid grant it from 1 on."""
    commands = []
    for program, own, path in (("newuidmap", uid, "/etc/subuid"), ("newgidmap", gid, "/etc/subgid")):
        ranges = granted_ids(path, uid)
        place = find_program(program)
        if not ranges or not place:
            return False
        commands.append([place, str(pid), *map_arguments(own, ranges)])
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    started = [os.posix_spawn(each[0], each, os.environ, file_actions=quiet) for each in commands]
    endings = [os.waitpid(child, 0)[1] for child in started]
    return not any(endings)


def map_arguments(own: int, ranges: list[tuple[int, int]]) -> list[str]:
    """What newuidmap is told: the id `own` becomes 0, those of `ranges` follow from 1 on."""
    arguments = ["0", str(own), "1"]
    inside = 1
    for first, count in ranges:
        arguments += [str(inside), str(first), str(count)]
        inside += count
    return arguments


def granted_ids(path: str, uid: int) -> list[tuple[int, int]]:
    """The ranges (first id, count) that /etc/subuid or /etc/subgid, at `path`, grants the user `uid`."""
    names = (b"%d" % uid, user_name(uid))
    ranges = []
    try:
        with open(path, "rb") as file:
            for line in file:
                fields = line.strip().split(b":")
                if len(fields) == 3 and fields[0] in names and fields[1].isdigit() and fields[2].isdigit():
                    ranges.append((int(fields[1]), int(fields[2])))
    except OSError:
        return []
    return [(first, count) for first, count in ranges if count]


def user_name(uid: int) -> bytes | None:
    """What /etc/passwd calls a user; None where it does not have it."""
    import pwd

    try:
        return os.fsencode(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return None


def _write_map(path: str, text: str) -> bool:
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(text.encode())
    except OSError:
        return False
    return True
