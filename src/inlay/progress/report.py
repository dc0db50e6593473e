"""Emitting events without ceremony: work that is no step of the Dockerfile, shown as a vertex of its own."""

from __future__ import annotations

import time

from inlay.progress.events import Completed, Started, Transfer, Warned
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from inlay.progress.events import Event


class Shown:
    """A vertex while its work is done."""

    def __init__(self, emit: Callable[[Event], None], vertex: str) -> None:
        self._emit = emit
        self._vertex = vertex

    def warn(self, message: str) -> None:
        self._emit(Warned(self._vertex, message))

    def status(self, what: str) -> _Status:
        """Show `what`, and when the `with` block was done."""
        return _Status(self._emit, self._vertex, what)


class shown:  # noqa: N801 - reads as a function
    """Show the work in the `with` block as the vertex `name`."""

    def __init__(self, emit: Callable[[Event], None], name: str) -> None:
        self._emit = emit
        self._name = name

    def __enter__(self) -> Shown:
        self._emit(Started(self._name, self._name, time.time()))
        return Shown(self._emit, self._name)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        said = str(error) if isinstance(error, Exception) else ""
        cancelled = error is not None and not isinstance(error, Exception)
        self._emit(Completed(self._name, time.time(), error=said, cancelled=cancelled))


class _Status:
    def __init__(self, emit: Callable[[Event], None], vertex: str, what: str) -> None:
        self._emit = emit
        self._vertex = vertex
        self._what = what
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.time()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._emit(Transfer(self._vertex, self._what, 0, 0, self._started, time.time(), done=True))
