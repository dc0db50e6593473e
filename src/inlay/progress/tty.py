"""Live progress on a terminal: finished steps scroll by, running ones are redrawn below them."""

from __future__ import annotations

import os
import time
from _thread import allocate_lock

from inlay.progress.events import Completed, Log, Started, Transfer, Warned
from inlay.progress.plain import completed_text, printable, size_text, visible, whole_lines
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from inlay.progress.events import Event

TAIL_LINES = 6
"""How many lines of output are shown under a running step."""
LOG_LINES = 100
"""How many of them are kept, to be shown when it fails."""
REDRAW_S = 0.1


class _Step:
    __slots__ = ("log", "name", "partial", "started", "transfers")

    def __init__(self, name: str, started: float) -> None:
        self.name = name
        self.started = started
        self.partial = bytearray()
        self.log: list[str] = []
        self.transfers: dict[str, Transfer] = {}


class TtySink:
    """Draws on `out`, which must be a terminal. May be called from any thread."""

    def __init__(self, out: TextIO, *, colour: bool | None = None) -> None:
        self._out = out
        self._colour = not os.environ.get("NO_COLOR") if colour is None else colour
        self._running: dict[str, _Step] = {}
        self._drawn = 0
        self._last_draw = 0.0
        self._lock = allocate_lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Started):
                self._running.setdefault(event.vertex, _Step(_shown(event.name), event.time))
            elif isinstance(event, Warned):
                self._above([self._paint("33", f" ! {event.message}")])
            elif (step := self._running.get(event.vertex)) is not None:
                self._advance(step, event)
            self._draw(force=isinstance(event, Started | Completed))

    def _advance(self, step: _Step, event: Log | Transfer | Completed) -> None:
        if isinstance(event, Log):
            lines = [_shown(printable(line)) for line in whole_lines(step.partial, event.data)]
            step.log = (step.log + lines)[-LOG_LINES:]
        elif isinstance(event, Transfer):
            step.transfers[event.what] = event
            if event.done:
                del step.transfers[event.what]
        else:
            del self._running[event.vertex]
            self._finish(step, event)

    def _finish(self, step: _Step, event: Completed) -> None:
        text = completed_text(event, step.started)
        failed = bool(event.error) and not event.cancelled
        code = "31" if failed else "36" if event.cached else "2"
        lines = [f"{self._paint(code, ' => ' + text.partition(':')[0]):<12} {step.name}"]
        if failed:
            tail = [*step.log, _shown(printable(bytes(step.partial)))] if step.partial else step.log
            lines += [f"    {line}" for line in tail]
            lines.append(self._paint("31", f" => {text}"))
        self._above(lines)

    def _above(self, lines: list[str]) -> None:
        self._erase()
        self._out.write("".join(line + "\n" for line in lines))

    def _draw(self, *, force: bool) -> None:
        now = time.time()
        if not force and now - self._last_draw < REDRAW_S:
            return
        self._last_draw = now
        self._erase()
        width, height = self._size()
        lines: list[str] = []
        for step in self._running.values():
            name = _cut(f" -> {step.name}", width - 8, pad=True)
            lines.append(f"{name}{max(0.0, now - step.started):6.1f}s")
            lines += [
                _cut(f"    {line}", width - 1)
                for line in (*map(_transfer, step.transfers.values()), *step.log[-TAIL_LINES:])
            ]
        lines = lines[-max(1, height - 2) :]
        self._out.write("".join(line + "\n" for line in lines))
        self._drawn = len(lines)
        self._out.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}F\x1b[J")
            self._drawn = 0

    def _size(self) -> tuple[int, int]:
        try:
            size = os.get_terminal_size(self._out.fileno())
        except OSError:
            return 80, 24
        return max(20, size.columns), max(4, size.lines)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _transfer(event: Transfer) -> str:
    total = f" / {size_text(event.total)}" if event.total else ""
    return f"{event.what} {size_text(event.current)}{total}"


def _shown(text: str) -> str:
    """A line as it is on the terminal: no colours, and nothing that would move the cursor where the line is drawn."""
    if "\x1b[" in text:
        first, *rest = text.split("\x1b[")
        text = first + "".join(part.lstrip("0123456789;:?")[1:] for part in rest)
    return visible(text.expandtabs())


def _cut(text: str, width: int, *, pad: bool = False) -> str:
    """As much of `text` as `width` columns have room for; with `pad` it takes them all."""
    if text.isascii():
        return text[:width].ljust(width) if pad else text[:width]
    from unicodedata import combining, east_asian_width

    columns = 0
    for index, character in enumerate(text):
        wide = 0 if combining(character) else 2 if east_asian_width(character) in "WF" else 1
        if columns + wide > width:
            text = text[:index]
            break
        columns += wide
    return text + " " * (width - columns) if pad else text
