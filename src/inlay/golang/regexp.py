"""The regular expressions that path patterns become, in Go's syntax, run by Python's engine.

Go's engine takes linear time whatever the expression; Python's does not, so an expression with many gaps
is run piece by piece instead. Only what a translated path pattern can contain is known here: characters,
classes, escapes, `^`, `$`, `(.*/)?` and a star behind one character.

Source: Go `regexp/syntax` (flags Perl), vendor/github.com/moby/patternmatcher of BuildKit.
"""

from __future__ import annotations

from inlay.regexp import regexp
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Sequence

Ranges = list[tuple[int, int]]

_PARENTS = "(?:.*/)?"
_MAX_GAPS = 3
"""With more gaps an expression is run piece by piece: Python tries up to length**gaps ways."""


class Piece(NamedTuple):
    """A gap that takes any number of characters (empty at the start), then text of a fixed length."""

    gap: str
    text: str


class _CompiledPiece(NamedTuple):
    is_parents: bool
    gap: re.Pattern[str]
    text: re.Pattern[str]


class _MalformedError(Exception):
    """An expression that Go does not compile."""


def compile_any(expressions: Sequence[Sequence[Piece]]) -> Callable[[str], object]:
    """A function that is true for a path which one of `expressions` matches as a whole."""
    simple = [pieces for pieces in expressions if len(pieces) <= _MAX_GAPS + 1]
    hostile = [_compile_pieces(pieces) for pieces in expressions if len(pieces) > _MAX_GAPS + 1]
    if not simple and not hostile:
        return lambda path: None
    union = "|".join("".join(gap + text for gap, text in pieces) for pieces in simple) if simple else "(?!)"
    import re

    fullmatch = re.compile(union).fullmatch
    if not hostile:
        return fullmatch
    return lambda path: fullmatch(path) or any(_match_pieces(pieces, path) for pieces in hostile)


def _compile_pieces(pieces: Sequence[Piece]) -> list[_CompiledPiece]:
    import re

    return [
        _CompiledPiece(gap == _PARENTS, re.compile(".*" if gap == _PARENTS else gap), re.compile(text))
        for gap, text in pieces
    ]


def _match_pieces(pieces: Sequence[_CompiledPiece], path: str) -> bool:
    """Follow all places where each piece may end at once: linear in pieces times length."""
    ends = [0]
    for piece in pieces:
        starts: set[int] = set()
        reached = -1
        for end in ends:
            places = range(0)
            if end > reached:
                match = piece.gap.match(path, end)
                places = range(end, (match.end() if match else end) + 1)
                reached = places[-1]
            if piece.is_parents:
                starts.add(end)
                starts.update(at for at in places if path[at - 1 : at] == "/")
            else:
                starts.update(places)
        ends = [match.end() for start in sorted(starts) if (match := piece.text.match(path, start))]
    return len(path) in ends


def pieces(expression: str) -> tuple[Piece, ...] | None:
    """Take an expression apart and translate it for `re`; None if Go does not compile it."""
    gaps, texts = [""], [""]
    at = 0
    try:
        while at < len(expression):
            if expression.startswith("(.*/)?", at):
                at += 6
                if gaps[-1] != _PARENTS or texts[-1]:
                    gaps.append(_PARENTS)
                    texts.append("")
                continue
            if expression.startswith("\\Q", at):
                quoted, found, _ = expression[at + 2 :].partition("\\E")
                texts[-1] += "".join(map(_literal, quoted))
                at += 2 + len(quoted) + 2
                if not found:
                    gaps.append("(?s:.)*")
                    texts.append("")
                continue
            atom, at = _atom(expression, at)
            if expression.startswith("*", at):
                at += 1
                gaps.append(atom + "*")
                texts.append("")
            else:
                texts[-1] += atom
    except _MalformedError:
        return None
    return tuple(map(Piece, gaps, texts))


def _atom(expression: str, at: int) -> tuple[str, int]:
    """Translate the character, class, escape or anchor at `at`; return it and where it ends."""
    char = expression[at]
    if expression.startswith("[^/]", at):  # almost all classes are this one, and spelled so it compiles fast
        return "[^/]", at + 4
    if char == "[":
        return _class(expression, at + 1)
    if char in "^.":
        return char, at + 1
    if char == "$" and at + 1 == len(expression):
        return r"\Z", at + 1
    if char != "\\":
        return _literal(char), at + 1
    name = expression[at + 1 : at + 2]
    if name in _ANCHORS:
        return _ANCHORS[name], at + 2
    ranges = _perl_class(name)
    if ranges is not None:
        return character_class(ranges), at + 2
    code, at = _class_character(expression, at)
    return _literal(chr(code)), at


_ANCHORS = {"A": r"\A", "z": r"\Z", "b": r"(?a:\b)", "B": r"(?a:\B)"}


def _literal(char: str) -> str:
    from re import escape

    return "[\ufffd\udc80-\udcff]" if char == "\ufffd" else escape(char)


def character_class(ranges: Iterable[tuple[int, int]], *, negated: bool = False) -> str:
    """A regular expression for one character of `ranges`; bytes that are not UTF-8 count as U+FFFD."""
    members = [(low, high) for low, high in ranges if low <= high]
    if any(low <= 0xFFFD <= high for low, high in members):
        members.append((0xDC80, 0xDCFF))
    if not members:
        return r"(?s:.)" if negated else r"(?!)"
    text = "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in members)
    return f"[{'^' if negated else ''}{text}]"


def _class(expression: str, at: int) -> tuple[str, int]:
    """Translate a class in brackets; `at` is behind the opening one."""
    negated = expression.startswith("^", at)
    at += negated
    ranges: Ranges = []
    first = at
    while at == first or not expression.startswith("]", at):
        if expression.startswith("[:", at) and (end := expression.find(":]", at)) >= 0:
            ranges += _posix_class(expression[at + 2 : end])
            at = end + 2
            continue
        if expression.startswith("\\", at) and (perl := _perl_class(expression[at + 1 : at + 2])) is not None:
            ranges += perl
            at += 2
            continue
        low, at = _class_character(expression, at)
        high = low
        if (
            expression.startswith("-", at)
            and not expression.startswith("-]", at)
            and at + 1 < len(expression)
        ):
            high, at = _class_character(expression, at + 1)
        if high < low:
            raise _MalformedError
        ranges.append((low, high))
    return character_class(ranges, negated=negated), at + 1


def _class_character(expression: str, at: int) -> tuple[int, int]:
    """Read one character, escaped or not; return its code point and where it ends."""
    if at >= len(expression):
        raise _MalformedError
    if expression[at] != "\\":
        return ord(expression[at]), at + 1
    char = expression[at + 1 : at + 2]
    if char.isascii() and char and not char.isalnum():
        return ord(char), at + 2
    if char in _CONTROL:
        return _CONTROL[char], at + 2
    digits = expression[at + 1 : at + 4]
    if match := regexp(r"[1-7][0-7]{1,2}|0[0-7]{0,2}").match(digits):
        return int(match[0], 8), at + 1 + match.end()
    if regexp(r"x[0-9A-Fa-f]{2}").match(digits):
        return int(digits[1:], 16), at + 4
    raise _MalformedError


_CONTROL = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}


def _perl_class(name: str) -> Ranges | None:
    spans = _PERL.get(name.lower()) if name else None
    if spans is None:
        return None
    return _spans(spans) if name.islower() else _complement(_spans(spans))


def _posix_class(name: str) -> Ranges:
    spans = _POSIX.get(name.removeprefix("^"))
    if spans is None:
        raise _MalformedError
    return _complement(_spans(spans)) if name.startswith("^") else _spans(spans)


def _spans(text: str) -> Ranges:
    """Read pairs of characters as ranges."""
    return [(ord(low), ord(high)) for low, high in zip(text[::2], text[1::2], strict=True)]


def _complement(ranges: Ranges) -> Ranges:
    """All other code points, of ascending ranges."""
    bounds = [-1, *(bound for pair in ranges for bound in pair), 0x110000]
    return [(low + 1, high - 1) for low, high in zip(bounds[::2], bounds[1::2], strict=True)]


_PERL = {"d": "09", "s": "\t\n\f\r  ", "w": "09AZ__az"}
_POSIX = {
    "alnum": "09AZaz",
    "alpha": "AZaz",
    "ascii": "\0\x7f",
    "blank": "\t\t  ",
    "cntrl": "\0\x1f\x7f\x7f",
    "digit": "09",
    "graph": "!~",
    "lower": "az",
    "print": " ~",
    "punct": "!/:@[`{~",
    "space": "\t\r  ",
    "upper": "AZ",
    "word": "09AZ__az",
    "xdigit": "09AFaf",
}
