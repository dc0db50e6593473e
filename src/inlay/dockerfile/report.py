"""What `docker build --call` tells of a Dockerfile without building it: lint, outline, targets.

BuildKit: frontend/subrequests. The JSON has the same fields but those of the daemon's own graph.
"""

from __future__ import annotations

import base64
import json

from inlay.dockerfile.contexts import check_context
from inlay.dockerfile.conversion import Conversion
from inlay.dockerfile.excerpts import excerpt
from inlay.dockerfile.frontend import read_source
from inlay.dockerfile.instructions import read_stages
from inlay.dockerfile.linter import Linter
from inlay.dockerfile.parser import parse
from inlay.errors import DockerfileError
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from inlay.dockerfile.linter import LintWarning
    from inlay.dockerfile.options import ConvertOptions
    from inlay.dockerfile.outlines import OutlineArg
    from inlay.dockerfile.resolver import Resolver
    from inlay.dockerfile.stages import StageBuild
    from inlay.errors import Location


class LintReport(NamedTuple):
    """All warnings, and the error that ended the check, if one did."""

    dockerfile: bytes
    filename: str
    warnings: tuple[LintWarning, ...]
    error: DockerfileError | None = None

    @property
    def is_clean(self) -> bool:
        return not self.warnings and self.error is None

    def to_text(self) -> str:
        """The warnings in the order of their lines, each with an excerpt, and the error that ended the reading."""
        parts = []
        for warning in sorted(
            self.warnings, key=lambda each: each.location.first_line if each.location else 0
        ):
            url = f" - {warning.url}" if warning.url else ""
            parts.append(f"\nWARNING: {warning.rule}{url}\n{warning.message}\n")
            lines = excerpt(self.dockerfile, warning.location)
            parts.append(f"{lines}\n" if lines else "")
        if self.error is not None:
            lines = excerpt(self.dockerfile, self.error.location)
            parts.append(f"\n{lines}\n" if lines else "\n")
            parts.append(f"ERROR: {_message(self.error)}\n")
        return "".join(parts)

    def to_json(self) -> str:
        fields: dict[str, Any] = {
            "warnings": [_warning_json(warning) for warning in self.warnings] or None,
            "sources": [
                {"filename": self.filename, "data": _base64(self.dockerfile), "language": "Dockerfile"}
            ],
        }
        if self.error is not None:
            location = _location_json(self.error.location) or {}
            fields["buildError"] = {"message": _message(self.error), "location": location}
        return _indented(fields)


class NamedNeed(NamedTuple):
    """A secret or an ssh agent."""

    name: str
    required: bool
    location: Location


class OutlineReport(NamedTuple):
    """What the target and all that it needs take from outside."""

    dockerfile: bytes
    name: str
    description: str
    arguments: tuple[OutlineArg, ...]
    secrets: tuple[NamedNeed, ...]
    ssh: tuple[NamedNeed, ...]

    def to_text(self) -> str:
        parts = []
        if self.name or self.description:
            rows = [("TARGET:", self.name or "(default)")]
            rows += [("DESCRIPTION:", self.description)] if self.description else []
            parts.append(_table(rows, 1))
        if self.arguments:
            rows3 = [(each.name, each.value, each.description) for each in self.arguments]
            parts.append(_table([("BUILD ARG", "VALUE", "DESCRIPTION"), *rows3], 3))
        for title, needs in (("SECRET", self.secrets), ("SSH", self.ssh)):
            if needs:
                rows = [(each.name, "true" if each.required else "") for each in needs]
                parts.append(_table([(title, "REQUIRED"), *rows], 3))
        return "".join(part + "\n" for part in parts)

    def to_json(self) -> str:
        arguments = [
            {
                "name": each.name,
                "description": each.description,
                "value": each.value,
                "location": _location_json(each.location),
            }
            for each in self.arguments
        ]
        fields = {
            "name": self.name,
            "description": self.description,
            "args": [_without_empty(each) for each in arguments],
            "secrets": [_need_json(each) for each in self.secrets],
            "ssh": [_need_json(each) for each in self.ssh],
            "sources": [_base64(self.dockerfile)],
        }
        return _indented(_without_empty(fields))


class Target(NamedTuple):
    """A stage that can be built. `base` and `platform` are as written."""

    name: str
    is_default: bool
    description: str
    base: str
    platform: str
    location: Location


class TargetsReport(NamedTuple):
    dockerfile: bytes
    targets: tuple[Target, ...]

    def to_text(self) -> str:
        rows = [(_target_name(target), target.description) for target in self.targets]
        return _table([("TARGET", "DESCRIPTION"), *rows], 1)

    def to_json(self) -> str:
        targets = [
            {
                "name": each.name,
                "default": each.is_default,
                "description": each.description,
                "base": each.base,
                "platform": each.platform,
                "location": _location_json(each.location),
            }
            for each in self.targets
        ]
        fields = {
            "targets": [_without_empty(each) for each in targets],
            "sources": [_base64(self.dockerfile)],
        }
        return _indented(fields)


def lint(dockerfile: bytes, options: ConvertOptions, resolver: Resolver) -> LintReport:
    """Check a Dockerfile: all stages, unless the options name a target. Errors are in the report."""
    linter = Linter()
    error = None
    try:
        _dispatch(dockerfile, options._replace(all_stages=not options.target), resolver, linter)
    except DockerfileError as failure:
        failure.excerpt = failure.excerpt or excerpt(dockerfile, failure.location)
        error = failure
    return LintReport(dockerfile, options.filename, tuple(linter.warnings), error)


def outline(dockerfile: bytes, options: ConvertOptions, resolver: Resolver) -> OutlineReport:
    """Tell what the target takes. Raises `DockerfileError`."""
    target = _dispatch(dockerfile, options, resolver, Linter.silent()).target_stage
    arguments: dict[str, OutlineArg] = {}
    secrets: dict[str, NamedNeed] = {}
    ssh: dict[str, NamedNeed] = {}
    for stage in _with_needs(target):
        for argument in stage.outline.used_arguments():
            arguments.setdefault(argument.name, argument)
        for found, named in ((secrets, stage.outline.secrets), (ssh, stage.outline.ssh)):
            for name, (required, location) in named.items():
                found.setdefault(name, NamedNeed(name, required, location))
    return OutlineReport(
        dockerfile,
        target.name,
        target.stage.description if target.stage else "",
        tuple(sorted(arguments.values(), key=lambda each: (_line(each.location), each.name))),
        tuple(sorted(secrets.values(), key=lambda each: (_line(each.location), each.name))),
        tuple(sorted(ssh.values(), key=lambda each: (_line(each.location), each.name))),
    )


def list_targets(dockerfile: bytes, filename: str = "Dockerfile") -> TargetsReport:
    """Tell which stages there are. Raises `DockerfileError`."""
    stages, _ = read_stages(parse(dockerfile, filename=filename), Linter.silent(), filename)
    targets = [
        Target(
            stage.stage_name,
            index == len(stages) - 1,
            stage.description,
            stage.base,
            stage.platform,
            stage.location,
        )
        for index, stage in enumerate(stages)
    ]
    return TargetsReport(dockerfile, tuple(targets))


def _dispatch(dockerfile: bytes, options: ConvertOptions, resolver: Resolver, linter: Linter) -> Conversion:
    check_context(options)
    source = read_source(dockerfile, options, linter)
    conversion = Conversion(source, options, resolver, linter, None)
    conversion.connect()
    conversion.dispatch()
    return conversion


def _with_needs(target: StageBuild) -> list[StageBuild]:
    """The target, its base, and what they need: each once, nearest first."""
    order: dict[StageBuild, None] = {}
    pending = [target]
    while pending:
        stage = pending.pop()
        if stage not in order:
            order[stage] = None
            pending += reversed(stage.deps)
            pending += [stage.base] if stage.base is not None else []
    return list(order)


def _line(location: Location | None) -> int:
    return location.first_line if location else 0


def _message(error: DockerfileError) -> str:
    return f"{error.message} (did you mean {error.hint}?)" if error.hint else error.message


def _target_name(target: Target) -> str:
    if not target.is_default:
        return target.name
    return f"{target.name} (default)" if target.name else "(default)"


def _table(rows: Sequence[Sequence[str]], padding: int) -> str:
    """Columns as Go's text/tabwriter sets them; the last one has no width."""
    widths = [max(map(len, column)) + padding for column in zip(*rows, strict=True)]
    return "".join(
        "".join(cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)) + row[-1] + "\n"
        for row in rows
    )


def _warning_json(warning: LintWarning) -> dict[str, Any]:
    return _without_empty(
        {
            "ruleName": warning.rule,
            "description": warning.description,
            "url": warning.url,
            "detail": warning.message,
            "location": _location_json(warning.location) or {},
        },
        keep=("location",),
    )


def _need_json(need: NamedNeed) -> dict[str, Any]:
    fields = {"name": need.name, "required": need.required, "location": _location_json(need.location)}
    return _without_empty(fields)


def _location_json(location: Location | None) -> dict[str, Any] | None:
    if location is None:
        return None
    lines = range(location.first_line, location.last_line + 1)
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}


def _without_empty(fields: dict[str, Any], keep: Sequence[str] = ()) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value or name in keep}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _indented(value: object) -> str:
    """Go's `json.MarshalIndent`."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode(errors="replace").decode()
