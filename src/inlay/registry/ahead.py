"""Answers of registries that were asked for before anybody needed them (see `inlay.engine.outset`).

Each is handed out once, and only while it is new: what a tag means may change while a build runs.
"""

from __future__ import annotations

import time
from _thread import allocate_lock

from inlay.typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
Question = tuple[str, ...]

NEW_S = 2.0
"""How long an answer is as good as one that comes now; and how long whoever needs one waits for it."""


class TooLate(Exception):
    """Whoever needs the answer has asked for it already."""


class _Answer:
    __slots__ = ("asked", "done", "is_good", "value")

    def __init__(self) -> None:
        self.asked = time.monotonic()
        self.done = allocate_lock()
        self.done.acquire()
        self.is_good = False
        self.value: object = None


class Ahead:
    """Questions and their answers. May be used from several threads."""

    __slots__ = ("_answers", "_given")

    def __init__(self) -> None:
        self._answers: dict[Question, _Answer] = {}
        self._given: set[Question] = set()

    def ask(self, question: Question, find: Callable[[], T]) -> T:
        """Find the answer to `question` now, and keep it for who needs it. Raises `TooLate`, and what `find` raises:
        who needs the answer then asks again."""
        if question in self._given:
            raise TooLate
        answer = self._answers[question] = _Answer()
        try:
            value = find()
            answer.value, answer.is_good = value, True
            return value
        finally:
            answer.done.release()

    def answer(self, question: Question, find: Callable[[], T]) -> T:
        """The answer that was asked for ahead, or the one that `find` finds now."""
        self._given.add(question)
        known = self._answers.pop(question, None)
        if known is None or not known.done.acquire(timeout=NEW_S) or not known.is_good:
            return find()
        return cast("T", known.value) if time.monotonic() - known.asked < NEW_S else find()
