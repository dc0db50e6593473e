"""Word expansion: quotes, escapes, `$name` and `${name…}` as the Dockerfile frontend knows them.

    lexer = Lexer("\\")
    lexer.expand("$A/${B:-x}", {"A": "/a"})  # Expansion(text="/a/x", matched={"A"}, unmatched={"B"})
    lexer.split("a $A", {"A": "b c"})        # ["a", "b", "c"]

Source: BuildKit's frontend/dockerfile/shell/lex.go, quirks included. Bytes that are not UTF-8 come out as
U+FFFD. Every failure is an `ExpansionError` without location.
"""

from __future__ import annotations

from inlay.errors import DockerfileError
from inlay.golang.text import SPACE, quote, valid
from inlay.typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_DEPTH = 100
"""How deep `${…}` may be nested; BuildKit has no limit but its stack."""
_MAX_LENGTH = 1 << 24
"""How long a result may grow, in characters: `ENV A=$A$A` doubles."""

_END = "\ufffd"
"""How messages show the end of the text where they quote a character."""


class Expansion(NamedTuple):
    """What a word became, and which of the names in it the environment had and had not."""

    text: str
    matched: frozenset[str]
    unmatched: frozenset[str]


class ExpansionError(DockerfileError):
    """A word that cannot be expanded; `unmatched` are the names before that place that were not set."""

    def __init__(self, message: str, unmatched: frozenset[str]) -> None:
        super().__init__(message)
        self.unmatched = unmatched


class Lexer(NamedTuple):
    """How to read words.

    `raw_quotes` and `raw_escapes` keep quotes and escape characters in the result, `skip_quotes` takes
    quotes as ordinary characters, `skip_unset` leaves unset variables as they were written.
    """

    escape: str
    raw_quotes: bool = False
    raw_escapes: bool = False
    skip_quotes: bool = False
    skip_unset: bool = False

    def expand(self, word: str, env: Mapping[str, str]) -> Expansion:
        """Expand `word`; blanks stay as they are."""
        if _SPECIAL.isdisjoint(word) and self.escape not in word:
            return Expansion(valid(word).removeprefix("\ufeff"), frozenset(), frozenset())
        reading = _Reading(self, word, env)
        text = reading.run()
        return Expansion(text, frozenset(reading.matched), frozenset(reading.unmatched))

    def split(self, word: str, env: Mapping[str, str]) -> list[str]:
        """Expand `word` and split the result at white space that neither quotes nor escapes protect.

        As in BuildKit, text directly before a `${…}` with a modifier is lost.
        """
        reading = _Reading(self, word, env, words=_Words())
        reading.run()
        assert reading.words is not None
        return reading.words.finish()


_SPECIAL = frozenset("$'\"<")
"""What makes a word more than its text, besides the escape character."""


class _Words:
    """Collects words from characters.

    One buffer serves nested readings too, and each clears it when it starts: that is how BuildKit loses
    text, and results must be the same.
    """

    __slots__ = ("buffer", "inside", "words")

    def __init__(self) -> None:
        self.buffer: list[str] = []
        self.words: list[str] = []
        self.inside = False

    def add(self, text: str) -> None:
        """Add text in which white space separates."""
        for char in text:
            if char not in SPACE:
                self.add_raw(char)
            elif self.inside and self.buffer:
                self.words.append("".join(self.buffer))
                self.buffer.clear()
                self.inside = False

    def add_raw(self, text: str) -> None:
        """Add text that does not end a word."""
        if text:
            self.buffer.append(text)
        self.inside = True

    def finish(self) -> list[str]:
        if self.buffer:
            self.words.append("".join(self.buffer))
            self.buffer.clear()
        return self.words


class _Reading:
    """One pass over one word."""

    __slots__ = (
        "at",
        "depth",
        "env",
        "lexer",
        "matched",
        "raw_escapes",
        "source",
        "text",
        "unmatched",
        "words",
    )

    def __init__(self, lexer: Lexer, word: str, env: Mapping[str, str], words: _Words | None = None) -> None:
        self.lexer = lexer
        self.source = word
        self.text = valid(word).removeprefix("\ufeff")
        self.at = 0
        self.depth = 0
        self.env = env
        self.raw_escapes = lexer.raw_escapes
        self.matched: set[str] = set()
        self.unmatched: set[str] = set()
        self.words = words

    def run(self) -> str:
        try:
            return self._until("")
        except DockerfileError as error:
            message = f"failed to process {quote(self.source)}: {error}"
            raise ExpansionError(message, frozenset(self.unmatched)) from None

    def _peek(self) -> str:
        """The next character; empty at the end."""
        return self.text[self.at : self.at + 1]

    def _next(self) -> str:
        char = self.text[self.at : self.at + 1]
        self.at += 1
        return char

    def _ordinary(self, special: frozenset[str]) -> str:
        """Read what comes before the next of the `special` characters; empty where one is next."""
        text, start, end = self.text, self.at, self.at
        while end < len(text) and text[end] not in special:
            end += 1
        self.at = end
        return text[start:end]

    def _until(self, stop: str) -> str:
        """Read up to an unquoted `stop` and past it, or to the end if `stop` is empty."""
        lexer, words = self.lexer, self.words
        quotes = "" if lexer.skip_quotes else "'\""
        special = frozenset("$<" + lexer.escape + stop + quotes)
        result: list[str] = []
        length = 0
        while char := self._peek():
            if char == stop:
                self.at += 1
                return "".join(result)
            if piece := self._ordinary(special):
                if words:
                    words.add(piece)
            elif char == lexer.escape:
                self.at += 1
                escaped = self._next()
                piece = (char if self.raw_escapes else "") + escaped
                if words and piece:
                    words.add_raw(piece)
            else:
                piece = self._special(char)
                if words:
                    (words.add if char == "$" else words.add_raw)(piece)
            result.append(piece)
            length += len(piece)
            if length > _MAX_LENGTH:
                raise DockerfileError(f"the result is longer than {_MAX_LENGTH} characters")
        if stop:
            raise DockerfileError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(result)

    def _special(self, char: str) -> str:
        if char == "$":
            return self._dollar()
        if char == "'":
            return self._single_quoted()
        if char == '"':
            return self._double_quoted()
        return self._less_than()

    def _nested(self, stop: str, *, raw_escapes: bool) -> str:
        """Read the argument of a modifier."""
        if self.depth == _MAX_DEPTH:
            raise DockerfileError(f"substitutions are nested more than {_MAX_DEPTH} deep")
        outer_escapes, outer_words = self.raw_escapes, self.words
        self.raw_escapes, self.words = raw_escapes, None
        self.depth += 1
        if outer_words:
            outer_words.buffer.clear()
        try:
            return self._until(stop)
        finally:
            self.depth -= 1
            self.raw_escapes, self.words = outer_escapes, outer_words

    def _single_quoted(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            self.at = len(self.text)
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        start, self.at = self.at, end + 1
        return self.text[start : end + 1] if self.lexer.raw_quotes else self.text[start + 1 : end]

    def _double_quoted(self) -> str:
        mark = '"' if self.lexer.raw_quotes else ""
        self.at += 1
        special = frozenset(f'"${self.lexer.escape}')
        result = [mark]
        while char := self._peek():
            if char == '"':
                self.at += 1
                return "".join(result) + mark
            if piece := self._ordinary(special):
                result.append(piece)
            elif char == "$":
                result.append(self._dollar())
            else:
                result.append(self._escape_in_quotes())
        raise DockerfileError("unexpected end of statement while looking for matching double-quote")

    def _escape_in_quotes(self) -> str:
        """An escape takes effect only before what has a meaning in double quotes."""
        escape = self._next()
        raw = escape if self.raw_escapes else ""
        following = self._peek()
        if not following:
            return raw
        if following in ('"', "$", escape):
            self.at += 1
            return raw + following
        return raw + escape

    def _less_than(self) -> str:
        """Keep `<<` and the blanks behind it together: the word that follows names a heredoc."""
        start = self.at
        self.at += 1
        if self._peek() == "<":
            self.at += 1
            while self._peek() in ("\t", "\r", " "):
                self.at += 1
        return self.text[start : self.at]

    def _dollar(self) -> str:
        self.at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            return ("$" + name if self.lexer.skip_unset else "") if value is None else value
        self.at += 1
        if not self._peek():
            raise DockerfileError("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise DockerfileError("syntax error: bad substitution")
        name = self._name()
        operator = self._next()
        if operator == "}":
            value = self._value(name)
            return (f"${{{name}}}" if self.lexer.skip_unset else "") if value is None else value
        if operator == "/":
            return self._replaced(name)
        if operator and operator in ":+-?#%":
            return self._modified(name, operator)
        raise DockerfileError(f"unsupported modifier ({operator or _END}) in substitution")

    def _name(self) -> str:
        """Read a name: digits, one special character, or letters, digits and underscores."""
        start = self.at
        if self._peek().isdecimal():
            while self._peek().isdecimal():
                self.at += 1
        elif self._peek() in ("@", "*", "#", "?", "-", "$", "!"):
            self.at += 1
        else:
            while (char := self._peek()).isalpha() or char.isdecimal() or char == "_":
                self.at += 1
        return self.text[start : self.at]

    def _value(self, name: str) -> str | None:
        value = self.env.get(name)
        (self.unmatched if value is None else self.matched).add(name)
        return value

    def _argument(self, stop: str, *, raw_escapes: bool, missing: str) -> str:
        try:
            return self._nested(stop, raw_escapes=raw_escapes)
        except DockerfileError:
            if self._peek():
                raise
            raise DockerfileError(f"syntax error: missing {missing}") from None

    def _modified(self, name: str, operator: str) -> str:
        """`${name-word}` and its kin; with a colon an empty value counts as unset."""
        modifier = operator
        if operator == ":":
            operator = self._next()
            modifier = ":" + (operator or _END)
            if operator and operator in "#%":
                raise DockerfileError(f"unsupported modifier ({modifier}) in substitution")
        word = self._argument("}", raw_escapes=operator in ("#", "%"), missing="'}'")
        value = self._value(name)
        if value is None and self.lexer.skip_unset:
            return f"${{{name}{modifier}{word}}}"
        is_set = value is not None and not (value == "" and modifier[0] == ":")
        if operator == "-":
            return value if value is not None and is_set else word
        if operator == "+":
            return word if is_set else ""
        if operator == "?":
            if value is not None and is_set:
                return value
            complaint = f"is not allowed to be {'unset' if value is None else 'empty'}"
            raise DockerfileError(f"{name}: {word or complaint}")
        if operator in ("#", "%"):
            from inlay.dockerfile import wildcard

            greedy = word.startswith(operator)
            trim = wildcard.trim_prefix if operator == "#" else wildcard.trim_suffix
            return trim(value or "", word[greedy:], greedy=greedy)
        raise DockerfileError(f"unsupported modifier ({modifier}) in substitution")

    def _replaced(self, name: str) -> str:
        """`${name/pattern/replacement}`, or with two slashes every match."""
        every = self._peek() == "/"
        self.at += every
        pattern = self._argument("/", raw_escapes=True, missing="'/' in ${}")
        replacement = self._argument("}", raw_escapes=True, missing="'}'")
        value = self._value(name)
        if value is None and self.lexer.skip_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        from inlay.dockerfile import wildcard

        replace = wildcard.replace_all if every else wildcard.replace_first
        return replace(value or "", pattern, replacement)
