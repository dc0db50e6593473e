"""A word from outside that what was begun is not wanted any more."""

from __future__ import annotations

from _thread import allocate_lock

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Cancellation:
    """Says once, from any thread, that something should stop; those who listen are called at once.

        cancellation = Cancellation()
        Timer(60, cancellation.cancel).start()
        inlay.build(".", cancellation=cancellation)     # ends with BuildCancelled after a minute

    It stays cancelled: what gets it afterwards stops before it begins.
    """

    __slots__ = ("_cancelled", "_listeners", "_lock")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._cancelled = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Have everything stop that this was given to. Does not wait for it, and may be called again."""
        with self._lock:
            self._cancelled = True
            listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called on `cancel`, or now when that came before; return how to stop listening.

        The listener runs on the thread that cancels and must neither block nor raise.
        """
        with self._lock:
            if not self._cancelled:
                self._listeners.append(listener)
                return lambda: self._forget(listener)
        listener()
        return lambda: None

    def _forget(self, listener: Callable[[], None]) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)
