"""From a Dockerfile to what a build needs: LLB, image configs and warnings."""

from __future__ import annotations

from inlay.dockerfile.checks import check_casing, check_stage_names
from inlay.dockerfile.contexts import check_context
from inlay.dockerfile.conversion import Conversion, ConvertedPlatform, Source
from inlay.dockerfile.directives import find_directive
from inlay.dockerfile.excerpts import excerpt as excerpt
from inlay.dockerfile.instructions import read_stages
from inlay.dockerfile.linter import Linter, LintOptions, LintWarning
from inlay.dockerfile.parser import parse
from inlay.errors import DockerfileError, Location
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from inlay.dockerfile.options import ConvertOptions
    from inlay.dockerfile.resolver import Resolver


class Converted(NamedTuple):
    """A Dockerfile's meaning for each platform asked for, in that order."""

    results: tuple[ConvertedPlatform, ...]
    warnings: tuple[LintWarning, ...]


def convert(
    dockerfile: bytes, options: ConvertOptions, resolver: Resolver, linter: Linter | None = None
) -> Converted:
    """Convert a Dockerfile. Blocks while `resolver` does.

    Raises `DockerfileError` with the place and an excerpt of the Dockerfile, whatever `dockerfile` is; `linter`
    then has the warnings up to there.
    """
    linter = linter or Linter()
    try:
        return _convert(dockerfile, options, resolver, linter)
    except DockerfileError as error:
        error.excerpt = error.excerpt or excerpt(dockerfile, error.location)
        raise


def _convert(dockerfile: bytes, options: ConvertOptions, resolver: Resolver, linter: Linter) -> Converted:
    check_context(options)
    source = read_source(dockerfile, options, linter)
    # Each platform goes through the same instructions: only the first one's warnings are told.
    conversions = [
        Conversion(source, options, resolver, linter if index == 0 else Linter.silent(), platform)
        for index, platform in enumerate(options.platforms or (None,))
    ]
    for conversion in conversions:
        conversion.connect()
    if len(conversions) > 1:
        resolver.prefetch([request for conversion in conversions for request in conversion.requests()])
    results = []
    for conversion in conversions:
        conversion.dispatch()
        results.append(conversion.result())
    return Converted(tuple(results), tuple(linter.warnings))


def read_source(dockerfile: bytes, options: ConvertOptions, linter: Linter) -> Source:
    """Read the instructions, with the lint that needs no more than them. Raises `DockerfileError`."""
    if not dockerfile:
        raise DockerfileError("the Dockerfile cannot be empty")
    linter.options = options.lint if options.lint is not None else _own_options(dockerfile)
    parsed = parse(dockerfile, filename=options.filename)
    for warning in parsed.warnings:
        location = Location(options.filename, warning.line, warning.line)
        linter.warn("NoEmptyContinuation", "Empty continuation line", location)
    stages, arguments = read_stages(parsed, linter, options.filename)
    if not stages:
        raise DockerfileError("dockerfile contains no stages to build")
    check_stage_names(stages, linter)
    check_casing(stages, linter)
    return Source(stages, arguments, parsed.escape)


def _own_options(dockerfile: bytes) -> LintOptions:
    """What the Dockerfile's `# check=` says."""
    directive = find_directive(dockerfile, "check")
    try:
        return LintOptions.parse(directive.reference) if directive else LintOptions()
    except ValueError as error:
        raise DockerfileError(f"failed to parse check options: {error}") from None
