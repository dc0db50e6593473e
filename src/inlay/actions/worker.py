"""What all steps of one build work with: trees, the executor, secrets, limits."""

from __future__ import annotations

from inlay.errors import CacheError
from inlay.llb.ops import ExecOp
from inlay.refs.ref import ContextRef, Ref
from inlay.tasks import Limiter, Task, in_thread, spawn, when_idle
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.actions.cachemounts import CacheMounts
    from inlay.actions.secrets import Secrets
    from inlay.archive.codecs import Codec
    from inlay.executor.executor import Executor
    from inlay.llb.graph import Vertex
    from inlay.progress.events import Event
    from inlay.refs.store import RefStore
    from inlay.solver.keys import CacheRecord
    from inlay.trees.tree import Tree


Result = Ref | ContextRef
"""What a vertex gives to those that use it."""


class Forms(NamedTuple):
    """How a layer is to be packed if it is wanted as a blob, whether it is wanted as a directory, and whether
    a process is to run after it was made."""

    codec: Codec | None
    mounted: bool
    is_run_on: bool = False


class Worker:
    """The surroundings of steps. One for a build; lives on the loop's thread."""

    def __init__(
        self,
        refs: RefStore,
        *,
        make_executor: Callable[[], Executor],
        secrets: Secrets,
        trees: str,
        emit: Callable[[Event], None],
        clock: Callable[[], int],
        forms: Callable[[Vertex], Forms] = lambda vertex: Forms(None, mounted=True),
        ship: Callable[[Ref, Codec], None] = lambda ref, codec: None,
        step_timeout_s: float = 0.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock` gives nanoseconds since 1970; `make_executor` is called when a process is to run; `forms`
        tells in which forms a step's result is wanted, and `ship` takes those for an image as they are made.
        A process may take `step_timeout_s` seconds, 0 for any time. Cache mounts are in the folder `trees`.
        `meanwhile` is called once, if a process takes its time and there is nothing else to do."""
        self.refs = refs
        self.secrets = secrets
        self._trees = trees
        self._cache_mounts: CacheMounts | None = None
        self.emit = emit
        self.clock = clock
        self.step_timeout_s = step_timeout_s
        self.disk = Limiter(4)
        self.processes = Limiter(16)
        self.forms = forms
        self._ship = ship
        self._meanwhile: Callable[[], None] | None = meanwhile
        self._running = 0
        """Processes that run."""
        self._make_executor = make_executor
        self._executor: Task[Executor] | None = None
        self._made: list[Executor] = []
        """Executors to close: a task that is cancelled does not give the one that it has made."""
        self._is_closed = False
        self._copies: dict[Tree, Task[Ref]] = {}

    @property
    def cache_mounts(self) -> CacheMounts:
        if self._cache_mounts is None:
            from inlay.actions.cachemounts import CacheMounts

            self._cache_mounts = CacheMounts(self._trees, self.refs)
        return self._cache_mounts

    async def executor(self) -> Executor:
        if self._executor is None:
            self._executor = spawn(in_thread(self._make))
        return await self._executor

    def _make(self) -> Executor:
        executor = self._make_executor()
        self._made.append(executor)
        if self._is_closed:
            self._close_made()
        return executor

    def begin(self, vertex: Vertex) -> None:
        """Get ready for what follows a step that is going to be done."""
        is_run = isinstance(vertex.op, ExecOp) or self.forms(vertex).is_run_on
        if self._executor is None and is_run:
            self._executor = spawn(in_thread(self._make))

    def process_begins(self) -> None:
        """A process runs: if it takes its time, what can be done meanwhile is done, once."""
        self._running += 1
        if self._meanwhile is not None:
            when_idle(self._use_time)

    def process_ended(self) -> None:
        self._running -= 1

    def _use_time(self) -> None:
        if self._running and self._meanwhile is not None:
            self._meanwhile()
            self._meanwhile = None

    def made(self, vertex: Vertex, results: Sequence[Result]) -> None:
        """Begin to pack and push the layers that a step has made, if they are for an image."""
        codec = self.forms(vertex).codec
        if codec is not None:
            for result in results:
                if isinstance(result, Ref):
                    self._ship(result, codec)

    async def dismiss(self) -> None:
        """End the executor, if one was started, now that no step is left."""
        executor, self._executor = self._executor, None
        if executor is not None:
            self._made.remove(made := await executor)
            await in_thread(made.close)

    def close(self) -> None:
        """End the executor, if there is one still; one that is being made ends as soon as it is."""
        self._is_closed = True
        self._close_made()

    def _close_made(self) -> None:
        while self._made:
            try:
                executor = self._made.pop()
            except IndexError:  # another thread has closed it
                return
            executor.close()

    async def tree(self, result: Result) -> Tree | None:
        """`result` to read; None of an empty tree. Trees stay open until the build ends."""
        if isinstance(result, ContextRef):
            return result.context
        return await self.refs.mounted.tree(result) if result.layers else None

    async def as_layers(self, result: Result) -> Ref:
        """`result` as layers, to mount. A slice of the context is copied into one, once."""
        if isinstance(result, Ref):
            return result
        context = result.context
        if context not in self._copies:
            self._copies[context] = spawn(self._copy(result))
        return await self._copies[context]

    async def _copy(self, ref: ContextRef) -> Ref:
        from inlay.actions.files.op import copy_tree

        active = await self.refs.mounted.prepare(Ref())
        try:
            await in_thread(copy_tree, ref.context, active.path, limiter=self.disk)
            directory = await in_thread(active.commit, limiter=self.disk)
        except BaseException:
            await in_thread(active.discard)
            raise
        made_by = f"local source for {ref.name}"
        return Ref((self.refs.add_directory(directory, description=made_by, base=Ref(), temporary=True),))

    # -- as the solver's result store ---------------------------------------------------------------

    async def load(self, record: CacheRecord) -> Result:
        """Bring back a recorded result; nothing is pulled. Raises `CacheError` when a layer of it is gone."""
        chain = record.remote
        ref = self.refs.recall(record.id) if chain is None else self.refs.of_chain(chain)
        await self.refs.availability.check(ref)
        return ref

    async def keep(self, result: Result) -> str:
        """Name `result` for later builds. Raises `CacheError` for what cannot outlive this one."""
        if isinstance(result, ContextRef):
            raise CacheError("a build context is not kept")
        return self.refs.describe(result)
