"""A build's result as plain files: into a folder, or a tar (BuildKit: exporter/{local,tar})."""

from __future__ import annotations

import os

from inlay.actions.fileop import copy_tree
from inlay.archive.diff import diff_trees
from inlay.archive.tar import DIRECTORY, HARD_LINK, Entry, write_entries
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from inlay.archive.tree import Tree


def write_folder(tree: Tree, dest: str) -> None:
    """Copy `tree` into the folder `dest`, over what is there. Everything there belongs to the caller."""
    os.makedirs(dest, exist_ok=True)
    copy_tree(tree, dest, owner=(os.geteuid(), os.getegid()))


def write_tar(sources: Sequence[tuple[str, int | None]], out: BinaryIO) -> None:
    """Write trees as one tar: each is (folder in the tar, "" for its top; descriptor of its mount, or None where
    it is empty)."""
    write_entries((entry for folder, fd in sources for entry in _entries(folder.encode(), fd)), out)


def _entries(folder: bytes, source_fd: int | None) -> Iterator[Entry]:
    if folder:
        yield Entry(folder, DIRECTORY, mode=0o755)
    if source_fd is None:
        return
    for entry in diff_trees(None, source_fd):
        if not folder:
            yield entry
            continue
        link = folder + b"/" + entry.link if entry.kind == HARD_LINK else entry.link
        yield entry._replace(name=folder + b"/" + entry.name, link=link)
