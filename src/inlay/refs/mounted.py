"""Trees to look at and to write to."""

from __future__ import annotations

from inlay.refs.ref import Ref
from inlay.tasks import in_thread, spawn
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.archive.planned import PlannedLayer
    from inlay.refs.unpacking import Unpacking
    from inlay.snapshot.snapshotter import Active, Snapshotter, View
    from inlay.tasks import Limiter, Task
    from inlay.trees.tree import Tree


class Mounted:
    """Mounts each tree once for all who read it. All is unmounted with `close`."""

    def __init__(self, unpacking: Unpacking, snapshotter: Callable[[], Snapshotter], disk: Limiter) -> None:
        self._unpacking = unpacking
        self._snapshotter = snapshotter
        self._disk = disk
        self._trees: dict[tuple[str, ...], Task[Tree]] = {}
        """By the keys of the trees' layers, as the next."""
        self._views: dict[tuple[str, ...], Task[View]] = {}
        self._kept: list[Tree] = []

    def keep(self, tree: Tree) -> None:
        """Have `close` close a tree that is not made of layers. May be called on any thread."""
        self._kept.append(tree)

    async def tree(self, ref: Ref) -> Tree:
        """`ref` to read. It is shared by all who ask, and open until `close`."""
        key = _keys(ref)
        if key not in self._trees:
            self._trees[key] = spawn(self._tree(ref))
        return await self._trees[key]

    async def _tree(self, ref: Ref) -> Tree:
        from inlay.trees.tree import Tree

        return Tree.at((await self.view(ref)).path)

    def opened(self, ref: Ref) -> Tree | None:
        """The tree of `ref`, if somebody has asked for it."""
        task = self._trees.get(_keys(ref))
        return task.result() if task is not None and task.succeeded else None

    async def view(self, ref: Ref) -> View:
        """A read-only mount of `ref`, shared by all who ask, and there until `close`."""
        key = _keys(ref)
        if key not in self._views:
            self._views[key] = spawn(self.own_view(ref))
        return await self._views[key]

    async def own_view(self, ref: Ref) -> View:
        """A read-only mount of `ref`; the caller closes it."""
        directories = await self._unpacking.directories(ref)
        view = self._snapshotter().view
        return await in_thread(view, directories, limiter=self._disk, discard=lambda made: made.close())

    async def prepare(self, ref: Ref) -> Active:
        """A writable mount on top of `ref`; the caller commits or discards it."""
        directories = await self._unpacking.directories(ref)
        prepare = self._snapshotter().prepare
        return await in_thread(prepare, directories, limiter=self._disk, discard=lambda made: made.discard())

    async def stack(self, ref: Ref) -> tuple[Tree | None, list[PlannedLayer]]:
        """`ref` to look things up in: a tree, and the layers on top of it that are known without one."""
        count = len(ref.layers)
        planned: list[PlannedLayer] = []
        while count and (top := ref.layers[count - 1].planned) is not None:
            planned.append(top)
            count -= 1
        return await self.tree(Ref(ref.layers[:count])) if count else None, planned[::-1]

    def forget_failures(self) -> None:
        """What failed may be tried again."""
        self._trees = {key: task for key, task in self._trees.items() if task.succeeded}
        self._views = {key: task for key, task in self._views.items() if task.succeeded}

    def close(self) -> None:
        for tree in self._trees.values():
            if tree.succeeded:
                tree.result().close()
        for kept in self._kept:
            kept.close()
        for view in self._views.values():
            if view.succeeded:
                view.result().close()
        self._kept.clear()
        self._trees.clear()
        self._views.clear()


def _keys(ref: Ref) -> tuple[str, ...]:
    return tuple(layer.key for layer in ref.layers)
