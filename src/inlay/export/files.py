"""A build's result as plain files: into a folder, or a tar (BuildKit: exporter/{local,tar})."""

from __future__ import annotations

import os

from inlay.actions.files.op import copy_tree
from inlay.archive.diff import diff_trees
from inlay.archive.tar import DIRECTORY, HARD_LINK, TarEntry, write_entries
from inlay.errors import ExportError
from inlay.platform import format_platform
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from inlay.export.plan import Output
    from inlay.export.results import BuiltPlatform
    from inlay.trees.tree import Tree

_HALF_NS = 500_000_000


def platform_folders(output: Output, built: Sequence[BuiltPlatform]) -> list[str]:
    """The folder of each platform's files: one for each of several, none for one, unless that is asked for."""
    split = output.option.flag("platform-split", default=len(built) > 1)
    if len(built) > 1 and not split:
        raise ExportError(
            "the files of several platforms need folders of their own: leave platform-split away"
        )
    return [format_platform(each.platform).replace("/", "_") if split else "" for each in built]


def write_folder(tree: Tree, dest: str) -> None:
    """Copy `tree` into the folder `dest`, over what is there. Everything there belongs to the caller."""
    os.makedirs(dest, exist_ok=True)
    copy_tree(tree, dest, owner=(os.geteuid(), os.getegid()))


def write_tar(sources: Sequence[tuple[str, int | None]], out: BinaryIO) -> None:
    """Write trees as one tar: each is (folder in the tar, "" for its top; descriptor of its mount, or None where
    it is empty)."""
    write_entries((entry for folder, fd in sources for entry in _entries(folder.encode(), fd)), out)


def _entries(folder: bytes, source_fd: int | None) -> Iterator[TarEntry]:
    if folder:
        yield TarEntry(folder, DIRECTORY, mode=0o755)
    if source_fd is None:
        return
    for entry in map(_rounded, diff_trees(None, source_fd)):
        if not folder:
            yield entry
            continue
        link = folder + b"/" + entry.link if entry.kind == HARD_LINK else entry.link
        yield entry._replace(name=folder + b"/" + entry.name, link=link)


def _rounded(entry: TarEntry) -> TarEntry:
    """The entry with the second that its time is nearest to, as Go writes it here; in layers it is cut off."""
    return entry._replace(mtime_ns=(entry.mtime_ns + _HALF_NS) // (2 * _HALF_NS) * (2 * _HALF_NS))
