"""Emitting events without ceremony: work that is no step of the Dockerfile, shown as a vertex of its own."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from inlay.progress.events import Completed, Started, Transfer, Warned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inlay.progress.events import Event


class Shown:
    """A vertex while its work is done."""

    def __init__(self, emit: Callable[[Event], None], vertex: str) -> None:
        self._emit = emit
        self._vertex = vertex

    def warn(self, message: str) -> None:
        self._emit(Warned(self._vertex, message))

    @contextlib.contextmanager
    def status(self, what: str) -> Iterator[None]:
        """Show `what`, and when it was done."""
        started = time.time()
        yield
        self._emit(Transfer(self._vertex, what, 0, 0, started, time.time(), done=True))


@contextlib.contextmanager
def shown(emit: Callable[[Event], None], name: str) -> Iterator[Shown]:
    """Show the work in the `with` block as the vertex `name`."""
    emit(Started(name, name, time.time()))
    try:
        yield Shown(emit, name)
    except Exception as error:
        emit(Completed(name, time.time(), error=str(error)))
        raise
    except BaseException:
        emit(Completed(name, time.time(), cancelled=True))
        raise
    emit(Completed(name, time.time()))
