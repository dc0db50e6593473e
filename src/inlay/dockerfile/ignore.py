"""Reading .dockerignore (spec: BuildKit's vendor/github.com/moby/patternmatcher/ignorefile)."""

from __future__ import annotations

from inlay.errors import DockerfileError
from inlay.golang.patterns import clean
from inlay.golang.text import SPACE

_MAX_LINE = 64 * 1024


def parse_ignore(text: bytes) -> list[str]:
    """The patterns of an ignore file in order, cleaned, exceptions with their `!`.

    They are the frontend's `local.excludepatterns`; `inlay.golang.patterns.PatternMatcher` applies them. Raises
    `DockerfileError` for a line of 64 KiB or more.
    """
    patterns = []
    for line in text.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if len(line) >= _MAX_LINE:
            raise DockerfileError("error parsing .dockerignore: bufio.Scanner: token too long")
        pattern = line.decode(errors="surrogateescape")
        if pattern.startswith("#"):
            continue
        pattern = pattern.strip(SPACE)
        if not pattern:
            continue
        bang = "!" if pattern.startswith("!") else ""
        pattern = pattern.removeprefix(bang).strip(SPACE)
        if pattern:
            pattern = clean(pattern)
        if len(pattern) > 1:
            pattern = pattern.removeprefix("/")
        patterns.append(bang + pattern)
    return patterns
