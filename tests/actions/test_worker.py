"""Who runs steps ends with the build, whenever that ends."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest

from inlay.actions.secrets import Secrets
from inlay.actions.worker import Worker
from inlay.errors import SolveError
from inlay.refs.ref import ContextRef, Layer
from inlay.tasks import in_thread, run, spawn
from inlay.trees.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.executor.executor import Executor
    from inlay.refs.ref import Ref
    from inlay.refs.store import RefStore
    from inlay.snapshot.snapshotter import LayerDir


class CountingExecutor:
    """Runs nothing; counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def worker_with(make_executor: Callable[[], CountingExecutor], refs: Folders | None = None) -> Worker:
    return Worker(
        cast("RefStore", refs),
        make_executor=cast("Callable[[], Executor]", make_executor),
        secrets=Secrets((), ()),
        trees="",
        emit=lambda event: None,
        clock=lambda: 0,
    )


class Folder(NamedTuple):
    """A layer in the making."""

    path: str

    def commit(self) -> str:
        return self.path

    def discard(self) -> None:
        raise AssertionError("nothing went wrong")


class Folders:
    """Layers that are plain folders: as much of a `RefStore` as copying takes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.mounted = self
        self.descriptions: list[object] = []

    async def prepare(self, base: Ref) -> Folder:
        return Folder(tempfile.mkdtemp(dir=self._root))

    def add_directory(self, directory: str, **about: object) -> Layer:
        self.descriptions.append(about["description"])
        return Layer(directory, directory=cast("LayerDir", directory))


def test_each_context_is_copied_itself_wherever_it_lies_in_memory(tmp_path: Path) -> None:
    async def build() -> None:
        worker = worker_with(CountingExecutor, Folders(tmp_path))
        for n in range(20):
            (tmp_path / f"context-{n}").mkdir()
            (tmp_path / f"context-{n}" / "file").write_text(str(n))
            with Tree.at(str(tmp_path / f"context-{n}")) as tree:
                copy = await worker.as_layers(ContextRef(tree, "context"))
                assert await worker.as_layers(ContextRef(tree, "context")) == copy
            assert (Path(copy.layers[0].key) / "file").read_text() == str(n)
            del tree  # the next one may get its place

    run(build())


def test_a_copy_says_of_which_context_it_is_as_history_shows_it(tmp_path: Path) -> None:
    folders = Folders(tmp_path)

    async def build() -> None:
        (tmp_path / "docs").mkdir()
        with Tree.at(str(tmp_path / "docs")) as tree:
            await worker_with(CountingExecutor, folders).as_layers(ContextRef(tree, "docs"))

    run(build())
    assert folders.descriptions == ["local source for docs"]


def test_an_executor_that_is_still_being_made_when_a_build_fails_is_closed() -> None:
    executor, begun, released = CountingExecutor(), threading.Event(), threading.Event()

    def make() -> CountingExecutor:
        begun.set()
        assert released.wait(10)
        return executor

    async def build() -> None:
        worker = worker_with(make)
        try:
            spawn(worker.executor())
            await in_thread(begun.wait)
            raise SolveError("a layer is broken")
        finally:
            worker.close()
            released.set()

    with pytest.raises(SolveError):
        run(build())
    assert executor.closed == 1


def test_an_executor_that_nobody_waited_for_is_closed() -> None:
    executor, made = CountingExecutor(), threading.Event()

    def make() -> CountingExecutor:
        made.set()
        return executor

    async def build() -> None:
        worker = worker_with(make)
        spawn(worker.executor())
        await in_thread(made.wait)
        worker.close()

    run(build())
    assert executor.closed == 1


@pytest.mark.parametrize("is_dismissed", [True, False])
def test_an_executor_is_closed_once(is_dismissed: bool) -> None:
    executor = CountingExecutor()

    async def build() -> None:
        worker = worker_with(lambda: executor)
        await worker.executor()
        if is_dismissed:
            await worker.dismiss()
        worker.close()

    run(build())
    assert executor.closed == 1
