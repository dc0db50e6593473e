"""Lint that looks at the stages as they are written (BuildKit: dockerfile2llb/validations.go)."""

from __future__ import annotations

from inlay.golang.text import quote
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inlay.dockerfile.instructions import Stage
    from inlay.dockerfile.linter import Linter
    from inlay.errors import Location

_RESERVED = ("context", "scratch")


def check_stage_names(stages: Sequence[Stage], linter: Linter) -> None:
    """Warn of names that are taken."""
    seen: set[str] = set()
    for stage in stages:
        name = stage.stage_name
        if not name:
            continue
        if name in _RESERVED:
            message = f"Stage name should not use the same name as reserved stage {quote(name)}"
            linter.warn("ReservedStageName", message, stage.location)
        if name in seen:
            message = f"Duplicate stage name {quote(name)}, stage names should be unique"
            linter.warn("DuplicateStageName", message, stage.location)
        seen.add(name)


def check_casing(stages: Sequence[Stage], linter: Linter) -> None:
    """Warn of instructions that are not written in the case that most are."""
    names = [(each.name, each.location) for stage in stages for each in (stage, *stage.instructions)]
    lower = sum(name == name.lower() for name, _ in names)
    upper = sum(name == name.upper() != name.lower() for name, _ in names)
    for name, location in names:
        _check_case(name, location, linter, lower=lower > upper)


def _check_case(name: str, location: Location, linter: Linter, *, lower: bool) -> None:
    if name != (name.lower() if lower else name.upper()):
        casing = "lowercase" if lower else "uppercase"
        message = f"Command '{name}' should match the case of the command majority ({casing})"
        linter.warn("ConsistentInstructionCasing", message, location)
