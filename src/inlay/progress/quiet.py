"""Silence, until a step fails: then its output, so that the error can be understood."""

from __future__ import annotations

from inlay.progress.events import Completed, Log, Started, Warned
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from inlay.progress.events import Event

KEPT_BYTES = 64 << 10
"""How much of each step's output is kept, from its end."""


class QuietSink:
    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._names: dict[str, str] = {}
        self._logs: dict[str, bytes] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            self._names[event.vertex] = event.name
        elif isinstance(event, Log):
            self._logs[event.vertex] = (self._logs.get(event.vertex, b"") + event.data)[-KEPT_BYTES:]
        elif isinstance(event, Warned):
            self._out.write(f"WARN: {event.message}\n")
        elif isinstance(event, Completed):
            output = self._logs.pop(event.vertex, b"")
            if event.error and not event.cancelled:
                self._out.write(f"{self._names.get(event.vertex, '')}\n{output.decode(errors='replace')}")
