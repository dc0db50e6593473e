"""Symbolic file modes such as `u+x,go=r`.

As BuildKit reads them: vendor/github.com/tonistiigi/dchapes-mode, after BSD's setmode(3), without a umask.
"""

from __future__ import annotations

import stat as mode_bits

from inlay.errors import SolveError
from inlay.regexp import regexp
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLASSES = {"a": 0o6777, "u": 0o4700, "g": 0o2070, "o": 0o007}
_EVERYBODY = 0o6777
_STICKY = 0o1000
_PERMISSIONS = {"r": 0o444, "w": 0o222, "x": 0o111}
_SHIFTS = {"u": 6, "g": 3, "o": 0}


class _Change(NamedTuple):
    """One step. `bits` are set, cleared, or (`X`) set where anybody may execute; a copy takes those of `source`."""

    operator: str
    bits: int
    source: str = ""


def parse_mode(text: str) -> Callable[[int], int]:
    """Parse a mode, octal or symbolic; return what makes new permission bits of an object's whole mode.

    Raises `SolveError` for what is no mode.
    """
    if text[:1].isdigit():
        if not regexp("0*[0-7]{1,4}").fullmatch(text):
            raise _invalid(text)
        changes = [_Change("-", 0o7777), _Change("+", int(text, 8))]
    else:
        changes = [change for clause in text.split(",") for change in _parse_clause(clause, text)]
    return lambda mode: _apply(changes, mode)


def _invalid(text: str) -> SolveError:
    return SolveError(f"invalid mode {text!r}: invalid syntax")


def _parse_clause(clause: str, text: str) -> Iterator[_Change]:
    """Read `ug+rw-x`: classes, then operators with permissions."""
    parts = regexp("([augo]*)((?:[-+=][rstwXxugo]*)+)").fullmatch(clause)
    if not parts:
        raise _invalid(text)
    who = 0
    for letter in parts[1]:
        who |= _CLASSES[letter]
    for operator, permissions in regexp("([-+=])([^-+=]*)").findall(parts[2]):
        yield from _parse_permissions(operator, permissions, who)


def _parse_permissions(operator: str, permissions: str, who: int) -> Iterator[_Change]:
    """Read the letters after one operator. `=` clears once, before its first effect."""
    bits = executable = 0
    may_be_special = not who or bool(who & ~_CLASSES["o"])
    cleared = operator != "="
    for letter in permissions:
        if letter in _PERMISSIONS:
            bits |= _PERMISSIONS[letter]
        elif letter == "X":
            executable, bits = (executable, bits | 0o111) if operator == "-" else (0o111, bits)
        elif letter == "s":
            bits |= 0o6000 if may_be_special else 0
        elif letter == "t":
            if may_be_special:
                who |= _STICKY
                bits |= _STICKY
        else:
            if bits:
                yield from _set(operator, who, bits)
            if executable:
                yield _Change("X", who & executable if who else executable)
            bits = executable = 0
            cleared = True
            yield _Change(operator, _copied_to(who), letter)
    if bits or not cleared:
        yield from _set(operator, who, bits)
    if executable:
        yield _Change("X", who & executable if who else executable)


def _set(operator: str, who: int, bits: int) -> Iterator[_Change]:
    if operator == "=":
        yield _Change("-", who or _EVERYBODY)
        operator = "+"
    yield _Change(operator, who & bits if who else bits)


def _copied_to(who: int) -> int:
    """The classes that a copy of permissions goes to: those whose read bit is meant."""
    return sum(0o7 << shift for shift in _SHIFTS.values() if not who or who & (0o4 << shift))


def _apply(changes: list[_Change], mode: int) -> int:
    bits = mode & 0o7777
    for operator, affected, source in changes:
        if source:
            value = ((bits >> _SHIFTS[source]) & 0o7) * 0o111
            if operator != "+":
                bits &= ~(affected if operator == "=" else affected & value)
            if operator != "-":
                bits |= affected & value
        elif operator == "+" or (operator == "X" and (mode & 0o111 or mode_bits.S_ISDIR(mode))):
            bits |= affected
        elif operator == "-":
            bits &= ~affected
    return bits
