"""What the caller of a build has given for sources to be let in with."""

from __future__ import annotations

from inlay.errors import SourceError
from inlay.typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from inlay.llb.ops import SecretOption


class Agent(Protocol):
    """An ssh agent's socket, there until `close`."""

    socket_path: str

    def close(self) -> None: ...


class Credentials(Protocol):
    """Secrets and ssh agents."""

    def value(self, name: str) -> bytes | None:
        """A secret; None where none of that name was given."""

    def agent(self, option: SecretOption) -> Agent | None:
        """An ssh agent. Raises `SolveError` where none of that name was given, unless it is optional."""


def header_text(value: bytes, name: str) -> str:
    """The secret `name` as part of a header. Raises `SourceError` for one that would be several lines."""
    text = value.decode("latin-1").strip()
    if "\n" in text or "\r" in text or "\0" in text:
        raise SourceError(f"the secret {name} has several lines, and cannot be a header")
    return text
