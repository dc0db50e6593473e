"""How the text behind an instruction's name falls into flags and arguments.

Source: BuildKit's frontend/dockerfile/parser/line_parsers.go and split_command.go. Text is `str` with
surrogates for bytes that are not UTF-8; where BuildKit looks at single bytes, so does this.
"""

from __future__ import annotations

from inlay import json
from inlay.errors import DockerfileError
from inlay.golang.text import SPACE, quote, valid
from inlay.regexp import regexp
from inlay.typing import NamedTuple


class Arguments(NamedTuple):
    """Arguments in order; ENV and LABEL in threes: name, value, and `=` or nothing (the form `ENV a b`)."""

    words: tuple[str, ...] = ()
    is_json: bool = False


_BLANKS = "\t\v\f\r "
_TO_SPACES = str.maketrans(_BLANKS, " " * len(_BLANKS))


def _split_once(text: str) -> list[str]:
    """The first word and, if there are blanks behind it, the rest."""
    for at, char in enumerate(text):
        if char in _BLANKS:
            return [text[:at], text[at:].lstrip(_BLANKS)]
    return [text]


def split_instruction(line: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    """Split a line into the instruction's name as written, its flags, and the rest."""
    name, *rest = _split_once(line.strip(SPACE))
    if not rest:
        return name, (), ""
    flags, text = _split_flags(rest[0], escape)
    return name, tuple(flags), text.strip(SPACE)


def _split_flags(text: str, escape: str) -> tuple[list[str], str]:
    """Take the words that begin with `--` off the front.

    BuildKit takes each byte for a character here, so flags with other than ASCII come out encoded twice,
    and the bytes 0x85 and 0xA0 separate words.
    """
    if text[:1] != "-" and not "\udc80" <= text[:1] <= "\udcff":
        return [], text
    data = _as_bytes(text)
    flags: list[str] = []
    at = 0
    while True:
        while at < len(data) and data[at] in SPACE:
            at += 1
        if not data.startswith("--", at):
            return flags, _as_text(data[at:])
        end = _word_end(data, at, escape, unescaped="")
        flag = _unquoted(data[at:end], escape)
        at = end
        if flag == "--":
            return flags, _as_text(data[at:])
        flags.append(flag)


def _word_end(text: str, at: int, escape: str, *, unescaped: str) -> int:
    """Where the word that begins at `at` ends: at white space that no quote or escape protects.

    One more than the length if an escape character is the last of all. Between quotes `unescaped` it has
    no meaning.
    """
    inside = ""
    while at < len(text):
        char = text[at]
        if char == escape and (not inside or inside != unescaped):
            at += 2
            continue
        if char == inside:
            inside = ""
        elif not inside and char in SPACE:
            return at
        elif not inside and char in "'\"":
            inside = char
        at += 1
    return at


def _as_bytes(text: str) -> str:
    """One character per byte."""
    return text.encode(errors="surrogateescape").decode("latin-1")


def _as_text(data: str) -> str:
    return data.encode("latin-1").decode(errors="surrogateescape")


def _unquoted(flag: str, escape: str) -> str:
    """Drop the quotes and escape characters of a flag."""
    if escape not in flag and "'" not in flag and '"' not in flag:
        return flag
    result = []
    inside = ""
    characters = iter(flag)
    for char in characters:
        if char == escape:
            result.append(next(characters, ""))
        elif char == inside:
            inside = ""
        elif not inside and char in "'\"":
            inside = char
        else:
            result.append(char)
    return "".join(result)


def split_blanks(text: str) -> Arguments:
    """FROM, EXPOSE: words between blanks, quotes without meaning."""
    if not text:
        return Arguments()
    first, *others = text.translate(_TO_SPACES).split(" ")
    last = [] if not others or others[-1] else [""]
    return Arguments((first, *filter(None, others), *last))


def whole(text: str) -> Arguments:
    """WORKDIR, USER, STOPSIGNAL, MAINTAINER: one argument, blanks and all."""
    return Arguments((text,) if text else ())


def json_or_whole(text: str) -> Arguments:
    """RUN, CMD, ENTRYPOINT, SHELL: a JSON list of strings, or one argument."""
    words = _json_strings(text)
    return whole(text) if words is None else Arguments(words, is_json=True)


def json_or_blanks(text: str) -> Arguments:
    """COPY, ADD, VOLUME: a JSON list of strings, or words between blanks."""
    words = _json_strings(text)
    return split_blanks(text) if words is None else Arguments(words, is_json=True)


def health(text: str) -> Arguments:
    """HEALTHCHECK: its type, then as `json_or_whole`. Bytes 0x85 and 0xA0 end the type."""
    data = _as_bytes(text)
    end = next((at for at, char in enumerate(data) if char in SPACE), len(data))
    if end == 0:
        return Arguments()
    words, is_json = json_or_whole(_as_text(data[end:].lstrip(SPACE)))
    return Arguments((_as_text(data[:end]), *words), is_json)


def names_and_values(text: str, escape: str, instruction: str) -> Arguments:
    """ENV, LABEL: `name=value …`, or the old `name value`; raise `DockerfileError` for neither."""
    words = split_words(text, escape)
    if not words:
        return Arguments()
    if "=" not in words[0]:
        name, *value = _split_once(text)
        if not value:
            raise DockerfileError(f"{instruction} must have two arguments")
        return Arguments((name, value[0], ""))
    result: list[str] = []
    for word in words:
        name, equals, following = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value"
            )
        result += (name, following, equals)
    return Arguments(tuple(result))


def split_words(text: str, escape: str) -> tuple[str, ...]:
    """ARG: words between white space; quotes and escapes protect it, and stay for later expansion."""
    text = valid(text)
    words = []
    at = 0
    while at < len(text):
        if text[at] in SPACE:
            at += 1
            continue
        end = _word_end(text, at, escape, unescaped="'")
        words.append(text[at : end if end <= len(text) else -1])
        at = end
    return tuple(word for word in words if word)


def _json_strings(text: str) -> tuple[str, ...] | None:
    """Read a JSON list of strings; None if `text` is no JSON list.

    Raises `DockerfileError` for a list with other values in it.
    """
    text = text.lstrip(SPACE)
    if not text.startswith("["):
        return None
    try:
        values = json.loads(text)
    except ValueError as error:
        from json import JSONDecodeError

        if isinstance(error, JSONDecodeError):
            return None
        values = [None]
    if all(isinstance(value, str) for value in values):
        return tuple(map(valid, values))
    if _is_json_list(text):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return None


_BLANK = r"[ \t\n\r]*+"
_VALUE = (
    r'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+"'
    r"|true|false|null|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
)
_TOKEN = rf"{_BLANK}(?:(?P<value>{_VALUE})|(?P<mark>[\[\]{{}},:]))"
_MAX_DEPTH = 10000
"""How deep Go's encoding/json lets lists and objects nest."""


def _is_json_list(text: str) -> bool:
    """Whether `text` is one valid JSON list, to Go's mind; without recursion, however deep it nests.

    Python's reader also takes `NaN` and `Infinity`, and refuses long numbers and deep lists.
    """
    token_at = regexp(_TOKEN).match
    closers: list[str] = []
    expected = "value"
    at = 0
    while match := token_at(text, at):
        at = match.end()
        token = match["mark"] or "value"
        if match["value"] and not _fits(match["value"]):
            return False
        if expected == "key" and token == "value" and match["value"][0] != '"':
            return False
        expected = _after(token, expected, closers)
        if not expected or len(closers) > _MAX_DEPTH:
            return False
        if not closers:
            return not text[at:].strip(" \t\n\r")
    return False


def _fits(value: str) -> bool:
    """Whether Go can hold a number; all other values fit."""
    return not (value[0] in "-0123456789" and abs(float(value)) == float("inf"))


def _after(token: str, expected: str, closers: list[str]) -> str:
    """The grammar of JSON: what may follow `token` where `expected` was due; empty if it may not stand there.

    `expected` is one of `value`, `value or ]`, `key`, `key or }`, `:`, and `next` (a comma or the end).
    """
    if token in ("[", "{") and expected.startswith("value"):
        closers.append("]" if token == "[" else "}")
        return "value or ]" if token == "[" else "key or }"
    if token == "value" and expected.startswith("value"):
        return "next"
    if token == "value" and expected.startswith("key"):
        return ":"
    if token == ":" and expected == ":":
        return "value"
    if token == "," and expected == "next":
        return "value" if closers[-1] == "]" else "key"
    if token in ("]", "}") and closers[-1] == token and (expected == "next" or expected.endswith(token)):
        closers.pop()
        return "next"
    return ""
