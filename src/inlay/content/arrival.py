"""Reading a blob while it is being fetched."""

from __future__ import annotations

import os
from _queue import SimpleQueue

from inlay.errors import ContentError
from inlay.tasks import start_thread
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Arrival:
    """What has come in of a blob, for one other thread to read.

        with Arrival(read) as arrival:       # begins to call read(arrival) on a thread
            arrival.begin(fd)
            arrival.advance(1000)            # so many bytes are in the file now
            arrival.complete()

    `readinto` waits for bytes that are not there yet. It returns 0 once the blob is complete, which its
    digest has shown; once the with block has ended before that, it raises `ContentError`. Leaving the block waits
    for `read`, which raises nothing.
    """

    __slots__ = ("_ended", "_fd", "_join", "_news", "_position", "_read", "_there", "_whole")

    def __init__(self, read: Callable[[Arrival], None]) -> None:
        self._read = read
        self._news: SimpleQueue[None] = SimpleQueue()
        """Has something in it after each change of what follows."""
        self._fd = -1
        self._there = 0
        self._whole = self._ended = False
        self._position = 0  # the reader's

    def begin(self, fd: int) -> None:
        """Say which file the blob is being written to; its descriptor may be closed afterwards."""
        self._fd = os.dup(fd)

    def advance(self, size: int) -> None:
        """Say that the file's first `size` bytes are the blob's."""
        self._there = size
        self._news.put(None)

    def complete(self) -> None:
        """Say that the blob is whole, and right."""
        self._whole = True
        self._news.put(None)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        while True:
            ended = self._ended  # looked at before `_whole`, which is set before it
            if self._whole:
                break
            if ended:  # what came is not read to its end: somebody waits for this
                raise ContentError("the blob did not come in")
            if self._position < self._there:
                break
            self._news.get()
        left = self._there - self._position
        count = os.preadv(self._fd, [memoryview(buffer)[:left]], self._position) if left else 0
        if left and not count:
            raise ContentError("the blob was cut off while it was read")
        self._position += count
        return count

    def __enter__(self) -> Arrival:
        self._join = start_thread(lambda: self._read(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._news.put(None)
        self._join()
        if self._fd >= 0:
            os.close(self._fd)
