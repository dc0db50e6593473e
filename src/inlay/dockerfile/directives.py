"""Parser directives: `# syntax=`, `# escape=` and `# check=` before anything else in a Dockerfile.

Source: BuildKit's frontend/dockerfile/parser/directives.go.
"""

from __future__ import annotations

from inlay.errors import DockerfileError
from inlay.golang.text import SPACE
from inlay.typing import NamedTuple

BOM = b"\xef\xbb\xbf"
_NAMES = ("syntax", "escape", "check")
_MAX_LINE = 65535


class Directive(NamedTuple):
    """A directive; `name` in lower case, `line` counted from 1."""

    name: str
    value: str
    line: int

    @property
    def reference(self) -> str:
        """The value up to its first blank: what `# syntax=` names."""
        return self.value.partition(" ")[0]


class DirectiveReader:
    """Told a file's lines from the first on, knows which of them are directives."""

    __slots__ = ("_done", "_line", "_marker", "_seen")

    def __init__(self, *, marker: str = "#", line: int = 0) -> None:
        self._marker = marker
        self._line = line
        self._seen: set[str] = set()
        self._done = False

    @property
    def done(self) -> bool:
        """Whether no further line can be a directive."""
        return self._done

    def read(self, line: str) -> Directive | None:
        """Take the next line, without its end; raise `DockerfileError` for a directive given twice."""
        self._line += 1
        if self._done:
            return None
        name, value = _parts(line.removeprefix(self._marker)) if line.startswith(self._marker) else ("", "")
        if name not in _NAMES or not value:
            self._done = True
            return None
        if name in self._seen:
            raise DockerfileError(f"only one {name} parser directive can be used")
        self._seen.add(name)
        return Directive(name, value, self._line)


_BLANKS = "\t\n\f\r "


def _parts(text: str) -> tuple[str, str]:
    """The name in lower case and the value; of a value that is only blanks the last one is left."""
    name, _, value = text.partition("=")
    return name.lstrip(SPACE).rstrip(_BLANKS).lower(), value.strip(_BLANKS) or value[-1:]


def find_directive(text: bytes, name: str) -> Directive | None:
    """Find the directive `name` in a Dockerfile, also behind a `#!` line."""
    return _find(*_without_shebang(text), name, "#")


def detect_syntax(text: bytes) -> Directive | None:
    """Find which frontend a file asks for: `# syntax=`, `// syntax=` or JSON with a key `syntax`."""
    body, line = _without_shebang(text)
    found = _find(body, line, "syntax", "#") or _find(body, line, "syntax", "//")
    return found or _json_syntax(body, line)


def _without_shebang(text: bytes) -> tuple[bytes, int]:
    """The text without byte order mark and `#!` line, and how many lines were dropped."""
    text = text.removeprefix(BOM)
    return (text.partition(b"\n")[2], 1) if text.startswith(b"#!") else (text, 0)


def _find(text: bytes, line: int, name: str, marker: str) -> Directive | None:
    reader = DirectiveReader(marker=marker, line=line)
    at = 0
    while at < len(text) and not reader.done:
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        if end - at > _MAX_LINE:
            return None
        try:
            directive = reader.read(text[at:end].removesuffix(b"\r").decode(errors="surrogateescape"))
        except DockerfileError:
            return None
        if directive and directive.name == name:
            return directive
        at = end + 1
    return None


def _json_syntax(text: bytes, line: int) -> Directive | None:
    if not text.lstrip().startswith(b"{"):
        return None
    from inlay import json

    try:
        value = json.loads(text.decode(errors="replace"))
    except ValueError:
        return None
    syntax = value.get("syntax") if isinstance(value, dict) else None
    return Directive("syntax", syntax, line) if isinstance(syntax, str) else None
