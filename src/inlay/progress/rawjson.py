"""Progress as JSON lines in BuildKit's form (`--progress rawjson`): vertexes, statuses, logs, warnings."""

from __future__ import annotations

import base64
import json
import threading

from inlay.progress.events import Completed, Log, Started, Transfer
from inlay.timestamp import format_ns
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, TextIO

    from inlay.progress.events import Event


class RawJsonSink:
    """Writes one object a line. May be called from any thread."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started: dict[str, Started] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._out.write(json.dumps(self._object(event), separators=(",", ":")) + "\n")
            self._out.flush()

    def _object(self, event: Event) -> dict[str, Any]:
        if isinstance(event, Started):
            self._started[event.vertex] = event
            return {"vertexes": [self._vertex(event)]}
        if isinstance(event, Log):
            data = base64.b64encode(event.data).decode()
            return {
                "logs": [
                    {
                        "vertex": event.vertex,
                        "stream": event.stream,
                        "data": data,
                        "timestamp": _time(event.time),
                    }
                ]
            }
        if isinstance(event, Transfer):
            status = {
                "id": event.what,
                "vertex": event.vertex,
                "name": event.what,
                "total": event.total,
                "current": event.current,
            }
            times = {"timestamp": _time(event.time), "started": _time(event.started)}
            return {
                "statuses": [{**status, **times, **({"completed": _time(event.time)} if event.done else {})}]
            }
        if isinstance(event, Completed):
            vertex = self._vertex(self._started.get(event.vertex, Started(event.vertex, "", event.time)))
            vertex["completed"] = _time(event.time)
            if event.cached:
                vertex["cached"] = True
            if event.error or event.cancelled:
                vertex["error"] = event.error or "context canceled"
            return {"vertexes": [vertex]}
        detail = [base64.b64encode(event.detail.encode()).decode()] if event.detail else None
        short = base64.b64encode(event.message.encode()).decode()
        return {"warnings": [{"vertex": event.vertex, "level": 1, "short": short, "detail": detail}]}

    def _vertex(self, event: Started) -> dict[str, Any]:
        return {"digest": event.vertex, "name": event.name, "started": _time(event.time)}


def _time(seconds: float) -> str:
    return format_ns(int(seconds * 1e9))
