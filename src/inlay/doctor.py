"""What works on this machine and what does not, found out by doing it; and the one command that would change it.

`examine` moves its process into a user namespace, as a build does, and so needs one with a single thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess

from inlay.errors import InlayError
from inlay.system import linux, privileges, rootless
from inlay.system.programs import find_program
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Literal

    from inlay.executor.executor import Executor

    State = Literal["ok", "limited", "failed"]

_OLDEST_KERNEL, _OLDEST_GIT = (5, 12), (2, 31)
_LITTLE_ROOM = 2 << 30
_GRANT = 65536
_FOREIGN = ("amd64", "arm64", "arm", "386", "riscv64", "ppc64le", "s390x")
_UNCONFINED = "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined …"


class Finding(NamedTuple):
    """What was found of one thing. `command` would change it; it is empty where there is none, or no need.

    `state`: `ok`; `limited`: builds work, but not all that they may ask for; `failed`: builds do not work.
    """

    name: str
    state: State
    told: str
    command: str = ""


def examine(root: str = "") -> list[Finding]:
    """Try what builds need, with the store at `root`. Nothing is left behind but a store."""
    return [_kernel(), *_privileges(), *_store(root), _git(), _ssh(), _credentials()]


def _kernel() -> Finding:
    kernel = os.uname()
    if linux.kernel_version(kernel.release) < _OLDEST_KERNEL:
        return Finding("kernel", "failed", f"Linux {kernel.release} is too old: 5.12 or newer is needed")
    return Finding("kernel", "ok", f"Linux {kernel.release} {kernel.machine}")


# -- privileges and ids ------------------------------------------------------------------------------------


def _privileges() -> Iterator[Finding]:
    """Enter the user namespace in which a build would work."""
    uid = os.geteuid()
    who = "root" if uid == 0 else f"user {uid}"
    if privileges.is_privileged():
        where = ", in a user namespace" if privileges.in_user_namespace() else ""
        yield Finding("privileges", "ok", f"{who}{where}")
        yield _ids(uid, "")
        return
    refused = _in_child(rootless.unshare)
    if refused:
        reason, command = _why_refused(refused)
        told = f"{who} without all capabilities" if uid == 0 else who
        told = f"{told}, and a user namespace is refused ({os.strerror(refused).lower()}): {reason}"
        yield Finding("privileges", "failed", told, command)
        return
    said = _try_newuidmap(uid) if uid else ""
    rootless.enter()
    if _may_mount():
        yield Finding("privileges", "ok", f"{who}, in a user namespace")
    else:
        told = f"{who}, in a user namespace without privileges: AppArmor restricts those that users make"
        yield Finding(
            "privileges", "failed", told, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
        )
    yield _ids(uid, said)


def _in_child(function: Callable[[], int]) -> int:
    """What `function` returns, a small number, called in a child process."""
    pid = os.fork()
    if pid == 0:
        os._exit(function())
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _why_refused(number: int) -> tuple[str, str]:
    """Why the kernel makes no user namespace, and the command that would change it."""
    if _setting("kernel/unprivileged_userns_clone") == "0":
        return "only root may make one", "sysctl -w kernel.unprivileged_userns_clone=1"
    if _setting("user/max_user_namespaces") == "0" or number == errno.ENOSPC:
        return "there may be no more of them", "sysctl -w user.max_user_namespaces=15000"
    if number in (errno.EINVAL, errno.ENOSYS):
        return "this kernel has none", "sudo inlay build …"
    if _own_status("Seccomp") == "2":
        return "the filter of system calls around this process", _UNCONFINED
    return "most likely by a security module, or because of chroot", "sudo inlay build …"


def _setting(name: str) -> str:
    try:
        with open(f"/proc/sys/{name}", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _own_status(name: str) -> str:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return next((line.split()[1] for line in file if line.startswith(f"{name}:")), "")


def _may_mount() -> bool:
    from inlay.system import linux

    try:
        os.close(linux.new_mount("tmpfs"))
    except PermissionError:
        return False
    return True


def _ids(uid: int, said: str) -> Finding:
    """How many ids there are for files; `uid` is the caller's own, `said` what newuidmap answered."""
    users, groups = (sum(map(len, ids)) for ids in (privileges.mapped_users(), privileges.mapped_groups()))
    if privileges.shortage() is None:
        return Finding("ids", "ok", "files can belong to anybody")
    told = (
        "files can belong to root alone: chown, useradd and apt fail, and most images cannot be unpacked"
        if users == 1
        else f"files can belong to {min(users, groups)} ids only"
    )
    if uid == 0:
        return Finding("ids", "limited", f"{told}; more have to be mapped into the namespace around")
    reason, command = _why_few_ids(uid, said)
    return Finding("ids", "limited", f"{told}; {reason}", command)


def _why_few_ids(uid: int, said: str) -> tuple[str, str]:
    if not (find_program("newuidmap") and find_program("newgidmap")):
        return "newuidmap is not installed", "apt-get install uidmap"
    granted = min(
        sum(count for _, count in rootless.granted_ids(path, uid)) for path in ("/etc/subuid", "/etc/subgid")
    )
    if granted < _GRANT - 1:
        return f"/etc/subuid and /etc/subgid grant {granted}", _grant_command(uid)
    if _own_status("NoNewPrivs") == "1":
        return "newuidmap gets no privileges: no_new_privs is set", "docker run … without no-new-privileges"
    return f"newuidmap fails: {said or 'it does not say why'}", "apt-get install --reinstall uidmap"


def _grant_command(uid: int) -> str:
    """The command that grants `uid` a range of ids that nobody has."""
    first = max(100_000, *(_first_free(path) for path in ("/etc/subuid", "/etc/subgid")))
    name = rootless.user_name(uid)
    if name is None:
        return f"echo {uid}:{first}:{_GRANT} | tee -a /etc/subuid /etc/subgid"
    ids = f"{first}-{first + _GRANT - 1}"
    return f"usermod --add-subuids {ids} --add-subgids {ids} {os.fsdecode(name)}"


def _first_free(path: str) -> int:
    ends = [0]
    with contextlib.suppress(OSError), open(path, "rb") as file:
        for line in file:
            fields = line.strip().split(b":")
            if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
                ends.append(int(fields[1]) + int(fields[2]))
    return max(ends)


def _try_newuidmap(uid: int) -> str:
    """What newuidmap and newgidmap say against mapping what is granted; empty where nothing."""
    hold_read, hold_write = os.pipe()
    ready_read, ready_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hold_write)
        rootless.unshare()
        os.write(ready_write, b"!")
        os.read(hold_read, 1)
        os._exit(0)
    os.read(ready_read, 1)
    said = ""
    for program, own, path in (("newuidmap", uid, "/etc/subuid"), ("newgidmap", os.getegid(), "/etc/subgid")):
        place, ranges = find_program(program), rootless.granted_ids(path, uid)
        if place and ranges:
            command = [place, str(child), *rootless.map_arguments(own, ranges)]
            done = subprocess.run(command, capture_output=True, check=False)
            said = said or done.stderr.decode(errors="replace").strip()
    for fd in (hold_read, hold_write, ready_read, ready_write):
        os.close(fd)
    os.waitpid(child, 0)
    return said


# -- what needs the store ----------------------------------------------------------------------------------


def _store(root: str) -> Iterator[Finding]:
    from inlay.store.store import Store

    try:
        with Store(root, warn=lambda message: None) as store:
            yield _room(store.root)
            if privileges.refusal() is None:
                yield _trees(f"{store.trees}/snapshots")
            if privileges.step_refusal() is None:
                yield from _steps(f"{store.root}/runtime")
    except InlayError as error:
        yield Finding("store", "failed", str(error), "inlay build --root FOLDER …")


def _room(root: str) -> Finding:
    found = os.statvfs(root)
    free = found.f_bavail * found.f_frsize
    told = f"{root}, with {free / (1 << 30):.1f} GiB free"
    return Finding(
        "store",
        "ok" if free > _LITTLE_ROOM else "limited",
        told,
        "" if free > _LITTLE_ROOM else "inlay prune",
    )


def _trees(folder: str) -> Finding:
    from inlay.snapshot.overlay import overlay_works

    reason = overlay_works(folder)
    if reason is None:
        how = " with userxattr" if privileges.in_user_namespace() else ""
        return Finding("trees", "ok", f"by overlayfs{how}")
    told = f"by copies, which takes time and room: {reason}"
    return Finding("trees", "limited", told, "inlay build --root FOLDER …  # on ext4, xfs, btrfs or tmpfs")


def _steps(folder: str) -> Iterator[Finding]:
    """Each runtime, and what all of them need."""
    from inlay.executor.choose import RUNTIMES, make_executor
    from inlay.executor.probe import try_executor

    chosen = ""
    findings = []
    for name in RUNTIMES:
        executor = make_executor(name, folder)
        if executor is None:
            findings.append(Finding(name, "ok", "is not installed", f"apt-get install {name}"))
            continue
        reason, took_s = _timed(try_executor, executor)
        if reason is None:
            first = "" if chosen else "; it is the default"
            chosen = chosen or name
            findings.append(Finding(name, "ok", f"works: {1000 * took_s:.0f} ms to run a program{first}"))
        else:
            findings.append(Finding(name, "limited", reason))
    yield from findings
    if not chosen:
        yield Finding("steps", "failed", "no runtime works, so RUN does not")
    yield from (_proc(), _cgroups(), _platforms())


def _timed(function: Callable[[Executor], str | None], executor: Executor) -> tuple[str | None, float]:
    """What it returns when it is called again, and how long that took; only the first call starts helpers."""
    import time

    try:
        result = function(executor)
        begin = time.perf_counter()
        if result is None:
            result = function(executor)
        return result, time.perf_counter() - begin
    finally:
        executor.close()


def _proc() -> Finding:
    from inlay.executor import sandbox
    from inlay.system import linux

    def has_own() -> int:
        linux.unshare(linux.CLONE_NEWNS)
        return int(not sandbox.new_proc()[1])

    pid, pidfd = linux.fork(linux.CLONE_NEWPID)
    if pid == 0:
        os._exit(has_own())
    os.close(pidfd)
    if os.waitpid(pid, 0)[1] == 0:
        return Finding("processes", "ok", "steps see their own processes only")
    told = "steps see the names of this container's processes: it hides parts of /proc, so there can be no new one"
    return Finding("processes", "limited", told, _UNCONFINED)


def _cgroups() -> Finding:
    from inlay.executor import cgroup

    if privileges.in_user_namespace():
        return Finding("devices", "ok", "steps can make and open none, as in every user namespace")
    group = cgroup.new_group_name()
    try:
        if not group:
            raise FileNotFoundError(errno.ENOENT, "there is no cgroup v2 hierarchy")
        group_fd = cgroup.make_group(group)
        try:
            cgroup.attach_filter(group_fd)
        finally:
            os.close(group_fd)
            cgroup.remove_group(group)
    except OSError as error:
        told = f"no cgroup can filter them ({error.strerror}), so all that a step writes to is mounted nodev"
        return Finding("devices", "limited", told, "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
    return Finding("devices", "ok", "a cgroup keeps steps from opening disks")


def _platforms() -> Finding:
    from inlay.executor.binfmt import registrations, why_not_runnable
    from inlay.platform import Platform, host, normalise

    known = registrations()
    wanted = [normalise(Platform("linux", name)) for name in _FOREIGN]
    runs = [each for each in wanted if not why_not_runnable(each, known, lambda path: False)]
    told = f"steps run for {', '.join(map(str, runs or [host()]))}"
    command = "" if len(runs) == len(wanted) else "apt-get install qemu-user-static binfmt-support"
    return Finding("platforms", "ok", told, command)


# -- programs that sources need ----------------------------------------------------------------------------


def _git() -> Finding:
    program = find_program("git")
    if not program:
        return Finding("git", "limited", "is not installed: no git sources", "apt-get install git")
    done = subprocess.run([program, "version"], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    version = words[2] if len(words) > 2 else "0.0"
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if parts < _OLDEST_GIT:
        return Finding(
            "git", "limited", f"git {version} is too old: 2.31 or newer is needed", "apt-get install git"
        )
    return Finding("git", "ok", f"git {version}")


def _ssh() -> Finding:
    if not (find_program("ssh") and find_program("ssh-agent")):
        told = "is not installed: no git sources over ssh, and --ssh takes agents only"
        return Finding("ssh", "limited", told, "apt-get install openssh-client")
    agent = "an agent runs" if os.environ.get("SSH_AUTH_SOCK") else "no agent runs"
    return Finding("ssh", "ok", f"ssh is installed; {agent}")


def _credentials() -> Finding:
    from inlay.registry.auth import DockerConfig

    config = DockerConfig.default(os.environ)
    helpers = config.helpers()
    missing = [name for name in helpers if not find_program(f"docker-credential-{name}")]
    if config.notes:
        return Finding("credentials", "limited", config.notes[0])
    if missing:
        told = f"docker-credential-{missing[0]}, which {config.path} names, is not installed"
        return Finding("credentials", "limited", told)
    places = ["DOCKER_AUTH_CONFIG"] if os.environ.get("DOCKER_AUTH_CONFIG") else []
    if os.path.exists(config.path):
        places.append(f"{config.path}{' by ' + ', '.join(helpers) if helpers else ''}")
    if not places:
        return Finding("credentials", "ok", f"none: there is no {config.path}")
    return Finding("credentials", "ok", f"from {' and '.join(places)}")
