"""Fetching a build context of git or the web before the build, because the Dockerfile is in it."""

from __future__ import annotations

from inlay.actions.step import steps_of
from inlay.solver.solver import Solver
from inlay.solver.vertex import Edge
from inlay.tasks import in_thread
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.actions.worker import Result, Worker
    from inlay.engine.frontend import Frontend
    from inlay.solver.index import CacheIndex
    from inlay.solver.vertex import Observer


async def load_context(
    frontend: Frontend,
    worker: Worker,
    index: CacheIndex,
    *,
    clock: Callable[[], int],
    observer: Observer[Result] | None = None,
    abort: Callable[[], None],
) -> None:
    """Give `frontend` the tree that it reads the Dockerfile from, if that is not here. Raises `SolveError`.

    It is solved as a step of the build, so that the build itself then finds it.
    """
    definition = await in_thread(frontend.remote_context, abort=abort)
    if definition is None or definition.target is None:
        return
    steps = steps_of(
        worker, definition.vertices, frontend.source_of(worker.refs), ignore_cache=lambda vertex: False
    )
    solver: Solver[Result] = Solver(index, worker, clock=clock, observer=observer)
    target = Edge(steps[definition.target.vertex.digest], definition.target.output)
    (solved,) = await solver.solve([target])
    tree = await worker.tree(solved.value)
    if tree is not None:
        frontend.take_context(tree)
