"""Owners by name and number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inlay.actions.files.ownership import LIMIT, find_owner
from inlay.errors import SourceError
from inlay.llb.ops import Owner, User
from inlay.trees.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWD = """
root:x:0:0:root:/root:/bin/sh
  joe:x:1001:1002::/:/bin/sh
#joe:x:1:1
short:x:7
odd:x:one:+2
"""
GROUP = "#joe:x:1\njoe:x:1003:\nstaff:x:50:joe\n"


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "files").mkdir()
    (tmp_path / "files/passwd").write_text(PASSWD)
    (tmp_path / "etc/passwd").symlink_to("/files/passwd")
    (tmp_path / "etc/group").write_text(GROUP)
    with Tree.at(str(tmp_path)) as tree:
        yield tree


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        (None, None),
        (Owner(), (0, 0)),
        (Owner(User(id=5)), (5, 5)),
        (Owner(User(id=5), User(id=6)), (5, 6)),
        (Owner(group=User(id=6)), (0, 6)),
        (Owner(User("joe")), (1001, 1002)),
        (Owner(User("joe"), User("joe")), (1001, 1003)),
        (Owner(User("joe"), User("staff")), (1001, 50)),
        (Owner(User("nobody")), (0, 0)),
        (Owner(User("joe"), User("nobody")), (1001, 1002)),
        (Owner(User(id=5), User("nobody")), (5, 5)),
        (Owner(User("nobody"), User("nobody")), (0, 0)),
        (Owner(group=User("nobody")), (0, 0)),
        (Owner(User("short")), (7, 0)),
        (Owner(User("odd")), (0, 2)),
    ],
)
def test_owners_are_found(tree: Tree, owner: Owner | None, expected: tuple[int, int] | None) -> None:
    assert find_owner(owner, lambda _: tree) == expected


def test_without_the_files_everybody_is_root() -> None:
    with Tree.empty() as tree:
        assert find_owner(Owner(User("joe"), User("joe")), lambda _: tree) == (0, 0)


def test_a_huge_file_is_refused(tree: Tree, tmp_path: Path) -> None:
    with (tmp_path / "files/passwd").open("wb") as file:
        file.truncate(LIMIT + 1)
    with pytest.raises(SourceError, match="exceeds"):
        find_owner(Owner(User("joe")), lambda _: tree)
