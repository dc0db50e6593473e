"""The `--flags` of instructions (BuildKit: frontend/dockerfile/instructions/bflag.go)."""

from __future__ import annotations

from inlay.dockerfile.suggest import suggest
from inlay.errors import DockerfileError
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Final

BOOL: Final = 0
TEXT: Final = 1
LIST: Final = 2

_TRUTHS = {"true": "true", "": "true", "false": "false"}


class Flags:
    """The values of the flags that an instruction was given."""

    __slots__ = ("_values",)

    def __init__(self, flags: Iterable[str], known: Mapping[str, int]) -> None:
        """Read `--name=value` texts; `known` says which there are and of which kind. Raises `DockerfileError`."""
        self._values: dict[str, list[str]] = {}
        for flag in flags:
            if flag == "--":
                return
            if not flag.startswith("--"):
                raise DockerfileError(f"arg should start with -- : {flag}")
            self._read(flag, known)

    def _read(self, flag: str, known: Mapping[str, int]) -> None:
        shown, equals, value = flag.partition("=")
        name = shown[2:]
        kind = known.get(name)
        if kind is None:
            raise DockerfileError(f"unknown flag: {shown}", hint=suggest(name, known))
        if name in self._values and kind != LIST:
            raise DockerfileError(f"duplicate flag specified: {shown}")
        if (not equals and kind != BOOL) or (equals and kind == BOOL and not value):
            raise DockerfileError(f"missing a value on flag: {shown}")
        if kind == BOOL:
            if value.lower() not in _TRUTHS:
                raise DockerfileError(f"expecting boolean value for flag {shown}, not: {value}")
            value = _TRUTHS[value.lower()]
        self._values.setdefault(name, []).append(value)

    def text(self, name: str, default: str = "") -> str:
        return self._values.get(name, (default,))[0]

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self._values.get(name, ()))

    def is_true(self, name: str) -> bool:
        return self.text(name) == "true"

    def maybe(self, name: str) -> bool | None:
        """A switch; None where it was not given."""
        return self.is_true(name) if name in self._values else None

    @property
    def used(self) -> tuple[str, ...]:
        """The names given, each once."""
        return tuple(self._values)
