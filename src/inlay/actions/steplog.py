"""What a step writes, on its way to whoever shows it: up to a limit (BuildKit: util/progress/logs/logs.go).

A step that writes without end fills no disk and no log. What is held back is not lost for who needs it: the end
of it is shown when the step fails.
"""

from __future__ import annotations

import os

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_VARIABLE = "BUILDKIT_STEP_LOG_MAX_SIZE"
"""BuildKit's, in bytes for each stream of a step; -1 is no limit."""
DEFAULT_LIMIT = 2 << 20
_HELD = 256 << 10
_LAST = 4 << 10


def log_limit() -> int:
    """The limit in bytes that the environment asks for, or BuildKit's."""
    try:
        return int(os.environ.get(LIMIT_VARIABLE, ""))
    except ValueError:
        return DEFAULT_LIMIT


class StepLog:
    """Passes a step's output on to `show`, by stream. For one thread at a time."""

    __slots__ = ("_held", "_left", "_limit", "_show", "last")

    def __init__(self, show: Callable[[int, bytes], None], limit: int) -> None:
        self._show = show
        self._limit = limit
        self._left = {1: limit, 2: limit}
        self._held = {1: bytearray(), 2: bytearray()}
        self.last = bytearray()
        """The end of all that was written, whether shown or not."""

    def write(self, stream: int, data: bytes) -> None:
        self.last += data[-_LAST:]
        del self.last[:-_LAST]
        left = self._left[stream]
        if self._limit < 0 or len(data) <= left:
            self._left[stream] = left - len(data)
            self._show(stream, data)
            return
        if left >= 0:
            self._left[stream] = -1
            self._show(
                stream, data[:left] + f"\n[output clipped, log limit {_size(self._limit)} reached]\n".encode()
            )
            data = data[left:]
        held = self._held[stream]
        held += data[-_HELD:]
        del held[:-_HELD]

    def show_held(self) -> None:
        """Show the end of what was held back."""
        for stream, held in self._held.items():
            if held:
                self._show(stream, bytes(held))
                held.clear()


def _size(limit: int) -> str:
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if limit and limit % (1 << shift) == 0:
            return f"{limit >> shift}{unit}"
    return f"{limit}B"
