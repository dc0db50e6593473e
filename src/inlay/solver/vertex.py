"""What the solver knows of the outside: steps to take, a place for results, and someone who watches."""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from inlay.solver.keys import CacheMap, CacheRecord

R = TypeVar("R")


class Vertex(Protocol[R]):
    """One step. `digest` names it and all that it depends on, within a solve."""

    @property
    def digest(self) -> str: ...
    @property
    def inputs(self) -> Sequence[Edge[R]]: ...
    @property
    def is_source(self) -> bool:
        """Whether it brings something in, and so is pinned before it is run. A step on scratch is none, though it
        has no inputs either."""

    @property
    def is_instruction(self) -> bool:
        """Whether somebody wrote it as a step, rather than that it brings in or prepares what one takes."""

    @property
    def ignore_cache(self) -> bool:
        """Run even if a record exists; what comes out is recorded all the same."""

    async def cache_map(self) -> CacheMap[R]:
        """Say what the step is. For a source this pins what it is a source of; nothing is fetched. Only a source
        may take its time for that; it is asked once in a solve."""

    async def run(self, inputs: Sequence[R]) -> Sequence[R]:
        """Take the step; return one result for each output."""


class Edge(NamedTuple, Generic[R]):
    """One output of a vertex."""

    vertex: Vertex[R]
    output: int = 0


class ResultStore(Protocol[R]):
    """Where results live between builds."""

    async def load(self, record: CacheRecord) -> R:
        """Bring back a recorded result. It may stay remote until someone looks inside.

        Raises `CacheError` when it is not there any more: then the step runs instead.
        """

    async def keep(self, result: R) -> str:
        """Make `result` outlive the build; return its id for records, always the same one."""


class Observer(Protocol[R]):
    """Told what happens to vertices, in the order in which BuildKit's progress says it.

    A source starts and completes when it is pinned, and again when it is fetched. A vertex that is not
    looked into because something above it was found is `cached` too.
    """

    def started(self, vertex: Vertex[R]) -> None: ...
    def completed(self, vertex: Vertex[R]) -> None: ...
    def cached(self, vertex: Vertex[R]) -> None: ...
    def failed(self, vertex: Vertex[R], error: BaseException) -> None:
        """`error` is `tasks.Cancelled` where another vertex failed first."""


class Silent:
    """An observer that looks away."""

    def started(self, vertex: Vertex[R]) -> None: ...
    def completed(self, vertex: Vertex[R]) -> None: ...
    def cached(self, vertex: Vertex[R]) -> None: ...
    def failed(self, vertex: Vertex[R], error: BaseException) -> None: ...


def inputs_first(edges: Iterable[Edge[R]], without: Container[str] = ()) -> list[Edge[R]]:
    """`edges` and all that they depend on, each once, after its inputs.

    Vertices whose digests are in `without` are left out with all that only they depend on.
    """
    order: list[Edge[R]] = []
    seen: set[tuple[str, int]] = set()
    stack: list[tuple[Edge[R], Iterator[Edge[R]]]] = []

    def enter(edge: Edge[R]) -> None:
        name = (edge.vertex.digest, edge.output)
        if name not in seen and name[0] not in without:
            seen.add(name)
            stack.append((edge, iter(edge.vertex.inputs)))

    for edge in edges:
        enter(edge)
        while stack:
            top, inputs = stack[-1]
            below = next(inputs, None)
            if below is None:
                order.append(top)
                stack.pop()
            else:
                enter(below)
    return order
