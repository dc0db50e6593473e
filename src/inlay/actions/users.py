"""Who a step runs as: `USER name[:group]` looked up in the tree's own /etc/passwd and /etc/group
(BuildKit: executor/oci/user.go)."""

from __future__ import annotations

from inlay.errors import SolveError
from inlay.system.accounts import entries
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from inlay.trees.tree import Tree

LIMIT = 16 << 20
"""A passwd or group file is read up to this many bytes."""


class UserIds(NamedTuple):
    uid: int
    gid: int
    groups: tuple[int, ...]
    """Supplementary groups, sorted."""


def find_user(root: Tree, text: str) -> UserIds:
    """Resolve `text` (`""`, `name`, `uid`, `name:group`, …) in the tree `root`. Raises `SolveError`."""
    user, separator, group = text.partition(":")
    user = user or "0"
    if user.isdecimal() and group.isdecimal():
        return UserIds(int(user), int(group), ())
    entry = _passwd_entry(root, user)
    if entry is None and not user.isdecimal():
        raise SolveError(f"unable to find user {user}: no matching entries in passwd file")
    name, uid, primary = entry if entry is not None else ("", int(user), 0)
    if separator:
        return UserIds(uid, _group_id(root, group), ())
    return UserIds(uid, primary, _groups_of(root, name))


def _passwd_entry(root: Tree, user: str) -> tuple[str, int, int] | None:
    """Name, uid and gid of the entry with that name or, failing that, that uid."""
    by_id = None
    for fields in _entries(root, "/etc/passwd"):
        if len(fields) < 4 or not fields[2].isdecimal() or not fields[3].isdecimal():
            continue
        entry = (fields[0], int(fields[2]), int(fields[3]))
        if fields[0] == user:
            return entry
        if fields[2] == user and by_id is None:
            by_id = entry
    return by_id


def _group_id(root: Tree, group: str) -> int:
    for fields in _entries(root, "/etc/group"):
        if len(fields) >= 3 and fields[0] == group and fields[2].isdecimal():
            return int(fields[2])
    if group.isdecimal():
        return int(group)
    raise SolveError(f"unable to find group {group}: no matching entries in group file")


def _groups_of(root: Tree, name: str) -> tuple[int, ...]:
    if not name:
        return ()
    found = {
        int(fields[2])
        for fields in _entries(root, "/etc/group")
        if len(fields) >= 4 and fields[2].isdecimal() and name in fields[3].split(",")
    }
    return tuple(sorted(found))


def _entries(root: Tree, path: str) -> list[list[str]]:
    return [fields for fields in entries(root.read_text(path, LIMIT)) if not fields[0].startswith("#")]
