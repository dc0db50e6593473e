"""Which snapshotter to use, found out when a tree is needed for the first time."""

from __future__ import annotations

from _thread import allocate_lock

from inlay.errors import SolveError
from inlay.snapshot.snapshotter import LayerDirs
from inlay.system import privileges
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.snapshot.snapshotter import Active, Incoming, LayerDir, Snapshotter, View


def choose_snapshotter(root: str, *, warn: Callable[[str], None]) -> Snapshotter:
    """The snapshotter for `root`: overlayfs where it works, else copying, which `warn` is told about.

    Nothing is tried, and no time spent, before a tree is asked for.
    """
    return _Chosen(root, warn)


class _Chosen(LayerDirs):
    def __init__(self, root: str, warn: Callable[[str], None]) -> None:
        super().__init__(root)
        self._warn = warn
        self._choice: Snapshotter | None = None
        self._choosing = allocate_lock()

    def receive(self) -> Incoming:
        return self._chosen().receive()

    def prepare(self, layers: Sequence[LayerDir]) -> Active:
        return self._chosen().prepare(layers)

    def view(self, layers: Sequence[LayerDir]) -> View:
        return self._chosen().view(layers)

    def _chosen(self) -> Snapshotter:
        with self._choosing:
            if self._choice is None:
                self._choice = self._choose()
            return self._choice

    def _choose(self) -> Snapshotter:
        refusal = privileges.refusal()
        if refusal is not None:
            raise SolveError(f"layers cannot be unpacked: {refusal}")
        shortage = privileges.shortage()
        if shortage is not None:
            self._warn(shortage)
        from inlay.snapshot.overlay import Overlay, overlay_works

        reason = overlay_works(self.root)
        if reason is None:
            return Overlay(self.root)
        from inlay.snapshot.native import Native

        self._warn(f"every step copies its whole file system, because {reason}")
        return Native(self.root)
