"""Trees by copying: slow, but it works on every file system and without any privilege."""

from __future__ import annotations

import os

from inlay.archive.diff import diff_trees
from inlay.archive.layer import apply_entries, merge_entries
from inlay.snapshot.merged import adopt, merge
from inlay.snapshot.snapshotter import LayerDirs, View, copy_root_looks
from inlay.system import linux
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from inlay.snapshot.merged import Merged
    from inlay.snapshot.snapshotter import Incoming, LayerDir


class NativeActive:
    """A copy of layers to change."""

    __slots__ = ("_copied_ns", "_incoming", "_layers", "_lower", "_mounted", "_snapshotter", "_tree")

    def __init__(
        self, snapshotter: Native, incoming: Incoming, layers: Sequence[LayerDir], lower: Merged
    ) -> None:
        self._snapshotter = snapshotter
        self._incoming = incoming
        self._layers = layers
        self._lower = lower
        self._tree = f"{incoming.folder}/tree"
        os.mkdir(self._tree)
        merge_entries(diff_trees(None, lower.path), self._tree)
        copy_root_looks(lower.path, self._tree)
        self._copied_ns = _file_system_time(f"{incoming.folder}/clock")
        self._mounted = View(_mounted(self._tree, read_only=False))

    @property
    def fd(self) -> int:
        return self._mounted.fd

    @property
    def path(self) -> str:
        return self._mounted.path

    def commit(self, lower: View | None = None) -> LayerDir:
        self._mounted.close()
        changes = diff_trees(self._lower.path, self._tree, unchanged_before_ns=self._copied_ns)
        apply_entries(changes, self._incoming.directory)
        copy_root_looks(self._tree, self._incoming.directory)
        self._lower.close()
        adopt(self._snapshotter, [*self._layers, self._incoming.id], self._tree)
        return self._incoming.commit()

    def discard(self) -> None:
        self._mounted.close()
        self._lower.close()
        self._incoming.discard()

    def __enter__(self) -> NativeActive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class Native(LayerDirs):
    """The snapshotter for wherever overlayfs is refused."""

    def prepare(self, layers: Sequence[LayerDir]) -> NativeActive:
        lower = merge(self, layers)
        try:
            incoming = self.receive()
            try:
                return NativeActive(self, incoming, layers, lower)
            except BaseException:
                incoming.discard()
                raise
        except BaseException:
            lower.close()
            raise

    def view(self, layers: Sequence[LayerDir]) -> View:
        merged = merge(self, layers)
        try:
            return View(_mounted(merged.path, read_only=True), merged)
        except BaseException:
            merged.close()
            raise


def _mounted(folder: str, *, read_only: bool) -> int:
    """A detached bind mount of `folder`, or just the folder where that is not allowed."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount = linux.open_tree(b"", fd, recursive=False)
    except OSError:
        return fd
    os.close(fd)
    if read_only:
        linux.set_attributes(mount, linux.MOUNT_ATTR_RDONLY, recursive=False)
    return mount


def _file_system_time(path: str) -> int:
    """The clock by which the file system stamps changes: coarser than the system's."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return os.stat(path).st_ctime_ns
