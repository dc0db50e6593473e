"""The solver: finds what is cached and runs what is not.

An edge is asked four questions, each at most once in a solve, by tasks that whoever asks again awaits too:
*what are you* (the cache map), *which keys have you* (by definition, then by content), *what does your
input contain*, and *what is your result*. Finding keys by definition runs nothing and fetches nothing;
finding them by content may need an input's result, and pays for that only where no cheaper key matches.

What is found and why is BuildKit's (solver/edge.go), but for one rule: BuildKit files all results that
one definition ever had under one key, and may take the newest for content that it was not made from;
here content, where it is known, decides which key it is.
"""

from __future__ import annotations

from inlay.errors import CacheError, SolveError
from inlay.golang.timestamp import format_ns
from inlay.solver.keys import CONTENT, CacheRecord, Link, guarded, output_key
from inlay.solver.vertex import Silent, inputs_first
from inlay.tasks import all_done, first_done, gather, promise, spawn, start
from inlay.typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from typing import Any

    from inlay.solver.index import CacheIndex
    from inlay.solver.keys import CacheMap, KeyId
    from inlay.solver.vertex import Edge, Observer, ResultStore, Vertex
    from inlay.tasks import Task

R = TypeVar("R")
T = TypeVar("T")

Keys = frozenset[str]
NONE: Keys = frozenset()


class Solved(NamedTuple, Generic[R]):
    """A result, and the keys that it is known by. `ran` tells whether it was made or found."""

    value: R
    keys: Keys
    ran: bool


class NotCached(SolveError):
    """Steps would have had to run, and the solver was told to run none: `vertices`."""

    def __init__(self, vertices: Sequence[Vertex[Any]]) -> None:
        super().__init__(f"{len(vertices)} step{'s are' if len(vertices) > 1 else ' is'} not in the cache")
        self.vertices = vertices


class Solver(Generic[R]):
    """One solve of one graph: ask `solve` once, with all targets.

    `clock` gives nanoseconds since 1970, for the records. With `require_cached` no instruction is run. `more` is
    asked when steps are known and their results are not: it returns whether records came to the index.
    """

    def __init__(
        self,
        index: CacheIndex,
        store: ResultStore[R],
        *,
        clock: Callable[[], int],
        observer: Observer[R] | None = None,
        require_cached: bool = False,
        more: Callable[[Keys], Awaitable[bool]] | None = None,
    ) -> None:
        self.index = index
        self._store = store
        self._clock = clock
        self._observer: Observer[R] = observer if observer is not None else Silent()
        self._require_cached = require_cached
        self._more = more
        self._tasks: dict[tuple[object, ...], Task[Any]] = {}
        self._maps: dict[str, CacheMap[R]] = {}
        self._step_keys: dict[tuple[str, int], str] = {}
        self._made: dict[KeyId, Solved[R]] = {}
        self._records: dict[KeyId, CacheRecord] = {}
        self._lost: dict[tuple[str, int], list[str]] = {}
        self._reported: set[str] = set()
        self._missing: list[Vertex[R]] = []

    async def solve(self, targets: Sequence[Edge[R]]) -> list[Solved[R]]:
        """Bring the result of each target. The first error ends everything that was begun, and is raised."""
        try:
            # Inputs first: then no question, started where it is asked, nests deeper than its own frame.
            for edge in inputs_first(targets):
                self._definition_keys(edge)
            solved = await gather([self._result(edge) for edge in targets])
            await gather([task for question, task in self._tasks.items() if question[0] == "adopt"])
            return solved
        except NotCached:
            await _end(self._tasks, cancel=False)
            raise NotCached(self._missing) from None
        finally:
            await _end(self._tasks, cancel=True)

    # -- what was learned, for exports and explanations ------------------------------------------------------

    def cache_map_of(self, vertex: Vertex[R]) -> CacheMap[R]:
        """The cache map of a vertex of a graph that was solved."""
        return self._maps[vertex.digest]

    def is_mapped(self, vertex: Vertex[R]) -> bool:
        """Whether the solve came to ask for the cache map of `vertex`, and got it."""
        return vertex.digest in self._maps

    def result_of(self, edge: Edge[R]) -> R | None:
        """The result of `edge`, if the solve needed it."""
        result = self._answer("result", edge.vertex.digest, edge.output)
        return result.value if result is not None else None

    def keys_of(self, edge: Edge[R]) -> Keys:
        """All keys by which this solve knows `edge`; none of an edge that it never had to ask for them."""
        vertex, output = edge
        if not vertex.inputs:
            return self._root_keys(edge)
        keys = self.found_keys(edge)
        result = self._answer("result", vertex.digest, output)
        return keys | result.keys if result is not None else keys

    def keys_without_record(self, targets: Sequence[Edge[R]]) -> set[KeyId]:
        """The keys of the steps of `targets` that are known while no result of theirs is."""
        keys = [self.keys_of(edge) for edge in inputs_first(targets) if edge.vertex.inputs]
        return {key for each in keys if not self.index.records(each) for key in each}

    def has_run(self, edge: Edge[R]) -> bool:
        """Whether the result of `edge` was made in this solve."""
        result = self._answer("result", edge.vertex.digest, edge.output)
        return result is not None and result.ran

    def content_of(self, vertex: Vertex[R], i: int) -> KeyId | None:
        """The content key of input `i`, if it became known."""
        key: KeyId | None = self._answer("content", vertex.digest, i)
        return key

    def found_keys(self, edge: Edge[R]) -> Keys:
        """The keys of `edge` that were in a cache, whether or not one had a result for them."""
        vertex, output = edge
        definition: Keys = self._answer("definition", vertex.digest, output) or NONE
        return definition | (self._answer("keys", vertex.digest, output) or NONE)

    def lost(self, edge: Edge[R]) -> Sequence[str]:
        """Why results of `edge` that a cache names could not be had."""
        return self._lost.get((edge.vertex.digest, edge.output), ())

    def records(self, keys: Collection[KeyId]) -> Sequence[CacheRecord]:
        """The records under any of `keys`: what was made in this solve, else all that are known, newest first."""
        made = [self._records[key] for key in keys if key in self._records]
        return made or self.index.records(keys)

    @property
    def made_keys(self) -> Keys:
        """The keys of all that was made in this solve."""
        return frozenset(self._made)

    @property
    def missing(self) -> Sequence[Vertex[R]]:
        """With `require_cached`: the steps that would have had to run, in no order."""
        return self._missing

    def _answer(self, *question: object) -> Any:
        task = self._tasks.get(question)
        return task.result() if task is not None and task.succeeded else None

    # -- the questions ---------------------------------------------------------------------------------------

    def _pinned(self, vertex: Vertex[R]) -> Task[None]:
        return self._once(("map", vertex.digest), start, self._pin, vertex)

    def _definition_keys(self, edge: Edge[R]) -> Task[Keys]:
        question = ("definition", edge.vertex.digest, edge.output)
        task = self._tasks.get(question)
        if task is None:
            task = self._tasks[question] = start(self._find_by_definition(edge))
        return task

    def _keys(self, edge: Edge[R]) -> Task[Keys]:
        question = ("keys", edge.vertex.digest, edge.output)
        task = self._tasks.get(question)
        if task is None:
            task = self._definition_keys(edge)
            if not task.succeeded or not task.result():
                task = spawn(self._find_by_content(edge, task))
            self._tasks[question] = task
        return task

    def _content(self, vertex: Vertex[R], i: int) -> Task[KeyId | None]:
        return self._once(("content", vertex.digest, i), spawn, self._digest_input, vertex, i)

    def _result(self, edge: Edge[R]) -> Task[Solved[R]]:
        return self._once(("result", edge.vertex.digest, edge.output), spawn, self._load_or_run, edge)

    def _once(
        self,
        question: tuple[object, ...],
        begin: Callable[..., Task[Any]],
        answer: Callable[..., Any],
        *args: object,
    ) -> Task[Any]:
        task = self._tasks.get(question)
        if task is None:
            task = self._tasks[question] = begin(answer(*args))
        return task

    # -- how they are answered -------------------------------------------------------------------------------

    async def _pin(self, vertex: Vertex[R]) -> None:
        self._maps[vertex.digest] = await self._watched(vertex, vertex.cache_map)

    async def _find_by_definition(self, edge: Edge[R]) -> Keys:
        vertex = edge.vertex
        if vertex.digest not in self._maps:
            if vertex.is_source:
                await self._pinned(vertex)
            else:
                self._maps[vertex.digest] = await vertex.cache_map()
        asked = [self._definition_keys(below) for below in vertex.inputs]
        inputs = [task.result() for task in asked if task.done]
        if len(inputs) < len(asked):
            inputs = await gather(asked)
        if vertex.ignore_cache:
            return NONE
        if not inputs:
            return self._root_keys(edge)
        if not all(inputs):
            return NONE
        return self.index.common([self._links(edge, i, keys) for i, keys in enumerate(inputs)])

    async def _find_by_content(self, edge: Edge[R], by_definition: Task[Keys]) -> Keys:
        """Pay for content, first only of inputs that nothing matches yet, then of the others."""
        found = await by_definition
        vertex = edge.vertex
        if found or vertex.ignore_cache or not vertex.inputs:
            return found
        if len(vertex.inputs) == 1:
            return await self._find_along_row(edge)
        known = [await self._definition_keys(below) for below in vertex.inputs]
        ways = [self._links(edge, i, keys) for i, keys in enumerate(known)]
        matched = [self.index.leads_anywhere(links) for links in ways]
        unmatched = [i for i, leads in enumerate(matched) if not leads]
        others = [i for i, leads in enumerate(matched) if leads]
        for wanted, sure in ((unmatched, False), (others, True)):
            if not wanted:
                continue
            if len(wanted) == 1:
                ways[wanted[0]] = await self._improve(edge, wanted[0], sure=sure)
            elif not await self._all_match(
                {i: start(self._improve(edge, i, sure=sure)) for i in wanted}, ways
            ):
                return NONE
            if found := self.index.common(ways):
                return found
            if not all(map(self.index.leads_anywhere, ways)):
                return NONE
        return NONE

    async def _find_along_row(self, edge: Edge[R]) -> Keys:
        """As `_find_by_content` of an edge with one input, and of all such edges in a row below it, in one go: most
        steps are in a long row, and a task for each would take longer than finding it."""
        row: list[tuple[Edge[R], Task[Keys]]] = [(edge, promise())]
        below = edge.vertex.inputs[0]
        while len(below.vertex.inputs) == 1 and not below.vertex.ignore_cache:
            question = ("keys", below.vertex.digest, below.output)
            known = self._definition_keys(below)
            if question in self._tasks or not known.succeeded or known.result():
                break
            row.append((below, promise()))
            self._tasks[question] = row[-1][1]
            below = below.vertex.inputs[0]
        try:
            keys = await self._keys(below)
            while row:
                edge, task = row[-1]
                keys = self.index.targets(self._links(edge, 0, keys))
                if not keys:
                    keys = self.index.targets(await self._improve(edge, 0, sure=True))
                row.pop()
                task.finish(keys)
            return keys
        except BaseException as error:
            for _, task in reversed(row):
                task.finish(error=error)
            raise

    async def _all_match(self, asks: dict[int, Task[list[Link]]], ways: list[list[Link]]) -> bool:
        """Await what `asks` for some inputs improve on `ways`. False as soon as nothing can match one of them,
        so that whoever asks need not wait for the others."""
        try:
            while asks:
                done = [i for i, ask in asks.items() if ask.done]
                if not done:
                    await first_done(asks.values())
                for i in done:
                    ways[i] = asks.pop(i).result()
                    if not self.index.leads_anywhere(ways[i]):
                        return False
            return True
        finally:
            for ask in asks.values():
                ask.cancel()

    async def _improve(self, edge: Edge[R], i: int, *, sure: bool) -> list[Link]:
        """The links by which input `i` may match; when `sure`, or when no other does, the one from its content."""
        below = edge.vertex.inputs[i]
        links = self._links(edge, i, await self._keys(below))
        if not sure and self.index.leads_anywhere(links):
            return links
        content = await self._content(edge.vertex, i)
        if content is None:
            return links
        link = Link(content, i, self._step_key(edge))
        self.index.agree(self._links(edge, i, (await self._result(below)).keys), link)
        return [link]

    async def _digest_input(self, vertex: Vertex[R], i: int) -> KeyId | None:
        _, digest_of, guard = self._maps[vertex.digest].inputs[i]
        if digest_of is None:
            return None
        below = await self._result(vertex.inputs[i])
        try:
            key = output_key(await digest_of(below.value), CONTENT)
            if guard:
                self.index.trust_imports(key, i, guarded(key, guard))
            return guarded(key, guard)
        except Exception as error:
            self._observer.started(vertex)
            self._observer.failed(vertex, error)
            raise

    async def _load_or_run(self, edge: Edge[R]) -> Solved[R]:
        vertex = edge.vertex
        keys = await self._keys(edge)
        if solved := await self._load(edge, keys):
            return solved
        if self._require_cached and vertex.is_instruction:
            self._missing.append(vertex)
        inputs = await gather([self._result(below) for below in vertex.inputs])
        contents = await gather([self._content(vertex, i) for i in range(len(inputs))])
        if inputs and not vertex.ignore_cache:
            # Where a record has vanished, or the search ended early, content may still lead to another.
            more = await self._known_by_content(edge, contents)
            if solved := await self._load(edge, more - keys):
                return solved
        if self._require_cached and vertex.is_instruction:
            raise NotCached([vertex])
        return await self._run(edge, inputs, contents)

    async def _known_by_content(self, edge: Edge[R], contents: list[KeyId | None]) -> Keys:
        ways = [
            [Link(content, i, self._step_key(edge))]
            if content
            else self._links(edge, i, await self._keys(below))
            for i, (below, content) in enumerate(zip(edge.vertex.inputs, contents, strict=True))
        ]
        return self.index.common(ways)

    # -- finding, loading, running ---------------------------------------------------------------------------

    def _root_keys(self, edge: Edge[R]) -> Keys:
        return frozenset(output_key(digest, edge.output) for digest in self.cache_map_of(edge.vertex).digests)

    def _step_key(self, edge: Edge[R]) -> str:
        name = (edge.vertex.digest, edge.output)
        key = self._step_keys.get(name)
        if key is None:
            key = self._step_keys[name] = output_key(self._maps[name[0]].digests[0], edge.output)
        return key

    def _links(self, edge: Edge[R], i: int, keys: Collection[KeyId]) -> list[Link]:
        if not keys:
            return []
        digest, selector = self._step_key(edge), self._maps[edge.vertex.digest].inputs[i].selector
        return [Link(key, i, digest, selector) for key in (sorted(keys) if len(keys) > 1 else keys)]

    async def _load(self, edge: Edge[R], keys: Keys) -> Solved[R] | None:
        """Bring the newest result under `keys` that is still there."""
        for key in keys:
            if key in self._made:
                self._report_cached(edge)
                return self._made[key]
        solved = await self._load_record(edge, keys)
        if solved is None and keys and edge.vertex.inputs and self._more and await self._more(keys):
            return await self._load_record(edge, keys)
        return solved

    async def _load_record(self, edge: Edge[R], keys: Keys) -> Solved[R] | None:
        for record in self.index.records(keys):
            try:
                value = await self._once(("load", record.id), spawn, self._store.load, record)
            except CacheError as error:
                self._lost.setdefault((edge.vertex.digest, edge.output), []).append(str(error))
                self.index.forget(record)  # a broken cache may cost time, never the build
                continue
            self._report_cached(edge)
            if record.remote is not None:
                self._once(("adopt", record.id), spawn, self._adopt, record, value)
            return Solved(value, frozenset({record.key}) if edge.vertex.inputs else keys, ran=False)
        return None

    async def _adopt(self, record: CacheRecord, value: R) -> None:
        """Keep an imported record that was used, and those that it was made from, for later builds."""
        assert record.remote is not None
        kept = []
        for each in self.index.imported(self.index.passed_through(record.key), record.remote):
            try:
                result = value if each.id == record.id else await self._store.load(each)
                kept.append((each, await self._store.keep(result)))
            except CacheError:
                continue
        self.index.adopt(record.key, kept)

    async def _run(self, edge: Edge[R], inputs: list[Solved[R]], contents: list[KeyId | None]) -> Solved[R]:
        vertex = edge.vertex
        deciding = [
            [(content, "")]
            if content
            else [(link.source, link.selector) for link in self._links(edge, i, below.keys)]
            for i, (below, content) in enumerate(zip(inputs, contents, strict=True))
        ]
        # Vertices that turn out to name the same work share one run.
        work = (self.cache_map_of(vertex).digests, *map(min, deciding), vertex.ignore_cache)
        shared = ("run", work) in self._tasks
        outputs = await self._once(
            ("run", work), spawn, self._run_watched, vertex, [below.value for below in inputs]
        )
        if shared:
            self._report_cached(edge)
        value: R = outputs[edge.output]
        kept = await self._once(("keep", work, edge.output), spawn, self._keep, value)
        keys = (
            frozenset({self.index.identify(self._step_key(edge), deciding)})
            if inputs
            else self._root_keys(edge)
        )
        solved = Solved(value, keys, ran=True)
        for key in keys:
            self._made[key] = solved
            self._record(edge, key, inputs, contents, kept)
        return solved

    async def _run_watched(self, vertex: Vertex[R], inputs: list[R]) -> Sequence[R]:
        return await self._watched(vertex, lambda: vertex.run(inputs))

    async def _keep(self, value: R) -> tuple[str, str] | None:
        """Store a result; return its id and when that was."""
        try:
            return await self._store.keep(value), format_ns(self._clock())
        except CacheError:
            return None  # the build has its result; later ones do not

    def _record(
        self,
        edge: Edge[R],
        key: KeyId,
        inputs: list[Solved[R]],
        contents: list[KeyId | None],
        kept: tuple[str, str] | None,
    ) -> None:
        step = self._step_key(edge)
        links = []
        for i, (below, content) in enumerate(zip(inputs, contents, strict=True)):
            links += [Link(content, i, step)] if content else self._links(edge, i, below.keys)
        if kept:
            self._records[key] = CacheRecord(kept[0], key, kept[1])
        self.index.add(key, links, *([self._records[key]] if kept else []))
        for i, (below, content) in enumerate(zip(inputs, contents, strict=True)):
            if content:
                self.index.agree(self._links(edge, i, below.keys), Link(content, i, step))

    # -- telling ---------------------------------------------------------------------------------------------

    async def _watched(self, vertex: Vertex[R], work: Callable[[], Awaitable[T]]) -> T:
        self._reported.add(vertex.digest)
        self._observer.started(vertex)
        try:
            value = await work()
        except BaseException as error:
            self._observer.failed(vertex, error)
            raise
        self._observer.completed(vertex)
        return value

    def _report_cached(self, edge: Edge[R]) -> None:
        """Say that `edge` is cached, and so is what nobody needs to look into because of that."""
        for vertex, _ in inputs_first([edge], without=self._reported):
            if vertex.digest not in self._reported:
                self._reported.add(vertex.digest)
                self._observer.cached(vertex)


async def _end(tasks: dict[tuple[object, ...], Task[Any]], *, cancel: bool) -> None:
    """Wait until none of `tasks` runs, nor any that they began meanwhile."""
    while pending := [task for task in tasks.values() if not task.done]:
        if cancel:
            for task in pending:
                task.cancel()
        await all_done(pending)
