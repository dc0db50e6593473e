"""Files that are to be read later: known by where they are and what they were, not by an open descriptor."""

from __future__ import annotations

import os

from inlay.errors import SourceError
from inlay.trees.tree import Folder, shown
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from types import TracebackType

    from inlay.trees.tree import Tree


class SourceFile(NamedTuple):
    """The regular file `name` in `folder` (a path without links) of `tree`; `inode` and `ctime_ns` are those
    that it had when it was looked at. `has_holes`: it takes less room than its size."""

    tree: Tree
    folder: str
    name: str
    size: int
    inode: int
    ctime_ns: int
    has_holes: bool = False

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}"


class OpenFolders:
    """The folders of one tree on the way to the one that was asked for last: open until another way is gone."""

    __slots__ = ("_open", "_tree")

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._open: list[Folder] = []

    def at(self, path: str) -> Folder:
        """The folder at `path`, without links on the way. Raises OSError where there is none."""
        folders = self._open
        if folders and folders[-1].path == path:
            return folders[-1]
        while folders and not (folders[-1].path == path or path.startswith(folders[-1].path + "/")):
            folders.pop().close()
        if not folders:
            folders.append(self._tree.root())
        here = folders[-1]
        for name in path[len(here.path) + 1 :].split("/") if path != here.path else ():
            here = Folder(self._tree.open_below(here, name), f"{here.path}/{name}")
            folders.append(here)
        return here

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


class Sources:
    """Opens source files, one after another; quickly where they come folder by folder."""

    __slots__ = ("_folders",)

    def __init__(self) -> None:
        self._folders: dict[Tree, OpenFolders] = {}

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for folders in self._folders.values():
            folders.close()

    def open(self, file: SourceFile) -> int:
        """Open `file` to be read; a descriptor. Raises `SourceError` where it cannot be, or is another now."""
        tree = file.tree
        folders = self._folders.get(tree)
        if folders is None:
            folders = self._folders[tree] = OpenFolders(tree)
        try:
            fd = tree.open(folders.at(file.folder), file.name)
        except OSError as error:
            raise tree.unreadable(file.path, error) from error
        if tree.is_context:
            try:
                status = os.fstat(fd)
            except OSError as error:
                os.close(fd)
                raise tree.unreadable(file.path, error) from error
            if (status.st_ino, status.st_size, status.st_ctime_ns) != (file.inode, file.size, file.ctime_ns):
                os.close(fd)
                raise SourceError(f"{shown(file.path)} changed during the build; build again")
        return fd
