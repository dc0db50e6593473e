"""Who runs steps ends with the build, whenever that ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, cast

import pytest

from inlay.actions.secrets import Secrets
from inlay.actions.worker import Worker
from inlay.errors import SolveError
from inlay.tasks import in_thread, run, spawn

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.executor.executor import Executor
    from inlay.refs.store import RefStore


class CountingExecutor:
    """Runs nothing; counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def worker_with(make_executor: Callable[[], CountingExecutor]) -> Worker:
    return Worker(
        cast("RefStore", None),
        make_executor=cast("Callable[[], Executor]", make_executor),
        secrets=Secrets((), ()),
        trees="",
        emit=lambda event: None,
        clock=lambda: 0,
    )


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
