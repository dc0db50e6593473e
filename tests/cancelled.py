"""Work that nobody wants any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from inlay.cancellation import Cancellation
from inlay.errors import BuildCancelled
from inlay.tasks import Cancelled, check_cancelled, in_thread, run

if TYPE_CHECKING:
    from collections.abc import Callable


def stops_when_cancelled(work: Callable[[], object]) -> bool:
    """Call `work` in a blocking call whose caller was cancelled; whether it did not go on to its end."""

    def cancel_and_work(cancel: Callable[[], None]) -> None:
        cancel()
        work()

    return stops_when_cancelled_in(cancel_and_work)


def stops_when_cancelled_in(work: Callable[[Callable[[], None]], object]) -> bool:
    """Call `work` in a blocking call, whose caller is cancelled when it calls what it is given; whether it did not
    go on to its end."""
    cancellation, stopped = Cancellation(), []

    def cancel() -> None:
        cancellation.cancel()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                check_cancelled()
            except Cancelled:
                break

    def call() -> None:
        try:
            work(cancel)
        except Cancelled:
            stopped.append(True)

    async def main() -> None:
        await in_thread(call)

    try:
        run(main(), cancellation=cancellation)
    except BuildCancelled:
        return bool(stopped)
    raise AssertionError("nothing was cancelled")
