"""`inlay.build`: the command line's build as a function."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from inlay import rootless
from inlay.request import (
    BuildRequest,
    BuildResult,
    parse_allow,
    parse_cache_from,
    parse_cache_to,
    parse_host,
    parse_mirror,
    parse_output,
    parse_secret,
    parse_ssh,
    pushing,
    with_inline_cache,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inlay.progress.events import Event


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
) -> BuildResult:
    """Build an image; block until it is written where it was asked for.

    Options that the command line takes as text (`cache_from`, `cache_to`, `outputs`, `secrets`, `ssh`, …) are
    that text: `"type=registry,ref=…,mode=max"`. `on_event` gets `inlay.progress.events`, from several
    threads. With `explain` the result says of each step that ran why it did; with `require_cached` nothing
    runs, and `NotCached` says why it would have to; without `local_cache` only `cache_from` counts, as on a
    machine that has built nothing. For a caller who is not root it is done by another process,
    in a user namespace. Raises `InlayError`s; see `inlay.errors`.

        result = build("examples/service", tags=["service"], cache_to=["type=inline"])
        print(result.digest, [step.outcome for step in result.steps])
    """
    chosen = [parse_output(text) for text in outputs]
    caches = [parse_cache_to(text) for text in cache_to]
    request = BuildRequest(
        context=os.fspath(context),
        dockerfile=dockerfile,
        tags=tuple(tags),
        build_args=tuple((build_args or {}).items()),
        target=target,
        platforms=tuple(platforms),
        labels=tuple((labels or {}).items()),
        annotations=tuple((annotations or {}).items()),
        outputs=tuple(pushing(chosen) if push else chosen),
        cache_from=tuple(parse_cache_from(text) for text in cache_from),
        cache_to=tuple(with_inline_cache(caches, build_args or {})),
        no_cache=no_cache,
        no_cache_filter=tuple(no_cache_filter),
        pull=pull,
        build_contexts=tuple((build_contexts or {}).items()),
        secrets=tuple(parse_secret(text) for text in secrets),
        ssh=tuple(parse_ssh(text) for text in ssh),
        add_hosts=tuple(parse_host(f"{name}={address}") for name, address in (add_hosts or {}).items()),
        network=network,
        shm_size=shm_size,
        ulimits=tuple(ulimits),
        allow=tuple(parse_allow(text) for text in allow),
        cgroup_parent=cgroup_parent,
        root=os.fspath(root),
        runtime=runtime,
        insecure_registries=tuple(insecure_registries),
        registry_mirrors=tuple(parse_mirror(text) for text in registry_mirrors),
        require_cached=require_cached,
        explain=explain,
        local_cache=local_cache,
    )
    if rootless.is_privileged():
        from inlay.builder import build as run_build

        return run_build(request, on_event)
    from inlay.apart import build_apart

    return build_apart(request, on_event)
