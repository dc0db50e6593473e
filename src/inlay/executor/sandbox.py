"""The built-in executor's side of a step: namespaces, the step's view of files, its init, its program.

Runs in the step's first process, which is process 1 of a new pid namespace, and stays it: it reaps what the
program leaves behind, passes signals on, and takes everything with it when it ends. What a step finds is
what runc makes of BuildKit's spec.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself takes a millisecond to import
import errno
import os
import resource
import stat

from inlay.executor import defaults, staging
from inlay.system import linux
from inlay.system.privileges import may_set_groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from inlay.executor.staging import Guard, StagedMount

    Report = Callable[[tuple[object, ...]], None]

_FORWARDED = (
    _signal.SIGTERM,
    _signal.SIGINT,
    _signal.SIGHUP,
    _signal.SIGQUIT,
    _signal.SIGUSR1,
    _signal.SIGUSR2,
)
# Python ignores SIGPIPE and SIGXFSZ, whoever called may have others ignored: not the step's business.
CATCHABLE = _signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP}
_NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWCGROUP
_NOSUID_NODEV = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
_NOTHING_BUT_DATA = _NOSUID_NODEV | linux.MOUNT_ATTR_NOEXEC


def run(
    fds: list[int],
    report: Report,
    guard: Guard,
    *,
    stdout: int,
    stderr: int,
    hostname: str,
    own_network: bool,
    pids_limit: int,
    view: dict[str, object],
    program: dict[str, object],
) -> int:
    """Set the step up, run its program to the end and return its exit code.

    `view`, the arguments of `View`, refers to `fds` by position; `program` is those of `run_program`.
    """
    be_first_process()
    files = View(fds, guard, **view)  # type: ignore[arg-type]
    linux.unshare(_NAMESPACES | (linux.CLONE_NEWNET if own_network else 0))
    if own_network:
        linux.raise_loopback()
    linux.set_hostname(hostname)
    limits_pids = files.build()
    if limits_pids:
        limit_pids(pids_limit)
    files.protect()
    return run_program(report, stdout=stdout, stderr=stderr, **program)  # type: ignore[arg-type]


def be_first_process() -> None:
    """Begin the step: end with the zygote, leave its session and its keys, be unreadable to what follows."""
    linux.prctl(linux.PR_SET_PDEATHSIG, _signal.SIGKILL)
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.new_session_keyring()
    os.setsid()
    os.umask(0o022)


def limit_pids(limit: int) -> None:
    """Allow at most `limit` processes and threads in this pid namespace.

    Since Linux 6.14 `pid_max` belongs to the pid namespace; before, it is the whole machine's.
    """
    if limit and linux.kernel_version() >= (6, 14):
        with open("/proc/sys/kernel/pid_max", "wb", buffering=0) as file:
            file.write(b"%d" % max(limit, 301))  # the kernel takes no less


class View:
    """The files that a step sees. Make it in the build's mount namespace, `build` in the step's."""

    __slots__ = (
        "_attributes",
        "_devices",
        "_fds",
        "_insecure",
        "_mounts",
        "_paths",
        "_readonly",
        "_root",
        "_shm_size",
    )

    def __init__(
        self,
        fds: list[int],
        guard: Guard,
        *,
        rootfs: int | str,
        mounts: list[StagedMount],
        insecure: bool,
        readonly_rootfs: bool,
        shm_size: int,
    ) -> None:
        self._fds = fds
        self._root = linux.open_tree(rootfs) if isinstance(rootfs, str) else fds[rootfs]
        self._mounts = mounts
        self._paths = staging.copy_paths(mounts)
        self._devices = staging.copy_devices(guard, insecure=insecure)
        self._insecure = insecure
        self._attributes = 0 if insecure else guard.attributes
        self._readonly = readonly_rootfs
        self._shm_size = shm_size

    def build(self) -> bool:
        """Make the root file system this process's own, with everything mounted on it.

        Returns whether its `/proc` is that of this process's own pid namespace.
        """
        linux.make_mounts_private()
        proc, is_own = new_proc()
        sys = new_sys(readonly=not self._insecure)
        trees = staging.open_sources(self._mounts, self._paths, self._fds, self._attributes)
        if self._attributes:
            linux.set_attributes(self._root, self._attributes, recursive=False)
        _change_root(self._root)
        staging.attach(proc, "/proc")
        self._make_dev()
        staging.attach(sys, "/sys")
        _mount_cgroups(readonly=not self._insecure)
        for (target, _, _, _), tree in zip(self._mounts, trees, strict=True):
            staging.attach(tree, target)
        return is_own

    def _make_dev(self) -> None:
        attributes = self._attributes | linux.MOUNT_ATTR_NOSUID
        staging.attach(linux.new_mount("tmpfs", defaults.DEV_OPTIONS, attributes), "/dev")
        staging.fill_dev("/dev", self._devices)
        shm = (("mode", "1777"), ("size", str(self._shm_size)))
        pts = linux.new_mount(
            "devpts", defaults.pts_options(), linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC
        )
        linux.move_mount(pts, "/dev/pts")
        linux.move_mount(linux.new_mount("tmpfs", shm, _NOTHING_BUT_DATA), "/dev/shm")
        linux.move_mount(linux.new_mount("mqueue", (), _NOTHING_BUT_DATA), "/dev/mqueue")

    def protect(self) -> None:
        """Hide what docker hides and make read-only what it makes read-only."""
        if self._readonly:
            linux.set_attributes(self._root, linux.MOUNT_ATTR_RDONLY, recursive=False)
        os.close(self._root)
        if self._insecure:
            return
        for path in defaults.READONLY_PATHS:
            _make_readonly(path)
        for path in defaults.MASKED_PATHS:
            _mask(path)


def _make_readonly(path: str) -> None:
    try:
        tree = linux.open_tree(path)
    except FileNotFoundError:
        return
    linux.set_attributes(tree, linux.MOUNT_ATTR_RDONLY, recursive=True)
    linux.move_mount(tree, path)
    os.close(tree)


def _mask(path: str) -> None:
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        linux.mount("tmpfs", path, "tmpfs", linux.MS_RDONLY)
    else:
        linux.mount("/dev/null", path, "", linux.MS_BIND)


def new_proc() -> tuple[int, bool]:
    """A detached `/proc`, and whether it is that of this process's pid namespace.

    In a container that hides parts of its own `/proc` the kernel makes no new one, which would show them: then
    it is the container's, with what is hidden. Steps read there how other processes are called, no more.
    """
    try:
        return linux.new_mount("proc", (), _NOTHING_BUT_DATA), True
    except PermissionError:
        outer = linux.open_tree("/proc")
        linux.set_attributes(outer, _NOTHING_BUT_DATA, recursive=True)
        return outer, False


def new_sys(*, readonly: bool) -> int:
    """A detached `/sys`."""
    attributes = _NOTHING_BUT_DATA | (linux.MOUNT_ATTR_RDONLY if readonly else 0)
    try:
        return linux.new_mount("sysfs", (), attributes)
    except PermissionError:  # whoever does not own the network namespace may only show the host's
        tree = linux.open_tree("/sys")
        linux.set_attributes(tree, attributes, recursive=True)
        return tree


def _mount_cgroups(*, readonly: bool) -> None:
    """Show the unified cgroup tree; tools size themselves by it, none needs it."""
    attributes = _NOTHING_BUT_DATA | (linux.MOUNT_ATTR_RDONLY if readonly else 0)
    try:
        staging.attach(linux.new_mount("cgroup2", (), attributes), "/sys/fs/cgroup")
    except OSError:
        return


def _change_root(root: int) -> None:
    """Make the detached mount `root` the root of this mount namespace; nothing of the old one stays."""
    linux.move_mount(root, "/")
    os.fchdir(root)
    linux.pivot_root(".", ".")
    linux.unmount(".")
    os.chdir("/")


def run_program(
    report: Report,
    *,
    stdout: int,
    stderr: int,
    args: list[bytes],
    env: dict[bytes, bytes],
    cwd: bytes,
    uid: int,
    gid: int,
    groups: list[int],
    capabilities: int,
    ambient: bool,
    seccomp_filter: bytes,
    rlimits: list[tuple[str, int, int]],
) -> int:
    """Start the step's program and be its init until it ends; return its exit code.

    User, limits and privileges are taken on before, for good, so that the program is started by vfork. What
    keeps it from its init is that this is process 1 and not dumpable.
    """
    os.chdir(cwd)
    for name, soft, hard in rlimits:
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
    for fd in (stdout, stderr):
        os.fchown(fd, uid, -1)  # programs open /dev/stdout anew
    if seccomp_filter:
        linux.install_seccomp_filter(seccomp_filter)
    _take_identity(uid, gid, groups, capabilities, ambient=ambient)
    files: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stderr, 2),
    ]
    # What is sent before there is a program to pass it on to waits: process 1 would never see it otherwise.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _FORWARDED)
    pid, failure = _spawn(args, env, files)
    if not pid:
        report(("exec", failure))
        return 127 if failure == errno.ENOENT else 126
    os.closerange(3, 1 << 16)
    return _be_init(pid)


def _spawn(args: list[bytes], env: dict[bytes, bytes], files: list[tuple[Any, ...]]) -> tuple[int, int]:
    """Start the program that PATH finds; return its pid, or 0 and why it cannot be executed."""
    program = args[0]
    folders = [b""] if b"/" in program else env.get(b"PATH", b"").split(b":")
    failure = errno.ENOENT
    for folder in folders:
        path = os.path.join(folder, program)
        try:
            pid = os.posix_spawn(
                path, args, env, file_actions=files, setsid=True, setsigmask=(), setsigdef=CATCHABLE
            )
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error.errno or failure
        else:
            return pid, 0
    return 0, failure


def _be_init(program: int) -> int:
    """Pass signals on to the program and reap whatever ends until it has."""
    for number in _FORWARDED:
        _signal.signal(number, lambda received, _: os.kill(program, received))
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _FORWARDED)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == program:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code


def _take_identity(uid: int, gid: int, groups: list[int], capabilities: int, *, ambient: bool) -> None:
    linux.drop_bounding_set(capabilities)
    linux.prctl(linux.PR_SET_KEEPCAPS, 1)
    if groups or may_set_groups():
        os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    inheritable = capabilities if ambient else 0
    linux.set_capabilities(permitted=capabilities, effective=capabilities, inheritable=inheritable)
    if ambient:
        linux.raise_ambient_set(capabilities)
