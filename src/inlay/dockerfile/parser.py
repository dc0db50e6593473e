"""The text of a Dockerfile as a list of instructions, taken apart but not yet understood.

    result = parse(b"FROM alpine AS a\\nRUN --network=none [\\"true\\"]\\n")
    result.instructions[1]
    # Node(value="RUN", arguments=("true",), flags=("--network=none",), is_json=True,
    #      original='RUN --network=none ["true"]', first_line=2, last_line=2, …)

BuildKit's tree is a linked list per instruction (`Next`); here it is the tuple `arguments`:

- FROM, EXPOSE, ARG, COPY, ADD, VOLUME: words;
- RUN, CMD, ENTRYPOINT, SHELL: one text, or the words of a JSON list (`is_json`);
- HEALTHCHECK: the type, then as CMD; ENV and LABEL: threes of name, value, and `=` or nothing;
- WORKDIR, USER, STOPSIGNAL, MAINTAINER: one text; no text gives no argument;
- ONBUILD: none, the instruction it holds is `child`; an unknown instruction: one empty argument.

Quotes, escapes and variables are still in them. Text is `str` with surrogates for bytes that are not UTF-8.
Source: BuildKit's frontend/dockerfile/parser/parser.go. Errors are `DockerfileError` with the lines that
BuildKit names, which may be 0.
"""

from __future__ import annotations

from inlay.dockerfile import arguments
from inlay.dockerfile.directives import BOM, DirectiveReader
from inlay.dockerfile.shell import Lexer
from inlay.errors import DockerfileError, Location
from inlay.golang.text import SPACE
from inlay.regexp import regexp
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MAX_LINE = 65535
_MAX_CHAIN = 8
"""How deep ONBUILD in ONBUILD is read: a second one is refused later anyway."""


class Heredoc(NamedTuple):
    """The body of `<<name`, raw; `expand` unless the name was quoted, `chomp` if written `<<-name`."""

    name: str
    content: str = ""
    expand: bool = True
    chomp: bool = False
    file_descriptor: int = 0


class Node(NamedTuple):
    """One instruction; see the module for `arguments`.

    `value` is its name as written, `original` its text on one line without comments, `comments` the
    comment lines right before it. Lines count from 1; a child has none (0).
    """

    value: str
    arguments: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    is_json: bool = False
    original: str = ""
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()
    child: Node | None = None
    first_line: int = 0
    last_line: int = 0

    @property
    def name(self) -> str:
        """The instruction's name in lower case."""
        return self.value.lower()


class EmptyContinuation(NamedTuple):
    """A blank line inside an instruction, of which BuildKit warns at `line`, the instruction's last."""

    message: str
    line: int


class ParseResult(NamedTuple):
    """A Dockerfile: its instructions, its escape character, and what was odd about it."""

    instructions: tuple[Node, ...]
    escape: str
    warnings: tuple[EmptyContinuation, ...] = ()

    @property
    def first_line(self) -> int:
        return self.instructions[0].first_line

    @property
    def last_line(self) -> int:
        return self.instructions[-1].last_line


def parse(text: bytes, *, filename: str = "Dockerfile") -> ParseResult:
    """Take a Dockerfile apart; `filename` is only for the location of errors."""
    return _Parser(text, filename).parse()


class _Parser:
    """Reads physical lines; `_line` is how many have been read."""

    __slots__ = (
        "_comments",
        "_directives",
        "_escape",
        "_filename",
        "_is_cut",
        "_line",
        "_lines",
        "_nodes",
        "_warnings",
    )

    def __init__(self, text: bytes, filename: str) -> None:
        self._filename = filename
        self._lines, self._is_cut = _split_lines(text)
        self._line = 0
        self._escape = "\\"
        self._directives = DirectiveReader()
        self._comments: list[str] = []
        self._nodes: list[Node] = []
        self._warnings: list[EmptyContinuation] = []

    def parse(self) -> ParseResult:
        while self._line < len(self._lines):
            self._read_instruction()
        if not self._nodes:
            raise self._located("file with no instructions", self._line)
        if self._is_cut:
            raise self._located(f"dockerfile line greater than max allowed size of {_MAX_LINE}", self._line)
        return ParseResult(tuple(self._nodes), self._escape, tuple(self._warnings))

    def _located(self, error: DockerfileError | str, first: int, last: int = 0) -> DockerfileError:
        message = error if isinstance(error, str) else error.message
        return DockerfileError(message, Location(self._filename, first, max(first, last)))

    def _read_instruction(self) -> None:
        """Read the next line and, if an instruction starts there, all that belongs to it."""
        raw = self._lines[self._line]
        text = raw.rstrip("\r\n").lstrip(SPACE)
        if not self._directives.done and self._read_directive(text):
            text = ""
        elif text.startswith("#"):
            comment = raw[1:].strip(SPACE)
            if comment:
                self._comments.append(comment)
            else:
                self._comments = []
            text = ""
        self._line += 1
        first = self._line
        text, continues = self._without_continuation(text)
        if not text and not continues:
            return
        text = self._read_continuation(text) if continues else text
        try:
            node = _node(text, self._escape, tuple(self._comments), _MAX_CHAIN)
            heredocs = self._read_heredocs(node, text)
        except DockerfileError as error:
            raise self._located(error, first, self._line) from None
        self._nodes.append(node._replace(heredocs=heredocs, first_line=first, last_line=self._line))
        self._comments = []

    def _read_directive(self, text: str) -> bool:
        try:
            directive = self._directives.read(text)
            if directive and directive.name == "escape":
                if directive.value not in ("\\", "`"):
                    raise DockerfileError(f"invalid escape token '{directive.value}' does not match ` or \\")
                self._escape = directive.value
        except DockerfileError as error:
            raise self._located(error, self._line) from None
        return directive is not None

    def _without_continuation(self, text: str) -> tuple[str, bool]:
        """Cut the escape character that ends a line; return whether there was one.

        Not if another one stands before it, however many there are.
        """
        stripped = text.rstrip(" \t")
        if stripped.endswith(self._escape) and stripped[-2:-1] != self._escape:
            return stripped[:-1], True
        return text, False

    def _read_continuation(self, text: str) -> str:
        """Join the lines after one that goes on; comments between them are dropped."""
        parts = [text]
        has_empty = False
        continues = True
        while continues and self._line < len(self._lines):
            text = self._lines[self._line].rstrip("\r\n")
            self._line += 1
            content = text.lstrip(SPACE)
            if content.startswith("#"):
                continue
            if not content:
                has_empty = True
                continue
            text, continues = self._without_continuation(text)
            parts.append(text)
        joined = "".join(parts)
        if has_empty:
            message = f"Empty continuation line found in: {joined}"
            self._warnings.append(EmptyContinuation(message, self._line))
        return joined

    def _read_heredocs(self, node: Node, text: str) -> tuple[Heredoc, ...]:
        if "<<" not in text or not _may_have_heredocs(node):
            return ()
        return tuple([self._read_body(heredoc) for heredoc in _heredocs(text)])

    def _read_body(self, heredoc: Heredoc) -> Heredoc:
        """Read up to the line that is the heredoc's name."""
        start = self._line
        while self._line < len(self._lines):
            line = self._lines[self._line].rstrip("\r\n")
            self._line += 1
            if (line.lstrip("\t") if heredoc.chomp else line) == heredoc.name:
                return heredoc._replace(content="".join(self._lines[start : self._line - 1]))
        raise DockerfileError("unterminated heredoc")


def _split_lines(text: bytes) -> tuple[list[str], bool]:
    """The lines with their ends; up to one that is too long for BuildKit, and whether there is one."""
    lines = text.removeprefix(BOM).split(b"\n")
    too_long = next((index for index, line in enumerate(lines) if len(line) > _MAX_LINE), len(lines))
    kept = [line.decode(errors="surrogateescape") + "\n" for line in lines[:too_long]]
    if too_long == len(lines):
        last = kept.pop()[:-1]
        kept += [last] if last else []
    return kept, too_long < len(lines)


def _node(line: str, escape: str, comments: tuple[str, ...], chain: int) -> Node:
    value, flags, rest = arguments.split_instruction(line, escape)
    name = value.lower()
    if name == "onbuild":
        child = _node(rest, escape, (), chain - 1) if rest and chain else None
        return Node(value, (), flags, original=line, comments=comments, child=child)
    if name in ("env", "label"):
        words, is_json = arguments.names_and_values(rest, escape, name.upper())
    elif name == "arg":
        words, is_json = arguments.split_words(rest, escape), False
    else:
        words, is_json = _FORMS.get(name, _unknown)(rest)
    return Node(value, words, flags, is_json, line, comments=comments)


def _unknown(_text: str) -> arguments.Arguments:
    return arguments.Arguments(("",))


_FORMS: dict[str, Callable[[str], arguments.Arguments]] = {
    "add": arguments.json_or_blanks,
    "cmd": arguments.json_or_whole,
    "copy": arguments.json_or_blanks,
    "entrypoint": arguments.json_or_whole,
    "expose": arguments.split_blanks,
    "from": arguments.split_blanks,
    "healthcheck": arguments.health,
    "maintainer": arguments.whole,
    "run": arguments.json_or_whole,
    "shell": arguments.json_or_whole,
    "stopsignal": arguments.whole,
    "user": arguments.whole,
    "volume": arguments.json_or_blanks,
    "workdir": arguments.whole,
}


def _may_have_heredocs(node: Node) -> bool:
    if node.name == "onbuild" and node.child:
        node = node.child
    return node.name in ("add", "copy", "run") and not node.is_json


def _heredocs(line: str) -> Iterator[Heredoc]:
    """The heredocs that a line asks for, in order, without their bodies."""
    try:
        words = Lexer("\\", raw_quotes=True, raw_escapes=True, skip_unset=True).split(line, {})
    except DockerfileError:
        return
    for word in words:
        heredoc = parse_heredoc(word)
        if heredoc:
            yield heredoc


_HEREDOC = regexp(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")


def parse_heredoc(word: str) -> Heredoc | None:
    """Read a word such as `2<<-"EOF"`; None if it is none. Raises `DockerfileError` for an open quote."""
    match = _HEREDOC.fullmatch(word) if "<<" in word else None
    if not match or not match[3]:
        return None
    words = Lexer("\\", skip_unset=True).split(match[3], {})
    if len(words) != 1:
        return None
    raw = Lexer("\\", raw_quotes=True, skip_unset=True).split(match[3], {})
    if len(raw) != 1:
        raise DockerfileError(f"internal lexing of heredoc produced inconsistent results: {match[3]}")
    digits = match[1].lstrip("0")
    return Heredoc(
        words[0],
        expand=_quotes(words[0]) == _quotes(raw[0]),
        chomp=bool(match[2]),
        file_descriptor=min(int(digits[:20] or 0), (1 << 64) - 1),
    )


def _quotes(word: str) -> int:
    return word.count("'") + word.count('"')


def chomp_heredoc(content: str) -> str:
    """Drop the tabs that begin each line."""
    return regexp(r"(?m)^\t+").sub("", content)
