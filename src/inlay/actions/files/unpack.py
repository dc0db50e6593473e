"""ADD's unpacking of tar archives, compressed or not.

BuildKit: solver/llbsolver/file/unpack.go, vendor/github.com/moby/go-archive/archive.go. It unpacks in a
chroot at the destination; so links there lead to places in the destination.
"""

from __future__ import annotations

import os
import stat as mode_bits

from inlay.actions.files.entries import (
    FILE,
    FOLDER,
    HARD_LINK,
    NODE,
    SYMLINK,
    PlannedEntry,
    plan_folders,
)
from inlay.archive.compression import decompress
from inlay.archive.layer import Limits, within
from inlay.archive.tar import BLOCK_DEVICE, CHAR_DEVICE, DIRECTORY, FIFO, TarEntry
from inlay.archive.tar import FILE as TAR_FILE
from inlay.archive.tar import HARD_LINK as TAR_HARD_LINK
from inlay.archive.tar import SYMLINK as TAR_SYMLINK
from inlay.archive.untar import TarReader
from inlay.errors import ContentError, SolveError
from inlay.golang.patterns import clean
from inlay.trees.tree import shown
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inlay.actions.files.entries import Destination, Owner
    from inlay.trees.tree import Tree

_NODES = {CHAR_DEVICE: mode_bits.S_IFCHR, BLOCK_DEVICE: mode_bits.S_IFBLK, FIFO: mode_bits.S_IFIFO}


def is_archive(source: Tree, path: str) -> bool:
    """Whether a regular file with at least one tar member is at `path`."""
    with source.resolve(path, follow_last=True) as place:
        if place.stat is None or place.parent is None or not mode_bits.S_ISREG(place.stat.st_mode):
            return False
        try:
            with open(source.open(place.parent, place.name), "rb", buffering=0) as file:
                return next(iter(TarReader(decompress(file))), None) is not None
        except (ContentError, OSError):
            return False


def plan_unpack(
    source: Tree,
    path: str,
    destination: Destination,
    target: str,
    *,
    owner: Owner | None,
    timestamp: int | None,
) -> Iterator[PlannedEntry]:
    """Unpack the archive at `path` into the folder `target`, which is made if need be.

    `owner` is for all members, and `timestamp` only for the folder. Raises `ContentError` where the
    archive is broken, after what came before.
    """
    folder = destination.resolve(target)
    yield from plan_folders(destination, folder, mode=0o755, owner=owner, timestamp=timestamp)
    with source.resolve(path, follow_last=True) as place:
        assert place.parent is not None
        assert place.stat is not None
        with open(source.open(place.parent, place.name), "rb", buffering=0) as file:
            reader = TarReader(decompress(file))
            unpacker = _Unpacker(destination, folder, owner)
            for member in within(Limits.for_blob(place.stat.st_size), reader):
                yield from unpacker.member(member, reader)


class _Unpacker:
    """Members of one archive on their way to one folder."""

    __slots__ = ("_destination", "_folder", "_owner", "_parents")

    def __init__(self, destination: Destination, folder: str, owner: Owner | None) -> None:
        self._destination = destination
        self._folder = folder
        self._owner = owner
        self._parents: dict[str, str] = {}
        """Where the folders of earlier members lie; only good until something may lead elsewhere."""

    def member(self, member: TarEntry, reader: TarReader) -> Iterator[PlannedEntry]:
        name = clean("/" + os.fsdecode(member.name))
        if name == "/":
            return  # the folder itself stays as it is
        above, _, last = name.rpartition("/")
        parent = self._parent(above)
        if self._destination.lstat(parent) is None:
            self._check_links(above)
        yield from plan_folders(self._destination, parent, mode=0o755, owner=(0, 0), timestamp=None)
        path = f"{parent}/{last}"
        there = self._destination.lstat(path)
        is_folder = there is not None and mode_bits.S_ISDIR(there.st_mode)
        merges = is_folder and member.kind == DIRECTORY
        entry = PlannedEntry(
            FILE,
            path,
            mode=member.mode & 0o7777,
            owner=self._owner or (member.uid, member.gid),
            times=(max(member.mtime_ns, 0), max(member.mtime_ns, 0)),
            xattrs={os.fsdecode(key): value for key, value in member.xattrs},
            replaces=there is not None and not merges,
        )
        if entry.replaces or member.kind == TAR_SYMLINK:
            self._parents.clear()
        yield self._of_kind(member, entry._replace(exists=merges), reader)

    def _parent(self, path: str) -> str:
        known = self._parents.get(path)
        if known is None:
            known = self._parents[path] = self._destination.resolve(path, below=self._folder)
        return known

    def _check_links(self, path: str) -> None:
        """Raise `SolveError` where a folder above a member is a link to nothing; only other ones are made."""
        while path:
            above, _, last = path.rpartition("/")
            link = f"{self._parent(above)}/{last}"
            there = self._destination.lstat(link)
            if there is not None and self._destination.lstat(self._parent(path)) is None:
                raise SolveError(f"the archive has members below {shown(link)}, which is a link to nothing")
            path = above

    def _of_kind(self, member: TarEntry, entry: PlannedEntry, reader: TarReader) -> PlannedEntry:
        link = os.fsdecode(member.link)
        if member.kind == DIRECTORY:
            return entry._replace(kind=FOLDER)
        if member.kind == TAR_SYMLINK:
            return entry._replace(kind=SYMLINK, link=link)
        if member.kind == TAR_HARD_LINK:
            above, _, last = clean("/" + link).rpartition("/")
            first = f"{self._parent(above)}/{last}"
            there = self._destination.lstat(first)
            if there is None or entry.path == first:
                raise SolveError(f"{shown(entry.path)} is a hard link to {shown(link)}, which is not there")
            mode = None if mode_bits.S_ISLNK(there.st_mode) else entry.mode
            return entry._replace(kind=HARD_LINK, link=first, mode=mode)
        if member.kind in _NODES:
            assert entry.mode is not None
            device = os.makedev(member.major, member.minor)
            return entry._replace(kind=NODE, mode=entry.mode | _NODES[member.kind], device=device)
        if member.kind != TAR_FILE:
            raise SolveError(f"unhandled tar header type {member.kind[0]}")
        return entry._replace(content=reader)
