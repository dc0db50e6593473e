"""Several layers as one plain tree, copied: where overlayfs is refused, and for more layers than it takes.

    root/merged/<key>/fs        the tree
    root/merged/<key>/layers    the ids of its layers, lowest first, a line each

A tree is made once and read by whoever needs the same layers; a reader has a shared lock on its folder.
"""

from __future__ import annotations

import errno
import fcntl
import os

from inlay.archive.diff import all_entries
from inlay.archive.layer import merge_entries
from inlay.archive.whiteout import is_whiteout
from inlay.digest import text_sha256
from inlay.snapshot.snapshotter import copy_root_looks, items_below, lock_unused
from inlay.trees.rooted import remove_tree
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.snapshot.snapshotter import Incoming, LayerDir, LayerDirs


class Merged:
    """A merged tree that stays where it is until it is closed. `name` is its path inside the root."""

    __slots__ = ("_lock", "name", "path")

    def __init__(self, root: str, name: str, lock: int) -> None:
        self.name = name
        self.path = f"{root}/{name}"
        self._lock = lock

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def merge(dirs: LayerDirs, layers: Sequence[LayerDir]) -> Merged:
    """The tree of `layers`, lowest first; copies them if nobody has before, and if there is a need to."""
    if not layers:
        dirs.open()
        return Merged(dirs.root, "empty", -1)
    if len(layers) == 1 and _is_plain(dirs.upper(layers[0])):
        return Merged(dirs.root, f"{layers[0]}/fs", -1)
    key = _key(layers)
    while True:
        found = _find(dirs, key)
        if found is not None:
            return found
        with dirs.receive() as incoming:
            for layer in layers:
                merge_entries(all_entries(dirs.upper(layer)), incoming.directory)
            copy_root_looks(dirs.upper(layers[-1]), incoming.directory)
            _keep(dirs, incoming, layers)


def adopt(dirs: LayerDirs, layers: Sequence[LayerDir], tree: str) -> None:
    """Take over the folder `tree`, which is what `layers` make, so that nobody has to copy them."""
    with dirs.receive() as incoming:
        os.rmdir(incoming.directory)
        os.rename(tree, incoming.directory)
        _keep(dirs, incoming, layers)


def drop_merged(dirs: LayerDirs, *, stale_only: bool) -> None:
    """Delete merged trees that nobody reads; with `stale_only` those that have a layer which is gone."""
    for key in os.listdir(f"{dirs.root}/merged"):
        folder = f"{dirs.root}/merged/{key}"
        with open(f"{folder}/layers") as listed:
            layers = listed.read().split()
        if stale_only and all(dirs.exists(layer) for layer in layers):
            continue
        lock = lock_unused(folder)
        if lock is None:
            continue
        try:
            doomed = f"{dirs.root}/new/{key}"
            os.rename(folder, doomed)
            remove_tree(doomed)
        finally:
            os.close(lock)


def _is_plain(layer_directory: str) -> bool:
    """Whether a layer directory is a tree as it stands: without whiteouts."""
    others = (
        item
        for item in items_below(layer_directory)
        if not item.is_dir(follow_symlinks=False) and not item.is_file(follow_symlinks=False)
    )
    return not any(is_whiteout(item.stat(follow_symlinks=False)) for item in others)


def _key(layers: Sequence[LayerDir]) -> str:
    return text_sha256("\n".join(layers).encode()).hexdigest()[:32]


def _find(dirs: LayerDirs, key: str) -> Merged | None:
    folder = f"{dirs.root}/merged/{key}"
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        if os.stat(folder).st_ino == os.fstat(lock).st_ino:
            found, lock = Merged(dirs.root, f"merged/{key}/fs", lock), -1
            return found
    except FileNotFoundError:
        pass
    finally:
        if lock >= 0:  # it was deleted, or replaced, while this process waited for the lock
            os.close(lock)
    return None


def _keep(dirs: LayerDirs, incoming: Incoming, layers: Sequence[LayerDir]) -> None:
    """Give a complete tree its place, unless another process was quicker."""
    with open(f"{incoming.folder}/layers", "w") as listed:
        listed.write("".join(f"{layer}\n" for layer in layers))
    try:
        incoming.move(f"{dirs.root}/merged/{_key(layers)}")
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
