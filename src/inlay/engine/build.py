"""One build, from request to result: the composition root, and the only module that wires everything.

`_Build.run` is the story:

- `_import`: caches are imported; meanwhile
- `_load_context`: the build context is fetched, where the Dockerfile is in a repository or an archive;
- `Frontend.convert`: the Dockerfile is read, and its stages become LLB and image configs.
- `_solve`: the solver looks for each step in the caches, by its definition and then by the content that goes into it,
  and runs what is not there (`actions.worker`); records of all that become the cache of this build.
- `_remember`: what the steps were is noted, so that a later build can say why it runs them again; meanwhile
- `Exporter.write`: layers are packed, and images are pushed or written, with their cache inside;
- `Exporter.export_caches`: the cache goes to where `--cache-to` wants it.
"""

from __future__ import annotations

import os

from inlay.actions.entitlements import check_entitlements
from inlay.actions.secrets import Secrets
from inlay.actions.step import Step, steps_of
from inlay.actions.worker import Forms, Worker
from inlay.cache.deferred import DeferredCaches
from inlay.engine.frontend import Frontend
from inlay.engine.outcomes import Outcomes
from inlay.engine.outset import Outset
from inlay.errors import BlobLost, DockerfileError, InlayError, SolveError, system_error
from inlay.export.exporter import Exporter, Written
from inlay.export.plan import layer_codec, plan_outputs
from inlay.export.results import BuiltPlatform
from inlay.golang.timestamp import now_ns
from inlay.llb.ops import ExecOp, FileOp
from inlay.notation import unknown_fields
from inlay.progress.events import Warned
from inlay.refs.ref import SCRATCH
from inlay.refs.store import RefStore
from inlay.request import BuildResult, StepOutcome
from inlay.solver.export import export
from inlay.solver.index import CacheIndex
from inlay.solver.solver import NotCached, Solver
from inlay.solver.vertex import Edge
from inlay.sources.remote import RemoteSources
from inlay.store.store import Store
from inlay.tasks import all_done, gather, in_thread, run, spawn
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.actions.worker import Result
    from inlay.cancellation import Cancellation
    from inlay.dockerfile.conversion import ConvertedPlatform
    from inlay.export.plan import Output
    from inlay.llb.graph import Definition, Vertex
    from inlay.progress.events import Event
    from inlay.request import BuildRequest, Option
    from inlay.solver.export import Export
    from inlay.solver.keys import RecordGraph

__all__ = ["NotCached", "build"]


def build(
    request: BuildRequest,
    sink: Callable[[Event], None] = lambda event: None,
    *,
    outset: Outset | None = None,
    cancellation: Cancellation | None = None,
    is_last: bool = False,
) -> BuildResult:
    """Build what `request` asks for; blocks. `sink` gets the events, from several threads. To cancel `cancellation`
    ends the build.

    `outset`: that of `request`, where it has begun.
    `is_last`: the process ends soon after, which closes the store; SQLite would fold its logs into its files and
    wait for the disk (10 ms and more), as some later build does anyway.

    Raises `InlayError`s: `DockerfileError`, `SolveError`, `RegistryError`, `ExportError`, `UsageError`,
    `BuildCancelled`.
    """
    outputs = plan_outputs(request)

    def warn(message: str) -> None:
        sink(Warned("", message))

    for flag, option, name, known in unknown_fields(request):
        warn(f"--{flag} {option}: {_without_effect(name, known)}")
    store = Store(request.root, warn=warn)
    try:
        work = _Build(request, outputs, store, sink, outset)
        try:
            result = run(work.run(), abort=work.cancel, cancellation=cancellation)
        finally:
            work.close()  # only now does no thread read trees any more
    except BrokenPipeError:
        raise  # nobody listens to `sink` any more
    except OSError as error:
        raise SolveError(f"{store.root}: {system_error(error)}") from error
    else:
        if result.steps_run and store.is_prune_due():
            from inlay.store.pruning import prune_to_policy

            prune_to_policy(store, warn=warn)
        return result
    finally:
        if is_last:
            _left_open.append(store)
        else:
            store.close()


_left_open: list[Store] = []
"""Keeps stores from being closed when nothing else refers to them."""


class _Build:
    """The parts of one build, and the order in which they work."""

    def __init__(
        self,
        request: BuildRequest,
        outputs: Sequence[Output],
        store: Store,
        sink: Callable[[Event], None],
        outset: Outset | None,
    ) -> None:
        self.request = request
        self.outputs = outputs
        self.store = store
        self.emit = sink
        self.outset = outset or Outset(request)
        self.places = self.outset.places
        self.secrets = Secrets(request.secrets, request.ssh)
        self.refs = RefStore(
            store.layers,
            store.content,
            store.snapshotter,
            self.places.at,
            epoch_s=self._epoch_s,
            warn=self._warn,
        )
        self.remote = RemoteSources(
            store.root, store.snapshotter, lambda: self.refs, self.places, self.secrets
        )
        self.frontend = Frontend(request, store, self.places, sink, self.remote)
        self.exporter = Exporter(
            request,
            outputs,
            self.refs,
            self.places,
            root=store.root,
            content=store.content,
            emit=sink,
            epoch_s=self._epoch_s,
        )
        self.worker = Worker(
            self.refs,
            make_executor=self.outset.executor,
            secrets=self.secrets,
            trees=store.trees,
            emit=sink,
            clock=self._clock,
            forms=self._forms,
            step_timeout_s=request.step_timeout_s,
            ship=self.exporter.ship,
            meanwhile=self._open_uploads,
        )
        self.definitions: list[Definition] = []
        self.wanted: dict[str, Forms] = {}
        self.index = CacheIndex(store.cache if request.local_cache else None)
        self.deferred = DeferredCaches(self.index)
        self.observer = Outcomes(sink)
        self.records: Export | None = None
        self.imported: list[tuple[str, list[RecordGraph]]] = []
        self.solver: Solver[Result] | None = None
        self.steps: dict[str, Step] = {}
        self.outcomes: tuple[StepOutcome, ...] = ()

    async def run(self) -> BuildResult:
        try:
            self.secrets.check()
            importing = [spawn(self._import(option)) for option in dict.fromkeys(self.request.cache_from)]
            await self._load_context()
            converted = await in_thread(self.frontend.convert, abort=self.cancel)
            await gather(importing)
            written = await self._make(converted)
            self.frontend.save()
            return self._result(next((each for each in written if each.digest), Written()))
        except DockerfileError:
            raise
        except SolveError as error:
            error.excerpt = self.frontend.excerpt(error.location)
            error.steps = self._outcomes()
            await self._remember()
            raise
        finally:
            self.worker.close()
            self.outset.close()

    def close(self) -> None:
        """Let go of trees, layouts and connections, and delete what was made for this build only."""
        self.refs.close()
        self.remote.close()
        self.places.close()

    async def _make(self, converted: Sequence[ConvertedPlatform]) -> list[Written]:
        """Solve and write. Where a layer of a cached result turns out to be gone, once more without it."""
        while True:
            try:
                built = await self._solve(converted)
                self.outcomes = self._outcomes()
                spawn(self.worker.dismiss())
                remembering = spawn(self._remember())
                try:
                    written = await self.exporter.write(built)
                    await self.exporter.export_caches(self.records)
                finally:
                    await all_done([remembering])  # it reads trees that are closed next
                await self.exporter.close()
                return written
            except BlobLost as error:
                if not self.refs.give_up(error):
                    raise
                self._warn(f"{error}; the steps that need it run again")

    async def _load_context(self) -> None:
        """Fetch the build context where the Dockerfile is in what has to be fetched."""
        if self.request.context == "-" or not os.path.isdir(self.request.context):
            from inlay.engine.remotecontext import load_context

            await load_context(
                self.frontend,
                self.worker,
                self.index,
                clock=self._clock,
                observer=self.observer,
                abort=self.cancel,
            )

    def cancel(self) -> None:
        """End all transfers soon."""
        self.places.cancel()
        self.remote.cancel()

    # -- caches come in ------------------------------------------------------------------------------

    async def _import(self, option: Option) -> None:
        from inlay.cache.imports import import_cache

        caches = await import_cache(option, self.places, self.emit)
        for imported in caches:
            self.deferred.ingest(imported)
        self.imported.append((option.get("ref") or option.get("src"), [each.graph for each in caches]))

    # -- solving -------------------------------------------------------------------------------------

    async def _solve(self, converted: Sequence[ConvertedPlatform]) -> list[BuiltPlatform]:
        self.steps.clear()
        self.solver = solver = Solver(
            self.index,
            self.worker,
            clock=self._clock,
            observer=self.observer,
            require_cached=self.request.require_cached,
            more=self.deferred.bring,
        )
        self.definitions = [result.definition for result in converted]
        targets = [self._target(result) for result in converted]
        wanted = [target for target in targets if target is not None]
        solved = iter(await solver.solve(wanted))
        if self._exports_all():
            await self.deferred.bring(solver.keys_without_record(wanted))
        self.records = export(solver, wanted) if wanted else None
        built = []
        for result, target in zip(converted, targets, strict=True):
            value = next(solved).value if target is not None else SCRATCH
            ref = await self.worker.as_layers(value)
            records = self.records if len(wanted) == 1 else export(solver, [target]) if target else None
            built.append(BuiltPlatform(result.platform, result.image, result.base_image, ref, records))
        return built

    def _target(self, result: ConvertedPlatform) -> Edge[Result] | None:
        definition = result.definition
        if definition.target is None:
            return None
        check_entitlements(definition.vertices, self.request)
        steps = steps_of(
            self.worker,
            definition.vertices,
            self.frontend.source_of(self.refs),
            ignore_cache=lambda vertex: vertex.ignore_cache,
        )
        self.steps |= steps
        return Edge(steps[definition.target.vertex.digest], definition.target.output)

    def _forms(self, vertex: Vertex) -> Forms:
        """In which forms a step's result is wanted; found out for all when the first of them runs."""
        if not self.wanted and self.definitions:
            from inlay.actions.forms import wanted_forms

            codec = layer_codec(self.request, self.outputs)
            mounted = codec is None or not all(output.is_image for output in self.outputs)
            others = codec if self._exports_all() else None
            self.wanted = wanted_forms(self.definitions, Forms(codec, mounted), others=others)
        return self.wanted.get(str(vertex.digest)) or Forms(None, mounted=True)

    def _open_uploads(self) -> None:
        """Open uploads for the layers that are still to be made, and for configs."""
        layers = [
            vertex
            for definition in self.definitions
            for vertex in definition.vertices
            if isinstance(vertex.op, ExecOp | FileOp) and self._forms(vertex).codec is not None
        ]
        known = self.observer.of_steps
        count = sum(str(vertex.digest) not in known for vertex in layers)
        self.exporter.open_uploads(count + len(self.definitions))

    def _exports_all(self) -> bool:
        """Whether the layers of all steps go into an exported cache, not only those of images."""
        return any(option.get("mode") == "max" for option in self.request.cache_to)

    # -- why steps ran -------------------------------------------------------------------------------

    def _outcomes(self) -> tuple[StepOutcome, ...]:
        """What became of the steps; with the reasons of those that were not cached, where they are wanted."""
        solver = self.solver
        if solver is None or not (self.request.explain or solver.missing):
            return tuple(self.observer.of_steps.values())
        for vertex in solver.missing:
            self.observer.missing(vertex)
        from inlay.engine.explanation import Explainer
        from inlay.store.journal import Journal

        explainer = Explainer(
            solver,
            list(self.steps.values()),
            Journal(self.store.root),
            imports=self.imported,
            no_cache=self.request.no_cache,
            blank=not any(graphs for _, graphs in self.imported)
            and (self.store.cache.was_empty or not self.request.local_cache),
        )
        return explainer.explained(self.observer.of_steps)

    async def _remember(self) -> None:
        """Note for later builds what the steps were, if this one may have learned anything.

        Not where all came out of an import into a new store: that may never be used again.
        """
        ran = any(outcome.outcome != "cached" for outcome in self.observer.of_steps.values())
        imported = self.request.cache_from and not self.store.cache.was_empty
        if self.solver is None or not (ran or imported or self.request.explain):
            return
        from inlay.engine.explanation import remember
        from inlay.store.journal import Journal

        try:
            await in_thread(remember, self.solver, self.steps.values(), Journal(self.store.root))
        except (InlayError, OSError) as error:
            self._warn(f"what steps were is not remembered: {error}")

    # -- small answers -------------------------------------------------------------------------------

    def _warn(self, message: str) -> None:
        self.emit(Warned("", message))

    def _epoch_s(self) -> int | None:
        """SOURCE_DATE_EPOCH, in seconds; what the Dockerfile says of it is known once that is converted."""
        return self.frontend.epoch_s

    def _clock(self) -> int:
        """The time that records and layers get, in nanoseconds: SOURCE_DATE_EPOCH, where that is set."""
        epoch_s = self._epoch_s()
        return now_ns() if epoch_s is None else epoch_s * 10**9

    def _result(self, written: Written) -> BuildResult:
        return BuildResult(
            written.digest,
            written.config_digest,
            self.outcomes,
            self.places.bytes_pulled,
            self.places.bytes_pushed,
            tuple(self.frontend.warnings),
        )


def _without_effect(name: str, known: Sequence[str]) -> str:
    from inlay.dockerfile.suggest import suggest

    nearest = suggest(name, known)
    return f"{name} has no effect; " + (
        f"did you mean {nearest}?" if nearest else f"what has is {', '.join(known)}"
    )
