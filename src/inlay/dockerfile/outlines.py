"""What a target takes from outside: the ARGs, secrets and ssh agents that its stages name.

BuildKit: frontend/dockerfile/dockerfile2llb/outline.go.
"""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from inlay.errors import Location


class OutlineArg(NamedTuple):
    """An ARG; `value` is what it is in this build, `needs` the ARGs that its default names."""

    name: str
    value: str = ""
    description: str = ""
    location: Location | None = None
    needs: frozenset[str] = frozenset()


class Outline:
    """What one stage names, for itself and its bases."""

    __slots__ = ("arguments", "secrets", "ssh", "used")

    def __init__(self) -> None:
        self.arguments: dict[str, OutlineArg] = {}
        self.used: set[str] = set()
        self.secrets: dict[str, tuple[bool, Location]] = {}
        """(required, location) by id."""
        self.ssh: dict[str, tuple[bool, Location]] = {}

    def copy(self) -> Outline:
        outline = Outline()
        outline.arguments = self.arguments.copy()
        outline.used = self.used.copy()
        outline.secrets = self.secrets.copy()
        outline.ssh = self.ssh.copy()
        return outline

    def used_arguments(self) -> list[OutlineArg]:
        """The ARGs that are used, and those that their defaults name."""
        found: dict[str, OutlineArg] = {}
        pending = list(self.used)
        while pending:
            argument = self.arguments.get(pending.pop())
            if argument is not None and argument.name not in found:
                found[argument.name] = argument
                pending += argument.needs
        return list(found.values())
