"""Mounts of a step, from what the build handed over to trees that can be attached in the step's view.

Runs in the step's first process. Sources that are paths are copied while the process still lives in the
build's mount namespace (`copy_paths`); detached mounts are opened up in its own (`open_sources`).
"""

from __future__ import annotations

import os
import stat

from inlay.executor import defaults
from inlay.system import linux
from inlay.system.privileges import in_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # A path, a position among the descriptors that came with the step, or the options of a tmpfs.
    Source = str | int | tuple[tuple[str, str], ...]
    StagedMount = tuple[str, Source, str, int]  # target, source, selector, MOUNT_ATTR_*


def copy_paths(mounts: Iterable[StagedMount]) -> list[int | None]:
    """For each of `mounts` a detached copy of the path that it shows; None where it shows none."""
    return [linux.open_tree(source) if isinstance(source, str) else None for _, source, _, _ in mounts]


class Guard:
    """What keeps a step from opening device nodes that it makes itself.

    A filter does (`filtered`, see `cgroup`), or the kernel in a user namespace; failing both, all that a
    step can write to has to be mounted `nodev`.
    """

    __slots__ = ("filtered", "user_namespace")

    def __init__(self, *, filtered: bool) -> None:
        self.filtered = filtered
        self.user_namespace = in_user_namespace()

    @property
    def attributes(self) -> int:
        """The attributes for mounts of a step that is not trusted with devices."""
        return 0 if self.filtered or self.user_namespace else linux.MOUNT_ATTR_NODEV


def copy_devices(guard: Guard, *, insecure: bool) -> dict[str, int | None]:
    """The device nodes that a step gets, by name below /dev.

    None means to make it; otherwise it is a detached copy of the host's, to mount: in a user namespace none
    can be made, and below `nodev` none can be opened. Those that the host lacks are left out.
    """
    make = not guard.user_namespace and (insecure or not guard.attributes)
    devices: dict[str, int | None] = dict.fromkeys(defaults.DEVICES, None) if make else {}
    for name in (*defaults.DEVICES, *(defaults.INSECURE_DEVICES if insecure else ())):
        if name in devices:
            continue
        try:
            devices[name] = linux.open_tree(f"/dev/{name}")
        except FileNotFoundError:
            continue
    return devices


def open_sources(
    mounts: Iterable[StagedMount], paths: list[int | None], fds: list[int], attributes: int
) -> list[int]:
    """The tree to attach for each of `mounts`, in order, with `attributes` set everywhere in it.

    Uses `/` as a place to attach things to for a moment, so call it in a mount namespace of one's own.
    """
    attached: list[int] = []
    trees = []
    for (_, source, selector, own), path in zip(mounts, paths, strict=True):
        if isinstance(source, tuple):
            tree = linux.new_mount("tmpfs", source, linux.MOUNT_ATTR_NOSUID)
        elif path is not None and not selector:
            tree = path
        else:
            tree = _select(fds[source] if isinstance(source, int) else path or 0, selector, attached)
        linux.set_attributes(tree, attributes | own, recursive=True)
        trees.append(tree)
    for mount_fd in reversed(attached):  # each lies on the one before
        linux.unmount(f"/proc/self/fd/{mount_fd}")
    return trees


def _select(mount_fd: int, selector: str, attached: list[int]) -> int:
    """A copy of what is at `selector` in a detached mount; only attached ones can be copied."""
    if mount_fd not in attached:
        linux.move_mount(mount_fd, "/")
        attached.append(mount_fd)
    inside = linux.open_in_root(mount_fd, selector or ".", os.O_PATH)
    try:
        return linux.open_tree("", inside)
    finally:
        os.close(inside)


def attach(tree: int, target: str) -> None:
    """Attach `tree` at `target`, made as an empty file or folder where it is missing, like its parents."""
    target = os.path.realpath(target)
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.makedirs(target, 0o755, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o644))
    linux.move_mount(tree, target)
    os.close(tree)


def fill_dev(dev: str, devices: dict[str, int | None]) -> None:
    """Put device nodes, links and mount points into `dev`, a fresh tmpfs."""
    for name, tree in devices.items():
        if tree is None:
            os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(*defaults.DEVICES[name]))
            os.chmod(f"{dev}/{name}", 0o666)
        else:
            attach(tree, f"{dev}/{name}")
    for name, destination in defaults.DEVICE_LINKS.items():
        os.symlink(destination, f"{dev}/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{dev}/{name}")
    os.chmod(f"{dev}/shm", 0o1777)  # runc gives the tmpfs that it mounts there the mode of this
