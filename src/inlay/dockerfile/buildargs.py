"""ARGs before the first FROM, and those that every build has.

BuildKit: frontend/dockerfile/dockerfile2llb/{platform,convert,validations}.go.
"""

from __future__ import annotations

from inlay.dockerfile.outlines import OutlineArg
from inlay.errors import DockerfileError, UsageError
from inlay.llb.ops import ProxyEnv
from inlay.platform import format_platform
from inlay.reference import parse as parse_reference
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from inlay.dockerfile.instructions import Arg, Stage
    from inlay.dockerfile.linter import Linter
    from inlay.dockerfile.shell import Lexer
    from inlay.platform import Platform


def default_arguments(
    build: Platform, target: Platform, stage: str, given: Mapping[str, str]
) -> dict[str, str]:
    """The ARGs that need no declaration, in BuildKit's order."""
    values = {
        "BUILDPLATFORM": str(build),
        "BUILDOS": build.os,
        "BUILDOSVERSION": build.os_version,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": format_platform(target),
        "TARGETOS": target.os,
        "TARGETOSVERSION": target.os_version,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }
    return {name: given.get(name, value) for name, value in values.items()}


def read_globals(
    defaults: Mapping[str, str], arguments: Sequence[Arg], given: Mapping[str, str], lexer: Lexer
) -> tuple[dict[str, str], dict[str, OutlineArg]]:
    """The values of all global ARGs, and what is to tell of them. Raises `DockerfileError`."""
    values = dict(defaults)
    outline: dict[str, OutlineArg] = {}
    for argument in arguments:
        for definition in argument.definitions:
            name, value, needs = definition.name, given.get(definition.name), frozenset[str]()
            if value is None and definition.default is not None:
                try:
                    value, needs, _ = lexer.expand(definition.default, values)
                except DockerfileError as error:
                    error.location = argument.location
                    raise
                if name in needs:
                    needs -= {name}
                    needs |= outline[name].needs if name in outline else frozenset()
            if value is not None:
                values.pop(name, None)
                values[name] = value
            outline[name] = OutlineArg(name, value or "", definition.description, argument.location, needs)
    return values, outline


def check_default_bases(
    stages: Sequence[Stage],
    arguments: Sequence[Arg],
    defaults: Mapping[str, str],
    lexer: Lexer,
    linter: Linter,
) -> None:
    """Warn of FROMs that name no image unless build arguments are given."""
    try:
        values, _ = read_globals(defaults, arguments, {}, lexer)
        names = [(stage, lexer.expand(stage.base, values).text) for stage in stages]
    except DockerfileError:
        return  # It fails for the same reason soon.
    for stage, name in names:
        try:
            parse_reference(name)
        except UsageError:
            message = f"Default value for ARG {stage.base} results in empty or invalid base image name"
            linter.warn("InvalidDefaultArgInFrom", message, stage.location)


def proxy_env(given: Mapping[str, str]) -> ProxyEnv | None:
    """What every RUN gets as proxy settings; the lower case spelling wins."""
    found = {
        name.lower(): given[name]
        for name in sorted(given, key=lambda name: name.encode(errors="surrogateescape"))
        if name.lower() in ProxyEnv._fields
    }
    return ProxyEnv(**found) if found else None
