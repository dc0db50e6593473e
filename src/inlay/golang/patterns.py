"""Path patterns: Go's `path.Match`, `path.Clean` and `path.Join`, and the lists of .dockerignore.

Paths and patterns are `str`; bytes that are not UTF-8 are lone surrogates (`os.fsdecode`). Nothing here
touches a file system. Only `path` of `go_match` and of the methods of `PatternMatcher` is hot.

Sources: Go `path`, `path/filepath`, `regexp/syntax`; BuildKit: vendor/github.com/moby/patternmatcher.
"""

from __future__ import annotations

from inlay.errors import UsageError
from inlay.golang.text import SPACE, valid
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Literal

    from inlay.golang.regexp import Piece

MALFORMED = "syntax error in pattern"


def has_wildcard(path: str) -> bool:
    """Whether `path` has a `*`, `?` or `[` that no backslash precedes."""
    at = 0
    while at < len(path):
        if path[at] in "*?[":
            return True
        at += 2 if path[at] == "\\" else 1
    return False


def clean(path: str) -> str:
    """The shortest path that names the same as `path`, by its text alone; `.` for an empty one."""
    parts: list[str] = []
    rooted = path.startswith("/")
    for part in path.split("/"):
        if part == "..":
            if parts and parts[-1] != "..":
                parts.pop()
            elif not rooted:
                parts.append(part)
        elif part and part != ".":
            parts.append(part)
    if rooted:
        return "/" + "/".join(parts)
    return "/".join(parts) or "."


def join(*parts: str) -> str:
    """Join what is not empty with slashes and clean it; empty when all parts are."""
    path = "/".join(part for part in parts if part)
    return clean(path) if path else ""


def go_match(pattern: str, name: str) -> bool:
    """Whether the shell pattern matches all of `name`, as Go's `path.Match`.

    Raises `UsageError` for a malformed pattern, whatever the name.
    """
    if _SPECIAL.isdisjoint(pattern):
        return pattern == name
    return _glob(pattern).match(name) is not None


_SPECIAL = frozenset("*?[\\")


_globs: dict[str, re.Pattern[str]] = {}


def _glob(pattern: str) -> re.Pattern[str]:
    """The compiled form of a shell pattern; kept, for there are few and each is asked for often."""
    if pattern not in _globs:
        _globs[pattern] = _compile_glob(pattern)
    return _globs[pattern]


def _compile_glob(pattern: str) -> re.Pattern[str]:
    """Compile a shell pattern.

    Go tries the text after a `*` at the nearest place where it fits and never takes that back, which is
    what the atomic groups say; it also keeps a hostile pattern from taking for ever.
    """
    import re

    chunks = _glob_chunks(pattern)
    if len(chunks) == 1:
        return re.compile(chunks[0] + r"\Z")
    middle = "".join(f"(?>[^/]*?{chunk})" for chunk in chunks[1:-1])
    last = rf"[^/]*?{chunks[-1]}\Z" if chunks[-1] else r"[^/]*\Z"
    return re.compile(chunks[0] + middle + last)


def _glob_chunks(pattern: str) -> list[str]:
    """Translate what stands before, between and after the stars; raise `UsageError` if malformed."""
    chunks: list[str] = [""]
    at = 0
    while at < len(pattern):
        if pattern[at] == "*":
            if len(chunks) == 1 or chunks[-1]:
                chunks.append("")
            at += 1
        else:
            text, at = _glob_character(pattern, at)
            chunks[-1] += text
    return chunks


def _glob_character(pattern: str, at: int) -> tuple[str, int]:
    """Translate what stands for one character at `at`; return its regular expression and its end."""
    from re import escape

    char = pattern[at]
    if char == "?":
        return "[^/]", at + 1
    if char == "\\":
        if at + 1 == len(pattern):
            raise UsageError(MALFORMED)
        return escape(pattern[at + 1]), at + 2
    if char != "[":
        return escape(char), at + 1
    at += 1
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[tuple[int, int]] = []
    while not ranges or not pattern.startswith("]", at):
        low, at = _range_end(pattern, at)
        high = low
        if pattern[at] == "-":
            high, at = _range_end(pattern, at + 1)
        ranges.append((low, high))
    from inlay.golang.regexp import character_class

    return character_class(ranges, negated=negated), at + 1


def _range_end(pattern: str, at: int) -> tuple[int, int]:
    """Read one end of a range in brackets; something must follow it."""
    if pattern.startswith("\\", at):
        at += 1
    elif pattern.startswith(("-", "]"), at):
        raise UsageError(MALFORMED)
    if at + 1 >= len(pattern) or "\udc80" <= pattern[at] <= "\udcff":
        raise UsageError(MALFORMED)
    return ord(pattern[at]), at + 1


class Pattern(NamedTuple):
    """One pattern of a list, cleaned; an exception (`!…`) takes back what earlier ones matched."""

    text: str
    exception: bool


class PatternMatcher:
    """A list of patterns of which the last that matches decides, as in .dockerignore.

    Raises `UsageError` for a malformed pattern: most at once, a few (which only the regular expressions
    of Go refuse) when they are first tried.
    """

    __slots__ = ("_runs", "patterns")

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(_cleaned(patterns))
        self._runs = tuple(_runs(self.patterns))

    @property
    def has_exceptions(self) -> bool:
        return any(pattern.exception for pattern in self.patterns)

    def matches_or_parent(self, path: str) -> bool:
        """Whether the list matches `path` when a pattern also holds for all that lies below its matches."""
        return self.match_with_parents(path, ())[0]

    def match_with_parents(self, path: str, parent: Sequence[bool]) -> tuple[bool, Sequence[bool]]:
        """Match `path`, given the second value that this returned for its parent directory.

        An empty `parent` means "not known": then each leading directory of `path` is tried too. The
        second value is for the children of `path`, and holds only for this matcher.
        """
        matched = False
        results = []
        for index, run in enumerate(self._runs):
            hit = bool(parent) and parent[index]
            if not hit and run.exception == matched:
                hit = run.match(path) or (not parent and any(map(run.match, _parents(path))))
            if hit:
                matched = not run.exception
            results.append(hit)
        return matched, results


def _parents(path: str) -> Iterator[str]:
    """Each leading directory of `path`, outermost first; `""` is the first when `path` is absolute."""
    parent = clean(path[: path.rfind("/") + 1])
    if parent == ".":
        return
    at = parent.find("/")
    while at >= 0:
        yield parent[:at]
        at = parent.find("/", at + 1)
    yield parent


def _cleaned(patterns: Iterable[str]) -> Iterator[Pattern]:
    for pattern in patterns:
        text = pattern.strip(SPACE)
        if not text:
            continue
        text = clean(text)
        if text == "!":
            raise UsageError('illegal exclusion pattern: "!"')
        exception = text.startswith("!")
        text = text[exception:]
        if not _SPECIAL.isdisjoint(text):
            _glob_chunks(text)
        yield Pattern(text, exception)


def _runs(patterns: Iterable[Pattern]) -> Iterator[_Run]:
    """Join neighbours that are all exceptions, or all not: their results need not be told apart.

    Once one of them hits, the others are skipped, and so it is below that path.
    """
    run: _Run | None = None
    for pattern in patterns:
        rule = _rule(pattern.text)
        if run is None or run.exception != pattern.exception or None in (rule, run.rules[-1]):
            if run is not None:
                yield run
            run = _Run(exception=pattern.exception)
        run.rules.append(rule)
    if run is not None:
        yield run


class _Rule(NamedTuple):
    """A pattern in the cheapest of its forms: compared with the whole, the start or the end, or searched."""

    kind: Literal["exact", "prefix", "suffix", "regexp"]
    text: str
    pieces: tuple[Piece, ...] = ()


class _Run:
    """Neighbouring rules of one polarity, tried together; a rule that Go cannot compile (None) is alone."""

    __slots__ = ("_exact", "_prefixes", "_search", "_suffixes", "exception", "rules")

    def __init__(self, *, exception: bool) -> None:
        self.exception = exception
        self.rules: list[_Rule | None] = []
        self._search: Callable[[str], object] | None = None

    def match(self, path: str) -> bool:
        if self._search is None:
            self._search = self._prepare()
        return (
            path in self._exact
            or path.startswith(self._prefixes)
            or path.endswith(self._suffixes)
            or bool(self._search(path))
        )

    def _prepare(self) -> Callable[[str], object]:
        """Sort the rules by kind and compile; raise `UsageError` where Go would."""
        rules = [rule for rule in self.rules if rule is not None]
        if len(rules) < len(self.rules):
            raise UsageError(MALFORMED)
        suffixes = [rule.text for rule in rules if rule.kind == "suffix"]
        self._suffixes = tuple(suffixes)
        self._prefixes = tuple(rule.text for rule in rules if rule.kind == "prefix")
        self._exact = {rule.text for rule in rules if rule.kind == "exact"}
        self._exact.update(suffix[1:] for suffix in suffixes if suffix.startswith("/"))
        expressions = [rule.pieces for rule in rules if rule.kind == "regexp"]
        if not expressions:
            return lambda path: None
        from inlay.golang.regexp import compile_any

        return compile_any(expressions)


_rules: dict[str, _Rule | None] = {}


def _rule(pattern: str) -> _Rule | None:
    """The form of a pattern; None if it needs a regular expression that Go refuses. Kept: lists repeat them."""
    if pattern not in _rules:
        _rules[pattern] = _choose_rule(pattern)
    return _rules[pattern]


def _choose_rule(pattern: str) -> _Rule | None:
    kind: Literal["exact", "prefix", "suffix", "regexp"] = "exact"
    regexp = ""
    at = 0
    while at < len(pattern):
        start, char = at, pattern[at]
        at += 1
        if char == "*" and pattern.startswith("*", at):
            at += 2 if pattern.startswith("/", at + 1) else 1
            if at < len(pattern):
                regexp += "(.*/)?"
                kind = "regexp"
            elif kind == "exact":
                kind = "prefix"
            else:
                regexp += ".*"
                kind = "regexp"
            if start == 0:
                kind = "suffix"
        elif char in "*?[]" or (char == "\\" and at < len(pattern)):
            kind = "regexp"
            if char == "\\":
                char += pattern[at]
                at += 1
            regexp += _REGEXP.get(char, char)
        else:
            regexp += "\\" + char if char in ".+()|{}$\\" else char
    if kind == "regexp":
        from inlay.golang.regexp import pieces as pieces_of

        pieces = pieces_of(valid(regexp) + "$")
        return None if pieces is None else _Rule(kind, "", pieces)
    return _Rule(kind, pattern[:-2] if kind == "prefix" else pattern[2:] if kind == "suffix" else pattern)


_REGEXP = {"*": "[^/]*", "?": "[^/]"}
