"""`inlay.build`: the command line's build as a function."""

from __future__ import annotations

import os

from inlay.errors import UsageError
from inlay.notation import (
    parse_allow,
    parse_cache_from,
    parse_cache_to,
    parse_host,
    parse_mirror,
    parse_output,
    parse_secret,
    parse_ssh,
    pushing,
    separate_caches,
    with_inline_cache,
)
from inlay.request import BuildRequest, BuildResult
from inlay.system.privileges import is_privileged
from inlay.typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inlay.cancellation import Cancellation
    from inlay.progress.events import Event

T = TypeVar("T")


def build(
    context: str | os.PathLike[str] = ".",
    *,
    dockerfile: str = "",
    tags: Sequence[str] = (),
    push: bool = False,
    outputs: Sequence[str] = (),
    cache_from: Sequence[str] = (),
    cache_to: Sequence[str] = (),
    build_args: Mapping[str, str] | None = None,
    target: str = "",
    platforms: Sequence[str] = (),
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    build_contexts: Mapping[str, str] | None = None,
    secrets: Sequence[str] = (),
    ssh: Sequence[str] = (),
    add_hosts: Mapping[str, str] | None = None,
    network: str = "default",
    shm_size: str = "",
    ulimits: Sequence[str] = (),
    allow: Sequence[str] = (),
    cgroup_parent: str = "",
    step_timeout_s: float = 0.0,
    no_cache: bool = False,
    no_cache_filter: Sequence[str] = (),
    pull: bool = False,
    require_cached: bool = False,
    explain: bool = False,
    local_cache: bool = True,
    root: str | os.PathLike[str] = "",
    runtime: str = "",
    insecure_registries: Sequence[str] = (),
    registry_mirrors: Sequence[str] = (),
    on_event: Callable[[Event], None] = lambda event: None,
    cancellation: Cancellation | None = None,
) -> BuildResult:
    """Build an image; return when it is written where it was asked for.

    Every parameter is a flag of `inlay build`. Options that the command line takes as text (`cache_from`,
    `cache_to`, `outputs`, `secrets`, `ssh`, …) are that text: `"type=registry,ref=…,mode=max"`.

    With `explain` the result says of each step that ran why it did. With `require_cached` nothing runs, and
    `NotCached` says why it would have to. Without `local_cache` only `cache_from` counts, as on a machine that has
    built nothing. A RUN step that takes longer than `step_timeout_s` is ended and fails, unless that is 0.

    `on_event` is called with each of `inlay.progress.events` as it happens, perhaps from several threads. To stop
    the build, cancel `cancellation` from another thread, which raises `BuildCancelled`, or raise from `on_event`, or
    press Ctrl-C: what runs is ended, and nothing half-made is left.

    A caller who is not root needs no preparation: another process does the build, in a user namespace.
    Raises `InlayError`s, such as `inlay.errors.ProcessFailed` for a RUN step; `inlay.errors` draws the whole tree.

        result = build("examples/service", tags=["service"], cache_to=["type=inline"])
        print(result.digest, [step.outcome for step in result.steps])
    """
    chosen = _each("outputs", outputs, parse_output)
    caches = [parse_cache_to(text) for text in separate_caches(_each("cache_to", cache_to))]
    imports = separate_caches(_each("cache_from", cache_from))
    request = BuildRequest(
        context=os.fspath(context),
        dockerfile=dockerfile,
        tags=_each("tags", tags),
        build_args=tuple((build_args or {}).items()),
        target=target,
        platforms=_each("platforms", platforms),
        labels=tuple((labels or {}).items()),
        annotations=tuple((annotations or {}).items()),
        outputs=tuple(pushing(chosen) if push else chosen),
        cache_from=tuple(map(parse_cache_from, imports)),
        cache_to=tuple(with_inline_cache(caches, build_args or {})),
        no_cache=no_cache,
        no_cache_filter=_each("no_cache_filter", no_cache_filter),
        pull=pull,
        build_contexts=tuple((build_contexts or {}).items()),
        secrets=_each("secrets", secrets, parse_secret),
        ssh=_each("ssh", ssh, parse_ssh),
        add_hosts=tuple(parse_host(f"{name}={address}") for name, address in (add_hosts or {}).items()),
        network=network,
        shm_size=shm_size,
        ulimits=_each("ulimits", ulimits),
        allow=_each("allow", allow, parse_allow),
        cgroup_parent=cgroup_parent,
        step_timeout_s=step_timeout_s,
        root=os.fspath(root),
        runtime=runtime,
        insecure_registries=_each("insecure_registries", insecure_registries),
        registry_mirrors=_each("registry_mirrors", registry_mirrors, parse_mirror),
        require_cached=require_cached,
        explain=explain,
        local_cache=local_cache,
    )
    if is_privileged():
        from inlay.engine.build import build as run_build

        return run_build(request, on_event, cancellation=cancellation)
    from inlay.engine.apart import build_apart

    return build_apart(request, on_event, cancellation)


def _each(name: str, texts: Sequence[str], parse: Callable[[str], T] = str) -> tuple[T, ...]:  # type: ignore[assignment]
    """Parse each of `texts`. Raises `UsageError` for a single text, whose characters are hardly meant."""
    if isinstance(texts, str):
        raise UsageError(f"{name}={texts!r}: expected a list of texts, such as {name}=[{texts!r}]")
    return tuple(map(parse, texts))
