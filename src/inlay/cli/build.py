"""`inlay build`: arguments → `BuildRequest`, and what is said of the result."""

from __future__ import annotations

import os
import sys

from inlay import rootless
from inlay.cli import EXIT_FAILED, EXIT_NOT_CACHED
from inlay.errors import SolveError, UsageError
from inlay.request import (
    BuildRequest,
    parse_age,
    parse_allow,
    parse_bool,
    parse_cache_from,
    parse_cache_to,
    parse_host,
    parse_mirror,
    parse_output,
    parse_pair,
    parse_secret,
    parse_ssh,
    pushing,
    separate_caches,
    with_inline_cache,
)
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from inlay.progress.events import Event
    from inlay.request import BuildResult, StepOutcome


_HIDDEN = "==SUPPRESS=="
"""As argparse calls it."""


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay build`."""
    parser.description = "Build the image that PATH/Dockerfile describes."
    add_arguments(parser)
    parser.set_defaults(command=_build)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that make a `BuildRequest` (see `request_of`)."""
    add = parser.add_argument
    add(
        "context",
        metavar="PATH",
        help="build context: a folder, a git or http URL, or - for a tar or a Dockerfile on stdin",
    )
    add("-f", "--file", default="", help="the Dockerfile (default PATH/Dockerfile; - reads stdin)")
    add("-t", "--tag", action="append", default=[], help="name the image NAME[:TAG]; may be repeated")
    add(
        "--build-arg",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set an ARG; without a value, from the environment",
    )
    add("--target", default="", metavar="STAGE", help="build this stage instead of the last one")
    add(
        "--platform",
        action="append",
        default=[],
        metavar="OS/ARCH,…",
        help="platforms to build for, such as linux/amd64,linux/arm64; local is this machine's",
    )
    add("--label", action="append", default=[], metavar="NAME=VALUE", help="add a label to the image")
    add(
        "--annotation",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="add an annotation to the manifest, or with LEVEL: before its name elsewhere, such as index:",
    )
    out = parser.add_argument_group("output")
    out.add_argument("--push", action="store_true", help="push the image under its tags")
    out.add_argument(
        "-o",
        "--output",
        action="append",
        default=[],
        metavar="type=TYPE,dest=PATH",
        help="image (default), registry, oci, docker, local or tar; may be repeated",
    )
    out.add_argument("--iidfile", default="", metavar="FILE", help="write the image's digest to FILE")
    out.add_argument("--metadata-file", default="", metavar="FILE", help="write the result as JSON to FILE")
    cache = parser.add_argument_group("cache")
    cache.add_argument(
        "--cache-from",
        action="append",
        default=[],
        metavar="REF|type=TYPE,…",
        help="import a cache: an image or cache in a registry, or type=local|oci-layout,src=PATH",
    )
    cache.add_argument(
        "--cache-to",
        action="append",
        default=[],
        metavar="type=TYPE,…",
        help="export the cache: type=inline[,mode=max], type=registry,ref=REF[,mode=max] or type=local,dest=PATH",
    )
    cache.add_argument("--no-cache", action="store_true", help="run every step again")
    cache.add_argument(
        "--no-cache-filter", action="append", default=[], metavar="STAGE", help="run these stages again"
    )
    cache.add_argument(
        "--require-cached", action="store_true", help="run nothing: exit with 3 if a step is not cached"
    )
    cache.add_argument("--explain", action="store_true", help="say of each step that ran why nothing matched")
    cache.add_argument("--pull", action="store_true", help="look for newer base images in the registry")
    _add_steps(parser.add_argument_group("steps"))
    more = parser.add_argument_group("general")
    more.add_argument("--root", default="", metavar="FOLDER", help="where images and caches are kept")
    more.add_argument(
        "--insecure-registry",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="speak plain HTTP, or unverified HTTPS, with this registry",
    )
    more.add_argument(
        "--registry-mirror",
        action="append",
        default=[],
        metavar="HOST=MIRROR",
        help="ask MIRROR (a host, perhaps with a path) before the registry HOST; may be repeated",
    )
    more.add_argument(
        "--progress",
        default="auto",
        choices=("auto", "plain", "tty", "quiet", "rawjson"),
        help="how to show progress",
    )
    more.add_argument(
        "--check", action="store_true", help="only check the Dockerfile: the same as --call check"
    )
    more.add_argument(
        "--call",
        default="build",
        metavar="WHAT[,format=json]",
        help="build, or only tell: check, outline or targets",
    )
    more.add_argument("-q", "--quiet", action="store_true", help="print the image's digest only")
    _add_dockers(parser)


def _add_dockers(parser: argparse.ArgumentParser) -> None:
    """What scripts for docker pass, and what changes nothing here: the image is in the store at once, there are no
    containers to remove, and no attestations."""
    for flag in ("--load", "--rm", "--force-rm", "--compress"):
        parser.add_argument(flag, action="store_true", help=_HIDDEN)
    for flag in ("--provenance", "--sbom", "--builder"):
        parser.add_argument(flag, default="", help=_HIDDEN)


def _add_steps(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--build-context", action="append", default=[], metavar="NAME=PLACE", help="an additional context")
    add(
        "--secret",
        action="append",
        default=[],
        metavar="id=ID,src=FILE|env=NAME",
        help="a secret for RUN --mount=type=secret",
    )
    add(
        "--ssh",
        action="append",
        default=[],
        metavar="default|ID=PATH",
        help="an ssh agent or keys for RUN --mount=type=ssh",
    )
    add(
        "--add-host",
        action="append",
        default=[],
        metavar="HOST:IP",
        help="a line for /etc/hosts in RUN steps",
    )
    add("--network", default="default", choices=("default", "none", "host"), help="network of RUN steps")
    add("--shm-size", default="", metavar="SIZE", help="size of /dev/shm in RUN steps")
    add("--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]", help="a limit of RUN steps")
    add(
        "--allow",
        action="append",
        default=[],
        metavar="ENTITLEMENT",
        help="allow RUN --network=host (network.host) or --security=insecure (security.insecure)",
    )
    add("--cgroup-parent", default="", metavar="PATH", help="run RUN steps in a cgroup below this one")
    add(
        "--step-timeout", default="", metavar="DURATION", help="end a RUN step that takes longer, such as 10m"
    )
    add(
        "--runtime",
        default="",
        metavar="NAME",
        help="crun, runc or builtin; default: what a probe finds to work",
    )


def _build(arguments: argparse.Namespace) -> int:
    request = request_of(arguments)
    entry = rootless.begin_to_enter()
    call = "check" if arguments.check else arguments.call
    if call != "build":
        from inlay.calls import call_frontend

        if entry is not None:
            entry.wait()
        text, clean = call_frontend(request, call)
        sys.stdout.write(text)
        return 0 if clean else EXIT_FAILED
    outset = None
    if entry is None:  # else there can be no threads yet
        from inlay.outset import Outset

        outset = Outset(request).begin()
    from inlay.builder import NotCached, build

    if entry is not None:
        entry.wait()
    sink = _sink("quiet" if arguments.quiet else arguments.progress)
    try:
        result = build(request, sink, outset=outset, is_last=True)
    except NotCached as error:
        _explain(error.steps)
        sys.stderr.write(f"inlay: {error}\n")
        return EXIT_NOT_CACHED
    except SolveError as error:
        if request.explain:
            _explain(error.steps)
        raise
    _tell(result, request, arguments)
    return 0


def _tell(result: BuildResult, request: BuildRequest, arguments: argparse.Namespace) -> None:
    """Write what was asked for of the result."""
    if request.explain:
        _explain(result.steps)
    if arguments.iidfile:
        _write(arguments.iidfile, result.config_digest or result.digest)
    if arguments.metadata_file:
        from inlay.progress.summary import metadata

        _write(arguments.metadata_file, metadata(result, request))
    if arguments.quiet:
        print(result.digest)
    elif arguments.progress != "quiet":
        from inlay.progress.summary import last_line

        sys.stderr.write(last_line(result) + "\n")


def _explain(steps: Sequence[StepOutcome]) -> None:
    from inlay.progress.explained import explanation_text

    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    sys.stderr.write(explanation_text(steps, colour=colour))


def request_of(arguments: argparse.Namespace) -> BuildRequest:
    """Turn parsed arguments into a request; raise `UsageError` for what does not fit together."""
    for flag in ("provenance", "sbom"):
        if getattr(arguments, flag) and parse_bool(getattr(arguments, flag)) is not False:
            raise UsageError(f"--{flag}: attestations are not made; leave it out, or say --{flag}=false")
    outputs = [parse_output(text) for text in arguments.output]
    if arguments.push:
        outputs = pushing(outputs)
    given = (_build_arg(text) for text in arguments.build_arg)
    build_args = tuple((name, value) for name, value in given if value is not None)
    cache_to = [parse_cache_to(text) for text in separate_caches(arguments.cache_to)]
    return BuildRequest(
        context=arguments.context,
        dockerfile=arguments.file,
        tags=tuple(arguments.tag),
        build_args=_with_epoch(build_args),
        target=arguments.target,
        platforms=tuple(part for text in arguments.platform for part in text.split(",") if part),
        labels=tuple(_label(text) for text in arguments.label),
        annotations=tuple(parse_pair(text, "--annotation") for text in arguments.annotation),
        outputs=tuple(outputs),
        cache_from=tuple(parse_cache_from(text) for text in separate_caches(arguments.cache_from)),
        cache_to=tuple(with_inline_cache(cache_to, dict(build_args))),
        no_cache=arguments.no_cache,
        no_cache_filter=tuple(part for text in arguments.no_cache_filter for part in text.split(",") if part),
        pull=arguments.pull,
        build_contexts=tuple(parse_pair(text, "--build-context") for text in arguments.build_context),
        secrets=tuple(parse_secret(text) for text in arguments.secret),
        ssh=tuple(parse_ssh(text) for text in arguments.ssh),
        add_hosts=tuple(parse_host(text) for text in arguments.add_host),
        network=arguments.network,
        shm_size=arguments.shm_size,
        ulimits=tuple(arguments.ulimit),
        allow=tuple(parse_allow(text) for text in arguments.allow),
        cgroup_parent=arguments.cgroup_parent,
        step_timeout_s=parse_age(arguments.step_timeout, "--step-timeout") if arguments.step_timeout else 0.0,
        root=arguments.root,
        runtime=arguments.runtime,
        insecure_registries=tuple(arguments.insecure_registry),
        registry_mirrors=tuple(parse_mirror(text) for text in arguments.registry_mirror),
        require_cached=arguments.require_cached,
        explain=arguments.explain,
    )


def _build_arg(text: str) -> tuple[str, str | None]:
    """`NAME=VALUE`, or `NAME` with the environment's value; unset variables are left out, as docker does."""
    name, separator, value = text.partition("=")
    if not name:
        raise UsageError(f"--build-arg {text}: expected NAME=VALUE")
    return name, value if separator else os.environ.get(name)


def _label(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, or `NAME` for an empty one, as with docker."""
    return parse_pair(text if "=" in text else f"{text}=", "--label")


def _with_epoch(build_args: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """SOURCE_DATE_EPOCH comes from the environment when no build argument sets it, as with buildx."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and "SOURCE_DATE_EPOCH" not in dict(build_args):
        return (*build_args, ("SOURCE_DATE_EPOCH", epoch))
    return build_args


def _sink(kind: str) -> Callable[[Event], None]:
    if kind == "auto":
        kind = "tty" if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" else "plain"
    if kind == "tty":
        from inlay.progress.tty import TtySink

        return TtySink(sys.stderr)
    if kind == "rawjson":
        from inlay.progress.rawjson import RawJsonSink

        return RawJsonSink(sys.stderr)
    if kind == "plain":
        from inlay.progress.plain import PlainSink

        return PlainSink(sys.stderr)
    from inlay.progress.quiet import QuietSink

    return QuietSink(sys.stderr)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
