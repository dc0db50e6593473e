"""What this process may do, as root or in a user namespace, and the ids that exist for it.

Nothing here raises or prints, `change_owner` apart: a build whose steps are all cached needs no privileges. What does
need them says so (`refusal`, `shortage`). How a build comes by them is `rootless`.
"""

from __future__ import annotations

import errno
import os

_INITIAL_NAMESPACE = 0xEFFFFFFD
"""The inode of the machine's own user namespace (Linux: include/uapi/linux/nsfs.h)."""

CAP_SYS_ADMIN = 21
_NEEDED = 0xA80425FB | 1 << CAP_SYS_ADMIN
"""The capabilities that a build needs: those that steps have (docker's default), and for mounting."""

_USUAL_IDS = 1 << 16
"""Images take it that ids up to 65535 exist: `nobody` is 65534."""


def in_user_namespace() -> bool:
    """Whether this process is in another user namespace than the machine's own."""
    return os.stat("/proc/self/ns/user").st_ino != _INITIAL_NAMESPACE


def is_privileged() -> bool:
    """Whether this process may do all that builds need: as root, or in a user namespace."""
    if os.geteuid() != 0:
        return False
    with open("/proc/self/status", "rb") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith(b"CapEff:"))
    return effective & _NEEDED == _NEEDED


def mapped_users() -> list[range]:
    """The user ids that exist for this process."""
    return _mapped("/proc/self/uid_map")


def mapped_groups() -> list[range]:
    """The group ids that exist for this process."""
    return _mapped("/proc/self/gid_map")


def _mapped(path: str) -> list[range]:
    with open(path, "rb") as file:
        lines = [line.split() for line in file]
    return [range(int(first), int(first) + int(count)) for first, _, count in lines]


def is_among(number: int, ids: list[range]) -> bool:
    return any(number in each for each in ids)


def change_owner(
    target: int | str | bytes, uid: int, gid: int, *, name: str | bytes, dir_fd: int | None = None
) -> None:
    """Give a file, by its descriptor or its path, to `uid` and `gid`; symlinks are not followed.

    Raises `SolveError`, which calls the file `name`, for ids that do not exist here.
    """
    try:
        if isinstance(target, int):
            os.fchown(target, uid, gid)
        else:
            os.chown(target, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        from inlay.errors import SolveError

        reason = ids_advice() if in_user_namespace() else str(error)
        raise SolveError(f"{os.fsdecode(name)} cannot be given to {uid}:{gid}: {reason}") from error


def ids_advice() -> str:
    return "these ids are not mapped for this build; run `inlay doctor` to learn which command grants more"


def may_set_groups() -> bool:
    """Whether processes may give up their groups: not where a single group id was mapped without privileges."""
    try:
        with open("/proc/self/setgroups", "rb") as file:
            return file.read().strip() == b"allow"
    except FileNotFoundError:
        return True


def mapping_name() -> str:
    """A name for how this process sees owners and marks of files: empty for the machine's root.

    Trees that were made under one name are wrong under another: their files belong to others there, and
    overlayfs looks elsewhere for its marks.
    """
    if not in_user_namespace():
        return "" if is_privileged() else "plain"
    from inlay.digest import text_sha256

    maps = text_sha256()
    for kind in ("uid", "gid"):
        with open(f"/proc/self/{kind}_map", "rb") as file:
            maps.update(b";".join(b" ".join(line.split()) for line in file) + b"\n")
    return maps.hexdigest()[:8]


def refusal() -> str | None:
    """Why this process can neither unpack layers nor run steps; None where it may be able to."""
    if os.geteuid() == 0:
        return None
    return "it takes root or a user namespace, and this machine refuses one: run `inlay doctor` to learn why"


def step_refusal() -> str | None:
    """Why this process can run no steps; None where it may be able to."""
    if is_privileged():
        return None
    return refusal() or (
        "it takes capabilities that root does not have here, or a user namespace, which is refused: run "
        "`inlay doctor` to learn why"
    )


def shortage() -> str | None:
    """What fails for want of ids in this process's user namespace; None where there are enough."""
    fewest = min(sum(map(len, mapped_users())), sum(map(len, mapped_groups())))
    if fewest >= _USUAL_IDS:
        return None
    if fewest > 1:
        return (
            f"only {fewest} user or group ids are mapped for this build: files of an image that belong to higher "
            "ones cannot be made; run `inlay doctor` to learn which command grants more"
        )
    return (
        "only one user id is mapped for this build, so files can belong to root alone: images with files of "
        "others cannot be unpacked, and chown, useradd and apt fail in steps; run `inlay doctor` to learn "
        "which command grants more ids"
    )
