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
    cancellation, stopped = Cancellation(), []

    def call() -> None:
        cancellation.cancel()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                check_cancelled()
            except Cancelled:
                break
        try:
            work()
        except Cancelled:
            stopped.append(True)

    async def main() -> None:
        await in_thread(call)

    try:
        run(main(), cancellation=cancellation)
    except BuildCancelled:
        return bool(stopped)
    raise AssertionError("nothing was cancelled")
