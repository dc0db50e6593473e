"""`inlay build`: arguments → `BuildRequest`, and what is said of the result."""

from __future__ import annotations

import os
import sys

from inlay.cli import EXIT_FAILED, EXIT_NOT_CACHED, add_root, say
from inlay.errors import SolveError, UsageError
from inlay.golang.text import parse_bool
from inlay.notation import (
    parse_age,
    parse_allow,
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
from inlay.request import BuildRequest
from inlay.system.privileges import is_privileged
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from inlay.progress.events import Event
    from inlay.request import BuildResult, StepOutcome

    _Parser = argparse.ArgumentParser | argparse._ArgumentGroup


def add(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the arguments of `inlay build`."""
    parser.description = "Build the image that PATH/Dockerfile describes."
    add_arguments(parser)
    parser.set_defaults(command=_build)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that make a `BuildRequest` (see `request_of`)."""
    _add_image(parser)
    _add_output(parser.add_argument_group("output"))
    _add_cache(parser.add_argument_group("cache"))
    _add_steps(parser.add_argument_group("steps"))
    _add_general(parser.add_argument_group("general"))
    _add_dockers(parser)


def _add_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "context",
        metavar="PATH",
        help="build context: a folder, a git or http URL, or - for a tar or a Dockerfile on stdin",
    )
    _text(parser, "-f", "--file", help="the Dockerfile (default PATH/Dockerfile; - reads stdin)")
    _texts(parser, "-t", "--tag", help="name the image NAME[:TAG]; may be repeated")
    _texts(
        parser,
        "--build-arg",
        metavar="NAME[=VALUE]",
        help="set an ARG; without a value, from the environment",
    )
    _text(parser, "--target", metavar="STAGE", help="build this stage instead of the last one")
    _texts(
        parser,
        "--platform",
        metavar="OS/ARCH,…",
        help="platforms to build for, such as linux/amd64,linux/arm64; local is this machine's",
    )
    _texts(parser, "--label", metavar="NAME=VALUE", help="add a label to the image")
    _texts(
        parser,
        "--annotation",
        metavar="NAME=VALUE",
        help="add an annotation to the manifest, or with LEVEL: before its name elsewhere, such as index:",
    )


def _add_output(group: _Parser) -> None:
    _switch(group, "--push", help="push the image under its tags")
    _texts(
        group,
        "-o",
        "--output",
        metavar="type=TYPE,dest=PATH",
        help="image (default), registry, oci, docker, local or tar; may be repeated",
    )
    _text(group, "--iidfile", metavar="FILE", help="write the image's digest to FILE")
    _text(group, "--metadata-file", metavar="FILE", help="write the result as JSON to FILE")


def _add_cache(group: _Parser) -> None:
    _texts(
        group,
        "--cache-from",
        metavar="REF|type=TYPE,…",
        help="import a cache: an image or cache in a registry, or type=local|oci-layout,src=PATH",
    )
    _texts(
        group,
        "--cache-to",
        metavar="type=TYPE,…",
        help="export the cache: type=inline[,mode=max], type=registry,ref=REF[,mode=max] or type=local,dest=PATH",
    )
    _switch(group, "--no-cache", help="run every step again")
    _texts(group, "--no-cache-filter", metavar="STAGE", help="run these stages again")
    _switch(group, "--require-cached", help="run nothing: exit with 3 if a step is not cached")
    _switch(group, "--explain", help="say of each step that ran why nothing matched")
    _switch(group, "--pull", help="look for newer base images in the registry")


def _add_steps(group: _Parser) -> None:
    _texts(group, "--build-context", metavar="NAME=PLACE", help="an additional context")
    _texts(group, "--secret", metavar="id=ID,src=FILE|env=NAME", help="a secret for RUN --mount=type=secret")
    _texts(group, "--ssh", metavar="default|ID=PATH", help="an ssh agent or keys for RUN --mount=type=ssh")
    _texts(group, "--add-host", metavar="HOST:IP", help="a line for /etc/hosts in RUN steps")
    _choice(group, "--network", ("default", "none", "host"), help="network of RUN steps")
    _text(group, "--shm-size", metavar="SIZE", help="size of /dev/shm in RUN steps")
    _texts(group, "--ulimit", metavar="NAME=SOFT[:HARD]", help="a limit of RUN steps")
    _texts(
        group,
        "--allow",
        metavar="ENTITLEMENT",
        help="allow RUN --network=host (network.host) or --security=insecure (security.insecure)",
    )
    _text(group, "--cgroup-parent", metavar="PATH", help="run RUN steps in a cgroup below this one")
    _text(
        group,
        "--step-timeout",
        metavar="DURATION",
        help="end a RUN step that takes longer, such as 10m",
    )
    _text(
        group,
        "--runtime",
        metavar="NAME",
        help="crun, runc or builtin; default: what a probe finds to work",
    )


def _add_general(group: _Parser) -> None:
    add_root(group)
    _texts(
        group,
        "--insecure-registry",
        metavar="HOST[:PORT]",
        help="speak plain HTTP, or unverified HTTPS, with this registry",
    )
    _texts(
        group,
        "--registry-mirror",
        metavar="HOST=MIRROR",
        help="ask MIRROR (a host, perhaps with a path) before the registry HOST; may be repeated",
    )
    _choice(group, "--progress", ("auto", "plain", "tty", "quiet", "rawjson"), help="how to show progress")
    _switch(group, "--check", help="only check the Dockerfile: the same as --call check")
    _text(
        group,
        "--call",
        default="build",
        metavar="WHAT[,format=json]",
        help="build, or only tell: check, outline or targets",
    )
    _switch(group, "-q", "--quiet", help="print the image's digest only")


def _add_dockers(parser: argparse.ArgumentParser) -> None:
    """What scripts for docker pass, and what changes nothing here: the image is in the store at once, there are no
    containers to remove, and no attestations."""
    # argparse knows its SUPPRESS by identity; where it is not loaded, there is no help to hide from
    hidden = getattr(sys.modules.get("argparse"), "SUPPRESS", "")
    for flag in ("--load", "--rm", "--force-rm", "--compress"):
        _switch(parser, flag, help=hidden)
    for flag in ("--provenance", "--sbom", "--builder"):
        _text(parser, flag, help=hidden)


def _switch(parser: _Parser, *flags: str, help: str) -> None:  # noqa: A002 - argparse's name, here and below
    parser.add_argument(*flags, action="store_true", help=help)


def _text(parser: _Parser, *flags: str, help: str, metavar: str | None = None, default: str = "") -> None:  # noqa: A002
    parser.add_argument(*flags, default=default, metavar=metavar, help=help)


def _texts(parser: _Parser, *flags: str, help: str, metavar: str | None = None) -> None:  # noqa: A002
    """An option that may be repeated."""
    parser.add_argument(*flags, action="append", default=[], metavar=metavar, help=help)


def _choice(parser: _Parser, flag: str, choices: Sequence[str], *, help: str) -> None:  # noqa: A002
    """An option with one of `choices`, the first unless it is given."""
    parser.add_argument(flag, default=choices[0], choices=choices, help=help)


def _build(arguments: argparse.Namespace) -> int:
    request = request_of(arguments)
    entry = None
    if not is_privileged():
        from inlay.system.rootless import begin_to_enter

        entry = begin_to_enter()
    call = "check" if arguments.check else arguments.call
    if call != "build":
        from inlay.engine.calls import call_frontend

        if entry is not None:
            entry.wait()
        text, clean = call_frontend(request, call)
        sys.stdout.write(text)
        return 0 if clean else EXIT_FAILED
    outset = None
    if entry is None:  # else there can be no threads yet
        from inlay.engine.outset import Outset

        outset = Outset(request).begin()
    from inlay.engine.build import NotCached, build

    if entry is not None:
        entry.wait()
    sink = _sink("quiet" if arguments.quiet else arguments.progress)
    try:
        result = build(request, sink, outset=outset, is_last=True)
    except NotCached as error:
        _explain(error.steps)
        say(str(error))
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
    _refuse_attestations(arguments)
    outputs = [parse_output(text) for text in arguments.output]
    build_args = _build_args(arguments.build_arg)
    cache_to = [parse_cache_to(text) for text in separate_caches(arguments.cache_to)]
    return BuildRequest(
        context=arguments.context,
        dockerfile=arguments.file,
        tags=tuple(arguments.tag),
        build_args=build_args,
        target=arguments.target,
        platforms=_separated(arguments.platform),
        labels=tuple(_label(text) for text in arguments.label),
        annotations=tuple(parse_pair(text, "--annotation") for text in arguments.annotation),
        outputs=tuple(pushing(outputs) if arguments.push else outputs),
        cache_from=tuple(parse_cache_from(text) for text in separate_caches(arguments.cache_from)),
        cache_to=tuple(with_inline_cache(cache_to, dict(build_args))),
        no_cache=arguments.no_cache,
        no_cache_filter=_separated(arguments.no_cache_filter),
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


def _refuse_attestations(arguments: argparse.Namespace) -> None:
    for flag in ("provenance", "sbom"):
        text = getattr(arguments, flag)
        if text and parse_bool(text) is not False:
            raise UsageError(f"--{flag}: attestations are not made; leave it out, or say --{flag}=false")


def _build_args(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and values. Unset variables are left out, as docker does; SOURCE_DATE_EPOCH comes from the environment
    when no argument sets it, as with buildx."""
    given = [(name, value) for name, value in map(_build_arg, texts) if value is not None]
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and "SOURCE_DATE_EPOCH" not in dict(given):
        given.append(("SOURCE_DATE_EPOCH", epoch))
    return tuple(given)


def _build_arg(text: str) -> tuple[str, str | None]:
    """`NAME=VALUE`, or `NAME` with the environment's value; None for an unset variable."""
    name, separator, value = text.partition("=")
    if not name:
        raise UsageError(f"--build-arg {text}: expected NAME=VALUE")
    return name, value if separator else os.environ.get(name)


def _label(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, or `NAME` for an empty one, as with docker."""
    return parse_pair(text if "=" in text else f"{text}=", "--label")


def _separated(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for text in texts for part in text.split(",") if part)


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
