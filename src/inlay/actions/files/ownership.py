"""Who the result of a file action belongs to (BuildKit: solver/llbsolver/ops/user_linux.go)."""

from __future__ import annotations

from inlay.system.accounts import entries
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.llb.ops import Owner, User
    from inlay.trees.tree import Tree

LIMIT = 10 << 20
"""A passwd or group file is refused if it has more bytes."""


def find_owner(owner: Owner | None, tree_of: Callable[[int], Tree]) -> tuple[int, int] | None:
    """uid and gid of `owner`; None for no owner.

    Names are looked up in the trees that `tree_of` gives for their inputs. An unknown user counts as root. A user
    brings its group along, unless another is given that is known; a number brings the group of that number.
    """
    if owner is None:
        return None
    uid = gid = 0
    if owner.user is not None:
        uid, gid = _user(owner.user, tree_of)
    if owner.group is not None:
        known = _group(owner.group, tree_of)
        gid = gid if known is None else known
    return uid, gid


def _user(user: User, tree_of: Callable[[int], Tree]) -> tuple[int, int]:
    if user.name is None:
        return user.id, user.id
    for fields in entries(tree_of(user.input).read_text("/etc/passwd", LIMIT)):
        if fields[0] == user.name:
            return _number(fields, 2), _number(fields, 3)
    return 0, 0


def _group(group: User, tree_of: Callable[[int], Tree]) -> int | None:
    if group.name is None:
        return group.id
    for fields in entries(tree_of(group.input).read_text("/etc/group", LIMIT)):
        if fields[0] == group.name and not fields[0].startswith("#"):
            return _number(fields, 2)
    return None


def _number(fields: list[str], index: int) -> int:
    """A field's number; 0 where it is none, for files in the wild have such lines."""
    text = fields[index] if index < len(fields) else ""
    return (
        int(text) if _is_number(text.removeprefix("-") if text[:1] == "-" else text.removeprefix("+")) else 0
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
