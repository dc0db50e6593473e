"""Paths in a tree are followed as if its root were `/`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from inlay.errors import SourceError
from inlay.trees.tree import MAX_DEPTH, Tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree beside a file that is none of its business."""
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/f").write_text("inside")
    return root


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    with Tree.at(str(root)) as tree:
        yield tree


def found(tree: Tree, path: str, *, follow_last: bool = True) -> str | None:
    """Where `path` leads; None if nothing is there."""
    with tree.resolve(path, follow_last=follow_last) as place:
        return None if place.stat is None else place.path


@pytest.mark.parametrize(
    ("target", "path", "expected"),
    [
        ("a", "/l/f", "/a/f"),
        ("/a", "/l/f", "/a/f"),
        ("a/b/..", "/l/f", "/a/f"),
        ("../../../a", "/l/f", "/a/f"),
        ("/", "/l/a/f", "/a/f"),
        (".", "/l/l/a/f", "/a/f"),
        ("..", "/l", ""),
        ("missing/../a", "/l/f", "/a/f"),
        ("../secret", "/l", None),
        ("/proc/self/root", "/l", None),
    ],
)
def test_links_are_followed_inside_the_root(
    root: Path, tree: Tree, target: str, path: str, expected: str | None
) -> None:
    (root / "l").symlink_to(target)
    assert found(tree, path) == expected


def test_the_last_link_is_followed_only_on_demand(root: Path, tree: Tree) -> None:
    (root / "l").symlink_to("a")
    assert found(tree, "/l", follow_last=False) == "/l"
    assert found(tree, "/l/b", follow_last=False) == "/a/b"


def test_what_is_missing_is_taken_as_it_stands(root: Path, tree: Tree) -> None:
    (root / "l").symlink_to("a")
    for path, expected in {"/l/x/y": "/a/x/y", "/a/f/y": "/a/f/y", "/x": "/x"}.items():
        with tree.resolve(path, follow_last=True) as place:
            assert (place.path, place.stat) == (expected, None)


def test_a_loop_of_links_is_an_error(root: Path, tree: Tree) -> None:
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    with pytest.raises(SourceError, match="too many links"):
        found(tree, "/x/f")


def test_a_path_that_is_too_deep_is_an_error(root: Path, tree: Tree) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(MAX_DEPTH + 2):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(SourceError, match="folders deep"):
        found(tree, "/d" * (MAX_DEPTH + 2))


def test_entries_are_in_the_order_of_their_bytes(root: Path, tree: Tree) -> None:
    folder = os.fsencode(root) + b"/a/b/"
    names = [b"\xff", b"\xee\x80\x80", b"B", b"a.txt", b"a", "é".encode(), b"\x80"]
    for name in names:
        os.close(os.open(folder + name, os.O_CREAT | os.O_WRONLY))
    with tree.resolve("/a/b", follow_last=True) as place, tree.enter_place(place) as inner:
        assert [os.fsencode(name) for name, _, _ in tree.entries(inner)] == sorted(names)


def test_text_of_a_missing_file_is_empty(tree: Tree) -> None:
    assert tree.read_text("/a/f", 100) == "inside"
    assert tree.read_text("/a/none", 100) == ""
    with pytest.raises(SourceError, match="exceeds 3 bytes"):
        tree.read_text("/a/f", 3)


def test_an_empty_tree_has_nothing_in_it() -> None:
    with Tree.empty() as tree, tree.root() as root:
        assert tree.entries(root) == []


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (root / "l").symlink_to("a/b/../b")
    with Tree.at(str(root)) as tree:
        found(tree, "/l/x")
        found(tree, "/l")
        found(tree, "/a/f/x")
    assert len(os.listdir("/proc/self/fd")) == before
