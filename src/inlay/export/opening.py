"""Uploads that are opened while a step runs, before there is anything to send.

Nothing depends on them: what fails here, a push does itself, and says what is wrong.
"""

from __future__ import annotations

from inlay.errors import InlayError
from inlay.registry.dial import Abort
from inlay.tasks import Limiter, all_done, in_thread, spawn, when_idle
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inlay.registry.repository import Repository
    from inlay.tasks import Task

MAX_UPLOADS = 16
"""In one repository."""
_AT_ONCE = 8


class Opening:
    """Opens uploads in `repositories`, for `count` blobs in each. Lives on the loop's thread, and does not wait."""

    def __init__(self, repositories: Sequence[Repository], count: int) -> None:
        self._abort = Abort()
        self._repositories = repositories
        self._opened: list[Task[None]] = []
        for repository in repositories:
            limiter = Limiter(_AT_ONCE)  # its own: no push waits for a registry that does not answer here
            for _ in range(min(count, MAX_UPLOADS)):
                self._begin(repository.within(self._abort).open_upload, limiter)

    def _begin(self, ask: Callable[[], None], limiter: Limiter) -> None:
        self._opened.append(spawn(in_thread(_try, ask, limiter=limiter)))

    async def close(self) -> None:
        """Give up the uploads that were not used. What a registry does not answer at once is not waited for."""
        self._abort()
        await all_done(self._opened)
        abort = Abort()
        given_up = [
            spawn(in_thread(_try, repository.within(abort).cancel_upload))
            for repository in self._repositories
            for _ in range(repository.open_uploads)
        ]
        if given_up:
            when_idle(abort)
            await all_done(given_up)


def _try(ask: Callable[[], None]) -> None:
    """Ask for what is well to have, and no more."""
    try:
        ask()
    except (InlayError, OSError):
        return
