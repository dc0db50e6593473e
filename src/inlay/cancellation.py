"""A word from outside that what was begun is not wanted any more."""

from __future__ import annotations

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

    # No lock: a signal's handler may call `cancel` in the middle of anything here. What takes a listener off the
    # list, which is one step for all threads, is what calls it.
    __slots__ = ("_cancelled", "_listeners")

    def __init__(self) -> None:
        self._cancelled = False
        self._listeners: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Have everything stop that this was given to. Does not wait for it, and may be called again, from a signal's
        handler too."""
        self._cancelled = True
        while self._listeners:
            try:
                listener = self._listeners.pop(0)
            except IndexError:
                return  # another call has taken it
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have `listener` called on `cancel`, or now when that came before; return how to stop listening.

        The listener runs on the thread that cancels and must neither block nor raise.
        """
        self._listeners.append(listener)
        if self._cancelled:
            self.cancel()
        return lambda: self._forget(listener)

    def _forget(self, listener: Callable[[], None]) -> None:
        try:
            self._listeners.remove(listener)
        except ValueError:
            return  # it was called
