"""Copying from one tree to another, as COPY and ADD do.

BuildKit: vendor/github.com/tonistiigi/fsutil/copy/copy.go, whose every turn this follows: where a source
goes depends on whether it is a folder and on what is at the destination.
"""

from __future__ import annotations

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
from inlay.errors import SolveError
from inlay.golang.patterns import PatternMatcher, clean
from inlay.trees.sourcefile import SourceFile
from inlay.trees.tree import Entry, shown
from inlay.trees.walking import has_exceptions, may_match_below
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence

    from inlay.actions.files.entries import Destination, Owner, Plan
    from inlay.trees.tree import Folder, Place, Tree


class CopyOptions(NamedTuple):
    """How to copy; by default as `cp -a`."""

    owner: Owner | None = None
    """None keeps the source's; what is made besides belongs to whoever makes it."""
    mode: int | None = None
    change_mode: Callable[[int], int] | None = None
    """From a source's whole mode to its new permission bits; comes before `mode`."""
    timestamp: int | None = None
    """Nanoseconds; None keeps the source's."""
    follow_links: bool = False
    contents_only: bool = False
    """A folder's content goes into the destination, not the folder."""
    replace_existing: bool = False
    """What is in the way goes, even a folder in the way of a file."""
    include_patterns: Sequence[str] = ()
    exclude_patterns: Sequence[str] = ()


def plan_copy(source: Tree, path: str, destination: Destination, target: str, options: CopyOptions) -> Plan:
    """Copy what is at `path` of `source` to `target`, both absolute; a slash at `target`'s end counts.

    Raises `SolveError` where something is in the way, `SourceError` where the source cannot be read.
    """
    copier = _Copier(source, destination, options)
    head, _, tail = target.rpartition("/")
    yield from copier.make_folders(destination.resolve(target if tail in ("", ".") else head))
    to = destination.resolve(clean(target))
    with source.resolve(path, follow_last=options.follow_links) as place:
        if place.stat is None:
            raise SolveError(f"lstat {shown(path)}: no such file or directory")
        yield from copier.copy_to(place, clean(path).rpartition("/")[2], to)


class _Above(NamedTuple):
    """A folder of the source that the walk is in, and where its content goes."""

    folder: Folder
    stat: os.stat_result
    target: str
    included: Sequence[bool] = ()
    excluded: Sequence[bool] = ()
    above: _Above | None = None


class _Copier:
    """One source on its way to one target."""

    __slots__ = ("_destination", "_done", "_exclude", "_include", "_links", "_new", "_options", "_source")

    def __init__(self, source: Tree, destination: Destination, options: CopyOptions) -> None:
        self._source = source
        self._destination = destination
        self._options = options
        self._include = PatternMatcher(options.include_patterns) if options.include_patterns else None
        self._exclude = PatternMatcher(options.exclude_patterns) if options.exclude_patterns else None
        self._links: dict[tuple[int, int], str] = {}
        """The first copies of files with several names, by device and inode."""
        self._done: set[str] = set()
        """Folders of the target whose own entry has been planned."""
        self._new: set[str] = set()
        """Those of them that were not there before, so that nothing is in them."""

    def make_folders(self, path: str) -> Iterator[PlannedEntry]:
        options = self._options
        mode = 0o755 if options.mode is None else options.mode
        return plan_folders(
            self._destination, path, mode=mode, owner=options.owner, timestamp=options.timestamp
        )

    def copy_to(self, place: Place, name: str, target: str) -> Iterator[PlannedEntry]:
        """Copy what is at `place`, which the user calls `name`, to the resolved path `target` or into it."""
        assert place.stat is not None
        there = self._destination.lstat(target)
        contents = place.is_folder and self._options.contents_only
        beside = contents or there is None or not (place.is_folder or mode_bits.S_ISDIR(there.st_mode))
        if name and not beside:
            target = f"{target}/{name}"
        if contents and there is None:
            yield from self.make_folders(target)
            self._new.add(target)
        else:
            yield from self.make_folders(target.rpartition("/")[0])
        if place.parent is not None and not place.is_folder:
            yield from self._leaf(place.parent, place.name, place.stat, target)
            return
        with self._source.enter_place(place) as folder:
            yield from self._start(_Above(folder, place.stat, target))

    def _start(self, top: _Above) -> Iterator[PlannedEntry]:
        """Copy the folder that the source is: patterns are for what is in it."""
        yield self._folder(top, there=self._destination.lstat(top.target), overwrite=False)
        yield from self._content(top, "")

    def _content(self, here: _Above, prefix: str) -> Iterator[PlannedEntry]:
        """Copy what is in a folder; `prefix` with its name is what patterns are to match."""
        for entry in self._source.entries(here.folder):
            yield from self._entry(here, entry, prefix + entry[0])

    def _entry(self, here: _Above, entry: Entry, candidate: str) -> Iterator[PlannedEntry]:
        name, stat, state = entry
        is_in, is_out = True, False
        included: Sequence[bool] = ()
        excluded: Sequence[bool] = ()
        if self._include:
            is_in, included = self._include.match_with_parents(candidate, here.included)
        if self._exclude:
            is_out, excluded = self._exclude.match_with_parents(candidate, here.excluded)
        target = f"{here.target}/{name}"
        if is_in and not is_out:
            yield from self._folders_above(here)
        if not mode_bits.S_ISDIR(stat.st_mode):
            if is_in and not is_out:
                yield from self._leaf(here.folder, name, stat, target, above=here.target)
            return
        if is_out and not has_exceptions(self._exclude):
            return
        if not is_in and not may_match_below(self._include, candidate):
            return
        with self._source.enter(here.folder, name, state) as inner:
            below = _Above(inner, stat, target, included, excluded, here)
            if is_in and not is_out:
                yield self._folder(below, there=self._there(target, here.target), overwrite=True)
            yield from self._content(below, candidate + "/")

    def _folders_above(self, here: _Above) -> Iterator[PlannedEntry]:
        """Make the folders that nothing chose, now that something in them is chosen."""
        waiting = []
        at: _Above | None = here
        while at is not None and at.target not in self._done:
            waiting.append(at)
            at = at.above
        for one in reversed(waiting):
            there = self._destination.lstat(one.target)
            entry = self._folder(one, there=there, overwrite=True)
            if entry.exists:
                entry = PlannedEntry(FOLDER, one.target, mode=one.stat.st_mode & 0o7777, exists=True)
            yield entry

    def _folder(self, here: _Above, *, there: os.stat_result | None, overwrite: bool) -> PlannedEntry:
        """The entry of a folder itself. One that exists gets the source's times only, or with `overwrite` all."""
        exists = there is not None and mode_bits.S_ISDIR(there.st_mode)
        if there is not None and not exists and not self._options.replace_existing:
            raise SolveError(f"cannot copy to non-directory: {shown(here.target)}")
        self._done.add(here.target)
        if not exists:
            self._new.add(here.target)
        plain = PlannedEntry(FOLDER, here.target, times=self._times(here.stat), exists=exists)
        if exists and not overwrite:
            return plain
        return plain._replace(
            mode=self._mode(here.stat.st_mode),
            owner=self._owner(here.stat),
            xattrs=self._source.xattrs(here.folder),
            replaces=there is not None and not exists,
        )

    def _leaf(
        self, folder: Folder, name: str, stat: os.stat_result, target: str, *, above: str = ""
    ) -> Iterator[PlannedEntry]:
        """Copy what is no folder."""
        there = self._there(target, above)
        if there is not None and mode_bits.S_ISDIR(there.st_mode) and not self._options.replace_existing:
            raise SolveError(f"cannot replace to directory {shown(target)} with file")
        entry = PlannedEntry(
            NODE,
            target,
            owner=self._owner(stat),
            times=self._times(stat),
            replaces=there is not None,
        )
        try:
            if mode_bits.S_ISREG(stat.st_mode):
                yield from self._file(folder, name, stat, entry)
            elif mode_bits.S_ISLNK(stat.st_mode):
                xattrs = self._source.xattrs(folder, name)
                yield entry._replace(kind=SYMLINK, link=self._source.target(folder, name), xattrs=xattrs)
            else:
                yield self._node(stat, entry._replace(xattrs=self._source.xattrs(folder, name)))
        except OSError as error:
            raise self._source.unreadable(f"{folder.path}/{name}", error) from error

    def _file(
        self, folder: Folder, name: str, stat: os.stat_result, entry: PlannedEntry
    ) -> Iterator[PlannedEntry]:
        entry = entry._replace(kind=FILE, mode=self._mode(stat.st_mode))
        if stat.st_nlink > 1:
            first = self._links.setdefault((stat.st_dev, stat.st_ino), entry.path)
            if first != entry.path:
                yield PlannedEntry(HARD_LINK, entry.path, link=first, replaces=entry.replaces)
                return
        self._source.check_unchanged(folder, name, stat)
        content = SourceFile(
            self._source,
            folder.path,
            name,
            stat.st_size,
            stat.st_ino,
            stat.st_ctime_ns,
            has_holes=stat.st_blocks * 512 < stat.st_size,
        )
        xattrs = self._source.xattrs(folder, name)
        if self._source.is_context:  # lost on the way, as with BuildKit, though they count in the digest
            xattrs.pop("security.capability", None)
        yield entry._replace(content=content, xattrs=xattrs)

    def _node(self, stat: os.stat_result, entry: PlannedEntry) -> PlannedEntry:
        """A device, fifo or socket.

        BuildKit clears a socket's type bits from what it makes: a socket becomes an empty file, and a
        block device, which has a bit in common with it, a character device.
        """
        kind = stat.st_mode & 0o170000 & ~mode_bits.S_IFSOCK
        mode = self._mode(stat.st_mode)
        if not kind:
            return entry._replace(kind=FILE, content=b"", mode=mode)
        return entry._replace(mode=kind | mode, device=stat.st_rdev)

    def _there(self, target: str, above: str) -> os.stat_result | None:
        return None if above in self._new else self._destination.lstat(target)

    def _mode(self, mode: int) -> int:
        options = self._options
        if options.change_mode:
            return options.change_mode(mode)
        return (mode if options.mode is None else options.mode) & 0o7777

    def _owner(self, stat: os.stat_result) -> Owner:
        return self._options.owner or self._source.owner(stat)

    def _times(self, stat: os.stat_result) -> tuple[int, int]:
        timestamp = self._options.timestamp
        if timestamp is not None:
            return timestamp, timestamp
        return (stat.st_mtime_ns if self._source.is_context else stat.st_atime_ns), stat.st_mtime_ns
