"""Progress as JSON lines in BuildKit's form (`--progress rawjson`): vertexes, statuses, logs, warnings."""

from __future__ import annotations

from _thread import allocate_lock
from binascii import b2a_base64

from inlay import json
from inlay.golang.timestamp import format_ns
from inlay.progress.events import Completed, Log, Started, Transfer
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TextIO

    from inlay.progress.events import Event, Warned


class RawJsonSink:
    """Writes one object a line. May be called from any thread."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started: dict[str, Started] = {}
        self._lock = allocate_lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._out.write(json.dumps(self._object(event)) + "\n")
            self._out.flush()

    def _object(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Started):
            self._started[event.vertex] = event
            return {"vertexes": [self._vertex(event)]}
        if isinstance(event, Completed):
            started = self._started.get(event.vertex, Started(event.vertex, "", event.time))
            return {"vertexes": [self._vertex(started) | _end(event)]}
        if isinstance(event, Transfer):
            return {"statuses": [_status(event)]}
        if isinstance(event, Log):
            return {"logs": [_log(event)]}
        return {"warnings": [_warning(event)]}

    def _vertex(self, event: Started) -> dict[str, Any]:
        return {"digest": event.vertex, "name": event.name, "started": _time(event.time)}


def _end(event: Completed) -> dict[str, Any]:
    end: dict[str, Any] = {"completed": _time(event.time)}
    if event.cached:
        end["cached"] = True
    if event.error or event.cancelled:
        end["error"] = event.error or "context canceled"
    return end


def _status(event: Transfer) -> dict[str, Any]:
    status = {
        "id": event.what,
        "vertex": event.vertex,
        "name": event.what,
        "total": event.total,
        "current": event.current,
        "timestamp": _time(event.time),
        "started": _time(event.started),
    }
    return {**status, "completed": _time(event.time)} if event.done else status


def _log(event: Log) -> dict[str, Any]:
    return {
        "vertex": event.vertex,
        "stream": event.stream,
        "data": _base64(event.data),
        "timestamp": _time(event.time),
    }


def _warning(event: Warned) -> dict[str, Any]:
    detail = [_base64(event.detail.encode())] if event.detail else None
    return {"vertex": event.vertex, "level": 1, "short": _base64(event.message.encode()), "detail": detail}


def _base64(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def _time(seconds: float) -> str:
    return format_ns(int(seconds * 1e9))
