"""Making a layer directory independent of the tree that it was made on.

overlayfs leaves more in its upper directory than has changed: files that were opened for writing, folders in
which something was made and removed again; and it marks every new folder opaque because nothing is below it.
On other layers than those it was made on, that would hide or undo what they have. A tidy directory means
what its archive means.
"""

from __future__ import annotations

import os
import stat

from inlay.archive import whiteout
from inlay.archive.diff import FOLDER, TreeRoot, all_xattrs, is_same, list_names, lstat, open_tree
from inlay.tasks import check_cancelled


class _Folder:
    """A folder of the layer directory, the one below it (-1: none), and what is left to look at."""

    __slots__ = ("lower", "name", "names", "same", "times", "upper")

    def __init__(self, name: bytes, upper: int, lower: int, *, same: bool) -> None:
        self.name = name
        self.upper = upper
        self.lower = lower
        self.same = same
        self.times: tuple[int, int] | None = None  # to be set again when something was removed
        self.names = list_names(upper)


def tidy_layer(layer_directory: TreeRoot, lower: TreeRoot) -> None:
    """Remove from a layer directory what says nothing about the tree `lower` that it was made on.

    That is copies of what did not change, whiteouts of what is not there, and opaque marks on folders that
    hide none. The times of folders stay.
    """
    stack = [_Folder(b"", open_tree(layer_directory), open_tree(lower), same=False)]
    try:
        while stack:
            check_cancelled()
            folder = stack[-1]
            if not folder.names:
                _leave(stack)
            elif (below := _visit(folder, folder.names.pop())) is not None:
                stack.append(below)
    finally:
        for folder in stack:
            _close(folder)


def _visit(folder: _Folder, name: bytes) -> _Folder | None:
    """Look at one name; return the folder that it is, if that has to be looked at too."""
    upper = os.lstat(name, dir_fd=folder.upper)
    lower = lstat(name, folder.lower) if folder.lower >= 0 else None
    if stat.S_ISDIR(upper.st_mode):
        return _enter(folder, name, upper, lower)
    if whiteout.is_whiteout(upper):
        idle = lower is None
    else:
        idle = upper.st_nlink == 1 and lower is not None and _is_copy(folder, name, lower, upper)
    if idle:
        _remember_times(folder)
        os.unlink(name, dir_fd=folder.upper)
    return None


def _enter(
    folder: _Folder, name: bytes, upper: os.stat_result, lower: os.stat_result | None
) -> _Folder | None:
    fd = os.open(name, FOLDER, dir_fd=folder.upper)
    if whiteout.is_opaque(fd):
        if lower is not None:
            os.close(fd)
            return None  # it hides something, and all in it is new
        whiteout.unmark_opaque(fd)
    has_lower = lower is not None and stat.S_ISDIR(lower.st_mode)
    same = lower is not None and _is_copy(folder, name, lower, upper)
    lower_fd = os.open(name, FOLDER, dir_fd=folder.lower) if has_lower else -1
    return _Folder(name, fd, lower_fd, same=same)


def _leave(stack: list[_Folder]) -> None:
    folder = stack.pop()
    empty = folder.same and not list_names(folder.upper)
    if folder.times is not None:
        os.utime(folder.upper, ns=folder.times)
    _close(folder)
    if empty and stack:
        _remember_times(stack[-1])
        os.rmdir(folder.name, dir_fd=stack[-1].upper)


def _is_copy(folder: _Folder, name: bytes, lower: os.stat_result, upper: os.stat_result) -> bool:
    """Stricter than for archives: the attributes that those do not keep must be equal too."""
    return is_same(folder.lower, folder.upper, name, lower, upper) and (
        _xattrs(folder.lower, name) == _xattrs(folder.upper, name)
    )


def _remember_times(folder: _Folder) -> None:
    if folder.times is None:
        status = os.fstat(folder.upper)
        folder.times = status.st_atime_ns, status.st_mtime_ns


def _xattrs(dir_fd: int, name: bytes) -> dict[str, bytes]:
    path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a file system without any
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if all_xattrs(name)}


def _close(folder: _Folder) -> None:
    os.close(folder.upper)
    if folder.lower >= 0:
        os.close(folder.lower)
