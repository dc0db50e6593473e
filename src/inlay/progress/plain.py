"""Progress as lines, in BuildKit's familiar form; other programs read them (`#5 CACHED`).

One vertex at a time has the word: its output goes out as it comes, the others' waits until it is
done or has held the word for some seconds.
"""

from __future__ import annotations

from _thread import allocate_lock

from inlay.progress.events import Completed, Log, Started, Transfer, Warned
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

    from inlay.progress.events import Event

HOLD_S = 5.0
"""How long a vertex may keep others' output waiting (BuildKit: progressui, antiFlicker)."""


class _Vertex:
    __slots__ = ("lines", "name", "number", "partial", "started")

    def __init__(self, number: int, name: str, started: float) -> None:
        self.number = number
        self.name = name
        self.started = started
        self.lines: list[str] = []
        self.partial = bytearray()


class PlainSink:
    """Writes events to `out`. May be called from any thread."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._vertices: dict[str, _Vertex] = {}
        self._current: _Vertex | None = None
        self._current_since = 0.0
        self._lock = allocate_lock()
        self._first = True

    def __call__(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, Started):
                self._start(event)
            elif isinstance(event, Warned) and event.vertex not in self._vertices:
                self._print(f"WARN: {event.message}" + (f"\n{event.detail}" if event.detail else ""))
            elif event.vertex in self._vertices:
                self._advance(self._vertices[event.vertex], event)
            self._out.flush()

    def _start(self, event: Started) -> None:
        if event.vertex in self._vertices:
            return
        vertex = _Vertex(len(self._vertices) + 1, event.name, event.time)
        self._vertices[event.vertex] = vertex
        if self._current is None:
            self._give_word(vertex, event.time)

    def _advance(self, vertex: _Vertex, event: Event) -> None:
        if isinstance(event, Log):
            self._log(vertex, event)
        elif isinstance(event, Transfer):
            vertex.lines.append(transfer_line(event))
        elif isinstance(event, Warned):
            vertex.lines.append(f"WARN: {event.message}")
        elif isinstance(event, Completed):
            self._complete(vertex, event)
            return
        now = event.time if not isinstance(event, Started | Warned) else self._current_since
        if self._current is None or (self._current is not vertex and now - self._current_since > HOLD_S):
            self._give_word(vertex, now)
        if self._current is vertex:
            self._write_lines(vertex)

    def _log(self, vertex: _Vertex, event: Log) -> None:
        whole = whole_lines(vertex.partial, event.data)
        stamp = f"{max(0.0, event.time - vertex.started):.3f}"
        vertex.lines += [f"{stamp} {printable(line)}" for line in whole]

    def _complete(self, vertex: _Vertex, event: Completed) -> None:
        if vertex.partial:
            stamp = f"{max(0.0, event.time - vertex.started):.3f}"
            vertex.lines.append(f"{stamp} {printable(bytes(vertex.partial))}")
            vertex.partial.clear()
        self._give_word(vertex, event.time)
        self._write_lines(vertex)
        self._print(f"#{vertex.number} {completed_text(event, vertex.started)}")
        self._current = None

    def _give_word(self, vertex: _Vertex, now: float) -> None:
        if self._current is vertex:
            return
        if self._current is not None:
            self._print(f"#{self._current.number} ...")
        self._print(("" if self._first else "\n") + f"#{vertex.number} {vertex.name}")
        self._first = False
        self._current, self._current_since = vertex, now

    def _write_lines(self, vertex: _Vertex) -> None:
        for line in vertex.lines:
            self._print(f"#{vertex.number} {line}")
        vertex.lines.clear()

    def _print(self, text: str) -> None:
        self._out.write(text + "\n")


def whole_lines(partial: bytearray, data: bytes) -> list[bytes]:
    """The lines that `data` completes; what it begins stays in `partial`, which may grow long without any."""
    head, newline, rest = data.rpartition(b"\n")
    if not newline:
        partial += data
        return []
    lines = bytes(partial + head).split(b"\n")
    partial[:] = rest
    return lines


def completed_text(event: Completed, started: float) -> str:
    """`DONE 0.3s`, `CACHED`, `CANCELED` or `ERROR: …`."""
    if event.cancelled:
        return "CANCELED"
    if event.error:
        return f"ERROR: {event.error}"
    return "CACHED" if event.cached else f"DONE {max(0.0, event.time - started):.1f}s"


def transfer_line(event: Transfer) -> str:
    """`sha256:… 1.05MB / 2.10MB 0.3s done`, as BuildKit writes a status."""
    text = event.what
    if event.total:
        text += f" {size_text(event.current)} / {size_text(event.total)}"
    elif event.current:
        text += f" {size_text(event.current)}"
    if (took := event.time - event.started) > 0.01:
        text += f" {took:.1f}s"
    return text + (" done" if event.done else "")


def size_text(size: int) -> str:
    """Bytes in decimal units with two digits: `1.05MB`."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f}{unit}" if unit == "B" else f"{value:.2f}{unit}"
        value /= 1000
    return f"{value:.2f}TB"


def printable(line: bytes) -> str:
    """A line of output as text; a carriage return leaves what a terminal would show last."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")


def visible(text: str) -> str:
    """`text` without line ends, or anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
