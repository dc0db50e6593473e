""" "Did you mean …?" (BuildKit: util/suggest/error.go)."""

from __future__ import annotations

from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_DISTANCE = 2


def suggest(word: str, options: Iterable[str], *, case_sensitive: bool = True) -> str:
    """The option nearest to `word`, the first of several; empty if none is near or `word` is one itself.

    Unless `case_sensitive`, the answer is in the case of `word`.
    """
    wanted = word if case_sensitive else word.lower()
    nearest, best = "", _MAX_DISTANCE + 1
    for option in options:
        candidate = option if case_sensitive else option.lower()
        if candidate == wanted:
            return ""
        distance = _distance(wanted, candidate)
        if distance < best:
            nearest, best = candidate, distance
    is_upper = not case_sensitive and word == word.upper() != word.lower()
    return nearest.upper() if is_upper else nearest


def _distance(left: str, right: str) -> int:
    """How many characters to insert, delete or replace; any number above `_MAX_DISTANCE` if that many."""
    if abs(len(left) - len(right)) > _MAX_DISTANCE:
        return _MAX_DISTANCE + 1
    row = list(range(len(right) + 1))
    for index, char in enumerate(left, 1):
        diagonal, row[0] = row[0], index
        for column, other in enumerate(right, 1):
            change = diagonal + (char != other)
            diagonal, row[column] = row[column], min(change, row[column] + 1, row[column - 1] + 1)
        if min(row) > _MAX_DISTANCE:
            return _MAX_DISTANCE + 1
    return row[-1]
