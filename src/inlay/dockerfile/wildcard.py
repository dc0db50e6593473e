"""Patterns in word expansion: `${name#p}`, `${name%p}`, `${name/p/r}` (`*` and `?` only, no brackets).

Source: BuildKit's frontend/dockerfile/shell/lex.go, which turns them into Go regular expressions. Those take
linear time and so does this; Python's engine would not.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

from inlay.errors import DockerfileError
from inlay.golang.text import valid
from inlay.typing import NamedTuple


class Wildcard:
    """A pattern and a text: finds where the one is in the other.

    `greedy` stars take as much as they can, others as little. A star and `?` stop at a line's end. Raises
    `DockerfileError` when the pattern has an escape of anything but `*`, `?`, backslash, `}` and `/`.
    """

    __slots__ = ("_greedy", "_lengths", "_newlines", "_starts", "_text")

    def __init__(self, pattern: str, text: str, *, greedy: bool) -> None:
        self._text = text
        self._greedy = greedy
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        chunks = _chunks(pattern)
        self._lengths = [chunk.length for chunk in chunks]
        self._starts = self._viable_starts(chunks)

    def find(self, at: int, *, anchored: bool = False) -> tuple[int, int] | None:
        """The first match that starts at `at` or, unless `anchored`, behind it, as (start, end)."""
        starts = self._starts[0]
        index = bisect_left(starts, at)
        if index == len(starts) or (anchored and starts[index] != at):
            return None
        start = starts[index]
        end = start + self._lengths[0]
        for starts, length in zip(self._starts[1:], self._lengths[1:], strict=True):
            last = bisect_right(starts, self._line_end(end)) - 1
            end = (starts[last] if self._greedy else starts[bisect_left(starts, end)]) + length
        return start, end

    def _viable_starts(self, chunks: list[_Chunk]) -> list[list[int]]:
        """Per chunk, the ascending places where it fits and from where the rest of the pattern fits too."""
        viable: list[list[int]] = []
        for chunk in reversed(chunks):
            starts = chunk.starts(self._text)
            if viable:
                following = viable[-1]
                starts = [
                    start
                    for start in starts
                    if (index := bisect_left(following, start + chunk.length)) < len(following)
                    and following[index] <= self._line_end(start + chunk.length)
                ]
            viable.append(starts)
        return viable[::-1]

    def _line_end(self, at: int) -> int:
        index = bisect_left(self._newlines, at)
        return self._newlines[index] if index < len(self._newlines) else len(self._text)


class _Chunk(NamedTuple):
    """What stands between two stars: a regular expression, and how many characters it always takes."""

    regexp: str
    length: int

    def starts(self, text: str) -> list[int]:
        if not self.length:
            return list(range(len(text) + 1))
        return [match.start() for match in re.finditer(f"(?={self.regexp})", text)]


def _chunks(pattern: str) -> list[_Chunk]:
    """Cut a pattern at its stars."""
    chunks = []
    regexp, length, at = "", 0, 0
    pattern = valid(pattern).removeprefix("\ufeff")
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            chunks.append(_Chunk(regexp, length))
            regexp, length = "", 0
            continue
        if char == "\\" and not pattern.startswith(("}", "/"), at):
            char = pattern[at : at + 1]
            at += 1
            if not char or char not in "*?\\":
                shown = char or "\ufffd"
                raise DockerfileError(rf"invalid escape '\{shown}'")
            regexp += re.escape(char)
        elif char == "\\":
            continue
        elif char == "?":
            regexp += "."
        else:
            regexp += "[\ufffd\udc80-\udcff]" if char == "\ufffd" else re.escape(char)
        length += 1
    return [*chunks, _Chunk(regexp, length)]


def trim_prefix(value: str, pattern: str, *, greedy: bool) -> str:
    """Cut what `pattern` matches from the start of `value`: the longest if `greedy`, else the shortest."""
    found = _wildcard(pattern, value, greedy=greedy).find(0, anchored=True)
    return value[found[1] :] if found else value


def trim_suffix(value: str, pattern: str, *, greedy: bool) -> str:
    """Cut what `pattern` matches from the end of `value`."""
    backward = "".join(re.findall(r"(?s)\\.|.", valid(pattern))[::-1])
    return trim_prefix(valid(value)[::-1], backward, greedy=greedy)[::-1]


def replace_first(value: str, pattern: str, replacement: str) -> str:
    """Put `replacement` in place of the first match."""
    found = _wildcard(pattern, value, greedy=True).find(0)
    return value[: found[0]] + replacement + value[found[1] :] if found else value


def replace_all(value: str, pattern: str, replacement: str) -> str:
    """Put `replacement` in place of every match.

    It is a template of Go's regexp package: `$0` is the match, other names are empty, `$$` is a dollar.
    """
    wildcard = _wildcard(pattern, value, greedy=True)
    template = _template(replacement)
    result: list[str] = []
    at = copied = 0
    while at <= len(value) and (found := wildcard.find(at)):
        start, end = found
        result.append(value[copied:start])
        if end > copied or start == 0:
            result.append(value[start:end].join(template))
        copied = end
        at = max(at + 1, end)
    return "".join(result) + value[copied:]


def _template(replacement: str) -> list[str]:
    """The texts between the places where the match itself goes."""
    texts = [""]
    position = 0
    for match in re.finditer(r"\$(?:(\$)|\{(\w+)\}|(\w+))", replacement):
        texts[-1] += replacement[position : match.start()] + (match[1] or "")
        position = match.end()
        if "0" in (match[2], match[3]):
            texts.append("")
    texts[-1] += replacement[position:]
    return texts


def _wildcard(pattern: str, value: str, *, greedy: bool) -> Wildcard:
    try:
        return Wildcard(pattern, value, greedy=greedy)
    except DockerfileError as error:
        raise DockerfileError(f"invalid pattern ({pattern}) in substitution: {error}") from None
