"""A build's result as plain files: into a folder, or a tar (BuildKit: exporter/{local,tar})."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from inlay.actions.fileop import copy_tree
from inlay.archive.diff import all_xattrs, diff_trees
from inlay.archive.tar import write_entries

if TYPE_CHECKING:
    from typing import BinaryIO

    from inlay.archive.tree import Tree


def write_folder(tree: Tree, dest: str) -> None:
    """Copy `tree` into the folder `dest`, over what is there."""
    os.makedirs(dest, exist_ok=True)
    copy_tree(tree, dest)


def write_tar(source_fd: int | None, out: BinaryIO) -> None:
    """Write the tree mounted as `source_fd` (None: nothing) as a tar."""
    entries = diff_trees(None, source_fd, keep_xattr=all_xattrs) if source_fd is not None else iter(())
    write_entries(entries, out)
