"""JSON as Go's encoding/json writes it; cache keys and image digests are digests of these bytes.

BuildKit: every `json.Marshal`. No white space; `<`, `>`, `&` and U+2028/2029 are escaped; no floats.
Text may hold lone surrogates for bytes that are not UTF-8 (`os.fsdecode`): Go writes `\\ufffd` for each.
"""

from __future__ import annotations

from binascii import b2a_base64

from inlay.json import encode_basestring
from inlay.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def dumps(value: object) -> str:
    """Write None, bool, int, str, bytes (as base64), lists, tuples and dicts.

    A dict is a Go struct: its keys stay in the order given. For a Go map sort it first (`sorted_map`).
    """
    if isinstance(value, str):
        return text(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join([f"{text(key)}:{dumps(item)}" for key, item in value.items()]) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([dumps(item) for item in value]) + "]"
    if isinstance(value, bytes):
        return '"' + b2a_base64(value, newline=False).decode() + '"'
    raise TypeError(f"{type(value).__name__} has no place in a cache key")


def dumps_indented(value: object, depth: int = 0) -> str:
    """Like `dumps`, with a line for each entry and two spaces of indentation: Go's MarshalIndent."""
    if not value or not isinstance(value, dict | list | tuple):
        return dumps(value)
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict):
        entries = [f"{text(key)}: {dumps_indented(item, depth + 1)}" for key, item in value.items()]
    else:
        entries = [dumps_indented(item, depth + 1) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return opening + ",".join([f"\n{inner}{entry}" for entry in entries]) + f"\n{outer}{closing}"


def text(value: str) -> str:
    """Write one string, quoted."""
    quoted: str = encode_basestring(value)
    if "<" in quoted or ">" in quoted or "&" in quoted:
        quoted = quoted.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return quoted if quoted.isascii() else _escape_unicode(quoted)


def sorted_map(value: Mapping[str, object]) -> dict[str, object]:
    """The entries of a Go map in the order in which Go writes them: by the bytes of their keys."""
    return dict(sorted(value.items(), key=lambda item: item[0].encode("utf-8", "surrogatepass")))


def _escape_unicode(quoted: str) -> str:
    quoted = quoted.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    try:
        quoted.encode()
    except UnicodeEncodeError:
        return "".join(["\\ufffd" if "\ud800" <= char <= "\udfff" else char for char in quoted])
    return quoted
