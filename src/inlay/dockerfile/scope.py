"""One instruction at work in its stage: what it sees, and how it is shown and noted."""

from __future__ import annotations

from inlay.dockerfile.shell import ExpansionError
from inlay.platform import Platform, format_platform, normalise, parse
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inlay.dockerfile.conversion import Conversion
    from inlay.dockerfile.linter import Linter
    from inlay.dockerfile.shell import Lexer
    from inlay.dockerfile.stages import StageBuild, Step
    from inlay.errors import Location

NOT_IN_ENV = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
"""ARGs that are for the builder, and become no variables."""


class Scope:
    """An instruction, its stage, and the linter that its comments ask for."""

    __slots__ = ("conversion", "linter", "location", "source", "stage", "step")

    def __init__(self, conversion: Conversion, stage: StageBuild, step: Step, linter: Linter) -> None:
        self.conversion = conversion
        self.stage = stage
        self.step = step
        self.linter = linter
        self.location: Location = step.instruction.location
        self.source = step.instruction.source

    @property
    def os(self) -> str:
        return self.stage.platform.os if self.stage.platform else ""

    @property
    def env(self) -> dict[str, str]:
        return self.stage.state.env

    def expand(self, word: str) -> str:
        """Expand the variables of `word`; warn of those that nobody set."""
        return self.expand_with(self.conversion.lexer, word)

    def expand_with(self, lexer: Lexer, word: str) -> str:
        try:
            expansion = lexer.expand(word, self.env)
        except ExpansionError as error:
            self._warn_unset(error.unmatched)
            raise
        if expansion.unmatched:
            self._warn_unset(expansion.unmatched)
        return expansion.text

    def _warn_unset(self, names: frozenset[str]) -> None:
        declared = {argument.name for argument in self.stage.arguments}
        for name in sorted(names - declared):
            if name in NOT_IN_ENV:
                continue
            near = self.conversion.suggest(name, self.env)
            message = f"Usage of undefined variable '${name}'" + (f" (did you mean ${near}?)" if near else "")
            self.linter.warn("UndefinedVar", message, self.location)

    def command_text(
        self, lexer: Lexer | None = None, source: str = "", env: Mapping[str, str] | None = None
    ) -> str:
        """The instruction as progress shows it: its first word in upper case, variables expanded."""
        text = source or self.source
        try:  # noqa: SIM105 - contextlib is not worth its import
            text = (lexer or self.conversion.lexer).expand(text, self.env if env is None else env).text
        except ExpansionError:
            pass  # it is shown as it was written
        name, space, rest = text.partition(" ")
        return name.upper() + space + rest

    def step_name(self, text: str) -> str:
        """The text behind `[stage 2/5] `; counts on."""
        platform = self.stage.platform or self.conversion.target_platform
        return step_name(
            self.stage,
            text,
            platform,
            self.env,
            multi=self.conversion.options.multi_platform,
            trigger=self.step.is_trigger,
        )

    def commit(self, created_by: str, *, layer: bool = False) -> None:
        """Note the instruction in the image's history."""
        self.stage.image.add_history(created_by, layer=layer, created=self.conversion.created)


def step_name(
    stage: StageBuild,
    text: str,
    platform: Platform | None,
    env: Mapping[str, str],
    *,
    multi: bool,
    trigger: bool = False,
) -> str:
    """The name of the stage's next step (BuildKit: `prefixCommand`). Stages without steps have no prefix."""
    if stage.step_count == 0:
        return text
    prefix = ""
    if multi and platform is not None:
        prefix = format_platform(platform) + _cross_target(platform, env) + " "
    if stage.display_name:
        prefix += stage.display_name + " "
    stage.step_index += 1
    width = len(str(stage.step_count))
    return f"[{prefix}{stage.step_index:{width}d}/{stage.step_count}] {'ONBUILD ' if trigger else ''}{text}"


def _cross_target(base: Platform, env: Mapping[str, str]) -> str:
    """`->arm64` where the variables say that the step builds for another platform than it runs on."""
    target = _target_in(env)
    if target is None:
        return ""
    target = normalise(
        target._replace(os=target.os or base.os, architecture=target.architecture or base.architecture)
    )
    if target.os != base.os:
        return "->" + format_platform(target)
    if target.architecture == base.architecture:
        return ""
    return f"->{target.architecture}" + (f"/{target.variant}" if target.variant else "")


def _target_in(env: Mapping[str, str]) -> Platform | None:
    from inlay.errors import UsageError

    found: dict[str, str] = {}
    fields = {"TARGETOS": "os", "TARGETARCH": "architecture", "TARGETVARIANT": "variant"}
    for name, value in env.items():
        if name == "TARGETPLATFORM":
            try:
                return parse(value)
            except UsageError:
                continue
        if name in fields:
            found[fields[name]] = value
    return (
        Platform(found.get("os", ""), found.get("architecture", ""), found.get("variant", ""))
        if found
        else None
    )
