"""What can be told of a Dockerfile without building it: `--call check|outline|targets`, `inlay debug llb`."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import cache

from inlay.actions.secrets import Secrets
from inlay.engine.frontend import Frontend
from inlay.errors import SolveError, UsageError
from inlay.golang.timestamp import now_ns
from inlay.refs.store import RefStore
from inlay.sources.places import Places
from inlay.sources.remote import RemoteSources
from inlay.store.store import Store
from inlay.tasks import run
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inlay.dockerfile.report import LintReport, OutlineReport, TargetsReport
    from inlay.executor.executor import Executor
    from inlay.request import BuildRequest

_CALLS = ("check", "lint", "outline", "targets")


def call_frontend(request: BuildRequest, call: str) -> tuple[str, bool]:
    """The text that `call` asks for, and whether nothing was found wrong.

    Raises `UsageError` for a call that does not exist, `DockerfileError` where the Dockerfile is broken.
    """
    name, *options = call.split(",")
    if name not in _CALLS:
        raise UsageError(f"--call {call}: must be build, check, outline or targets")
    if any(option not in ("format=json", "format=text") for option in options):
        raise UsageError(f"--call {call}: the only option is format=text or format=json")
    report = _report(request, name)
    clean = getattr(report, "is_clean", True)
    if "format=json" in options:
        return report.to_json().rstrip("\n") + "\n", clean
    text = report.to_text()
    return text or "Check complete, no warnings found.\n", clean


def _report(request: BuildRequest, name: str) -> LintReport | OutlineReport | TargetsReport:
    from inlay.dockerfile.report import lint, list_targets, outline

    with _opened(request) as frontend:
        text, options = frontend.read()
        if name == "targets":
            return list_targets(text, options.filename)
        if name == "outline":
            return outline(text, options, frontend.resolver)
        return lint(text, options, frontend.resolver)


def dump_llb(request: BuildRequest, *, raw: bool) -> bytes:
    """The definition of the first platform: `pb.Definition`, or JSON to read."""
    from inlay.llb.dump import definition_bytes, definition_json

    with _opened(request) as frontend:
        definition = frontend.convert()[0].definition
    if raw:
        return definition_bytes(definition, frontend.dockerfile)
    return definition_json(definition).encode() + b"\n"


@contextmanager
def _opened(request: BuildRequest) -> Iterator[Frontend]:
    """The frontend, which can read the Dockerfile wherever that is."""
    with Store(request.root, warn=_ignore) as store, ExitStack() as stack:
        places = Places(
            store.root,
            insecure_registries=request.insecure_registries,
            registry_mirrors=request.registry_mirrors,
        )
        stack.callback(places.close)
        secrets = Secrets(request.secrets, request.ssh)

        @cache
        def refs() -> RefStore:
            opened = RefStore(store.layers, store.content, store.snapshotter, places.at)
            stack.callback(opened.close)
            return opened

        remote = RemoteSources(store.root, store.snapshotter, refs, places, secrets)
        stack.callback(remote.close)
        frontend = Frontend(request, store, places, _ignore, remote)
        if frontend.context.holds_dockerfile:
            run(_load_context(frontend, store, refs(), secrets, remote))
        yield frontend


async def _load_context(
    frontend: Frontend, store: Store, refs: RefStore, secrets: Secrets, remote: RemoteSources
) -> None:
    from inlay.actions.worker import Worker
    from inlay.engine.remotecontext import load_context
    from inlay.solver.index import CacheIndex

    worker = Worker(
        refs,
        make_executor=_run_nothing,
        secrets=secrets,
        trees=store.trees,
        emit=_ignore,
        clock=now_ns,
    )
    await load_context(frontend, worker, CacheIndex(store.cache), clock=now_ns, abort=remote.cancel)


def _run_nothing() -> Executor:
    raise SolveError("nothing is run to look at a Dockerfile")


def _ignore(_: object) -> None:
    return
