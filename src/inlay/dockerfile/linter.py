"""Lint: the rules, and what collects their warnings.

BuildKit: frontend/dockerfile/linter. A rule is a row of text; the checks stand where the facts are.
"""

from __future__ import annotations

from inlay.dockerfile.literals import parse_bool
from inlay.errors import DockerfileError
from inlay.golang.text import SPACE, quote
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.errors import Location

_RULES = "https://docs.docker.com/go/dockerfile/rule/"
_EXPERIMENTAL = ("InvalidDefinitionDescription",)
_WITHOUT_PAGE = ("InvalidBaseImagePlatform",)

DESCRIPTIONS = {
    "StageNameCasing": "Stage names should be lowercase",
    "FromAsCasing": "The 'as' keyword should match the case of the 'from' keyword",
    "NoEmptyContinuation": "Empty continuation lines will become errors in a future release",
    "ConsistentInstructionCasing": (
        "All commands within the Dockerfile should use the same casing (either upper or lower)"
    ),
    "DuplicateStageName": "Stage names should be unique",
    "ReservedStageName": "Reserved words should not be used as stage names",
    "JSONArgsRecommended": (
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals"
    ),
    "MaintainerDeprecated": (
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author"
    ),
    "UndefinedArgInFrom": "FROM command must use declared ARGs",
    "WorkdirRelativePath": (
        "Relative workdir without an absolute workdir declared within the build can have unexpected results "
        "if the base image changes"
    ),
    "UndefinedVar": "Variables should be defined before their use",
    "MultipleInstructionsDisallowed": (
        "Multiple instructions of the same type should not be used in the same stage"
    ),
    "LegacyKeyValueFormat": "Legacy key/value format with whitespace separator should not be used",
    "InvalidBaseImagePlatform": "Base image platform does not match expected target platform",
    "RedundantTargetPlatform": (
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior"
    ),
    "SecretsUsedInArgOrEnv": "Sensitive data should not be used in the ARG or ENV commands",
    "InvalidDefaultArgInFrom": (
        "Default value for global ARG results in an empty or invalid base image name"
    ),
    "FromPlatformFlagConstDisallowed": "FROM --platform flag should not use a constant value",
    "CopyIgnoredFile": "Attempting to Copy file that is excluded by .dockerignore",
    "InvalidDefinitionDescription": (
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. "
        "If this is not intended to be a description comment, add an empty line or comment between the "
        "instruction and the comment."
    ),
    "ExposeProtoCasing": "Protocol in EXPOSE instruction should be lowercase",
    "ExposeInvalidFormat": (
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error "
        "in a future release"
    ),
}
"""Each rule's name, and what it wants in general."""


class LintWarning(NamedTuple):
    """One finding: `message` says it of this place, `description` in general. `url` may be empty."""

    rule: str
    message: str
    location: Location | None

    @property
    def description(self) -> str:
        return DESCRIPTIONS[self.rule]

    @property
    def url(self) -> str:
        if self.rule in _WITHOUT_PAGE:
            return ""
        return f"{_RULES}{_kebab(self.rule)}/"

    def __str__(self) -> str:
        line = f" (line {self.location.first_line})" if self.location else ""
        return f"{self.rule}: {self.message}{line}"


class LintOptions(NamedTuple):
    """What `# check=` says. `all` in a set stands for all rules."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    @classmethod
    def parse(cls, text: str) -> LintOptions:
        """Read `skip=A,B;error=true;experimental=all`. Raises `ValueError` with BuildKit's message."""
        options = cls()
        text = text.strip(SPACE)
        for part in text.split(";", 2) if text else ():
            options = options._with(part)
        return options

    def _with(self, part: str) -> LintOptions:
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"invalid check option {quote(part)}")
        key, value = key.strip(SPACE), value.strip(SPACE)
        if key == "error":
            try:
                return self._replace(error=parse_bool(value))
            except ValueError as error:
                raise ValueError(f"failed to parse check option {quote(part)}: {error}") from None
        rules = frozenset(rule.strip(SPACE) for rule in value.split(","))
        if key == "skip":
            return self._replace(skip=rules)
        if key == "experimental":
            return self._replace(experimental=rules)
        raise ValueError(f"invalid check option {quote(key)}")

    def merged(self, other: LintOptions) -> LintOptions:
        """These options with the rules of `other` added; `error` stays."""
        return self._replace(skip=self.skip | other.skip, experimental=self.experimental | other.experimental)


NO_OPTIONS = LintOptions()


class Linter:
    """Collects warnings. A linter made by `for_comments` adds to the same list under further options."""

    __slots__ = ("enabled", "options", "warnings")

    def __init__(self, options: LintOptions = NO_OPTIONS, *, enabled: bool = True) -> None:
        self.options = options
        self.warnings: list[LintWarning] = []
        self.enabled = enabled

    @classmethod
    def silent(cls) -> Linter:
        """A linter that finds nothing."""
        return cls(enabled=False)

    def warn(self, rule: str, message: str, location: Location | None) -> None:
        if not self.enabled:
            return
        if rule in _EXPERIMENTAL:
            if not self.options.experimental & {rule, "all"}:
                return
        elif self.options.skip & {rule, "all"}:
            return
        self.warnings.append(LintWarning(rule, message, location))

    def for_comments(self, comments: Sequence[str]) -> Linter:
        """The linter for an instruction with these comments before it: one may be `check=skip=…`."""
        for comment in comments:
            value = _check_directive(comment)
            if value is None:
                continue
            try:
                options = LintOptions.parse(value.partition(" ")[0])
            except ValueError:
                return self
            merged = Linter(self.options.merged(options), enabled=self.enabled)
            merged.warnings = self.warnings
            return merged
        return self

    def check(self) -> None:
        """Raise `DockerfileError` if there are warnings and the options make them errors."""
        if self.options.error and self.warnings:
            rules = ", ".join(sorted({warning.rule for warning in self.warnings}))
            raise DockerfileError(f"lint violation found for rules: {rules}")


def _check_directive(comment: str) -> str | None:
    """The value of `check=value`; None where the comment is something else."""
    key, equals, value = comment.lstrip(SPACE).partition("=")
    if not equals or key.rstrip("\t\n\f\r ").lower() != "check":
        return None
    return value.strip("\t\n\f\r ") or None


def _kebab(name: str) -> str:
    """`JSONArgsRecommended` → `json-args-recommended`."""
    out: list[str] = []
    for position, char in enumerate(name):
        following = name[position + 1 : position + 2]
        previous = name[position - 1 : position]
        if char.isupper() and position and (previous.islower() or following.islower()):
            out.append("-")
        out.append(char.lower())
    return "".join(out)
