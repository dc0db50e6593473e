"""Noting what a plan would write, for a layer that is made of it without a folder in between.

What cannot be told without a folder is left to `writing`: `Unnoted` says so, before anything was done.
"""

from __future__ import annotations

import os
import stat as mode_bits

from inlay.actions.files.entries import FILE, FOLDER, HARD_LINK, REMOVAL, SYMLINK, PlannedEntry
from inlay.archive.diff import buildkit_xattrs
from inlay.archive.planned import LayerStack, PlannedFile, PlannedLayer
from inlay.tasks import check_cancelled
from inlay.trees.sourcefile import SourceFile
from inlay.trees.treedigest import xattr_counts
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inlay.archive.planned import Looks
    from inlay.trees.tree import Tree


class Unnoted(Exception):
    """A plan has an entry that only a folder can take: a removal, an archive's member, the like."""


class NotedLayer:
    """A layer on top of others, as the destination of plans; notes what they write.

    `now_ns` is the time of what gets none of its own. For one thread; to be closed.
    """

    __slots__ = ("_base", "_below", "_now_ns", "_timed", "_tree", "is_whole_in_archive", "layer")

    def __init__(self, base: Tree | None, layers: Sequence[PlannedLayer], *, now_ns: int) -> None:
        self.layer = PlannedLayer()
        self.is_whole_in_archive = True
        """Whether an archive can keep all that the layer has; some extended attributes it does not."""
        self._base = base
        self._below = LayerStack(base, layers)
        self._tree = LayerStack(base, [*layers, self.layer])
        self._now_ns = now_ns
        self._timed: set[str] = set()
        """Folders that the plan gave a time, which they keep until it is over."""

    def __enter__(self) -> NotedLayer:
        return self

    def __exit__(self, *_: object) -> None:
        self._below.__exit__(None, None, None)
        self._tree.__exit__(None, None, None)

    # -- as a destination ---------------------------------------------------------------------------

    def resolve(self, path: str, *, below: str = "") -> str:
        if below:
            raise Unnoted
        return self._tree.resolve(path)

    def lstat(self, path: str) -> os.stat_result | None:
        return self._tree.lstat(path)

    def glob(self, pattern: str) -> list[str]:
        raise Unnoted

    def users(self) -> Tree | None:
        """The base, unless a planned layer has a say in who its users are."""
        for name in ("/etc/passwd", "/etc/group"):
            if self._tree.is_planned(self._tree.resolve(name)):
                raise Unnoted
        return self._base

    # -- noting -------------------------------------------------------------------------------------

    def carry_out(self, plan: Iterable[PlannedEntry]) -> None:
        """Note the entries of `plan`. Raises `Unnoted`; the layer is then of no use."""
        self._timed.clear()
        for entry in plan:
            check_cancelled()
            if entry.kind == FOLDER and entry.exists:
                self._dress(self._folder(entry.path), entry)
            elif entry.kind == REMOVAL or os.path.basename(entry.path).startswith(".wh."):
                raise Unnoted
            else:
                self._put(entry)
            if entry.kind == FOLDER and entry.times is not None:
                self._timed.add(entry.path)

    def _put(self, entry: PlannedEntry) -> None:
        """Note something that is not there yet, or replaces what is."""
        above, _, name = entry.path.rpartition("/")
        folder = self._folder(above)
        file = self._linked(entry) if entry.kind == HARD_LINK else self._made(entry, folder)
        if entry.replaces:
            self._check_replaced(entry.path, file)
        assert folder.children is not None
        before = folder.children.get(name)
        if before is not None:
            before.names -= 1
        folder.children[name] = file
        if above not in self._timed:
            folder.mtime_ns = self._now_ns

    def _made(self, entry: PlannedEntry, folder: PlannedFile) -> PlannedFile:
        mode, gid = _FULL_MODES.get(entry.kind, 0) | (entry.mode or 0), 0
        if folder.looks[0] & mode_bits.S_ISGID:
            gid = folder.looks[2]
        file = PlannedFile((mode, *(entry.owner or (0, gid))), self._now_ns)
        content = entry.content
        if content is not None:
            if not isinstance(content, SourceFile | bytes):
                raise Unnoted
            file.content = content
        file.link, file.device = entry.link, entry.device
        if not all(0 <= number < _NO_ID for number in file.looks):
            raise Unnoted
        if mode_bits.S_ISCHR(mode) and not entry.device:
            raise Unnoted  # in a layer directory it says that something is gone
        if entry.times is not None:
            file.mtime_ns = entry.times[1]
        file.xattrs = self._kept(entry.xattrs)
        return file

    def _linked(self, entry: PlannedEntry) -> PlannedFile:
        file, _ = self.layer.look(entry.link)
        if file is None or (entry.mode, entry.owner, entry.times) != (None, None, None):
            raise Unnoted
        file.names += 1
        return file

    def _check_replaced(self, path: str, file: PlannedFile) -> None:
        """Raises `Unnoted` where a folder is replaced, or something that may be just what replaces it."""
        there = self._tree.lstat(path)
        if there is not None and mode_bits.S_ISDIR(there.st_mode):
            raise Unnoted
        below = self._below.lstat(path)
        if below is None:
            return
        if mode_bits.S_ISDIR(below.st_mode):
            raise Unnoted
        if (_looks(below), below.st_size) == (file.looks, file.size):
            raise Unnoted

    def _folder(self, path: str) -> PlannedFile:
        """The folder at `path`, noted as it is below if it is not this layer's."""
        found, _ = self.layer.look(path)
        if found is not None:
            if found.children is None:
                raise Unnoted
            return found
        above, _, name = path.rpartition("/")
        status = self._below.lstat(path)
        if status is None or not mode_bits.S_ISDIR(status.st_mode):
            raise Unnoted
        folder = PlannedFile(_looks(status), status.st_mtime_ns)  # it stays, unless something is put into it
        folder.below = folder.looks
        folder.xattrs = self._kept(self._below.xattrs(path))
        parent = self._folder(above)
        assert parent.children is not None
        parent.children[name] = folder
        return folder

    def _dress(self, folder: PlannedFile, entry: PlannedEntry) -> None:
        """Give a folder that is there what is planned for it."""
        mode, uid, gid = folder.looks
        if entry.mode is not None:
            mode = mode_bits.S_IFDIR | entry.mode & 0o7777
        if entry.owner is not None:
            uid, gid = entry.owner
        folder.looks = mode, uid, gid
        if entry.times is not None:
            folder.mtime_ns = entry.times[1]
        if entry.xattrs:
            folder.xattrs = {**folder.xattrs, **self._kept(entry.xattrs)}

    def _kept(self, xattrs: Mapping[str, bytes]) -> Mapping[str, bytes]:
        if any(name.startswith(("trusted.", "user.overlay.")) for name in xattrs):
            raise Unnoted  # such are not taken out of archives
        if xattrs and not all(buildkit_xattrs(name) or not xattr_counts(name) for name in xattrs):
            self.is_whole_in_archive = False
        return xattrs


_NO_ID = (1 << 32) - 1
"""The number that no user and no group has."""
_FULL_MODES = {FOLDER: mode_bits.S_IFDIR, FILE: mode_bits.S_IFREG, SYMLINK: mode_bits.S_IFLNK | 0o777}
"""What the mode of an entry lacks; a node's has all."""


def _looks(status: os.stat_result) -> Looks:
    return status.st_mode, status.st_uid, status.st_gid
