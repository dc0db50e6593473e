"""An OCI runtime's side of a step: a bundle in memory, in a mount namespace of its own, and the runtime.

Runs in the step's first process, process 1 of a pid namespace around the runtime and the container that it
makes: killing it kills both, and the bundle, the runtime's state and every mount exist in its mount
namespace alone. Nothing is ever left to clean up.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself takes a millisecond to import
import os

from inlay.executor import defaults, sandbox, staging
from inlay.system import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from inlay.executor.sandbox import Report
    from inlay.executor.staging import Guard, StagedMount


def run(
    fds: list[int],
    report: Report,
    guard: Guard,
    *,
    stdout: int,
    stderr: int,
    folder: str,
    rootfs: int | str,
    mounts: list[StagedMount],
    insecure: bool,
    config: bytes,
    config_without_proc: bytes,
    command: list[str],
    log: int,
    pids_limit: int,
    keeps_nodev: bool,
    needs_own_proc: bool,
) -> NoReturn:
    """Make the bundle over `folder`, an empty folder, and become the runtime; returns only by raising.

    The bundle holds `config.json`, `rootfs`, `dev`, `sys`, and `m0`, `m1`, … for `mounts`, whose targets are
    in `config`; `config_without_proc` is used where no new `/proc` can be mounted. `rootfs`, `mounts` and `log`, what
    the runtime's log goes to, refer to `fds` by position.
    """
    sandbox.be_first_process()
    if guard.attributes and not keeps_nodev and not insecure:
        raise RuntimeError(
            f"{command[0]} cannot keep a step from devices without a writable cgroup v2 hierarchy"
        )
    root = linux.open_tree(rootfs) if isinstance(rootfs, str) else fds[rootfs]
    paths = staging.copy_paths(mounts)
    devices = staging.copy_devices(guard, insecure=insecure)
    linux.unshare(linux.CLONE_NEWNS)
    linux.make_mounts_private()
    attributes = 0 if insecure else guard.attributes
    trees = staging.open_sources(mounts, paths, fds, attributes)
    _fill(folder, root, trees, attributes)
    staging.fill_dev(f"{folder}/dev", devices)
    staging.attach(sandbox.new_sys(readonly=not insecure), f"{folder}/sys")
    has_proc = _mount_proc(pids_limit)
    if needs_own_proc and not has_proc:
        raise RuntimeError(
            f"{os.path.basename(command[0])} needs a /proc of its own, and there can be none in a container that "
            "hides parts of its /proc; use --runtime crun or builtin"
        )
    _show_own_cgroups()
    with open(f"{folder}/config.json", "wb") as file:
        file.write(config if has_proc else config_without_proc)
    os.chdir(folder)
    _become_runtime(command, stdout, stderr, log=fds[log])


def _fill(folder: str, root: int, trees: list[int], attributes: int) -> None:
    """Mount the bundle over `folder`: in it the mounts `root` and `trees`, and an empty `dev`."""
    bundle = linux.new_mount("tmpfs", (("mode", "700"),), linux.MOUNT_ATTR_NOSUID | attributes)
    linux.move_mount(bundle, folder)
    linux.set_attributes(root, attributes, recursive=False)
    staging.attach(root, f"{folder}/rootfs")
    for position, tree in enumerate(trees):
        staging.attach(tree, f"{folder}/m{position}")
    dev = linux.new_mount("tmpfs", defaults.DEV_OPTIONS, linux.MOUNT_ATTR_NOSUID | attributes)
    staging.attach(dev, f"{folder}/dev")


def _mount_proc(pids_limit: int) -> bool:
    """Mount a new `/proc`, and limit the processes in it; False where there can be none (see `sandbox.new_proc`)."""
    proc, is_own = sandbox.new_proc()
    if is_own:
        linux.move_mount(proc, "/proc")
        sandbox.limit_pids(pids_limit)
    os.close(proc)
    return is_own


def _show_own_cgroups() -> None:
    """Show the unified cgroup tree from this process's group downwards, and nothing else.

    crun refuses to run where it sees old hierarchies too; what runc makes for the step stays below the build's
    group, and so below its limits.
    """
    linux.unshare(linux.CLONE_NEWCGROUP)
    try:
        staging.attach(linux.new_mount("cgroup2"), "/sys/fs/cgroup")
    except OSError:
        return  # there may be none


def _become_runtime(command: list[str], stdout: int, stderr: int, *, log: int) -> NoReturn:
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.dup2(log, 3)
    for number in sandbox.CATCHABLE:
        _signal.signal(number, _signal.SIG_DFL)
    os.execv(command[0], command)
