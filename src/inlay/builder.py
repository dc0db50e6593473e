"""One build, from request to result: the composition root, and the only module that wires everything.

1  the store is opened                       6  content is hashed where definitions do not match
2  the Dockerfile is read and parsed         7  what has no record runs
3  stages become LLB and an image config     8  layers are packed
4  caches are imported                       9  the cache goes into the image config
5  the solver looks for definition keys     10  the image is pushed or written
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from inlay.actions.cachemounts import CacheMounts
from inlay.actions.secrets import Secrets
from inlay.actions.step import Step, steps_of
from inlay.actions.worker import Worker
from inlay.cache.deferred import DeferredCaches
from inlay.errors import BlobLost, DockerfileError, SolveError
from inlay.frontend import Frontend
from inlay.output import BuiltPlatform, Exporter, Output, Written, plan_outputs
from inlay.progress.events import Completed, Started, Warned
from inlay.refs import SCRATCH, RefStore
from inlay.request import BuildResult, StepOutcome
from inlay.solver.export import export
from inlay.solver.index import CacheIndex
from inlay.solver.solver import NotCached, Solver
from inlay.solver.vertex import Edge
from inlay.sources.places import Places
from inlay.sources.remote import RemoteSources
from inlay.store import Store
from inlay.tasks import Cancelled, gather, in_thread, run, spawn
from inlay.timestamp import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.actions.worker import Result
    from inlay.dockerfile.conversion import Result as Converted
    from inlay.executor.executor import Executor
    from inlay.progress.events import Event
    from inlay.request import BuildRequest, Option
    from inlay.solver.export import Export

__all__ = ["NotCached", "build"]


def build(request: BuildRequest, sink: Callable[[Event], None] = lambda event: None) -> BuildResult:
    """Build what `request` asks for; blocks. `sink` gets the events, from several threads.

    Raises `InlayError`s: `DockerfileError`, `SolveError`, `RegistryError`, `ExportError`, `UsageError`.
    """
    outputs = plan_outputs(request)

    def warn(message: str) -> None:
        sink(Warned("", message))

    with Store(request.root, warn=warn) as store:
        return run(_Build(request, outputs, store, sink).run())


class _Build:
    """The parts of one build, and the order in which they work."""

    def __init__(
        self, request: BuildRequest, outputs: Sequence[Output], store: Store, sink: Callable[[Event], None]
    ) -> None:
        self.request = request
        self.outputs = outputs
        self.store = store
        self.emit = sink
        self.places = Places(store.root, insecure_registries=request.insecure_registries)
        self.secrets = Secrets(request.secrets, request.ssh)
        self.remote = RemoteSources(store.root, store.snapshotter, self.places, self.secrets)
        self.frontend = Frontend(request, store, self.places, sink, self.remote)
        self.refs = RefStore(
            store.layers, store.content, store.snapshotter, self.places.at, epoch_s=self.frontend.epoch_s
        )
        self.worker = Worker(
            self.refs,
            make_executor=self._executor,
            secrets=self.secrets,
            cache_mounts=CacheMounts(store.root, self.refs),
            emit=sink,
            clock=self._clock,
        )
        self.exporter = Exporter(
            request, store.root, store.content, self.refs, self.places, sink, self.frontend.epoch_s
        )
        self.index = CacheIndex(store.cache)
        self.deferred = DeferredCaches(self.index)
        self.observer = _Observer(sink)
        self.records: Export | None = None

    async def run(self) -> BuildResult:
        self.secrets.check()
        try:
            importing = [spawn(self._import(option)) for option in self.request.cache_from]
            converted = await in_thread(self.frontend.convert, abort=self.places.cancel)
            await gather(importing)
            written = await self._make(converted)
            self.frontend.save()
            return self._result(next((each for each in written if each.digest), Written()))
        except DockerfileError:
            raise
        except SolveError as error:
            error.excerpt = self.frontend.excerpt(error.location)
            raise
        finally:
            self.worker.close()
            self.refs.close()
            self.places.close()

    async def _make(self, converted: Sequence[Converted]) -> list[Written]:
        """Solve and write. Where a layer of a cached result turns out to be gone, once more without it."""
        while True:
            try:
                built = await self._solve(converted)
                written = [await self.exporter.write(output, built) for output in self.outputs]
                await self.exporter.export_caches(self.records)
                return written
            except BlobLost as error:
                if not self.refs.give_up(error):
                    raise
                self.emit(Warned("", f"{error}; the steps that need it run again"))

    # -- caches come in ------------------------------------------------------------------------------

    async def _import(self, option: Option) -> None:
        from inlay.cache.imports import import_cache

        for imported in await import_cache(option, self.places, self.emit):
            self.deferred.ingest(imported)

    # -- solving -------------------------------------------------------------------------------------

    async def _solve(self, converted: Sequence[Converted]) -> list[BuiltPlatform]:
        solver: Solver[Result] = Solver(
            self.index,
            self.worker,
            clock=self._clock,
            observer=self.observer,
            require_cached=self.request.require_cached,
            more=self.deferred.bring,
        )
        targets = [self._target(result) for result in converted]
        solved = iter(await solver.solve([target for target in targets if target is not None]))
        wanted = [target for target in targets if target is not None]
        if any(option.get("mode") == "max" for option in self.request.cache_to):
            await self.deferred.bring(solver.keys_without_record(wanted))
        self.records = export(solver, wanted) if wanted else None
        built = []
        for result, target in zip(converted, targets, strict=True):
            value = next(solved).value if target is not None else SCRATCH
            ref = await self.worker.as_layers(value)
            records = self.records if len(wanted) == 1 else export(solver, [target]) if target else None
            built.append(BuiltPlatform(result.platform, result.image, result.base_image, ref, records))
        return built

    def _target(self, result: Converted) -> Edge[Result] | None:
        definition = result.definition
        if definition.target is None:
            return None
        steps = steps_of(
            self.worker,
            definition.vertices,
            self.frontend.source_of(self.refs),
            ignore_cache=lambda vertex: vertex.ignore_cache,
        )
        return Edge(steps[definition.target.vertex.digest], definition.target.output)

    def _clock(self) -> int:
        """The time that records and layers get: SOURCE_DATE_EPOCH, where that is set."""
        epoch_s = self.frontend.epoch_s
        return now_ns() if epoch_s is None else epoch_s * 10**9

    def _executor(self) -> Executor:
        from inlay.executor.choose import choose_executor

        return choose_executor(self.request.runtime, f"{self.store.root}/runtime")

    def _result(self, written: Written) -> BuildResult:
        return BuildResult(
            written.digest,
            written.config_digest,
            tuple(self.observer.outcomes.values()),
            self.places.bytes_pulled,
            self.places.bytes_pushed,
            tuple(self.frontend.warnings),
        )


class _Observer:
    """Turns what the solver tells into events and outcomes."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self.outcomes: dict[str, StepOutcome] = {}

    def started(self, vertex: object) -> None:
        step = _step(vertex)
        self._emit(Started(step.digest, step.vertex.name, time.time()))

    def completed(self, vertex: object) -> None:
        self._finish(vertex, "ran", Completed(_step(vertex).digest, time.time()))

    def cached(self, vertex: object) -> None:
        step = _step(vertex)
        self._emit(Started(step.digest, step.vertex.name, time.time()))
        self._finish(vertex, "cached", Completed(step.digest, time.time(), cached=True))

    def failed(self, vertex: object, error: BaseException) -> None:
        cancelled = isinstance(error, Cancelled | KeyboardInterrupt)
        text = error.message if isinstance(error, SolveError) else str(error)
        event = Completed(
            _step(vertex).digest, time.time(), error="" if cancelled else text, cancelled=cancelled
        )
        self._finish(vertex, "failed", event)

    def _finish(self, vertex: object, outcome: str, event: Completed) -> None:
        step = _step(vertex)
        self._emit(event)
        if step.is_instruction:
            self.outcomes[step.digest] = StepOutcome(step.vertex.name, outcome, step.digest)


def _step(vertex: object) -> Step:
    assert isinstance(vertex, Step)
    return vertex
