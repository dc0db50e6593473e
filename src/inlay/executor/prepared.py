"""What all executors do with a spec before and after they run it."""

from __future__ import annotations

import os

from inlay.errors import SolveError
from inlay.executor import defaults, rootfs
from inlay.executor.executor import DEFAULT_HOSTNAME, Bind, Tmpfs
from inlay.executor.memory import MemoryFile, memory_files
from inlay.system import linux, privileges
from inlay.typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.executor.executor import Mount, ProcessSpec
    from inlay.executor.staging import StagedMount

T = TypeVar("T")

_FALLBACK_NAMESERVERS = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


class PreparedSpec(NamedTuple):
    """A spec made ready: `mounts` and `rootfs` refer to `fds` by position."""

    rootfs: int | str
    mounts: list[StagedMount]
    fds: list[int]
    env: list[str]
    groups: list[int]
    hostname: str


def with_prepared(spec: ProcessSpec, run: Callable[[PreparedSpec], T]) -> T:
    """Call `run` with `spec` and what the executor adds to it; then take the traces out of the root file system."""
    with rootfs.Opened(spec.rootfs) as root_fd:
        etc = memory_files(_etc_files(spec))
        try:
            mounts = _all_mounts(spec, etc)
            _check_kinds(mounts, root_fd)
            _check_limits(spec)
            with rootfs.MountPoints(root_fd, [mount.target for mount in mounts]):
                return run(_prepared(spec, mounts, root_fd))
        finally:
            os.close(etc)


def _prepared(spec: ProcessSpec, mounts: list[Mount], root_fd: int) -> PreparedSpec:
    groups = _groups(spec)
    rootfs.make_mount_folders(root_fd)
    rootfs.make_folder(root_fd, spec.cwd, spec.uid, spec.gid)
    fds: list[int] = []
    return PreparedSpec(
        rootfs=_position(spec.rootfs, fds),
        mounts=[_staged(mount, fds) for mount in mounts],
        fds=fds,
        env=_environment(spec, root_fd),
        groups=groups,
        hostname=spec.hostname or DEFAULT_HOSTNAME,
    )


def _check_limits(spec: ProcessSpec) -> None:
    """Raise `SolveError` for a limit above this process's own, which only the machine's root may raise."""
    if not spec.ulimits or (
        not privileges.in_user_namespace() and _has(defaults.CAPABILITY_NUMBERS["SYS_RESOURCE"])
    ):
        return
    import resource

    for limit in spec.ulimits:
        _, most = resource.getrlimit(getattr(resource, f"RLIMIT_{limit.name.upper()}"))
        if most != resource.RLIM_INFINITY and (limit.hard == -1 or limit.hard > most):
            raise SolveError(
                f"--ulimit {limit.name}={limit.soft}:{limit.hard}: at most {most} can be set here; "
                "ask for less, or build as root"
            )


def _has(capability: int) -> bool:
    return bool(_capabilities("CapEff") >> capability & 1)


def _capabilities(kind: str) -> int:
    """One of this process's sets of capabilities, as a mask."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith(f"{kind}:"))


def _check_kinds(mounts: list[Mount], root_fd: int) -> None:
    """Raise `SolveError` where a mount's source is missing, or is a file and its target a folder or the reverse."""
    targets = [os.path.normpath(mount.target) for mount in mounts]
    for mount, target in zip(mounts, targets, strict=True):
        folder = isinstance(mount, Tmpfs) or _is_folder(mount)
        if any(target.startswith(f"{other}/") for other in targets):
            continue  # what the image has there is covered
        there = rootfs.is_folder(root_fd, target)
        if there is not None and there != folder:
            kinds = ("folder", "file") if folder else ("file", "folder")
            raise SolveError(f"the {kinds[0]} to mount at {target} cannot cover the {kinds[1]} that is there")


def _is_folder(mount: Bind) -> bool:
    """Whether the source is a folder, rather than anything else. Raises `SolveError` where it does not exist."""
    try:
        if isinstance(mount.source, str) and not mount.selector:
            return os.path.isdir(mount.source)
        with rootfs.Opened(mount.source) as source:
            return rootfs.is_folder(source, mount.selector or "/", missing_ok=False) is True
    except FileNotFoundError:
        raise SolveError(
            f"the source of the mount at {mount.target}, {mount.selector}, does not exist"
        ) from None


def _groups(spec: ProcessSpec) -> list[int]:
    """The step's groups that exist here. Raises `SolveError` where its user or its own group does not."""
    groups = list(dict.fromkeys((spec.gid, *spec.additional_gids)))
    if not privileges.in_user_namespace():
        return groups
    mapped = privileges.mapped_groups()
    if not (
        privileges.is_among(spec.uid, privileges.mapped_users()) and privileges.is_among(spec.gid, mapped)
    ):
        raise SolveError(f"the step cannot run as {spec.uid}:{spec.gid}: {privileges.ids_advice()}")
    return [gid for gid in groups if privileges.is_among(gid, mapped)] if privileges.may_set_groups() else []


def _position(source: int | str, fds: list[int]) -> int | str:
    if isinstance(source, str):
        return source
    if source not in fds:
        fds.append(source)
    return fds.index(source)


def _staged(mount: Mount, fds: list[int]) -> StagedMount:
    target = "/" + mount.target.lstrip("/")
    if isinstance(mount, Tmpfs):
        size = (("size", str(mount.size)),) if mount.size else ()
        return target, (("mode", f"{mount.mode:o}"), *size), "", linux.MOUNT_ATTR_NOSUID
    attributes = linux.MOUNT_ATTR_RDONLY if mount.readonly else 0
    if mount.only_data:
        attributes |= linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC
    return target, _position(mount.source, fds), mount.selector, attributes


def _all_mounts(spec: ProcessSpec, etc: int) -> list[Mount]:
    mounts: dict[str, Mount] = {
        path: Bind(path, etc, os.path.basename(path), readonly=True, only_data=True)
        for path in ("/etc/resolv.conf", "/etc/hosts")
    }
    for mount in spec.mounts:
        mounts[os.path.normpath("/" + mount.target.lstrip("/"))] = mount
    return list(mounts.values())


def _environment(spec: ProcessSpec, root_fd: int) -> list[str]:
    env = list(spec.env)
    if not any(entry.startswith("HOME=") and entry != "HOME=" for entry in env):
        env = [entry for entry in env if entry != "HOME="]
        env.append(f"HOME={rootfs.home_of(root_fd, spec.uid)}")
    return env


def _etc_files(spec: ProcessSpec) -> list[MemoryFile]:
    hosts = [
        f"127.0.0.1\tlocalhost {spec.hostname or DEFAULT_HOSTNAME}\n",
        "::1\tlocalhost ip6-localhost ip6-loopback\n",
        *(f"{address}\t{name}\n" for name, address in spec.extra_hosts),
    ]
    return [
        MemoryFile("hosts", "".join(hosts).encode()),
        MemoryFile("resolv.conf", _resolv_conf()),
    ]


def _resolv_conf() -> bytes:
    """The host's, whose network the step uses; public name servers when it names none, as in BuildKit."""
    try:
        with open("/etc/resolv.conf", "rb") as file:
            content = file.read()
    except OSError:
        content = b""
    if not any(line.split()[:1] == [b"nameserver"] for line in content.splitlines()):
        content += _FALLBACK_NAMESERVERS.encode()
    return content


def capabilities(spec: ProcessSpec) -> list[str]:
    """The capabilities of the step, without CAP_: docker's, or all that this process can give."""
    if spec.security == "sandbox":
        return list(defaults.DEFAULT_CAPABILITIES)
    bounding = _capabilities("CapBnd")
    return [name for name, number in defaults.CAPABILITY_NUMBERS.items() if bounding >> number & 1]
