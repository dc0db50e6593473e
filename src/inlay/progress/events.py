"""What happens during a build, as values. A sink is any callable that takes them.

Vertices are named by an id of any kind (the op's digest for a step, a name of its own for internal
work); times are seconds since the epoch.
"""

from __future__ import annotations

from inlay.typing import NamedTuple


class Started(NamedTuple):
    vertex: str
    name: str
    time: float


class Log(NamedTuple):
    """Output of a step as it came; `stream` is 1 (output) or 2 (errors). Lines may be cut anywhere."""

    vertex: str
    stream: int
    data: bytes
    time: float


class Transfer(NamedTuple):
    """Progress of one thing that a vertex moves or makes; `total` is 0 where unknown (both in bytes)."""

    vertex: str
    what: str
    current: int
    total: int
    started: float
    time: float
    done: bool


class Completed(NamedTuple):
    """`error` is empty for a vertex that did well."""

    vertex: str
    time: float
    cached: bool = False
    error: str = ""
    cancelled: bool = False


class Warned(NamedTuple):
    """A warning about the Dockerfile (`vertex` empty) or about a vertex."""

    vertex: str
    message: str
    detail: str = ""


Event = Started | Log | Transfer | Completed | Warned
"""What happens: `isinstance(event, Started)` and so on tell which."""
