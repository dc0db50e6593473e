"""Vertices of LLB as the solver wants them: what is each keyed by, and how is it done?"""

from __future__ import annotations

from inlay.errors import BlobLost, ContentError, RegistryError, SolveError, system_error
from inlay.llb.keys import cache_map
from inlay.llb.ops import EMPTY, DiffOp, ExecOp, FileOp, MergeOp, SourceOp
from inlay.platform import host
from inlay.refs.ref import ContextRef, Ref
from inlay.solver.keys import CacheInput, CacheMap
from inlay.solver.vertex import Edge
from inlay.tasks import in_thread
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from typing import Protocol

    from inlay.actions.worker import Result, Worker
    from inlay.llb.graph import Vertex
    from inlay.llb.keys import ContentSelector
    from inlay.trees.tree import Tree

    class SourceAction(Protocol):
        """A source, pinned when asked for its digests and fetched when run."""

        async def digests(self) -> tuple[str, ...]: ...
        async def fetch(self) -> Result: ...


class Step:
    """One vertex, with what it takes to do it."""

    __slots__ = ("_source", "_worker", "digest", "ignore_cache", "inputs", "vertex")

    def __init__(
        self,
        worker: Worker,
        vertex: Vertex,
        inputs: Sequence[Edge[Result]],
        source: SourceAction | None,
        *,
        ignore_cache: bool,
    ) -> None:
        self._worker = worker
        self._source = source
        self.vertex = vertex
        self.digest: str = vertex.digest
        self.inputs = inputs
        self.ignore_cache = ignore_cache

    def __repr__(self) -> str:
        return f"<Step {self.vertex!r}>"

    @property
    def is_source(self) -> bool:
        return self._source is not None

    @property
    def is_instruction(self) -> bool:
        """Whether it is a step of the Dockerfile, rather than a source or an internal one."""
        return not isinstance(self.vertex.op, SourceOp) and not self.name.startswith("[internal]")

    @property
    def name(self) -> str:
        """What progress shows. What no instruction stands for is the unpacking of a context."""
        return self.vertex.name or "[internal] unpack build context"

    def opened(self, result: Result) -> Tree | None:
        """The tree of `result`, if a step has looked into it; None of an empty one."""
        return result.context if isinstance(result, ContextRef) else self._worker.refs.mounted.opened(result)

    async def cache_map(self) -> CacheMap[Result]:
        if self._source is not None:
            try:
                return CacheMap(await self._source.digests())
            except SolveError as error:
                raise self._located(error) from error
        try:
            key = cache_map(self.vertex.op, self.vertex.platform or host(), len(self.inputs))
        except SolveError as error:
            raise self._located(error) from error
        inputs = [
            CacheInput(each.selector, self._content_of(each.content), each.guard) for each in key.inputs
        ]
        return CacheMap((key.digest,), tuple(inputs))

    def _content_of(
        self, selectors: tuple[ContentSelector, ...] | None
    ) -> Callable[[Result], Awaitable[str]] | None:
        if selectors is None:
            return None

        async def digest_of(result: Result) -> str:
            from inlay.trees.contenthash import content_digest

            try:
                tree = await self._worker.tree(result)
                return await in_thread(content_digest, tree, selectors, limiter=self._worker.disk)
            except (SolveError, ContentError, RegistryError, OSError) as error:
                raise self._located(error) from error

        return digest_of

    async def run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        """Do the step. What goes wrong is told with the step's name and line."""
        try:
            if self._source is not None:
                return [await self._source.fetch()]
            self._worker.begin(self.vertex)
            results = await self._run(inputs)
            self._worker.made(self.vertex, results)
            return results
        except (SolveError, ContentError, RegistryError, OSError) as error:
            raise self._located(error) from error

    def _located(self, error: SolveError | ContentError | RegistryError | OSError) -> Exception:
        """`error`, which now says where it happened. It may be several steps': each gets its own."""
        if isinstance(error, BlobLost | BrokenPipeError):
            return error  # no step fails of that: it runs again, or nobody listens any more
        if isinstance(error, OSError):
            error = SolveError(system_error(error))
        if not isinstance(error, SolveError):
            return SolveError(str(error), step=self.name, location=self.vertex.location)
        if error.location is not None:
            return error
        from copy import copy

        located = copy(error)
        located.step = error.step or self.name
        located.location = self.vertex.location
        return located

    async def _run(self, inputs: Sequence[Result]) -> Sequence[Result]:
        op = self.vertex.op
        if isinstance(op, ExecOp):
            from inlay.actions.exec import run_exec

            return await run_exec(self._worker, self.vertex, op, inputs)
        if isinstance(op, FileOp):
            from inlay.actions.files.op import run_file

            return [await run_file(self._worker, self.vertex, op, inputs)]
        if isinstance(op, MergeOp):
            return [merge([await self._worker.as_layers(inputs[each.input]) for each in op.inputs])]
        if isinstance(op, DiffOp):
            return [diff(*[await self._side(side, inputs) for side in op])]
        raise SolveError(f"an op of type {type(op).__name__} cannot be built")

    async def _side(self, side: object, inputs: Sequence[Result]) -> Ref:
        index = getattr(side, "input", EMPTY)
        return Ref() if index == EMPTY else await self._worker.as_layers(inputs[index])


def merge(refs: Sequence[Ref]) -> Ref:
    """Lay the trees over each other, the first one lowest."""
    return Ref(tuple(layer for ref in refs for layer in ref.layers))


def diff(lower: Ref, upper: Ref) -> Ref:
    """What `upper` has over `lower`. Raises `SolveError` unless it was made on top of it."""
    count = len(lower.layers)
    if [layer.key for layer in upper.layers[:count]] != [layer.key for layer in lower.layers]:
        raise SolveError("a diff of trees of which one was not made from the other is not supported")
    return Ref(upper.layers[count:])


def steps_of(
    worker: Worker,
    vertices: Iterable[Vertex],
    source_of: Callable[[Vertex], SourceAction],
    *,
    ignore_cache: Callable[[Vertex], bool],
) -> dict[str, Step]:
    """Make a step of each vertex, by digest. `vertices` come after their inputs."""
    steps: dict[str, Step] = {}
    for vertex in vertices:
        inputs = [Edge(steps[edge.vertex.digest], edge.output) for edge in vertex.inputs]
        source = source_of(vertex) if isinstance(vertex.op, SourceOp) else None
        steps[vertex.digest] = Step(worker, vertex, inputs, source, ignore_cache=ignore_cache(vertex))
    return steps
